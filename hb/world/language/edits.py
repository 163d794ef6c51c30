"""Edit instructions in GEdit's manner: drawing them, saying them, reading them, and doing them to a scene.

What an instruction does not name stays as it is, to the last digit: place, turn, shade, texture.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from hb.world.language.prompts import first_or_pick, pick
from hb.world.language.words import (
    PLACE_PHRASES,
    LanguageError,
    Reader,
    count_phrase,
    known_words,
    name,
    phrase,
    read_wish,
)
from hb.world.scene import (
    BACKGROUNDS,
    COLORS,
    GAP,
    MARGIN,
    MAX_THINGS,
    MAX_TURN,
    PLACES,
    RADII,
    SHADES,
    SHAPES,
    SIZES,
    STRIPED_SHARE,
    TEXTURES,
    Scene,
    Thing,
    Wish,
)

GROUPS = ("recolor", "replace", "remove", "add", "move", "resize", "background")


SPOTS, TRIES = 64, 20
ROOMY = 4  # of SPOTS: a drawn edit has room to spare, so that not every picture but one is wrong

_PHRASINGS = {
    "recolor": ("make {of} {color}", "change the color of {of} to {color}", "color {of} {color}"),
    "replace": ("replace {of} with {new}", "turn {of} into {new}", "change {of} to {new}"),
    "remove": ("remove {of}", "erase {of}", "take away {of}"),
    "add": ("add {new}", "put {new} into the picture"),
    "add at": ("add {new} {at}", "put {new} {at}"),
    "move": ("move {of} to the {place}", "put {of} {at}"),
    "move from": ("move {of} to the {place}",),  # "put the star on the left at the top" could be read in two ways
    "resize": ("make {of} {size}", "make {of} {sizer}", "change the size of {of} to {size}"),
    "background": ("change the background to {background}", "make the background {background}"),
}


@dataclass(frozen=True)
class Command:
    """An instruction understood. of: the thing it is about; change: what is asked of it (or of the thing to add)."""

    group: str
    of: Wish | None = None
    change: Wish | None = None
    background: str | None = None


@dataclass(frozen=True)
class Edit:
    """An instruction and one right outcome.

    thing   where in `target.things` the edited thing is; None where there is none (remove, background)
    free    attributes of that thing which the instruction leaves to chance; another outcome may differ in them.
            "x" and "y" are free within the place that the instruction names, if it names one.
    Untouched things keep their order; an added thing comes last.
    """

    group: str
    instruction: str
    target: Scene
    thing: int | None = None
    free: tuple[str, ...] = ()


# --- drawing edits -------------------------------------------------------------------------------------------------


def sample_edit(scene: Scene, rng: Generator, group: str | None = None) -> Edit | None:
    """An edit that this scene has room for.

    group   one of GROUPS; None draws one that is possible. A given group that is impossible here (remove the only
            thing, add a fifth, name one of two equal things) gives None.
    """
    if group is not None:
        if group not in GROUPS:
            raise ValueError(f"no group of edits {group!r}; choose from {', '.join(GROUPS)}")
        command = _draw_command(scene, rng, group)
        try:
            return command and _edit(command, scene, rng)
        except LanguageError:  # no room
            return None
    while True:  # the background can always be changed
        edit = sample_edit(scene, rng, pick(rng, GROUPS))
        if edit:
            return edit


def sample_chain(scene: Scene, rng: Generator, turns: int) -> list[Edit]:
    """Edits one after another, each of the scene before it."""
    edits: list[Edit] = []
    for _ in range(turns):
        edits.append(sample_edit(edits[-1].target if edits else scene, rng))
    return edits


def _edit(command: Command, scene: Scene, rng: Generator) -> Edit:
    target, thing, free = _carry_out(command, scene, rng, ROOMY)
    return Edit(command.group, say_edit(command, rng), target, thing, free)


def _draw_command(scene: Scene, rng: Generator, group: str) -> Command | None:
    if group == "background":
        return Command(group, background=pick(rng, [b for b in BACKGROUNDS if b != scene.background]))
    if group == "add":
        return Command(group, change=_draw_addition(rng)) if len(scene.things) < MAX_THINGS else None
    named = [(thing, called) for thing in scene.things if (called := name(scene, thing))]
    if not named or (group == "remove" and len(scene.things) < 2):
        return None
    thing, called = pick(rng, named)
    color = thing.color if " " in called or rng.random() < 0.25 else None
    return Command(group, Wish(thing.shape, color), _draw_change(thing, rng, group))


def _draw_change(thing: Thing, rng: Generator, group: str) -> Wish | None:
    if group == "recolor":
        return Wish(color=pick(rng, [c for c in COLORS if c != thing.color]))
    if group == "replace":
        return Wish(shape=pick(rng, [s for s in SHAPES if s != thing.shape]))
    if group == "resize":
        return Wish(size=SIZES[1 - SIZES.index(thing.size)])
    if group == "move":
        return Wish(place=pick(rng, [p for p in PLACES if p != thing.place]))
    return None


def _draw_addition(rng: Generator) -> Wish:
    return Wish(
        shape=pick(rng, SHAPES),
        color=pick(rng, COLORS) if rng.random() < 0.7 else None,
        size=pick(rng, SIZES) if rng.random() < 0.25 else None,
        texture=pick(rng, TEXTURES) if rng.random() < 0.15 else None,
        place=pick(rng, PLACES) if rng.random() < 0.3 else None,
    )


# --- saying and reading them ---------------------------------------------------------------------------------------


def say_edit(command: Command, rng: Generator | None = None) -> str:
    """The command in words, in one of several phrasings, without `rng` the first: "turn the star into a circle"."""
    of, change = command.of, command.change or Wish()
    at = PLACE_PHRASES.get(change.place)
    key = command.group
    if key == "add" and at:
        key = "add at"
    if key == "move" and of.place:
        key = "move from"
    return first_or_pick(rng, _PHRASINGS[key]).format(
        of=of and _say_named(of),
        new=phrase(change) if command.group in ("add", "replace") else None,
        at=at,
        place=change.place,
        color=change.color,
        size=change.size,
        sizer={"small": "smaller", "large": "larger"}.get(change.size),
        background=command.background,
    )


def _say_named(wish: Wish) -> str:
    return phrase(wish, article="the") + (f" {PLACE_PHRASES[wish.place]}" if wish.place else "")


_COLOR, _SIZE, _GROUND = "|".join(COLORS), "|".join(SIZES), "|".join(BACKGROUNDS)
_TO = "(?: to| into)?"
_PATTERNS = tuple(
    (group, re.compile(pattern + "$"))
    for group, pattern in (
        ("background", rf"(?:make|change|turn|color) the background(?: color)?{_TO} (?P<background>{_GROUND})"),
        ("background", rf"(?:make|change) the color of the background{_TO} (?P<background>{_GROUND})"),
        ("remove", r"(?:remove|erase|take away) (?P<of>.+?)(?: away)?"),
        ("recolor", rf"(?:make|change|turn) the color of (?P<of>.+?){_TO} (?P<color>{_COLOR})"),
        ("recolor", rf"(?:make|change|turn|color) (?P<of>.+?){_TO} (?P<color>{_COLOR})"),
        ("resize", rf"(?:make|change) the size of (?P<of>.+?){_TO} (?P<size>{_SIZE})"),
        ("resize", rf"(?:make|change|turn) (?P<of>.+?){_TO} (?P<size>{_SIZE}|smaller|larger)"),
        ("add", r"(?:add|draw|put) (?P<new>(?:an?|one|1) .+?)(?: (?:in|into|to) the picture)?"),
        ("replace", r"(?:replace|change|turn|make) (?P<of>.+?) (?:with|by|into|to) (?P<new>.+)"),
        ("move", r"(?:move|put) (?P<of>.+) (?P<at>(?:to|at|in|on) (?:the )?\w+.*)"),
    )
)


def parse_edit(instruction: str) -> Command:
    """The command behind an instruction: the inverse of `say_edit`.

    Raises LanguageError naming the unknown word and the nearest known one, or giving an example of what works.
    """
    text = " ".join(word for word in known_words(instruction) if word not in ("please", ",", "me"))
    if "background" in text.split() and not _PATTERNS[0][1].match(text) and not _PATTERNS[1][1].match(text):
        raise LanguageError(
            f"to change the background say 'make the background {BACKGROUNDS[2]}'; it can be {', '.join(BACKGROUNDS)}"
        )
    for group, pattern in _PATTERNS:
        found = pattern.match(text)
        if found:
            return _command(group, found.groupdict(), instruction)
    raise LanguageError(
        f"{instruction!r} is not a known instruction; try 'make the star green', 'replace the star with a circle', "
        "'remove the star', 'add a red circle', 'move the star to the top left', 'make the star larger' or "
        "'make the background black'"
    )


def _command(group: str, said: dict[str, str | None], instruction: str) -> Command:
    of = read_wish(said["of"]) if said.get("of") else None
    if group == "background":
        return Command(group, background=said["background"])
    if group == "recolor":
        return Command(group, of, Wish(color=said["color"]))
    if group == "resize":
        return Command(group, of, Wish(size={"smaller": "small", "larger": "large"}.get(said["size"], said["size"])))
    if group == "move":
        return Command(group, of, Wish(place=_read_target_place(said["at"], instruction)))
    if group == "remove":
        return Command(group, of)
    new = read_wish(said["new"])
    if new.shape is None or (group == "replace" and new.place):
        raise LanguageError(f"{instruction!r} should say a shape to {group}, for instance 'a red circle'")
    return Command(group, of, new)


def _read_target_place(at: str, instruction: str) -> str:
    reader = Reader(at.split(), instruction)
    place = reader.place()
    if place is None or reader.peek():
        raise LanguageError(f"no place in {instruction!r}; places are {', '.join(PLACES)}")
    return place


# --- doing them ----------------------------------------------------------------------------------------------------


def apply(command: Command, scene: Scene, rng: Generator) -> Scene:
    """The scene after the command; what it leaves to chance is drawn.

    Raises LanguageError if the thing it is about is not there or not the only one, or if there is no room.
    """
    return _carry_out(command, scene, rng)[0]


def _carry_out(
    command: Command, scene: Scene, rng: Generator, room: int = 1
) -> tuple[Scene, int | None, tuple[str, ...]]:
    """Target, place of the edited thing in it, free attributes."""
    if command.group == "background":
        return Scene(scene.things, command.background), None, ()
    if command.group == "add":
        thing, free = _new_thing(command.change, scene, rng, room)
        return Scene((*scene.things, thing), scene.background), len(scene.things), free
    at = find(command.of, scene)
    others = scene.things[:at] + scene.things[at + 1 :]
    if command.group == "remove":
        if not others:
            raise LanguageError("that is the last thing in the picture; a picture shows at least one")
        return Scene(others, scene.background), None, ()
    said = {key: value for key, value in vars(command.change).items() if value is not None and key != "place"}
    thing, free = replace(scene.things[at], **said), ()
    if command.group == "move":
        x, y = _free_spot(thing.radius, command.change.place, others, rng, room)
        thing, free = replace(thing, x=x, y=y), ("x", "y")
    target = Scene((*scene.things[:at], thing, *scene.things[at + 1 :]), scene.background)
    if command.group == "resize" and not target.has_room():
        raise LanguageError(f"there is no room to make the {thing.shape} {thing.size}")
    return target, at, free


def find(wish: Wish, scene: Scene) -> int:
    """Which thing of the scene is meant.

    Raises LanguageError if none or several fit.
    """
    said = [(key, value) for key, value in vars(wish).items() if value is not None]
    fits = [k for k, thing in enumerate(scene.things) if all(getattr(thing, key) == value for key, value in said)]
    if len(fits) == 1:
        return fits[0]
    called = phrase(wish, article="")
    if not fits:
        there = ", ".join(phrase(Wish(thing.shape, thing.color)) for thing in scene.things)
        raise LanguageError(f"no {called} in this picture; there is {there}")
    raise LanguageError(f"there are {count_phrase(len(fits))} like that; which {called}? Say its color, size or place")


def _new_thing(wish: Wish, scene: Scene, rng: Generator, room: int) -> tuple[Thing, tuple[str, ...]]:
    if len(scene.things) >= MAX_THINGS:
        raise LanguageError(f"a picture holds at most {MAX_THINGS} things; remove one first")
    free = tuple(key for key in ("color", "size", "texture") if getattr(wish, key) is None)
    size, (x, y) = _size_and_spot(wish, scene, rng, room)
    thing = Thing(
        shape=wish.shape,
        color=wish.color or pick(rng, COLORS),
        size=size,
        x=x,
        y=y,
        texture=wish.texture or TEXTURES[rng.random() < STRIPED_SHARE],
        turn=MAX_TURN * (2 * rng.random() - 1),
        shade=SHADES[0] + (SHADES[1] - SHADES[0]) * rng.random(),
    )
    return thing, (*free, "x", "y", "turn", "shade")


def _size_and_spot(wish: Wish, scene: Scene, rng: Generator, room: int) -> tuple[str, tuple[float, float]]:
    """The asked size and a spot for it; if no size is asked, a random one, or small where large finds no room."""
    size = wish.size or pick(rng, SIZES)
    try:
        return size, _free_spot(RADII[SIZES.index(size)], wish.place, scene.things, rng, room)
    except LanguageError:
        if wish.size or size == SIZES[0]:
            raise
        return SIZES[0], _free_spot(RADII[0], wish.place, scene.things, rng, room)


def _free_spot(radius: float, place: str | None, others: Sequence[Thing], rng: Generator, room: int = 1):
    """A center with room around it, uniform over all such centers (in a ninth, if `place` says one).

    room   how many of SPOTS random centers must be clear
    Raises LanguageError if they were not, TRIES times.
    """
    low, high = np.full(2, radius + MARGIN), np.full(2, 1 - radius - MARGIN)
    if place:
        line, column = divmod(PLACES.index(place), 3)
        corner = np.array([column, line]) / 3
        low, high = np.maximum(low, corner), np.minimum(high, corner + 1 / 3)
    taken = np.array([(thing.x, thing.y) for thing in others]).reshape(-1, 1, 2)
    distance = np.array([thing.radius + radius + GAP for thing in others]).reshape(-1, 1)
    for _ in range(TRIES):
        spots = low + (high - low) * rng.random((SPOTS, 2))
        clear = (((spots - taken) ** 2).sum(-1) >= distance**2).all(0)
        if clear.sum() >= room:
            x, y = spots[clear.argmax()]
            return float(x), float(y)
    raise LanguageError(f"there is no room {PLACE_PHRASES[place] if place else 'left in this picture'}")
