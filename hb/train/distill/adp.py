"""Stages 4 and 5: one step. Adversarial pre-training on ODE pairs (ADP) and reward feedback (ReFL), by configuration.

Hyper-Bagel's stage 4 (method.md 6.1): the six-evaluation student follows its ODE from noise z to an end x0, online; the
generator, which begins as that student, predicts x0 from a point on the line between the two; a discriminator on noised
latents and one on decoded pictures compare the prediction with x0. Its stage 5 (6.2) adds a reward.

The other ways to one step are the same class with other weights:

regression      the distance to x0 alone. It ends at the conditional mean, and z decides x0, so little is averaged
continued       regression onto ends that begin with the student's own prediction
deepened        the same, with layers of the student's own behind those it began with; so `one-nfe` is made
MMD             no discriminator: the distance between the distributions within a prompt (iRDM, arXiv 2607.02375)

What is ours: `true` real samples (latents of scenes rendered for the same prompt, which no published recipe has), R1
and R2 by finite differences, relativistic pairs, the regression that fades. Each is one switch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from hb.flow import interpolate, time_grid, x0_from
from hb.losses import (
    absolute_loss,
    approximate_r1,
    consistency_loss,
    hinge_discriminator_loss,
    hinge_generator_loss,
    relativistic_loss,
    renoised,
    squared_mmd,
)
from hb.models.bagel import Bagel
from hb.models.conditioning import StudentModel
from hb.models.critics import Discriminator, LightDiscriminator, PixelDiscriminator, vision_states
from hb.seeding import noise_like
from hb.train.distill.adp_settings import OneStepSettings
from hb.train.distill.batch import StageBatch
from hb.train.distill.dmdo import noise_between, roll_out, student_velocity
from hb.train.distill.rewarded import SourcedStage
from hb.train.distill.stage import Update, uniform
from hb.train.optim import adam

REPLAYED = 32  # steps whose pairs are kept for `replay`


@dataclass(frozen=True)
class OdePairs:
    """Noise and where the six-evaluation student takes it, and what the generator predicts from between the two.

    z, end, fake [B, n, values]: the trajectory's begin and end, without gradient; the prediction, with gradient to the
    generator.
    """

    batch: StageBatch
    z: Tensor
    end: Tensor
    fake: Tensor

    @property
    def true(self) -> Tensor:
        """Latents of scenes rendered for the same prompts, or of the edited scenes."""
        return self.batch.latent


@dataclass(frozen=True)
class View:
    """What a discriminator is shown of latents, `shown(latent)`, and its logits of that, `critic(shown)` [B, heads].

    t: the times [B] to which its inputs are noised; None where they are pictures.
    """

    name: str
    share: float
    shown: Callable[[Tensor], Tensor]
    critic: Callable[[Tensor], Tensor]
    t: Tensor | None = None


class Critics(nn.Module):
    """The discriminators, trained as one network. Each may be None."""

    def __init__(
        self, latent: Discriminator | None, pixel: PixelDiscriminator | None, light: LightDiscriminator | None
    ):
        super().__init__()
        self.latent, self.pixel, self.light = latent, pixel, light


class OneStep(SourcedStage):
    """ADP and its relatives. Options: see `SourcedStage`. The source is the six-evaluation student that makes the
    pairs; pictures are for the pixel discriminator and stage 5."""

    watched, limit = "spread", 3.0
    settings_class = OneStepSettings

    def __init__(
        self,
        teacher: Bagel,
        student: StudentModel,
        *,
        trajectory: tuple[int, float, str] = (6, 3.0, "euler"),
        **options,
    ):
        super().__init__(teacher, student, trajectory=trajectory, **options)
        own, self.ahead = self.settings, 0.5
        if max(own.continued) >= trajectory[0]:
            raise ValueError(
                f"the source takes {trajectory[0]} steps: it can go on from the first {trajectory[0] - 1}, not from "
                f"step {max(own.continued)}"
            )
        self.second_time = float(time_grid(2, trajectory[1])[1])
        self.earlier: deque[OdePairs] = deque(maxlen=REPLAYED)
        self.discriminator = None
        if own.adversarial:
            kinds, side = 1 + bool(own.true), teacher.config.latent_side
            branch = lambda: Discriminator(StudentModel(student), side=side, depths=(0.5, 0.75, 1.0), kinds=kinds)
            self.discriminator = Critics(
                latent=branch() if own.latent else None,
                pixel=PixelDiscriminator(teacher, kinds=kinds) if own.pixel else None,
                light=LightDiscriminator(teacher.config.latent_width, side, kinds) if own.light else None,
            )

    def updates(self) -> list[Update]:
        own, repeats = self.settings, 1 + self.settings.replay
        if self.discriminator is None and not own.reward:  # regression, for which Muon is faster
            return [
                Update("student", self.student, self.student_loss, self.muon(self.student, own.lr), repeats=repeats)
            ]
        betas = (0.0, 0.9)
        student = Update("student", self.student, self.student_loss, adam(self.student, own.lr, betas), repeats=repeats)
        if self.discriminator is None:
            return [student]
        critics = adam(self.discriminator, own.lr_discriminator, betas)
        told_apart = Update("discriminator", self.discriminator, self.discriminator_loss, critics, repeats=repeats)
        return [told_apart, student]

    # ---- what a step shares -----------------------------------------------------------------------------------------

    def shared_state(self, batch: StageBatch, generator: torch.Generator) -> OdePairs:
        z = noise_like(batch.latent, generator)
        steps = self.settings.continued  # one of one is not drawn: it would move all later random numbers
        first = steps[int(torch.randint(len(steps), (), generator=generator))] if len(steps) > 1 else steps[0]
        pairs = self.predicted(batch, z, self.end_of_pairs(batch, z, first, generator), generator)
        end = pairs.end
        self.facts["spread"] = float(pairs.fake.detach().std() / end.std())
        self.facts["apart"] = float(consistency_loss(pairs.fake.detach(), end))
        return pairs

    @torch.no_grad()
    def end_of_pairs(self, batch: StageBatch, z: Tensor, first: int, generator: torch.Generator) -> Tensor:
        """Where the source arrives from noise z, the generator taking its first steps if there are any: see
        `OneStepSettings.continued`."""
        x, fresh = z, noise_between(self.sampler, generator)
        if first:
            own, begin, t = self.settings, self.grid[0].to(z), self.grid[first].to(z)
            x0 = x0_from(z, student_velocity(self.student, batch)(z, begin), begin)
            new = noise_like(z, generator) if own.renoise != "coupled" else z
            x = renoised(x0, z, new, t, own.renoise, generator)
        return roll_out(student_velocity(self.source, batch), x, self.grid[first:], fresh)[-1]

    def predicted(self, batch: StageBatch, z: Tensor, end: Tensor, generator: torch.Generator) -> OdePairs:
        """These pairs, with what the generator predicts at times of its own."""
        t = self.draw_times(batch.size, generator, end)
        x = interpolate(end, z, t)
        fake = x0_from(x, self.student(x, t, batch.student_context, grid=batch.grid, **batch.scales), t)
        return OdePairs(batch, z, end, fake)

    def draw_times(self, n: int, generator: torch.Generator, like: Tensor) -> Tensor:
        """Times of the generator's inputs [n]: 1, the second time of two steps, or 1 - u^3 (DMDX)."""
        own = self.settings
        u, kind = uniform(n, generator, like), uniform(n, generator, like)
        t = 1 - u**3
        t = torch.where(kind < own.at_one + (1 - own.at_one) * own.second, self.second_time, t)
        return torch.where(kind < own.at_one, 1.0, t)

    # ---- discriminators ---------------------------------------------------------------------------------------------

    def views(self, batch: StageBatch, generator: torch.Generator) -> list[View]:
        """One for each discriminator. All samples of a step are noised with the same noise to the same times, so that
        the samples of a pair differ in nothing else."""
        own, out = self.settings, []
        kind, level = (uniform(batch.size, generator, batch.latent) for _ in range(2))
        t = torch.where(kind < own.clean, 0.0, own.noised * level)
        noise = noise_like(batch.latent, generator)
        noised = lambda x: interpolate(x, noise, t)
        if self.discriminator.latent is not None:
            critic = lambda x: self.discriminator.latent(x, t, batch.full, grid=batch.grid, **batch.scales)
            out.append(View("latent", own.latent, noised, critic, t))
        if self.discriminator.light is not None:
            out.append(View("light", own.light, noised, lambda x: self.discriminator.light(x, t, batch.grid), t))
        if self.discriminator.pixel is not None:
            out.append(View("pixel", own.pixel, lambda x: self.pictures(x, batch), self.discriminator.pixel))
        return out

    def kinds_of_real(self, pairs: OdePairs) -> list[tuple[float, Tensor]]:
        """Weight and samples of each kind; a discriminator has a set of heads for each."""
        true = self.settings.true
        return [(1 - true, pairs.end), (true, pairs.true)] if true else [(1.0, pairs.end)]

    def discriminator_loss(self, pairs: OdePairs, generator: torch.Generator) -> Tensor:
        own, loss, apart = self.settings, 0.0, []
        kinds = self.kinds_of_real(pairs)
        compare = relativistic_loss if own.pairing == "relativistic" else hinge_discriminator_loss
        for view in self.views(pairs.batch, generator):
            with torch.no_grad():
                fake, reals = view.shown(pairs.fake.detach()), [view.shown(real) for _, real in kinds]
            logits = view.critic(fake)
            loss = loss + view.share * own.r2 * self._steepness(own.r2, view, fake, logits, generator)
            for k, ((weight, _), real) in enumerate(zip(kinds, reals)):
                of_real = view.critic(real)
                ours, theirs = _kind(of_real, k, len(kinds)), _kind(logits, k, len(kinds))
                steep = self._steepness(own.r1, view, real, of_real, generator)
                loss = loss + view.share * weight * (compare(ours, theirs) + own.r1 * steep)
                apart.append(self._note_told_apart(view, ours > theirs, true=k > 0))
        return loss * self._still_trained(sum(apart) / len(apart))

    def _steepness(self, weight: float, view: View, x: Tensor, logits: Tensor, generator) -> Tensor | float:
        """`approximate_r1` of a discriminator at what it was shown; not computed where it has no weight, nor in most
        steps."""
        own = self.settings
        if not weight or self.global_step % own.penalty_every:
            return 0.0
        again = view.critic(x + own.sigma * noise_like(x, generator))
        return own.penalty_every * approximate_r1(logits, again, own.sigma)

    def _note_told_apart(self, view: View, apart: Tensor, true: bool) -> float:
        """The share of pairs [B, heads] told apart: by head, and where noise is low and high."""
        name, apart = f"apart_{view.name}{'_true' * true}", apart.float()
        for head, share in enumerate(() if view.name == "light" else apart.mean(0).tolist()):  # its heads are places
            self.facts[f"{name}_head{head}"] = share
        for level, at in () if view.t is None else (("low", view.t < 0.3), ("high", view.t > 0.6)):
            if at.any():
                self.facts[f"{name}_{level}_noise"] = float(apart[at].mean())
        self.facts[name] = float(apart.mean())
        return self.facts[name]

    def _still_trained(self, apart: float) -> float:
        """1, or 0 while the discriminators are too far ahead; Adam without momentum then leaves them as they are."""
        self.ahead = 0.95 * self.ahead + 0.05 * apart
        return float(self.ahead <= self.settings.freeze_above)

    # ---- the generator ----------------------------------------------------------------------------------------------

    def student_loss(self, pairs: OdePairs, generator: torch.Generator) -> Tensor:
        own, loss = self.settings, pairs.fake.new_zeros(())
        if own.replay:
            pairs = self.these_or_earlier(pairs, generator)
        if weight := self.regression_weight():
            loss = loss + weight * (1 - own.by_value) * consistency_loss(pairs.fake, pairs.end, own.huber)
            loss = loss + weight * own.by_value * absolute_loss(pairs.fake, pairs.end)
        if own.adversarial:
            loss = loss + own.adversarial * self.adversarial_loss(pairs, generator)
        if own.mmd:
            loss = loss + own.mmd * self.discrepancy(pairs)
        if own.reward:
            loss = loss + own.reward * self.reward_loss(pairs.fake, pairs.batch)
        return loss

    def these_or_earlier(self, pairs: OdePairs, generator: torch.Generator) -> OdePairs:
        """A step's first update is on its own pairs, which are kept; the others are on any that were kept."""
        newest = self.earlier[-1].end if self.earlier else None
        if newest is not pairs.end:
            context = pairs.batch.student_context  # nothing else is read of a batch again, and contexts are large
            kept = replace(pairs.batch, full=context, no_text=context, no_image=None)
            self.earlier.append(replace(pairs, batch=kept, fake=pairs.fake.detach()))
            return pairs
        which = int(torch.randint(len(self.earlier), (), generator=generator))
        old = self.earlier[which]
        return self.predicted(old.batch, old.z, old.end, generator)

    def regression_weight(self) -> float:
        first, last = self.settings.regression
        return first + (last - first) * min(self.global_step / max(self.total, 1), 1.0)

    def adversarial_loss(self, pairs: OdePairs, generator: torch.Generator) -> Tensor:
        own, loss = self.settings, 0.0
        kinds = self.kinds_of_real(pairs)
        for view in self.views(pairs.batch, generator):
            logits = view.critic(view.shown(pairs.fake))
            for k, (weight, real) in enumerate(kinds):
                theirs = _kind(logits, k, len(kinds))
                if own.pairing == "hinge":
                    loss = loss + view.share * weight * hinge_generator_loss(theirs)
                    continue
                with torch.no_grad():
                    ours = _kind(view.critic(view.shown(real)), k, len(kinds))
                loss = loss + view.share * weight * relativistic_loss(theirs, ours)
        return loss

    def discrepancy(self, pairs: OdePairs) -> Tensor:
        """`squared_mmd` within prompts, summed over features: latents, their means over quarters, vision features."""
        sets = prompts_of(pairs.batch)
        total = 0.0
        for features, widths in self.features(pairs.batch):
            x, y = features(pairs.fake), features(pairs.true).detach()
            total = total + squared_mmd(x[sets], y[sets], widths).mean()
        self.facts["mmd"] = float(total.detach())
        return total

    def features(self, batch: StageBatch) -> list[tuple[Callable[[Tensor], Tensor], tuple[float, ...]]]:
        """Several spaces: in any single one a generator can match the distribution and miss the pictures."""
        rows, columns = batch.grid or self.teacher.grid_of(batch.latent.size(1))

        def quarters(x: Tensor) -> Tensor:
            return nn.functional.adaptive_avg_pool2d(x.mT.unflatten(-1, (rows, columns)), 2).flatten(1)

        def seen(x: Tensor) -> Tensor:
            states, _ = vision_states(self.teacher, self.pictures(x, batch))
            return torch.cat([state.mean(1) for state in states[len(states) // 2 :]], 1)

        flat = lambda x: x.flatten(1)
        widths = (0.5, 1.0, 2.0)
        return [(flat, widths), (quarters, (0.25, 0.5, 1.0)), (seen, widths)]


def _kind(logits: Tensor, k: int, kinds: int) -> Tensor:
    """The logits of the k-th kind's heads."""
    return logits.chunk(kinds, 1)[k]


def prompts_of(batch: StageBatch) -> Tensor:
    """Rows of the batch by prompt [prompts, pictures of each]."""
    count = int(batch.rows.max()) + 1
    return torch.arange(batch.size, device=batch.latent.device).reshape(count, -1)
