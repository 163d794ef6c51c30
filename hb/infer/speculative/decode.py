"""Draft, verify, keep, repeat: the words of the target, several a pass (Hyper-Bagel section 3.1; method.md 4.3.6).

Greedy, the tokens are those of plain decoding, one by one. At a temperature their distribution is the target's,
whatever the draft guesses: see `verify`. The draft decides only how many passes it takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from hb.infer.fused import FastText, TextRun, plain_step, stacked
from hb.infer.speculative.plan import Plan
from hb.infer.speculative.runner import AcceptedTokens, DraftModel, DraftRunner
from hb.infer.speculative.tree import Tree, root_only
from hb.infer.speculative.verify import Verdict, verify, verify_greedy
from hb.models.bagel import Bagel
from hb.models.distribution import GREEDY, TokenDistribution
from hb.models.kv_cache import KVCache


@dataclass(frozen=True)
class Prefill:
    """A context with what a draft needs to know of it: the target's states at every token, and where the tokens
    stand."""

    context: KVCache
    hidden_states: Sequence[Tensor]  # input and L states, each [B, P, D]
    positions: Int[Tensor, "B P"]


@torch.no_grad()
def read_picture_and_text(model: Bagel, pixels: Tensor, texts: Sequence[Sequence[int]]) -> Prefill:
    """One picture [B, 3, H, W] in [-1, 1] and one text, as token numbers, for each row."""
    seen: list[Tensor] = []
    output: list[Tensor] = []
    _, context = model.see(model.empty(len(pixels)), pixels, seen)
    patches = context.length
    _, context = model.read_text(context, texts, output)
    place = torch.arange(context.length, device=model.device)
    positions = (place - patches + 1).clamp_min(0).expand(context.batch, -1)  # a picture's tokens share one
    return Prefill(context, [torch.cat(part, 1) for part in zip(seen, output)], positions)


@dataclass(frozen=True)
class VerifyStep:
    """One pass of the target. levels: drafting steps before it; nodes: guesses it checked; kept: tokens it gave, for
    each row that was still speaking, the target's own included."""

    levels: int
    nodes: int
    kept: list[int]


@dataclass(frozen=True)
class Decoded:
    """Tokens of each row without the end marker, and what each pass gave."""

    tokens: list[list[int]]
    cycles: list[VerifyStep] = field(repr=False)
    seconds: dict[str, float] = field(
        default_factory=dict, repr=False
    )  # by part; on an accelerator when it was asked, not done

    @staticmethod
    def plainly(tokens: list[list[int]], passes: int, most: int) -> Decoded:
        """Of plain decoding: one token a pass for every row that is still speaking; `most` ended the rows without an
        end."""
        given = [min(len(row) + 1, most) for row in tokens]
        return Decoded(tokens, [VerifyStep(0, 0, [1] * sum(g > i for g in given)) for i in range(passes)])

    @property
    def passes(self) -> int:
        return len(self.cycles)

    @property
    def acceptance_length(self) -> float:
        """tau: tokens a pass gives a row, the target's own included, over all rows and passes."""
        kept = [k for c in self.cycles for k in c.kept]
        return sum(kept) / max(len(kept), 1)

    def acceptance(self) -> list[float]:
        """How often the guess of depth 1, 2, ... was kept where those above it were."""
        out, depth = [], 1
        while True:
            tried = [k for c in self.cycles if c.levels >= depth for k in c.kept if k >= depth]
            if not tried:
                return out
            out.append(sum(k > depth for k in tried) / len(tried))
            depth += 1


