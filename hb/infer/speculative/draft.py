"""The draft model: a bridge from the target's features, and a few layers behind it that guess on.

Hyper-Bagel (arXiv 2509.18824, section 3.1). Tokens of text, of pictures as seen and of latents live in different
corners of the embedding space, too many for a small draft to learn. So the bridge asks the target: Q meta queries
attend, token by token, to the states of *all* target layers (equation 1), a low, a middle and a high one are added, a
decoder layer mixes along the sequence, and fc1 makes one feature g of it. The draft layers read [g ; embedding of the
next token] through fc2, as in EAGLE-3 (Li et al. 2025, arXiv 2503.01840), and after the first guess their own output
takes g's place.

Legend: B rows, S tokens, L target layers, D width, Q queries, N draft layers, a the draft's state, g the target's
feature.

Not in the paper, our reading (method.md 4.3.2): Q = 3, so that the triple can be added; the bridge's decoder layer has
width D and is applied to each of the Q slots; the states are normalized before attention. Nano's draft has a vocabulary
of its own, the words its target ever says, as EAGLE-3's code allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from hb.infer.artifacts import DRAFT, DraftCheckpoint
from hb.models.bagel import Bagel
from hb.models.checkpoint import check
from hb.models.config import DecoderConfig
from hb.models.layers import RMSNorm, at_least_float32, rotary_angles, rotate
from hb.models.mot import ExpertLayer
from hb.models.names import expert_name
from hb.models.roles import adamw

KINDS = ("hyper-bagel", "eagle3")


@dataclass(frozen=True)
class DraftConfig:
    """kind: which bridge. layers: N. zero_init: the paper's zeros in fc1, fc2 and the bridge's last projections;
    without it those are drawn as usual. vocabulary: the tokens it may guess, in order; empty: all."""

    kind: str = "hyper-bagel"
    layers: int = 2
    zero_init: bool = True
    vocabulary: tuple[int, ...] = ()

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"no draft of kind {self.kind!r}; choose from {', '.join(KINDS)}")
        if self.layers < 1:
            raise ValueError(f"a draft has at least one layer, got {self.layers}")

    @staticmethod
    def of(values: dict) -> DraftConfig:
        """From a checkpoint's JSON. Until 0.1 the vocabulary was called "words"."""
        others = {name: value for name, value in values.items() if name not in ("words", "vocabulary")}
        return DraftConfig(**others, vocabulary=tuple(values.get("vocabulary", values.get("words", ()))))


def feature_layers(layers: int) -> tuple[int, int, int]:
    """Which target layers are low, middle and high, counted from 1 (the input stands at 0): EAGLE-3's choice."""
    return min(3, layers), layers // 2 + 1, max(layers - 2, 1)


class LayerAttention(nn.Module):
    """Q meta queries look at one token's states in all target layers (Hyper-Bagel, equation 1)."""

    def __init__(self, config: DecoderConfig, queries: int = 3):
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.queries = nn.Parameter(torch.randn(queries, width) * width**-0.5)
        self.norm = RMSNorm(width, config.rms_norm_eps)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(self, states: Float[Tensor, "B S L D"]) -> Float[Tensor, "B S Q D"]:
        seen = self.norm(states)
        k, v = (p(seen).unflatten(-1, (self.heads, -1)) for p in (self.k_proj, self.v_proj))  # [B, S, L, heads, d]
        q = self.queries.unflatten(-1, (self.heads, -1))  # the queries are weights, so they need no projection
        scores = torch.einsum("qhd,bslhd->bshql", q, k) * k.size(-1) ** -0.5
        mixed = torch.einsum("bshql,bslhd->bsqhd", scores.softmax(-1), v)
        return self.o_proj(mixed.flatten(-2))


def run_alone(layer: ExpertLayer, x: Float[Tensor, "B S D"], attend) -> Float[Tensor, "B S D"]:
    """An expert's layer with an attention from outside: attend(q, k, v), not yet rotated, gives [B, H, S, d]."""
    return layer.finish(x, attend(*layer.project(x)).transpose(1, 2).flatten(2))


