"""Pictures to latents and back: FLUX's autoencoder (bagel.md section 6), built from diffusers' encoder and decoder.

The layers are diffusers'; the names in the file are the released ones, translated by `to_diffusers`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.models.autoencoders.vae import Decoder, Encoder
from jaxtyping import Float
from torch import Tensor, nn

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


class Autoencoder(nn.Module):
    """Pictures in [-1, 1] to latents of about unit variance, and back."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.config = config
        widths = tuple(config.ch * m for m in config.ch_mult)
        common = dict(
            block_out_channels=widths, layers_per_block=config.num_res_blocks, norm_num_groups=config.norm_groups
        )
        levels = len(widths)
        self.encoder = Encoder(3, config.z_channels, ("DownEncoderBlock2D",) * levels, double_z=True, **common)
        self.decoder = Decoder(config.z_channels, 3, ("UpDecoderBlock2D",) * levels, **common)
        for half in (self.encoder, self.decoder):
            adamw(half.conv_in), adamw(half.conv_out)
        self.to(memory_format=torch.channels_last)  # on a CPU convolutions are twice as fast

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

    def released_state_dict(self) -> dict[str, Tensor]:
        """Weights under the released file's names."""
        levels = len(self.config.ch_mult)
        return {from_diffusers(k, levels): _as_conv(k, v) for k, v in self.state_dict().items()}

    def expected_shapes(self) -> dict[str, torch.Size]:
        """Released name -> shape, for checking a file before anything is loaded."""
        return {k: v.shape for k, v in self.released_state_dict().items()}

    def load_released(self, weights: dict[str, Tensor]) -> None:
        """Load weights under released names, already checked against `expected_shapes`."""
        levels = len(self.config.ch_mult)
        own = {to_diffusers(k, levels): v for k, v in weights.items()}
        like = self.state_dict()
        self.load_state_dict({k: v.reshape(like[k].shape) for k, v in own.items()})


# diffusers numbers the decoder's levels from the coarsest, FLUX from the finest
_RULES = (
    (r"encoder\.down\.(\d+)\.block\.(\d+)\.", r"encoder.down_blocks.\1.resnets.\2."),
    (r"encoder\.down\.(\d+)\.downsample\.conv\.", r"encoder.down_blocks.\1.downsamplers.0.conv."),
    (r"decoder\.up\.(\d+)\.block\.(\d+)\.", r"decoder.up_blocks.\1.resnets.\2."),
    (r"decoder\.up\.(\d+)\.upsample\.conv\.", r"decoder.up_blocks.\1.upsamplers.0.conv."),
    (r"mid\.block_1\.", r"mid_block.resnets.0."),
    (r"mid\.block_2\.", r"mid_block.resnets.1."),
    (r"mid\.attn_1\.norm\.", r"mid_block.attentions.0.group_norm."),
    (r"mid\.attn_1\.proj_out\.", r"mid_block.attentions.0.to_out.0."),
    (r"mid\.attn_1\.([qkv])\.", r"mid_block.attentions.0.to_\1."),
    (r"nin_shortcut\.", r"conv_shortcut."),
    (r"(encoder|decoder)\.norm_out\.", r"\1.conv_norm_out."),
)


def to_diffusers(key: str, levels: int) -> str:
    """A released name as diffusers calls it."""
    for pattern, new in _RULES:
        key = re.sub(pattern, new, key)
    return re.sub(r"(up_blocks)\.(\d+)", lambda m: f"{m[1]}.{levels - 1 - int(m[2])}", key)


def from_diffusers(key: str, levels: int) -> str:
    """A diffusers name as it stands in the released file."""
    key = re.sub(r"(up_blocks)\.(\d+)", lambda m: f"{m[1]}.{levels - 1 - int(m[2])}", key)
    for pattern, new in (
        (r"down_blocks\.(\d+)\.resnets\.(\d+)\.", r"down.\1.block.\2."),
        (r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.", r"down.\1.downsample.conv."),
        (r"up_blocks\.(\d+)\.resnets\.(\d+)\.", r"up.\1.block.\2."),
        (r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.", r"up.\1.upsample.conv."),
        (r"mid_block\.resnets\.0\.", "mid.block_1."),
        (r"mid_block\.resnets\.1\.", "mid.block_2."),
        (r"mid_block\.attentions\.0\.group_norm\.", "mid.attn_1.norm."),
        (r"mid_block\.attentions\.0\.to_out\.0\.", "mid.attn_1.proj_out."),
        (r"mid_block\.attentions\.0\.to_([qkv])\.", r"mid.attn_1.\1."),
        (r"conv_shortcut\.", "nin_shortcut."),
        (r"conv_norm_out\.", "norm_out."),
    ):
        key = re.sub(pattern, new, key)
    return key


def _as_conv(key: str, weight: Tensor) -> Tensor:
    """The middle attention's linear layers are 1x1 convolutions in the released file."""
    is_linear = re.search(r"attentions\.0\.to_(q|k|v|out\.0)\.weight$", key)
    return weight[:, :, None, None] if is_linear else weight