class Governor:
    """Keeps decoding from being slower than plain: compares the tokens of recent cycles with their cost, and pauses
    drafting while it does not pay.

    Costs are the plan's, in plain steps, and not measured seconds: with the same seed all runs are then the same.
    """

    def __init__(self, plan: Plan):
        self.plan, self.pause, self.next_pause = plan, 0, 8
        # as if one cycle had just paid a little: the first bad one does not end it, the second does
        self.tokens, self.cost = 1.5 * plan.cost(1, 1), plan.cost(1, 1)

    def drafts_now(self) -> bool:
        if self.plan.depth == 0:
            return False
        if self.pause and self.plan.pauses:
            self.pause -= 1
            return False
        return True

    def update(self, levels: int, nodes: int, kept: Sequence[int]) -> None:
        self.tokens = 0.7 * self.tokens + sum(kept) / len(kept)
        self.cost = 0.7 * self.cost + self.plan.cost(levels, nodes)
        if self.tokens < self.cost:
            self.pause, self.next_pause = self.next_pause, 4 * self.next_pause
            self.tokens, self.cost = 1.2 * self.plan.cost(1, 1), self.plan.cost(1, 1)


def decode_speculative(
    fast: FastText,
    draft: DraftModel,
    read: Prefill,
    *,
    plan: Plan,
    max_tokens: int = 128,
    distribution: TokenDistribution = GREEDY,
    generator: torch.Generator | None = None,
) -> Decoded:
    """Answer each row of the context, as `decode_fast` does, with guesses of a draft model in between."""
    room = read.context.length + max_tokens + plan.depth * plan.width + 64
    helper = lambda: DraftRunner(draft, read.context.batch, room)
    return speculate(
        fast, helper, read, plan=plan, max_tokens=max_tokens, distribution=distribution, generator=generator
    )


@torch.no_grad()
def speculate(
    fast: FastText,
    make_helper: Callable[[], object],
    read: Prefill,
    *,
    plan: Plan,
    max_tokens: int = 128,
    distribution: TokenDistribution = GREEDY,
    generator: torch.Generator | None = None,
) -> Decoded:
    """The loop. make_helper() makes what guesses, when guessing begins: `absorb(AcceptedTokens)`, `grow(...) -> Tree`,
    and for plans that draw, `draw_chain`. Rows stop for themselves, and a row that has ended is dragged along until the
    last has.

    Until guessing begins, and it does not end again, this is plain decoding: a short answer pays nothing.
    """
    answers = _Answering(fast, read, plan, max_tokens, distribution, generator)
    answers.begin_plainly()
    while answers.alive:
        answers.cycle(make_helper)
    return Decoded(answers.rows, answers.cycles, answers.watch.seconds)


