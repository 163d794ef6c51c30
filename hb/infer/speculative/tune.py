"""How much to guess, on this machine and for this kind of text: measured, then chosen.

The paper names hand-tuning for every task as its limit. Here what a pass and a drafting step cost is measured, and how
often a guess of each depth and rank is right; a model of the two (method.md 4.1: tokens a cycle over cost a cycle)
ranks all plans, and the best few are run against the clock. Where nothing beats plain decoding, plain decoding is the
plan.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hb.infer.fused import FastText, TextRun, decode_fast, stacked
from hb.infer.speculative.decode import Prefill, _before, decode_speculative
from hb.infer.speculative.plan import Plan
from hb.infer.speculative.runner import AcceptedTokens, DraftModel, DraftRunner
from hb.infer.speculative.tree import hide
from hb.models.distribution import GREEDY, TokenDistribution

NODES = (1, 2, 4, 8, 12, 16, 24, 32, 48)
WIDTHS = (1, 2, 4)
DEEPEST = 24


@dataclass(frozen=True)
class Costs:
    """Seconds, medians. target[n]: a pass over n nodes; step[w]: a drafting step of width w; cycle: what a cycle costs
    beyond its pass and its steps (reading what is certain, keeping, judging)."""

    target: dict[int, float]
    step: dict[int, float]
    cycle: float

    @property
    def plain(self) -> float:
        return self.target[1]

    def node(self) -> float:
        """What one more node costs a pass, on the whole."""
        n = np.array(sorted(self.target))
        return max(0.0, float(np.polyfit(n, [self.target[k] for k in n], 1)[0]))

    def of(self, plan: Plan) -> float:
        """A cycle that guesses all that the plan allows (the first drafting step is part of reading what is
        certain)."""
        n = sorted(self.target)
        passed = float(np.interp(plan.budget + 1, n, [self.target[k] for k in n]))
        return passed + self.cycle + (plan.depth - 1) * self.step_of(plan)

    def step_of(self, plan: Plan) -> float:
        """A drafting step of the plan."""
        return self.step[1 if plan.is_narrow else plan.width]

    def in_plain_steps(self, plan: Plan) -> tuple[float, float, float]:
        """`Plan.costs`."""
        step = self.step_of(plan)
        return step / self.plain, (self.cycle - step) / self.plain, self.node() / self.plain


def median_seconds(work: Callable[[], object], repeats: int = 15) -> float:
    work()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))


@torch.no_grad()
def measure_costs(fast: FastText, draft: DraftModel, read: Prefill, repeats: int = 15) -> Costs:
    """What passes and steps cost behind this context. Let nothing else run beside it."""
    batch, generator = read.context.batch, torch.Generator().manual_seed(0)
    run, target = TextRun(fast, read.context, 64), {}
    for n in NODES:
        ids = torch.randint(0, len(fast.embedding), (batch, n), generator=generator).to(fast.embedding.device)
        local = (
            None
            if n == 1
            else hide(
                torch.rand(batch, n, n, generator=generator).to(ids.device) < 0.5 + torch.eye(n, device=ids.device)
            )
        )
        look = partial(run.read, ids, None, local, [])
        target[n] = median_seconds(lambda look=look: fast.logits(look()).argmax(-1).tolist(), repeats)
    root = torch.full((batch,), fast.markers[0], device=fast.embedding.device)
    helper = DraftRunner(draft, batch, read.context.length + 256)
    before = _before(read, root, fast)
    helper.absorb(before)
    step = {}
    for w in WIDTHS:
        deep, flat = (
            median_seconds(partial(helper.grow, root, Plan(depth=d, width=w, budget=8)), repeats) for d in (6, 2)
        )
        step[w] = max((deep - flat) / 4, 1e-6)
    four = AcceptedTokens(
        *(getattr(before, f)[:, :4] for f in ("hidden_states", "following", "positions", "next_positions"))
    )
    start, mixed = helper.layers.length, None if helper.mix is None else helper.mix.length

    def first_guess():
        helper.absorb(four)
        helper.layers.length = start
        if helper.mix is not None:
            helper.mix.length = mixed
        tree = helper.grow(root, Plan(depth=1, width=2, budget=2))
        return tree.mask(), tree.tokens.tolist(), tree.parents.tolist()

    return Costs(target, step, median_seconds(first_guess, repeats))


@torch.no_grad()
def acceptance_table(
    fast: FastText, draft: DraftModel, reads: Sequence[Prefill], *, every: int = 4, most: int = 96
) -> Tensor:
    """[DEEPEST, ranks]: how often the target's greedy word is the draft's guess of each rank, at each depth, where all
    guesses above were right. Rows of one context each."""
    ranks = torch.zeros(DEEPEST, max(WIDTHS))
    tried = torch.zeros(DEEPEST)
    start, end = fast.markers[:2]
    ids = lambda tokens: torch.tensor([tokens], device=fast.embedding.device)
    for read in reads:
        rows, _ = decode_fast(fast, read.context, max_tokens=most)
        answer = [start, *rows[0], end]
        run, hidden = TextRun(fast, read.context, len(answer)), []
        run.read(ids(answer), hidden_states=hidden)
        states = stacked(hidden, 1)
        helper = DraftRunner(draft, 1, read.context.length + 2 * len(answer))
        helper.absorb(_before(read, ids([start])[0], fast))
        place = read.context.position + ids(list(range(len(answer))))
        at = 0  # tokens absorbed
        for at_next in range(1, len(answer) - 1, every):
            following = F.embedding(ids(answer[at + 1 : at_next + 1]), fast.embedding)
            helper.absorb(
                AcceptedTokens(states[:, at:at_next], following, place[:, at:at_next], place[:, at:at_next] + 1)
            )
            at, kept = at_next, helper.layers.length
            a = helper.a[:, None]
            for depth, token in enumerate(answer[at + 1 : at + 1 + DEEPEST]):
                log_q = draft.log_q(a, GREEDY, None)[0, 0]
                guessed = draft.token(log_q.topk(max(WIDTHS)).indices).tolist()
                tried[depth] += 1
                if token in guessed:
                    ranks[depth, guessed.index(token)] += 1
                e = F.embedding(ids([token]), draft.table)
                where = (helper.next + 1 + depth)[:, None]
                a = helper._step(a, e, draft.angles(where, int(where.max()) + 1), helper.layers.mask(1))
                helper.layers.length += 1
            helper.layers.length = kept
    return ranks / tried.clamp_min(1)[:, None]


def expected_tokens(table: Tensor, plan: Plan) -> float:
    """1 + the chance that a guess of depth 1, 2, ... is kept, if a tree holds `width` guesses a level, fewer where the
    budget does not reach; the leaves of a main path are the last to be kept. An approximation: the dynamic tree chooses
    better than level by level."""
    depth = plan.depth
    if plan.main_path:
        reached = torch.cat([table.new_ones(1), table[:depth, 0].cumprod(0)])
        leaves = min(1.0, (plan.budget - depth) / depth / (plan.width - 1))  # the share of them that the budget reaches
        return 1 + float(reached[1:].sum() + leaves * (reached[:-1] * table[:depth, 1 : plan.width].sum(1)).sum())
    wide = max(1, min(plan.width, round(plan.budget / depth)))
    return 1 + float(table[:depth, :wide].sum(1).cumprod(0).sum())


def all_plans() -> list[Plan]:
    """The grid: chains, main paths with a leaf for every eighth, fourth or second level, and trees with one and a half
    to three times as many nodes as levels."""
    plans = [Plan(depth=d, width=1, budget=d) for d in (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24)]
    plans += [Plan(depth=d, width=2, budget=d + d // k, main_path=True) for d in (8, 12, 16, 20, 24) for k in (8, 4, 2)]
    plans += [
        Plan(depth=d, width=w, budget=b)
        for w in WIDTHS[1:]
        for d in (3, 5, 7, 9, 12, 16, 20)
        for b in sorted({3 * d // 2, 2 * d, 3 * d})
    ]
    return plans


@dataclass(frozen=True)
class Trial:
    """One plan against the clock: tokens a second over plain decoding's in the same run, and tokens a pass."""

    plan: Plan
    ratio: float
    tau: float
    predicted: float


