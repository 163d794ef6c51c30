"""Prompts that cannot be true, each with a look-alike that can: ten kinds, made from a seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from numpy.random import Generator

from hb.world.language.clashes import can_be_together
from hb.world.language.prompts import OPENERS, OPPOSITE, pick, pick_two
from hb.world.language.words import PLACE_PHRASES, PLURALS, count_phrase, phrase
from hb.world.scene import BACKGROUNDS, COLORS, PLACES, RELATIONS, SHAPES, SIZES, TEXTURES, Wish

CLASHES_PER_KIND = 4


def _a(shape: str, *said: str) -> str:
    """ "a red star", with the attributes in any order."""
    words = [*said, shape]
    return f"{'an' if words[0] == 'orange' else 'a'} {' '.join(words)}"


def _two_values(rng: Generator, values: Sequence[str]) -> tuple[str, tuple[str, str], str]:
    (one, other), shape = pick_two(rng, values), pick(rng, SHAPES)
    return _a(shape, one, other), (one, other), f"{_a(shape, one)} and {_a(shape, other)}"


def _two_backgrounds(rng: Generator) -> tuple[str, tuple[str, str], str]:
    (one, other), thing = pick_two(rng, BACKGROUNDS), _a(pick(rng, SHAPES), pick(rng, COLORS))
    return (
        f"{thing} on a {one} background with a {other} background",
        (one, other),
        f"{thing} and {_a(pick(rng, SHAPES))} with a {other} background",
    )


def _only_one(rng: Generator) -> tuple[str, tuple[str, str], str]:
    (shape, other), count = pick_two(rng, SHAPES), pick(rng, (2, 3))
    many, one = count_phrase(count, shape), f"only one {shape}"
    return f"{many} and {one}", (many, one), f"{count_phrase(count, other)} and {one}"


def _none(rng: Generator) -> tuple[str, tuple[str, str], str]:
    (shape, other), thing = pick_two(rng, SHAPES), pick(rng, COLORS)
    return (
        f"{_a(shape, thing)} and no {PLURALS[shape]}",
        (_a(shape, thing), f"no {PLURALS[shape]}"),
        f"{_a(shape, thing)} and no {PLURALS[other]}",
    )


def _two_relations(rng: Generator) -> tuple[str, tuple[str, str], str]:
    (one, other), relation = pick_two(rng, SHAPES), pick(rng, RELATIONS)
    so = f"{relation} {_a(other)}"
    return (
        f"{_a(one)} {so} and {OPPOSITE[relation]} it",
        (so, f"{OPPOSITE[relation]} it"),
        f"{_a(one)} {so} and {_a(pick(rng, SHAPES))}",
    )


def _two_places(rng: Generator) -> tuple[str, tuple[str, str], str]:
    while True:
        places = pick_two(rng, PLACES)
        if {word for place in places for word in place.split()} not in [set(place.split()) for place in PLACES]:
            break  # not "at the top and on the left", which is at the top left
    thing, (here, there) = _a(pick(rng, SHAPES), pick(rng, COLORS)), map(PLACE_PHRASES.get, places)
    return f"{thing} {here} and {there}", (here, there), f"{thing} {here} and {_a(pick(rng, SHAPES))} {there}"


def _place_and_relation(rng: Generator) -> tuple[str, tuple[str, str], str]:
    while True:
        shapes, places, relation = pick_two(rng, SHAPES), pick_two(rng, PLACES), pick(rng, RELATIONS)
        wishes = [Wish(shape, place=place) for shape, place in zip(shapes, places)]
        if not can_be_together(*wishes, relation) and can_be_together(*wishes, OPPOSITE[relation]):
            one, other = (f"{_a(shape)} {PLACE_PHRASES[place]}" for shape, place in zip(shapes, places))
            return f"{one}, {relation} {other}", (one, f"{relation} {other}"), f"{one}, {OPPOSITE[relation]} {other}"


def _too_many(rng: Generator) -> tuple[str, tuple[str, str], str]:
    (one, other), (n, m) = pick_two(rng, SHAPES), pick(rng, ((2, 3), (3, 2), (4, 2), (3, 3)))
    parts = count_phrase(n, one), count_phrase(m, other)
    return f"{parts[0]} and {parts[1]}", parts, f"{count_phrase(2, one)} and {count_phrase(2, other)}"


def _no_room(rng: Generator) -> tuple[str, tuple[str, str], str]:
    (here, there), shapes = pick_two(rng, [place for place in PLACES if " " in place]), pick_two(rng, SHAPES)
    one, other = (phrase(Wish(shape, size="large")) for shape in shapes)
    at = PLACE_PHRASES[here]
    return (
        f"{one} {at} and {other} {at}",
        (f"{one} {at}", f"{other} {at}"),
        f"{one} {at} and {other} {PLACE_PHRASES[there]}",
    )


CLASHES: dict[str, Callable[[Generator], tuple[str, tuple[str, str], str]]] = {
    "two colors": lambda rng: _two_values(rng, COLORS),
    "two sizes or textures": lambda rng: _two_values(rng, pick(rng, (SIZES, TEXTURES))),
    "two backgrounds": _two_backgrounds,
    "only one of several": _only_one,
    "none and some": _none,
    "two relations": _two_relations,
    "two places": _two_places,
    "place and relation": _place_and_relation,
    "too many": _too_many,
    "no room": _no_room,
}


def make_contradictory(rng: Generator) -> Iterator[dict]:
    seen: set[str] = set()
    for kind, make in CLASHES.items():
        made = 0
        while made < CLASHES_PER_KIND:
            clashing, clash, alike = make(rng)
            if not seen & {clashing, alike}:
                made += 1
                seen |= {clashing, alike}
                opener = pick(rng, OPENERS)
                yield {"kind": kind, "prompt": opener + clashing, "clash": clash}
                yield {"kind": kind, "prompt": opener + alike, "clash": ()}