class _Answering:
    """Rows that are being answered: one token a pass at first, then by cycles of draft, verify, keep.

    alive     rows without an end so far
    given     tokens of each row, an end marker included
    root      the last token of each row, which the next pass reads
    waiting   makes the tokens that are certain and that the draft has not absorbed yet
    """

    def __init__(
        self,
        fast: FastText,
        read: Prefill,
        plan: Plan,
        max_tokens: int,
        distribution: TokenDistribution,
        generator: torch.Generator | None,
    ):
        self.fast, self.read, self.plan, self.max_tokens = fast, read, plan, max_tokens
        self.distribution, self.generator = distribution, generator
        self.run = TextRun(fast, read.context, max_tokens + 1)  # room as in plain decoding; late guesses make more
        self.governor, self.watch, self.helper = Governor(plan), _Watch(), None
        self.rows: list[list[int]] = [[] for _ in range(read.context.batch)]
        self.alive = list(range(read.context.batch))
        self.cycles: list[VerifyStep] = []

    def begin_plainly(self) -> None:
        """Until guessing begins, or all is answered."""
        output, hidden = [[self.fast.markers[0]] * self.read.context.batch], []
        while self.alive and len(self.cycles) < self.max_tokens and not self._may_guess():
            hidden.append([])
            output.append(plain_step(self.run, output[-1], self.distribution, self.rows, self.generator, hidden[-1]))
            self.cycles.append(VerifyStep(0, 0, [1] * len(self.alive)))
            self.alive = [i for i in self.alive if output[-1][i] != self.fast.markers[1]]
            for i in self.alive:
                self.rows[i].append(output[-1][i])
        self.watch("target")
        if len(self.cycles) == self.max_tokens:
            self.alive = []
        begun = torch.tensor(output, device=self.fast.embedding.device)
        self.root, self.given = begun[-1], [len(self.cycles)] * len(self.rows)
        self.alone = root_only(self.root)
        self.waiting = [lambda: _before(self.read, begun[0], self.fast)]
        if hidden:
            self.waiting.append(lambda: _begun(self.read, begun, hidden, self.fast))

    def _may_guess(self) -> bool:
        return self.plan.depth > 0 and self.plan.begins([self.rows[i] for i in self.alive])

    def cycle(self, make_helper: Callable[[], object]) -> None:
        """One pass of the target over what the draft proposes."""
        tree, q = self._propose(make_helper)
        nodes = tree.tokens.size(1) - 1
        levels = int(tree.depth.max()) if nodes else 0
        self.watch("draft")
        states: list[Tensor] = []
        logits = self.fast.logits(self.run.read(tree.tokens, tree.depth, tree.mask(), states))
        self.watch("target")
        verdicts = _judge(tree, logits, self.distribution, self.rows, self.alive, q, self.generator)
        kept = self._write(tree, verdicts)
        self.root, sure = _keep(self.run, tree, verdicts, states, self.fast)
        self.waiting.append(sure)
        self.cycles.append(VerifyStep(levels, nodes, kept))
        if levels:
            self.governor.update(levels, nodes, kept)
        self.watch("judge and keep")

    def _propose(self, make_helper: Callable[[], object]) -> tuple[Tree, Tensor | None]:
        """Guesses behind the roots, and the distributions that a drawn chain was drawn from. The roots alone where
        drafting pauses, or only one more token is allowed."""
        left = max(self.max_tokens - self.given[i] for i in self.alive)
        if left <= 1 or not self.governor.drafts_now():
            return replace(self.alone, tokens=self.root[:, None]), None
        if self.helper is None:
            self.helper = make_helper()
        self.helper.absorb(AcceptedTokens.joined([sure() for sure in self.waiting]))
        self.waiting = []
        state = (self.root, self.plan, self.distribution, self.rows)
        if self.distribution.is_greedy or self.plan.rule == "point":
            return self.helper.grow(*state, limit=left - 1), None
        return self.helper.draw_chain(*state, self.generator, limit=left - 1)

    def _write(self, tree: Tree, verdicts: dict[int, Verdict]) -> list[int]:
        """Append what stays to each row, up to its end or the limit. Returns the tokens given to each row."""
        end, kept, alive = self.fast.markers[1], [], []
        guessed = tree.tokens.tolist()
        for i in self.alive:
            new = [*(guessed[i][node] for node in verdicts[i].path[1:]), verdicts[i].token]
            new = new[: self.max_tokens - self.given[i]]
            if end in new:
                new = new[: new.index(end) + 1]
            elif self.given[i] + len(new) < self.max_tokens:
                alive.append(i)
            self.given[i] += len(new)
            self.rows[i] += [t for t in new if t != end]
            kept.append(len(new))
        self.alive = alive
        return kept


class _Watch:
    """Seconds since the last look, by part."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def __call__(self, part: str) -> None:
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self.last
        self.last = now


def _before(read: Prefill, root: Tensor, fast: FastText) -> AcceptedTokens:
    """The context's own tokens, each followed by the next real one, the last by the root."""
    hidden_states, context = torch.stack(list(read.hidden_states), 2), read.context
    last = context.visible.sum(1) - 1  # rows are padded at the end
    following = torch.cat([hidden_states[:, 1:, 0], hidden_states[:, :1, 0]], 1)
    next_positions = torch.cat([read.positions[:, 1:], read.positions[:, :1]], 1)
    rows = torch.arange(len(last), device=last.device)
    following[rows, last] = F.embedding(root, fast.embedding)
    next_positions[rows, last] = context.position
    return AcceptedTokens(hidden_states, following, read.positions, next_positions, context.visible)


def _begun(
    read: Prefill, output: Int[Tensor, "n1 B"], hidden_states: Sequence[list[Tensor]], fast: FastText
) -> AcceptedTokens:
    """The answer before guessing began, but for the last token. hidden_states: what `TextRun.read` collected of each
    of the others."""
    place = read.context.position[:, None] + torch.arange(len(hidden_states), device=output.device)
    joined = torch.cat([stacked(part, output.size(1)) for part in hidden_states], 1)
    return AcceptedTokens(joined, F.embedding(output[1:].T, fast.embedding), place, place + 1)


