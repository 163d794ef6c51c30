"""Drift is the evaluation's, a history survives a file, and a damaged one is refused with a sentence."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from hb.infer.turns import OPEN, History, Turn, retold
from hb.pictures import to_image
from hb.world.judge.edits import drift, touched
from hb.world.judge.reading import read
from hb.world.language import apply, parse_edit
from hb.world.render import render
from hb.world.scene import Scene, Thing

SCENE = Scene((Thing("star", "red", "large", 0.25, 0.3), Thing("circle", "blue", "small", 0.7, 0.7)), "white")
EDITS = ("make the star green", "remove the circle")


def image_of(scene: Scene, add: float = 0.0) -> Image.Image:
    pixels = (render([scene], 64)[0] + add).clamp(0, 1)
    return to_image(pixels * 2 - 1)


def chain(*added: float) -> list[Turn]:
    """A picture and two perfect edits of it, but for what is added to every pixel of each."""
    scene, turns = SCENE, [Turn(OPEN, "", "", image_of(SCENE))]
    for instruction, add in zip(EDITS, added):
        scene = apply(parse_edit(instruction), scene, np.random.default_rng(0))
        turns.append(Turn("edit", instruction, instruction, image_of(scene, add), before=turns[-1]))
    return turns


def test_a_perfect_edit_has_no_drift_and_what_is_added_outside_is_measured():
    first, one, two = chain(0.0, 0.0)
    assert first.drift is None and one.drift < 1e-3 and two.drift < 1e-3
    first, one, two = chain(-10 / 255, -20 / 255)
    assert one.drift == pytest.approx(10 / 255, abs=2e-3) and two.drift == pytest.approx(20 / 255, abs=4e-3)


def test_drift_is_the_evaluations_written_out():
    first, one, two = chain(-4 / 255, -8 / 255)
    region = torch.zeros(64, 64, dtype=torch.bool)
    for before, after in ((first, one), (one, two)):
        source = read(before.pixels).scene
        target = apply(parse_edit(after.said), source, np.random.default_rng(0))
        region |= touched(source, target, read(after.pixels), 64)
    assert region.any() and two.drift == float((two.pixels - first.pixels).abs()[:, ~region].mean())
    assert drift(first.pixels, two.pixels, torch.ones(64, 64, dtype=torch.bool)) is None  # a new background changes all


def test_drift_is_not_told_where_a_picture_or_an_instruction_does_not_fit(picture):
    first = chain(0.0, 0.0)[0]
    lost = Turn("edit", "", "make the heart green", first.image, before=first)
    assert lost.drift is None and lost.region is None
    noise = Turn(OPEN, "", "", picture)
    assert Turn("edit", "", "make the star green", picture, before=noise).drift is None
    large = Turn(OPEN, "", "", picture.resize((96, 96)))
    assert large.reading is None and Turn("edit", "", EDITS[0], large.image, before=large).drift is None


def test_a_history_survives_a_file(tmp_path):
    history = History(chain(0.0, -5 / 255), 2)
    again = History.load(history.save(tmp_path / "history.json"))
    assert again.position == 2 and [t.said for t in again.turns] == ["", *EDITS]
    for old, new in zip(history.turns, again.turns):
        assert torch.equal(old.pixels, new.pixels) and old.drift == new.drift and old.verb == new.verb
    assert again.turns[2].before is again.turns[1] and again.turns[0].before is None
    assert again.current is again.turns[1]


def test_what_a_new_turn_takes_the_place_of():
    first, one, two = chain(0.0, 0.0)
    history = History([first, one, two])
    assert history.go_to(1) and history.current is first
    history.push(other := retold(one, "otherwise"))
    assert history.turns == [first, other] and history.position == 2 and other.image is one.image


def damaged(**changes) -> str:
    return json.dumps(json.loads(History(chain(0.0, 0.0)).to_json()) | changes)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{", "not JSON"),
        ("[]", "format"),
        ('{"format": "other"}', "format"),
        (damaged(version=9), "version 9"),
        (damaged(turns=3), "no list"),
        (damaged(position=7), "no turn number 7"),
        (damaged(position=True), "no turn number True"),
        (damaged(turns=[3]), "turn 1 of this history is damaged"),
        (damaged(turns=[dict(verb="edit", text="", said="", seed=0, nfe=1, picture="")]), "none before it"),
        (damaged(turns=[dict(verb="sing", text="", said="", seed=0, nfe=1, picture="")]), "no kind"),
        (damaged(turns=[dict(verb="draw", text="", said="", seed=0, nfe=1, picture="AAAA")]), "picture of turn 1"),
        (damaged(turns=[dict(verb="draw", text="", said="", seed=0, nfe=1, picture="?")]), "picture of turn 1"),
    ],
)
def test_a_damaged_history_gets_a_sentence(text, part):
    with pytest.raises(ValueError, match=part):
        History.from_json(text)


def test_a_picture_of_another_size_in_between_is_refused():
    turns = json.loads(History(chain(0.0, 0.0)).to_json())
    small = History([Turn(OPEN, "", "", turns and Image.new("RGB", (32, 32)))]).to_json()
    turns["turns"][1]["picture"] = json.loads(small)["turns"][0]["picture"]
    with pytest.raises(ValueError, match="another size"):
        History.from_json(json.dumps(turns))
