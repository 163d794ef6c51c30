"""Notebook 04, guidance: what a picture costs, branch by branch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ipywidgets as w
import torch
from matplotlib.patches import Rectangle

from hb import plots
from hb.course.exercises import call, exercise, expect, seeded
from hb.course.widgets import live, slider
from hb.flow import time_grid
from hb.guidance import Guidance, combine


def ledger(
    rows: Mapping[str, Sequence[int]], *, students: Sequence[int] = (6, 1), title: str | None = None
) -> plots.Chart:
    """Function evaluations: rows[name] lists the branches of every step (1, 2 or 3). A bar a row, cut into
    full, without text, without picture; behind it the total, and how many times a student's few go into it.
    """
    figure, axes = plots.new_chart(7.4, 0.52 * len(rows) + 1.1)
    ax = axes[0, 0]
    parts = (
        ("full context", plots.UNDERSTANDING),
        ("without the text", plots.GENERATION),
        ("without the picture", plots.SERIES[2]),
    )
    longest = max(sum(branches) for branches in rows.values())
    for y, branches in enumerate(rows.values()):
        left = 0
        for k, (_, color) in enumerate(parts):
            count = sum(b > k for b in branches)
            ax.barh(y, count, left=left, color=color, height=0.62)
            if count >= 0.05 * longest:
                ax.text(left + count / 2, y, str(count), ha="center", va="center", color="white", fontsize=8.5)
            left += count
        ratios = ", ".join(f"{left / s:.4g}x for {s}" for s in students if left not in students)
        said = f"{left}   {ratios}" if ratios else f"{left}"
        ax.text(left + 0.012 * longest, y, said, va="center", fontsize=8.5, color=plots.INK)
    ax.set_yticks(range(len(rows)), list(rows), fontsize=9, color=plots.INK)
    ax.invert_yaxis()
    ax.set_xlim(0, longest * 1.42)
    plots.plain(ax, "x")
    ax.tick_params(axis="y", colors=plots.INK, labelsize=9)
    plots.labels(ax, "function evaluations a picture (NFE)")
    for name, color in parts:
        ax.add_patch(Rectangle((0, 0), 0, 0, color=color, label=name))
    plots.legend(ax, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3)
    plots.titled(figure, title)
    return figure


def bill(
    steps: int = 50, shift: float = 3.0, low: float = 0.4, high: float = 1.0, text: bool = True, picture: bool = True
) -> list[int]:
    """Branches that each step pays for."""
    guidance = Guidance(4.0 if text else 1.0, 2.0 if picture else 1.0, (low, high))
    return [guidance.branches_at(float(t)) for t in time_grid(steps, shift)[:-1]]


def bill_figure(**settings) -> plots.Chart:
    """One bill beside the two that the paper starts from."""
    rows = {"paper: draw": bill(low=0.0, picture=False), "paper: edit": bill(), "yours": bill(**settings)}
    return ledger(rows, title="What a picture costs")


def ledger_dial() -> w.VBox:
    """Turn steps, shift and interval, switch the branches: the bill, step by step."""

    def draw(steps, shift, interval, text, picture):
        return bill_figure(steps=steps, shift=shift, low=interval[0], high=interval[1], text=text, picture=picture)

    return live(
        draw,
        steps=slider(w.IntSlider, 50, 1, 100, 1, "steps"),
        shift=slider(w.FloatSlider, 3.0, 0.5, 6.0, 0.1, "shift"),
        interval=w.FloatRangeSlider(
            value=(0.4, 1.0), min=0.0, max=1.0, step=0.05, description="interval", continuous_update=False
        ),
        text=w.Checkbox(value=True, description="text guidance"),
        picture=w.Checkbox(value=True, description="picture guidance"),
    )


# ---- exercises -------------------------------------------------------------------------------------------------------


@exercise("4.1")
def _combine(answer):
    """guided(v, no_text, scale), without renorm."""
    v, no_text = torch.randn(2, 4, 3, generator=seeded()), torch.randn(2, 4, 3, generator=seeded(1))
    right = combine(v, no_text, None, text_scale=4.0, image_scale=1.0, renorm_min=1.0)
    expect(
        call(answer, v, no_text, 4.0),
        right,
        [
            (v + 4 * (v - no_text), "that is Ho & Salimans' w: here the scale is 1 + w, so start from no_text"),
            (v + 4 * (no_text - v), "the sign: away from the velocity without the prompt"),
            (no_text + 4 * (no_text - v), "the sign: away from the velocity without the prompt"),
            (4 * v, "the branch without the text is missing"),
        ],
        "no_text + scale * (v - no_text): at scale 1 it must give v back",
    )


@exercise("4.2")
def _shrink(answer):
    """renormed(v, guided): one factor for each picture [B, tokens, values]."""
    v = torch.randn(3, 4, 5, generator=seeded())
    guided = torch.cat([3 * v[:1], 0.5 * v[1:2], torch.randn(1, 4, 5, generator=seeded(1)) * 2])
    norm = lambda x, dims: x.norm(dim=dims, keepdim=True)
    factor = norm(v, (1, 2)) / norm(guided, (1, 2))
    expect(
        call(answer, v, guided),
        guided * factor.clamp(max=1),
        [
            (guided * factor, "it may only shrink: a factor above 1 becomes 1"),
            (guided * (norm(v, (2,)) / norm(guided, (2,))).clamp(max=1), "one factor a picture, not one a token"),
            (guided * (v.norm() / guided.norm()).clamp(max=1), "each picture of the batch has a factor of its own"),
            (guided / factor, "upside down: |v| / |guided|"),
            (v, "keep the guided direction; only its length is v's"),
        ],
        "guided * min(1, |v| / |guided|), the norms over tokens and values",
        atol=1e-4,
    )


@exercise("4.3")
def _evaluations(answer):
    """evaluations(grid, low, high, extra_branches)."""
    grid = time_grid(50, 3.0)
    for low, high, extra in ((0.4, 1.0, 2), (0.0, 1.0, 1), (0.4, 1.0, 1)):
        inside = sum(low < float(t) <= high for t in grid[:-1])
        right = 50 + inside * extra
        expect(
            call(answer, grid, low, high, extra),
            right,
            [
                (right + 1, "the trajectory ends at the last boundary: nothing is evaluated there"),
                (right - extra, "t = high is inside: low < t <= high"),
                (inside * extra, "outside the interval a step still costs one evaluation"),
                (50 * (1 + extra), "only the steps inside the interval pay for the extra branches"),
                (
                    50 + sum(low < float(t) <= high for t in torch.linspace(1, 0, 51)[:-1]) * extra,
                    "the interval is compared with the shifted times, the ones in the grid",
                ),
            ],
            "each step (each t but the last) costs 1, and extra_branches more where low < t <= high",
        )


@exercise("4.4")
def _equal_scale(answer):
    """same_as(a, b): the single text scale that equals text scale a followed by picture scale b, when drawing."""
    for a, b in ((4.0, 2.0), (3.0, 1.5)):
        expect(
            call(answer, a, b),
            1 + b * (a - 1),
            [
                (a * b, "not quite: what is multiplied is the distance beyond v, which is a - 1 for scale a"),
                (a + b, "the second push works on what the first one left: write it out"),
                (a + b - 1, "the second push works on what the first one left: write it out"),
                (1 + a * (b - 1), "picture guidance pushes away from v: no_image is v when drawing"),
                (1 + (a - 1) * (b - 1), "m = v + b (g - v): b stays whole, since no_image is v itself"),
            ],
            "put no_image = v into m = no_image + b (g - no_image), g = no_text + a (v - no_text); gather v - no_text",
        )
