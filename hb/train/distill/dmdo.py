"""Stage 3, DMDO, distribution matching along the ODE: the student's own six steps, judged by two scores (method.md
5.3).

A real score (the stage-1 model or the guided teacher, frozen) and a fake one, which learns what the student makes, look
at the same noised sample; their difference says where the student's distribution is too thick. Hyper-Bagel's two
changes to DMD: the student walks the Euler ODE it will be sampled with, and samples are noised along the line to the
very noise they came from ("coupled").

The literal version contracts variance on small models, which can see through the coupling
(`losses.coupled_fixed_point`), so both noisings are knobs here. DMD2's sampler (re-noising between steps) is one too.

Neither score is better than the teacher. The data are: an adversary may look at real latents beside the scores (DMD2's;
ours to add, Hyper-Bagel has one in stage 2 only).

"Forward it again through the ODE" can be read in two ways (5.3.3). As one pass, it asks every guess to look like data,
the first one too, which a walk hardly uses; as walking on to the end, it asks that of what is drawn. On nano the second
is better by far.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hb.flow import euler, interpolate, renoise_steps, shift_time, time_grid, x0_from
from hb.losses import distribution_matching_loss, hinge_generator_loss, log_rho, renoised, velocity_loss
from hb.models.bagel import Bagel
from hb.models.conditioning import StudentModel
from hb.models.critics import Discriminator, discriminate
from hb.seeding import noise_like
from hb.train.distill.batch import Round
from hb.train.distill.stage import Stage, Turn, adam, uniform


@dataclass(frozen=True)
class Rollout:
    """A walk of the student from noise to data, stored once and used by both turns.

    states[j] is where it stood at grid[j]: states[0] = z, the last is its picture. guesses[j] is the data it saw from
    there.
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
    return (z, *(x for _, x in _steps(velocity, z, grid, fresh)))


def _steps(velocity, x: Tensor, grid: Tensor, fresh):
    """The steps of a walk, lazily: whether they keep gradient is the caller's to say."""
    return euler(velocity, x, grid) if fresh is None else renoise_steps(velocity, x, grid, fresh)


def walker(branch: StudentModel, round_: Round) -> Callable[[Tensor, Tensor], Tensor]:
    """A student's velocity (x, t) for a round, at one time t [] for all of its pictures."""
    return lambda x, t: branch(x, t.to(x).expand(len(x)), round_.read, **round_.scales)


def noise_between(sampler: str, generator: torch.Generator) -> Callable[[Tensor], Tensor] | None:
    """The `fresh` of `roll_out` for a student's sampler: none for "euler", new noise for "multistep"."""
    return None if sampler == "euler" else lambda x: noise_like(x, generator)


