"""A decoder of less than a tenth of the operations (as TAESD: Bohan 2023), for the same latents.

When fifty steps become six, decoding the picture is a third of what is left. The network is twelve small convolutions, most of
them at the latent's own resolution or twice that; pixels come from PixelShuffle.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class TinyDecoderConfig:
    """Channels of the latent, and widths at 8, 4 and 2 pixels a place; the last two pixels come from a shuffle."""

    z_channels: int
    widths: tuple[int, int, int] = (64, 32, 16)

    @property
    def downsample(self) -> int:
        return 2 ** len(self.widths)


class _Block(nn.Module):
    """x + conv(relu(conv(x))), no norms: at this size they cost as much as the convolutions."""

    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))
        nn.init.zeros_(self.body[-1].weight)  # begins as the identity

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class TinyDecoder(nn.Module):
    """Raw latents (before scale and shift, as an autoencoder's own decoder takes them) to pictures, about in [-1, 1]."""

    def __init__(self, config: TinyDecoderConfig):
        super().__init__()
        self.config = config
        width = config.widths[0]
        parts: list[nn.Module] = [nn.Conv2d(config.z_channels, width, 3, padding=1), nn.ReLU(), _Block(width), _Block(width)]
        for finer in config.widths[1:]:
            parts += [nn.Conv2d(width, 4 * finer, 1), nn.PixelShuffle(2), nn.ReLU(), _Block(finer)]
            width = finer
        parts += [nn.ReLU(), nn.Conv2d(width, 12, 3, padding=1), nn.PixelShuffle(2)]
        self.body = nn.Sequential(*parts)

    def forward(self, z: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        return self.body(z)
