"""Random numbers that depend on nothing but a seed and a position: a killed run repeats exactly what it lost."""

from __future__ import annotations

import torch
from torch import Tensor

TRAINING = 1  # first key of every training seed; evaluation sets use 2


def seeded_generator(seed: int, *position: int) -> torch.Generator:
    """A generator that depends on nothing but these numbers: noise for step i of run `seed`."""
    mixed = seed
    for number in position:
        mixed = (mixed * 1_000_003 + number + 1) % (2**63 - 1)
    return torch.Generator().manual_seed(mixed)


def noise_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers in the shape of x. generator live on the CPU; for an x that does not they choose the seed
    of its noise, which is drawn where it is needed: a million numbers a step cost more on the way to a GPU than the
    step."""
    if x.device == generator.device:
        return torch.randn(x.shape, generator=generator).to(x)
    there = torch.Generator(x.device).manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
    return torch.randn(x.shape, generator=there, device=x.device).to(x)
