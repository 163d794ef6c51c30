"""Pictures to latents and back: FLUX's autoencoder (bagel.md section 6).

The layers are those of FLUX, written out with the released names: `diffusers`' module takes twice as long to import as
PyTorch itself. A test holds them to that module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hb.models.names import accept_diffusers
from hb.models.roles import adamw


@dataclass(frozen=True)
class AutoencoderConfig:
    """Geometry of the autoencoder; the defaults are the released model's. Keys are FLUX's where FLUX has one.

    downsampling is 2 ** (len(ch_mult) - 1); scale_factor and shift_factor bring latents to zero mean, unit variance.
    """

    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    z_channels: int = 16
    scale_factor: float = 0.3611
    shift_factor: float = 0.1159
    norm_groups: int = 32

    @property
    def downsample(self) -> int:
        return 2 ** (len(self.ch_mult) - 1)


class _ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), x through a 1x1 convolution where the width changes."""

    def __init__(self, before: int, after: int, groups: int):
        super().__init__()
        self.norm1 = _norm(before, groups)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.norm2 = _norm(after, groups)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        if before != after:
            self.nin_shortcut = nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + h


class _SelfAttention(nn.Module):
    """Attention of all places of a feature map to all, one head as wide as the map."""

    def __init__(self, width: int, groups: int):
        super().__init__()
        self.norm = _norm(width, groups)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).mT[:, None] for layer in (self.q, self.k, self.v))
        out = F.scaled_dot_product_attention(q, k, v)[:, 0].mT.unflatten(2, x.shape[2:])
        return x + self.proj_out(out)


class _Middle(nn.Module):
    def __init__(self, width: int, groups: int):
        super().__init__()
        self.block_1 = _ResBlock(width, width, groups)
        self.attn_1 = _SelfAttention(width, groups)
        self.block_2 = _ResBlock(width, width, groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class _Downsample(nn.Module):
    """Half the side, by a convolution that looks one place further to the right and below."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class _Upsample(nn.Module):
    """Twice the side: the nearest value, then a convolution."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class _Level(nn.Module):
    """Residual blocks at one resolution, and then perhaps a change of it."""

    def __init__(self, before: int, after: int, blocks: int, groups: int, *, halve: bool = False, double: bool = False):
        super().__init__()
        self.block = nn.ModuleList(_ResBlock(before if i == 0 else after, after, groups) for i in range(blocks))
        if halve:
            self.downsample = _Downsample(after)
        if double:
            self.upsample = _Upsample(after)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        resize = getattr(self, "downsample", None) or getattr(self, "upsample", None)
        return x if resize is None else resize(x)


class Encoder(nn.Module):
    """Pictures to mean and log-variance of a latent, before scale and shift."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        groups, widths = config.norm_groups, [config.ch * m for m in config.ch_mult]
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            _Level(before, after, config.num_res_blocks, groups, halve=i < len(widths) - 1)
            for i, (before, after) in enumerate(zip([widths[0], *widths], widths))
        )
        self.mid = _Middle(widths[-1], groups)
        self.norm_out = _norm(widths[-1], groups)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.z_channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 2C h w"]:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Raw latents to pictures."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        groups, widths = config.norm_groups, [config.ch * m for m in config.ch_mult]
        self.conv_in = nn.Conv2d(config.z_channels, widths[-1], 3, padding=1)
        self.mid = _Middle(widths[-1], groups)
        self.up = nn.ModuleList(  # numbered from the finest level, run from the coarsest
            _Level(before, after, config.num_res_blocks + 1, groups, double=i > 0)
            for i, (before, after) in enumerate(zip([*widths[1:], widths[-1]], widths))
        )
        self.norm_out = _norm(widths[0], groups)
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, z: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


def _norm(width: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, width, eps=1e-6)


class Autoencoder(nn.Module):
    """Pictures in [-1, 1] to latents of about unit variance, and back."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        for half in (self.encoder, self.decoder):
            adamw(half.conv_in), adamw(half.conv_out)
        self.to(memory_format=torch.channels_last)  # on a CPU convolutions are twice as fast

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        accept_diffusers(self, state_dict, prefix, len(self.config.ch_mult))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def moments(self, pictures: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B C h w"], Float[Tensor, "B C h w"]]:
        """Mean and log-variance of the raw latent, before scale and shift."""
        side = self.config.downsample
        if pictures.shape[-1] % side or pictures.shape[-2] % side:
            raise ValueError(
                f"the sides of a picture must be multiples of {side} pixels, got {pictures.shape[-2]}x"
                f"{pictures.shape[-1]}; resize it first"
            )
        mean, logvar = self.encoder(pictures).chunk(2, 1)
        return mean, logvar

    def encode(
        self,
        pictures: Float[Tensor, "B 3 H W"],
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        sample: bool = True,
    ) -> Float[Tensor, "B C h w"]:
        """Latents scale * (mean + std * eps - shift). The released model samples eps at inference too, and so do we.

        generator   of eps, on the CPU: a seed means the same picture on every device. One for all, or one for each
                    picture, which then has the same latent alone and among others, to rounding
        sample=False gives the mean: the same picture, always the same latent.
        """
        mean, logvar = self.moments(pictures)
        if sample:
            if isinstance(generator, Sequence):
                if len(generator) != len(mean):
                    raise ValueError(
                        f"{len(mean)} pictures but {len(generator)} generators; give one for each, or one for all"
                    )
                eps = torch.stack([torch.randn(mean.shape[1:], generator=g) for g in generator]).to(mean)
            else:
                eps = torch.randn(mean.shape, generator=generator).to(mean)
            mean = mean + (0.5 * logvar).exp() * eps
        return self.config.scale_factor * (mean - self.config.shift_factor)

    def decode(self, z: Float[Tensor, "B C h w"], decoder: nn.Module | None = None) -> Float[Tensor, "B 3 H W"]:
        """Pictures, about in [-1, 1] (not clamped: training needs the slope). decoder: another one for the same
        latents."""
        return (decoder or self.decoder)(z / self.config.scale_factor + self.config.shift_factor)
