"""From a gesture on a picture to an instruction in words: dragging the red star to a corner says so."""

from __future__ import annotations

from collections.abc import Mapping

from hb.world.language import Command, LanguageError, names, say_edit
from hb.world.language.words import PLACE_PHRASES, join, phrase
from hb.world.scene import BACKGROUNDS, COLORS, MAX_THINGS, PLACES, SHAPES, SIZES, Scene, Thing, Wish, place_of

# gesture -> what is changed, and the words that it can become
CHANGES = {
    "recolor": ("color", COLORS),
    "replace": ("shape", SHAPES),
    "resize": ("size", SIZES),
    "move": ("place", PLACES),
}
PREFERRED = ("color", "size", "texture", "place")  # what a thing is named by, beside its shape


def instruction(scene: Scene, gesture: Mapping) -> str:
    """The instruction that a gesture means, in the grammar of `hb.world.language.edits`.

    gesture  kind       "recolor", "replace", "resize", "move", "remove", "add" or "background"
             thing      the number of the thing in the scene, but for "add" and "background"
             color, shape, size, place, background   what it becomes. "move" and "add" also take a center x, y in
                        [0, 1] instead of a place

    Raises ValueError with what is wrong, LanguageError where words cannot say which thing is meant.
    """
    kind, said = gesture.get("kind"), {name: gesture.get(name) for name in ("color", "shape", "size", "place")}
    if said["place"] is None and "x" in gesture and "y" in gesture:
        said["place"] = place_of(_share(gesture["x"]), _share(gesture["y"]))
    if kind == "background":
        background = _one_of("background", gesture.get("background"), BACKGROUNDS)
        if background == scene.background:
            raise ValueError(f"the background is {background} already")
        return say_edit(Command(kind, background=background))
    if kind == "add":
        if len(scene.things) >= MAX_THINGS:
            raise ValueError(f"a picture holds at most {MAX_THINGS} things; remove one first")
        known = dict(color=COLORS, size=SIZES, place=PLACES)
        given = {name: _one_of(name, said[name], words) for name, words in known.items() if said[name] is not None}
        return say_edit(Command(kind, change=Wish(_one_of("shape", said["shape"], SHAPES), **given)))
    if kind not in (*CHANGES, "remove"):
        raise ValueError(f"no gesture {kind!r}; there are {', '.join((*CHANGES, 'remove', 'add', 'background'))}")
    thing = _thing(scene, gesture.get("thing"))
    if kind == "remove":
        if len(scene.things) == 1:
            raise ValueError("that is the last thing in the picture; a picture shows at least one")
        return say_edit(Command(kind, name_of(scene, thing)))
    name, words = CHANGES[kind]
    value = _one_of(name, said[name], words)
    if getattr(thing, name) == value:
        raise ValueError(f"the {thing.shape} is {PLACE_PHRASES[value] if name == 'place' else value} already")
    return say_edit(Command(kind, name_of(scene, thing), Wish(**{name: value})))


def name_of(scene: Scene, thing: Thing) -> Wish:
    """The shortest name that only this thing has. Raises LanguageError if there is none."""
    found = names(scene, thing)
    if not found:
        raise LanguageError(
            f"another {thing.shape} looks the same and is in the same place; words cannot tell them apart"
        )
    said = lambda wish: [PREFERRED.index(name) for name in PREFERRED if getattr(wish, name) is not None]
    return min(found, key=lambda wish: (len(said(wish)), said(wish)))


def description(scene: Scene) -> str:
    """The picture in words, for readers who do not see it."""
    things = [f"{phrase(thing)} {PLACE_PHRASES[thing.place]}" for thing in scene.things]
    return f"{join(things) or 'nothing'}, on a {scene.background} background"


def _thing(scene: Scene, number) -> Thing:
    if type(number) is not int or not 0 <= number < len(scene.things):
        raise ValueError(f"there is no thing number {number!r} in this picture")
    return scene.things[number]


def _one_of(name: str, value, words) -> str:
    if value not in words:
        raise ValueError(f"no {name} {value!r}; choose from {', '.join(words)}")
    return value


def _share(value) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"a center lies in [0, 1], got {value!r}")
    return float(value)
