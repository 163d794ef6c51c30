"""Stage 3, DMDO, distribution matching along the ODE: two scores compare the student's own six steps (method.md 5.3).

A real score (the stage-1 model or the guided teacher, frozen) and a fake one, which learns the student's distribution,
are evaluated at the same noised sample; their difference says where the student's density is too high. Hyper-Bagel's
two changes to DMD: the student follows the Euler ODE with which it will be sampled, and samples are noised along the
line to the very noise they came from ("coupled").

The literal version contracts variance on small models, which can invert the coupling (`losses.coupled_fixed_point`), so
both noisings are options here. DMD2's sampler (re-noising between steps) is one too.

Neither score is better than the teacher. The data are: a discriminator may compare with real latents beside the scores
(DMD2's; ours to add, Hyper-Bagel has one in stage 2 only).

"Forward it again through the ODE" can be read in two ways (5.3.3). As one pass, it requires every guess to look like
data, the first one too, which a trajectory hardly uses; as following the ODE to its end, it requires that of what is
drawn. On nano the second is better by far.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from hb.flow import euler, interpolate, multistep_consistency, shift_time, time_grid, x0_from
from hb.losses import distribution_matching_loss, hinge_generator_loss, log_rho, renoised, velocity_loss
from hb.models.bagel import Bagel
from hb.models.conditioning import StudentModel
from hb.models.critics import Discriminator, discriminate
from hb.seeding import noise_like
from hb.train.distill.batch import StageBatch
from hb.train.distill.rewarded import DecodesPictures, Reward
from hb.train.distill.stage import Stage, Update, uniform
from hb.train.optim import adam, refuse_not_finite


@dataclass(frozen=True)
class Rollout:
    """A trajectory of the student from noise to data, stored once and used by all updates of a step.

    states[j] is the state at grid[j]: states[0] = z, the last is the picture. guesses[j] is the data predicted there.
    """

    batch: StageBatch
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
        """The data predicted at each sample's own step j [B]."""
        return _each(self.guesses, j)


def _each(stored: tuple[Tensor, ...], j: Tensor) -> Tensor:
    rows = torch.arange(len(j), device=stored[0].device)
    return torch.stack(stored)[j.to(stored[0].device), rows]


@torch.no_grad()
def roll_out(velocity: Callable[[Tensor, Tensor], Tensor], z: Tensor, grid: Tensor, fresh=None) -> tuple[Tensor, ...]:
    """All states of a trajectory from z. fresh: None for Euler; else the noise added between two guesses (DMD2)."""
    return (z, *(x for _, x in _steps(velocity, z, grid, fresh)))


def end_of(velocity: Callable[[Tensor, Tensor], Tensor], x: Tensor, grid: Tensor, fresh=None) -> Tensor:
    """The end of a trajectory from x, with gradient through every step."""
    *_, (_, end) = _steps(velocity, x, grid, fresh)
    return end


def _steps(velocity, x: Tensor, grid: Tensor, fresh):
    """The steps of a sampler, lazily; whether they keep gradient is the caller's decision."""
    return euler(velocity, x, grid) if fresh is None else multistep_consistency(velocity, x, grid, fresh)


def student_velocity(branch: StudentModel, batch: StageBatch) -> Callable[[Tensor, Tensor], Tensor]:
    """A student's velocity (x, t) for a batch, at one time t [] for all of its pictures."""
    return lambda x, t: branch(x, t.to(x).expand(len(x)), batch.student_context, grid=batch.grid, **batch.scales)


def noise_between(sampler: str, generator: torch.Generator) -> Callable[[Tensor], Tensor] | None:
    """The `fresh` of `roll_out` for a student's sampler: none for "euler", new noise for "multistep"."""
    return None if sampler == "euler" else lambda x: noise_like(x, generator)


# What options were called until 0.1, in the settings that students and runs have kept
RENAMED = dict(judged="sample_student", learns="sample_fake", fake_times="fake_updates", alone="fake_warmup")


