"""Stage 1, CFG distillation: one pass says what two or three said (method.md 5.1).

Not printed in Hyper-Bagel, so ours, after Meng et al. 2023: regression onto the deployed guided velocity, renorm and
interval included, at scales that are drawn anew for every picture. The scale stays a live knob of the student.
"""

from __future__ import annotations

import torch

from hb.flow import interpolate, shift_time
from hb.losses import velocity_loss
from hb.models.bagel import Bagel
from hb.models.conditioning import StudentModel
from hb.seeding import noise_like
from hb.train.distill.batch import Round
from hb.train.distill.stage import Stage, Turn, muon, uniform


class CFGDistillation(Stage):
    """The student learns the guided velocity at noised real latents, t = shift(u), u uniform, shift at least 3."""

    def __init__(self, teacher: Bagel, student: StudentModel, *, lr: float = 0.001, shift: float = 3.0, **options):
        super().__init__(teacher, student, **options)
        self.lr, self.shift = lr, shift

    def turns(self) -> list[Turn]:
        return [Turn("student", self.student, self.student_loss, muon(self.student, self.lr, self.muon_dtype))]

    def student_loss(self, round_: Round, generator: torch.Generator) -> torch.Tensor:
        t = shift_time(uniform(round_.size, generator, round_.latent), self.shift)
        x = interpolate(round_.latent, noise_like(round_.latent, generator), t)
        with torch.no_grad():
            wanted = self.guided(self.teacher, x, t, round_)
        return velocity_loss(self.student(x, t, round_.read, **round_.scales), wanted)
