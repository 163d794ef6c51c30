"""Notebook 09, distribution matching: two scores and the points between them."""

from __future__ import annotations

import ipywidgets as w
import torch
from torch import Tensor

from hb import plots
from hb.course import plane
from hb.course.exercises import call, exercise, expect, seeded
from hb.course.widgets import live, slider
from hb.exact import FiniteData, GaussianMixture
from hb.flow import euler, time_grid, x0_from
from hb.losses import renoised

WAYS = {
    "fresh": ("fresh", "fresh"),
    "coupled": ("coupled", "coupled"),
    "fake fresh, student coupled": ("fresh", "coupled"),
}


def two_guesses(
    distribution: GaussianMixture,
    x0: Tensor,
    z: Tensor,
    t: Tensor,
    way: str = "fresh",
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """A student of N points x0 [N, 2], each with the noise z it was made from: its points at time t [N], and the data
    behind them as the exact real score and the exact fake score guess it.

    Noised afresh, the student's distribution at time t is a mixture of N Gaussians. Coupled, a noised point lies on the
    line of one pair only, so a perfect fake score gives x0 back.
    """
    if way not in WAYS:
        raise ValueError(f"no way to re-noise called {way!r}; choose from {', '.join(WAYS)}")
    learnt, asked = WAYS[way]
    y = renoised(x0, z, torch.randn(x0.shape, generator=generator), t, asked)
    real = x0_from(y, distribution.velocity(y, t), t)
    fake = x0 if learnt == "coupled" else x0_from(y, FiniteData(x0).velocity(y, t), t)
    return y, real, fake


UPDATES = 100  # as many as the slider has


def contracting(distribution: GaussianMixture, x0: Tensor, z: Tensor, way: str, updates: int, seed: int = 0) -> Tensor:
    """A student of free points while two exact scores push it: its states [updates + 1, N, 2].

    Each move is a tenth of the way from the fake guess to the real one, without DMD's scale.
    """
    generator, states = torch.Generator().manual_seed(seed), [x0]
    for _ in range(updates):
        t = 0.02 + 0.96 * torch.rand(len(z), generator=generator)
        _, real, fake = two_guesses(distribution, states[-1], z, t, way, generator)
        states.append(states[-1] + 0.1 * (real - fake))
    return torch.stack(states)


def _right_student(distribution: GaussianMixture, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noises, and where the exact flow takes them."""
    z = torch.randn(count, 2, generator=generator)
    *_, (_, right) = euler(distribution.velocity, z, time_grid(60))
    return z, right


def _two_scores(
    distribution: GaussianMixture,
    x0: Tensor,
    z: Tensor,
    t: float,
    way: str,
    title: str,
    generator: torch.Generator,
    shown: int = 60,
) -> plots.Chart:
    drawn = [two_guesses(distribution, x0, z, torch.full((len(z),), t), way, generator) for _ in range(12)]
    y, real, fake = drawn[0]
    panels = {
        "the real score's guess": (y, real, plots.RIGHT),
        "the fake score's guess": (y, fake, plots.GENERATION),
        "where the student goes": (x0, x0 + sum(real - fake for _, real, fake in drawn) / len(drawn), plots.INK),
    }
    panels = {name: (start[:shown], end[:shown], color) for name, (start, end, color) in panels.items()}
    return plane.arrows(panels, data=distribution.sample(200, generator), limit=3.0, title=title)


def _two_scores_title(t: float, spread: float, way: str, updates: int) -> str:
    return f"Noised to t' = {t:g} ({way}), spread {spread:g}" + (f", after {updates} updates" if updates else "")


def two_scores_figure(
    distribution: GaussianMixture,
    *,
    t: float = 0.5,
    spread: float = 0.6,
    way: str = "fresh",
    updates: int = 0,
    count: int = 400,
) -> plots.Chart:
    """Both guesses behind the same noised points; and where the student is sent: their difference, over twelve noises.

    The student is what the exact flow makes of `count` noises, narrowed or widened by `spread` (at 1 its distribution
    is right), and then moved so often by the two scores themselves.
    """
    generator = torch.Generator().manual_seed(0)
    z, right = _right_student(distribution, count, generator)
    x0 = contracting(distribution, spread * right, z, way, updates)[-1]
    return _two_scores(distribution, x0, z, t, way, _two_scores_title(t, spread, way, updates), generator)


def two_scores(distribution: GaussianMixture, count: int = 400) -> w.VBox:
    """Let the student move, and turn the noise time, its spread at the start and the way of re-noising."""
    last: dict[tuple, Tensor] = {}

    def draw(updates, way, spread, t):
        t, spread, generator = round(t, 2), round(spread, 2), torch.Generator().manual_seed(0)
        z, right = _right_student(distribution, count, generator)
        if (spread, way) not in last:  # all states at once: the slider of updates only looks them up
            last.clear()
            last[spread, way] = contracting(distribution, spread * right, z, way, UPDATES)
        x0 = last[spread, way][updates]
        chart = _two_scores(distribution, x0, z, t, way, _two_scores_title(t, spread, way, updates), generator)
        return chart, f"the student's spread, over the data's: {x0.std() / right.std():.2f}"

    return live(
        draw,
        updates=slider(w.IntSlider, 0, 0, UPDATES, 5, "updates"),
        way=w.Dropdown(options=list(WAYS), value="coupled", description="way"),
        spread=slider(w.FloatSlider, 1.0, 0.2, 1.6, 0.1, "spread"),
        t=slider(w.FloatSlider, 0.5, 0.05, 0.95, 0.05, "t'"),
    )


# ---- exercises -------------------------------------------------------------------------------------------------------


@exercise("9.1")
def _matching_direction(answer):
    """direction(x0, real, fake) of samples [B, n, values]: the slope of the loss, one scale for each sample."""
    size = torch.tensor([1.0, 3.0, 0.5])[:, None, None]
    x0, real, fake = (size * torch.randn(3, 4, 2, generator=seeded(i)) for i in range(3))
    far = (x0 - real).abs()
    scale = far.mean((1, 2), keepdim=True)
    expect(
        call(answer, x0, real, fake),
        (fake - real) / scale,
        [
            (
                (real - fake) / scale,
                "that is where samples should go; a loss falls *against* its slope, so fake - real",
            ),
            (fake - real, "the scale is missing: divide by the mean of |x0 - real|"),
            ((fake - real) / far.mean(), "each sample has a scale of its own: no mean over the batch"),
            (
                (fake - real) / (x0 - fake).abs().mean((1, 2), keepdim=True),
                "the scale is the distance to the real guess",
            ),
            ((fake - real) / far, "one number for a sample, or each value only keeps its sign"),
            ((fake - real) / far.mean(2, keepdim=True), "one number for a sample: the mean over tokens and values"),
            ((fake - real) / far.sum((1, 2), keepdim=True), "the mean of |x0 - real|, not the sum"),
            ((fake - real) / (x0 - real).square().mean((1, 2), keepdim=True), "absolute differences, not squares"),
            (x0 - (fake - real) / scale, "that is where the samples would be after a step: give the slope alone"),
        ],
        "(fake - real) / mean |x0 - real|, the mean over all but the first dimension",
    )


@exercise("9.2")
def _coupled_stop(answer):
    """stops_at(s, t): where a = coupled student of N(0, s^2) stops if all re-noising goes to one time t."""
    for s, t in ((1.0, 0.25), (0.5, 0.4), (2.0, 0.7)):
        c = (1 - t) * s**2 / ((1 - t) ** 2 * s**2 + t**2)
        expect(
            call(answer, s, t),
            s**2 * (1 - t) / t,
            [
                (s, "that is where fresh noise stops; here the noised point is ((1 - t) a + t) z"),
                (c * t, "that solves a = c t, but the noised point holds a too: bring its (1 - t) a to the left"),
                (c, "c is the share the real score keeps of y; where does a z equal c y?"),
                (c * t / (1 - c), "1 - c (1 - t) below the line: a is multiplied by 1 - t when noised"),
                (c * t / (1 + c * (1 - t)), "the sign: a - c (1 - t) a = c t"),
                (s**2 * t / (1 - t), "upside down: the more noise, the narrower"),
                (s * ((1 - t) / t) ** 0.5, "no root: a itself appears, not its square"),
                (s * (1 - t) / t, "s enters as a variance, squared"),
                ((1 - t) / t, "s is missing: it enters as a variance, squared"),
            ],
            "the push is a - c ((1 - t) a + t) with c as in the text; set it to zero and solve for a",
            atol=1e-4,
        )


@exercise("9.3")
def _stored_state(answer):
    """start_of(t, grid): number j of the stored state from which the student of times t [B] begins."""
    grid = time_grid(6, 3.0)
    t = torch.cat([torch.tensor([0.99, 0.9, 0.8, 0.65, 0.5, 0.1, 0.01]), grid[1:-1]])  # some on the grid itself
    right = (grid > t[:, None]).sum(1) - 1
    even = (6 * (1 - t)).long()
    given = torch.as_tensor(call(answer, t, grid))
    expect(
        given,
        right,
        [
            (
                (grid >= t[:, None]).sum(1) - 1,
                "where t stands on the grid, the student begins above it too: grid[j] > t, not >=",
            ),
            (right + 1, "that state lies below t; the student comes from above it: grid[j] > t"),
            (5 - right, "states are stored from noise to data: state 0 is at t = 1"),
            (right - 1, "one too high up: grid[j + 1] <= t < grid[j]"),
            ((grid - t[:, None]).abs().argmin(1), "not the nearest: the one just above t"),
            (even, "the grid is shifted, so its times are not evenly spaced: compare t with them"),
            ((6 * t).long(), "states are stored from noise to data, and the grid is shifted: compare t with its times"),
            (grid[right], "the number of the state, not its time"),
        ],
        "the last j with grid[j] > t: how many times of the grid lie above t?",
        atol=0.1,
    )