@dataclass(frozen=True)
class MatchingSettings:
    """What DMDO leaves open, and where it can differ from what is printed.

    steps, shift, sampler   of the student's trajectory; sampler: "euler", or "multistep": DMD2's
    renoise_fake, renoise_student   "coupled" (literal), "fresh" (DMD) or "mixed", for each update
    sample_fake  what the fake score is trained on: "end", the pictures at the end of trajectories (literal), or
                 "guess", the data predicted at any step. Where guesses are scored, a fake score that is trained on ends
                 is evaluated where it was not trained; DMD2 trains on guesses, and on a toy that is steadier (notebook
                 09)
    sample_student   where the scores are evaluated in the student's update: "guess", the data predicted by one pass
                 from a stored state (literal), or "end", the end of the trajectory from that state, with gradient
                 through all its steps
    fake_updates updates of the fake score for one of the student
    fake_warmup  steps at the beginning, a tenth of the run at most, in which the fake score is trained alone: before it
                 fits the student's distribution, its gradient misleads
    adversarial  weight of a discriminator between real latents and the student's pictures, both noised alike (DMD2,
                 arXiv 2405.14867, section 4.3; Hyper-Bagel's stage 3 has none). The scores are no better than the
                 teacher; it may be
    r1           weight of `approximate_r1` there
    reward       weight of a reward's hinge beside the scores (stage 5 on distribution matching; none in Hyper-Bagel's
                 stage 3)
    times        t' of the generator's step, before the shift, and of the fake's
    weighted     False: without the denominator of `matching_direction`
    """

    steps: int = 6
    shift: float = 3.0
    sampler: str = "euler"
    renoise_fake: str = "coupled"
    renoise_student: str = "coupled"
    sample_fake: str = "end"
    sample_student: str = "guess"
    fake_updates: int = 3
    fake_warmup: int = 0
    adversarial: float = 0.0
    r1: float = 1.0
    reward: float = 0.0
    times: tuple[float, float] = (0.02, 0.98)
    lr: float = 5e-5
    lr_fake: float = 1e-4
    lr_discriminator: float = 5e-4
    weighted: bool = True

    def __post_init__(self):
        refuse_not_finite(adversarial=self.adversarial, r1=self.r1, reward=self.reward)
        for name in ("sample_fake", "sample_student"):
            if getattr(self, name) not in ("end", "guess"):
                raise ValueError(f"{name} is 'end' or 'guess', not {getattr(self, name)!r}")


