"""The regression figures, computed with the library's names of today.

This is the only file of `tests/regression` that names modules, classes or options of `hb`. When they move, only this
file follows; what it returns, and the fixture that holds it, stay the same.

A model is opened by the name of its part:

    nano     the shipped model, whose weights a retraining replaces
    tiny     two layers of width 48 with a draft, two students and a pixel decoder, stored in `tests/regression/tiny`
    golden   the model of `tests/golden`, which has no tokenizer and no students
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

import hb
from hb.data.batches import BatchSizes
from hb.data.dialogues import write_dialogues
from hb.data.pool import Pool
from hb.flow import time_grid
from hb.guidance import DRAWING, EDITING
from hb.infer.fused import FastText, decode_fast
from hb.infer.image import Contexts, noise, sample
from hb.infer.pipeline import SHIPPED, Model
from hb.infer.speculative.plan import Plan
from hb.machine import commit, machine
from hb.train.autoencoder import train_autoencoder, train_pixel_decoder, train_semantic
from hb.train.distill.recipe import run_stage
from hb.train.distill.specs import STAGES
from hb.train.draft import train_draft
from hb.train.pools import pool_for
from hb.train.refiner import train_refiner
from hb.train.teacher import TeacherSettings, train_teacher
from hb.train.vision import train_vision

HERE = Path(__file__).resolve().parent
FOLDERS = dict(nano=SHIPPED / "nano", tiny=HERE / "tiny", golden=HERE.parent / "golden")

made_by = dict(commit=commit, machine=machine)  # where a fixture came from


# ---- models ---------------------------------------------------------------------------------------------------------


@cache
def load(part: str) -> Model:
    """The model of a part, in float32 on the processor. Not to be changed: it is loaded once."""
    model = hb.load(FOLDERS[part])
    if part == "tiny":  # the second sampler, by the weights of the first
        model.students["renoise"] = replace(model.students["six"], sampler="multistep", default=False)
    return model


# ---- pictures -------------------------------------------------------------------------------------------------------


def draw_latents(
    model: Model, prompts: Sequence[str], *, nfe: int, seeds: Sequence[int], student: str | None = None
) -> Tensor:
    """Latents [B, tokens, values] of drawings. student None: whoever serves this nfe, the teacher at 100."""
    return model.draw(list(prompts), nfe=nfe, seed=list(seeds), student=student).latent


def edit_latents(
    model: Model,
    pictures: Tensor,
    instructions: Sequence[str],
    *,
    nfe: int,
    seeds: Sequence[int],
    student: str | None = None,
) -> Tensor:
    """Latents [B, tokens, values] of edits. pictures: uint8 [B, H, W, 3]."""
    return model.edit(_unit(pictures), list(instructions), nfe=nfe, seed=list(seeds), student=student).latent


def _unit(pictures: Tensor) -> Tensor:
    return pictures.movedim(-1, 1).float() / 255


@torch.no_grad()
def encoded(model: Model, pictures: Tensor) -> Tensor:
    """Latents [B, tokens, values] of uint8 pictures: means of the posterior."""
    return model.bagel.encode(_unit(pictures) * 2 - 1, sample=False)


@torch.no_grad()
def decoded(model: Model, latents: Tensor) -> dict[str, Tensor]:
    """Pixels [B, 3, H, W] and latents behind them.

    own       pixels by the autoencoder's decoder, in float32
    refined   raw latents after the refiner of the pixel decoder, in float32
    fast      pixels by the pixel decoder, which computes in bfloat16 where the processor multiplies it by itself
    """
    out = dict(fast=model.decode_pictures(latents))
    decoder = model.pixel_decoder.open(model.bagel)
    seen: list[Tensor] = []
    handle = decoder.settle.register_forward_hook(lambda module, given, made: seen.append(made))
    model.bagel.decode(latents, None, decoder)
    handle.remove()
    whole = Model(model.bagel, model.text, model.sampling, pixel_decoder=None)
    return out | dict(refined=seen[0], own=whole.decode_pictures(latents))


# ---- answers --------------------------------------------------------------------------------------------------------

PLANS = dict(
    plain=lambda temperature: False,
    chain=lambda temperature: Plan(depth=10, width=1, budget=10, rule="drawn" if temperature else "point"),
    tree=lambda temperature: Plan(depth=6, width=4, budget=24),
)


def answers(
    model: Model,
    kind: str,
    pictures: Tensor,
    questions: Sequence[str],
    *,
    temperature: float = 0.0,
    seed: int = 0,
    max_tokens: int = 64,
) -> tuple[list[str], int]:
    """Answers, and passes of the target. kind: "plain", "chain" or "tree"; pictures: uint8 [B, H, W, 3]."""
    plan = PLANS[kind](temperature)
    said = model.ask(
        _unit(pictures), list(questions), temperature=temperature, seed=seed, speculate=plan, max_tokens=max_tokens
    )
    return list(said.texts), said.passes


# ---- the golden model: token numbers instead of words ---------------------------------------------------------------


@torch.no_grad()
def golden_latents(
    model: Model, ids: Sequence[Sequence[int]], picture: Tensor | None, *, steps: int, side: int
) -> Tensor:
    """Latents of drawings, or with a picture [1, 3, H, W] in [-1, 1] of edits, guided as BAGEL's demo does."""
    bagel, n = model.bagel, len(ids)
    shape = bagel.latent_grid(side, side)
    x, grid = noise(n, shape[0] * shape[1], bagel.config.latent_width, seed=5), time_grid(steps, 3.0)
    nothing = bagel.empty(n)
    if picture is None:
        contexts, guidance = Contexts(bagel.read_text(nothing, ids)[1], no_text=nothing), DRAWING
    else:
        pixels = picture.expand(n, -1, -1, -1)
        latent = bagel.encode(pixels, sample=False)
        seen = bagel.see(bagel.read_latent(nothing, latent, shape), pixels)[1]
        full, no_image = (bagel.read_text(before, ids)[1] for before in (seen, nothing))
        contexts, guidance = Contexts(full, no_text=seen, no_image=no_image), EDITING
    *_, (_, x) = sample(bagel, contexts, x, grid, guidance, shape=shape)
    return x


