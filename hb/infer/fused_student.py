"""A student's evaluation without waste, for a text that is being typed.

One evaluation of a small model on a CPU is some hundred operations, and starting them costs more than the arithmetic.
`hb.models.bagel` runs all layers over the text and then again over the picture, and each expert by itself. Here the
words that are new and the picture's tokens go through the layers together, as rows of one matrix: first those of the
understanding expert (new words, then the two markers), then the latent tokens. Norms have lost their weights to the
products behind them (`hb.infer.fused`), so one operation serves the rows of both experts; results go into buffers that
are made once, keys and values straight into a cache with room. A test holds it to `Bagel.read_text` and
`StudentModel.velocity`.

`torch.compile` does not pay here: it makes a pass no faster than this one, and it takes seconds to minutes for every
new length of the text.

Legend: m new tokens of the text, u = m + 2 rows of the understanding expert, n latent tokens, L = u + n, D width,
H and K heads, d head size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from hb.infer.fused import FastText, FusedLayer, LayerColumns, fused_head, least_norm, unit_rms
from hb.models.conditioning import StudentModel
from hb.models.config import DecoderConfig
from hb.models.kv_cache import KVCache
from hb.models.layers import at_least_float32

ROOM = 64  # tokens of text that a cache has room for at first
KEPT = 6  # sets of buffers: a key changes the last few tokens, so few lengths come again and again


class FusedStudent:
    """A student's generation branch beside its teacher's fused text path. Its weights are copies."""

    def __init__(self, student: StudentModel, text: FastText):
        self.student, self.text, self.config = student, text, student.config.llm
        self.layers = [(und, FusedLayer.of(gen, self.config)) for und, gen in zip(text.layers, student.expert.layers)]
        self.head = fused_head(student.expert.norm, student.latent.output.weight)
        self.bias = student.latent.output.bias.detach()
        self.markers = student.base.embed_markers(1)[0].detach()


class PictureRun:
    """Pictures behind a text that changes: a prefix (empty, or a picture to be edited), the text, the latent tokens.

    `type` says what the text is now; what it has in common with the last one stays in the cache. `velocity` then is
    that of the student, which a sampler may call in its place.
    """

    def __init__(self, fused: FusedStudent, prefix: KVCache):
        """prefix: one row, no padding. A copy of it is kept."""
        self.fused, self.device = fused, prefix.kv.device
        self.cache = prefix.reserve(ROOM + ROOM)
        self._begins = prefix.length, int(prefix.position)
        self._ids: list[int] = []  # what the cache holds behind the prefix ...
        self._new: list[int] = []  # ... and what the next evaluation reads
        self._buffers: dict[tuple[int, int], Buffers] = {}
        self._embedded: tuple[Tensor | None, Tensor | None] = None, None

    def type(self, ids: list[int]) -> int:
        """The text from now on; returns how many of its tokens were there already."""
        same = common_length(self._ids, ids)
        length, position = self._begins
        self.cache.rewind(length + same, position + same)
        self._ids, self._new = self._ids[:same], ids[same:]
        return same

    @property
    def context(self) -> KVCache:
        """The prefix and those words that have been read."""
        return self.cache

    def velocity(
        self, x: Float[Tensor, "1 n values"], t: Float[Tensor, "1"], context=None, grid=None, **scales: Tensor | None
    ) -> Float[Tensor, "1 n values"]:
        """As `StudentModel.velocity` behind prefix and text. The first call after `type` reads the new words."""
        rows = self._rows(self._embed(x, t, grid, scales))
        seen = self.cache.length + len(rows.x)
        if seen > self.cache.room:
            self.cache.widen(2 * seen)
        m, position = len(self._new), int(self.cache.position)
        at = torch.arange(position, position + len(rows.x), device=self.device).clamp_(max=position + m)
        cos, sin = (angle[0] for angle in self.fused.text.angles(at[None], position + m + 1))
        mask = _causal_rows(m, self.cache.length, rows.x) if m else None
        for (und, gen), kv in zip(self.fused.layers, self.cache.layers(len(rows.x))):
            rows.layer(und, gen, cos, sin, mask, kv)
        self.cache.keep(None, None, m)
        self.cache.position += m
        self._ids, self._new = self._ids + self._new, []
        hidden = unit_rms(self._extra(rows.x_gen), self.fused.config.rms_norm_eps)
        return torch.addmm(self.fused.bias, hidden, self.fused.head)[None]

    def _extra(self, hidden: Float[Tensor, "n D"]) -> Float[Tensor, "n D"]:
        """Through the student's extra layers, if it has some."""
        layers = self.fused.student.expert.extra
        if not layers:
            return hidden
        # latent tokens share one position: to turn all queries and keys by one angle changes no product of them
        cos = hidden.new_ones(1, 1, len(hidden), self.fused.config.head_size)
        still = cos, torch.zeros_like(cos)
        x = hidden[None]
        for layer in layers:
            x = layer(x, still)
        return x[0]

    def _embed(self, x, t, grid, scales) -> Float[Tensor, "n D"]:
        """Hidden states of the latent tokens. A sampler begins with the same noise key after key: that is kept."""
        if self._embedded[0] is x:
            return self._embedded[1]
        student = self.fused.student
        grid = grid or student.base.grid_of(x.size(1))
        made = (student.latent.embed(x, t, **scales) + student.base.latent_pos_embed(*grid))[0]
        if float(t) == 1.0:
            self._embedded = x, made
        return made

    def _rows(self, latent: Float[Tensor, "n D"]) -> Buffers:
        """Buffers for this many rows, with all hidden states in place."""
        key = len(self._new) + 2, len(latent)
        rows = self._buffers.pop(key, None) or Buffers(*key, self.fused.config, latent)
        self._buffers[key] = rows  # the last one is the youngest
        if len(self._buffers) > KEPT:
            self._buffers.pop(next(iter(self._buffers)))
        ids = torch.tensor(self._new, dtype=torch.long, device=self.device)
        torch.cat([F.embedding(ids, self.fused.text.embedding), self.fused.markers, latent], out=rows.x)
        return rows


