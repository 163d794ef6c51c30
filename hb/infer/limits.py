"""What is known of a model where much is asked: the stored results of `hb eval complex`, found by the weights they were
measured on."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hb.world.language.prompts import parse
from hb.world.language.words import LanguageError
from hb.world.scene import Request

RESULTS = Path(__file__).resolve().parents[2] / "data" / "results"
WEAK = 0.5  # a cell is weak where less than this share of its pictures is right


class DrawingWarning(UserWarning):
    """A prompt is of a kind that the model draws wrong more often than right."""


@dataclass(frozen=True)
class Measured:
    """One stored result: whose it is (its name, and fingerprints of the weights), at what cost, and the share right in
    each cell."""

    name: str
    weights: str
    student: str | None
    nfe: float
    parameters: int
    right: dict[str, float]


def cell_of(request: Request) -> str | None:
    """The cell of `hb eval complex` that a request is nearest to, "4 full": the number of things, and whether half or
    all is said of their colors, sizes, textures and places and of the background. None where it is nearest to saying
    none of these."""
    said = [getattr(wish, name) for wish in request.wishes for name in ("color", "size", "texture", "place")] + [
        request.background
    ]
    share = sum(value is not None for value in said) / len(said)
    level = "full" if share >= 0.75 else "half" if share >= 0.25 else None
    return level and f"{len(request.wishes)} {level}"


def cells_of(prompts: Iterable[str]) -> set[str]:
    """The cells of these prompts; one that is not of the tiny world has none."""
    found = set()
    for prompt in set(prompts):
        try:
            found.add(cell_of(parse(prompt)))
        except LanguageError:
            continue
    return found - {None}


@cache
def measured(folder: Path) -> tuple[Measured, ...]:
    """What has been stored of complex prompts, in full, in this folder."""
    out = []
    for path in sorted(folder.glob("*complex*.json")):
        record = json.loads(path.read_text())
        if not record["name"].startswith("complex"):
            continue
        right = {cell: values["right"]["value"] for cell, values in record["result"]["cells"].items()}
        model, student = record["model"], record["student"]
        who = student and student["identity"]
        out.append(Measured(model["name"], model["identity"], who, record["result"]["nfe"], model["parameters"], right))
    return tuple(out)


def weak_cells(
    cells: Collection[str], *, weights: Callable[[], str], parameters: int, student: str | None, nfe: float
) -> dict[str, tuple[float, float]]:
    """Those of the cells where this model or student is right less than half of the time: the share right, and at what
    NFE it was measured. Of several results the one nearest to `nfe` counts. Where nothing was measured on these
    weights, nothing is known.

    weights   gives the fingerprint; asked only if somebody of this size is weak there, since it takes a while
    """
    known = [m for m in measured(RESULTS) if m.parameters == parameters and m.student == student]
    if not any(m.right.get(cell, 1.0) < WEAK for m in known for cell in cells):
        return {}
    mine = weights()
    known = [m for m in known if m.weights == mine]
    if not known:
        return {}
    nearest = min(known, key=lambda m: abs(m.nfe - nfe))
    return {cell: (nearest.right[cell], nearest.nfe) for cell in sorted(cells) if nearest.right.get(cell, 1.0) < WEAK}


def better_teacher(cell: str, weights: str) -> tuple[str, float] | None:
    """The other model whose teacher is best in this cell, and its share; None where none is right half of the time."""
    known = [m for m in measured(RESULTS) if m.weights != weights and m.student is None]
    best = max(known, key=lambda m: m.right.get(cell, 0.0), default=None)
    return None if best is None or best.right.get(cell, 0.0) < WEAK else (best.name, best.right[cell])


def in_words(cell: str, right: float, nfe: float, weights: str) -> str:
    """The warning. weights: fingerprint of the model, which is compared with others."""
    better = better_teacher(cell, weights)
    count, level = cell.split()
    said = {"half": "about half of what can be said", "full": "everything"}[level]
    things = f"{count} thing{'s' * (count != '1')}"
    return (
        f"of prompts that say {said} about {things} this model draws {right:.2f} right (hb eval complex, {nfe:g} NFE)"
        + (f"; {better[0]} draws {better[1]:.2f}" if better else "")
    )
