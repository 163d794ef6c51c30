"""Learning without forgetting (Li & Hoiem 2016, arXiv 1606.09282): where an earlier model is right, it is the target.

The data's target is one sample, eps - x0, and what is to be learned is the mean of such samples. In a small batch most
of the gradient is the difference of the two, and what nothing renews is lost in it. An earlier model's velocity is near
that mean and has no such noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from hb.data.records import unpack
from hb.infer.artifacts import fingerprint
from hb.models.bagel import Bagel
from hb.models.checkpoint import load_model
from hb.models.sequence import Split
from hb.world.scene import Request

LITTLE = 3  # details of two different things; of one thing, or several alike, all may be said


def says_little(request: object) -> bool:
    """Is this a request of the tiny world for one kind of thing, or for two with at most LITTLE details said?

    Of 600 prompts of SceneEval 590 are such; of the complex ones those of one thing, and a few of two.
    """
    if not isinstance(request, Request):
        return False
    kinds = set(request.wishes)
    said = sum(value is not None for kind in kinds for value in astuple(kind)[1:])
    said += (request.relation is not None) + (request.background is not None)
    return len(kinds) == 1 or (len(kinds) == 2 and said <= LITTLE)


class Retained:
    """An earlier model whose velocities are the targets of prompts that say little, and of all edits."""

    def __init__(self, model: Bagel):
        self.model = model.eval().requires_grad_(False)

    @classmethod
    def beside(cls, model: Bagel, folder: Path) -> Retained:
        """The model in a folder, for one that draws the same latents. Raises ValueError otherwise."""
        earlier = load_model(folder)[0]
        patches = [m.config.latent_patch for m in (earlier, model)]
        encoders = [fingerprint(m.autoencoder) for m in (earlier, model)]
        if patches[0] != patches[1] or encoders[0] != encoders[1]:
            raise ValueError("the model to retain has another autoencoder, so its velocities are of other latents")
        return cls(earlier)

    def prompts(self, records: Tensor) -> Tensor:
        """Which prompts of a batch [B] it is the target of; records: `draw_record`."""
        return torch.tensor([says_little(unpack(row)) for row in records], dtype=torch.bool)

    @torch.no_grad()
    def targets(self, data: Tensor, rows: Tensor, splits: Sequence[Split]) -> Tensor:
        """`data` [B, copies, n, values] with this model's velocities in the rows [B] that are true.

        splits   what the trained model reads; the last `copies` are noised latents
        """
        picked = rows.nonzero()[:, 0].to(data.device)
        if not len(picked):
            return data
        velocities = self.model([_select(split, picked) for split in splits])[-data.size(1) :]
        return data.index_copy(0, picked, torch.stack(velocities, 1).to(data))


def _select(split: Split, rows: Tensor) -> Split:
    """These rows of a split."""
    tensors = {f.name: getattr(split, f.name) for f in fields(split)}
    return replace(split, **{name: x[rows] for name, x in tensors.items() if isinstance(x, Tensor)})
