"""The regression figures of every part, and the command that writes them down.

    python -m tests.regression.make_fixture            all parts
    python -m tests.regression.make_fixture nano       one part: after nano's weights were replaced

A part is a model (see `today.py`). Its figures go into `fixture/PART.safetensors` (tensors) and `fixture/PART.json`
(texts, losses, and the weights they belong to). Everything is computed in float32 with one thread.

The pictures and words that models are given, `fixture/inputs.*`, and the tiny model are stored and not made again:
another renderer, or another order of initialization, must not replace them. The commit that added them holds the code
that made them, too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.regression import today

FIXTURE = Path(__file__).resolve().parent / "fixture"
PARTS = ("nano", "tiny", "golden")


@dataclass(frozen=True)
class Figure:
    """One thing that is pinned. make() returns values by name: tensors, or what JSON holds.

    name   `KIND/WHAT`; tests compare by kind
    slow   minutes on a slow machine when taken together: left out of the unit suite
    """

    part: str
    name: str
    make: Callable[[], dict]
    slow: bool = False

    @property
    def kind(self) -> str:
        return self.name.split("/")[0]


# ---- inputs and weights ---------------------------------------------------------------------------------------------


@cache
def inputs() -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Pictures by name, uint8 [n, H, W, 3]; prompts, instructions and questions."""
    return load_file(FIXTURE / "inputs.safetensors"), json.loads((FIXTURE / "inputs.json").read_text())


def weights_of(part: str) -> str:
    """A fingerprint of the files that a part's figures depend on. It names no module: a move does not change it.

    Names and values of all tensors count, not the bytes of the files, whose headers may be written differently.
    """
    folder, digest = today.FOLDERS[part], hashlib.sha256()
    for file in sorted(folder.rglob("*.safetensors")):
        if file.name == "cases.safetensors":  # golden numbers, no weights
            continue
        digest.update(str(file.relative_to(folder)).encode())
        for name, value in sorted(load_file(file).items()):
            digest.update(name.encode() + value.view(torch.uint8).numpy().tobytes())
    for name in ("tokenizer.json", "sampling.json"):
        if (folder / name).exists():
            digest.update(json.dumps(json.loads((folder / name).read_text()), sort_keys=True).encode())
    return digest.hexdigest()[:16]


# ---- figures of a model with words ----------------------------------------------------------------------------------


def drawings(part: str, nfe: int, rows: range, student: str | None = None) -> dict:
    prompts = [inputs()[1]["prompts"][i] for i in rows]
    seeds = [100 + i for i in rows]
    return dict(latent=today.draw_latents(today.load(part), prompts, nfe=nfe, seeds=seeds, student=student))


def edits(part: str, nfe: int, rows: range, student: str | None = None) -> dict:
    pictures, words = inputs()
    instructions, seeds = [words["instructions"][i] for i in rows], [200 + i for i in rows]
    given = pictures["edit"][rows.start : rows.stop]
    model = today.load(part)
    return dict(latent=today.edit_latents(model, given, instructions, nfe=nfe, seeds=seeds, student=student))


def greedy(part: str, kind: str) -> dict:
    """Twelve answers: eight asked together, so that rows of a batch end at different times, and four one by one.

    Passes are kept for the four alone: what a draft guesses in a batch may change without changing an answer.
    """
    pictures, words = inputs()
    model, asked, shown = today.load(part), words["questions"], pictures["ask"]
    most = 64 if part == "nano" else 24
    texts, _ = today.answers(model, kind, shown[2:10], asked[2:10], max_tokens=most)
    passes = []
    for i in (0, 1, 10, 11):
        alone, cost = today.answers(model, kind, shown[i : i + 1], asked[i : i + 1], max_tokens=most)
        texts += alone
        passes.append(cost)
    return dict(texts=texts, passes=passes)


def sampled(part: str, kind: str) -> dict:
    """Four answers at temperature 1, each alone: the random numbers of a batch depend on the guesses in other rows."""
    pictures, words = inputs()
    model, texts, passes = today.load(part), [], []
    most = 64 if part == "nano" else 24
    for i in (0, 7, 8, 9):
        alone, cost = today.answers(
            model,
            kind,
            pictures["ask"][i : i + 1],
            words["questions"][i : i + 1],
            temperature=1.0,
            seed=300 + i,
            max_tokens=most,
        )
        texts += alone
        passes.append(cost)
    return dict(texts=texts, passes=passes)


def pixels(part: str) -> dict:
    """Two pictures encoded, and the means decoded again in three ways (see `today.decoded`)."""
    model = today.load(part)
    latent = today.encoded(model, inputs()[0]["edit"][:2])
    made = today.decoded(model, latent)
    return dict(latent=latent, own=made["own"][:1], refined=made["refined"], fast=made["fast"].half())


