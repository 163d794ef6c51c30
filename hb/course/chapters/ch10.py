"""Notebook 10: best discriminators in closed form, what bounds them, and one step in the plane."""

from __future__ import annotations

from collections.abc import Mapping

import ipywidgets as w
import torch
import torch.nn.functional as F

from hb import plots
from hb.course.exercises import call, exercise, expect, expect_number, seeded
from hb.course.widgets import live, slider
from hb.exact import GaussianMixture, best_hinge_logits, best_relativistic_logits


def on_a_line(mean: float, std: float) -> GaussianMixture:
    """A Gaussian on the line."""
    return GaussianMixture(torch.tensor([[mean]]), torch.tensor([std]))


def best_critics_figure(apart: float = 1.5, noise: float = 0.0, std: float = 0.6) -> plots.Chart:
    """Two Gaussians a distance `apart`, noised to time `noise`; the best discriminator of each loss, and its slope
    where generated samples are: what a generator is trained by."""
    x = torch.linspace(-4, 4, 801)[:, None]
    kept, spread = 1 - noise, ((1 - noise) ** 2 * std**2 + noise**2) ** 0.5
    real, fake = (on_a_line(kept * sign * apart / 2, spread) for sign in (1, -1))
    p, q = (mixture.log_density(x).exp() for mixture in (real, fake))
    figure, axes = plots.new_chart(8.2, 2.7, 1, 2)
    left, right = axes[0]
    left.fill_between(x[:, 0], p, color=plots.RIGHT, alpha=0.25, linewidth=0, label="real")
    left.fill_between(x[:, 0], q, color=plots.GENERATION, alpha=0.25, linewidth=0, label="generated")
    plots.labels(left, "x", "density")
    plots.legend(left)
    right.plot(x[:, 0], best_hinge_logits(real, fake, x), color=plots.INK, label="hinge")
    right.plot(x[:, 0], best_relativistic_logits(real, fake, x), color=plots.UNDERSTANDING, label="relativistic")
    right.set_ylim(-6, 6)
    plots.labels(right, "x", "best logit")
    plots.legend(right)
    for ax in (left, right):
        plots.plain(ax)
    overlap = float(torch.minimum(p, q).sum() / p.sum())
    plots.titled(figure, f"{overlap:.0%} of the two overlap")
    return figure


def best_critics() -> w.VBox:
    """Move the two apart, and noise them."""
    return live(
        lambda apart, noise: best_critics_figure(round(apart, 2), round(noise, 2)),
        apart=slider(w.FloatSlider, 1.5, 0.0, 5.0, 0.25, "apart"),
        noise=slider(w.FloatSlider, 0.0, 0.0, 0.9, 0.1, "t'"),
    )


def curves_figure(curves: Mapping[str, list[tuple[float, float]]], every: int = 20) -> plots.Chart:
    """Spread of the student's points, and the share of pairs that the discriminator tells apart, by update."""
    figure, axes = plots.new_chart(8.2, 2.7, 1, 2)
    colors = (plots.INK, plots.GENERATION, plots.UNDERSTANDING, plots.RIGHT)
    for (name, curve), color in zip(curves.items(), colors):
        means = torch.tensor(curve)[: len(curve) // every * every].unflatten(0, (-1, every)).mean(1)
        at = torch.arange(len(means)) * every
        for ax, values in zip(axes[0], means.T):
            ax.plot(at, values, color=color, label=name, linewidth=1.2)
    for ax, what in zip(axes[0], ("spread: 1 is right", "told apart: 0.5 is chance")):
        plots.plain(ax)
        plots.labels(ax, "update", what)
    plots.legend(axes[0][0])
    return figure


# ---- exercises -------------------------------------------------------------------------------------------------------


@exercise("10.1")
def _share_of_times(answer):
    """The share of times t = 1 - u^3, u uniform, that lie above 0.9."""
    expect_number(
        answer,
        0.1 ** (1 / 3),
        {
            0.1: "that is for t = u; the cube crowds times near 1",
            1 - 0.1 ** (1 / 3): "the other side: t > 0.9 where u^3 < 0.1",
            0.9 ** (1 / 3): "t > 0.9 means u^3 < 0.1",
            0.001: "u < 0.1^(1/3), not 0.1^3",
            46.4: "a share, between 0 and 1",
        },
        "t > 0.9 where u^3 < 0.1; how large is the share of such u?",
    )


@exercise("10.2")
def _hinge(answer):
    """hinge(real, fake): the discriminator's loss of logits [B]."""
    real, fake = (2 * torch.randn(40, generator=seeded(i)) for i in (1, 2))
    right = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    expect(
        call(answer, real, fake),
        right,
        [
            (F.relu(1 + real).mean() + F.relu(1 - fake).mean(), "real logits should be large, generated ones small"),
            (-torch.minimum(real, torch.ones(())).mean() + fake.mean(), "generated logits have a bound too: below -1"),
            ((1 - real).mean() + (1 + fake).mean(), "what is beyond the bound costs nothing: max(0, ...)"),
            (F.relu(-real).mean() + F.relu(fake).mean(), "the bounds are at 1 and -1, not at 0"),
            (right / 2, "a sum of two means, not their mean"),
            (F.relu(1 - real).sum() + F.relu(1 + fake).sum(), "means over the samples, not sums"),
        ],
        "E max(0, 1 - D(real)) + E max(0, 1 + D(generated))",
    )


@exercise("10.3")
def _steepness(answer):
    """steepness(d, x, n, scale): the finite difference of R1 for points [B, 2] and standard normal n."""
    d = lambda x: (x * torch.tensor([1.0, -2.0])).sum(1) + x[:, 0] ** 2
    x, n = torch.randn(2, 64, 2, generator=seeded(3))
    scale = 0.05
    far = d(x + scale * n) - d(x)
    expect(
        call(answer, d, x, n, scale),
        (far / scale).square().mean(),
        [
            (far.square().mean(), "divide by the scale, or the penalty vanishes with it"),
            (far.square().mean() / scale, "the square of the quotient: divide by scale squared"),
            ((d(x + n) - d(x)).square().mean(), "a small step: x + scale * n"),
            ((far / scale).mean().square(), "square first, then the mean"),
            ((far / scale).abs().mean(), "squares, not absolute values"),
            ((far / scale).mean(), "squares: slopes of both signs are steep"),
        ],
        "mean of ((d(x + scale n) - d(x)) / scale)^2",
        atol=1e-4,
    )