class Bridge(nn.Module):
    """From the target's states at a token to one feature g of width D."""

    def __init__(self, config: DecoderConfig, draft: DraftConfig):
        super().__init__()
        width = config.hidden_size
        self.config, self.kind = config, draft.kind
        self.picked = feature_layers(config.num_hidden_layers)
        self.fc1 = nn.Linear(3 * width, width, bias=False)
        if draft.kind == "hyper-bagel":
            self.look = LayerAttention(config)
            self.mix = ExpertLayer(config)

    def slots(self, hidden_states: Sequence[Float[Tensor, "B S D"]]) -> Float[Tensor, "B S Q D"]:
        """The low, middle and high state of each token, and what the queries found in all of them."""
        triple = torch.stack([hidden_states[i] for i in self.picked], dim=2)
        if self.kind == "eagle3":
            return triple
        return triple + self.look(torch.stack(list(hidden_states[1:]), dim=2))

    def forward(self, hidden_states, angles, mask: Tensor) -> Float[Tensor, "B S D"]:
        """hidden_states: input and L states; mask [B, 1, S, S]: which query attends to what, added to the scores."""
        u = self.slots(hidden_states)
        if self.kind == "hyper-bagel":
            folded = u.transpose(1, 2).flatten(0, 1)  # each slot is a sequence of its own
            angles = tuple(a.repeat_interleave(u.size(2), 0) for a in angles)
            mask = mask.repeat_interleave(u.size(2), 0)
            folded = self.mix(folded, angles, mask)
            u = folded.unflatten(0, (len(u), -1)).transpose(1, 2)
        return self.fc1(u.flatten(2))


class Draft(nn.Module):
    """Bridge, fc2, N decoder layers and a head. The token embedding is the target's own."""

    def __init__(self, config: DecoderConfig, draft: DraftConfig):
        super().__init__()
        width = config.hidden_size
        self.config, self.draft = config, draft
        self.bridge = Bridge(config, draft)
        self.fc2 = nn.Linear(2 * width, width, bias=False)
        self.layers = nn.ModuleList(ExpertLayer(config) for _ in range(draft.layers))
        self.norm = RMSNorm(width, config.rms_norm_eps)
        self.head = adamw(nn.Linear(width, len(draft.vocabulary) or config.vocab_size, bias=False))

    @property
    def vocabulary(self) -> Int[Tensor, "words"]:
        """The target's number of each token of the draft's vocabulary."""
        return torch.tensor(self.draft.vocabulary or range(self.config.vocab_size), device=self.head.weight.device)

    @torch.no_grad()
    def initialize(self, target: Bagel) -> None:
        """The paper's start: draft layers and head from the target's last; zeros where `zero_init` says so.

        With fc1 and fc2 zero the gradient that reaches fc2 is the one that the copied layers produce, so it learns the
        state that they expect: for N = 2 the output of the target's third-to-last layer. Exactly at zero fc1 gets no
        gradient (it goes through fc2's g half); it is freed by the second drafting step, in which fc2 sees the draft's
        own state.
        """
        expert = target.mot.understanding
        for mine, theirs in zip(self.layers, expert.layers[-len(self.layers) :]):
            mine.load_state_dict(theirs.state_dict())
        self.norm.load_state_dict(expert.norm.state_dict())
        self.head.weight.copy_(target.lm_head.weight[self.vocabulary])
        if self.draft.zero_init:
            for weight in self.zeroed():
                weight.zero_()

    def zeroed(self) -> list[Tensor]:
        """The weights that start at zero, but in `zero_init=False` as PyTorch draws them."""
        out = [self.bridge.fc1.weight, self.fc2.weight]
        if self.draft.kind == "hyper-bagel":
            mix = self.bridge.mix
            out += [self.bridge.look.o_proj.weight, mix.o_proj.weight, mix.mlp.down_proj.weight]
        return out

    # ---- training-time test -----------------------------------------------------------------------------------------

    def forward(
        self,
        hidden_states: Sequence[Float[Tensor, "B S D"]],
        positions: Int[Tensor, "B S"],
        present: Tensor,
        *,
        steps: int = 7,
        window: int = 0,
    ) -> list[Float[Tensor, "B W words"]]:
        """Logits of `steps` drafting steps, as they will be run (EAGLE-3's training-time test).

        In step j, index i reads the output of the draft at i one step earlier (in step 0: the target's g_i) and the
        embedding of token i + 1 + j, whose position it takes, and guesses token i + 2 + j. It attends to the step-0
        keys up to i, and of the later steps to its own only. present [B, S]: which tokens are real. Indices before
        `window` are context: only step 0 runs there. Entry j holds indices window to S - 2 - j.
        """
        embeddings, size = hidden_states[0], hidden_states[0].size(1)
        wide = at_least_float32(embeddings.dtype)
        cos, sin = rotary_angles(positions, self.config.head_size, self.config.rope_theta, wide)
        causal = torch.ones(size, size, dtype=torch.bool, device=cos.device).tril()
        mask = causal & present[:, None, :] | torch.eye(size, dtype=torch.bool, device=cos.device)
        mask = torch.zeros(mask.shape, device=cos.device, dtype=wide).masked_fill(~mask, float("-inf"))[:, None]
        x = self.bridge(hidden_states, (cos, sin), mask)[:, :-1]
        memories = [_Memory(mask[:, :, :-1, :-1]) for _ in self.layers]
        out = []
        for j in range(steps):
            first = 0 if j == 0 else window
            last = size - 1 - j
            if last <= first:
                break
            y = self.fc2(torch.cat([x[:, : last - first], embeddings[:, first + 1 + j : last + 1 + j]], dim=-1))
            at = slice(first + 1 + j, last + 1 + j)
            for layer, memory in zip(self.layers, memories):
                y = run_alone(layer, y, memory.attend((cos[:, :, at], sin[:, :, at]), first))
            y = y[:, window:] if j == 0 else y
            out.append(self.head(self.norm(y)))
            x = y
        return out