class PlainRun:
    """The same for models that are too large for fused copies: the new words in a pass of their own."""

    def __init__(self, student: StudentModel, prefix: KVCache):
        self.student, self.device, self.prefix = student, student.device, prefix
        self.context, self._ids = prefix, []

    def type(self, ids: list[int]) -> int:
        """As `PictureRun.type`."""
        same = common_length(self._ids, ids)
        if ids[same:] or len(self._ids) > same:
            kept = self.context.crop(self.prefix.length + same).at(self.prefix.position + same)
            new = torch.tensor([ids[same:]], dtype=torch.long, device=self.device)
            self.context = self.student.base.read_ids(kept, new)[1] if new.numel() else kept
        self._ids = list(ids)
        return same

    def velocity(self, x: Tensor, t: Tensor, context=None, grid=None, **scales) -> Tensor:
        return self.student.velocity(x, t, self.context, grid, **scales)


def common_length(a: list[int], b: list[int]) -> int:
    """How many tokens two texts begin with in common."""
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def _causal_rows(m: int, past: int, like: Float[Tensor, "L D"]) -> Float[Tensor, "1 1 L P"]:
    """Added to the scores: the first m of L rows attend to what was there and to those before them, the others to
    everything."""
    mask = like.new_zeros(len(like), past + len(like))
    mask[:m, past:] = like.new_full((m, len(like)), float("-inf")).triu_(1)
    return mask[None, None]


class Buffers:
    """Room for one pass over u rows of the understanding expert and n of the generation expert, and views of it: a
    view costs as much as a small operation, so they are made once."""

    def __init__(self, u: int, n: int, config: DecoderConfig, like: Tensor):
        heads, kv_heads, d = config.num_attention_heads, config.num_key_value_heads, config.head_size
        both, new = heads + kv_heads, lambda *shape: like.new_empty(u + n, *shape)
        self.x, self.normed = new(config.hidden_size), new(config.hidden_size)
        self.qkv, self.qk = new((both + kv_heads) * d), new(both, d)
        # rotated in float32 or better, as everywhere
        self.turned, self.rotated = (new(both, d).to(at_least_float32(like.dtype)) for _ in range(2))
        self.gate_up, self.inner = new(2 * config.intermediate_size), new(config.intermediate_size)
        halves = lambda buffer: buffer.split([u, n])
        self.x_und, self.x_gen = halves(self.x)
        self.normed_und, self.normed_gen = halves(self.normed)
        self.qkv_und, self.qkv_gen = halves(self.qkv)
        self.qk_und, self.qk_gen = halves(self.qk)
        self.gate_up_und, self.gate_up_gen = halves(self.gate_up)
        self.inner_und, self.inner_gen = halves(self.inner)
        self.raw_qk, values = self.qkv.view(u + n, -1, d).split([both, kv_heads], 1)
        self.values = values.transpose(0, 1)
        self.queries, self.keys = self.rotated.transpose(0, 1).split([heads, kv_heads])
        self.gate, self.up = self.gate_up.chunk(2, dim=-1)
        self.rows, self.gqa = [u, n], heads != kv_heads

    def layer(self, und: FusedLayer, gen: FusedLayer, cos: Tensor, sin: Tensor, mask, kv: LayerColumns) -> None:
        """One layer of both experts, from `x` to `x`. See `hb.models.mot.joint_layer` and `FusedLayer`."""
        keys, values, new_keys, new_values = kv
        _unit_rms_into(self.x, und.eps, self.normed)
        torch.addmm(und.qkv_bias, self.normed_und, und.qkv, out=self.qkv_und)
        torch.addmm(gen.qkv_bias, self.normed_gen, gen.qkv, out=self.qkv_gen)
        _unit_rms_into(self.raw_qk, und.eps, self.qk)
        self.qk_und.mul_(und.qk_weight)
        self.qk_gen.mul_(gen.qk_weight)
        torch.mul(self.qk, cos, out=self.turned)
        torch.addcmul(self.turned, torch.roll(self.qk, self.qk.size(-1) // 2, -1), sin, out=self.rotated)
        new_keys.copy_(self.keys)
        new_values.copy_(self.values)
        queries = self.queries[None].to(keys.dtype)
        out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, enable_gqa=self.gqa)
        attended_und, attended_gen = out.transpose(1, 2).reshape(len(self.x), -1).split(self.rows)
        self.x_und.addmm_(attended_und, und.o)
        self.x_gen.addmm_(attended_gen, gen.o)
        _unit_rms_into(self.x, und.eps, self.normed)
        torch.mm(self.normed_und, und.gate_up, out=self.gate_up_und)
        torch.mm(self.normed_gen, gen.gate_up, out=self.gate_up_gen)
        torch.mul(F.silu(self.gate), self.up, out=self.inner)
        self.x_und.addmm_(self.inner_und, und.down)
        self.x_gen.addmm_(self.inner_gen, gen.down)


def _unit_rms_into(x: Tensor, eps: float, out: Tensor) -> None:
    """`unit_rms`, written to `out`."""
    if x.dtype != torch.float32:
        out.copy_(unit_rms(x, eps))
        return
    size = torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), least_norm(x.size(-1), eps, x.device))
    torch.div(x, size, out=out)
