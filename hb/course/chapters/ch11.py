"""Notebook 11, reward feedback: ten clicks and what they teach, what a reward does to a distribution, and the plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hb import plots
from hb.bayes import LinearUtility
from hb.course import plane, toy_reward
from hb.course.clicks import Comparison, PreferenceClicker
from hb.course.exercises import Hint, call, exercise, expect, expect_number, seeded
from hb.course.line import on_the_line, tilted
from hb.data.preferences import Preference
from hb.eval import stats
from hb.eval.reward import calibration
from hb.infer.pipeline import Model
from hb.world.annotator import Annotator, Merits, merits
from hb.world.language import parse

# ---- ten clicks ------------------------------------------------------------------------------------------------------

PROMPTS = (
    "a red circle",
    "two hearts",
    "a star and a ring",
    "a small blue square",
    "a green triangle and a pink circle",
    "a large striped moon",
    "a cross left of a moon",
    "three small squares",
    "a yellow star",
    "two large rings",
)


def ten_pairs(model: Model, count: int = len(PROMPTS), seed: int = 0) -> list[Comparison]:
    """Two drawings of each of ten prompts, on sides that a coin chooses: a student's in six evaluations, and the
    teacher's in twelve or, of every second prompt, in four, which are too few."""
    prompts = PROMPTS[:count]
    six, twelve, four = (model.draw(list(prompts), nfe=nfe, seed=seed + nfe, warn=False).pixels for nfe in (6, 12, 4))
    sides = torch.rand(count, generator=seeded(seed)) < 0.5
    other = [(twelve, four)[i % 2][i] for i in range(count)]
    return [Comparison(p, (a, b) if left else (b, a)) for p, a, b, left in zip(prompts, six, other, sides)]


def ten_clicks(pairs: Sequence[Comparison], folder: str | Path = "my_clicks") -> PreferenceClicker:
    """The pairs one after another, and a button for the better one. Clicks are kept in `folder`."""
    return PreferenceClicker(folder, pairs)


def pair_merits(pairs: Sequence[Comparison]) -> Tensor:
    """The four merits of both pictures of each pair [n, 2, 4]."""
    return torch.tensor([[merits(picture, parse(pair.text)) for picture in pair.pictures] for pair in pairs])


def choices(
    rows: Sequence[Preference], of_pairs: Tensor, stand_in: Annotator, seed: int = 0
) -> tuple[list[int | None], str]:
    """What was chosen in each pair, and by whom: a person's clicks, or where there are none a stand-in's. None: not
    clicked, or not decided."""
    if rows:
        made = {int(Path(row.pictures[0]).name[:5]): row.choice for row in rows}
        return [made.get(i) for i in range(len(of_pairs))], rows[0].annotator
    first, second = stand_in.utilities(of_pairs.double().numpy()).T
    return stand_in.choose(first, second, np.random.default_rng([11, seed])).tolist(), "stand-in"


def ten_clicks_figure(pairs: Sequence[Comparison], chosen: Sequence[int | None], who: str) -> plots.Chart:
    """The pairs, and a sign on what was chosen."""
    sides = {name: torch.stack([pair.pictures[k] for pair in pairs]) for k, name in enumerate(("left", "right"))}
    marks = {name: [True if choice == k else None for choice in chosen] for k, name in enumerate(sides)}
    names = [plots.wrapped(pair.text, 13) for pair in pairs]
    return plots.strip(sides, names, right=marks, size=0.88, title=f"✓ is what {who} prefers")


