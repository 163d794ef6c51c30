"""Two teachers of one student: each is asked about the prompts that it is right about.

A teacher that was trained further may draw what the first cannot, and have lost some of what the first can. Where both
read prompts with the same weights, one student can learn from either: its target, or its real score, is the first
teacher's velocity for prompts that say little, and the second's for the others (You et al. 2017, learning from multiple
teacher networks, average instead of choosing).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from hb.data.records import unpack
from hb.infer.artifacts import understanding_fingerprint
from hb.models.bagel import Bagel
from hb.models.checkpoint import load_model
from hb.train.distill.batch import StageBatch
from hb.train.retained import says_little
from hb.world.scene import Request


def says_much(request: object) -> bool:
    """Is this a request of the tiny world that does not say little (`says_little`)?"""
    return isinstance(request, Request) and not says_little(request)


class SecondTeacher:
    """Another model, whose velocities are the first teacher's in drawings of prompts that say much.

    It gets what the first teacher has read, so only their generation weights may differ.
    """

    def __init__(self, model: Bagel):
        self.model = model.eval().requires_grad_(False)

    @classmethod
    def beside(cls, teacher: Bagel, folder: Path) -> SecondTeacher:
        """The model in a folder. Raises ValueError if it reads prompts, or encodes pictures, in another way."""
        model = load_model(folder)[0]
        if understanding_fingerprint(model) != understanding_fingerprint(teacher):
            raise ValueError(
                f"{folder.name} reads prompts or encodes pictures with other weights; a second teacher is a model that "
                "went on from the first with hb train teacher --learns drawing"
            )
        return cls(model)

    def rows(self, batch: StageBatch) -> Tensor:
        """Indices of the pictures of a batch that it is asked about."""
        if batch.task != "draw":
            return torch.zeros(0, dtype=torch.long, device=batch.latent.device)
        much = torch.tensor([says_much(unpack(record)) for record in batch.source["draw_record"]])
        return much.to(batch.rows.device)[batch.rows].nonzero()[:, 0]
