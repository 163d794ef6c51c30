"""Edits of one of several alike things: names that tell a thing from the others, and what had been done to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
from numpy.random import Generator

from hb.world.language.edits import Command, Edit, _edit, apply, find
from hb.world.language.prompts import pick
from hb.world.language.words import LanguageError, phrase
from hb.world.scene import COLORS, PLACES, SHAPES, Scene, Thing, Wish

NAMING = ("size", "texture", "color", "place")  # what can be said of a thing beside its shape, to tell it from another


CHOOSING = ("recolor", "replace", "remove", "move")  # groups of edits that pick one of several alike things


SURE = 0.04  # a thing is named by its place only if its center is at least this far from the border of a ninth


def names(scene: Scene, thing: Thing) -> list[Wish]:
    """All names that only this thing has, its shape and no more attributes than are needed: if one of them is left out,
    another thing of the scene has the name too."""
    rivals = [other for other in scene.things if other.shape == thing.shape and other is not thing]
    sides = [side for side in NAMING if side != "place" or _is_surely_there(thing)]
    found: list[set[str]] = []
    for count in range(len(sides) + 1):
        for said in combinations(sides, count):
            if not any(known <= set(said) for known in found) and not any(
                _alike(thing, rival, said) for rival in rivals
            ):
                found.append(set(said))
    return [Wish(thing.shape, **{side: getattr(thing, side) for side in said}) for said in found]


def _is_surely_there(thing: Thing) -> bool:
    return all(min(abs(c - 1 / 3), abs(c - 2 / 3)) >= SURE for c in (thing.x, thing.y))


def _alike(a: Thing, b: Thing, sides: Sequence[str]) -> bool:
    return all(getattr(a, side) == getattr(b, side) for side in sides)


def sample_choice(scene: Scene, rng: Generator, group: str, said: Sequence[str]) -> Edit | None:
    """An edit of one of several things of one shape, which is named by these attributes and no others, and what is
    asked for is true of none of the things of that shape. None if the scene has no such thing, or no room."""
    things = list(scene.things)
    rng.shuffle(things)
    for thing in things:
        alike = [other for other in scene.things if other.shape == thing.shape]
        fit = [wish for wish in names(scene, thing) if {side for side in NAMING if getattr(wish, side)} == set(said)]
        if len(alike) < 2 or not fit or not all(names(scene, other) for other in alike):
            continue
        command = Command(group, fit[0], _draw_other_change(scene, alike, rng, group))
        try:
            others_instead(command, scene)
            return _edit(command, scene, rng)
        except LanguageError:  # no room
            continue
    return None


def _draw_other_change(scene: Scene, alike: Sequence[Thing], rng: Generator, group: str) -> Wish | None:
    """What is asked of one of these things: what none of them is, and of shapes what no thing of the scene is."""
    if group == "recolor":
        return Wish(color=pick(rng, [c for c in COLORS if c not in {thing.color for thing in alike}]))
    if group == "replace":
        return Wish(shape=pick(rng, [s for s in SHAPES if s not in {thing.shape for thing in scene.things}]))
    if group == "move":
        return Wish(place=pick(rng, [p for p in PLACES if p not in {thing.place for thing in alike}]))
    if group == "remove":
        return None
    raise ValueError(f"no group of edits {group!r} picks one of several things; choose from {', '.join(CHOOSING)}")


def others_instead(command: Command, scene: Scene) -> list[Scene]:
    """The scene after the command, had it been done to another thing of the same shape: one scene for each such thing.

    Raises LanguageError if one of them has no name, or there is no room.
    """
    meant = scene.things[find(command.of, scene)]
    out = []
    for other in scene.things:
        if other.shape == meant.shape and other is not meant:
            called = names(scene, other)
            if not called:
                raise LanguageError(f"there are two things like the {phrase(other, article='')}")
            out.append(apply(replace(command, of=called[0]), scene, np.random.default_rng(0)))
    return out
