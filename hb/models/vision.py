"""The vision encoder: patches to tokens through a SigLIP tower, and the connector into the decoder (bagel.md section
4).

The blocks are SigLIP's (Zhai et al. 2023, arXiv 2303.15343), written out: `transformers`' module takes longer to import
than PyTorch itself. A test holds them to that module. The patch embedding is BAGEL's linear one. Modules have the
released names.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from hb.models.config import VisionConfig
from hb.models.roles import adamw


class _Embeddings(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.patch_embedding = nn.Linear(3 * config.patch_size**2, config.hidden_size)
        self.position_embedding = nn.Embedding(config.side**2, config.hidden_size)

    def forward(self, patches, positions):
        return self.patch_embedding(patches) + self.position_embedding(positions)


class _Attention(nn.Module):
    """Attention of all patches to all patches, with biases."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        q, k, v = (
            p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _Mlp(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class _Block(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.layer_norm1 = nn.LayerNorm(width, eps=eps)
        self.self_attn = _Attention(width, config.num_attention_heads)
        self.layer_norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = _Mlp(width, config.intermediate_size)

    def forward(self, x):
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class _Encoder(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.layers = nn.ModuleList(_Block(config) for _ in range(config.num_hidden_layers))

    def forward(self, x, hidden_states: list | None = None):
        for layer in self.layers:
            x = layer(x)
            if hidden_states is not None:
                hidden_states.append(x)
        return x


class _Tower(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.embeddings = adamw(_Embeddings(config))
        self.encoder = _Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, patches, positions, hidden_states: list | None = None):
        return self.post_layernorm(self.encoder(self.embeddings(patches, positions), hidden_states))


class VisionTower(nn.Module):
    """Patch vectors to features."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.config = config
        self.vision_model = _Tower(config)

    def forward(
        self, patches: Float[Tensor, "B N pixels"], positions: Int[Tensor, "N"], hidden_states: list | None = None
    ) -> Float[Tensor, "B N width"]:
        """positions: row of the position table for each patch, `table_rows(rows, columns, side)`. hidden_states
        collects what each layer gives."""
        return self.vision_model(patches, positions, hidden_states)

    @torch.no_grad()
    def begin_positions(self) -> None:
        """Position embeddings as sines and cosines of short waves. Drawn at random, training must first find out which
        patches are neighbors."""
        table = self.vision_model.embeddings.position_embedding.weight
        if table.size(1) % 4 == 0:
            table.copy_(sincos_table(self.config.side, table.size(1), base=20.0))


class Connector(nn.Module):
    """Two linear layers with a tanh-GELU between: tower width to decoder width."""

    def __init__(self, width_in: int, width_out: int):
        super().__init__()
        self.fc1 = nn.Linear(width_in, width_out)
        self.fc2 = nn.Linear(width_out, width_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


def patchify(pictures: Float[Tensor, "B C H W"], patch: int) -> Float[Tensor, "B N values"]:
    """Squares of patch x patch, row-major; inside one the order is (row, column, channel)."""
    b, c, h, w = pictures.shape
    if h % patch or w % patch:
        raise ValueError(f"a {h}x{w} picture does not divide into {patch}x{patch} squares; resize it first")
    x = pictures.reshape(b, c, h // patch, patch, w // patch, patch)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(b, (h // patch) * (w // patch), patch * patch * c)


def unpatchify(tokens: Float[Tensor, "B N values"], patch: int, rows: int, columns: int) -> Float[Tensor, "B C H W"]:
    """The inverse of `patchify` for a grid of rows x columns."""
    b, _, values = tokens.shape
    c = values // patch**2
    x = tokens.reshape(b, rows, columns, patch, patch, c)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(b, c, rows * patch, columns * patch)


def table_rows(rows: int, columns: int, side: int, device=None, *, stretched: bool = False) -> Int[Tensor, "N"]:
    """Row of a [side^2, width] table for each token of a rows x columns grid: row * side + column.

    stretched: the grid is spread over the whole table instead of taking its corner (BAGEL's `interpolate_pos`: off, as
    released). The place is floor(row * side / rows), in whole numbers; the published code compares fractions, which is
    the same but for rounding.
    """
    if max(rows, columns) > side:
        raise ValueError(f"a grid of {rows}x{columns} tokens does not fit the position table of side {side}")
    row, column = (torch.arange(n, device=device) * (side if stretched else n) // n for n in (rows, columns))
    return (row[:, None] * side + column).flatten()


def sincos_table(side: int, width: int, base: float = 10000.0) -> Float[Tensor, "places D"]:
    """2-D sine-cosine table [side^2, width]: column block, then row block; float64 inside, float32 out.

    base: the longest wave is nearly 2 pi base places long; BAGEL's frozen tables have 10000.
    """
    if width % 4:
        raise ValueError(f"a 2-D sine-cosine table needs a width divisible by 4, got {width}")
    # on the device "meta", where a model is built before it is loaded, PyTorch would import its compiler for this
    with torch.device("cpu"):
        omega = base ** (-torch.arange(width // 4, dtype=torch.float64) / (width / 4))
        place = torch.arange(side * side)

    def block(coordinate):
        angle = coordinate.double()[:, None] * omega
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    return torch.cat([block(place % side), block(place // side)], dim=1).float()