def beliefs_figure(steps: Sequence[LinearUtility]) -> plots.Chart:
    """What is believed about the weight of each merit after each click: mu, and a band of one sigma on each side."""
    figure, axes = plots.new_chart(8.6, 2.3, 1, len(Merits._fields), sharey=True)
    for i, (ax, name) in enumerate(zip(axes[0], Merits._fields)):
        mu = torch.tensor([float(step.mean[i]) for step in steps])
        sigma = torch.tensor([float(step.covariance[i, i].sqrt()) for step in steps])
        rows = [dict(value=float(m), low=float(m - s), high=float(m + s)) for m, s in zip(mu, sigma)]
        plots.band(ax, range(len(steps)), rows, plots.UNDERSTANDING, name)
        ax.axhline(0, color=plots.FAINT, linewidth=0.8)
        ax.set_xticks(range(0, len(steps), 2))
        ax.set_title(name, fontsize=9, color=plots.INK, pad=4)
        plots.plain(ax)
        plots.labels(ax, "clicks", "weight" if i == 0 else None)
    plots.titled(figure, "mu moves, sigma shrinks: the weight of each merit, click by click")
    return figure


# ---- clicks in the plane ---------------------------------------------------------------------------------------------


def sigma_figure(share: float = 0.75, gap: float = 1.0) -> plots.Chart:
    """Two pictures a distance `gap` of mu apart; the better one wins this share of the clicks. Mean loss against one
    sigma for both: in closed form, and as the public trainer of HPSv3 averages it over draws."""
    sigma = torch.logspace(-1.7, 1, 120)
    z = gap / (2**0.5 * sigma)
    exact = -(share * torch.special.log_ndtr(z) + (1 - share) * torch.special.log_ndtr(-z))
    nodes, weights = (torch.from_numpy(a).float() for a in np.polynomial.hermite_e.hermegauss(60))
    draws = gap + 2**0.5 * sigma[:, None] * nodes
    won, lost = ((F.softplus(sign * draws) @ weights) / weights.sum() for sign in (-1, 1))
    averaged = share * won + (1 - share) * lost
    figure, axes = plots.new_chart(6.4, 2.8)
    ax = axes[0, 0]
    lines = {"-log Phi, in closed form": exact, "-log sigmoid, mean of draws (HPSv3's trainer)": averaged}
    for (name, loss), color, style in zip(lines.items(), (plots.UNDERSTANDING, plots.GENERATION), ("-", (0, (4, 2)))):
        ax.plot(sigma, loss, color=color, linestyle=style, label=name)
        low = int(loss.argmin())
        ax.plot(sigma[low], loss[low], "v", color=color, markersize=8)
    ax.set_xscale("log")
    ax.set_ylim(0.4, 2.0)
    plots.plain(ax)
    plots.labels(ax, "sigma", "loss")
    plots.legend(ax)
    plots.titled(figure, f"The better picture wins {share:.0%} of the clicks; ▼ is the least loss")
    return figure


@torch.no_grad()
def maps(panels: Mapping[str, Tensor], points: Tensor | None = None, *, limit: float = 4.5, title: str | None = None):
    """Values on a square grid of the plane, a panel for each name, with contours that carry their value; values are
    [n * n], of `grid(limit)`. points [N, 2]: drawn on top."""
    figure, axes = plots.new_chart(len(panels) * 2.6, 2.9, 1, len(panels))
    for ax, (name, values) in zip(axes[0], panels.items()):
        side = int(len(values) ** 0.5)
        values = values.view(side, side).T
        ax.imshow(values, origin="lower", extent=(-limit, limit) * 2, cmap="Blues", alpha=0.7)
        at = torch.linspace(-limit, limit, side)
        lines = ax.contour(at, at, values, levels=6, colors=plots.INK, linewidths=0.6)
        ax.clabel(lines, fontsize=7, fmt="%.1f")
        if points is not None:
            ax.scatter(*points.T, s=3, color=plots.GENERATION, linewidth=0, alpha=0.8)
        plane.square(ax, limit)
        ax.set_title(name, fontsize=9, color=plots.INK, pad=4)
    plots.titled(figure, title)
    return figure


def grid(limit: float = 4.5, side: int = 61) -> Tensor:
    """Points of the plane [side * side, 2], as `maps` has them."""
    at = torch.linspace(-limit, limit, side)
    return torch.cartesian_prod(at, at)


@torch.no_grad()
def predictions(reward: toy_reward.Reward, test: toy_reward.Clicks) -> tuple[np.ndarray, np.ndarray]:
    """Of each comparison: the probability given to what is predicted to win [n], and did it win? [n]."""
    p = toy_reward.probability(reward, test).double().numpy()
    return np.maximum(p, 1 - p), (p < 0.5) == (test.choice.numpy() == 1)


