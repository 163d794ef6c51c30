"""Other roads from a reward to a student, beside stage 5. Both train the six-evaluation student and keep its steps.

DRaFT          (Clark et al. 2023, arXiv 2309.17400) follows the reward's gradient back through the last steps
Diffusion-DPO  (Wallace et al. 2023, arXiv 2311.12908) learns from pairs, of which one is preferred, and never
               differentiates a reward. Here the pairs are made as it trains: of the source's pictures of a prompt, the
               one with the largest reward and the one with the smallest
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hb.flow import interpolate, velocity_of
from hb.losses import consistency_loss
from hb.models.conditioning import StudentModel
from hb.preference_losses import diffusion_dpo_loss, reward_feedback_loss
from hb.seeding import noise_like
from hb.train.distill.adp import prompts_of
from hb.train.distill.batch import StageBatch
from hb.train.distill.dmdo import end_of, noise_between, roll_out, student_velocity
from hb.train.distill.rewarded import SourcedStage
from hb.train.distill.stage import Update
from hb.train.optim import adam, refuse_not_finite


@dataclass(frozen=True)
class DraftSettings:
    """last    steps at the end of the trajectory that keep gradient: K of DRaFT-K
    hinge   whether a reward counts below its threshold alone, as in stage 5; not so as printed
    keep    weight of `consistency_loss` to where the source takes the same noise; as printed there is none
    """

    last: int = 1
    hinge: bool = False
    keep: float = 0.0
    lr: float = 5e-5

    def __post_init__(self):
        refuse_not_finite(keep=self.keep, learning_rate=self.lr)
        if self.last < 1:
            raise ValueError(f"gradient goes through the last steps, 1 or more, not {self.last}")


class Draft(SourcedStage):
    """DRaFT. Options: the fields of `DraftSettings`, and those of `Stage`."""

    settings_class = DraftSettings

    def updates(self) -> list[Update]:
        return [Update("student", self.student, self.student_loss, adam(self.student, self.settings.lr, (0.9, 0.999)))]

    def student_loss(self, batch: StageBatch, generator: torch.Generator) -> Tensor:
        own = self.settings
        z = noise_like(batch.latent, generator)
        velocity, fresh = student_velocity(self.student, batch), noise_between(self.sampler, generator)
        begin = max(0, len(self.grid) - 1 - own.last)
        x = roll_out(velocity, z, self.grid[: begin + 1], fresh)[-1] if begin else z
        end = end_of(velocity, x, self.grid[begin:], fresh)
        rewards, threshold = self.rewards(end, batch)
        loss = reward_feedback_loss(rewards, threshold) if own.hinge else -rewards.mean()
        if own.keep:
            theirs = roll_out(student_velocity(self.source, batch), z, self.grid, fresh)[-1]
            loss = loss + own.keep * consistency_loss(end, theirs)
        return loss


@dataclass(frozen=True)
class DpoSettings:
    """beta    of `diffusion_dpo_loss`, for errors that are means over a latent's values"""

    beta: float = 500.0
    lr: float = 5e-5

    def __post_init__(self):
        refuse_not_finite(beta=self.beta, learning_rate=self.lr)
        if not self.beta > 0:
            raise ValueError(f"beta is above 0, not {self.beta:g}")


@dataclass(frozen=True)
class RankedPairs:
    """Of each of P prompts, or edits, the best and the worst of the source's latents [P, n, values]."""

    batch: StageBatch
    better: Tensor
    worse: Tensor


class DiffusionDpo(SourcedStage):
    """Diffusion-DPO at the times of the student's own steps, the only ones at which it is evaluated.

    Options: the fields of `DpoSettings`, and those of `Stage`.
    """

    settings_class = DpoSettings

    def updates(self) -> list[Update]:
        return [Update("student", self.student, self.student_loss, adam(self.student, self.settings.lr, (0.9, 0.999)))]

    @torch.no_grad()
    def shared_state(self, batch: StageBatch, generator: torch.Generator) -> RankedPairs:
        fresh = noise_between(self.sampler, generator)
        z = noise_like(batch.latent, generator)
        end = roll_out(student_velocity(self.source, batch), z, self.grid, fresh)[-1]
        rewards, _ = self.rewards(end, batch)
        sets = prompts_of(batch)
        best, worst = (find(rewards[sets], 1) for find in (torch.argmax, torch.argmin))
        every = torch.arange(len(sets), device=sets.device)
        return RankedPairs(batch.select(sets[:, 0]), end[sets[every, best]], end[sets[every, worst]])

    def student_loss(self, pairs: RankedPairs, generator: torch.Generator) -> Tensor:
        x0, batch = pairs.better, pairs.batch
        noise = noise_like(x0, generator)
        t = self.grid[torch.randint(0, len(self.grid) - 1, (len(x0),), generator=generator)].to(x0)

        def error(branch: StudentModel, x0: Tensor) -> Tensor:
            v = branch(interpolate(x0, noise, t), t, batch.student_context, grid=batch.grid, **batch.scales)
            return (v - velocity_of(x0, noise)).float().square().mean((1, 2))

        with torch.no_grad():
            before = [error(self.source, x) for x in (pairs.better, pairs.worse)]
        now = [error(self.student, x) for x in (pairs.better, pairs.worse)]
        ahead = (now[0] - before[0]) < (now[1] - before[1])
        self.facts["ahead"] = float(ahead.float().mean())
        return diffusion_dpo_loss(*now, *before, self.settings.beta)
