"""Notebook 07, CFG distillation: the scale as an input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from types import SimpleNamespace

import ipywidgets as w
import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from torch import Tensor

from hb import plots
from hb.course import plane
from hb.course.chain import CHAIN_PROMPTS, CHAIN_SEED
from hb.course.exercises import call, exercise, expect, expect_number, seeded
from hb.course.widgets import as_seen, live
from hb.guidance import combine_each
from hb.infer.pipeline import Model, Pictures
from hb.world.judge.judge import check
from hb.world.judge.reading import read
from hb.world.language import parse

HEAT = LinearSegmentedColormap.from_list("heat", ["#fbfcfd", "#f3c98f", "#c9622a"])


def cells(
    panels: Mapping[str, Sequence[Sequence[float]] | Tensor],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    xlabel: str | None = None,
    ylabel: str | None = None,
    form: str = "{:.1%}",
    largest: float | None = None,
    title: str | None = None,
) -> plots.Chart:
    """Tables of numbers, the darker the larger, by one scale for all panels: panels[name][row][column].

    largest: what is darkest, where two figures shall be compared; otherwise the largest number.
    """
    tables = {name: np.asarray(values, dtype=float) for name, values in panels.items()}
    largest = max(table.max() for table in tables.values()) if largest is None else largest
    width, height = len(tables) * (0.62 * len(columns) + 0.35) + 0.75, 0.34 * len(rows) + 0.8 + (0.3 if title else 0)
    figure, axes = plots.new_chart(width, height, 1, len(tables), sharey=True)
    for ax, (name, table) in zip(axes[0], tables.items()):
        shade = np.sqrt((table / largest).clip(0, 1)) if largest > 0 else table  # a root: small errors show too
        ax.imshow(shade, cmap=HEAT, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        for (y, x), value in np.ndenumerate(table):
            color = "white" if shade[y, x] > 0.75 else plots.INK
            ax.text(x, y, form.format(value), ha="center", va="center", fontsize=8, color=color)
        ax.set_xticks(range(len(columns)), list(columns))
        ax.set_yticks(range(len(rows)), list(rows))
        ax.tick_params(colors=plots.FAINT, labelsize=8, length=0)
        for spine in ax.spines.values():
            spine.set_visible(False)
        ax.set_title(name, fontsize=9, color=plots.INK, pad=4)
        plots.labels(ax, xlabel, ylabel if ax is axes[0, 0] else None)
    plots.titled(figure, title)
    return figure


Guided = Callable[[Tensor, Tensor, float], Tensor]  # velocity(x, t, scale)


@torch.no_grad()
def scale_paths(distributions: Sequence[Guided], scale: float, steps: int, seed: int = 0) -> list[Tensor]:
    """Paths [steps + 1, 120, 2] of guided velocities at this scale, all from the same noise."""
    at = lambda distribution: SimpleNamespace(velocity=lambda x, t: distribution(x, t, scale))
    return [plane.paths(at(distribution), steps, shift=3.0, count=120, seed=seed) for distribution in distributions]


def guidance_scale_figure(
    teacher: Guided, student: Guided, data: Tensor, *, scale: float = 4.0, steps: int = 50, seed: int = 0
) -> plots.Chart:
    """In the plane: the guided teacher beside a student that is told the scale, from the same noise."""
    theirs, ours = scale_paths((teacher, student), scale, steps, seed)
    panels = {f"teacher: {2 * steps} evaluations": theirs, f"student: {steps} evaluations": ours}
    title = f"The same noise, text scale {scale:g}"
    return plane.trajectories(panels, data=data, size=2.9, limit=3.2, marked=plane.most_bent(theirs), title=title)


@dataclass(frozen=True)
class ScaleGrid:
    """The same prompts from the same noise at several text scales: by the guided teacher in two passes a step, and by a
    student that is told the scale, in one. scale -> pictures."""

    student: str
    teachers: dict[float, Pictures]
    students: dict[float, Pictures]

    @property
    def prompts(self) -> tuple[str, ...]:
        return next(iter(self.teachers.values())).prompts

    def row(self, name: str, drawn: Sequence[Pictures], which: int | None = None) -> tuple[str, Tensor, list[bool]]:
        """A row of a strip: its name with the metered cost, all pictures or number `which` of each, and the
        verdicts."""
        costs = " or ".join(f"{n:g}" for n in sorted({d.nfe for d in drawn}))
        chosen = slice(None) if which is None else slice(which, which + 1)
        seen, prompts = torch.cat([as_seen(d)[chosen] for d in drawn]), [p for d in drawn for p in d.prompts[chosen]]
        return f"{name}, {costs} NFE", seen, [check(r, parse(p)).right for r, p in zip(read(seen), prompts)]

    def strip(
        self, scales: Sequence[float], columns: Sequence[str], title: str, which: int | None = None
    ) -> plots.Chart:
        """Teacher above, student below."""
        made = {"teacher": self.teachers, self.student: self.students}
        lines = [self.row(name, [of[a] for a in scales], which) for name, of in made.items()]
        return plots.strip(
            {name: seen for name, seen, _ in lines}, columns, right={n: r for n, _, r in lines}, title=title
        )

    def moved(self, scale: float) -> tuple[float, float]:
        """How far the teacher's and the student's pictures are from their own at the least scale: mean over pixels."""
        least = min(self.teachers)
        return tuple(float((of[scale].pixels - of[least].pixels).abs().mean()) for of in (self.teachers, self.students))


def scale_grid(
    model: Model,
    student: str = "cfg",
    *,
    prompts: Sequence[str] = CHAIN_PROMPTS[1:5],
    steps: int = 12,
    scales: Sequence[float] = (1.0, 2.0, 3.0, 4.0, 5.0),
    seed: int = CHAIN_SEED,
) -> ScaleGrid:
    """Draw them all, once: a slider then only looks them up."""
    how = dict(steps=steps, seed=seed, warn=False)
    at = lambda who: {a: model.draw(prompts, text_scale=a, student=who, **how) for a in scales}
    return ScaleGrid(student, at("teacher"), at(student))


def student_scale_figure(grid: ScaleGrid, which: int = -1) -> plots.Chart:
    """One prompt at every scale: the teacher above, the student below."""
    which %= len(grid.prompts)
    columns = [f"scale {a:g}" for a in grid.teachers]
    return grid.strip(list(grid.teachers), columns, f"{grid.prompts[which].capitalize()}, one noise", which)


def student_scale(grid: ScaleGrid) -> w.VBox:
    """Turn the text scale: every prompt, by teacher and student, and how far either has moved since the least scale."""

    def draw(scale):
        theirs, ours = grid.moved(scale)
        chart = grid.strip([scale], [fill(p, 14) for p in grid.prompts], f"Text scale {scale:g}, one noise a column")
        return (
            chart,
            f"pixels moved since scale {min(grid.teachers):g}: teacher {theirs:.3f}, {grid.student} {ours:.3f}",
        )

    options = [(f"{a:g}", a) for a in grid.teachers]
    return live(draw, scale=w.SelectionSlider(options=options, description="scale", continuous_update=False))


# ---- exercises -------------------------------------------------------------------------------------------------------


@exercise("7.1")
def _guided_target(answer):
    """guided_target(v, no_text, scale, t, low): [B, tokens, values], a scale and a time of its own for each picture."""
    v, no_text = torch.randn(4, 3, 5, generator=seeded()), torch.randn(4, 3, 5, generator=seeded(1))
    scale, t, low = torch.tensor([1.0, 2.5, 4.0, 5.0]), torch.tensor([0.9, 0.4, 0.7, 0.2]), 0.4
    wide = scale[:, None, None]
    g, inside = no_text + wide * (v - no_text), (t > low)[:, None, None]
    right = combine_each(v, no_text, None, text_scale=scale, image_scale=None, guided=t > low, renorm_min=1.0)
    expect(
        call(answer, v, no_text, scale, t, low),
        right,
        [
            (g, "outside the interval the deployed sampler does not guide: there the target is v"),
            (torch.where(inside, v, g), "the other way round: guided where t is above low"),
            (torch.where((t >= low)[:, None, None], g, v), "t = low is outside: low < t"),
            (torch.where(inside, v + wide * (v - no_text), v), "the scale is 1 + w: start from no_text, not from v"),
            (torch.where(inside, g, no_text), "outside the interval the prompt is still read: v, not no_text"),
            (torch.where(inside, g, torch.zeros(())), "outside the interval the target is v, not zero"),
        ],
        "no_text + scale * (v - no_text) where t > low, else v; scale and t as [:, None, None]",
    )


@exercise("7.2")
def _effective_scale(answer):
    """effective_scale(output, v, no_text): the scale at which no_text + a (v - no_text) comes closest to an output."""
    v, no_text = torch.randn(64, 2, generator=seeded()), torch.randn(64, 2, generator=seeded(1))
    push = v - no_text
    for a in (1.0, 3.0):
        said = no_text + a * push + 0.3 * torch.randn(64, 2, generator=seeded(2))
        dot = lambda x, y: (x * y).sum()
        right = dot(said - no_text, push) / dot(push, push)
        expect(
            call(answer, said, v, no_text),
            right,
            [
                (right - 1, "that is w; the scale is 1 + w: measure from no_text, or add 1"),
                (
                    (said - no_text).norm() / push.norm(),
                    "a length also counts what points elsewhere: use the dot product",
                ),
                (dot(said - no_text, push) / push.norm(), "divide by the square of the length of v - no_text"),
                (dot(said - no_text, push), "divide by the square of the length of v - no_text"),
                (-right, "the sign: v - no_text is where guidance pushes"),
                (dot(said, push) / dot(push, push), "subtract no_text from the output first"),
                (((said - no_text) / push).mean(), "a mean of ratios is ruled by its smallest divisors; sum first"),
                (((said - no_text) * push).sum(1) / (push * push).sum(1), "one number for all of them together"),
            ],
            "dot(output - no_text, push) / dot(push, push) with push = v - no_text, over all points",
            atol=1e-4,
        )


@exercise("7.3")
def _untold(answer):
    """The effective scale without the scale as an input: half of the pictures at 4, the others uniform in [1, 5]."""
    expect_number(
        answer,
        3.5,
        {
            3.0: "that is the mean of the uniform half; the other half is always at 4",
            4.0: "only half of the pictures are at 4",
            1.0: "not told is not unguided: what it is shown is guided",
            3.75: "average the two halves with equal weight: the uniform one has mean 3",
            2.5: "the mean of [1, 5] is not 2.5, and half of the pictures are at 4",
        },
        "guidance is linear in the scale, so a mean of guided velocities is guided by the mean scale",
    )
