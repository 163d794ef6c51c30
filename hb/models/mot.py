"""The decoder layer: two complete sets of weights, one attention (bagel.md section 2).

A sequence travels as a pair, understanding tokens and generation tokens. Each goes through the weights of its expert;
only the attention itself sees both. Attention does not care about order as long as positions and mask travel along, so
sorting tokens by expert costs nothing and no weight is ever run on a token it does not own.

Legend: B batch, U understanding tokens, G generation tokens, P cached tokens, H query heads, K key-value heads, d head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hb.models.config import DecoderConfig
from hb.models.roles import adamw

Pair = tuple[Tensor, Tensor]  # understanding tokens [B, U, .], generation tokens [B, G, .]


class RMSNorm(nn.Module):
    """x / rms(x) * weight, the mean square in float32 (Zhang & Sennrich 2019)."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*any D"]) -> Float[Tensor, "*any D"]:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * (wide * scale).to(x.dtype)


def rotary_angles(positions: Int[Tensor, "B L"], head_size: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin [B, 1, L, d] of position * theta^(-2i/d), each frequency twice (Su et al. 2021, "rotate half")."""
    frequency = theta ** (-torch.arange(0, head_size, 2, device=positions.device, dtype=torch.float32) / head_size)
    angle = positions[:, None, :, None].float() * frequency
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Float[Tensor, "B H L d"], cos: Tensor, sin: Tensor) -> Float[Tensor, "B H L d"]:
    """Turn each pair (x_i, x_{i + d/2}) by its angle."""
    left, right = x.chunk(2, dim=-1)
    cos, sin = cos.chunk(2, dim=-1)[0], sin.chunk(2, dim=-1)[0]
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1).to(x.dtype)


def attend(
    q: Float[Tensor, "B H L d"], k: Float[Tensor, "B K P d"], v: Float[Tensor, "B K P d"], mask: Tensor | None
) -> Float[Tensor, "B H L d"]:
    """softmax(q k' / sqrt(d)) v, each key-value head serving H / K consecutive query heads; mask True: may look.

    A float mask is added to the scores, and the formula is written out: see `written_out`.
    """
    grouped = q.size(1) // k.size(1)
    if mask is None or mask.dtype == torch.bool:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped > 1)
    if grouped > 1:
        k, v = k.repeat_interleave(grouped, 1), v.repeat_interleave(grouped, 1)
    # the factor on q, the mask in place: each pass over the scores that is saved is 3% of a training step on a CPU
    scores = ((q * q.size(-1) ** -0.5) @ k.mT).to(mask.dtype).add_(mask)
    return scores.softmax(-1).to(v.dtype) @ v


def written_out(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """The mask as `attend` should have it: a float one while training on a CPU.

    There PyTorch's fused kernel takes three times as long with a mask, forwards and backwards, at a hundred tokens.
    """
    if mask is None or like.device.type != "cpu" or not torch.is_grad_enabled():
        return mask
    dtype = torch.promote_types(like.dtype, torch.float32)
    return torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, float("-inf"))


class Mlp(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)), no biases."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Attention(nn.Module):
    """Grouped-query attention with q and k normalized per head before rotation; projections per expert."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        width, d = config.hidden_size, config.head_size
        for suffix in ("", "_moe_gen"):
            for name, heads in (
                ("q", config.num_attention_heads),
                ("k", config.num_key_value_heads),
                ("v", config.num_key_value_heads),
            ):
                self.add_module(f"{name}_proj{suffix}", nn.Linear(width, heads * d, bias=True))
            self.add_module(f"o_proj{suffix}", nn.Linear(config.num_attention_heads * d, width, bias=False))
            self.add_module(f"q_norm{suffix}", RMSNorm(d, config.rms_norm_eps))
            self.add_module(f"k_norm{suffix}", RMSNorm(d, config.rms_norm_eps))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.config.head_size)).transpose(1, 2)

    def project(self, x: Tensor, expert: str) -> tuple[Tensor, Tensor, Tensor]:
        """q [B, H, n, d], k and v [B, K, n, d] of one expert's tokens; not yet rotated."""
        part = {n: getattr(self, n + expert) for n in ("q_proj", "k_proj", "v_proj", "q_norm", "k_norm")}
        q = part["q_norm"](self._heads(part["q_proj"](x)))
        k = part["k_norm"](self._heads(part["k_proj"](x)))
        return q, k, self._heads(part["v_proj"](x))

    def forward(self, x: Pair, angles, mask, past) -> tuple[Pair, tuple[Tensor, Tensor]]:
        und, gen = x
        parts = [self.project(tokens, expert) for tokens, expert in ((und, ""), (gen, "_moe_gen")) if tokens.size(1)]
        q, k, v = parts[0] if len(parts) == 1 else (torch.cat(p, dim=2) for p in zip(*parts))
        q, k = rotate(q, *angles), rotate(k, *angles)
        # under autocast the norms answer in float32: what is cached and compared must have one type
        q, k = q.to(v.dtype), k.to(v.dtype)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        out = attend(q, k, v, mask).transpose(1, 2).flatten(2)
        n = und.size(1)
        und = self.o_proj(out[:, :n]) if n else und
        gen = self.o_proj_moe_gen(out[:, n:]) if gen.size(1) else gen
        return (und, gen), (k, v)


