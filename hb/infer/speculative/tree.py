"""Draft trees: many continuations in one pass of the target (Medusa's mask, EAGLE-2's growth).

The paper decodes chains; the dynamic tree is EAGLE-2's (Li et al. 2024, arXiv 2406.16858). A node's value is the
product of the draft's probabilities along its path, an estimate of the chance that the target goes there. Each level
expands the most valuable nodes, and of everything seen the `budget` most valuable ones are kept. A chain is the tree of
width 1; a main path with leaves is the tree that expands one node a level and keeps its siblings as leaves, where
the draft is in doubt.

Legend: B rows, n nodes of a tree with the root, w nodes of a level, m candidates so far.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Tree:
    """Trees of B rows, n nodes each. Node 0 is the root, the last certain token; parents stand before their children.

    trunk: the first so many nodes are a chain and all others are leaves of it; None: not known.
    """

    tokens: Int[Tensor, "B n"]
    parents: Int[Tensor, "B n"]
    depth: Int[Tensor, "B n"]
    value: Float[Tensor, "B n"]  # log of the draft's probability of the path; 0 at the root
    trunk: int | None = None

    @property
    def is_chain(self) -> bool:
        n = self.tokens.size(1)
        if self.trunk is not None:
            return n == self.trunk
        return n == 1 or bool((self.parents[:, 1:] == torch.arange(n - 1, device=self.parents.device)).all())

    def ancestors(self) -> Bool[Tensor, "B n n"]:
        """[b, i, j]: is j the node i itself, or above it?"""
        batch, n = self.tokens.shape
        if self.trunk is not None:
            upper = self.depth[:, None, : self.trunk] < self.depth[:, :, None]
            return F.pad(upper, (0, n - self.trunk)) | torch.eye(n, dtype=torch.bool, device=upper.device)
        above = torch.eye(n, device=self.tokens.device)  # one step up at most; the root stays where it is
        above = above[None] + torch.zeros(batch, n, n, device=above.device).scatter(
            2, self.parents.clamp_min(0)[..., None], 1.0
        )
        for _ in range(max(1, n - 1).bit_length()):  # twice as many steps each time
            above = (above @ above).clamp_max(1)
        return above > 0

    def mask(self) -> Float[Tensor, "B n n"] | None:
        """What each node may see of the others, to be added to the scores (method.md 4.1.4). None for a chain."""
        return None if self.is_chain else hide(self.ancestors())

    def expected_tokens(self) -> float:
        """Tokens a pass over the tree is expected to give, if the draft's probabilities are right; the mean over
        rows."""
        return float(self.value.exp().sum(1).mean())


def hide(seen: Bool[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """0 where True, minus infinity where False."""
    return torch.zeros(seen.shape, device=seen.device).masked_fill(~seen, -math.inf)


def chain(tokens: Int[Tensor, "B n"], values: Float[Tensor, "B n"]) -> Tree:
    """Each token the child of the one before it."""
    order = torch.arange(tokens.size(1), device=tokens.device).expand_as(tokens)
    return Tree(tokens, (order - 1).clamp_min(0), order, values, tokens.size(1))


def main_path(
    root: Int[Tensor, "B"], tokens: Int[Tensor, "B n w"], log_q: Float[Tensor, "B n w"], leaves: int, least: float = 0.0
) -> Tree:
    """On each of n levels the first token is the child of the first one of the level above; of all their siblings the
    most valuable are leaves, `leaves` at most, without those whose value is below `least` in every row.

    log_q: of each, behind the node above. The main path stands first: where the target follows it, what it read
    is in order.
    """
    along = F.pad(log_q[:, :, 0].cumsum(1), (1, 0))
    siblings = (along[:, :-1, None] + log_q[:, :, 1:]).flatten(1)
    value, kept = siblings.topk(min(leaves, siblings.size(1)), dim=1)
    if least > 0:
        wanted = int((value.exp() >= least).sum(1).max())
        value, kept = value[:, :wanted], kept[:, :wanted]
    order = torch.arange(along.size(1), device=root.device).expand_as(along)
    above = kept // max(tokens.size(2) - 1, 1)
    return Tree(
        torch.cat([root[:, None], tokens[:, :, 0], tokens[:, :, 1:].flatten(1).gather(1, kept)], 1),
        torch.cat([(order - 1).clamp_min(0), above], 1),
        torch.cat([order, above + 1], 1),
        torch.cat([along, value], 1),
        along.size(1),
    )


def root_only(tokens: Int[Tensor, "B"]) -> Tree:
    """Nothing guessed: a pass over it is a step of plain decoding."""
    return chain(tokens[:, None], torch.zeros(len(tokens), 1, device=tokens.device))


class Growth:
    """Candidates of a growing tree. Numbers of candidates count from 1; 0 is the root."""

    def __init__(self, root: Int[Tensor, "B"], width: int):
        self.root, self.width = root, width
        self.tokens: list[Tensor] = []  # per level [B, c]
        self.parents: list[Tensor] = []
        self.values: list[Tensor] = []
        self.count = 0
        # the frontier: numbers of the nodes to be expanded, and their places among the candidates of the last level
        self.frontier: Tensor | None = None

    def add(self, log_q: Float[Tensor, "B f V"]) -> tuple[Tensor, Tensor]:
        """The children of the frontier (at first of the root, f = 1), from the draft's log-probabilities.

        Returns the new frontier: tokens [B, w], and for each the place of its parent in the old one [B, w].
        """
        batch, f, _ = log_q.shape
        best, tokens = log_q.topk(min(self.width, log_q.size(-1)), dim=-1)
        if self.frontier is not None:
            best = best + self._frontier_value[..., None]
        k = best.size(-1)
        place = torch.arange(f, device=log_q.device)[:, None].expand(f, k).reshape(1, -1).expand(batch, -1)
        value, tokens = best.flatten(1), tokens.flatten(1)
        parents = torch.zeros_like(place) if self.frontier is None else self.frontier.gather(1, place)
        self.tokens.append(tokens)
        self.parents.append(parents)
        self.values.append(value)
        kept_value, kept = value.topk(min(self.width, value.size(1)), dim=1)
        self.frontier = self.count + 1 + kept
        self._frontier_value = kept_value
        self.count += value.size(1)
        return tokens.gather(1, kept), place.gather(1, kept)

    @property
    def reach(self) -> Float[Tensor, "B"]:
        """The chance that the target goes through some node of the frontier."""
        return self._frontier_value.exp().sum(1)

    def best(self, budget: int, least: float = 0.0) -> Tree:
        """The most valuable candidates as trees of at most 1 + budget nodes, the root included; those whose value is
        below `least` in every row are left out. Equal values go to the shallower node, so a tree is always
        connected."""
        value, tokens, parents = (torch.cat(part, 1) for part in (self.values, self.tokens, self.parents))
        level = [d for d, t in enumerate(self.tokens, 1) for _ in range(t.size(1))]
        level = torch.tensor(level, device=tokens.device).expand(len(tokens), -1)
        order = value.argsort(dim=1, descending=True, stable=True)[:, :budget]
        if least > 0:
            wanted = int((value.exp() >= least).sum(1).max())
            order = order[:, : max(wanted, 1)]
        order = order.sort(1).values  # parents before children again
        batch, m = order.shape
        number = torch.zeros(batch, self.count + 1, dtype=torch.long, device=order.device)
        number.scatter_(1, order + 1, torch.arange(1, m + 1, device=order.device).expand(batch, -1))
        parents = number.gather(1, parents.gather(1, order))
        zero = torch.zeros(batch, 1, dtype=torch.long, device=order.device)
        return Tree(
            torch.cat([self.root[:, None], tokens.gather(1, order)], 1),
            torch.cat([zero, parents], 1),
            torch.cat([zero, level.gather(1, order)], 1),
            torch.cat([torch.zeros(batch, 1, device=value.device), value.gather(1, order)], 1),
        )
