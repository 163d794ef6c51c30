"""Figures show what they are given, in the colors that mean something, without pyplot."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from hb import plots
from hb.course import plane
from hb.course.chapters import ch01, ch02, ch03, ch04, ch05, ch07, ch08
from hb.exact import GaussianMixture
from hb.world.judge.damage import Row


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
    "attention": lambda: ch03.attention_figure("editing"),
    "ledger": lambda: ch04.ledger({"draw": [2] * 50, "edit": [3] * 41 + [1] * 9}, title="t"),
    "ladder": lambda: plots.ladder(_ladder(), title="t"),
    "complexity": lambda: plots.complexity({"teacher": _complex(0.5), "student": _complex(0.4)}, title="t"),
    "curve": lambda: plots.learning_curve({"a": [3, 2, 1]}, smooth=0.5, log=True, levels={"floor": 1.0}),
    "response": lambda: plots.response([1, 2], {"x": [0.1, 0.2]}, xlabel="scale", marks={"here": 1.5}, doubling=True),
    "trajectories": lambda: plane.trajectories({"p": torch.randn(4, 6, 2)}, data=torch.randn(3, 2), marked=0),
    "clouds": lambda: plane.clouds({"p": torch.randn(6, 2)}),
    "field": lambda: ch02.field(lambda x, t: x * t, [0.5, 1.0], points=torch.randn(9, 2)),
    "arrows": lambda: plane.arrows({"p": (torch.zeros(4, 2), torch.randn(4, 2), plots.INK)}, data=torch.randn(9, 2)),
    "confusion": lambda: ch01.confusion([Row("blur", 0.5, True, 0.9, 0.0, 9), Row("blur", 2.0, False, 0.1, 0.05, 9)]),
    "acceptance": lambda: ch05.acceptance([0.9, 0.8, 0.85], 0.86, title="t"),
    "distributions": lambda: ch01.distributions(
        {"color": ({"red": 0.5, "blue": 0.5}, {"red": 0.4}), "size": ({"small": 1.0}, None)}
    ),
    "cells": lambda: ch07.cells({"a": [[0.1, 0.2]], "b": [[0.0, 0.4]]}, ["1"], ["0.9", "0.1"], xlabel="time"),
    "segments": lambda: ch08.segment_figure(BLOBS, BLOBS.means, count=2),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_a_small_png(name):
    png, about = FIGURES[name]()._repr_png_()
    assert png.startswith(b"\x89PNG") and len(png) < 60_000 and about["alt"]


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


def test_a_sign_says_what_a_color_says():
    sheet = plots.sheet(_pictures(3), None, [True, False, None], title="t")
    assert [[t.get_text() for t in ax.texts] for ax in sheet.axes] == [["✓"], ["✗"], []]
    strip = plots.strip({"a": _pictures(2), "b": _pictures(2)}, ["50", "6"], right={"a": [True, False]})
    assert [[t.get_text() for t in ax.texts] for ax in strip.axes] == [["✓"], ["✗"], [], []]
    assert "✓" in sheet.alt and "✗" in sheet.alt


def test_a_figure_says_what_it_shows_to_readers_who_do_not_see_it():
    alt = plots.strip({"teacher": _pictures(1)}, ["6 steps"], title="The same noise").alt
    assert alt == "The same noise; 6 steps; teacher"


def test_figures_are_the_same_each_time():
    assert FIGURES["strip"]().png() == FIGURES["strip"]().png()


def test_no_pyplot_is_imported():
    code = "import sys, hb.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 0


def test_frames_tell_the_verdict():
    axes = plots.sheet(_pictures(3), None, [True, False, None]).axes
    assert [to_hex(ax.spines["top"].get_edgecolor()) for ax in axes] == [plots.RIGHT, plots.WRONG, plots.PALE]


def test_most_bent_path_is_found():
    line = torch.linspace(0, 1, 5)
    straight = torch.stack([line, line], 1)
    bent = torch.stack([line, (line * torch.pi).sin() * 3], 1)
    assert plane.most_bent(torch.stack([straight, bent, straight], 1)) == 1


def test_a_running_mean_of_a_constant_is_that_constant():
    assert np.allclose(plots._running([2.0] * 9, 0.9), 2.0)


def test_arrows_begin_at_their_dots_and_have_their_true_length():
    start, end = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 3.0]])
    ax = plane.arrows({"p": (start, end, plots.INK)}).axes[0]
    quiver = next(c for c in ax.collections if hasattr(c, "U"))
    assert (quiver.X[0], quiver.Y[0], quiver.U[0], quiver.V[0]) == (0.0, 1.0, 1.0, 2.0)
    assert (quiver.scale, quiver.scale_units, quiver.angles) == (1, "xy", "xy")


def test_a_long_caption_stays_inside_the_sheet():
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    said = ["a red circle", "a large red circle left of a green star on a navy background"]
    figure = plots.sheet(torch.rand(5, 3, 8, 8), said[:1] * 4 + said[1:], columns=5, size=1.6, title="A title")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    assert min(ax.xaxis.label.get_window_extent(canvas.get_renderer()).y0 for ax in figure.axes) >= 0
