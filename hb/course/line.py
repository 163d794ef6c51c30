"""A reward on a line (notebook 11): what is drawn, what maximizes a reward in closed form, and what a hinge does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from hb import plots
from hb.exact import GaussianMixture

LINE = torch.linspace(-4.0, 4.0, 1601)
DRAWN = GaussianMixture(torch.tensor([[-1.2], [1.2]]), torch.tensor([0.5, 0.5]))
EDGE = 1.6  # beyond it lies about a tenth of the samples


def on_the_line() -> tuple[Tensor, Tensor, Tensor]:
    """log p of the samples, the true utility and a learnt reward, on LINE. Up to EDGE the last two agree; beyond, the
    learnt one rises, and the utility falls."""
    log_p = DRAWN.log_density(LINE[:, None])
    log_p = log_p - log_p.logsumexp(0)
    far = torch.cdist(LINE[:, None], DRAWN.means).min(1).values
    true = 2 * torch.exp(-far.square()) + torch.tanh(LINE / 1.7)
    return log_p, true, true + 2.0 * (LINE - EDGE).clamp_min(0)


def tilted(log_p: Tensor, reward: Tensor, beta: float) -> Tensor:
    """p exp(r / beta) / Z on a grid: what maximizes E_q[r] - beta KL(q || p)."""
    return (log_p + reward / beta).softmax(0)


def kl(q: Tensor, log_p: Tensor) -> float:
    """KL(q || p) in nats, on a grid."""
    return float((q * (q.clamp_min(1e-30).log() - log_p)).sum())


def best_of(n: int, log_p: Tensor, reward: Tensor) -> Tensor:
    """The distribution of the one with the largest reward of n samples of p, on a grid."""
    order = reward.argsort()
    before = torch.cat([torch.zeros(1), log_p.double().exp()[order].cumsum(0).float()]).double()
    q = torch.empty(len(reward), dtype=torch.float64)
    q[order] = (before**n).diff().clamp_min(0)
    return q.float() / q.sum().float()


def follow(x: Tensor, slope: Tensor, threshold: float | None = None, steps: int = 300, size: float = 0.01) -> Tensor:
    """Points that a reward of constant slope moves uphill, [N]; with a threshold, while their reward is below it."""
    for _ in range(steps):
        push = torch.ones_like(x) if threshold is None else (slope * x < threshold).to(x)
        x = x + size * slope * push
    return x


# ---- figures ---------------------------------------------------------------------------------------------------------


def tilted_figure(betas: Sequence[float] = (1.0, 0.3)) -> plots.Chart:
    """Utility and learnt reward; what is drawn, what maximizes the regularized reward, and what maximizes it alone."""
    log_p, true, learnt = on_the_line()
    step = float(LINE[1] - LINE[0])
    figure, axes = plots.new_chart(8.4, 2.9, 1, 2)
    left, right = axes[0]
    left.plot(LINE, true, color=plots.INK, label="true utility")
    left.plot(LINE, learnt, color=plots.GENERATION, linestyle=(0, (4, 2)), label="learnt reward")
    plots.labels(left, "x", "worth")
    right.fill_between(LINE, log_p.exp() / step, color=plots.PALE, linewidth=0, label="p: drawn")
    for beta, color, style in zip(betas, (plots.UNDERSTANDING, "#7a4fb0"), ("-", (0, (4, 2)))):
        density = tilted(log_p, learnt, beta) / step
        right.plot(LINE, density, color=color, linestyle=style, label=f"best for beta = {beta:g}")
    right.axvline(LINE[learnt.argmax()] - 0.03, color=plots.WRONG, linewidth=2.5)
    right.set_xlim(-4.2, 4.2)
    right.annotate(
        "✗ reward alone",
        (LINE[-1] - 0.1, 0.97),
        xycoords=("data", "axes fraction"),
        ha="right",
        va="top",
        fontsize=8,
        color=plots.WRONG,
        gid=plots.SIGN,
    )
    plots.labels(right, "x", "density")
    for ax in (left, right):
        plots.plain(ax)
        plots.legend(ax, loc="upper left")
    right.set_ylim(0, 1.7)
    plots.titled(figure, f"A learnt reward that is wrong beyond {EDGE:g}, and what maximizes it")
    return figure


def frontier_figure(counts: Sequence[int] = (2, 4, 8, 16)) -> plots.Chart:
    """What is gained against how far the distribution moves: the tilted distributions, and the best of n."""
    log_p, true, learnt = on_the_line()
    family = [tilted(log_p, learnt, float(beta)) for beta in torch.logspace(1.2, -1.1, 160)]
    moved = [kl(q, log_p) for q in family]
    figure, axes = plots.new_chart(6.6, 3.1)
    ax = axes[0, 0]
    for name, worth, color, mark in (
        ("learnt reward", learnt, plots.GENERATION, "^"),
        ("true utility", true, plots.INK, "o"),
    ):
        ax.plot(moved, [float((q * worth).sum()) for q in family], color=color, label=f"{name}, tilted")
        best = [best_of(n, log_p, learnt) for n in counts]
        at = [kl(q, log_p) for q in best]
        ax.plot(at, [float((q * worth).sum()) for q in best], mark, color=color, label=f"{name}, best of n")
    for n, x in zip(counts, at):
        ax.annotate(
            f"n={n}", (x, 0.02), xycoords=("data", "axes fraction"), fontsize=7.5, color=plots.FAINT, ha="center"
        )
    ax.set_xlim(-0.05, 4)
    ax.set_ylim(1.4, 3.7)
    plots.plain(ax)
    plots.labels(ax, "KL(q || p), nats", "mean")
    plots.legend(ax)
    plots.titled(figure, "The learnt reward goes on rising, the utility does not")
    return figure


def atom_figure(x: Tensor, ends: Mapping[str, Tensor]) -> plots.Chart:
    """Histograms of points before (gray) and after."""
    figure, axes = plots.new_chart(len(ends) * 2.9, 2.7, 1, len(ends), sharey=True)
    bins = np.linspace(-4, 7, 111)
    for ax, (name, end) in zip(axes[0], ends.items()):
        ax.hist(x, bins, color=plots.PALE, label="before")
        ax.hist(end, bins, color=plots.GENERATION, histtype="step", linewidth=1.3, label="after")
        ax.set_ylim(0, 0.08 * len(x))
        ax.set_title(name, fontsize=9, color=plots.INK, pad=4)
        plots.plain(ax)
        plots.labels(ax, "reward", "points" if ax is axes[0, 0] else None)
    plots.legend(axes[0, 0])
    plots.titled(figure, "Where points end that follow the slope")
    return figure