@torch.no_grad()
def race(
    fast: FastText,
    draft: DraftModel,
    reads: Sequence[Prefill],
    plans: Sequence[Plan],
    distribution: TokenDistribution = GREEDY,
    *,
    rounds: int = 2,
    most: int = 96,
) -> list[tuple[float, float]]:
    """(ratio, tau) of each plan: all take turns on every context with plain decoding beside them, so that a noisy
    machine is equally noisy for all. A ratio is plain seconds a token over the plan's."""
    seconds, tokens, passes = (np.zeros(len(plans) + 1) for _ in range(3))
    order = np.random.default_rng(0)
    for turn in range(rounds):
        for number, read in enumerate(reads):
            for k in order.permutation(len(plans) + 1):
                generator = torch.Generator().manual_seed(1000 * turn + number)
                began = time.perf_counter()
                if k == len(plans):
                    rows, used = decode_fast(
                        fast, read.context, max_tokens=most, distribution=distribution, generator=generator
                    )
                    given = sum(min(len(r) + 1, most) for r in rows)
                else:
                    said = decode_speculative(
                        fast,
                        draft,
                        read,
                        plan=plans[k],
                        max_tokens=most,
                        distribution=distribution,
                        generator=generator,
                    )
                    given, used = sum(sum(c.kept) for c in said.cycles), sum(len(c.kept) for c in said.cycles)
                seconds[k] += time.perf_counter() - began
                tokens[k] += given
                passes[k] += used
    each = seconds / tokens
    return [(float(each[-1] / each[k]), float(tokens[k] / passes[k])) for k in range(len(plans))]


