"""The small parts of a decoder layer: RMSNorm, rotary positions, SwiGLU; and a plain transformer.

Legend: B batch, L tokens, H query heads, K key-value heads, d head size, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


def transformer(width: int, layers: int, heads: int) -> nn.TransformerEncoder:
    """A plain transformer that attends both ways: norms first, no dropout, a norm at the end."""
    layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)


class RMSNorm(nn.Module):
    """x / rms(x) * weight, the mean square in float32 or better (Zhang & Sennrich 2019)."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*any D"]) -> Float[Tensor, "*any D"]:
        wide = x.to(at_least_float32(x.dtype))
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * (wide * scale).to(x.dtype)


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The type for sums and angles: float32 for half types, else the type itself."""
    return torch.promote_types(dtype, torch.float32)


def rotary_angles(
    positions: Int[Tensor, "B L"], head_size: int, theta: float, dtype: torch.dtype = torch.float32
) -> tuple[Float[Tensor, "B 1 L d"], Float[Tensor, "B 1 L d"]]:
    """cos and sin of position * theta^(-2i/d), each frequency twice (Su et al. 2021, "rotate half").

    dtype: of the computation and the result; a model in float64 needs angles in float64.
    """
    frequency = theta ** (-torch.arange(0, head_size, 2, device=positions.device, dtype=dtype) / head_size)
    angle = positions[:, None, :, None].to(dtype) * frequency
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Float[Tensor, "B H L d"], cos: Tensor, sin: Tensor) -> Float[Tensor, "B H L d"]:
    """Turn each pair (x_i, x_{i + d/2}) by its angle."""
    left, right = x.chunk(2, dim=-1)
    cos, sin = cos.chunk(2, dim=-1)[0], sin.chunk(2, dim=-1)[0]
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1).to(x.dtype)


class Mlp(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)), no biases."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
