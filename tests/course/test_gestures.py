"""What a gesture says can be read back, and means the thing that was touched."""

import numpy as np
import pytest

from hb.course.canvas.gestures import description, instruction, name_of
from hb.world.language import LanguageError, find, parse_edit
from hb.world.scene import BACKGROUNDS, COLORS, PLACES, SHAPES, SIZES, Scene, Thing, sample_any

SCENES = sample_any(60, np.random.default_rng(5)).to_list()
STAR, DISC = Thing("star", "red", "large", 0.2, 0.2), Thing("circle", "blue", "small", 0.8, 0.8)
TWO = Scene((STAR, DISC), "white")


def told(scene: Scene, **gesture):
    return parse_edit(instruction(scene, gesture))


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [("recolor", "color", COLORS), ("replace", "shape", SHAPES), ("resize", "size", SIZES), ("move", "place", PLACES)],
)
def test_every_change_of_every_thing_is_said_and_read_back(kind, name, words):
    said = 0
    for scene in SCENES:
        for number, thing in enumerate(scene.things):
            try:
                name_of(scene, thing)
            except LanguageError:
                continue
            for word in words:
                if word == getattr(thing, name):
                    with pytest.raises(ValueError, match="already"):
                        told(scene, kind=kind, thing=number, **{name: word})
                    continue
                command = told(scene, kind=kind, thing=number, **{name: word})
                assert command.group == kind and getattr(command.change, name) == word
                assert find(command.of, scene) == number
                said += 1
    assert said > 100


def test_the_name_is_as_short_as_can_be():
    assert instruction(TWO, dict(kind="remove", thing=0)) == "remove the star"
    three = Scene((*TWO.things, Thing("star", "green", "large", 0.8, 0.2)))
    assert instruction(three, dict(kind="remove", thing=0)) == "remove the red star"
    twins = Scene((STAR, Thing("star", "red", "large", 0.8, 0.8)))
    assert "at the bottom right" in instruction(twins, dict(kind="recolor", thing=1, color="blue"))
    near = Scene((Thing("star", "red", "small", 0.13, 0.13), Thing("star", "red", "small", 0.32, 0.32)))
    with pytest.raises(LanguageError, match="looks the same"):
        instruction(near, dict(kind="remove", thing=1))


def test_dragging_means_the_ninth_where_it_ends():
    assert told(TWO, kind="move", thing=0, x=0.9, y=0.5).change.place == "right"
    assert told(TWO, kind="move", thing=0, x=0.34, y=1).change.place == "bottom"


def test_adding_and_the_background():
    command = told(TWO, kind="add", shape="heart", color="pink", place="top")
    assert command.group == "add" and vars(command.change) == dict(
        shape="heart", color="pink", size=None, texture=None, place="top"
    )
    assert told(TWO, kind="add", shape="ring").change.color is None
    for background in BACKGROUNDS[1:]:
        assert told(TWO, kind="background", background=background).background == background


@pytest.mark.parametrize(
    ("gesture", "part"),
    [
        (dict(kind="sing"), "no gesture 'sing'"),
        (dict(kind="remove"), "no thing number None"),
        (dict(kind="remove", thing=2), "no thing number 2"),
        (dict(kind="remove", thing=True), "no thing number True"),
        (dict(kind="recolor", thing=0, color="teal"), "no color 'teal'"),
        (dict(kind="move", thing=0, x="a", y=0), r"lies in \[0, 1\]"),
        (dict(kind="move", thing=0, x=0.1, y=0.1), "at the top left already"),
        (dict(kind="background", background="white"), "white already"),
        (dict(kind="add"), "no shape None"),
    ],
)
def test_what_makes_no_sense_gets_a_sentence(gesture, part):
    with pytest.raises(ValueError, match=part):
        instruction(TWO, gesture)


def test_a_full_picture_and_the_last_thing():
    four = Scene(tuple(Thing("star", c, "small", x, 0.2) for c, x in zip(COLORS, (0.13, 0.38, 0.63, 0.87))))
    with pytest.raises(ValueError, match="at most 4"):
        instruction(four, dict(kind="add", shape="ring"))
    with pytest.raises(ValueError, match="last thing"):
        instruction(Scene((STAR,)), dict(kind="remove", thing=0))


def test_a_picture_in_words():
    words = "a large plain red star at the top left and a small plain blue circle at the bottom right"
    assert description(TWO) == f"{words}, on a white background"