def scores(rewards: Mapping[str, toy_reward.Reward], test: toy_reward.Clicks, again: toy_reward.Clicks) -> str:
    """Accuracies on clicks that no reward was trained on, with Wilson's 95% intervals; what a second annotator and the
    true utility reach; and each reward as a share of the utility's: (accuracy - 1/2) / (accuracy of utility - 1/2)."""
    true = (toy_reward.utility(test.second) > toy_reward.utility(test.first)).long()
    ceiling = (true == test.choice).numpy()
    hits = {"the annotator, asked twice": (again.choice == test.choice).numpy(), "true utility": ceiling}
    hits |= {name: predictions(reward, test)[1] for name, reward in rewards.items()}
    lines = [f"{'':22} accuracy                 normalized"]
    for name, hit in hits.items():
        low, high = stats.wilson(hit.mean(), len(hit))
        line = f"{name:22} {hit.mean():.3f} ({low:.3f} to {high:.3f})"
        if name in rewards:
            share = stats.ratio([hit - 0.5], [ceiling - 0.5])
            line += f"   {share['value']:.2f} ({share['low']:.2f} to {share['high']:.2f})"
        lines.append(line)
    return "\n".join(lines)


def calibration_figure(rewards: Mapping[str, toy_reward.Reward], test: toy_reward.Clicks) -> plots.Chart:
    """Predicted probability against frequency, of comparisons that no reward was trained on."""
    curves = {}
    for name, reward in rewards.items():
        predicted, hit = predictions(reward, test)
        curves[name] = calibration(predicted, hit, np.arange(len(hit)))["bins"]
    return plots.calibration(curves, title="Predicted and observed")


# ---- feedback in the plane -------------------------------------------------------------------------------------------


HACKED = toy_reward.RESULT.with_name("hacked_nano.json")


def hacked_table(record: Mapping) -> str:
    """The checks of a stored run on nano that a reward was left to hack, a line for each, and the run's command."""
    names = {"reward vision": "trained", "reward without-vision": "held out", "right": "right", "clean": "clean"}
    names |= {"coverage": "coverage", "slope": "slope"}
    lines = ["  step" + "".join(f"{shown:>10}" for shown in names.values())]
    lines += [f"{row['step']:6}" + "".join(f"{row[name]:10.2f}" for name in names) for row in record["rows"]]
    return "\n".join([*lines, f"({record['command']})"])


def watched_figure(runs: Mapping[str, toy_reward.Run]) -> plots.Chart:
    """Trained and held-out reward, true utility and coverage, by update; where the rule stops, and what it keeps."""
    figure, axes = plots.new_chart(len(runs) * 2.8, 4.6, 2, len(runs), sharex=True, sharey="row")
    for column, (name, run) in zip(axes.T, runs.items()):
        steps = [seen.step for seen in run.seen]
        upper = {"trained": ([s.trained.mean() for s in run.seen], plots.GENERATION, "-")}
        upper["held out, same features"] = ([s.same.mean() for s in run.seen], plots.GENERATION, (0, (1, 1.5)))
        upper["held out, others"] = ([s.held_out.mean() for s in run.seen], plots.UNDERSTANDING, (0, (4, 2)))
        lower = {"true utility": ([s.utility for s in run.seen], plots.INK, "-")}
        lower["coverage"] = ([s.coverage for s in run.seen], plots.RIGHT, (0, (4, 2)))
        for ax, lines in zip(column, (upper, lower)):
            for label, (values, color, style) in lines.items():
                ax.plot(steps, values, color=color, linestyle=style, label=label)
            if run.stop is not None:
                ax.axvline(run.stop, color=plots.WRONG, linewidth=1)
                ax.axvline(run.kept.step, color=plots.RIGHT, linewidth=1)
            plots.plain(ax)
        if run.stop is not None:
            rows = ((run.stop, "✗ stop", plots.WRONG, 0.99), (run.kept.step, "✓ keep", plots.RIGHT, 0.88))
            for at, sign, color, height in rows:
                where = dict(xycoords=("data", "axes fraction"), va="top", fontsize=8, gid=plots.SIGN)
                column[0].annotate(f" {sign}", (at, height), color=color, **where)
        column[0].set_title(name, fontsize=9, color=plots.INK, pad=4)
        plots.labels(column[1], "update")
    axes[0, 0].set_ylim(-3, 6)
    plots.labels(axes[0, 0], None, "reward")
    plots.labels(axes[1, 0], None, "what is true")
    plots.legend(axes[0, -1], loc="center right")
    plots.legend(axes[1, -1], loc="lower right")
    plots.titled(figure, "Is the reward hacked?")
    return figure