def data(part: str) -> dict:
    """Token numbers as they are, without padding; of pictures and latents, mean and standard deviation."""
    made, out = today.training_data(today.load(part)), {}
    for name, value in made.items():
        if name.endswith(("_ids", "_answer")):
            length = made[name.rsplit("_", 1)[0] + "_length"].tolist()
            out[name] = [row[:n] for row, n in zip(value.long().tolist(), length, strict=True)]
        elif not name.endswith("_length"):
            out[name] = [float(value.double().mean()), float(value.double().std())]
    return out


def step(part: str, stage: str) -> dict:
    """See `today.training_step`."""
    rows = today.training_step(part, stage)
    return dict(loss=[r[0] for r in rows], gradient=[r[1] for r in rows], change=[r[2] for r in rows])


def with_words(part: str) -> list[Figure]:
    """What is pinned of nano, and less of it of the tiny model."""
    nano = part == "nano"
    resampled, seeing = ("dmd2", "tscd") if nano else ("renoise", "renoise")
    made = [
        ("drawing/100", lambda: drawings(part, 100, range(0, 16 if nano else 2)), nano),
        ("drawing/6", lambda: drawings(part, 6, range(0, 16 if nano else 4)), nano),
        ("drawing/cfg", lambda: drawings(part, 50, range(0, 2), "cfg"), nano),
        ("drawing/resampled", lambda: drawings(part, 6, range(0, 2), resampled), nano),
        ("edit/132", lambda: edits(part, 132, range(0, 8 if nano else 2)), nano),
        ("edit/6", lambda: edits(part, 6, range(0, 8 if nano else 3)), nano),
        ("edit/seeing", lambda: edits(part, 6, range(0, 2), seeing), False),
        ("pixels/pixels", lambda: pixels(part), False),
        ("data/data", lambda: data(part), False),
    ]
    for kind in today.PLANS:
        made.append((f"answers/{kind}", lambda kind=kind: greedy(part, kind), nano and kind != "plain"))
        made.append((f"answers/{kind}-sampled", lambda kind=kind: sampled(part, kind), nano))
    for stage in today.TRAINING:
        if not (nano and stage in ONLY_TINY):
            made.append((f"step/{stage}", lambda stage=stage: step(part, stage), nano or stage not in QUICK))
    return [Figure(part, *figure) for figure in made]


# the training steps that the unit suite makes, of the tiny model; nano's are all left to the slow ones
QUICK = {
    "autoencoder",
    "eyes",
    "teacher-drawing",
    "teacher-understanding",
    "teacher-all-aligned",
    "settler",
    "decoder",
    "draft",
    "cfg-draw",
    "tscd-edit",
    "dmdo-draw",
    "dmdo-edit",
    "lcm-draw",
    "hyper-sd-8-draw",
}
# the same code with other numbers: the tiny model's steps are enough
ONLY_TINY = {"pcm-draw", "dmd2-edit", "dmdo-literal-edit", "lcm-edit", "hyper-sd-8-draw", "hyper-sd-1-edit"}


# ---- figures of the golden model ------------------------------------------------------------------------------------


GOLDEN_IDS = [[5, 17, 42], [7, 99, 3, 120, 88, 54]]


def golden(what: str) -> dict:
    model = today.load("golden")
    if what == "answers":
        return dict(ids=today.golden_answers(model, GOLDEN_IDS, max_tokens=24))
    picture = None
    if what == "edit":  # sides that both the tower's patches of 14 and latent tokens of 4 pixels divide
        picture = (torch.rand(1, 3, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1).contiguous()
    return dict(latent=today.golden_latents(model, GOLDEN_IDS, picture, steps=20, side=28))


def figures(part: str) -> list[Figure]:
    """Everything that is pinned of a part."""
    if part != "golden":
        return with_words(part)
    kinds = dict(drawing="drawing/golden", edit="edit/golden", answers="answers/golden")
    return [Figure(part, name, lambda what=what: golden(what)) for what, name in kinds.items()]


# ---- writing --------------------------------------------------------------------------------------------------------


def write_part(part: str) -> None:
    """Compute and write the figures of a part; nothing is written before all are there."""
    tensors, values = {}, {}
    for figure in figures(part):
        began = time.process_time()
        for name, value in figure.make().items():
            if isinstance(value, Tensor):
                tensors[f"{figure.name}/{name}"] = value.contiguous()
            else:
                values[f"{figure.name}/{name}"] = value
        print(f"{part}: {figure.name}, {time.process_time() - began:.1f} s", flush=True)
    facts = dict(weights=weights_of(part)) | {name: say() for name, say in today.made_by.items()}
    rows = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in values.items()]
    head = ",\n".join(f" {json.dumps(k)}: {json.dumps(v)}" for k, v in facts.items())
    save_file(tensors, FIXTURE / f"{part}.safetensors")
    (FIXTURE / f"{part}.json").write_text(f'{{\n{head},\n "figures": {{\n' + ",\n".join(rows) + "\n }\n}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all if none is named")
    parts = parser.parse_args().parts
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    torch.set_num_threads(1)
    for part in parts or PARTS:
        write_part(part)


if __name__ == "__main__":
    main()