@torch.no_grad()
def golden_answers(model: Model, ids: Sequence[Sequence[int]], max_tokens: int) -> list[list[int]]:
    """Token numbers of greedy answers by the fast path."""
    context = model.bagel.read_text(model.bagel.empty(len(ids)), ids)[1]
    return decode_fast(FastText(model.bagel), context, max_tokens=max_tokens)[0]


# ---- training -------------------------------------------------------------------------------------------------------


def training_data(model: Model) -> dict[str, Tensor]:
    """The examples that the training steps below read: the pool of drawings and edits, and a step's dialogues."""
    pool = _pool(model)
    drawn = {f"draw_{name}": getattr(pool, f"draw_{name}") for name in ("ids", "length", "latent")}
    edited = {f"edit_{name}": getattr(pool, f"edit_{name}") for name in ("ids", "length", "latent")}
    given = dict(scene_picture=pool.scene_picture, scene_latent=pool.scene_latent)
    return (
        drawn
        | edited
        | given
        | {name.replace("dialogue", "talk"): part for name, part in write_dialogues(model.text, 64, 2, 0, 0).items()}
    )


@cache
def _pool(model: Model) -> Pool:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pool.safetensors"
        return pool_for(model.bagel.autoencoder, model.text, path, side=64, prompts=4, scenes=4, precision="f32")


def _teacher(learns: str, align: bool = False):
    def train(part: str, model: Model, folder: Path) -> None:
        draws, talks = learns in ("all", "drawing"), learns in ("all", "understanding", "answers")
        sizes = BatchSizes(draw=2 * draws, edit=2 * draws, dialogue=2 * talks)
        train_teacher(
            folder,
            model.bagel.config,
            model.bagel.autoencoder,
            model.text,
            steps=1,
            prompts=4,
            scenes=4,
            sizes=sizes,
            precision="f32",
            start_from=FOLDERS[part],
            vision_encoder=model.bagel.vit_model if align else None,
            settings=TeacherSettings(learns=learns),
            **TRAINER,
        )

    return train


def _distill(name: str, task: str):
    def train(part: str, model: Model, folder: Path) -> None:
        spec = STAGES[name]
        spec = replace(spec, prompts=1, edits=2, editing=float(task == "edit"))
        have = dict(model.students)
        if spec.after is not None and spec.after not in have:  # another student stands in for one that a part lacks
            have[spec.after] = have.get("six", have["cfg"])
        if "fake_warmup" in spec.options:  # from the first step on, the student moves too
            spec = replace(spec, options=spec.options | dict(fake_warmup=0))
        run_stage(
            name,
            folder,
            model.bagel,
            _pool(model),
            guidance=dict(draw=model.sampling.draw, edit=model.sampling.edit),
            students=have,
            spec=spec,
            steps=1,
            precision="32-true",
            **TRAINER,
        )

    return train


def _draft(part: str, model: Model, folder: Path) -> None:
    train_draft(
        folder,
        model.bagel,
        model.text,
        steps=1,
        batch=4,
        pool=8,
        depth=5,
        start_from=model.draft,
        precision="32-true",
        **TRAINER,
    )


def _autoencoder(part: str, model: Model, folder: Path) -> None:
    """In float64: the errors are near 0 and their loss is L1, so rounding moves the gradient by 2e-4 of its norm."""
    config = model.bagel.config
    train_autoencoder(folder, config, steps=1, batch=4, start_from=model.bagel.autoencoder, precision="f64", **TRAINER)


def _semantic(part: str, model: Model, folder: Path) -> None:
    config = model.bagel.config.autoencoder
    train_semantic(
        folder, config, side=64, steps=1, batch=4, start_from=model.bagel.autoencoder, precision="32-true", **TRAINER
    )