class DistributionMatching(Stage):
    """DMDO. renoise_fake, renoise_student: "coupled" (literal), "fresh" (DMD) or "mixed", for each turn.

    judged       what the scores look at in the student's turn: "guess", what one pass from a stored state sees
                 (literal), or "end", where the walk from that state ends, with gradient through all its steps
    learns       what the fake score learns: "end", the pictures that walks end in (literal), or "guess", what any step
                 of a walk saw. Where guesses are judged, a fake score that learns ends judges what it never met; DMD2
                 learns guesses, and on a toy that is steadier (notebook 09)
    real         the real score, and what the fake one begins as: stage 1. None: the teacher, guided, in two or three
                 passes, and the fake one begins as the teacher, so that the two differ by guidance and by the student's
                 distribution alone, not by what stage 1 could not follow (Hyper-Bagel does not say which)
    adversarial  weight of a discriminator that learns real latents from the student's pictures, both noised alike
                 (DMD2, arXiv 2405.14867, section 4.3; Hyper-Bagel's stage 3 has none). What the scores do not know it
                 may: they are no better than the teacher
    r1           weight of `approximate_r1` there
    fake_times   moves of the fake score for one of the student
    alone        steps at the beginning, a tenth of the run at most, in which the fake score moves alone: until it knows
                 the student, it misleads
    times        t' of the generator's step, before the shift, and of the fake's
    sampler      "euler", or "multistep": DMD2's
    """

    watched, limit = "spread", 3.0  # standard deviation of the student's latents over the real ones'

    def __init__(
        self,
        teacher: Bagel,
        student: StudentModel,
        *,
        real: StudentModel | None = None,
        steps: int = 6,
        shift: float = 3.0,
        sampler: str = "euler",
        renoise_fake: str = "coupled",
        renoise_student: str = "coupled",
        learns: str = "end",
        judged: str = "guess",
        fake_times: int = 3,
        alone: int = 0,
        adversarial: float = 0.0,
        r1: float = 1.0,
        times: tuple[float, float] = (0.02, 0.98),
        lr: float = 5e-5,
        lr_fake: float = 1e-4,
        lr_discriminator: float = 5e-4,
        weighted: bool = True,
        **options,
    ):
        for what, value in (("a fake score learns", learns), ("scores judge", judged)):
            if value not in ("end", "guess"):
                raise ValueError(f"{what} the 'end' or the 'guess', not {value!r}")
        super().__init__(teacher, student, **options)
        self.learns, self.judged = learns, judged
        self.real = real and real.requires_grad_(False)
        self.fake = StudentModel(real or teacher)
        self.grid, self.shift, self.sampler = time_grid(steps, shift), shift, sampler
        self.renoise_fake, self.renoise_student = renoise_fake, renoise_student
        self.fake_times, self.alone, self.times, self.weighted = fake_times, alone, times, weighted
        self.adversarial, self.r1 = adversarial, r1
        self.discriminator = (
            Discriminator(StudentModel(teacher), side=teacher.config.latent_side) if adversarial else None
        )
        self.lr, self.lr_fake, self.lr_discriminator = lr, lr_fake, lr_discriminator

    def turns(self) -> list[Turn]:
        fake = Turn(
            "fake", self.fake, self.fake_loss, adam(self.fake, self.lr_fake, (0.0, 0.999)), times=self.fake_times
        )
        begins = min(self.alone, self.total // 10)
        student = Turn(
            "student", self.student, self.student_loss, adam(self.student, self.lr, (0.0, 0.999)), begins=begins
        )
        if self.discriminator is None:
            return [fake, student]
        return [
            Turn(
                "discriminator",
                self.discriminator,
                self.discriminator_loss,
                adam(self.discriminator, self.lr_discriminator),
            ),
            fake,
            student,
        ]

    def play(self, round_: Round, generator: torch.Generator) -> Rollout:
        guesses: list[Tensor] = []
        velocity = walker(self.student, round_)

        def walk(x: Tensor, t: Tensor) -> Tensor:
            v = velocity(x, t)
            guesses.append(x0_from(x, v, t.to(x).expand(len(x))))
            return v

        states = roll_out(walk, noise_like(round_.latent, generator), self.grid, noise_between(self.sampler, generator))
        rollout = Rollout(round_, self.grid, states, tuple(guesses))
        self.facts["spread"] = float(rollout.x0.std() / round_.latent.std())
        return rollout

    def draw_times(self, n: int, generator: torch.Generator, like: Tensor) -> Tensor:
        low, high = self.times
        return shift_time(low + (high - low) * uniform(n, generator, like), self.shift)

    def judge(self, round_: Round, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
        """What the discriminator says of pictures of this round, all noised with one noise to times in [0, 0.9]."""
        t, noise = 0.9 * uniform(round_.size, generator, round_.latent), noise_like(round_.latent, generator)
        return lambda x: self.discriminator(interpolate(x, noise, t), t, round_.full, **round_.scales)

    def discriminator_loss(self, rollout: Rollout, generator: torch.Generator) -> Tensor:
        round_ = rollout.round
        loss, self.facts["told_apart"] = discriminate(
            self.judge(round_, generator), round_.latent, rollout.x0, self.r1, generator
        )
        return loss

    def fake_loss(self, rollout: Rollout, generator: torch.Generator) -> Tensor:
        """The fake score learns the velocity noise - x0 of what the student makes."""
        x0, round_ = rollout.x0, rollout.round
        if self.learns == "guess":
            x0 = rollout.guess(torch.randint(0, len(rollout.guesses), (len(x0),), generator=generator))
        t = self.draw_times(len(x0), generator, x0)
        x = renoised(x0, rollout.z, noise_like(x0, generator), t, self.renoise_fake, generator)
        # on the line at time t, (x - x0) / t is the noise minus the data, whichever noise it was
        wanted = (x - x0) / t.reshape(-1, 1, 1)
        return velocity_loss(self.fake(x, t, round_.full, **round_.scales), wanted)

    def student_loss(self, rollout: Rollout, generator: torch.Generator) -> Tensor:
        """A guess of the data from one stored state, or the end of the walk from there; then where the two scores
        disagree."""
        round_, n = rollout.round, len(rollout.z)
        last = len(self.grid) - 2
        if self.judged == "end":  # one step for all: walks of one length
            j = torch.randint(0, last + 1, (1,), generator=generator).expand(n)
            x0 = self.walk_on(rollout, int(j[0]), generator)
        else:
            j = torch.randint(0, last + 1, (n,), generator=generator)
            x, t = rollout.at(j)
            x0 = x0_from(x, self.student(x, t, round_.read, **round_.scales), t)
        again = self.draw_times(n, generator, x0)
        with torch.no_grad():
            y = renoised(x0, rollout.z, noise_like(x0, generator), again, self.renoise_student, generator)
            real, fake = (
                x0_from(y, v, again)
                for v in (self.real_velocity(y, again, round_), self.fake(y, again, round_.full, **round_.scales))
            )
            self.facts["log_rho"] = float(log_rho(x0, real, fake))
            at_last = j == last
            if (
                at_last.any()
            ):  # over all steps the number does not show that the fake score sees through the coupling; here it does
                self.facts["log_rho_last"] = float(log_rho(x0[at_last], real[at_last], fake[at_last]))
        loss = distribution_matching_loss(x0, real, fake, self.weighted)
        if self.adversarial:
            loss = loss + self.adversarial * hinge_generator_loss(self.judge(round_, generator)(x0))
        return loss

    def walk_on(self, rollout: Rollout, j: int, generator: torch.Generator) -> Tensor:
        """The end of the walk from its stored state j, with gradient through every step that is left."""
        walk = walker(self.student, rollout.round)
        *_, (_, end) = _steps(walk, rollout.states[j], self.grid[j:], noise_between(self.sampler, generator))
        return end

    def real_velocity(self, y: Tensor, t: Tensor, round_: Round) -> Tensor:
        """What the real score says, without gradient."""
        return (
            self.guided(self.teacher, y, t, round_)
            if self.real is None
            else self.real(y, t, round_.full, **round_.scales)
        )