def shortlist(plans: Sequence[Plan], finalists: int = 6) -> list[Plan]:
    """Of plans sorted by prediction those that are raced: half of them chains, half trees, since the model is rough."""
    chains, trees = ([p for p in plans if (p.width == 1) == chain] for chain in (True, False))
    return chains[: finalists // 2] + trees[: finalists // 2]


@dataclass(frozen=True)
class Tuned:
    """What was measured and chosen for one temperature."""

    plan: Plan
    trials: list[Trial]
    costs: Costs
    table: Tensor


def tune(
    fast: FastText,
    draft: DraftModel,
    reads: Sequence[Prefill],
    distribution: TokenDistribution = GREEDY,
    *,
    finalists: int = 6,
    begin: dict | None = None,
    everything: bool = False,
    costs: Costs | None = None,
    table: Tensor | None = None,
) -> Tuned:
    """Choose a plan for texts like these. begin: when a plan's drafting starts (`start_after`, `long_after`);
    everything: race the whole grid instead of the best by the model."""
    costs = measure_costs(fast, draft, reads[0]) if costs is None else costs
    table = acceptance_table(fast, draft, reads) if table is None else table
    predict = lambda p: expected_tokens(table, p) * costs.plain / costs.of(p)
    plans = [replace(p, costs=costs.in_plain_steps(p), **(begin or dict(start_after=1))) for p in all_plans()]
    plans.sort(key=predict, reverse=True)
    chosen = plans if everything else shortlist(plans, finalists)
    trials = [
        Trial(p, ratio, tau, predict(p))
        for p, (ratio, tau) in zip(chosen, race(fast, draft, reads, chosen, distribution))
    ]
    # levels that stop, and leaves that are left out, where they are not worth their cost: deeper and wider may pay then
    careful = []
    for kind in (True, False):
        best = max((t for t in trials if (t.plan.width == 1) == kind), key=lambda t: t.ratio)
        p, deeper = best.plan, min(DEEPEST, best.plan.depth + 3)
        careful += [
            replace(p, reward=best.ratio),
            replace(p, reward=best.ratio, depth=deeper, budget=p.budget * deeper // p.depth),
        ]
    trials += [
        Trial(p, ratio, tau, predict(p))
        for p, (ratio, tau) in zip(careful, race(fast, draft, reads, careful, distribution))
    ]
    best = max(trials, key=lambda t: t.ratio)
    plan = best.plan if best.ratio > 1.02 else Plan(depth=0)
    return Tuned(plan, trials, costs, table)
