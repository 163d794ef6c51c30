"""A decoder of half the operations, for the same latents, with sharper pictures where latents say what is where
(hb.data.fields).

When fifty steps become six, decoding the picture is a third of what is left. A small network reads the latent at its
own resolution and at twice that. Its features are interpolated between places, and every pixel computes its color
alone, from the features at its own position (as LIIF: Chen et al. 2021, arXiv 2012.09161). The features near a rim
encode where the rim is: no layer has to draw it with filters at full resolution, which is what makes the usual decoder
slow, in use and in training.

A latent refiner may stand before all that: a small transformer that makes latents of one kind where they are mixtures.
A model of few steps returns means: of a thing half pink and half purple, patches of both are decoded, as every place is
decoded alone. Only attention over all places can make one thing, or the background, one color. It is trained in
`hb.train.refiner`, from latents mixed on purpose.

How deep and wide the pixel's own network is decides which rims it can draw: with two layers of 48 circles and squares
came out clean and not one star did (data/results/DIARY.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hb.models.layers import transformer
from hb.models.roles import adamw
from hb.models.vision import sincos_table, table_rows

ROWS = 4096  # pixels whose features and hidden units fit into the cache of a core
# whether the processor has instructions for bfloat16: the convolutions take two thirds of the time, and a pixel
# moves by a thousandth on average
FAST_BF16 = any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16"))


@dataclass(frozen=True)
class PixelDecoderConfig:
    """How a pixel decoder is built.

    z_channels   channels of the latent
    widths       at the latent's resolution; at twice that; features that a pixel gets; hidden units of its own network
    depth        hidden layers of the pixel's network
    downsample   pixels to a side of one place of the latent
    refiner      width and layers of the latent refiner; None: latents are decoded as they come
    """

    z_channels: int
    widths: tuple[int, int, int, int] = (96, 64, 96, 64)
    depth: int = 4
    downsample: int = 8
    refiner: tuple[int, int] | None = None

    @classmethod
    def of(cls, saved: Mapping) -> PixelDecoderConfig:
        """From the JSON of a checkpoint. Until 0.1 the refiner was called "settler" there."""
        values = {dict(settler="refiner").get(name, name): value for name, value in saved.items()}
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


class _Block(nn.Module):
    """x + conv(sigmoid(conv(x)) * conv(x)), no norms (gated linear units: Dauphin et al. 2017, arXiv 1612.08083).

    Where a rim lies is a product, of an angle and a distance, and a sum of ReLUs is slow to learn products. The gate is
    bounded: with silu in its place the same network learns as fast and diverges now and then.
    """

    def __init__(self, width: int):
        super().__init__()
        self.gate, self.value, self.out = (nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        nn.init.zeros_(self.out.weight)  # begins as the identity

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(torch.sigmoid(self.gate(x)) * self.value(x))


class LatentRefiner(nn.Module):
    """Raw latents to raw latents: what it adds begins at zero, and so an untrained one is the identity.

    Every place attends to every other one, with positions as in the vision encoder. `read` and `say` are its input and
    output layers' names in files.
    """

    def __init__(self, channels: int, width: int, layers: int):
        super().__init__()
        self.width = width
        self.read, self.say = adamw(nn.Linear(channels, width)), adamw(nn.Linear(width, channels))
        self.layers = transformer(width, layers, heads=width // 24)
        nn.init.zeros_(self.say.weight)
        nn.init.zeros_(self.say.bias)

    def forward(self, z: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        rows, columns = z.shape[-2:]
        side = max(rows, columns)
        places = sincos_table(side, self.width, base=20.0)[table_rows(rows, columns, side)].to(z)
        change = self.say(self.layers(self.read(z.flatten(2).mT) + places))
        return z + change.mT.unflatten(-1, (rows, columns))


class PixelDecoder(nn.Module):
    """Raw latents (before scale and shift, as an autoencoder's own decoder takes them) to pictures, about in [-1, 1].

    `settle`, the refiner, and `paint`, each pixel's own network, keep the names that they have in files.
    """

    def __init__(self, config: PixelDecoderConfig):
        super().__init__()
        self.config = config
        self.settle = LatentRefiner(config.z_channels, *config.refiner) if config.refiner else None
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
        return self._decode(z.to(self.as_it_is.weight.dtype)).to(z.dtype)

    def quick(self) -> PixelDecoder:
        """Itself, from now on in bfloat16 if that is faster here. The refiner keeps its type."""
        if FAST_BF16 and not self.as_it_is.weight.is_cuda:
            for part in (self.read, self.as_it_is, self.refine, self.paint):
                part.to(torch.bfloat16)
        return self

    def _decode(self, z: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        between = lambda x, times: F.interpolate(x, scale_factor=times, mode="bilinear", align_corners=False)
        fine = self.refine(between(self.read(z) + self.as_it_is(z), 2))
        features = between(fine, self.config.downsample // 2)
        return self.paint(features) if self.training or features.is_cuda else self._decode_by_rows(features)

    def _decode_by_rows(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 3 H W"]:
        """The same pixels, ROWS at a time: as many as fit into a processor's cache go through all layers before the
        next."""
        layers = [layer for layer in self.paint if isinstance(layer, nn.Conv2d)]
        decoded = []
        for rows in features.movedim(1, -1).flatten(0, -2).split(ROWS):
            for layer in layers:
                rows = F.linear(rows.relu(), layer.weight[:, :, 0, 0], layer.bias)
            decoded.append(rows)
        return torch.cat(decoded).unflatten(0, (len(features), *features.shape[-2:])).movedim(-1, 1)