class DistributionMatching(DecodesPictures, Stage):
    """DMDO. Options: the fields of `MatchingSettings`, and those of `Stage`.

    real   the real score, and what the fake one begins as: stage 1. None: the teacher, guided, in two or three passes;
           the fake one then begins as the teacher, so that the two differ by guidance and by the student's distribution
           alone, not by what stage 1 could not learn (Hyper-Bagel does not say which)
    decoder, reward_model   see `DecodesPictures`
    """

    watched, limit = "spread", 3.0  # standard deviation of the student's latents over the real ones'

    def __init__(
        self,
        teacher: Bagel,
        student: StudentModel,
        *,
        real: StudentModel | None = None,
        decoder: nn.Module | None = None,
        reward_model: Reward | None = None,
        **options,
    ):
        own = {f.name: options.pop(f.name) for f in fields(MatchingSettings) if f.name in options}
        settings = MatchingSettings(**own)
        super().__init__(teacher, student, **options)
        self.set_decoder_and_reward(decoder, reward_model, settings.reward)
        self.settings, self.grid = settings, time_grid(settings.steps, settings.shift)
        self.real = real and real.requires_grad_(False)
        self.fake = StudentModel(real or teacher)
        side = teacher.config.latent_side
        self.discriminator = Discriminator(StudentModel(teacher), side=side) if settings.adversarial else None

    def updates(self) -> list[Update]:
        own, slow = self.settings, (0.0, 0.999)
        fake = adam(self.fake, own.lr_fake, slow)
        student = adam(self.student, own.lr, slow)
        start = min(own.fake_warmup, self.total // 10)
        updates = [
            Update("fake", self.fake, self.fake_loss, fake, repeats=own.fake_updates),
            Update("student", self.student, self.student_loss, student, start=start),
        ]
        if self.discriminator is None:
            return updates
        critic = adam(self.discriminator, own.lr_discriminator)
        return [Update("discriminator", self.discriminator, self.discriminator_loss, critic), *updates]

    def shared_state(self, batch: StageBatch, generator: torch.Generator) -> Rollout:
        guesses: list[Tensor] = []
        velocity = student_velocity(self.student, batch)

        def recorded(x: Tensor, t: Tensor) -> Tensor:
            v = velocity(x, t)
            guesses.append(x0_from(x, v, t.to(x).expand(len(x))))
            return v

        fresh = noise_between(self.settings.sampler, generator)
        states = roll_out(recorded, noise_like(batch.latent, generator), self.grid, fresh)
        rollout = Rollout(batch, self.grid, states, tuple(guesses))
        self.facts["spread"] = float(rollout.x0.std() / batch.latent.std())
        return rollout

    def draw_times(self, n: int, generator: torch.Generator, like: Tensor) -> Tensor:
        low, high = self.settings.times
        return shift_time(low + (high - low) * uniform(n, generator, like), self.settings.shift)

    def critic(self, batch: StageBatch, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
        """The discriminator's logits of pictures of this batch, all noised with one noise to times in [0, 0.9]."""
        t, noise = 0.9 * uniform(batch.size, generator, batch.latent), noise_like(batch.latent, generator)
        inputs = dict(batch.scales, grid=batch.grid)
        return lambda x: self.discriminator(interpolate(x, noise, t), t, batch.full, **inputs)

    def discriminator_loss(self, rollout: Rollout, generator: torch.Generator) -> Tensor:
        batch, r1 = rollout.batch, self.settings.r1
        critic = self.critic(batch, generator)
        loss, self.facts["told_apart"] = discriminate(critic, batch.latent, rollout.x0, r1, generator)
        return loss

    def fake_loss(self, rollout: Rollout, generator: torch.Generator) -> Tensor:
        """The fake score learns the velocity noise - x0 of the student's pictures."""
        x0, batch = rollout.x0, rollout.batch
        if self.settings.sample_fake == "guess":
            x0 = rollout.guess(torch.randint(0, len(rollout.guesses), (len(x0),), generator=generator))
        t = self.draw_times(len(x0), generator, x0)
        x = renoised(x0, rollout.z, noise_like(x0, generator), t, self.settings.renoise_fake, generator)
        # on the line at time t, (x - x0) / t is the noise minus the data, whichever noise it was
        target = (x - x0) / t.reshape(-1, 1, 1)
        return velocity_loss(self.fake(x, t, batch.full, grid=batch.grid, **batch.scales), target)

    def student_loss(self, rollout: Rollout, generator: torch.Generator) -> Tensor:
        """The data predicted from one stored state, or the end of the trajectory from there; then the difference of the
        two scores."""
        own, batch, n = self.settings, rollout.batch, len(rollout.z)
        j, x0 = self.predicted(rollout, generator)
        again = self.draw_times(n, generator, x0)
        with torch.no_grad():
            y = renoised(x0, rollout.z, noise_like(x0, generator), again, own.renoise_student, generator)
            fake_v = self.fake(y, again, batch.full, grid=batch.grid, **batch.scales)
            real, fake = (x0_from(y, v, again) for v in (self.real_velocity(y, again, batch), fake_v))
            self._note_log_rho(x0, real, fake, at_last=j == len(self.grid) - 2)
        loss = distribution_matching_loss(x0, real, fake, own.weighted)
        if own.adversarial:
            loss = loss + own.adversarial * hinge_generator_loss(self.critic(batch, generator)(x0))
        if own.reward:
            loss = loss + own.reward * self.reward_loss(x0, batch)
        return loss

    def predicted(self, rollout: Rollout, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The stored step [B] from which each sample is predicted, and the prediction, with gradient."""
        batch, n = rollout.batch, len(rollout.z)
        if self.settings.sample_student == "end":  # one step for all: trajectories of one length
            j = torch.randint(0, len(self.grid) - 1, (1,), generator=generator).expand(n)
            return j, self.continue_rollout(rollout, int(j[0]), generator)
        j = torch.randint(0, len(self.grid) - 1, (n,), generator=generator)
        x, t = rollout.at(j)
        return j, x0_from(x, self.student(x, t, batch.student_context, grid=batch.grid, **batch.scales), t)

    def continue_rollout(self, rollout: Rollout, j: int, generator: torch.Generator) -> Tensor:
        """The end of the trajectory from its stored state j, with gradient through every step that is left."""
        velocity = student_velocity(self.student, rollout.batch)
        fresh = noise_between(self.settings.sampler, generator)
        return end_of(velocity, rollout.states[j], self.grid[j:], fresh)

    def real_velocity(self, y: Tensor, t: Tensor, batch: StageBatch) -> Tensor:
        """The real score's velocity, without gradient."""
        if self.real is None:
            return self.guided(self.teacher, y, t, batch)
        return self.real(y, t, batch.full, grid=batch.grid, **batch.scales)

    def _note_log_rho(self, x0: Tensor, real: Tensor, fake: Tensor, at_last: Tensor) -> None:
        """Over all steps the number hides that the fake score inverts the coupling; at the last step it shows."""
        self.facts["log_rho"] = float(log_rho(x0, real, fake))
        if at_last.any():
            self.facts["log_rho_last"] = float(log_rho(x0[at_last], real[at_last], fake[at_last]))
