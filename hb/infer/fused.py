"""The text path without waste: weights fused once, keys and values in place, few operations a token.

A small model on a CPU spends most of a token's time on starting operations, not on arithmetic. Here a layer takes 22 of
them instead of 60: q, k and v come from one product, gate and up from another, norms lose their weights to the products
behind them, residuals are added by the products themselves, and nothing that was cached is copied again. The plain loop
and the speculative one run on the same passes, so that their ratio is honest. A test holds them to `Bagel.read_ids`.

Legend: B rows, n new tokens of each, P cached columns, C columns there is room for, D width, H and K heads, d head
size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from hb.models.bagel import Bagel
from hb.models.config import DecoderConfig
from hb.models.distribution import GREEDY, TokenDistribution
from hb.models.kv_cache import KVCache
from hb.models.layers import RMSNorm, at_least_float32, rotary_angles
from hb.models.mot import ExpertLayer


def unit_rms(x: Tensor, eps: float) -> Tensor:
    """x / sqrt(sum(x^2) + size * eps): RMSNorm but for a factor sqrt(size), which the weights behind it carry."""
    size = x.size(-1)
    if x.dtype != torch.float32:
        return F.rms_norm(x, (size,), None, eps) * size**-0.5
    # three operations; F.rms_norm on a CPU is six, and nearly three times as slow
    return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), least_norm(size, eps, x.device))


@cache
def least_norm(size: int, eps: float, device: torch.device) -> Tensor:
    """sqrt(size * eps) as a tensor: making one costs as much as a norm."""
    return torch.tensor(math.sqrt(size * eps), device=device)


def scaled_weight(norm: RMSNorm) -> Tensor:
    """What `unit_rms` still has to be multiplied by."""
    return norm.weight * norm.weight.size(0) ** 0.5


# what a layer reads: keys and values [B, K, P + n, d] of all columns; and where it writes those of the n new ones
LayerColumns = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class FusedLayer:
    """The understanding expert of one decoder layer, its products fused; weights are [in, out]."""

    qkv: Float[Tensor, "D qkv"]
    qkv_bias: Float[Tensor, "qkv"]
    qk_weight: Float[Tensor, "HK d"]
    o: Float[Tensor, "Hd D"]
    gate_up: Float[Tensor, "D 2I"]
    down: Float[Tensor, "I D"]
    heads: int
    kv_heads: int
    eps: float

    @staticmethod
    def of(layer: ExpertLayer, config: DecoderConfig) -> FusedLayer:
        mlp, eps = layer.mlp, config.rms_norm_eps
        parts = (layer.q_proj, layer.k_proj, layer.v_proj)
        before, after = scaled_weight(layer.attention_norm), scaled_weight(layer.mlp_norm)
        qk = torch.cat(
            [
                scaled_weight(layer.q_norm).expand(config.num_attention_heads, -1),
                scaled_weight(layer.k_norm).expand(config.num_key_value_heads, -1),
            ]
        )
        fused = dict(
            qkv=(torch.cat([p.weight for p in parts]) * before).T,
            qkv_bias=torch.cat([p.bias for p in parts]),
            qk_weight=qk,
            o=layer.o_proj.weight.T,
            gate_up=(torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]) * after).T,
            down=mlp.down_proj.weight.T,
        )
        weights = {name: w.detach().contiguous() for name, w in fused.items()}
        return FusedLayer(**weights, heads=config.num_attention_heads, kv_heads=config.num_key_value_heads, eps=eps)

    def __call__(
        self, x: Float[Tensor, "Bn D"], angles: tuple[Tensor, Tensor], mask: Tensor | None, kv: LayerColumns
    ) -> Float[Tensor, "Bn D"]:
        """One pass over n new tokens of each row; their keys and values are written into `kv`.

        angles: cos and sin [B or 1, n or 1, 1, d], the sine's first half negated. mask: added to the scores, or None.
        """
        keys, values, new_keys, new_values = kv
        batch, h, both = len(keys), self.heads, self.heads + self.kv_heads
        y = torch.addmm(self.qkv_bias, unit_rms(x, self.eps), self.qkv).view(
            batch, -1, both + self.kv_heads, keys.size(-1)
        )
        qk, v = y.split([both, self.kv_heads], 2)
        qk = unit_rms(qk, self.eps) * self.qk_weight
        qk = torch.addcmul(qk * angles[0], torch.roll(qk, qk.size(-1) // 2, -1), angles[1]).transpose(1, 2)
        q, k = qk.to(v.dtype).split([h, self.kv_heads], 1)
        new_keys.copy_(k)
        new_values.copy_(v.transpose(1, 2))
        out = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, enable_gqa=h != self.kv_heads)
        x = torch.addmm(x, out.transpose(1, 2).reshape(len(x), -1), self.o)
        gate, up = torch.mm(unit_rms(x, self.eps), self.gate_up).chunk(2, dim=-1)
        return torch.addmm(x, F.silu(gate) * up, self.down)


class Angles:
    """cos and sin of every position, made once; the sine as `FusedLayer` takes it."""

    def __init__(self, config: DecoderConfig, like: Tensor):
        self.config, self.device, self.dtype = config, like.device, at_least_float32(like.dtype)
        self.table = (torch.zeros(0, config.head_size),) * 2

    def __call__(self, positions: Int[Tensor, "B n"], most: int) -> tuple[Tensor, Tensor]:
        """For these positions, none of which reaches `most`."""
        # threads share this table: cos and sin are replaced together, and a call uses what it has read once
        table = self.table
        if len(table[0]) < most:
            every = torch.arange(2 * most, device=self.device)[None]
            cos, sin = rotary_angles(every, self.config.head_size, self.config.rope_theta, self.dtype)
            half = self.config.head_size // 2
            sin = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
            self.table = table = cos[0, 0], sin[0, 0]
        cos, sin = table
        return cos[positions][:, :, None], sin[positions][:, :, None]


class FastText:
    """A model's text path, fused. Made once for a loaded model; its weights are copies."""

    def __init__(self, model: Bagel):
        expert, config = model.mot.understanding, model.config.llm
        self.config, self.markers = config, model.markers
        self.embedding = model.embed_tokens.weight.detach()
        self.layers = [FusedLayer.of(layer, config) for layer in expert.layers]
        # the same few lines for the draft model's head: see `fused_head`
        self.head = fused_head(expert.norm, model.lm_head.weight)
        self.angles = Angles(config, self.embedding)

    def logits(self, hidden: Float[Tensor, "*any D"]) -> Float[Tensor, "*any V"]:
        """What the tokens behind these last hidden states, before the final norm, may be."""
        return unit_rms(hidden, self.config.rms_norm_eps) @ self.head


