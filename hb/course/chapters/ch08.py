"""Notebook 08, segmented consistency: a path cut into segments."""

from __future__ import annotations

from dataclasses import dataclass

import ipywidgets as w
import torch
from torch import Tensor

from hb import plots
from hb.course import plane
from hb.course.exercises import Hint, call, exercise, expect, seeded, shaped_like_points
from hb.course.widgets import live, slider
from hb.flow import jump, time_grid
from hb.train.distill.segments import Segments

FINE, FINER = 48, 4  # teacher's steps, and steps of the exact path in each of them


@dataclass(frozen=True)
class Jumps:
    """Jumps down the segment boundaries: where consistent ones end, and those along the teacher's velocity."""

    times: Tensor  # [K]: the start, then every boundary below it
    marks: Tensor  # [K, 2], on the path
    by_teacher: Tensor  # [K, 2], by Euler from the first mark


def jumps_of(teacher, path: Tensor, segments: Segments, start: int) -> Jumps:
    """path [fine + 1, 2] on the segments' fine grid, from its point number `start`."""
    size = segments.fine // segments.count
    at = torch.tensor([start, *range((start // size + 1) * size, segments.fine + 1, size)])
    times = time_grid(segments.fine, segments.shift)[at]
    walked = [path[start]]
    for t, s in zip(times, times[1:]):
        x = walked[-1][None]
        walked.append(jump(x, teacher.velocity(x, t), t, s)[0])
    return Jumps(times, path[at], torch.stack(walked))


def segments_chart(
    path: Tensor,
    times: Tensor,
    jumps: Jumps,
    boundaries: Tensor,
    *,
    others: Tensor | None = None,
    data: Tensor | None = None,
    limit: float = 2.6,
    title: str | None = None,
) -> plots.Chart:
    """Jumps from one segment boundary to the next. Left the plane, right one coordinate against time.

    path [T, 2] at times [T]: the curve; others [T, N, 2]: more paths; boundaries: of all segments.
    """
    figure, axes = plots.new_chart(7.6, 3.6 + (0.25 if title else 0), 1, 2, gridspec_kw=dict(width_ratios=(1, 1.15)))
    left, right = axes[0]
    gone = ((times[0] - times) / (times[0] - times[-1]))[:, None]
    which = int((path - path[0] - gone * (path[-1] - path[0])).abs().amax(0).argmax())  # the coordinate that bends more
    if data is not None:
        left.scatter(*data.T, s=26, color=plots.RIGHT, alpha=0.28, linewidth=0, zorder=1)
    if others is not None:
        left.plot(others[..., 0], others[..., 1], color=plots.PALE, linewidth=0.7, zorder=0)
    teacher = dict(
        color=plots.UNDERSTANDING, linewidth=1.6, linestyle=(0, (3, 1.5)), marker="o", markersize=4, zorder=4
    )
    consistent = dict(color=plots.RIGHT, linewidth=1.8, marker="o", markersize=4.5, zorder=5)
    for at, points, how, label in (
        (times, path, dict(color=plots.INK, linewidth=1.7, zorder=3), "the trajectory, many steps"),
        (jumps.times, jumps.by_teacher, teacher, "the same jumps along the teacher's velocity"),
        (jumps.times, jumps.marks, consistent, "consistent jumps"),
    ):
        left.plot(points[:, 0], points[:, 1], label=label, **how)
        right.plot(at, points[:, which], label=label, **how)
    plane.square(left, limit)
    _segment_axis(right, [float(b) for b in boundaries], "horizontal" if which == 0 else "vertical")
    below = dict(loc="outside lower center", ncols=3, frameon=False, fontsize=8, labelcolor=plots.INK)
    figure.legend(*right.get_legend_handles_labels(), **below)
    plots.titled(figure, title)
    return figure


def _segment_axis(ax, boundaries: list[float], coordinate: str) -> None:
    """Time from noise to data, a band for each segment."""
    for i, (high, low) in enumerate(zip(boundaries, boundaries[1:])):
        ax.axvspan(low, high, color=plots.PALE if i % 2 else "#f5f6f7", linewidth=0, zorder=0)
    ax.set_xlim(1.02, -0.02)  # the direction of sampling: noise on the left
    plots.plain(ax, None)
    ax.set_yticks([])
    ticks = [b for i, b in enumerate(boundaries) if i == 0 or boundaries[i - 1] - b >= 0.08]
    ax.set_xticks(ticks, [f"{b:.2g}" for b in ticks])
    plots.labels(ax, "time, with the segment boundaries", f"{coordinate} coordinate")


def _segmented(teacher, data: Tensor, count: int, start: int, seed: int) -> tuple[plots.Chart, str]:
    paths = plane.paths(teacher, FINE * FINER, shift=3.0, count=60, seed=seed)
    chosen, segments = plane.most_arched(paths), Segments(count, FINE)
    way = jumps_of(teacher, paths[::FINER, chosen], segments, start)
    off, jumps = (way.marks[-1] - way.by_teacher[-1]).norm(), len(way.times) - 1
    title = f"{count} segment{'s' * (count > 1)}, from t = {way.times[0]:.2f}: {jumps} jump{'s' * (jumps > 1)}"
    chart = segments_chart(
        paths[:, chosen],
        time_grid(FINE * FINER, segments.shift),
        way,
        segments.edges,
        others=paths[:, :30],
        data=data,
        title=title,
    )
    return chart, f"consistent jumps end on the trajectory; along the teacher's velocity they end {off:.2f} from it"


def segment_figure(teacher, data: Tensor, *, count: int = 3, start: int = 0, seed: int = 0) -> plots.Chart:
    """The most arched of some paths, cut into `count` segments, from step `start` of 48: the jumps to be learnt."""
    return _segmented(teacher, data, count, start, seed)[0]


def segment_viewer(teacher, data: Tensor) -> w.VBox:
    """Turn the number of segments and the start: trajectory, jumps, boundaries."""
    counts = [n for n in range(1, FINE + 1) if FINE % n == 0]
    return live(
        lambda count, start, seed: _segmented(teacher, data, count, start, seed),
        count=w.SelectionSlider(options=counts, value=3, description="segments", continuous_update=False),
        start=slider(w.IntSlider, 0, 0, FINE - 1, 1, "start"),
        seed=slider(w.IntSlider, 0, 0, 20, 1, "seed"),
    )


# ---- exercises -------------------------------------------------------------------------------------------------------


@exercise("8.1")
def _jump_velocity(answer):
    """jump_velocity(x_t, x_s, t, s): the velocity with which one Euler step from x_t at t lands on x_s at s."""
    x_t, x_s = torch.randn(4, 2, generator=seeded()), torch.randn(4, 2, generator=seeded(1))
    t, s = torch.tensor([0.9, 0.8, 0.5, 1.0]), torch.tensor([0.3, 0.6, 0.0, 0.2])
    right = (x_s - x_t) / (s - t)[:, None]
    shaped_like_points(answer, (x_t, x_s), t, s)
    expect(
        call(answer, x_t, x_s, t, s),
        right,
        [
            (-right, "s < t, so the step s - t is negative: (x_s - x_t) / (s - t)"),
            (x_t - x_s, "divide by the time the jump takes"),
            (x_s - x_t, "divide by the time the jump takes"),
            (right * (s - t)[:, None] ** 2, "divide by s - t, do not multiply"),
            ((x_t - x_s) / t[:, None], "the jump ends at s, not at 0: it takes t - s"),
        ],
        "solve x_s = x_t + (s - t) v for v; t and s are [B], points are [B, 2]",
    )


@exercise("8.2")
def _lower_boundary(answer):
    """lower_boundary(n, fine, segments): number of the boundary below a jump from point n of the fine grid."""
    for fine, count in ((48, 3), (12, 4), (6, 1)):
        n = torch.arange(fine)
        size = fine // count
        right = (n // size + 1) * size
        expect(
            torch.stack([torch.as_tensor(call(answer, int(i), fine, count)) for i in n]),
            right,
            [
                (n // size * size, "numbers rise as time falls: that is the upper boundary, where the segment begins"),
                (
                    -(-n // size) * size,
                    "a start on a boundary jumps down the segment below it: point 0 would jump to itself",
                ),
                (right - 1, "the boundary is the first point of the next segment"),
                (n // size + 1, "that counts boundaries; a boundary's point is so many times the size of a segment"),
                (
                    (n // count + 1) * count,
                    f"{fine} steps in {count} segments: a segment has {size} steps, not {count}",
                ),
                (torch.full_like(n, fine), "the end of the trajectory: jumps stop at the boundary of their segment"),
            ],
            "size = fine // segments; the segment of n begins at n // size * size and ends one size later",
        )


@exercise("8.3")
def _end(answer):
    """end_of(n, boundary, share): uniform over the points n + 1 ... boundary, from a share in [0, 1)."""
    n, edge = 17, 32
    shares = (torch.arange(150) + 0.5) / 150
    at = lambda low, high: [low + int(float(s) * (high - low)) for s in shares]
    given = [float(call(answer, n, edge, float(s))) for s in shares]
    right = at(n + 1, edge + 1)
    for wrong, hint in (
        (at(n, edge), "place n itself is no end: the teacher's small step already ends at n + 1"),
        (at(n, edge + 1), "place n itself is no end: the teacher's small step already ends at n + 1"),
        (at(n + 1, edge), "the boundary itself is never reached: there are boundary - n points to choose from"),
        ([edge] * len(shares), "that is PCM: always to the boundary. TSCD draws the end"),
        ([n + 1 + float(s) * (edge - n) for s in shares], "points are whole numbers: cut the product off"),
        ([n + 1 + round(float(s) * (edge - n - 1)) for s in shares], "cut off; rounding halves the chance of the ends"),
    ):
        if given == wrong:
            raise Hint(hint)
    if given != right:
        raise Hint("n + 1 + int(share * (boundary - n)): boundary - n points, the first n + 1")


@exercise("8.4")
def _target(answer):
    """target(x, t, m, e, teacher, ema): the teacher's small step from t to m, then the EMA network's jump to e."""
    x, t, m, e = torch.randn(5, 2, generator=seeded()), torch.tensor(0.9), torch.tensor(0.8), torch.tensor(0.5)
    teacher, ema = lambda x, t: torch.sin(x) + t, lambda x, t: torch.cos(2 * x) * t
    lower = jump(x, teacher(x, t), t, m)
    expect(
        call(answer, x, t, m, e, teacher, ema),
        jump(lower, ema(lower, m), m, e),
        [
            (jump(lower, ema(lower, t), m, e), "the EMA network jumps from the lower point, at the lower time m"),
            (jump(lower, ema(x, t), m, e), "ask the EMA network at the lower point, not at x"),
            (jump(x, ema(lower, m), m, e), "the jump starts from the lower point"),
            (jump(x, ema(lower, m), t, e), "the jump starts from the lower point, at time m"),
            (jump(x, ema(x, t), t, e), "the teacher's small step is missing: nothing would be learned"),
            (jump(lower, teacher(lower, m), m, e), "the long jump is the EMA network's, not the teacher's"),
            (jump(lower, ema(lower, m), t, e), "from m to e: the small step has used up t - m"),
            (lower, "that is the small step; the jump to e is missing"),
        ],
        "lower = x + (m - t) teacher(x, t); then lower + (e - m) ema(lower, m)",
    )
