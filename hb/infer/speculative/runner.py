"""The draft at work: fused like the target, with caches of its own, growing trees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hb.infer.fused import Angles, FusedLayer, fused_head, scaled_weight, unit_rms
from hb.infer.speculative.draft import Draft
from hb.infer.speculative.plan import Plan
from hb.infer.speculative.tree import Growth, Tree, chain, hide, main_path
from hb.models.bagel import Bagel
from hb.models.distribution import GREEDY, TokenDistribution
from hb.models.kv_cache import KVCache


class DraftModel:
    """A draft model, fused. Made once for a loaded one; its weights are copies."""

    def __init__(self, draft: Draft, target: Bagel):
        config = self.config = draft.config
        self.end = target.markers[1]
        self.kind, self.picked = draft.draft.kind, list(draft.bridge.picked)
        self.embedding = target.embed_tokens.weight.detach()
        self.layers = [FusedLayer.of(layer, config) for layer in draft.layers]
        self.mix = FusedLayer.of(draft.bridge.mix, config) if self.kind == "hyper-bagel" else None
        self.fc1 = draft.bridge.fc1.weight.detach().T.contiguous()
        # fc2 in halves, for the feature and for the embedding; the second is known for every token
        self.fc2, self.fc2_embedding = (
            w.T.contiguous() for w in draft.fc2.weight.detach().split(config.hidden_size, 1)
        )
        self.table = self.embedding @ self.fc2_embedding
        self.head = fused_head(draft.norm, draft.head.weight)
        self.vocabulary = draft.vocabulary if draft.draft.vocabulary else None
        self.vocabulary_table = self.table if self.vocabulary is None else self.table[self.vocabulary]
        own = list(draft.draft.vocabulary) or range(config.vocab_size)
        self.end_word = own.index(self.end) if self.end in own else -1  # an answer's end in the draft's own words
        self.angles = Angles(config, self.embedding)
        if self.kind == "hyper-bagel":
            self._fold(draft.bridge.look)

    def _fold(self, look) -> None:
        """The queries are weights, so key projection and query are one matrix, and values are projected after
        mixing."""
        heads, width = look.heads, look.k_proj.weight.size(1)
        norm = scaled_weight(look.norm)
        q = look.queries.unflatten(-1, (heads, -1)) * (width // heads) ** -0.5  # [Q, h, d]
        k = look.k_proj.weight.unflatten(0, (heads, -1))  # [h, d, D]
        self.ask = (
            (torch.einsum("qhd,hdw->wqh", q, k) * norm[:, None, None]).flatten(1).detach().contiguous()
        )  # [D, Qh]
        v = look.v_proj.weight.unflatten(0, (heads, -1)) * norm  # [h, d, D]
        o = look.o_proj.weight.unflatten(1, (heads, -1))  # [D, h, d]
        self.answer = torch.einsum("ohd,hdw->hwo", o, v).flatten(0, 1).detach().contiguous()  # [h D, D]

    def slots(self, hidden_states: Float[Tensor, "B n L1 D"]) -> Float[Tensor, "B n Q D"]:
        """`Bridge.slots`, folded. hidden_states: the input and the L states of each token, stacked."""
        triple = hidden_states[:, :, self.picked]
        if self.kind == "eagle3":
            return triple
        states = unit_rms(hidden_states[:, :, 1:], self.config.rms_norm_eps)
        distribution = (states @ self.ask).softmax(2)  # [B, n, L, Q h]
        mixed = (distribution.mT @ states).unflatten(2, (triple.size(2), -1)).flatten(3)  # [B, n, Q, h D]
        return triple + mixed @ self.answer

    def log_q(
        self, a: Float[Tensor, "*any D"], distribution: TokenDistribution, before: Sequence[Sequence[int]] | None
    ) -> Tensor:
        """Log-probabilities of the next token on the draft's words; temperature 0 leaves the draft's own confidence."""
        return self.log_probs(self.logits(a), distribution, before)

    def logits(self, a: Float[Tensor, "*any D"]) -> Float[Tensor, "*any words"]:
        """The draft's logits behind its states, over its own vocabulary, before any processing."""
        return unit_rms(a, self.config.rms_norm_eps) @ self.head

    def log_probs(
        self,
        logits: Float[Tensor, "*any words"],
        distribution: TokenDistribution,
        before: Sequence[Sequence[int]] | None = None,
    ) -> Tensor:
        """Log-probabilities of the same shape: see `log_q`."""
        if distribution.is_greedy:
            distribution = replace(distribution, temperature=1.0, top_k=None, top_p=None)
        if distribution.processors():
            flat = self.on_all_words(logits.flatten(0, -2))
            flat = distribution.processed(flat, before)
            logits = (flat if self.vocabulary is None else flat[:, self.vocabulary]).view(logits.shape)
        return logits.float().log_softmax(-1)

    def on_all_words(self, logits: Float[Tensor, "m words"]) -> Float[Tensor, "m V"]:
        """The draft's logits on the target's vocabulary; words it does not know cannot be."""
        if self.vocabulary is None:
            return logits
        wide = logits.new_full((len(logits), self.config.vocab_size), -torch.inf)
        return wide.index_copy(1, self.vocabulary, logits)

    def token(self, word: Int[Tensor, "*any"]) -> Int[Tensor, "*any"]:
        """The target's numbers of the draft's words."""
        return word if self.vocabulary is None else self.vocabulary[word]