def closing_figure(record: Mapping) -> plots.Chart:
    """The stored table: mean difference to the generator before, with its interval; lower than 0 is worse."""
    panels = {"trained": "learnt reward", "utility": "true utility", "coverage": "coverage"}
    rows = toy_reward.names(record)
    figure, axes = plots.new_chart(8.6, 0.9 + 0.3 * len(rows), 1, len(panels), sharey=True)
    for ax, (what, name) in zip(axes[0], panels.items()):
        got = [toy_reward.against_before(record, row, what) for row in rows]
        for i, each in enumerate(got):
            sign, color = _sign_of(each)
            ax.plot([each["low"], each["high"]], [i, i], color=color, linewidth=1.6)
            ax.plot(each["value"], i, "o", color=color, markersize=5)
            above = dict(xytext=(0, 4), textcoords="offset points", ha="center", fontsize=8, gid=plots.SIGN)
            ax.annotate(sign, (each["value"], i), color=color, **above)
        ax.axvline(0, color=plots.FAINT, linewidth=0.8)
        ax.set_yticks(range(len(rows)), rows)
        ax.set_ylim(len(rows) - 0.5, -0.7)
        ax.set_title(name, fontsize=9, color=plots.INK, pad=4)
        plots.plain(ax, "x")
        plots.labels(ax, "difference to before")
    axes[0, 0].set_xscale("symlog", linthresh=1)
    axes[0, 0].set_xticks([-1000, -10, 0, 10, 1000], ["-1000", "-10", "0", "10", "1000"])
    plots.titled(figure, "Three seeds: 95% intervals; ✗ all of it below 0, ✓ all of it above")
    return figure


def _sign_of(estimate: Mapping) -> tuple[str, str]:
    """A sign and a color where the interval lies on one side of zero."""
    if estimate["high"] < 0:
        return "✗", plots.WRONG
    return ("✓", plots.RIGHT) if estimate["low"] > 0 else ("", plots.FAINT)


# ---- exercises -------------------------------------------------------------------------------------------------------


@exercise("11.1")
def _click(answer):
    """click(ahead, noise, careless): the probability that a picture which is `ahead` [N] in utility is clicked."""
    ahead = torch.tensor([-0.5, 0.0, 0.2, 0.6, 3.0])
    phi, noise, careless = torch.special.ndtr, 0.3, 0.1
    z = ahead / (noise * 2**0.5)
    expect(
        call(answer, ahead, noise, careless),
        (1 - careless) * phi(z) + careless / 2,
        [
            (phi(z), "and the careless clicks?"),
            (
                (1 - careless) * phi(ahead / noise) + careless / 2,
                "both utilities carry noise: how large is that of a difference?",
            ),
            (phi(ahead / noise), "both utilities carry noise, and some clicks are careless"),
            ((1 - careless) * phi(ahead / (2 * noise)) + careless / 2, "variances add, standard deviations do not"),
            ((1 - careless) * phi(z) + careless, "a coin gives its click to this picture in half of the cases"),
            ((1 - careless) * phi(z), "a careless click can fall on this picture too"),
            (phi(z) + careless / 2, "only the careful clicks follow Thurstone; can your probability exceed 1?"),
            ((1 - careless / 2) * phi(z) + careless / 2, "how large is the share of careful clicks?"),
            ((1 - careless) * phi(-z) + careless / 2, "who is ahead should win more often"),
        ],
        "split the clicks into careful and careless ones, and add what each kind gives to this picture",
    )


