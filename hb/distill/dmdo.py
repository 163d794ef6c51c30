"""Stage 3, DMDO, distribution matching along the ODE: the student's own six steps, judged by two scores (method.md 5.3).

A real score (the stage-1 model, frozen) and a fake one, which learns what the student makes, look at the same noised sample;
their difference says where the student's law is too thick. Hyper-Bagel's two changes to DMD: the student walks the Euler ODE
it will be sampled with, and samples are noised along the line to the very noise they came from ("coupled").

The literal version contracts variance on small models, which can see through the coupling (`losses.coupled_fixed_point`), so
both noisings are knobs here. DMD2's sampler (re-noising between steps) is one too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hb.distill.losses import distribution_matching_loss, log_rho, renoised, velocity_loss
from hb.distill.rounds import Round
from hb.distill.stage import Stage, Turn, adam, noise_like, uniform
from hb.flow import euler, renoise_steps, shift_time, time_grid, x0_from
from hb.model.bagel import Bagel
from hb.model.guided import Branch, guided_branch


@dataclass(frozen=True)
class Rollout:
    """A walk of the student from noise to data, stored once and used by both turns.

    states[j] is where it stood at grid[j]: states[0] = z, the last is its picture. guesses[j] is the data it saw from there.
    """

    round: Round
    grid: Tensor
    states: tuple[Tensor, ...]
    guesses: tuple[Tensor, ...] = ()

    @property
    def z(self) -> Tensor:
        return self.states[0]

    @property
    def x0(self) -> Tensor:
        return self.states[-1]

    def at(self, j: Tensor) -> tuple[Tensor, Tensor]:
        """State and time of each sample's own step j [B]."""
        return _each(self.states, j), self.grid.to(self.z)[j]

    def guess(self, j: Tensor) -> Tensor:
        """What each sample's own step j [B] saw."""
        return _each(self.guesses, j)


def _each(stored: tuple[Tensor, ...], j: Tensor) -> Tensor:
    rows = torch.arange(len(j), device=stored[0].device)
    return torch.stack(stored)[j.to(stored[0].device), rows]


@torch.no_grad()
def roll_out(velocity: Callable[[Tensor, Tensor], Tensor], z: Tensor, grid: Tensor, fresh=None) -> tuple[Tensor, ...]:
    """All states of a walk from z. fresh: None for Euler; else the noise that is added between two guesses (DMD2)."""
    steps = euler(velocity, z, grid) if fresh is None else renoise_steps(velocity, z, grid, fresh)
    return (z, *(x for _, x in steps))


def noise_between(sampler: str, dice: torch.Generator) -> Callable[[Tensor], Tensor] | None:
    """The `fresh` of `roll_out` for a student's sampler: none for "euler", new noise for "renoise"."""
    return None if sampler == "euler" else lambda x: noise_like(x, dice)


class DistributionMatching(Stage):
    """DMDO. renoise_fake, renoise_student: "coupled" (literal), "fresh" (DMD) or "mixed", for each turn.

    learns       what the fake score learns: "end", the pictures that walks end in (literal), or "guess", what any step of a
                 walk saw. The student's turn judges guesses, so a fake score that learns ends judges what it never met;
                 DMD2 learns guesses, and on a toy that is steadier (notebook 09)
    fake_times   moves of the fake score for one of the student
    times        t' of the generator's step, before the shift, and of the fake's
    sampler      "euler", or "renoise": DMD2's
    """

    watched, limit = "spread", 3.0  # standard deviation of the student's latents over the real ones'

    def __init__(
        self, teacher: Bagel, student: Branch, real: Branch, *, steps: int = 6, shift: float = 3.0, sampler: str = "euler",
        renoise_fake: str = "coupled", renoise_student: str = "coupled", learns: str = "end", fake_times: int = 3,
        times: tuple[float, float] = (0.02, 0.98), lr: float = 5e-5, lr_fake: float = 1e-4, weighted: bool = True, **options,
    ):  # fmt: skip
        if learns not in ("end", "guess"):
            raise ValueError(f"a fake score learns the 'end' or the 'guess', not {learns!r}")
        super().__init__(teacher, student, **options)
        self.learns = learns
        self.real = real.requires_grad_(False)
        self.fake = guided_branch(real.model)
        self.grid, self.shift, self.sampler = time_grid(steps, shift), shift, sampler
        self.renoise_fake, self.renoise_student = renoise_fake, renoise_student
        self.fake_times, self.times, self.weighted = fake_times, times, weighted
        self.lr, self.lr_fake = lr, lr_fake

    def turns(self) -> list[Turn]:
        fake = Turn("fake", self.fake, self.fake_loss, adam(self.fake, self.lr_fake, (0.0, 0.999)), times=self.fake_times)
        return [fake, Turn("student", self.student, self.student_loss, adam(self.student, self.lr, (0.0, 0.999)))]

    def play(self, round_: Round, dice: torch.Generator) -> Rollout:
        guesses: list[Tensor] = []

        def walk(x: Tensor, t: Tensor) -> Tensor:
            v = self.student(x, t.to(x).expand(len(x)), round_.full, **round_.scales)
            guesses.append(x0_from(x, v, t.to(x).expand(len(x))))
            return v

        states = roll_out(walk, noise_like(round_.latent, dice), self.grid, noise_between(self.sampler, dice))
        rollout = Rollout(round_, self.grid, states, tuple(guesses))
        self.facts["spread"] = float(rollout.x0.std() / round_.latent.std())
        return rollout

    def draw_times(self, n: int, dice: torch.Generator, like: Tensor) -> Tensor:
        low, high = self.times
        return shift_time(low + (high - low) * uniform(n, dice, like), self.shift)

    def fake_loss(self, rollout: Rollout, dice: torch.Generator) -> Tensor:
        """The fake score learns the velocity noise - x0 of what the student makes."""
        x0, round_ = rollout.x0, rollout.round
        if self.learns == "guess":
            x0 = rollout.guess(torch.randint(0, len(rollout.guesses), (len(x0),), generator=dice))
        t = self.draw_times(len(x0), dice, x0)
        x = renoised(x0, rollout.z, noise_like(x0, dice), t, self.renoise_fake, dice)
        # on the line at time t, (x - x0) / t is the noise minus the data, whichever noise it was
        wanted = (x - x0) / t.reshape(-1, 1, 1)
        return velocity_loss(self.fake(x, t, round_.full, **round_.scales), wanted)

    def student_loss(self, rollout: Rollout, dice: torch.Generator) -> Tensor:
        """One stored point, one pass with gradient, one guess of the data; then where the two scores disagree about it."""
        round_, n = rollout.round, len(rollout.z)
        j = torch.randint(0, len(self.grid) - 1, (n,), generator=dice)
        x, t = rollout.at(j)
        x0 = x0_from(x, self.student(x, t, round_.full, **round_.scales), t)
        again = self.draw_times(n, dice, x0)
        with torch.no_grad():
            y = renoised(x0, rollout.z, noise_like(x0, dice), again, self.renoise_student, dice)
            real, fake = (x0_from(y, v(y, again, round_.full, **round_.scales), again) for v in (self.real, self.fake))
            self.facts["log_rho"] = float(log_rho(x0, real, fake))
            last = j == len(self.grid) - 2
            if last.any():  # over all steps the number does not show that the fake score sees through the coupling; here it does
                self.facts["log_rho_last"] = float(log_rho(x0[last], real[last], fake[last]))
        return distribution_matching_loss(x0, real, fake, self.weighted)
