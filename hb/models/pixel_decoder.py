"""A decoder of half the operations, for the same latents, with sharper pictures where latents say what is where
(hb.data.fields).

When fifty steps become six, decoding the picture is a third of what is left. A small network reads the latent at its
own resolution and at twice that; what it has understood is interpolated between places, and every pixel works its color
out alone, from the features at its own spot (as LIIF: Chen et al. 2021, arXiv 2012.09161). A place near a rim knows
where the rim is: no layer has to draw it with filters at full resolution, which is what makes the usual decoder slow,
and slow to learn.

A settler may stand before all that: a small transformer that makes up its mind where the latents have not. A model of
few steps hands over means: a thing half pink and half purple is painted in patches of both, as every place decides
alone. What is one thing, or the one background, can only be agreed on by all of its places. It is trained in
`hb.train.refiner`, from latents made undecided on purpose.

How deep and wide the pixel's own network is decides which rims it can paint: with two layers of 48 circles and squares
came out clean and not one star did (data/results/DIARY.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hb.models.roles import adamw
from hb.models.vision import sincos_table, table_rows

ROWS = 4096  # pixels whose features and hidden units fit into the cache of a core
# whether the processor multiplies bfloat16 by itself: painting takes two thirds of the time, and a pixel moves by a
# thousandth on average
FAST_BF16 = any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16"))


@dataclass(frozen=True)
class PixelDecoderConfig:
    """How a tiny decoder is built.

    z_channels   channels of the latent
    widths       at the latent's resolution; at twice that; features that a pixel gets; hidden units of its own network
    depth        hidden layers of the pixel's network
    downsample   pixels to a side of one place of the latent
    settler      width and layers of the settler; None: latents are painted as they come
    """

    z_channels: int
    widths: tuple[int, int, int, int] = (96, 64, 96, 64)
    depth: int = 4
    downsample: int = 8
    settler: tuple[int, int] | None = None


class _Block(nn.Module):
    """x + conv(sigmoid(conv(x)) * conv(x)), no norms (gated linear units: Dauphin et al. 2017, arXiv 1612.08083).

    Where a rim lies is a product, of a turn and a way, and a sum of ReLUs is slow to learn products. The gate is
    bounded: with silu in its place the same network learns as fast and blows up now and then.
    """

    def __init__(self, width: int):
        super().__init__()
        self.gate, self.value, self.out = (nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        nn.init.zeros_(self.out.weight)  # begins as the identity

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(torch.sigmoid(self.gate(x)) * self.value(x))


class LatentRefiner(nn.Module):
    """Raw latents to raw latents: what it adds begins at zero, and so an untrained one is the identity.

    Every place sees every other one, and where both are (positions as the vision tower's).
    """

    def __init__(self, channels: int, width: int, layers: int):
        super().__init__()
        self.width = width
        self.read, self.say = adamw(nn.Linear(channels, width)), adamw(nn.Linear(width, channels))
        layer = nn.TransformerEncoderLayer(
            width, width // 24, 4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        nn.init.zeros_(self.say.weight)
        nn.init.zeros_(self.say.bias)

    def forward(self, z: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        rows, columns = z.shape[-2:]
        side = max(rows, columns)
        places = sincos_table(side, self.width, base=20.0)[table_rows(rows, columns, side)].to(z)
        said = self.say(self.layers(self.read(z.flatten(2).mT) + places))
        return z + said.mT.unflatten(-1, (rows, columns))


class PixelDecoder(nn.Module):
    """Raw latents (before scale and shift, as an autoencoder's own decoder takes them) to pictures, about in [-1,
    1]."""

    def __init__(self, config: PixelDecoderConfig):
        super().__init__()
        self.config = config
        self.settle = LatentRefiner(config.z_channels, *config.settler) if config.settler else None
        coarse, fine, pixel, hidden = config.widths
        self.read = nn.Sequential(
            adamw(nn.Conv2d(config.z_channels, coarse, 3, padding=1)),
            nn.ReLU(),
            _Block(coarse),
            _Block(coarse),
            nn.Conv2d(coarse, fine, 1),
        )
        self.as_it_is = adamw(nn.Conv2d(config.z_channels, fine, 1))
        self.refine = nn.Sequential(_Block(fine), nn.Conv2d(fine, pixel, 1))
        sizes = [pixel, *[hidden] * config.depth, 3]
        self.paint = nn.Sequential(
            *(layer for pair in zip(sizes, sizes[1:]) for layer in (nn.ReLU(), nn.Conv2d(*pair, 1)))
        )
        adamw(self.paint[-1])

    def forward(self, z: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        z = self.settle(z) if self.settle is not None else z
        return self._paint(z.to(self.as_it_is.weight.dtype)).to(z.dtype)

    def quick(self) -> PixelDecoder:
        """Itself, painting in bfloat16 from now on if that is faster here. What settles stays as exact as it was."""
        if FAST_BF16 and not self.as_it_is.weight.is_cuda:
            for part in (self.read, self.as_it_is, self.refine, self.paint):
                part.to(torch.bfloat16)
        return self

    def _paint(self, z: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        between = lambda x, times: F.interpolate(x, scale_factor=times, mode="bilinear", align_corners=False)
        fine = self.refine(between(self.read(z) + self.as_it_is(z), 2))
        features = between(fine, self.config.downsample // 2)
        return self.paint(features) if self.training or features.is_cuda else self._paint_by_rows(features)

    def _paint_by_rows(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 3 H W"]:
        """The same pixels, ROWS at a time: all that a processor's cache must hold goes through all layers before the
        next."""
        layers = [layer for layer in self.paint if isinstance(layer, nn.Conv2d)]
        painted = []
        for rows in features.movedim(1, -1).flatten(0, -2).split(ROWS):
            for layer in layers:
                rows = F.linear(rows.relu(), layer.weight[:, :, 0, 0], layer.bias)
            painted.append(rows)
        return torch.cat(painted).unflatten(0, (len(features), *features.shape[-2:])).movedim(-1, 1)
