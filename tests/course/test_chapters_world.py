"""Chapters 00 to 04: the figures say what is true, and setting a value is turning a knob."""

import io

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from PIL import Image

from hb import plots
from hb.course import plane, widgets
from hb.course.chapters import ch00, ch01, ch02, ch03, ch04
from hb.exact import FiniteData
from hb.world.scene import Scene, Thing


def test_ledger_prints_totals_and_ratios():
    said = [t.get_text() for t in ch04.ledger({"draw": [2] * 50, "edit": [3] * 41 + [1] * 9}, title="t").axes[0].texts]
    assert "100   16.67x for 6, 100x for 1" in said and "132   22x for 6, 132x for 1" in said
    assert said.count("41") == 2  # without the text, without the picture


def test_attention_colours_a_key_by_its_expert_and_hides_what_may_not_be_seen():
    picture = ch03.attention_figure("drawing").axes[0].images[0].get_array()
    text, noised = slice(0, 6), slice(6, 14)
    assert np.all(picture[text, noised] == 0)  # a prompt does not look at the picture
    assert np.all(picture[noised, text] == 1) and np.all(picture[noised, noised] == 2)
    assert picture[0, 1] == 0 and picture[1, 0] == 1  # text is causal


def test_attention_viewer_turns():
    box = ch03.attention_viewer()
    before = box.picture.png
    box.controls["plan"].value = "asking"
    assert box.picture.png.startswith(b"\x89PNG") and box.picture.png != before


def test_attention_figure_names_the_plans_it_knows():
    with pytest.raises(ValueError, match="editing"):
        ch03.attention_figure("dreaming")


def test_rope_positions_are_the_models():
    from hb.models.sequence import ImageSplit, TextSplit, positions

    kinds, lengths = ("text", "noise", "vae", "vit", "text"), (3, 6, 6, 6, 2)
    yes = torch.tensor([True])
    splits = [
        TextSplit(torch.zeros(1, n, dtype=torch.long), torch.tensor([n]))
        if kind == "text"
        else ImageSplit(kind, torch.zeros(1, n - 2, 4), yes, torch.tensor([0.5]) if kind == "noise" else None)
        for kind, n in zip(kinds, lengths)
    ]
    assert ch03.rope_positions(kinds, lengths) == positions(splits)[0].tolist()


def test_scene_maker_draws_reads_and_refuses_politely():
    box = ch01.scene_maker()
    assert "the judge reads" in box.note.value and "what is wrong" not in box.note.value
    box.controls["damaged_by"].value = "blur"
    box.controls["strength"].value = 2.0
    assert "blurred" in box.note.value
    drawn = box.picture.png
    box.controls["place"].value = "bottom right"
    assert box.picture.png != drawn


def test_what_was_typed_wrong_is_said_and_the_picture_stays():
    def draw(n):
        if n > 1:
            raise ValueError("too many")
        return plane.clouds({"p": torch.zeros(1, 2)})

    box = widgets.live(draw, n=widgets.w.IntSlider(1))
    before = box.picture.png
    box.controls["n"].value = 2
    assert "too many" in box.note.value and box.picture.png == before


def test_scene_figure_says_what_is_wrong():
    scene = Scene((Thing("heart", "red", "large", 0.5, 0.5),), "navy")
    assert "what is wrong" in ch01.scene_figure(scene, "noise", 0.2)[1]
    assert "what is wrong" not in ch01.scene_figure(scene)[1]


def test_path_walker_walks_further_with_more_steps():
    data = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    box = ch02.path_viewer(FiniteData(data), data)
    distance = lambda: float(box.note.value.split()[-1])
    box.controls["steps"].value = 1
    far = distance()
    box.controls["steps"].value = 50
    assert distance() < 0.05 < far


def test_ledger_dial_counts():
    assert (sum(ch04.bill(low=0.0, picture=False)), sum(ch04.bill())) == (100, 132)
    box = ch04.ledger_dial()
    before = box.picture.png
    box.controls["shift"].value = 1.0
    assert box.picture.png != before


class _Painter:
    """Draws a red circle, whatever is asked, and keeps what it was asked for."""

    students = {"dmdo": None}

    def __init__(self):
        self.asked = []

    def draw(self, prompt, steps=50, text_scale=4.0, seed=0, student="teacher", warn=True):
        self.asked.append((prompt, steps, seed, student))
        from hb.infer.pipeline import Pictures
        from hb.world.render import render

        pixels = render([Scene((Thing("circle", "red", "large", 0.5, 0.5),))])
        return Pictures(pixels, (prompt,), steps * (1 + (text_scale > 1)), steps, {}, (seed,))


def test_compare_judges_what_is_drawn():
    box = ch00.compare(_Painter(), "a red circle", steps=4)
    assert "right." in box.note.value
    box.controls["prompt"].value = "a blue star"
    assert "right." not in box.note.value
    box.controls["prompt"].value = "a blue sircle"
    assert "did you mean" in box.note.value


def test_compare_draws_the_reference_of_a_prompt_and_seed_once():
    painter = _Painter()
    box = ch00.compare(painter, "a red circle", steps=4)
    for steps in (5, 6, 7):
        box.controls["steps"].value = steps
    box.controls["student"].value = "dmdo"
    assert [asked[1] for asked in painter.asked].count(50) == 1 and painter.asked[-1] == ("a red circle", 7, 0, "dmdo")
    box.controls["seed"].value = 3
    assert [asked[1] for asked in painter.asked].count(50) == 2


def test_a_widget_says_that_it_draws_and_its_picture_has_a_size_and_a_text():
    said = []

    def draw(n):
        said.append(box.note.value if n else None)
        return plane.clouds({"p": torch.zeros(1, 2)}, title="One point")

    box = widgets.live(draw, n=widgets.w.IntSlider(0))
    box.controls["n"].value = 1
    assert said == [None, "drawing …"] and box.note.value == ""
    width = round(draw(0).get_figwidth() * plots.DPI)
    assert f'width="{width}"' in box.picture.value and 'alt="One point; p"' in box.picture.value
    assert Image.open(io.BytesIO(box.picture.png)).width == pytest.approx(2 * width, abs=2)


def test_compare_figure_frames_right_and_wrong():
    right = ch00.compare_figure(_Painter(), "a red circle", steps=(2, 1), text_scales=(4.0,))
    wrong = ch00.compare_figure(_Painter(), "a blue star", steps=(2, 1), text_scales=(4.0,))
    frame = lambda figure: to_hex(figure.axes[0].spines["top"].get_edgecolor())
    assert (frame(right), frame(wrong)) == (plots.RIGHT, plots.WRONG)
