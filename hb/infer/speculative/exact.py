"""What a speculative decoder emits, exactly: summed over all random numbers, in a world small enough for it.

Target and draft are tables of distributions over a few tokens. Every draw of the draft, and every outcome of the
`node_distribution` that real decoding calls, is weighted and added up, so what is left against the target's own
distribution is rounding. `SABOTAGES` are decoders with one thing wrong, to show that this sees it.

Legend: V vocabulary, k candidates at a node; a prefix is the tokens so far, p and q are the distributions of target and
draft after it, both through the same processors.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from hb.infer.speculative.verify import NodeDistribution, node_distribution, normalized
from hb.models.distribution import TokenDistribution

Prefix = tuple[int, ...]
Table = Callable[[Prefix], Tensor]  # prefix -> distribution of the next token [V], float64, before any processor
PLAIN = TokenDistribution(temperature=1.0)


def random_table(size: int = 3, *, seed: int = 0, like: Table | None = None, distance: float = 1.0) -> Table:
    """A distribution for every prefix, random but fixed: normal logits of spread `distance`, around those of `like`."""

    def distribution(prefix: Prefix) -> Float[Tensor, "V"]:
        number = sum((x + 1) * (size + 1) ** i for i, x in enumerate(prefix))
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        noise = distance * torch.randn(size, generator=generator, dtype=torch.float64)
        return (noise if like is None else noise + like(prefix).log()).softmax(-1)

    return distribution


# The models of notebook 05. Here temperature 0 hides two of the sabotages, temperature 1 another; 0.7 shows all.
TINY_TARGET = random_table(3, seed=12)
TINY_DRAFT = random_table(3, seed=1012, like=TINY_TARGET, distance=0.8)


@lru_cache(maxsize=100_000)
def sharpened(table: Table, distribution: TokenDistribution, prefix: Prefix) -> Float[Tensor, "V"]:
    """A table's distribution after a prefix, through the processors that real decoding uses. Shared: not to be
    changed."""
    return distribution(table(prefix).log()[None], [prefix])[0]


@dataclass(frozen=True)
class World:
    """Both models, and the processors that both go through."""

    target: Table
    draft: Table
    distribution: TokenDistribution = PLAIN

    def p(self, prefix: Prefix) -> Float[Tensor, "V"]:
        return sharpened(self.target, self.distribution, prefix)

    def q(self, prefix: Prefix) -> Float[Tensor, "V"]:
        return sharpened(self.draft, self.distribution, prefix)


# ---- a decoder has three parts ---------------------------------------------------------------------------------------


def propose(world: World, prefix: Prefix, k: int, rule: str) -> Iterator[tuple[Prefix, float]]:
    """Every list of candidates that the draft may try at a node, in order, with its chance."""
    if rule == "point":
        yield from propose_top(world, prefix, k, rule)
        return
    yield from _draws(world.q(prefix), k, replacing=rule != "removed")


def _draws(distribution: Tensor, k: int, replacing: bool) -> Iterator[tuple[Prefix, float]]:
    """k tokens drawn one after the other; fewer where without replacement none is left."""
    if k == 0 or not distribution.any():
        yield (), 1.0
        return
    for x, first in enumerate(distribution.tolist()):
        if first:
            for others, chance in _draws(distribution if replacing else _struck(distribution, x), k - 1, replacing):
                yield (x, *others), first * chance


def propose_top(world: World, prefix: Prefix, k: int, rule: str) -> Iterator[tuple[Prefix, float]]:
    """The draft's k likeliest tokens: no generator. Its raw distribution, since a processed one may know only one
    token."""
    distribution = world.draft(prefix)
    yield tuple(distribution.topk(min(k, len(distribution))).indices.tolist()), 1.0


def _struck(distribution: Tensor, x: int) -> Tensor:
    return normalized(distribution.index_fill(0, torch.tensor(x), 0.0))


def decide(world: World, prefix: Prefix, candidates: Sequence[int], rule: str) -> NodeDistribution:
    """Which candidate stays, and what is redrawn if none does: `node_distribution`."""
    return node_distribution(world.p(prefix), candidates, rule, None if rule == "point" else world.q(prefix))


def bonus(world: World, prefix: Prefix) -> Float[Tensor, "V"]:
    """What the target adds when everything was kept."""
    return world.p(prefix)


@dataclass(frozen=True)
class Decoder:
    """The parts of a draft-verify cycle, each to be replaced by a wrong one. why: what is wrong, in a line."""

    why: str = "nothing is wrong"
    propose: Callable[[World, Prefix, int, str], Iterator[tuple[Prefix, float]]] = propose
    decide: Callable[[World, Prefix, Sequence[int], str], NodeDistribution] = decide
    bonus: Callable[[World, Prefix], Tensor] = bonus


HONEST = Decoder()


# ---- summing over all draws ------------------------------------------------------------------------------------------


def node_outcomes(
    world: World, prefix: Prefix, k: int, rule: str, decoder: Decoder = HONEST
) -> tuple[Float[Tensor, "V"], Float[Tensor, "V"]]:
    """Chance of each token at a node to be kept from the draft, and to be redrawn by the target instead.

    Their sum is the distribution of what is emitted; the first alone adds up to the chance of acceptance.
    """
    kept, redrawn = torch.zeros_like(world.p(prefix)), torch.zeros_like(world.p(prefix))
    for candidates, chance in decoder.propose(world, prefix, k, rule):
        distribution = decoder.decide(world, prefix, candidates, rule)
        kept.index_add_(0, torch.tensor(candidates, dtype=torch.long), chance * distribution.accept)
        redrawn += chance * distribution.none * distribution.rest
    return kept, redrawn


def emitted_distribution(
    target: Table,
    draft: Table,
    *,
    rule: str = "drawn",
    shape: Sequence[int] = (1, 1, 1),
    length: int = 4,
    distribution: TokenDistribution = PLAIN,
    decoder: Decoder = HONEST,
) -> Float[Tensor, "*V"]:
    """The distribution of the first `length` tokens that draft-verify cycles emit: out[x_1, ..., x_n].

    shape  candidates tried at each depth: (1, 1, 1) is a chain of three, (2, 2) and (3, 1) are trees. The draws behind
           siblings are independent, so only those on the path that is followed need to be summed over
    length above len(shape) + 1, or no sequence reaches behind the bonus into the next cycle
    """
    world = World(target, draft, distribution)

    @cache
    def outcomes(prefix: Prefix, k: int) -> tuple[list[float], list[float]]:
        if k == 0:
            redrawn = decoder.bonus(world, prefix).tolist()
            return [0.0] * len(redrawn), redrawn
        kept, redrawn = node_outcomes(world, prefix, k, rule, decoder)
        return kept.tolist(), redrawn.tolist()

    masses: dict[tuple[Prefix, int], float] = {((), 0): 1.0}  # of a prefix and a depth in the current cycle
    for _ in range(length):
        after: dict[tuple[Prefix, int], float] = defaultdict(float)
        for (prefix, depth), mass in masses.items():
            kept, redrawn = outcomes(prefix, shape[depth] if depth < len(shape) else 0)
            for x, (a, b) in enumerate(zip(kept, redrawn)):
                after[(*prefix, x), depth + 1] += mass * a
                after[(*prefix, x), 0] += mass * b
        masses = {state: mass for state, mass in after.items() if mass}
    size = len(target(()))
    flat = [
        sum(masses.get((prefix, depth), 0.0) for depth in range(len(shape) + 1))
        for prefix in product(range(size), repeat=length)
    ]
    return torch.tensor(flat, dtype=torch.float64).view([size] * length)


def cycle_lengths(
    target: Table,
    draft: Table,
    *,
    rule: str = "drawn",
    shape: Sequence[int] = (1, 1, 1),
    distribution: TokenDistribution = PLAIN,
    decoder: Decoder = HONEST,
) -> Float[Tensor, "lengths"]:
    """Probability that the first cycle emits 1, 2, ... tokens; the last entry: all kept, and the bonus."""
    world, alive, ended = World(target, draft, distribution), {(): 1.0}, []
    for k in shape:
        below: dict[Prefix, float] = defaultdict(float)
        stopped = 0.0
        for prefix, mass in alive.items():
            kept, redrawn = node_outcomes(world, prefix, k, rule, decoder)
            stopped += mass * float(redrawn.sum())
            for x, a in enumerate(kept.tolist()):
                if a:
                    below[(*prefix, x)] += mass * a
        alive = below
        ended.append(stopped)
    return torch.tensor([*ended, sum(alive.values())], dtype=torch.float64)


def tokens_per_cycle(target: Table, draft: Table, **how) -> float:
    """The mean of `cycle_lengths`: tokens for one pass of the target."""
    distribution = cycle_lengths(target, draft, **how)
    return float(distribution @ torch.arange(1, len(distribution) + 1, dtype=torch.float64))


def target_distribution(
    target: Table, length: int, distribution: TokenDistribution = PLAIN, prefix: Prefix = ()
) -> Float[Tensor, "*V"]:
    """The distribution of the next `length` tokens of the target alone, one at a time."""
    if length == 0:
        return torch.ones((), dtype=torch.float64)
    p = sharpened(target, distribution, prefix)
    return torch.stack(
        [a * target_distribution(target, length - 1, distribution, (*prefix, x)) for x, a in enumerate(p)]
    )


def largest_error(emitted: Float[Tensor, "*V"], target: Float[Tensor, "*V"]) -> float:
    """The largest difference of probability of any sequence."""
    return float((emitted - target).abs().max())


# ---- wrong on purpose ------------------------------------------------------------------------------------------------


def _residual(wrong: Callable[[Tensor, int, Tensor | None], Tensor]):
    """`decide` with another residual after a rejection: wrong(r, x, q), q None under rule "point"."""

    def decided(world: World, prefix: Prefix, candidates: Sequence[int], rule: str) -> NodeDistribution:
        rest, q = world.p(prefix), None if rule == "point" else world.q(prefix)
        accept, still = [], rest.new_ones(())
        for x in candidates:
            (a,) = node_distribution(rest, [x], rule, q).accept
            accept.append(still * a)
            still = still * (1 - a)
            rest = wrong(rest, x, q)
            q = _struck(q, x) if rule == "removed" else q
        return NodeDistribution(torch.stack(accept), rest)

    return decided


def _not_renormalized(rest: Tensor, x: int, q: Tensor | None) -> Tensor:
    left = rest.index_fill(0, torch.tensor(x), 0.0) if q is None else (rest - q).clamp_min(0)
    left[-1] += 1 - left.sum()
    return left


def _as_drawn(world: World, prefix: Prefix, candidates: Sequence[int], rule: str) -> NodeDistribution:
    if world.distribution.is_greedy:
        world = replace(world, distribution=replace(world.distribution, temperature=1.0))
    return decide(world, prefix, candidates, "drawn" if rule == "point" else rule)


SABOTAGES = {
    "residual not renormalized": Decoder(
        "max(0, p - q) is drawn from as it is; what it lacks to 1 goes to the last token",
        decide=_residual(_not_renormalized),
    ),
    "rejected token used again": Decoder(
        "after a rejection the token is drawn from p itself: nothing is subtracted, the rejected token not removed",
        decide=_residual(lambda rest, x, q: rest),
    ),
    "bonus one place early": Decoder(
        "the bonus is drawn from the distribution that judged the last kept token, not from the one after it",
        bonus=lambda world, prefix: world.p(prefix[:-1]),
    ),
    "argmax treated as drawn": Decoder(
        "min(1, p / q) tries the draft's argmax, which was not drawn; at temperature 0 with softmax, as in litgpt",
        propose=propose_top, decide=_as_drawn,
    ),
    "bonus from raw logits": Decoder(
        "when all is kept, the bonus skips temperature, top-k and top-p (several copies of EAGLE's code)",
        bonus=lambda world, prefix: world.target(prefix),
    ),
}  # fmt: skip
