"""Times of segmented consistency: where a jump starts, where the teacher's small step ends, and where both jump to.

TSCD (Hyper-SD, arXiv 2404.13686; method.md 5.2.1): [0, 1] is cut into segments, and a consistent student jumps from any
point of one to any lower point of the same one. Boundaries lie on the sampling grid, in shifted time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hb.flow import time_grid


@dataclass(frozen=True)
class Jumps:
    """Times [B]: edge <= end <= step < start, all in one segment (start may be its upper boundary)."""

    start: Float[Tensor, "B"]  # t_n: the student jumps from here
    step: Float[
        Tensor, "B"
    ]  # t_m: the teacher's one small step from start ends here, and the slow student jumps from it
    end: Float[Tensor, "B"]  # t_e: where both jumps end
    edge: Float[Tensor, "B"]  # t_b: lower boundary of the segment


@dataclass(frozen=True)
class Segments:
    """`count` segments on a fine grid of `fine` teacher steps.

    to_edge   jumps always end on the segment's edge (PCM, arXiv 2405.18407; with one segment: LCM), not anywhere above
              it
    """

    count: int = 3
    fine: int = 48
    shift: float = 3.0
    to_edge: bool = False

    def __post_init__(self):
        if self.count < 1 or self.fine % self.count:
            raise ValueError(f"{self.fine} fine steps do not divide into {self.count} segments")

    @property
    def edges(self) -> Float[Tensor, "boundaries"]:
        """1 = e_0 > ... > e_count = 0: every (fine / count)-th time of the fine grid."""
        return time_grid(self.fine, self.shift)[:: self.fine // self.count]

    def sample(self, n: int, generator: torch.Generator | None = None) -> Jumps:
        """n jumps: the start uniform over the fine grid, the end uniform between edge and step (in unshifted steps)."""
        grid, size = time_grid(self.fine, self.shift), self.fine // self.count
        start = torch.randint(0, self.fine, (n,), generator=generator)
        edge = (start // size + 1) * size
        share = torch.rand(n, generator=generator)
        if self.to_edge:
            end = edge
        else:
            end = start + 1 + (share * (edge - start)).long()  # among start + 1, ..., edge
        return Jumps(grid[start], grid[start + 1], grid[end], grid[edge])
