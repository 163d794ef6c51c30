"""Chapters 07 to 09: the scale as an input, segments of a path, real score against fake score."""

import pytest
import torch

from hb.course import plane
from hb.course.chapters import ch07, ch08, ch09
from hb.exact import FiniteData, GaussianMixture
from hb.flow import euler, time_grid
from hb.plots import DPI
from hb.train.distill.segments import Segments

BLOBS = GaussianMixture(torch.tensor([[1.5, 0.0], [-1.5, 1.0]]), torch.tensor([0.2, 0.2]))


# ---- 07 and 08 -------------------------------------------------------------------------------------------------------


def test_cells_of_all_panels_share_one_scale_and_zero_is_palest():
    axes = ch07.cells({"a": [[0.0, 0.1]], "b": [[0.4, 0.0]]}, ["1"], ["x", "y"]).axes
    shades = [ax.images[0].get_array() for ax in axes]
    assert shades[0].max() == pytest.approx(0.5) and shades[1].max() == 1  # by the root of the share of the largest
    assert shades[0].min() == shades[1].min() == 0
    assert [t.get_text() for t in axes[1].texts] == ["40.0%", "0.0%"]


def test_cells_of_two_figures_can_share_a_scale():
    shade = lambda **how: ch07.cells({"a": [[0.1]]}, ["1"], ["x"], **how).axes[0].images[0].get_array().max()
    assert (shade(), shade(largest=0.4), shade(largest=0.05)) == (1, pytest.approx(0.5), 1)


def test_cells_without_any_error_are_drawn():
    assert ch07.cells({"a": [[0.0]]}, ["1"], ["x"]).axes[0].images[0].get_array().max() == 0


def test_hops_start_where_they_are_told_and_stop_at_every_lower_edge():
    grid = time_grid(48, 3.0)
    path = torch.stack([grid, 1 - grid], 1)
    for start, lands in ((0, [0, 16, 32, 48]), (16, [16, 32, 48]), (17, [17, 32, 48]), (47, [47, 48])):
        way = ch08.jumps_of(BLOBS, path, Segments(3), start)
        assert torch.equal(way.times, grid[lands]) and torch.equal(way.marks, path[lands])


def test_hops_along_the_arrow_of_a_straight_path_stay_on_it():
    """One point of data: every path is straight, so the teacher's own jumps are consistent."""
    teacher = FiniteData(torch.tensor([[1.0, -0.5]]))
    paths = plane.paths(teacher, 48, shift=3.0, count=3)
    for chosen in range(3):
        way = ch08.jumps_of(teacher, paths[:, chosen], Segments(3), 5)
        assert torch.allclose(way.by_teacher, way.marks, atol=1e-4)


def test_segment_viewer_turns_and_more_segments_miss_by_less():
    box = ch08.segment_viewer(BLOBS, BLOBS.means)
    missed = lambda: float(box.note.value.split()[-3])
    before, three = box.picture.png, missed()
    box.controls["count"].value = 1
    assert box.picture.png != before and missed() > three
    box.controls["count"].value = 48
    assert missed() < three


def test_guidance_knob_counts_two_passes_for_the_teacher_and_one_for_the_student():
    axes = ch07.guidance_scale_figure(lambda x, t, a: x, lambda x, t, a: x, BLOBS.means, steps=20).axes
    assert [ax.get_title() for ax in axes] == ["teacher: 40 evaluations", "student: 20 evaluations"]


# ---- 09: real score against fake score -------------------------------------------------------------------------------


def _walked(count=1500):
    """A student whose distribution is right: noises, and where the exact flow takes them."""
    z = torch.randn(count, 2, generator=torch.Generator().manual_seed(0))
    *_, (_, x0) = euler(BLOBS.velocity, z, time_grid(60))
    return x0, z


def _guessed(way, spread=1.0, time=0.6):
    x0, z = _walked()
    generator = torch.Generator().manual_seed(1)
    y, real, fake = ch09.two_guesses(BLOBS, spread * x0, z, torch.full((len(z),), time), way, generator)
    return spread * x0, real, fake


@pytest.mark.parametrize("way", ["fresh", "fake fresh, student coupled"])
def test_guesses_agree_where_the_laws_are_equal(way):
    x0, real, fake = _guessed(way)
    assert (real - fake).abs().mean() < 0.15 * (real - x0).abs().mean()


def test_a_fake_score_that_knows_the_lines_names_the_sample_and_sends_it_inwards():
    x0, real, fake = _guessed("coupled")
    assert torch.equal(fake, x0)
    assert ((real - fake) * x0).sum(1).mean() < -0.1


@pytest.mark.parametrize("way", ch09.WAYS)
def test_a_narrow_student_is_sent_outwards(way):
    x0, real, fake = _guessed(way, spread=0.3)
    assert ((real - fake) * x0).sum(1).mean() > 0.05


def test_two_scores_turns():
    box = ch09.two_scores(BLOBS, count=100)
    for control, value in (("t", 0.8), ("spread", 0.6), ("updates", 40), ("way", "fresh")):
        before = box.picture.png
        box.controls[control].value = value
        assert box.picture.png != before


def _spread_after(way, moves):
    x0, z = _walked(400)
    return float(ch09.contracting(BLOBS, x0, z, way, moves)[-1].std() / x0.std())


def test_a_right_student_contracts_under_a_fake_score_that_knows_the_lines_and_no_other_does():
    assert _spread_after("coupled", 60) < 0.8
    assert _spread_after("fresh", 60) == pytest.approx(1, abs=0.1)
    assert _spread_after("fake fresh, student coupled", 60) == pytest.approx(1, abs=0.1)


def test_the_collapse_is_seen_while_moves_are_turned_and_is_computed_once(monkeypatch):
    asked, real = [], ch09.contracting
    monkeypatch.setattr(ch09, "contracting", lambda *a, **k: asked.append(1) or real(*a, **k))
    box = ch09.two_scores(BLOBS, count=200)
    spreads = []
    for moves in (0, 20, 60):
        box.controls["updates"].value = moves
        spreads.append(float(box.note.value.split()[-1]))
    assert spreads[0] == 1 and spreads[0] > spreads[1] > spreads[2] and len(asked) == 1


def test_the_figure_of_two_scores_is_the_widgets_after_as_many_moves():
    box = ch09.two_scores(BLOBS, count=100)
    box.controls["updates"].value = 20
    figure = ch09.two_scores_figure(BLOBS, spread=1.0, way="coupled", updates=20, count=100)
    assert box.picture.png == figure.png(2 * DPI)


def test_two_scores_names_the_ways_it_knows():
    with pytest.raises(ValueError, match="coupled"):
        ch09.two_scores_figure(BLOBS, way="sideways")
