"""The eyes: patches to tokens through a SigLIP tower, and the connector into the decoder (bagel.md section 4).

The transformer blocks are `transformers`' SigLIP; the patch embedding is BAGEL's linear one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.models.siglip.configuration_siglip import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipEncoder

from hb.models.config import VisionConfig
from hb.models.roles import adamw


class _Embeddings(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.patch_embedding = nn.Linear(3 * config.patch_size**2, config.hidden_size)
        self.position_embedding = nn.Embedding(config.side**2, config.hidden_size)

    def forward(self, patches, places):
        return self.patch_embedding(patches) + self.position_embedding(places)


class _Tower(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        siglip = SiglipVisionConfig(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            image_size=config.image_size,
            patch_size=config.patch_size,
            layer_norm_eps=config.layer_norm_eps,
        )
        siglip._attn_implementation = "sdpa"
        self.embeddings = adamw(_Embeddings(config))
        self.encoder = SiglipEncoder(siglip)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, patches, places):
        x = self.embeddings(patches, places)
        return self.post_layernorm(self.encoder(inputs_embeds=x).last_hidden_state)


class VisionTower(nn.Module):
    """Patch vectors to features. Nested as the released names are: `vit_model.vision_model...`."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.config = config
        self.vision_model = _Tower(config)

    def forward(self, patches: Float[Tensor, "B N pixels"], places: Int[Tensor, "N"]) -> Float[Tensor, "B N width"]:
        """places: row of the position table for each patch, `table_rows(rows, columns, side)`."""
        return self.vision_model(patches, places)

    @torch.no_grad()
    def begin_places(self) -> None:
        """Places as sines and cosines of short waves: drawn at random, they must first find out who is next to whom."""
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
    omega = base ** (-torch.arange(width // 4, dtype=torch.float64) / (width / 4))

    def block(coordinate):
        angle = coordinate.double()[:, None] * omega
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    place = torch.arange(side * side)
    return torch.cat([block(place % side), block(place // side)], dim=1).float()