def open_draft(checkpoint: DraftCheckpoint, target: Bagel) -> Draft:
    """The draft model of a checkpoint, for this target. Raises CheckpointError if its weights do not fit."""
    config = DraftConfig.of(checkpoint.config)
    draft = Draft(target.config.llm, config)
    weights = {expert_name(name): value for name, value in checkpoint.weights.items()}
    check(weights, {k: v.shape for k, v in draft.state_dict().items()}, DRAFT)
    draft.load_state_dict(weights)
    return draft.to(target.device, target.dtype).eval().requires_grad_(False)


class _Memory:
    """Keys and values of one draft layer through the steps of the training-time test."""

    def __init__(self, mask: Float[Tensor, "B 1 S S"]):
        self.mask, self.first, self.own = mask, None, []

    def attend(self, angles, start: int):
        """An attention for `run_alone`; indices begin at `start`."""

        def attention(q, k, v):
            q, k = rotate(q, *angles), rotate(k, *angles)
            repeat = q.size(1) // k.size(1)
            k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
            scale, n = q.size(-1) ** -0.5, q.size(2)
            if self.first is None:
                self.first = (k, v)
                return ((q @ k.mT) * scale + self.mask).softmax(-1) @ v
            self.own.append((k, v))
            keys, values = self.first
            scores = [(q @ keys.mT) * scale + self.mask[:, :, start : start + n]]
            # a step's own later keys are one each: a product along d, not a matrix
            scores += [((q * own[:, :, :n]).sum(-1, keepdim=True)) * scale for own, _ in self.own]
            distribution = torch.cat(scores, dim=-1).softmax(-1)
            out = distribution[..., : keys.size(2)] @ values
            for i, (_, own) in enumerate(self.own):
                out = out + distribution[..., keys.size(2) + i, None] * own[:, :, :n]
            return out

        return attention


def draft_loss(
    logits: Sequence[Float[Tensor, "B W words"]],
    target: Float[Tensor, "B S words"],
    answer: Tensor,
    *,
    window: int,
    ce_weight: float = 0.1,
    decay: float = 0.8,
    counts: Tensor | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Sum over steps of decay^j (KL(target || draft) + ce_weight * -log draft[likeliest of target]) (Hyper-Bagel,
    equation 2; the weights of steps are EAGLE-3's code's). Also the share of each step's guesses that hit the target's
    likeliest.

    target: the target's logits after each token, on the draft's words. answer[b, s]: is the token after s part of an
    answer? counts: over how many tokens each step's mean is; None: those of this batch.
    """
    total, hits = logits[0].new_zeros(()), []
    for j, output in enumerate(logits):
        at = slice(window + 1 + j, window + 1 + j + output.size(1))
        counted = answer[:, at]
        truth, log_q = target[:, at][counted].float(), output[counted].float().log_softmax(-1)
        log_p = truth.log_softmax(-1)
        likeliest = truth.argmax(-1)
        kl = F.kl_div(log_q, log_p, log_target=True, reduction="sum")
        loss = kl + ce_weight * F.nll_loss(log_q, likeliest, reduction="sum")
        total = total + decay**j * loss / (len(log_q) if counts is None else counts[j])
        hits.append((log_q.argmax(-1) == likeliest).float().mean().detach())
    return total, hits