@dataclass(frozen=True)
class AcceptedTokens:
    """Tokens that the target has read and that stay.

    hidden_states   their input and the target's L states (as `Decoder.forward` collects them, stacked)
    following       embedding of the token that follows each
    positions       where they stand, and where their followers do
    present         which are real in each row; None: all
    """

    hidden_states: Float[Tensor, "B n L1 D"]
    following: Float[Tensor, "B n D"]
    positions: Int[Tensor, "B n"]
    next_positions: Int[Tensor, "B n"]
    present: Bool[Tensor, "B n"] | None = None

    @staticmethod
    def joined(parts: Sequence[AcceptedTokens]) -> AcceptedTokens:
        """Several in a row, as one."""
        if len(parts) == 1:
            return parts[0]
        cat = lambda name: torch.cat([getattr(p, name) for p in parts], 1)
        present = None
        if any(p.present is not None for p in parts):
            present = torch.cat(
                [torch.ones_like(p.positions, dtype=torch.bool) if p.present is None else p.present for p in parts], 1
            )
        return AcceptedTokens(cat("hidden_states"), cat("following"), cat("positions"), cat("next_positions"), present)


class DraftRunner:
    """A draft following one context: what is certain is absorbed with the target's features, and trees grow behind
    it."""

    def __init__(self, fast: DraftModel, batch: int, room: int):
        config, self.fast, self.batch = fast.config, fast, batch
        shape = (config.num_key_value_heads, room, config.head_size, fast.embedding)
        self.layers = KVCache.with_room(len(fast.layers), batch, *shape)
        self.mix = KVCache.with_room(1, 3 * batch, *shape) if fast.mix is not None else None
        self.a: Tensor | None = None  # the state behind the last certain token, [B, D]
        self.next: Tensor | None = None  # the position of the first guess's own parent, [B] ...
        self.reach = 0  # ... and the largest of them, or more

    def absorb(self, sure: AcceptedTokens) -> None:
        """Read tokens that are certain, with the target's features: the draft's keys for them, and `a` behind the
        last."""
        fast, (batch, n) = self.fast, sure.positions.shape
        self.reach = int(sure.next_positions.max())
        most = self.reach + 1
        present = None if sure.present is None or bool(sure.present.all()) else sure.present
        self.layers.widen(self.layers.length + n + 64)
        local = None if present is None else _real_before(present)
        u = fast.slots(sure.hidden_states)
        if self.mix is not None:
            self.mix.widen(self.mix.length + n + 64)
            slots = u.size(2)
            folded = u.transpose(1, 2).reshape(batch * slots * n, -1)
            angles = tuple(a.repeat_interleave(slots, 0) for a in fast.angles(sure.positions, most))
            own = None if local is None else local.repeat_interleave(slots, 0)
            folded = fast.mix(folded, angles, self.mix.mask(n, own), *self.mix.layers(n))
            self.mix.keep(None, None if present is None else present.repeat_interleave(slots, 0), n)
            u = folded.view(batch, slots, n, -1).transpose(1, 2)
        g = u.flatten(2) @ fast.fc1
        a = self._step(
            g, sure.following @ fast.fc2_embedding, fast.angles(sure.next_positions, most), self.layers.mask(n, local)
        )
        self.layers.keep(None, present, n)
        if present is None:
            self.a, self.next = a[:, -1], sure.next_positions[:, -1]
        else:
            last = (torch.arange(n, device=a.device) * present).argmax(1, keepdim=True)
            self.a = a.gather(1, last[..., None].expand(-1, 1, a.size(-1)))[:, 0]
            self.next = sure.next_positions.gather(1, last)[:, 0]

    def _step(self, x: Float[Tensor, "B n D"], e: Float[Tensor, "B n D"], angles, mask) -> Float[Tensor, "B n D"]:
        """One drafting step: states behind n tokens, from the feature or state before each, and the token's own half of
        fc2."""
        return self._step_flat(x.flatten(0, 1), e.flatten(0, 1), angles, mask, x.size(1)).view(x.shape)

    def _step_flat(
        self, x: Float[Tensor, "Bn D"], e: Float[Tensor, "Bn D"], angles, mask, n: int
    ) -> Float[Tensor, "Bn D"]:
        """The same for n tokens of each row, flat."""
        y = torch.addmm(e, x, self.fast.fc2)
        for layer, kv in zip(self.fast.layers, self.layers.layers(n)):
            y = layer(y, angles, mask, kv)
        return y

    def grow(
        self,
        root: Int[Tensor, "B"],
        plan: Plan,
        distribution: TokenDistribution = GREEDY,
        output: Sequence[list[int]] = (),
        limit: int | None = None,
    ) -> Tree:
        """A tree of guesses behind the root, the last token absorbed as a follower. Levels stop where another one is
        not worth its cost. output: each row's answer so far, the root included, for distributions that remember; limit:
        deepest level."""
        depth = plan.depth if limit is None else min(plan.depth, limit)
        if plan.is_narrow and not distribution.has_memory:
            return self._grow_narrow(root, plan, distribution, min(depth, plan.budget))
        fast, growth, start = self.fast, Growth(root, plan.width), self.layers.length
        a, seen = self.a[:, None], None
        paths = [[list(s)] for s in output] if distribution.has_memory else None
        angles = self._angles(depth)
        for level in range(depth):
            before = None if paths is None else [path for row in paths for path in row]
            words, place = growth.add(fast.log_q(a, distribution, before))
            growth.tokens[-1], tokens = fast.token(growth.tokens[-1]), fast.token(words)
            if paths is not None:
                paths = [
                    [row[p] + [t] for p, t in zip(ps, ts)]
                    for row, ps, ts in zip(paths, place.tolist(), tokens.tolist())
                ]
            if level + 1 == depth or not plan.is_worth(growth.reach):
                break
            w = tokens.size(1)
            self.layers.widen(self.layers.length + w)
            own = torch.eye(w, dtype=torch.bool, device=tokens.device).expand(len(tokens), -1, -1)
            if seen is not None:
                own = torch.cat([seen.gather(1, place[..., None].expand(-1, -1, seen.size(2))), own], dim=2)
            seen = own
            x = a.gather(1, place[..., None].expand(-1, -1, a.size(-1)))
            a = self._step(x, F.embedding(tokens, fast.table), angles[level], self.layers.mask(w, hide(seen)))
            self.layers.length += w
        self.layers.length = start  # guesses are not certain: they leave no keys
        return growth.best(plan.budget, plan.reward * plan.costs[2])

    def _grow_narrow(self, root: Int[Tensor, "B"], plan: Plan, distribution: TokenDistribution, depth: int) -> Tree:
        """`grow` where one node a level is expanded, without the bookkeeping of a tree: a level is the layers and
        hardly more. Guesses stay the draft's own words until the last, and what they and others were worth is looked up
        behind it."""
        fast, words, logits, values = self.fast, [], [], []

        def guess(a: Tensor) -> tuple[Tensor, bool]:
            logits.append(fast.logits(a))
            words.append(logits[-1].argmax(-1))
            if not plan.reward:
                return words[-1], True
            values.append(_taken(fast.log_probs(logits[-1], distribution), words[-1]))
            return words[-1], plan.is_worth(sum(values).exp())

        self._walk(root, depth, guess)
        words, log_q = torch.stack(words, 1), fast.log_probs(torch.stack(logits, 1), distribution)
        if plan.width == 1:
            return chain(
                torch.cat([root[:, None], fast.token(words)], 1), F.pad(_taken(log_q, words).cumsum(1), (1, 0))
            )
        first = log_q.scatter(2, words[..., None], torch.inf)  # the main path is first among equals too
        best = first.topk(min(plan.width, log_q.size(-1)), dim=-1).indices
        return main_path(
            root, fast.token(best), log_q.gather(2, best), plan.budget - words.size(1), plan.reward * plan.costs[2]
        )

    def _drawn_chain(
        self,
        root: Int[Tensor, "B"],
        plan: Plan,
        distribution: TokenDistribution,
        depth: int,
        draw: Callable[[Tensor], Tensor],
        output: Sequence[list[int]],
    ) -> tuple[Tree, list[Tensor]]:
        """One guess behind the other, each word drawn from its log-probabilities [B, words]; and those of every
        step."""
        fast, tokens, values, distributions = self.fast, [root], [torch.zeros(len(root), device=root.device)], []
        paths = [list(s) for s in output] if distribution.has_memory else None

        def guess(a: Tensor) -> tuple[Tensor, bool]:
            distributions.append(fast.log_q(a, distribution, paths))
            word = draw(distributions[-1])
            tokens.append(fast.token(word))
            values.append(values[-1] + _taken(distributions[-1], word))
            if paths is not None:
                for path, token in zip(paths, tokens[-1].tolist()):
                    path.append(token)
            return word, plan.is_worth(values[-1].exp())

        self._walk(root, depth, guess)
        return chain(torch.stack(tokens, 1), torch.stack(values, 1)), distributions

    def _walk(self, root: Int[Tensor, "B"], depth: int, guess: Callable[[Tensor], tuple[Tensor, bool]]) -> None:
        """Draft along one path. guess: from the states [B, D], each row's next word, in the draft's own numbers, and
        whether another level is worth it. Behind the end of an answer nothing is guessed. Guesses leave no keys, since
        they are not certain."""
        fast, start, a = self.fast, self.layers.length, self.a
        self.layers.widen(start + depth)
        angles, speaking = self._angles(depth), [token != fast.end for token in root.tolist()]
        for level in range(depth):
            word, on = guess(a)
            speaking = [yes and w != fast.end_word for yes, w in zip(speaking, word.tolist())]
            if level + 1 == depth or not any(speaking) or not on:
                break
            a = self._step_flat(a, fast.vocabulary_table.index_select(0, word), angles[level], self.layers.mask(1), 1)
            self.layers.length += 1
        self.layers.length = start

    def _angles(self, depth: int) -> list[tuple[Tensor, Tensor]]:
        """cos and sin for the guesses of depth 1, 2, ...: all nodes of a level stand at one position."""
        at = self.next[:, None] + torch.arange(1, depth + 1, device=self.next.device)
        cos, sin = self.fast.angles(at, self.reach + depth + 1)
        return list(zip(cos.split(1, 1), sin.split(1, 1)))

    def draw_chain(
        self,
        root: Int[Tensor, "B"],
        plan: Plan,
        distribution: TokenDistribution,
        output: Sequence[list[int]],
        generator=None,
        limit: int | None = None,
    ) -> tuple[Tree, Float[Tensor, "B n V"]]:
        """A chain drawn from the draft's own distribution (rule "drawn"), and that distribution at every node, on the
        target's vocabulary."""
        depth = min(plan.depth, plan.budget) if limit is None else min(plan.depth, plan.budget, limit)
        draw = lambda log_q: torch.multinomial(log_q.exp().cpu(), 1, generator=generator)[:, 0].to(root.device)
        tree, distributions = self._drawn_chain(root, plan, distribution, depth, draw, output)
        q = [self.fast.on_all_words(log_q).exp() for log_q in distributions]
        q.append(
            torch.zeros(len(root), self.fast.config.vocab_size, device=root.device)
        )  # behind the last nothing is drawn
        return tree, torch.stack(q, 1)


def _real_before(present: Bool[Tensor, "B n"]) -> Float[Tensor, "B n n"]:
    """The mask of n new tokens of which some are padding: each attends to itself and to the real ones before it."""
    n = present.size(1)
    causal = torch.ones(n, n, dtype=torch.bool, device=present.device).tril()
    return hide(causal & present[:, None] | torch.eye(n, dtype=torch.bool, device=present.device))


def _taken(log_q: Float[Tensor, "*any words"], word: Int[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """The log-probability of the word that was taken."""
    return log_q.gather(-1, word[..., None])[..., 0]