def fused_head(norm: RMSNorm, weight: Float[Tensor, "V D"]) -> Float[Tensor, "D V"]:
    """Final norm and output embedding as one matrix, to be applied to `unit_rms` of a hidden state."""
    return (weight * scaled_weight(norm)).detach().T.contiguous()


class TextRun:
    """A context being continued: the target's side of plain and speculative decoding alike."""

    def __init__(self, fast: FastText, context: KVCache, room: int):
        """room: tokens expected to be read behind the context; where more come, room is made."""
        self.fast, self.position = fast, context.position.clone()
        self.reach = int(context.position.max())  # no row's next position is larger
        self.cache = context.reserve(room)

    @property
    def batch(self) -> int:
        return len(self.position)

    def read(
        self,
        ids: Int[Tensor, "B n"],
        depth: Int[Tensor, "B n"] | None = None,
        local: Tensor | None = None,
        hidden_states: list[Tensor] | None = None,
    ) -> Float[Tensor, "B n D"]:
        """Hidden states of new tokens before the final norm. Nothing is kept until `keep`.

        depth: how many tokens behind the row's next position each stands; None: 0, 1, 2 ... local: see `KVCache.mask`.
        hidden_states collects the input and the state after each layer, as `run_experts` does but flat [B n, D]: see
        `stacked`.
        """
        batch, n = ids.shape
        if depth is None:
            depth = torch.arange(n, device=ids.device)[None]
        if self.cache.length + n > self.cache.room:  # rows that keep different numbers use more columns than tokens
            self.cache.widen(2 * (self.cache.length + n))
        angles = self.fast.angles(self.position[:, None] + depth, self.reach + n)
        mask = self.cache.mask(n, local)
        x = F.embedding(ids, self.fast.embedding).view(batch * n, -1)
        if hidden_states is not None:
            hidden_states.append(x)
        for layer, kv in zip(self.fast.layers, self.cache.layers(n)):
            x = layer(x, angles, mask, kv)
            if hidden_states is not None:
                hidden_states.append(x)
        return x.view(batch, n, -1)

    def keep(self, nodes: Tensor | None, count: Int[Tensor, "B"] | int) -> None:
        """Keep the tokens of these numbers [B, a] of the last `read`, the first count[b] of each row; None: all of them
        in order, `count` of every row."""
        if isinstance(count, int):
            a = count
            self.cache.keep(nodes, None, a)
        else:
            a = int(count.max())
            present = torch.arange(a, device=count.device) < count[:, None]
            self.cache.keep(None if nodes is None else nodes[:, :a], present, a)
        self.position += count
        self.reach += a


def stacked(hidden_states: list[Tensor], batch: int) -> Float[Tensor, "B n L1 D"]:
    """What `TextRun.read` traced, token by token."""
    return torch.stack(hidden_states, 1).unflatten(0, (batch, -1))


@torch.no_grad()
def decode_fast(
    fast: FastText,
    context: KVCache,
    *,
    max_tokens: int = 128,
    distribution: TokenDistribution = GREEDY,
    generator: torch.Generator | None = None,
) -> tuple[list[list[int]], int]:
    """`hb.infer.text.decode` on the fused path: tokens of each row without the end marker, and passes of the target.

    A row that has ended is dragged along until the last has.
    """
    start, end = fast.markers[:2]
    run = TextRun(fast, context, max_tokens + 1)
    rows: list[list[int]] = [[] for _ in range(run.batch)]
    alive = list(range(run.batch))
    tokens = [start] * run.batch
    passes = 0
    while alive and passes < max_tokens:
        tokens = plain_step(run, tokens, distribution, rows, generator)
        passes += 1
        alive = [i for i in alive if tokens[i] != end]
        for i in alive:
            rows[i].append(tokens[i])
    return rows, passes


def plain_step(
    run: TextRun,
    tokens: Sequence[int],
    distribution: TokenDistribution,
    rows: Sequence[list[int]],
    generator: torch.Generator | None = None,
    hidden_states: list[Tensor] | None = None,
) -> list[int]:
    """Each row's next token, behind its last one, which is read and kept. rows: the answers so far; hidden_states: see
    `TextRun.read`."""
    ids = torch.tensor(tokens, device=run.position.device)[:, None]
    logits = run.fast.logits(run.read(ids, hidden_states=hidden_states)[:, -1])
    run.keep(None, 1)
    if distribution.is_greedy:
        return distribution.likeliest(logits, rows)
    return torch.multinomial(distribution(logits.float().cpu(), rows), 1, generator=generator)[:, 0].tolist()
