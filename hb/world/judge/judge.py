"""The judge: reads any picture back into a scene, says what is wrong with it, and whether it is what was asked.

`read` explains a picture as things on a background (hb.world.judge.fitting does the fitting), draws that explanation
again and compares: what is left over are flaws. `check` holds a reading against a `Request`. Edits are judged in
hb.world.judge.edits; hb.world.judge.damage judges the judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

from torch import Tensor

from hb.world.judge.reading import ATTRIBUTES, PLACE_SLACK, Reading, distance, read, whereabouts
from hb.world.language.words import NUMBERS, PLURALS
from hb.world.scene import SHAPES, Request, Scene, Thing, Wish, holds, place_of


@dataclass(frozen=True)
class Verdict:
    """Is the picture what was asked? If not, why not, in short sentences."""

    right: bool
    reasons: tuple[str, ...] = ()


def judge(picture: Tensor, request: Request) -> Verdict:
    """Is this picture [3, H, W] clean, and exactly what was asked?"""
    if picture.ndim != 3:
        raise ValueError(f"one picture [3, H, W] at a time, got {list(picture.shape)}; for many, read() then check()")
    return check(read(picture), request)


def check(reading: Reading, request: Request) -> Verdict:
    """The verdict on a picture already read: no flaws, one thing for each wish and none besides."""
    reasons = list(reading.all_flaws)
    if request.background is not None and reading.background not in (None, request.background):
        reasons.append(f"the background is {reading.background}, {request.background} was asked")
    things = [t.thing for t in reading.things]
    if len(things) != len(request.wishes):
        reasons += _miscounts(things, request.wishes)
    else:
        reasons += min((_mismatches(order, request) for order in permutations(things)), key=len)
    return Verdict(not reasons, tuple(reasons))


def _miscounts(things: Sequence[Thing], wishes: Sequence[Wish]) -> list[str]:
    asked, found = [w.shape for w in wishes], [t.shape for t in things]
    if None in asked:
        return [f"{_count(len(found), 'thing')} found, {_number(len(asked))} asked"]
    wrong = [s for s in SHAPES if asked.count(s) != found.count(s)]
    return [f"{_count(found.count(s), s)} found, {_number(asked.count(s))} asked" for s in wrong]


def _number(n: int) -> str:
    return NUMBERS[n] if n < len(NUMBERS) else str(n)


def _count(n: int, noun: str) -> str:
    return f"{_number(n)} {noun if n == 1 else PLURALS[noun]}"


def _mismatches(things: Sequence[Thing], request: Request) -> list[str]:
    """What is wrong if the first thing is for the first wish, and so on."""
    out = [words for thing, wish in zip(things, request.wishes) for words in _disappointments(thing, wish)]
    if request.relation is not None and not related(request.relation, *things[:2]):
        a, b = things[:2]
        out.append(f"the {a.shape} at {whereabouts(a)} is not {request.relation} the {b.shape} at {whereabouts(b)}")
    return out


def _disappointments(thing: Thing, wish: Wish) -> list[str]:
    out = []
    if wish.shape not in (None, thing.shape):
        out.append(f"the thing at {whereabouts(thing)} is a {thing.shape}, a {wish.shape} was asked")
    for name in ("color", "size", "texture"):
        if getattr(wish, name) not in (None, getattr(thing, name)):
            out.append(f"the {thing.shape} is {getattr(thing, name)}, {getattr(wish, name)} was asked")
    if wish.place is not None and not in_place(thing, wish.place):
        out.append(
            f"the {thing.shape} is at {whereabouts(thing)}, in the place called {thing.place}; {wish.place} was asked"
        )
    return out


def in_place(thing: Thing, place: str) -> bool:
    """Is its center in that ninth of the picture, or within PLACE_SLACK of it?"""
    nudges = (-PLACE_SLACK, 0.0, PLACE_SLACK)
    return any(place_of(_inside(thing.x + dx), _inside(thing.y + dy)) == place for dx in nudges for dy in nudges)


def _inside(c: float) -> float:
    return min(max(c, 0.0), 1.0)


def related(relation: str, a: Thing, b: Thing) -> bool:
    dx = {"left of": -1, "right of": 1}.get(relation, 0) * PLACE_SLACK
    dy = {"above": -1, "below": 1}.get(relation, 0) * PLACE_SLACK
    return bool(holds(relation, a.x + dx, a.y + dy, b.x, b.y))


def same_scene(a: Scene, b: Scene, reach: float = 1.5 / 64) -> bool:
    """The same things, in any order, with centers within `reach`, on the same background?"""
    if a.background != b.background or len(a.things) != len(b.things):
        return False
    alike = lambda s, t: all(getattr(s, n) == getattr(t, n) for n in ATTRIBUTES) and distance(s, t) <= reach
    return any(all(map(alike, a.things, order)) for order in permutations(b.things))