class DecoderLayer(nn.Module):
    """Pre-norm Qwen2 block with two experts. Tokens without an expert present cost nothing."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.self_attn = Attention(config)
        width, eps = config.hidden_size, config.rms_norm_eps
        for suffix in ("", "_moe_gen"):
            self.add_module(f"mlp{suffix}", Mlp(width, config.intermediate_size))
            self.add_module(f"input_layernorm{suffix}", RMSNorm(width, eps))
            self.add_module(f"post_attention_layernorm{suffix}", RMSNorm(width, eps))

    def forward(self, x: Pair, angles, mask, past) -> tuple[Pair, tuple[Tensor, Tensor]]:
        und, gen = x
        normed = (
            self.input_layernorm(und) if und.size(1) else und,
            self.input_layernorm_moe_gen(gen) if gen.size(1) else gen,
        )
        (a_und, a_gen), present = self.self_attn(normed, angles, mask, past)
        if und.size(1):
            und = und + a_und
            und = und + self.mlp(self.post_attention_layernorm(und))
        if gen.size(1):
            gen = gen + a_gen
            gen = gen + self.mlp_moe_gen(self.post_attention_layernorm_moe_gen(gen))
        return (und, gen), present


class Decoder(nn.Module):
    """The stack of layers and both final norms; holds the token embeddings, as the released names have it."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = adamw(nn.Embedding(config.vocab_size, config.hidden_size))
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.norm_moe_gen = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        x: Pair,
        positions: Int[Tensor, "B L"],
        mask: Bool[Tensor, "B 1 L PL"] | None,
        past: tuple[tuple[Tensor, Tensor], ...] | None = None,
        trace: list[Tensor] | None = None,
        trace_gen: list[Tensor] | None = None,
    ) -> tuple[Pair, tuple[tuple[Tensor, Tensor], ...]]:
        """Hidden states after the final norms, and each layer's keys and values, cached ones first.

        positions and mask rows are in the pair's order: understanding tokens, then generation tokens. mask None: all
        see all. trace, if given, collects the understanding tokens' input and their state after every layer, before the
        final norm (for draft models): num_hidden_layers + 1 tensors, as `transformers` counts hidden states. trace_gen:
        the same of the generation tokens.
        """
        angles = rotary_angles(positions, self.config.head_size, self.config.rope_theta)
        mask = written_out(mask, x[0])
        present = []
        traces = [(part, into) for part, into in ((0, trace), (1, trace_gen)) if into is not None]
        for part, into in traces:
            into.append(x[part])
        for i, layer in enumerate(self.layers):
            x, kv = layer(x, angles, mask, None if past is None else past[i])
            present.append(kv)
            for part, into in traces:
                into.append(x[part])
        und, gen = x
        und = self.norm(und) if und.size(1) else und
        gen = self.norm_moe_gen(gen) if gen.size(1) else gen
        return (und, gen), tuple(present)