@exercise("11.2")
def _tilted_normal(answer):
    """tilted_normal(m, s, a, beta): mean and standard deviation of N(m, s^2) exp(a x / beta) / Z."""
    cases = [(0.5, 0.7, 2.0, 0.4), (-1.0, 1.5, -0.5, 2.0)]
    for m, s, a, beta in cases:
        given = call(answer, m, s, a, beta)
        if not isinstance(given, (tuple, list, Tensor)) or len(given) != 2:
            raise Hint("two numbers are asked for: the mean and the standard deviation")
        mean, std = (float(value) for value in given)
        expect(
            mean,
            m + a * s**2 / beta,
            [
                (m + a / beta, "a wide normal moves further: where does s come in when you complete the square?"),
                (m + a * s / beta, "complete the square once more: the power of s"),
                (m + a * s**2, "a small beta should move it far"),
                (m + a * s**2 * beta, "a small beta should move it far, not little"),
                (m - a * s**2 / beta, "towards larger rewards"),
                (a * s**2 / beta, "from where it was: m"),
                (m + a * s**2 / (2 * beta), "collect the terms that are linear in x: m / s^2 and ..."),
            ],
            "write the exponent as -(x - mean)^2 / (2 std^2) + constant",
        )
        expect(
            std,
            s,
            [(s / beta, "which factor has x^2 in the exponent?"), (s**2, "the standard deviation, not the variance")],
            "what is the factor of x^2 in the exponent, before and after?",
        )


BETAS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)


@exercise("11.3")
def _beta(answer):
    """The beta of BETAS whose tilted distribution has the largest true utility."""
    log_p, true, learnt = on_the_line()
    means = {beta: float((tilted(log_p, learnt, beta) * true).sum()) for beta in BETAS}
    best = max(means, key=means.get)
    mistakes = {beta: "its true utility is not the largest of the six" for beta in BETAS if beta != best}
    mistakes[BETAS[0]] = "that has the largest *learnt* reward; which has the largest true utility?"
    mistakes[BETAS[-1]] = "so strong a regularizer leaves p nearly as it was"
    mistakes[means[best]] = "the beta is asked for, not the utility it reaches"
    expect_number(answer, best, mistakes, "one of BETAS: for each compute sum(q * true)")


@exercise("11.4")
def _feedback(answer):
    """feedback(generator, reward, z, threshold): ReFL's loss, with a gradient that reaches the generator."""
    scale = torch.tensor(1.5, requires_grad=True)
    z = torch.tensor([-2.0, -0.2, 0.1, 0.4, 3.0])
    reward = lambda x: 2 * x - 0.3
    given = call(answer, lambda z: scale * z, reward, z, 1.0)
    mu = reward(scale * z)
    right = F.relu(1.0 - mu).mean()
    expect(
        torch.as_tensor(given).detach(),
        right.detach(),
        [
            (F.relu(1.0 - mu.mean()).detach(), "a good picture pays for a bad one here: the hinge is of each picture"),
            (F.relu(mu - 1.0).mean().detach(), "what is punished: a reward below the threshold, or one above?"),
            ((1.0 - mu).mean().detach(), "above the threshold nothing is gained: where is the hinge?"),
            (F.relu(1.0 - mu).sum().detach(), "the mean over pictures, not the sum"),
            (F.relu(1.0 - mu).detach(), "one number: the mean over pictures"),
        ],
        "the mean over pictures of how far each is below the threshold",
    )
    if not isinstance(given, Tensor) or not given.requires_grad:
        raise Hint("the value is right, but no gradient reaches the generator: what does `no_grad` cut off?")
    (slope,) = torch.autograd.grad(given, scale)
    (wanted,) = torch.autograd.grad(right, scale)
    if not torch.allclose(slope, wanted):
        raise Hint("the value is right and the gradient is not: it must pass through the reward to the generator")
