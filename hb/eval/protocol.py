"""What all evaluations share: where results lie, how many pictures are made at once, each picture's noise, and the
bytes that are judged."""

from __future__ import annotations

import torch
from torch import Tensor

from hb.infer.limits import RESULTS
from hb.infer.pipeline import Pictures
from hb.pictures import to_image, to_tensor

__all__ = ["BATCH", "RESULTS", "as_seen", "noise_seed"]
BATCH = 50


def noise_seed(seed: int, i: int) -> int:
    """Seed of picture i in an evaluation with this seed. It depends on nothing else, so two models, or two
    settings, can be compared picture by picture."""
    return (seed + 1) * 10_000_000 + i


def as_seen(pictures: Pictures | Tensor) -> Tensor:
    """Pictures as a person gets them, in bytes, read back: [B, 3, H, W] in [0, 1]."""
    pixels = pictures.pixels if isinstance(pictures, Pictures) else pictures
    return torch.stack([to_tensor(to_image(p * 2 - 1, truncate=True)) for p in pixels]) / 2 + 0.5
