"""Drafting without a draft model: what followed the same words before will follow again (prompt lookup, Saxena 2023).

A peer to measure against. It looks in the answer so far, and in the answers of earlier calls if it is given any.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from hb.infer.fused import FastText
from hb.infer.speculative.decode import Decoded, Prefill, speculate
from hb.infer.speculative.plan import Plan
from hb.infer.speculative.tree import Tree, chain, root_only
from hb.models.distribution import GREEDY, TokenDistribution


class Lookup:
    """Guesses the continuation of the latest place where the last `most` (or fewer) tokens stood before."""

    def __init__(self, most: int = 3, texts: Sequence[Sequence[int]] = ()):
        self.most, self.texts = most, [list(t) for t in texts]

    def absorb(self, sure) -> None:
        """Nothing to learn from the target's states."""

    def grow(
        self,
        root: Int[Tensor, "B"],
        plan: Plan,
        distribution: TokenDistribution = GREEDY,
        output: Sequence[list[int]] = (),
        limit: int | None = None,
    ) -> Tree:
        """A chain; where rows find chains of different lengths, the shortest length (one row's miss is everybody's)."""
        depth = min(plan.depth, limit) if limit is not None else plan.depth
        found = [self.find([*row], depth) for row in output]
        n = min(map(len, found))
        if not n:
            return root_only(root)
        guesses = torch.tensor([f[:n] for f in found], device=root.device)
        tokens = torch.cat([root[:, None], guesses], 1)
        return chain(tokens, torch.zeros(tokens.shape, device=root.device))

    def find(self, output: list[int], depth: int) -> list[int]:
        for size in range(min(self.most, len(output)), 0, -1):
            tail = output[-size:]
            for text in [output, *self.texts]:
                for at in range(len(text) - size - 1, -1, -1):
                    if text[at : at + size] == tail and at + size < len(text):
                        return text[at + size : at + size + depth]
        return []


def decode_with_lookup(
    fast: FastText,
    read: Prefill,
    *,
    max_tokens: int = 128,
    distribution: TokenDistribution = GREEDY,
    generator: torch.Generator | None = None,
    plan: Plan = Plan(depth=10, budget=10, costs=(0.0, 0.05, 0.05)),
) -> Decoded:
    """`decode_speculative` with a lookup for a draft."""
    return speculate(
        fast, Lookup, read, plan=plan, max_tokens=max_tokens, distribution=distribution, generator=generator
    )
