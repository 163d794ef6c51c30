"""Dense descriptions of a scene, reading them back, and marking them against the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from numpy.random import Generator

from hb.world.language.prompts import first_or_pick
from hb.world.language.words import ATTRIBUTE_OF, NUMBERS, PLACE_PHRASES, count_phrase, join, name, phrase, split_words
from hb.world.scene import BACKGROUNDS, PLACES, RELATIONS, SHAPES, Scene, Thing, Wish

PLACE_MARGIN = 0.04  # a center this close to a ninth may be told to lie in it; one this close to a border is not asked
STYLES = ("row", "list", "places", "facts")

DESCRIBE_REQUEST = "describe the picture"
DESCRIBE_REQUESTS = (DESCRIBE_REQUEST, "describe this picture", "what is in the picture?", "what do you see?")


def describe(scene: Scene, rng: Generator | None = None, style: str | None = None) -> str:
    """All there is to see in 30 to 100 words: how many things, the background, and each thing from left to right.

    style   one of STYLES; if None, drawn with `rng`, or the first without one. Nothing else is random.
    """
    if style is None:
        style = first_or_pick(rng, STYLES)
    if style not in STYLES:
        raise ValueError(f"no style {style!r}; choose from {', '.join(STYLES)}")
    if not scene.things:
        raise ValueError("this scene is empty; a description needs at least one thing")
    things = sorted(scene.things, key=lambda thing: thing.x)
    sentences = {"row": _row, "list": _list, "places": _places, "facts": _facts}[style](things, scene.background)
    return ". ".join([*sentences, _closing(scene, things)]) + "."


def _row(things: Sequence[Thing], background: str) -> list[str]:
    count = count_phrase(len(things))
    if len(things) == 1:
        return [f"the picture shows {count} on a {background} background", f"it is {_thing_at(things[0])}"]
    each = join([_thing_at(thing) for thing in things])
    return [f"the picture shows {count} on a {background} background", f"from left to right there are {each}"]


def _list(things: Sequence[Thing], background: str) -> list[str]:
    verb = "is" if len(things) == 1 else "are"
    each = [f"{order} is {_thing_at(thing)}" for order, thing in zip(("the first", "next", "then", "the last"), things)]
    return [f"there {verb} {count_phrase(len(things))} in this picture", *each, f"the background is {background}"]


def _places(things: Sequence[Thing], background: str) -> list[str]:
    each = [f"{PLACE_PHRASES[thing.place]} there is {phrase(thing)}" for thing in things]
    return [f"this is a {background} picture with {count_phrase(len(things))}", *each]


def _facts(things: Sequence[Thing], background: str) -> list[str]:
    each = [
        f"a {a.size} {a.shape} is {PLACE_PHRASES[a.place]}, its color is {a.color} and it is {a.texture}"
        for a in things
    ]
    return [*each, f"in all there {'is' if len(things) == 1 else 'are'} {count_phrase(len(things))} on {background}"]


def _thing_at(thing: Thing) -> str:
    return f"{phrase(thing)} {PLACE_PHRASES[thing.place]}"


def _closing(scene: Scene, things: Sequence[Thing]) -> str:
    """How the first two things with names lie to each other; for a thing alone, that there is nothing else."""
    for a, b in combinations(things, 2):
        first, second = name(scene, a), name(scene, b)
        if first and second:
            return f"the {first} is {clear_relation(a, b)} the {second}"
    return "there is nothing else in the picture, only the background"


def clear_relation(a: Thing, b: Thing) -> str:
    """The relation "a RELATION b" along the axis that parts them most (y grows downwards)."""
    if abs(a.x - b.x) >= abs(a.y - b.y):
        return "left of" if a.x < b.x else "right of"
    return "above" if a.y < b.y else "below"


@dataclass(frozen=True)
class Told:
    """What a description says, as far as it could be read."""

    things: tuple[Wish, ...]
    background: str | None = None
    count: int | None = None


@dataclass(frozen=True)
class Match:
    """A description held against the truth: `found` of `told` things are right, there are `true` things."""

    found: int
    told: int
    true: int
    background: bool
    count: bool

    @property
    def recall(self) -> float:
        return self.found / self.true if self.true else 1.0

    @property
    def precision(self) -> float:
        return self.found / self.told if self.told else 0.0


def parse_description(text: str) -> Told:
    """Read a description back. Never raises: what cannot be read is left out."""
    things: list[Wish] = []
    background = count = None
    for sentence in text.split("."):
        words = split_words(sentence)
        background = next((word for word in words if word in BACKGROUNDS), background)
        for number, noun in zip(words, words[1:]):
            if noun in ("thing", "things") and number in NUMBERS:
                count = NUMBERS.index(number)
        if not _relates(words):
            things += _read_things(words)
    return Told(tuple(things), background, count)


def _relates(words: Sequence[str]) -> bool:
    return any(f" {relation} " in f" {' '.join(words)} " for relation in RELATIONS)


def _read_things(words: Sequence[str]) -> list[Wish]:
    """Things of one sentence: an attribute said again begins the next thing."""
    things: list[dict[str, str]] = [{}]
    i = 0
    while i < len(words):
        place, length = _read_place(words, i)
        attribute = ATTRIBUTE_OF.get(words[i]) or ("shape" if words[i] in SHAPES else "place" if place else None)
        if attribute:
            if attribute in things[-1]:
                things.append({})
            things[-1][attribute] = place or words[i]
        i += length
    return [Wish(**thing) for thing in things if "shape" in thing]


def _read_place(words: Sequence[str], i: int) -> tuple[str | None, int]:
    """The place that "the top left ..." begins, and how many words it takes; (None, 1) if none begins at word i."""
    if words[i] == "the":
        for length in (2, 1):
            place = " ".join(words[i + 1 : i + 1 + length])
            if place in PLACES:
                return place, 1 + length
    return None, 1


def described_right(told: Told, scene: Scene) -> Match:
    """How much of what was told is true, each true thing counted once."""
    found = _most_pairs([[_is(wish, thing) for thing in scene.things] for wish in told.things])
    return Match(
        found,
        len(told.things),
        len(scene.things),
        background=told.background == scene.background,
        count=told.count == len(scene.things),
    )


def _is(wish: Wish, thing: Thing) -> bool:
    said = (wish.shape, wish.color, wish.size, wish.texture)
    return said == (thing.shape, thing.color, thing.size, thing.texture) and place_is_right(wish.place, thing)


def place_is_right(place: str | None, thing: Thing) -> bool:
    """Does the center lie in this ninth, or within PLACE_MARGIN of it in each direction?"""
    if place is None:
        return False
    line, column = divmod(PLACES.index(place), 3)
    inside = [k / 3 - PLACE_MARGIN <= c <= (k + 1) / 3 + PLACE_MARGIN for k, c in ((column, thing.x), (line, thing.y))]
    return all(inside)


def _most_pairs(fits: Sequence[Sequence[bool]]) -> int:
    """Size of the largest one-to-one pairing of rows with columns (Kuhn 1955, by augmenting paths)."""
    partner: dict[int, int] = {}

    def seat(row: int, tried: set[int]) -> bool:
        for column, fit in enumerate(fits[row]):
            if fit and column not in tried:
                tried.add(column)
                if column not in partner or seat(partner[column], tried):
                    partner[column] = row
                    return True
        return False

    return sum(seat(row, set()) for row in range(len(fits)))
