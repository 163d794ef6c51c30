"""Paths, clouds and arrows in the plane, for the chapters on flows: 02, 07, 08, 09."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hb import plots
from hb.flow import euler, time_grid


def paths(teacher, steps: int, *, shift: float = 1.0, count: int = 70, seed: int = 0) -> Tensor:
    """Paths [steps + 1, count, 2] from fixed noise down a velocity field of the plane."""
    x = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    return torch.stack([x, *(x for _, x in euler(teacher.velocity, x, time_grid(steps, shift)))])


def trajectories(
    panels: Mapping[str, Tensor],
    *,
    data: Tensor | None = None,
    limit: float = 2.6,
    size: float = 2.3,
    marked: int | None = None,
    title: str | None = None,
) -> plots.Chart:
    """Paths through the plane, a panel for each name: [T, N, 2], from noise (first, hollow) to data (last, filled).

    data [M, 2]: where the paths should end. marked: number of a path drawn thick.
    """
    figure, axes = plots.new_chart(len(panels) * size, size + (0.5 if title else 0.3), 1, len(panels))
    for ax, (name, paths) in zip(axes[0], panels.items()):
        if data is not None:
            ax.scatter(*data.T, s=26, color=plots.RIGHT, alpha=0.28, linewidth=0, zorder=1)
        ax.plot(paths[..., 0], paths[..., 1], color=plots.FAINT, linewidth=0.6, alpha=0.55, zorder=2)
        ax.scatter(*paths[0].T, s=7, facecolors="none", edgecolors=plots.UNDERSTANDING, linewidths=0.6, zorder=3)
        ax.scatter(*paths[-1].T, s=16, color=plots.GENERATION, linewidth=0, zorder=5)
        if marked is not None:
            dots = "." if len(paths) < 15 else None
            ax.plot(*paths[:, marked].T, color=plots.INK, linewidth=1.5, marker=dots, markersize=5, zorder=4)
        square(ax, limit)
        ax.set_title(name, fontsize=9, color=plots.INK, pad=4)
    plots.titled(figure, title)
    return figure


def most_bent(paths: Tensor) -> int:
    """Which of the paths [T, N, 2] makes the largest detour: its length less the distance of its ends."""
    length = paths.diff(dim=0).norm(dim=-1).sum(0)
    return int((length - (paths[-1] - paths[0]).norm(dim=-1)).argmax())


def most_arched(paths: Tensor) -> int:
    """Which of the paths [T, N, 2] gets farthest away, sideways, from the line between its ends."""
    along = paths[-1] - paths[0]
    away = paths - paths[0]
    sideways = (away[..., 0] * along[:, 1] - away[..., 1] * along[:, 0]) / along.norm(dim=-1)
    return int(sideways.abs().amax(0).argmax())


def clouds(
    panels: Mapping[str, Tensor], *, limit: float = 2.6, size: float = 2.0, title: str | None = None
) -> plots.Chart:
    """Points [N, 2], a panel for each name."""
    figure, axes = plots.new_chart(len(panels) * size, size + (0.5 if title else 0.3), 1, len(panels))
    for ax, (name, points) in zip(axes[0], panels.items()):
        ax.scatter(*points.T, s=4, color=plots.UNDERSTANDING, alpha=0.5, linewidth=0)
        square(ax, limit)
        ax.set_title(name, fontsize=9, color=plots.INK, pad=4)
    plots.titled(figure, title)
    return figure


def arrows(
    panels: Mapping[str, tuple[Tensor, Tensor, str]],
    *,
    data: Tensor | None = None,
    limit: float = 2.6,
    size: float = 2.5,
    title: str | None = None,
) -> plots.Chart:
    """Arrows in their true length, a panel for each name: (from [N, 2], to [N, 2], color). A dot is where one begins.

    data [M, 2]: drawn pale green behind.
    """
    figure, axes = plots.new_chart(len(panels) * size, size + (0.5 if title else 0.3), 1, len(panels))
    for ax, (name, (start, end, color)) in zip(axes[0], panels.items()):
        if data is not None:
            ax.scatter(*data.T, s=10, color=plots.RIGHT, alpha=0.16, linewidth=0, zorder=1)
        ax.scatter(*start.T, s=7, color=color, linewidth=0, zorder=2)
        how = dict(angles="xy", scale_units="xy", scale=1, width=0.006, headwidth=4, minlength=0.3, zorder=3)
        ax.quiver(*start.T, *(end - start).T, color=color, alpha=0.8, **how)
        square(ax, limit)
        ax.set_title(name, fontsize=9, color=plots.INK, pad=4)
    plots.titled(figure, title)
    return figure


def square(ax, limit: float) -> None:
    ax.set_xlim(-limit, limit)
    ax.set_ylim(-limit, limit)
    ax.set_aspect("equal")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_color(plots.PALE)
