"""Notebook 05, drafting a chain: shared probability, and exact sums over all draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import ipywidgets as w
import numpy as np
import torch
from torch import Tensor

from hb import plots
from hb.course.exercises import call, exercise, expect
from hb.course.widgets import live, slider
from hb.infer.speculative import exact as distributions
from hb.infer.speculative.verify import RULES
from hb.models.distribution import TokenDistribution

Values = Sequence[float] | Tensor


def overlap(p: Values, q: Values, names: Sequence[str], *, title: str | None = None) -> plots.Chart:
    """Target distribution p and draft distribution q over the same words: what they share is kept, the rest of q is
    refused, and the rest of p is what the target says instead."""
    p, q = np.asarray(p, dtype=float), np.asarray(q, dtype=float)
    figure, axes = plots.new_chart(6.4, 3.0)
    ax, at, shared = axes[0, 0], np.arange(len(p)), np.minimum(p, q)
    style = dict(width=0.62, linewidth=0)
    ax.bar(at, shared, color=plots.RIGHT, label="min(p, q): kept from the draft", **style)
    ax.bar(at, p - shared, bottom=shared, color=plots.UNDERSTANDING, label="p - q: from the residual instead", **style)
    ax.bar(at, q - shared, bottom=shared, color=plots.WRONG, alpha=0.25, label="q - p: drafted, refused", **style)
    ax.hlines(p, at - 0.36, at + 0.36, color=plots.INK, linewidth=2, label="p, the target's distribution")
    ax.hlines(
        q,
        at - 0.36,
        at + 0.36,
        color=plots.FAINT,
        linewidth=1.4,
        linestyle=(0, (2, 1.5)),
        label="q, the draft's distribution",
    )
    plots.plain(ax)
    ax.set_xticks(at, list(names), fontsize=9, color=plots.INK)
    plots.labels(ax, None, "probability")
    plots.legend(ax, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    plots.titled(figure, title)
    return figure


def microscope_chart(wanted: Values, emitted: Values, names: Sequence[str], *, title: str | None = None) -> plots.Chart:
    """The target's distribution of named sequences as bars, what a decoder emits as dots; below, the difference."""
    wanted, emitted = np.asarray(wanted, dtype=float), np.asarray(emitted, dtype=float)
    figure, axes = plots.new_chart(7.4, 3.9, 2, 1, sharex=True, gridspec_kw=dict(height_ratios=(3, 1.3)))
    (above, below), at, wrong = axes[:, 0], np.arange(len(wanted)), emitted - wanted
    largest = np.abs(wrong).max()
    color = plots.RIGHT if largest < 1e-9 else plots.WRONG
    above.bar(at, wanted, color=plots.UNDERSTANDING, width=0.72, alpha=0.85, label="the target alone")
    above.plot(at, emitted, "o", color=plots.GENERATION, markersize=4, label="draft and target together")
    below.bar(at, wrong, color=color, width=0.72)
    below.axhline(0, color=plots.FAINT, linewidth=0.8)
    limit = 1.15 * max(largest, 0.02)
    below.set_ylim(-limit, limit)
    below.set_title(f"largest difference: {largest:.1g}", fontsize=9, color=color, pad=3, loc="left")
    for ax, name in ((above, "probability"), (below, "difference")):
        plots.plain(ax)
        plots.labels(ax, None, name)
    below.set_xticks(at, list(names), rotation=90, fontsize=7.5, family="monospace")
    plots.legend(above, loc="upper right")
    plots.titled(figure, title)
    return figure


def bargain(rows: Mapping[str, tuple[float, float]], *, title: str | None = None) -> plots.Chart:
    """Decoders: rows[name] = (tokens for a pass of the target, largest error of what is emitted). Green: lossless."""
    figure, axes = plots.new_chart(7.4, 0.34 * len(rows) + 0.9)
    ax, longest = axes[0, 0], max(tokens for tokens, _ in rows.values())
    for y, (tokens, error) in enumerate(rows.values()):
        color = plots.RIGHT if error < 1e-9 else plots.WRONG
        ax.barh(y, tokens, color=color, height=0.62)
        ax.text(tokens - 0.012 * longest, y, f"{tokens:.2f}", ha="right", va="center", fontsize=8.5, color="white")
        said = "the target's distribution" if error < 1e-9 else "another distribution"
        ax.text(tokens + 0.012 * longest, y, f"{said}, error {error:.0e}", va="center", fontsize=8.5, color=color)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.invert_yaxis()
    ax.set_xlim(0, longest * 1.55)
    plots.plain(ax, "x")
    ax.tick_params(axis="y", colors=plots.INK, labelsize=9)
    plots.labels(ax, "tokens for one pass of the target")
    plots.titled(figure, title)
    return figure


