"""Stage 2, TSCD, trajectory segmented consistency distillation: from anywhere in a segment, one jump to anywhere below.

Hyper-Bagel (method.md 5.2.2): three segments, one stage, the loss purely adversarial, the discriminator's backbone
trained. By configuration also Hyper-SD's first form (MSE and adversary, 8 - 4 - 2 - 1 segments; 5.2.1), PCM (jumps to
the segment's edge) and, with one segment, the edge and no adversary, latent consistency (LCM, arXiv 2310.04378).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hb.flow import interpolate, jump
from hb.losses import consistency_loss, hinge_generator_loss
from hb.models.bagel import Bagel
from hb.models.conditioning import StudentModel
from hb.models.critics import Discriminator, discriminate
from hb.seeding import noise_like
from hb.train.distill.batch import StageBatch
from hb.train.distill.segments import Segments
from hb.train.distill.stage import Stage, Update, frozen_copy
from hb.train.optim import adam, refuse_not_finite


@dataclass(frozen=True)
class Pair:
    """Two jumps to the same time: the student's from start, and the slow student's from one teacher step further on."""

    batch: StageBatch
    fake: Tensor  # [B, n, values], with gradient to the student
    real: Tensor  # without
    end: Tensor  # [B]


class SegmentedConsistency(Stage):
    """TSCD. `real` is the slow student (EMA) of Hyper-SD's f^-; the teacher that makes the small step is the stage-1
    model.

    adversarial, mse   weights of the two losses. Hyper-Bagel: 1 and 0
    stepper            the network of the teacher's small step; None: the student as it was when this stage began
    r1                 weight of `approximate_r1`, ours: with it a discriminator this small stays usable
    """

    watched, limit = "apart", 10.0  # mean square between the jumps; clean latents have variance 1

    def __init__(
        self,
        teacher: Bagel,
        student: StudentModel,
        *,
        segments: Segments = Segments(),
        adversarial: float = 1.0,
        mse: float = 0.0,
        huber: float = 0.0,
        r1: float = 1.0,
        lr: float = 2e-4,
        lr_discriminator: float = 5e-4,
        stepper: StudentModel | None = None,
        **options,
    ):
        refuse_not_finite(adversarial=adversarial, mse=mse, huber=huber, r1=r1)
        super().__init__(teacher, student, **options)
        self.segments, self.adversarial, self.mse, self.huber, self.r1 = segments, adversarial, mse, huber, r1
        self.lr, self.lr_discriminator = lr, lr_discriminator
        self.stepper = frozen_copy(student if stepper is None else stepper)  # the stage-1 model
        self.discriminator = None
        if adversarial:
            side = teacher.config.latent_side
            self.discriminator = Discriminator(StudentModel(student), side=side)

    def updates(self) -> list[Update]:
        # without an adversary this is regression, for which Muon is faster
        optimizer = adam(self.student, self.lr) if self.adversarial else self.muon(self.student, self.lr)
        student = Update("student", self.student, self.student_loss, optimizer)
        if self.discriminator is None:
            return [student]
        own = adam(self.discriminator, self.lr_discriminator)
        return [Update("discriminator", self.discriminator, self.discriminator_loss, own), student]

    def shared_state(self, batch: StageBatch, generator: torch.Generator) -> Pair:
        """A jump of each. The network is not given the time where a jump ends: its velocity at the start serves."""
        jumps = self.segments.sample(batch.size, generator)
        start, step, end = (t.to(batch.latent) for t in (jumps.start, jumps.step, jumps.end))
        x = interpolate(batch.latent, noise_like(batch.latent, generator), start)
        context, grid, scales = batch.student_context, batch.grid, batch.scales
        with torch.no_grad():
            lower = jump(x, self.stepper(x, start, context, grid=grid, **scales), start, step)
            real = jump(lower, self.average(lower, step, context, grid=grid, **scales), step, end)
        fake = jump(x, self.student(x, start, context, grid=grid, **scales), start, end)
        self.facts["apart"] = float(consistency_loss(fake.detach(), real))
        return Pair(batch, fake, real, end)

    def critic(self, x: Tensor, pair: Pair) -> Tensor:
        return self.discriminator(x, pair.end, pair.batch.full, grid=pair.batch.grid, **pair.batch.scales)

    def discriminator_loss(self, pair: Pair, generator: torch.Generator) -> Tensor:
        critic = lambda x: self.critic(x, pair)
        loss, self.facts["told_apart"] = discriminate(critic, pair.real, pair.fake.detach(), self.r1, generator)
        return loss

    def student_loss(self, pair: Pair, generator: torch.Generator) -> Tensor:
        loss = pair.fake.new_zeros(())
        if self.adversarial:
            loss = loss + self.adversarial * hinge_generator_loss(self.critic(pair.fake, pair))
        if self.mse:
            loss = loss + self.mse * consistency_loss(pair.fake, pair.real, self.huber)
        return loss
