"""Which guesses stay: the distributions of acceptance, and what is drawn instead. This file is what makes it lossless.

At a node of the draft tree the target's distribution is p. The draft's candidates are tried in order; the first that is
accepted stays, and if none is, a token is drawn from the residual of p. Three rules, one shape of distribution:

point    each candidate is a point mass, whatever chance chose it (EAGLE-2 and 3's code): accept x with r(x), then
         strike x from r. The shape of the tree must not depend on the target's own generator.
drawn    candidates drawn from q independently (SpecInfer, Miao et al. 2023, arXiv 2305.09781): accept x with
         min(1, r(x) / q(x)), then r becomes norm(max(0, r - q)). One candidate: Leviathan et al. 2022 (2211.17192,
         algorithm 1) and Chen et al. 2023 (2302.01318).
removed  the same, but drawn without replacement: a rejected candidate is struck from q too.

Distributions are pure functions of p, q and the candidates; to draw from one is a line. At temperature 0, p is one-hot,
and every rule keeps the candidate that is the target's argmax.

Legend: V vocabulary, k candidates at a node, n nodes of a tree (node 0, the root, is the last token that is certain).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

RULES = ("point", "drawn", "removed")


@dataclass(frozen=True)
class NodeDistribution:
    """What may happen at a node: candidate j stays with probability accept[j]; otherwise a token is drawn from
    `rest`."""

    accept: Float[Tensor, "k"]
    rest: Float[Tensor, "V"]

    @property
    def none(self) -> Float[Tensor, ""]:
        """The probability that no candidate stays. Where nothing is left over it is 0, whatever rounding says."""
        return (1 - self.accept.sum()).clamp_min(0) * (self.rest.sum() > 0)


def normalized(weights: Float[Tensor, "V"]) -> Float[Tensor, "V"]:
    """Weights as a distribution. Nothing left over stays nothing: then it is never drawn from, up to rounding."""
    total = weights.sum()
    return weights / total if total > 0 else weights


def node_distribution(
    p: Float[Tensor, "V"], candidates: Sequence[int], rule: str = "point", q: Float[Tensor, "V"] | None = None
) -> NodeDistribution:
    """The distribution at one node, given its candidates in the order in which they are tried.

    p   what the target would say here, after temperature and all processors
    q   what the candidates were drawn from, after the same ones; rule "point" needs none
    """
    if rule not in RULES:
        raise ValueError(f"no rule {rule!r}; choose from {', '.join(RULES)}")
    if rule != "point" and q is None:
        raise ValueError(f"rule {rule!r} needs q, the distribution that the candidates were drawn from")
    rest, still, accept = p, p.new_ones(()), []
    for x in candidates:
        if rule == "point":
            a = rest[x]
            rest = normalized(_without(rest, x))
        else:
            a = (rest[x] / q[x]).clamp(max=1) if q[x] > 0 else p.new_zeros(())
            rest = normalized((rest - q).clamp_min(0))
            q = normalized(_without(q, x)) if rule == "removed" else q
        accept.append(still * a)
        still = still * (1 - a)
    return NodeDistribution(torch.stack(accept) if accept else p.new_zeros(0), rest)


def _without(distribution: Tensor, x: int) -> Tensor:
    out = distribution.clone()
    out[x] = 0
    return out


def draw(distribution: NodeDistribution, generator: torch.Generator | None = None) -> int | None:
    """Which candidate stays (its number), or None."""
    j = int(torch.multinomial(torch.cat([distribution.accept, distribution.none[None]]), 1, generator=generator))
    return j if j < len(distribution.accept) else None


@dataclass(frozen=True)
class Verdict:
    """Nodes that stay, the root first, and the token that the target itself adds behind the last of them."""

    path: list[int]
    token: int


def children_of(parents: Sequence[int]) -> list[list[int]]:
    """For each node the numbers of its children, in order. parents[0] is the root's and is not read."""
    out: list[list[int]] = [[] for _ in parents]
    for node in range(1, len(parents)):
        out[parents[node]].append(node)
    return out


def verify(
    tokens: Sequence[int],
    parents: Sequence[int],
    p: Float[Tensor, "n V"],
    *,
    rule: str = "point",
    q: Float[Tensor, "n V"] | None = None,
    generator: torch.Generator | None = None,
) -> Verdict:
    """Walk down the tree from the root as far as candidates stay. A chain is the tree in which parents[i] = i - 1.

    p[i] is the target's distribution after node i, q[i] the distribution that the children of node i were drawn from. A
    child stands behind its parent in the list, and siblings stand in the order in which they were drawn. Behind a leaf
    a token of the target's own distribution follows, processed like every other: the bonus token.
    """
    children, path = children_of(parents), [0]
    while True:
        node = path[-1]
        distribution = node_distribution(
            p[node], [tokens[c] for c in children[node]], rule, None if q is None else q[node]
        )
        j = draw(distribution, generator) if children[node] else None
        if j is None:
            return Verdict(path, int(torch.multinomial(distribution.rest, 1, generator=generator)))
        path.append(children[node][j])


def verify_greedy(tokens: Sequence[int], parents: Sequence[int], best: Sequence[int]) -> Verdict:
    """`verify` at temperature 0 without the distributions: best[i] is the likeliest token after node i."""
    children, path = children_of(parents), [0]
    while True:
        target = best[path[-1]]
        kept = next((c for c in children[path[-1]] if tokens[c] == target), None)
        if kept is None:
            return Verdict(path, target)
        path.append(kept)
