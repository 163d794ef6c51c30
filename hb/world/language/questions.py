"""Questions about a scene, each with one right answer of one or two words."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

from numpy.random import Generator

from hb.world.language.descriptions import PLACE_MARGIN
from hb.world.language.prompts import pick, pick_two
from hb.world.language.words import NUMBERS, PLURALS, name, phrase
from hb.world.scene import COLORS, RELATIONS, SHAPES, Scene, Thing, Wish, holds


@dataclass(frozen=True)
class Question:
    """A question about a picture and its one right answer, of one or two words."""

    kind: str
    text: str
    answer: str


def ask(scene: Scene, rng: Generator, kind: str | None = None) -> Question | None:
    """A question with one right answer. Things are named by their shape, or by color and shape.

    kind   one of QUESTION_KINDS; None draws one that this scene allows. A given kind that the scene does not allow
           ("where is the star?" with two red stars) gives None.
    """
    if not scene.things:
        raise ValueError("this scene is empty; a question needs at least one thing")
    if kind is not None:
        if kind not in _ASKERS:
            raise ValueError(f"no kind of question {kind!r}; choose from {', '.join(QUESTION_KINDS)}")
        said = _ASKERS[kind](scene, rng)
        return Question(kind, *said) if said else None
    while True:  # "count" is always possible
        question = ask(scene, rng, pick(rng, QUESTION_KINDS))
        if question:
            return question


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"


def _named(scene: Scene, rng: Generator) -> tuple[str, Thing] | None:
    """A thing that has a name, and the name."""
    named = [(called, thing) for thing in scene.things if (called := name(scene, thing))]
    return pick(rng, named) if named else None


def _ask_count(scene, rng):
    if rng.random() < 0.4:
        return "how many things are there?", NUMBERS[len(scene.things)]
    here = rng.random() < 0.85
    shape = pick(rng, scene.things).shape if here else pick(rng, SHAPES)
    return f"how many {PLURALS[shape]} are there?", NUMBERS[sum(thing.shape == shape for thing in scene.things)]


def _ask_color(scene, rng):
    unique = [a for a in scene.things if sum(a.shape == b.shape for b in scene.things) == 1]
    if not unique:
        return None
    thing = pick(rng, unique)
    return f"what color is the {thing.shape}?", thing.color


def _ask_shape(scene, rng):
    unique = [a for a in scene.things if sum(a.color == b.color for b in scene.things) == 1]
    if not unique:
        return None
    thing = pick(rng, unique)
    return f"what shape is the {thing.color} thing?", thing.shape


def _ask_size(scene, rng):
    named = _named(scene, rng)
    return named and (f"what size is the {named[0]}?", named[1].size)


def _ask_texture(scene, rng):
    named = _named(scene, rng)
    return named and (f"is the {named[0]} plain or striped?", named[1].texture)


def _ask_place(scene, rng):
    named = _named(scene, rng)
    if not named or any(abs(c - border) < PLACE_MARGIN for c in (named[1].x, named[1].y) for border in (1 / 3, 2 / 3)):
        return None
    return f"where is the {named[0]}?", named[1].place


def _ask_exists(scene, rng):
    """Half the answers are yes; a "no" is near the truth: the color or the shape of a thing that is there is wrong."""
    thing = pick(rng, scene.things)
    said = (thing.color, thing.shape)
    truth = rng.random() < 0.5
    while not truth and any((other.color, other.shape) == said for other in scene.things):
        wrong_color = rng.random() < 0.5
        said = (pick(rng, COLORS), thing.shape) if wrong_color else (thing.color, pick(rng, SHAPES))
    return f"is there {phrase(Wish(shape=said[1], color=said[0]))}?", _yes(truth)


def _ask_relation(scene, rng):
    """ "No" is said only where the opposite holds."""
    named = [(called, thing) for thing in scene.things if (called := name(scene, thing))]
    if len(named) < 2:
        return None
    (first, a), (second, b) = pick_two(rng, named)
    relation = pick(rng, RELATIONS)
    if holds(relation, a.x, a.y, b.x, b.y):
        return f"is the {first} {relation} the {second}?", "yes"
    if holds(relation, b.x, b.y, a.x, a.y):
        return f"is the {first} {relation} the {second}?", "no"
    return _ask_relation(scene, rng)  # level: ask along the other axis


def _ask_more(scene, rng):
    """Are there more of this than of that? At least one of them is in the picture; about half the answers are yes."""
    one = pick(rng, scene.things).shape
    rest = [thing.shape for thing in scene.things if thing.shape != one]
    other = pick(rng, rest if rest and rng.random() < 0.6 else [shape for shape in SHAPES if shape != one])
    count = {shape: sum(thing.shape == shape for thing in scene.things) for shape in (one, other)}
    fewer_first = rng.random() < 0.4
    one, other = sorted((one, other), key=count.get, reverse=not fewer_first)
    return f"are there more {PLURALS[one]} than {PLURALS[other]}?", _yes(count[one] > count[other])


def _ask_same(scene, rng):
    """Are two things alike in color, size or texture? Half the answers are yes where the scene allows both."""
    named = [(called, thing) for thing in scene.things if (called := name(scene, thing))]
    options = {True: [], False: []}
    for (first, a), (second, b) in combinations(named, 2):
        for attribute in ("color", "size", "texture"):
            if attribute == "color" and (" " in first or " " in second):
                continue  # the names would give the answer away
            options[getattr(a, attribute) == getattr(b, attribute)].append((first, second, attribute))
    answer = rng.random() < 0.5
    answer = answer if options[answer] else not answer
    if not options[answer]:
        return None
    first, second, attribute = pick(rng, options[answer])
    if rng.random() < 0.5:
        first, second = second, first
    return f"are the {first} and the {second} the same {attribute}?", _yes(answer)


def _ask_background(scene, rng):
    return "what color is the background?", scene.background


_ASKERS = {
    "count": _ask_count,
    "color": _ask_color,
    "shape": _ask_shape,
    "size": _ask_size,
    "texture": _ask_texture,
    "place": _ask_place,
    "exists": _ask_exists,
    "relation": _ask_relation,
    "more": _ask_more,
    "same": _ask_same,
    "background": _ask_background,
}
QUESTION_KINDS = tuple(_ASKERS)
