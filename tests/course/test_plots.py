"""Figures show what they are given, in the colors that mean something, without pyplot; widgets turn."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from hb import plots
from hb.course import widgets
from hb.exact import FiniteData, GaussianMixture
from hb.flow import time_grid
from hb.infer.fused import decode_fast
from hb.infer.speculative.runner import Plan
from hb.train.distill.segments import Segments
from hb.world.judge.damage import Row
from hb.world.scene import Scene, Thing


def _pictures(n):
    return torch.rand(n, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def _ladder():
    row = lambda guided, nfe, v: dict(guided=guided, nfe=nfe, overall=dict(value=v, low=v - 0.1, high=v + 0.1))
    return [row(True, 100, 0.9), row(True, 12, 0.5), row(False, 50, 0.8), row(False, 1, 0.2)]


def _complex(v):
    right = dict(value=v, low=v - 0.1, high=v + 0.1)
    return dict(
        cells={f"{n} {said}": dict(right=right) for n in range(1, 5) for said in ("half", "full")},
        kinds=dict(swapped=3, color=5),
    )


BLOBS = GaussianMixture(torch.tensor([[1.5, 0.0], [-1.5, 1.0]]), torch.tensor([0.2, 0.2]))
FIGURES = {
    "sheet": lambda: plots.sheet(_pictures(5), ["a red circle"] * 5, [True, False, None, True, False], columns=3),
    "strip": lambda: plots.strip({"a": _pictures(3), "b": _pictures(3)}, ["50", "6", "1"], title="t"),
    "attention": lambda: widgets.attention_figure("editing"),
    "ledger": lambda: plots.ledger({"draw": [2] * 50, "edit": [3] * 41 + [1] * 9}, title="t"),
    "ladder": lambda: plots.ladder(_ladder(), title="t"),
    "complexity": lambda: plots.complexity({"teacher": _complex(0.5), "student": _complex(0.4)}, title="t"),
    "curve": lambda: plots.learning_curve({"a": [3, 2, 1]}, smooth=0.5, log=True, levels={"floor": 1.0}),
    "response": lambda: plots.response([1, 2], {"x": [0.1, 0.2]}, xlabel="scale", marks={"here": 1.5}, doubling=True),
    "trajectories": lambda: plots.trajectories({"p": torch.randn(4, 6, 2)}, data=torch.randn(3, 2), marked=0),
    "clouds": lambda: plots.clouds({"p": torch.randn(6, 2)}),
    "field": lambda: plots.field(lambda x, t: x * t, [0.5, 1.0], points=torch.randn(9, 2)),
    "arrows": lambda: plots.arrows({"p": (torch.zeros(4, 2), torch.randn(4, 2), plots.INK)}, data=torch.randn(9, 2)),
    "confusion": lambda: plots.confusion([Row("blur", 0.5, True, 0.9, 0.0, 9), Row("blur", 2.0, False, 0.1, 0.05, 9)]),
    "acceptance": lambda: plots.acceptance([0.9, 0.8, 0.85], 0.86, title="t"),
    "distributions": lambda: plots.distributions(
        {"color": ({"red": 0.5, "blue": 0.5}, {"red": 0.4}), "size": ({"small": 1.0}, None)}
    ),
    "cells": lambda: plots.cells({"a": [[0.1, 0.2]], "b": [[0.0, 0.4]]}, ["1"], ["0.9", "0.1"], xlabel="time"),
    "segments": lambda: widgets.segment_figure(BLOBS, BLOBS.means, count=2),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_a_small_png(name):
    png = FIGURES[name]()._repr_png_()
    assert png.startswith(b"\x89PNG") and len(png) < 60_000


def test_students_stand_beside_the_teachers_lines_and_not_on_them():
    of = lambda name, row: row | dict(student=name)
    students = [
        of("cfg", _ladder()[0] | dict(nfe=50)),
        of("cfg", _ladder()[0] | dict(nfe=6)),
        of("dmdo", _ladder()[1] | dict(nfe=6)),
    ]
    (ax,) = plots.ladder(_ladder() + students).axes
    lines = {line.get_label(): [*line.get_xdata()] for line in ax.lines if not line.get_label().startswith("_")}
    assert lines == {"guided": [12, 100], "unguided": [1, 50]}
    marks = {bars.get_label(): [*bars.lines[0].get_xdata()] for bars in ax.containers}
    assert marks["student cfg"] == [50, 6] and 6 < marks["student dmdo"][0] < 7


def test_figures_are_the_same_each_time():
    assert FIGURES["strip"]().png() == FIGURES["strip"]().png()


def test_no_pyplot_is_imported():
    code = "import sys, hb.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 0


def test_frames_tell_the_verdict():
    axes = plots.sheet(_pictures(3), None, [True, False, None]).axes
    assert [to_hex(ax.spines["top"].get_edgecolor()) for ax in axes] == [plots.RIGHT, plots.WRONG, plots.PALE]


def test_ledger_prints_totals_and_ratios():
    said = [t.get_text() for t in FIGURES["ledger"]().axes[0].texts]
    assert "100   16.67x for 6, 100x for 1" in said and "132   22x for 6, 132x for 1" in said
    assert said.count("41") == 2  # without the text, without the picture


def test_attention_colours_a_key_by_its_expert_and_hides_what_may_not_be_seen():
    picture = widgets.attention_figure("drawing").axes[0].images[0].get_array()
    text, noised = slice(0, 6), slice(6, 14)
    assert np.all(picture[text, noised] == 0)  # a prompt does not look at the picture
    assert np.all(picture[noised, text] == 1) and np.all(picture[noised, noised] == 2)
    assert picture[0, 1] == 0 and picture[1, 0] == 1  # text is causal


def test_most_bent_path_is_found():
    line = torch.linspace(0, 1, 5)
    straight = torch.stack([line, line], 1)
    bent = torch.stack([line, (line * torch.pi).sin() * 3], 1)
    assert plots.most_bent(torch.stack([straight, bent, straight], 1)) == 1


def test_a_running_mean_of_a_constant_is_that_constant():
    assert np.allclose(plots._running([2.0] * 9, 0.9), 2.0)


# ---- widgets: setting a value is turning a knob ---------------------------------------------------------------------


def test_attention_viewer_turns():
    box = widgets.attention_viewer()
    before = box.picture.value
    box.controls["plan"].value = "asking"
    assert bytes(box.picture.value).startswith(b"\x89PNG") and box.picture.value != before


def test_attention_figure_names_the_plans_it_knows():
    with pytest.raises(ValueError, match="editing"):
        widgets.attention_figure("dreaming")


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
    assert widgets.rope_positions(kinds, lengths) == positions(splits)[0].tolist()


def test_scene_maker_draws_reads_and_refuses_politely():
    box = widgets.scene_maker()
    assert "the judge reads" in box.note.value and "what is wrong" not in box.note.value
    box.controls["damaged_by"].value = "blur"
    box.controls["strength"].value = 2.0
    assert "blurred" in box.note.value
    drawn = box.picture.value
    box.controls["place"].value = "bottom right"
    assert box.picture.value != drawn


def test_what_was_typed_wrong_is_said_and_the_picture_stays():
    def draw(n):
        if n > 1:
            raise ValueError("too many")
        return plots.clouds({"p": torch.zeros(1, 2)})

    box = widgets.live(draw, n=widgets.w.IntSlider(1))
    before = box.picture.value
    box.controls["n"].value = 2
    assert "too many" in box.note.value and box.picture.value == before


def test_scene_figure_says_what_is_wrong():
    scene = Scene((Thing("heart", "red", "large", 0.5, 0.5),), "navy")
    assert "what is wrong" in widgets.scene_figure(scene, "noise", 0.2)[1]
    assert "what is wrong" not in widgets.scene_figure(scene)[1]


def test_path_walker_walks_further_with_more_steps():
    data = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    box = widgets.path_walker(FiniteData(data), data)
    distance = lambda: float(box.note.value.split()[-1])
    box.controls["steps"].value = 1
    far = distance()
    box.controls["steps"].value = 50
    assert distance() < 0.05 < far


def test_ledger_dial_counts():
    assert (sum(widgets.bill(low=0.0, picture=False)), sum(widgets.bill())) == (100, 132)
    box = widgets.ledger_dial()
    before = box.picture.value
    box.controls["shift"].value = 1.0
    assert box.picture.value != before


class _Painter:
    """Draws a red circle, whatever is asked, and counts what it would have cost."""

    def draw(self, prompt, steps=50, text_scale=4.0, seed=0):
        from hb.infer.pipeline import Pictures
        from hb.world.render import render

        pixels = render([Scene((Thing("circle", "red", "large", 0.5, 0.5),))])
        return Pictures(pixels, (prompt,), steps * (1 + (text_scale > 1)), steps, {}, (seed,))


def test_compare_judges_what_is_drawn():
    box = widgets.compare(_Painter(), "a red circle", steps=4)
    assert "right." in box.note.value
    box.controls["prompt"].value = "a blue star"
    assert "right." not in box.note.value
    box.controls["prompt"].value = "a blue sircle"
    assert "did you mean" in box.note.value


def test_compare_figure_frames_right_and_wrong():
    right = widgets.compare_figure(_Painter(), "a red circle", steps=(2, 1), text_scales=(4.0,))
    wrong = widgets.compare_figure(_Painter(), "a blue star", steps=(2, 1), text_scales=(4.0,))
    frame = lambda figure: to_hex(figure.axes[0].spines["top"].get_edgecolor())
    assert (frame(right), frame(wrong)) == (plots.RIGHT, plots.WRONG)


# ---- trees of guesses -----------------------------------------------------------------------------------------------

TREE = dict(words=["a", "red", "blue", "disc", "star"], parents=[0, 0, 0, 1, 2], values=[1.0, 0.6, 0.3, 0.5, 0.2])


def _tree(**how):
    return plots.draft_tree(**TREE, **how)


def test_a_drawn_tree_shows_what_stayed_and_what_the_target_added():
    texts = {t.get_text(): t for t in _tree(path=[0, 2, 4], added="at").axes[0].texts}
    assert {word for word, t in texts.items() if t.get_fontweight() == "bold"} == {"a", "blue", "star"}
    assert {word: t.get_position()[0] for word, t in texts.items()} == dict(a=0, red=1, blue=1, disc=2, star=2, at=3)


def test_a_drawn_token_is_the_bluer_the_surer():
    """Sure of this token, not of its path: 0.5 behind 0.6 is surer than 0.3."""
    face = {t.get_text(): t.get_bbox_patch().get_facecolor()[:3] for t in _tree().axes[0].texts}
    assert face["disc"] == pytest.approx(plots.SURE(0.5 / 0.6)[:3]) and sum(face["disc"]) < sum(face["blue"])


def test_a_drawn_mask_is_the_trees():
    from hb.infer.speculative.tree import Tree

    tokens = torch.zeros(1, 5, dtype=torch.long)
    tree = Tree(tokens, torch.tensor([TREE["parents"]]), tokens, torch.zeros(1, 5))
    picture = _tree(path=[0, 2, 4]).axes[1].images[0].get_array()
    assert np.array_equal(picture > 0, tree.ancestors()[0].numpy())
    assert np.argwhere(picture == 2).tolist() == [[0, 0], [2, 0], [2, 2], [4, 0], [4, 2], [4, 4]]


@pytest.mark.parametrize("figure", [_tree, lambda: plots.plans({"ours": {"plain": (1.0, 1.0), "tree": (1.5, 3.0)}})])
def test_figures_of_drafting_are_small_pngs(figure):
    assert figure().png().startswith(b"\x89PNG") and len(figure().png()) < 60_000


@pytest.fixture(scope="module")
def drafted(tiny):
    """A tiny model with a draft that nobody has trained, and a context."""
    from dataclasses import asdict

    from hb.infer.artifacts import DraftCheckpoint, fingerprint
    from hb.infer.pipeline import Model
    from hb.infer.speculative.draft import DraftConfig
    from tests.infer.speculative.test_draft import read, shaken

    config = DraftConfig(layers=1)
    drafter = DraftCheckpoint(asdict(config), {}, fingerprint(tiny.bagel), shaken(tiny, config).state_dict())
    return Model(tiny.bagel, tiny.text, drafter=drafter), read(tiny, ["describe the picture"])


@pytest.mark.parametrize("how", [{}, dict(noise=2.0), dict(temperature=1.0)], ids=str)
@pytest.mark.parametrize("plan", [Plan(depth=3, width=3, budget=8), Plan(depth=3, budget=3)], ids=["tree", "chain"])
def test_watched_cycles_add_up_to_the_answer(drafted, plan, how):
    model, context = drafted
    cycles = widgets.tree_cycles(model, context, plan, max_tokens=24, **how)
    said = []
    for cycle in cycles:
        tokens = cycle.tree.tokens[0, cycle.path].tolist()
        assert not said or [*cycle.before, tokens[0]] == said
        said += [*tokens[1:], cycle.added]
    if not how.get("temperature"):
        assert said[:24] == decode_fast(model.fast_text(), context.context, max_tokens=24)[0][0][:24]


@pytest.mark.parametrize(
    "plan",
    [Plan(depth=3, width=3, budget=8, start_after=0), Plan(depth=3, budget=3, start_after=0)],
    ids=["tree", "chain"],
)
def test_noise_makes_a_draft_guess_otherwise(drafted, plan):
    quiet, noisy = (
        widgets.tree_cycles(*drafted, plan, max_tokens=4, noise=n)[0].tree.tokens.tolist() for n in (0.0, 9.0)
    )
    assert quiet != noisy


def test_draft_theatre_turns_and_decodes_only_when_it_must(drafted, monkeypatch):
    model, context = drafted
    asked, real = [], widgets.tree_cycles
    monkeypatch.setattr(widgets, "tree_cycles", lambda *a, **k: asked.append(1) or real(*a, max_tokens=12, **k))
    box = widgets.draft_theatre(model, context)
    before = box.picture.value
    box.controls["cycle"].value = 2
    assert box.picture.value != before and len(asked) == 1
    box.controls["budget"].value = 4
    assert "acceptance length" in box.note.value and len(asked) == 2


# ---- real score against fake score ----------------------------------------------------------------------------------


def _walked(count=1500):
    """A student whose distribution is right: noises, and where the exact flow takes them."""
    from hb.flow import euler, time_grid

    z = torch.randn(count, 2, generator=torch.Generator().manual_seed(0))
    *_, (_, x0) = euler(BLOBS.velocity, z, time_grid(60))
    return x0, z


def _guessed(way, spread=1.0, time=0.6):
    x0, z = _walked()
    generator = torch.Generator().manual_seed(1)
    y, real, fake = widgets.two_guesses(BLOBS, spread * x0, z, torch.full((len(z),), time), way, generator)
    return spread * x0, real, fake


@pytest.mark.parametrize("way", ["fresh", "fake fresh, student coupled"])
def test_guesses_agree_where_the_laws_are_equal(way):
    x0, real, fake = _guessed(way)
    assert (real - fake).abs().mean() < 0.15 * (real - x0).abs().mean()


def test_a_fake_score_that_knows_the_lines_names_the_sample_and_sends_it_inwards():
    x0, real, fake = _guessed("coupled")
    assert torch.equal(fake, x0)
    assert ((real - fake) * x0).sum(1).mean() < -0.1


@pytest.mark.parametrize("way", widgets.WAYS)
def test_a_narrow_student_is_sent_outwards(way):
    x0, real, fake = _guessed(way, spread=0.3)
    assert ((real - fake) * x0).sum(1).mean() > 0.05


def test_two_scores_turns():
    box = widgets.two_scores(BLOBS, count=100)
    for control, value in (("t", 0.8), ("spread", 0.6), ("moves", 40), ("way", "fresh")):
        before = box.picture.value
        box.controls[control].value = value
        assert box.picture.value != before


def _spread_after(way, moves):
    x0, z = _walked(400)
    return float(widgets.contracting(BLOBS, x0, z, way, moves)[-1].std() / x0.std())


def test_a_right_student_contracts_under_a_fake_score_that_knows_the_lines_and_no_other_does():
    assert _spread_after("coupled", 60) < 0.8
    assert _spread_after("fresh", 60) == pytest.approx(1, abs=0.1)
    assert _spread_after("fake fresh, student coupled", 60) == pytest.approx(1, abs=0.1)


def test_the_collapse_is_seen_while_moves_are_turned_and_is_computed_once(monkeypatch):
    asked, real = [], widgets.contracting
    monkeypatch.setattr(widgets, "contracting", lambda *a, **k: asked.append(1) or real(*a, **k))
    box = widgets.two_scores(BLOBS, count=200)
    spreads = []
    for moves in (0, 20, 60):
        box.controls["moves"].value = moves
        spreads.append(float(box.note.value.split()[-1]))
    assert spreads[0] == 1 and spreads[0] > spreads[1] > spreads[2] and len(asked) == 1


def test_the_figure_of_two_scores_is_the_widgets_after_as_many_moves():
    box = widgets.two_scores(BLOBS, count=100)
    box.controls["moves"].value = 20
    assert (
        bytes(box.picture.value)
        == widgets.two_scores_figure(BLOBS, spread=1.0, way="coupled", moves=20, count=100).png()
    )


def test_two_scores_names_the_ways_it_knows():
    with pytest.raises(ValueError, match="coupled"):
        widgets.two_scores_figure(BLOBS, way="sideways")


def test_arrows_begin_at_their_dots_and_have_their_true_length():
    start, end = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 3.0]])
    ax = plots.arrows({"p": (start, end, plots.INK)}).axes[0]
    quiver = next(c for c in ax.collections if hasattr(c, "U"))
    assert (quiver.X[0], quiver.Y[0], quiver.U[0], quiver.V[0]) == (0.0, 1.0, 1.0, 2.0)
    assert (quiver.scale, quiver.scale_units, quiver.angles) == (1, "xy", "xy")


# ---- distilling -----------------------------------------------------------------------------------------------------


def test_cells_of_all_panels_share_one_scale_and_zero_is_palest():
    axes = plots.cells({"a": [[0.0, 0.1]], "b": [[0.4, 0.0]]}, ["1"], ["x", "y"]).axes
    shades = [ax.images[0].get_array() for ax in axes]
    assert shades[0].max() == pytest.approx(0.5) and shades[1].max() == 1  # by the root of the share of the largest
    assert shades[0].min() == shades[1].min() == 0
    assert [t.get_text() for t in axes[1].texts] == ["40.0%", "0.0%"]


def test_cells_of_two_figures_can_share_a_scale():
    shade = lambda **how: plots.cells({"a": [[0.1]]}, ["1"], ["x"], **how).axes[0].images[0].get_array().max()
    assert (shade(), shade(largest=0.4), shade(largest=0.05)) == (1, pytest.approx(0.5), 1)


def test_cells_without_any_error_are_drawn():
    assert plots.cells({"a": [[0.0]]}, ["1"], ["x"]).axes[0].images[0].get_array().max() == 0


def test_hops_start_where_they_are_told_and_stop_at_every_lower_edge():
    grid = time_grid(48, 3.0)
    path = torch.stack([grid, 1 - grid], 1)
    for start, lands in ((0, [0, 16, 32, 48]), (16, [16, 32, 48]), (17, [17, 32, 48]), (47, [47, 48])):
        way = widgets.hops(BLOBS, path, Segments(3), start)
        assert torch.equal(way.times, grid[lands]) and torch.equal(way.marks, path[lands])


def test_hops_along_the_arrow_of_a_straight_path_stay_on_it():
    """One point of data: every path is straight, so the teacher's own jumps are consistent."""
    teacher = FiniteData(torch.tensor([[1.0, -0.5]]))
    paths = widgets.walk(teacher, 48, shift=3.0, count=3)
    for chosen in range(3):
        way = widgets.hops(teacher, paths[:, chosen], Segments(3), 5)
        assert torch.allclose(way.walked, way.marks, atol=1e-4)


def test_segment_viewer_turns_and_more_segments_miss_by_less():
    box = widgets.segment_viewer(BLOBS, BLOBS.means)
    missed = lambda: float(box.note.value.split()[-3])
    before, three = box.picture.value, missed()
    box.controls["count"].value = 1
    assert box.picture.value != before and missed() > three
    box.controls["count"].value = 48
    assert missed() < three


def test_guidance_knob_counts_two_passes_for_the_teacher_and_one_for_the_student():
    axes = widgets.guidance_knob_figure(lambda x, t, a: x, lambda x, t, a: x, BLOBS.means, steps=20).axes
    assert [ax.get_title() for ax in axes] == ["teacher: 40 evaluations", "student: 20 evaluations"]
