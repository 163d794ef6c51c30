"""What kinds of mistakes a picture has, for the requests that say much."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

from hb.world.judge.judge import in_place, related
from hb.world.judge.reading import ATTRIBUTES, Reading
from hb.world.scene import Request, Thing, Wish

FAULTS = (
    "swapped",
    "shape",
    "color",
    "size",
    "texture",
    "place",
    "relation",
    "missing",
    "extra",
    "background",
    "unclean",
)


def faults(reading: Reading, request: Request) -> tuple[str, ...]:
    """What kinds of mistakes a picture has, in the order of FAULTS; none exactly where `check` finds it right.

    swapped      the values of an attribute (or the places) that are wrong are those asked, on the wrong things
    shape ...    a value is wrong that is not swapped
    missing      too few things; `extra`: too many. Their attributes are not compared then
    unclean      the judge found a flaw
    Things are assigned to wishes so that the fewest of their attributes are wrong; among such, in the order of FAULTS.
    """
    things = [t.thing for t in reading.things]
    found = set()
    if len(things) == len(request.wishes):
        ranked = lambda mistaken: (mistaken[0], sorted(map(FAULTS.index, mistaken[1])))
        found = set(min((_mistaken(order, request) for order in permutations(things)), key=ranked)[1])
    else:
        found.add("missing" if len(things) < len(request.wishes) else "extra")
    if request.background is not None and reading.background not in (None, request.background):
        found.add("background")
    if not reading.clean:
        found.add("unclean")
    return tuple(kind for kind in FAULTS if kind in found)


def _mistaken(things: Sequence[Thing], request: Request) -> tuple[int, set[str]]:
    """How many attributes are wrong if the first thing is for the first wish, and so on; and the kinds of mistakes."""
    count, kinds = 0, set()
    for name in (*ATTRIBUTES, "place"):
        wrong = [
            (thing, wish) for thing, wish in zip(things, request.wishes) if not _has(thing, name, getattr(wish, name))
        ]
        if wrong:
            count += len(wrong)
            kinds.add("swapped" if _permuted(wrong, name) else name)
    if request.relation is not None and not related(request.relation, *things[:2]):
        count += 1
        kinds.add("relation")
    return count, kinds


def _has(thing: Thing, name: str, value: str | None) -> bool:
    """Does the thing show this value of the attribute, or is none asked?"""
    return value is None or (in_place(thing, value) if name == "place" else getattr(thing, name) == value)


def _permuted(wrong: Sequence[tuple[Thing, Wish]], name: str) -> bool:
    """Are the values that these things show those that these wishes ask for, in another order?"""
    things, wishes = zip(*wrong)
    return any(all(_has(t, name, getattr(w, name)) for t, w in zip(things, order)) for order in permutations(wishes))
