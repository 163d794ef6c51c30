"""Was an edit done, and is all else as it was? A picture is read, and held against the scenes before and after the
edit."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from hb.world.judge.judge import in_place
from hb.world.judge.reading import ATTRIBUTES, MOVED, Reading, ReadThing, distance, whereabouts
from hb.world.render import render
from hb.world.scene import Scene, Thing

_SIDES = {*ATTRIBUTES, "place", "x", "y", "turn", "shade"}


@dataclass(frozen=True)
class EditScore:
    """How well an edit was done: is the change there, and is all else as it was? Both in [0, 1]."""

    success: float
    kept: float
    reasons: tuple[str, ...] = ()


def score_edit(
    reading: Reading, source: Scene, target: Scene, free: Collection[str] = (), place: str | None = None
) -> EditScore:
    """Score the reading of an edited picture against the scenes before and after.

    Things equal in source and target are to be kept; the others are edited: paired (changed), only in the source
    (removed) or only in the target (added). `free` names what is left to chance about edited things, as `Edit.free`
    does ("place" stands for x and y); `place` asks for a ninth of the picture instead of the target's exact center.

    success  the least share of asked changes found, over the edited things (and the background, if it changes)
    kept     the share of untouched things, and of edited things' untouched sides, that are still as they were; every
             thing that nobody asked for counts as one more that is not
    """
    unknown = set(free) - _SIDES
    if unknown:
        raise ValueError(f"a thing has no {', '.join(sorted(unknown))}; free may hold {', '.join(sorted(_SIDES))}")
    free = {"place" if side in ("x", "y") else side for side in free}
    plan = _plan(source, target)
    found, extra = _assign(reading.things, plan, free, place)
    asked, kept = [], []
    for (before, after), thing in zip(plan, found):
        changes, stays = _demands(before, after, thing, extra, free, place)
        asked += [changes] if changes else []
        kept += [stays] if stays else []
    background = [(reading.background == target.background, f"the background is {reading.background or 'unknown'}")]
    (kept if source.background == target.background else asked).append(background)
    removed = [before for before, after in plan if after is None]
    strangers = [t.thing for t in extra if not any(distance(t.thing, r) < MOVED for r in removed)]
    kept += [[(False, f"nobody asked for the {t.shape} at {whereabouts(t)}")] for t in strangers]
    reasons = tuple(words for part in asked + kept for good, words in part if not good)
    share = lambda truths: sum(truths) / len(truths) if truths else 1.0
    success = min((share([good for good, _ in part]) for part in asked), default=1.0)
    return EditScore(success, share([all(good for good, _ in part) for part in kept]), reasons)


def picked(
    reading: Reading,
    source: Scene,
    target: Scene,
    instead: Sequence[Scene],
    free: Collection[str] = (),
    place: str | None = None,
) -> str:
    """Which of several alike things was edited: "right", "other", "both" or "none".

    instead   the scenes after the same edit of each of the others. The one that fits best tells; "both" is where two
              fit equally well
    """
    well = lambda outcome: min((score := score_edit(reading, source, outcome, free, place)).success, score.kept)
    asked, other = well(target), max(map(well, instead), default=0.0)
    if asked == other:
        return "both" if asked else "none"
    return "right" if asked > other else "other"


def _plan(source: Scene, target: Scene) -> list[tuple[Thing | None, Thing | None]]:
    """Pairs (before, after): equal for kept things, None where a thing is added or removed."""
    gone, new = list(source.things), list(target.things)
    kept = [thing for thing in source.things if thing in new]
    for thing in kept:
        gone.remove(thing)
        new.remove(thing)
    cost = np.array([[_unlikeness(a, b) for b in new] for a in gone]).reshape(len(gone), len(new))
    pairs = [(gone[i], new[j]) for i, j in zip(*linear_sum_assignment(cost))]
    removed = [(t, None) for t in gone if t not in [a for a, _ in pairs]]
    added = [(None, t) for t in new if t not in [b for _, b in pairs]]
    return [(t, t) for t in kept] + pairs + removed + added


def _unlikeness(a: Thing, b: Thing) -> float:
    return sum(getattr(a, n) != getattr(b, n) for n in ATTRIBUTES) + 4 * distance(a, b)


def _assign(seen: Sequence[ReadThing], plan, free, place) -> tuple[list[ReadThing | None], list[ReadThing]]:
    """The thing seen for each entry of the plan (None: none is left), and the things nobody expects."""
    wanted = [i for i, (_, after) in enumerate(plan) if after is not None]
    cost = np.zeros((len(wanted), len(seen) + len(wanted)))
    for row, (before, after) in enumerate(plan[i] for i in wanted):
        loose = before != after and ("place" in free or place is not None)
        for column, thing in enumerate(seen):
            changes, stays = _demands(before, after, thing, [], free, place)
            far = 0.0 if loose else distance(after, thing.thing)
            cost[row, column] = sum(not good for good, _ in changes + stays) + far
        cost[row, len(seen) :] = 10 if before == after else 8  # rather an edit undone than a kept thing gone
    found: list[ReadThing | None] = [None] * len(plan)
    taken = set()
    for row, column in zip(*linear_sum_assignment(cost)):
        if column < len(seen):
            found[wanted[row]] = seen[column]
            taken.add(column)
    return found, [t for column, t in enumerate(seen) if column not in taken]


def _demands(before: Thing | None, after: Thing | None, found: ReadThing | None, extra, free, place):
    """What must have changed and what must have stayed, for one thing: two lists of (is it so?, words if not)."""
    if after is None:
        gone = not any(distance(t.thing, before) < MOVED for t in extra)
        return [(gone, f"something is still where the {before.shape} was, at {whereabouts(before)}")], []
    name = f"the {after.color} {after.shape}"
    if found is None:
        missing = [(False, f"{name} is missing")]
        return ([], missing) if before == after else (missing, missing if before else [])
    free = free if before != after else ()
    changes, stays = [], []
    for side in ATTRIBUTES:
        if side not in free:
            stayed = before is not None and getattr(before, side) == getattr(after, side)
            (stays if stayed else changes).append((_shows(found, side, after), f"{name} is not {getattr(after, side)}"))
    stayed = before is not None and distance(before, after) < 1e-6
    where = (
        _is_where(found.thing, before, after, free, None if stayed else place),
        f"{name} is at {whereabouts(found.thing)}",
    )
    (stays if stayed else changes).append(where)
    return changes, stays


def _shows(found: ReadThing, side: str, thing: Thing) -> bool:
    """Does it look as it should on this side? What cannot be recognized has no shape."""
    return getattr(found.thing, side) == getattr(thing, side) and (side != "shape" or found.recognized)


def _is_where(thing: Thing, before: Thing | None, after: Thing, free, place: str | None) -> bool:
    if place is not None:
        return in_place(thing, place)
    if "place" in free:
        return before is None or distance(before, after) < 1e-6 or distance(thing, before) > MOVED
    return distance(thing, after) < MOVED


def edit_region(source: Scene, target: Scene, side: int = 64) -> Tensor:
    """Pixels [side, side] that the edit may change: where the two drawings differ, and two pixels around."""
    before, after = render([source, target], side)
    differs = ((before - after).abs().amax(0) > 1 / 255).float()
    return torch.nn.functional.max_pool2d(differs[None], 5, stride=1, padding=2)[0] > 0


def touched(source: Scene, target: Scene, reading: Reading, side: int) -> Tensor:
    """Pixels [side, side] an edit may change: where source and target differ, and where the edited thing was put."""
    region = edit_region(source, target, side)
    kept = [t for t in source.things if t in target.things]
    new = [t.thing for t in reading.things if not any(np.hypot(t.thing.x - k.x, t.thing.y - k.y) < 0.05 for k in kept)]
    for thing in new:
        region |= edit_region(Scene((), source.background), Scene((thing,), source.background), side)
    return region


def drift(first: Tensor, now: Tensor, region: Tensor) -> float | None:
    """Mean absolute change of the pixels outside `region` [H, W], of pictures [3, H, W] in [0, 1]. None where nothing
    is outside: a new background changes all."""
    outside = (now - first).abs()[:, ~region]
    return float(outside.mean()) if outside.numel() else None