def _eyes(part: str, model: Model, folder: Path) -> None:
    tower = model.bagel.vit_model
    train_vision(folder, tower.config, steps=1, batch=4, start_from=tower, precision="32-true", **TRAINER)


def _settler(part: str, model: Model, folder: Path) -> None:
    train_refiner(folder, model.pixel_decoder, rows=8, steps=1, batch=8, precision="32-true", **TRAINER)


def _decoder(part: str, model: Model, folder: Path) -> None:
    train_pixel_decoder(
        folder,
        model.bagel.autoencoder,
        side=64,
        steps=1,
        batch=4,
        start_from=model.pixel_decoder,
        precision="f32",
        **TRAINER,
    )


TRAINER = dict(bar=False, accelerator="cpu")
TRAINING = {
    "autoencoder": _autoencoder,
    "autoencoder-semantic": _semantic,
    "eyes": _eyes,
    "teacher-drawing": _teacher("drawing"),
    "teacher-understanding": _teacher("understanding"),
    "teacher-answers": _teacher("answers"),
    "teacher-all-aligned": _teacher("all", align=True),
    "settler": _settler,
    "decoder": _decoder,
    "draft": _draft,
    **{
        f"{name}-{task}": _distill(name, task)
        for name in ("cfg", "tscd", "dmdo", "dmdo-literal", "lcm", "pcm", "dmd2", "hyper-sd-8", "hyper-sd-1")
        for task in ("draw", "edit")
    },
}


def training_step(part: str, stage: str) -> list[tuple[float, float, float]]:
    """One step of a stage, started at its entry point. For each optimizer step in it: the loss, the norm of its
    gradient before clipping, and the norm of the change of the weights.

    Parts that begin at random are filled from a generator of their own first, so that the order in which modules are
    built does not matter.
    """
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), recorded() as rows:
        warnings.simplefilter("ignore")
        # as a run begun before 0.2: its rule gave other parameters to Muon, so that weights moved by another length
        (Path(folder) / "run.json").write_text('{"optimizer_rule": "name"}')
        with suppress(Done):
            TRAINING[stage](part, load(part), Path(folder))
    return rows


class Done(Exception):
    """The step has been made; what a run does at its end is not wanted."""


class StopHere(Callback):
    def on_train_batch_end(self, *_):
        raise Done


def fresh_parts(module: L.LightningModule) -> list[torch.nn.Module]:
    """What a stage initializes at random: a discriminator's heads, the linear readouts of vision pretraining, the
    projection of the alignment loss."""
    found = [getattr(module, "heads", None), getattr(module, "align", None)]
    found.append(getattr(getattr(module, "discriminator", None), "heads", None))
    return [part for part in found if part is not None]


@contextmanager
def recorded() -> Iterator[list[tuple[float, float, float]]]:
    """Collect (loss, gradient norm, change of the weights) of every optimizer step, whoever makes it.

    It needs nothing but PyTorch and Lightning: the leaves are found by walking the graph of the loss, and the steps by
    the hooks that `torch.optim` calls for every optimizer.
    """
    rows: list[tuple[float, float, float]] = []
    last: dict = {}
    backward, fit = Tensor.backward, L.Trainer.fit

    def noted(loss: Tensor, *args, **options):
        leaves = _leaves(loss)
        backward(loss, *args, **options)
        last["loss"] = float(loss.detach())
        last["squares"] = {id(p): float(p.grad.double().square().sum()) for p in leaves if p.grad is not None}
        last["before"] = {id(p): p.detach().clone() for p in leaves if p.grad is not None}

    def stepped(optimizer, args, options):
        params = [p for group in optimizer.param_groups for p in group["params"]]
        gradient = sum(last["squares"].get(id(p), 0.0) for p in params) ** 0.5
        moved = [
            (p.detach() - last["before"][id(p)]).double().square().sum() for p in params if id(p) in last["before"]
        ]
        rows.append((last["loss"], gradient, float(sum(moved)) ** 0.5))

    def steady(trainer, module, *args, **options):
        for number, part in enumerate(fresh_parts(module)):
            generator = torch.Generator().manual_seed(number)
            with torch.no_grad():
                for p in part.parameters():
                    p.copy_(torch.randn(p.shape, generator=generator) * p[0].numel() ** -0.5)
        trainer.callbacks.insert(0, StopHere())
        return fit(trainer, module, *args, **options)

    handle = register_optimizer_step_post_hook(stepped)
    Tensor.backward, L.Trainer.fit = noted, steady
    try:
        yield rows
    finally:
        Tensor.backward, L.Trainer.fit = backward, fit
        handle.remove()


def _leaves(loss: Tensor) -> list[Tensor]:
    """Every tensor that the gradient of this loss reaches."""
    found, seen, todo = [], set(), [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        todo += [following for following, _ in node.next_functions]
    return found