def _judge(tree: Tree, logits, distribution: TokenDistribution, rows, alive, q, generator) -> dict[int, Verdict]:
    """What stays in each row that has not ended."""
    if (
        tree.tokens.size(1) == 1 and distribution.is_greedy and not distribution.has_memory
    ):  # nothing was guessed: as quick as plain decoding
        return {i: Verdict([0], token) for i, token in enumerate(logits[:, 0].argmax(-1).tolist())}
    tokens, parents = tree.tokens.tolist(), tree.parents.tolist()
    if distribution.is_greedy and not distribution.has_memory:
        best = logits.argmax(-1).tolist()
        return {i: verify_greedy(tokens[i], parents[i], best[i]) for i in alive}
    out = {}
    for i in alive:
        paths = _paths(tokens[i], parents[i], rows[i])
        if distribution.is_greedy:
            out[i] = verify_greedy(tokens[i], parents[i], distribution.likeliest(logits[i].float().cpu(), paths))
        else:
            p = distribution(logits[i].float().cpu(), paths)
            drawn = {} if q is None else dict(rule="drawn", q=q[i].cpu())
            out[i] = verify(tokens[i], parents[i], p, generator=generator, **drawn)
    return out


def _paths(tokens: Sequence[int], parents: Sequence[int], output: Sequence[int]) -> list[list[int]]:
    """For each node the answer up to and with it. The root is the last token of the output, or the start marker."""
    paths = [list(output)]
    for node in range(1, len(tokens)):
        paths.append(paths[parents[node]] + [tokens[node]])
    return paths


def _keep(run: TextRun, tree: Tree, verdicts, states, fast) -> tuple[Tensor, Callable[[], AcceptedTokens]]:
    """Keep the accepted nodes' keys, drop the rest. Returns the new roots, and what makes the tokens that are certain
    now."""
    device, batch = tree.tokens.device, run.batch
    idle = Verdict([0], fast.markers[1])  # rows that have ended are dragged along
    root, before = (
        torch.tensor([verdicts.get(i, idle).token for i in range(batch)], device=device),
        run.position.clone(),
    )
    if tree.tokens.size(1) == 1:  # nothing was guessed, drafting pauses: as quick as plain decoding
        run.keep(None, 1)
        return root, lambda: _accepted_tokens(tree, None, 1, 1, root, stacked(states, batch), before, fast)
    paths = [verdicts.get(i, idle).path for i in range(batch)]
    length = [len(p) for p in paths]
    a, even = max(length), min(length) == max(length)
    nodes = None
    if not all(p == list(range(len(p))) for p in paths):
        nodes = torch.tensor([p + [0] * (a - len(p)) for p in paths], device=device)
    count = a if even else torch.tensor(length, device=device)
    run.keep(nodes, count)
    return root, lambda: _accepted_tokens(tree, nodes, count, a, root, stacked(states, batch), before, fast)


def _accepted_tokens(
    tree: Tree, nodes, count, a: int, root: Tensor, hidden_states: Tensor, before: Tensor, fast
) -> AcceptedTokens:
    """The nodes that were kept (the first a, or those of these numbers), in the form that the draft reads."""
    device, batch = root.device, len(root)
    if nodes is None:
        hidden_states, tokens = hidden_states[:, :a], tree.tokens[:, :a]
    else:
        hidden_states = hidden_states.gather(1, nodes[:, :, None, None].expand(-1, -1, *hidden_states.shape[2:]))
        tokens = tree.tokens.gather(1, nodes)
    following = torch.cat([tokens[:, 1:], root[:, None]], 1)
    present = None
    if not isinstance(count, int):
        present = torch.arange(a, device=device) < count[:, None]
        following[torch.arange(batch, device=device), count - 1] = root
    place = before[:, None] + torch.arange(a, device=device)
    return AcceptedTokens(hidden_states, F.embedding(following, fast.embedding), place, place + 1, present)
