"""Notebook 02, rectified flow: velocity fields and trajectories in the plane."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets as w
import torch
from torch import Tensor

from hb import plots
from hb.course import plane
from hb.course.exercises import call, exercise, expect, seeded, shaped_like_points
from hb.course.widgets import live, slider
from hb.flow import interpolate, jump, shift_time, time_grid, x0_from


def field(
    velocity, times: Sequence[float], *, points: Tensor, limit: float = 2.6, size: float = 2.3, title: str | None = None
) -> plots.Chart:
    """Arrows of -v, the direction of sampling, at positions [N, 2]; a panel for each time. velocity(x, t)."""
    figure, axes = plots.new_chart(len(times) * size, size + (0.5 if title else 0.3), 1, len(times))
    for ax, t in zip(axes[0], times):
        v = -velocity(points, t)
        ax.quiver(*points.T, *v.T, color=plots.UNDERSTANDING, angles="xy", scale=30, width=0.006)
        plane.square(ax, limit)
        ax.set_title(f"t = {t:g}", fontsize=9, color=plots.INK, pad=4)
    plots.titled(figure, title)
    return figure


def paths_figure(
    teacher, data: Tensor, steps: Sequence[int] = (50, 6, 2, 1), shift: float = 1.0, seed: int = 0
) -> plots.Chart:
    """The same noise, in fewer and fewer steps."""
    panels = {f"{n} steps" if n > 1 else "1 step": plane.paths(teacher, n, shift=shift, seed=seed) for n in steps}
    bent = plane.most_bent(next(iter(panels.values())))
    return plane.trajectories(panels, data=data, marked=bent, title="The same noise, fewer steps")


def path_viewer(teacher, data: Tensor) -> w.VBox:
    """Turn steps, shift and seed; one path is drawn thick."""

    def draw(steps, shift, seed):
        paths = plane.paths(teacher, steps, shift=shift, seed=seed)
        near = torch.cdist(paths[-1], data).min(1).values
        chart = plane.trajectories({f"{steps} steps": paths}, data=data, marked=plane.most_bent(paths), size=3.4)
        return chart, f"mean distance from the nearest data point: {near.mean():.3f}"

    return live(
        draw,
        steps=slider(w.IntSlider, 6, 1, 50, 1, "steps"),
        shift=slider(w.FloatSlider, 1.0, 0.25, 6.0, 0.25, "shift"),
        seed=slider(w.IntSlider, 0, 0, 20, 1, "seed"),
    )


# ---- exercises -------------------------------------------------------------------------------------------------------


def _pair():
    x0, eps = torch.randn(4, 2, generator=seeded()), torch.randn(4, 2, generator=seeded(1))
    return x0, eps, torch.tensor([0.1, 0.4, 0.8, 1.0])


@exercise("2.1")
def _interpolate(answer):
    """mix(x0, eps, t), t of shape [B]."""
    x0, eps, t = _pair()
    expect(
        call(answer, x0, eps, t),
        interpolate(x0, eps, t),
        [
            (interpolate(eps, x0, t), "the other way round: t = 1 is noise here, t = 0 is data"),
            (interpolate(x0, eps, t.sqrt()), "no square roots: the path is a straight line"),
            ((1 - t[:, None]) * x0, "the noise is missing"),
        ],
        "x_t = (1 - t) x0 + t eps, with t of shape [B] made to fit [B, 2] by t[:, None]",
    )


@exercise("2.2")
def _x0_from(answer):
    """data_behind(x, v, t), t of shape [B]."""
    x0, eps, t = _pair()
    x, v = interpolate(x0, eps, t), eps - x0
    shaped_like_points(answer, (x, v), t)
    expect(
        call(answer, x, v, t),
        x0_from(x, v, t),
        [
            (x + t[:, None] * v, "v points from data to noise: to get back to the data, go against it"),
            (eps, "that is the noise: (1 - t) forward leads there; the data lie t backward"),
            (x - v, "a whole v is the whole way from noise to data; from x_t only the share t is left"),
            (x - (1 - t[:, None]) * v, "the way left to the data is t, not 1 - t"),
        ],
        "x_t = x0 + t v, so what is x0?",
    )


@exercise("2.3")
def _euler_step(answer):
    """step(x, v, t, s): from time t to the lower time s."""
    x0, eps, _ = _pair()
    t, s = torch.tensor(0.9), torch.tensor(0.4)
    x, v = interpolate(x0, eps, t), eps - x0
    expect(
        call(answer, x, v, t, s),
        jump(x, v, t, s),
        [
            (x + (t - s) * v, "s < t: time falls, so the step s - t is negative"),
            (x - v, "not the whole way: only s - t of it"),
            (x0, "that is t = 0; stop at s"),
        ],
        "x_s = x_t + (s - t) v",
    )


@exercise("2.4")
def _grid(answer):
    """grid(steps, shift)."""
    for steps, shift in ((6, 1.0), (6, 3.0), (1, 3.0), (25, 1.5)):
        right = time_grid(steps, shift)
        raw = torch.linspace(1, 0, steps + 1)
        expect(
            torch.as_tensor(call(answer, steps, shift)).float(),
            right,
            [
                (torch.linspace(1, 0, 7), "6 steps, or 7 boundaries, are written into it: use `steps`"),
                (shift_time(torch.linspace(1, 0, 7), shift), "6 steps are written into it: use `steps`"),
                (raw[:-1], "the last boundary, 0, is missing"),
                (torch.linspace(1, 0, steps), f"{steps} steps need {steps + 1} boundaries: yours makes {steps - 1}"),
                (shift_time(torch.linspace(1, 0, steps), shift), f"{steps} steps need {steps + 1} boundaries"),
                (right.flip(0), "the sampler starts at noise: from 1 down to 0"),
                (raw, "the shift is not applied: s t / (1 + (s - 1) t)"),
                (shift_time(raw, 1 / shift), "the shift goes the wrong way: more steps belong near t = 1"),
                (shift * raw, "divide by 1 + (s - 1) t, or times leave [0, 1]"),
            ],
            "linspace from 1 to 0 with steps + 1 numbers, then s t / (1 + (s - 1) t)",
        )
