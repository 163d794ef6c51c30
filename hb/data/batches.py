"""The batch of every step: rows of a pool, chosen by (seed, rank, step) alone, so that a killed run resumes exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hb.data.pool import Pool
from hb.seeding import TRAINING


@dataclass(frozen=True)
class BatchSizes:
    """Examples in one step: prompts (times the pool's pictures of a prompt), edits, and dialogues, which come from no
    pool."""

    draw: int = 32
    edit: int = 16
    dialogue: int = 16

    def fitting(self, pool: Pool) -> BatchSizes:
        """The same, without prompts or edits where the pool holds none."""
        return BatchSizes(self.draw * bool(pool.prompts), self.edit * bool(pool.edits), self.dialogue)


def pick(pool: Pool, sizes: BatchSizes, seed: int, step: int, rank: int = 0) -> dict[str, Tensor]:
    """The drawings and edits of the pool that step `step` trains on, as plain tensors.

    draw_record and edit_record say what each row was made from (`hb.data.records.unpack`).
    """
    rng = np.random.default_rng([TRAINING, seed, 7, step, rank])
    draw = random_rows(rng, pool.prompts, sizes.draw, "prompts")
    edit = random_rows(rng, pool.edits, sizes.edit, "edits")
    return pool.rows(Pool.DRAW, draw) | pool.rows(Pool.EDIT, edit)


def random_rows(rng: np.random.Generator, count: int, n: int, what: str) -> Tensor:
    """n numbers of rows out of `count`."""
    if n and not count:
        raise ValueError(f"the pool holds no {what}, and a step is to have {n}; make a pool with some, or ask for none")
    return torch.from_numpy(rng.integers(0, count, n)) if n else torch.zeros(0, dtype=torch.long)