def acceptance(rates: Sequence[float], alpha: float | None = None, *, title: str | None = None) -> plots.Chart:
    """How often the guess of each depth stays where those before it stayed. alpha: the one rate that gives as many
    tokens."""
    figure, axes = plots.new_chart(6.4, 2.6)
    ax, at = axes[0, 0], np.arange(1, len(rates) + 1)
    ax.bar(at, rates, color=plots.RIGHT, width=0.62)
    if alpha is not None:
        ax.axhline(alpha, color=plots.INK, linewidth=1.2, linestyle=(0, (4, 3)), label=f"one rate for all: {alpha:.2f}")
        plots.legend(ax, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    plots.plain(ax)
    ax.set_ylim(0, 1.02)
    ax.set_xticks(at)
    plots.labels(ax, "depth of the guess", "stays")
    plots.titled(figure, title)
    return figure


# ---- the microscope --------------------------------------------------------------------------------------------------


TRIED = {"a chain of two": (1, 1), "two, then one": (2, 1)}  # candidates at each depth


SOUND = "nothing is wrong"


def microscope_figure(
    temperature: float = 1.0, rule: str = "drawn", tried: str = "a chain of two", sabotage: str = SOUND
) -> plots.Chart:
    """Every three-token sequence of the tiny models: the target's distribution, and what drafting with it emits."""
    if sabotage not in (SOUND, *distributions.SABOTAGES):
        raise ValueError(f"no sabotage called {sabotage!r}; choose from {', '.join((SOUND, *distributions.SABOTAGES))}")
    distribution, decoder = (
        TokenDistribution(temperature=temperature),
        distributions.SABOTAGES.get(sabotage, distributions.HONEST),
    )
    wanted = distributions.target_distribution(distributions.TINY_TARGET, 3, distribution)
    emitted = distributions.emitted_distribution(
        distributions.TINY_TARGET,
        distributions.TINY_DRAFT,
        rule=rule,
        shape=TRIED[tried],
        length=3,
        distribution=distribution,
        decoder=decoder,
    )
    names = ["".join(letters) for letters in product("abc", repeat=3)]
    title = f"{tried.capitalize()}, temperature {temperature:g}: {sabotage}"
    return microscope_chart(wanted.flatten(), emitted.flatten(), names, title=title)


def microscope() -> w.VBox:
    """Turn temperature and rule, and break the decoder: what is emitted, against the target's distribution."""

    def draw(temperature, rule, tried, sabotage):
        chart = microscope_figure(round(temperature, 2), rule, tried, sabotage)
        return chart, distributions.SABOTAGES.get(sabotage, distributions.HONEST).why

    choice = lambda options, name: w.Dropdown(options=list(options), description=name)
    return live(
        draw,
        temperature=slider(w.FloatSlider, 1.0, 0.0, 1.5, 0.1, "temperature"),
        rule=w.Dropdown(options=list(RULES), value="drawn", description="rule"),
        tried=choice(TRIED, "tried"),
        sabotage=choice((SOUND, *distributions.SABOTAGES), "sabotage"),
    )


# ---- exercises -------------------------------------------------------------------------------------------------------


def _two_laws():
    p = torch.tensor([0.5, 0.25, 0.15, 0.1], dtype=torch.float64)
    q = torch.tensor([0.2, 0.4, 0.1, 0.3], dtype=torch.float64)
    return p, q


@exercise("5.1")
def _chance_of_acceptance(answer):
    """chance_of_acceptance(p, q): that a token drawn from q stays."""
    p, q = _two_laws()
    ratio = (p / q).clamp(max=1)
    expect(
        call(answer, p, q),
        torch.minimum(p, q).sum(),
        [
            ((p * q).sum(), "the chance that two independent draws agree; here the target verifies, it does not draw"),
            (ratio.mean(), "not every token is drafted equally often: weigh min(1, p / q) by the chance of x, q(x)"),
            ((p * ratio).sum(), "x is drawn from the draft, so weigh by q(x), not p(x)"),
            (ratio, "one number: the chance over all x that the draft may sample"),
            (torch.minimum(p, q), "sum it over the tokens"),
            ((p - q).abs().sum() / 2, "that is the chance of a rejection, the total variation"),
            (1.0, "no probability exceeds 1: accept with min(1, p / q), not p / q"),
        ],
        "the draft samples x with q(x), and x is accepted with min(1, p(x) / q(x)): sum the product over x",
    )


@exercise("5.2")
def _residual(answer):
    """residual(p, q): the distribution from which the target draws after a rejection."""
    p, q = _two_laws()
    left = (p - q).clamp_min(0)
    norm = lambda weights: weights / weights.sum()
    expect(
        call(answer, p, q),
        norm(left),
        [
            (left, "a distribution adds up to 1: divide by the sum"),
            (p, "from p itself, tokens that the draft proposes often would come too often: they have had their chance"),
            (norm((q - p).clamp_min(0)), "the other way round: where p exceeds q"),
            (norm((p - q).abs()), "not the size of the difference: where q exceeds p nothing is owed"),
            (p - q, "a probability is not negative: where q exceeds p nothing is owed"),
            ((p - q).softmax(-1), "no softmax: these are probabilities already, cut at 0 and divided by their sum"),
            (norm(torch.minimum(p, q)), "that is what was kept; the residual is what p has beyond it"),
        ],
        "max(0, p - q), divided by its sum",
    )


@exercise("5.3")
def _expected_tokens(answer):
    """expected_tokens(alpha, g): of one cycle with g drafted tokens, each kept with chance alpha."""
    for a, g in ((0.7, 4), (0.5, 2), (0.9, 10)):
        right = sum(a**i for i in range(g + 1))
        expect(
            call(answer, a, g),
            right,
            [
                (right - 1, "the target's own token is missing: the correction, or the bonus"),
                (right - a**g, "that is a chain of g - 1: the sum runs from a^0 to a^g, which are g + 1 terms"),
                (1 + g * a, "a guess counts only if all before it were kept: the i-th with chance a^i"),
                (g * a, "a guess counts only if all before it were kept: the i-th with chance a^i"),
                (1 / (1 - a), "that is an endless chain; yours ends after g guesses"),
                (1 + g * a**g, "a cycle keeps part of a chain too, not all or nothing"),
                ((1 - a) ** (g + 1) / (1 - a), "1 - a^(g + 1), not (1 - a)^(g + 1)"),
            ],
            "the i-th guess stays with chance a^i, and one token always comes from the target: sum them",
        )
