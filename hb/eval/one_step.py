"""Instruments of one-step training: a few numbers, quickly, that say what goes wrong before an evaluation does.

A student of one step can fail in ways that a loss does not show: right pictures that are all alike, half shapes, edits
that drift. Each has a number here, on prompts that no evaluation holds (seeds of training), so that runs may be chosen
by them. `watching` measures them while a student is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from hb.eval.coverage import coverage_eval
from hb.eval.edit import edit_eval
from hb.eval.protocol import noise_seed
from hb.eval.scene import scene_eval
from hb.infer.artifacts import Student
from hb.infer.pipeline import Model
from hb.world import benchmark as bench
from hb.world.language import parse
from hb.world.render import render
from hb.world.scene import sample_scenes

LITE_PROMPTS = (
    "a circle",
    "a star and a ring",
    "two hearts",
    "a red square",
    "a moon",
    "a green triangle and a pink circle",
    "three rings",
    "a blue cross",
)
LITE_ATTRIBUTES = ("color", "size", "background")  # what collapses first


def instruments(
    model: Model,
    *,
    prompts: int = 150,
    per_prompt: int = 64,
    seed: int = 1,
    keep: Path | None = None,
    bar: bool = True,
    **draw,
) -> dict:
    """All of them, for whoever `draw` names (student, nfe ...):

    right        the share of right pictures of `prompts` prompts like SceneEval's, one picture each
    complex      the same of as many prompts in which much is said
    halves       the share of all these pictures that are wrong because a thing is not one thing: unclean or unreadable
    edits        O (0 to 10) of a third as many edits
    coverage     of LITE_PROMPTS with `per_prompt` pictures each: color, size and background, 1 where nothing is lost
    spread       see `spread_within_prompts`
    """
    scenes, edits = bench.other_cases(prompts, seed)
    much = bench.other_complex(prompts, seed)
    run = dict(keep=keep, bar=bar, **draw)
    plain, full = (scene_eval(model, pictures=1, cases=cases, seed=seed, **run) for cases in (scenes, much))
    covered = coverage_eval(model, pictures=per_prompt, prompts=LITE_PROMPTS, seed=seed, **run)
    rows = [*plain.rows, *full.rows]
    return dict(
        right=plain.overall,
        complex=full.overall,
        halves=float(np.mean(["unclean" in row["kinds"] for row in rows])),
        edits=edit_eval(model, cases=edits[: max(1, prompts // 3)], seed=seed, **run)["O"],
        coverage={name: covered["attributes"][name] for name in LITE_ATTRIBUTES},
        spread=spread_within_prompts(model, seed=seed, **draw),
        nfe=plain.nfe,
    )


def spread_within_prompts(
    model: Model, *, prompts: Sequence[str] = LITE_PROMPTS, count: int = 16, seed: int = 1, **draw
) -> float:
    """Standard deviation of the latents of a prompt's pictures, over that of pictures rendered for it: the mean over
    prompts. 1: as different from each other as they should be; a collapse shows as a small number."""
    return float(np.mean([_spread(model, prompt, k, count, seed, draw) for k, prompt in enumerate(prompts)]))


def _spread(model: Model, prompt: str, k: int, count: int, seed: int, draw: dict) -> float:
    seeds = [noise_seed(seed, 1_000_000 + k * count + i) for i in range(count)]
    drawn = model.draw([prompt] * count, seed=seeds, warn=False, **draw)
    true = render(
        sample_scenes([parse(prompt)] * count, np.random.default_rng([1, seed, 31, k])), model.bagel.config.picture_side
    )
    ours, theirs = (_deviation(model, pictures) for pictures in (torch.as_tensor(drawn.pixels), true))
    return ours / theirs


def _deviation(model: Model, pictures: Tensor) -> float:
    latents = model.bagel.encode(pictures * 2 - 1, sample=False).float()
    return float((latents - latents.mean(0)).square().mean().sqrt())


def beside(model: Model, student: Student, stage: nn.Module) -> Model:
    """The model with this student alone, whose weights are the slow average of a stage that is being trained."""
    weights = {name: p.detach().clone() for name, p in stage.average.released_weights().items()}
    students = {student.stage: replace(student, weights=weights)}
    return Model(
        model.bagel, model.text, model.sampling, model.name, students=students, pixel_decoder=model.pixel_decoder
    )


def watching(
    model: Model, student: Student, prompts: int = 60, per_prompt: int = 16
) -> Callable[[nn.Module], dict[str, float]]:
    """A measure for `hb.train.loggers.LogMeasured`: the instruments of a stage's student, its slow average.

    model     the teacher with its tokenizer and pixel decoder; the student is put beside it
    student   as the stage will return it, all but the weights
    prompts, per_prompt   of `instruments`
    """

    @torch.no_grad()
    @torch.compiler.set_stance("force_eager")  # these batches have shapes of their own
    def measure(stage: nn.Module) -> dict[str, float]:
        whole = beside(model, student, stage)
        got = instruments(whole, prompts=prompts, per_prompt=per_prompt, bar=False, student=student.stage)
        flat = {name: got[name]["value"] for name in ("right", "complex", "edits")}
        flat |= {f"coverage_{name}": value for name, value in got["coverage"].items()}
        return flat | dict(halves=got["halves"], spread=got["spread"])

    return measure
