"""Stage 1, CFG distillation: one pass outputs what two or three gave together (method.md 5.1).

Not printed in Hyper-Bagel, so ours, after Meng et al. 2023: regression onto the deployed guided velocity, renorm and
interval included, at scales that are drawn anew for every picture. The scale stays an input of the student.
"""

from __future__ import annotations

import torch

from hb.flow import interpolate, shift_time
from hb.losses import velocity_loss
from hb.models.bagel import Bagel
from hb.models.conditioning import StudentModel
from hb.seeding import noise_like
from hb.train.distill.batch import StageBatch
from hb.train.distill.stage import Stage, Update, uniform


class CFGDistillation(Stage):
    """The student learns the guided velocity at noised real latents, t = shift(u), u uniform, shift at least 3."""

    def __init__(self, teacher: Bagel, student: StudentModel, *, lr: float = 0.001, shift: float = 3.0, **options):
        super().__init__(teacher, student, **options)
        self.lr, self.shift = lr, shift

    def updates(self) -> list[Update]:
        return [Update("student", self.student, self.student_loss, self.muon(self.student, self.lr))]

    def student_loss(self, batch: StageBatch, generator: torch.Generator) -> torch.Tensor:
        t = shift_time(uniform(batch.size, generator, batch.latent), self.shift)
        x = interpolate(batch.latent, noise_like(batch.latent, generator), t)
        with torch.no_grad():
            target = self.guided(self.teacher, x, t, batch)
        return velocity_loss(self.student(x, t, batch.student_context, grid=batch.grid, **batch.scales), target)
