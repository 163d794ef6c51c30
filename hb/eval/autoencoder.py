"""The autoencoder's own limit: no drawing can be read more often than what it gives back."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hb.eval.protocol import BATCH
from hb.eval.stats import Share
from hb.infer.pipeline import Model
from hb.world.judge.damage import random_scenes
from hb.world.judge.judge import same_scene
from hb.world.judge.reading import read
from hb.world.render import render
from hb.world.scene import Scenes


def reconstruction(model: Model, n: int = 10_000, seed: int = 3) -> dict:
    """Share of random scenes that the judge reads exactly and finds clean, before and after the autoencoder."""
    scenes: Scenes = random_scenes(n, np.random.default_rng([2, seed]))
    pictures = render(scenes, model.bagel.config.picture_side)
    back = []
    for at in range(0, n, BATCH):
        latent = model.bagel.encode(pictures[at : at + BATCH] * 2 - 1, torch.Generator().manual_seed(at))
        back.append(model.decode_pictures(latent).detach())
    back = torch.cat(back)
    return dict(
        rendered=Share(_exact(pictures, scenes), n).to_dict(),
        reconstructed=Share(_exact(back, scenes), n).to_dict(),
        error=round(float((back - pictures).abs().mean()), 5),
    )


def _exact(pictures: Tensor, scenes: Scenes) -> int:
    readings = enumerate(read(pictures))
    return sum(r.clean and r.scene is not None and same_scene(r.scene, scenes.scene(i)) for i, r in readings)
