"""Real or fake? In latents: a trained copy of the generation branch with many small heads on its layers (DMDX;
method.md 5.2.3), or a small network of its own. In pixels: heads on the model's own vision encoder.

DMDX (arXiv 2507.18569) freezes the backbone; Hyper-Bagel trains it, and so do we. Our grids are 8 x 8, so a head has
two stride-2 blocks instead of three, and is as wide as the model, at most 256.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hb.losses import approximate_r1, hinge_discriminator_loss
from hb.models.bagel import Bagel
from hb.models.conditioning import Shared, StudentModel
from hb.models.kv_cache import KVCache
from hb.models.latents import TimeEmbedder
from hb.models.layers import transformer
from hb.models.vision import patchify, sincos_table, table_rows
from hb.seeding import noise_like


class Head(nn.Module):
    """Tokens of one layer, laid out as a picture, to one logit: convolutions until little is left, then the mean."""

    def __init__(self, width: int, side: int):
        super().__init__()
        inner = min(256, width)
        groups = min(32, inner // 4)
        block = lambda a, b, **conv: [nn.Conv2d(a, b, **conv), nn.GroupNorm(groups, b), nn.SiLU()]
        layers, at = [], width
        for _ in range(min(3, max(1, side.bit_length() - 2))):  # 4 -> 2, 8 -> 2, 16 -> 2, 64 -> 8
            layers += block(at, inner, kernel_size=4, stride=2, padding=1)
            at = inner
        self.body = nn.Sequential(
            *layers, *block(at, inner, kernel_size=3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.last = nn.Linear(inner, 1)

    def forward(self, tokens: Float[Tensor, "B n D"], grid: tuple[int, int]) -> Float[Tensor, "B"]:
        return self.last(self.body(tokens.mT.unflatten(-1, grid).contiguous())).squeeze(-1)


class Discriminator(nn.Module):
    """D(x_t, t, prefix): a logit from each of several layers of the backbone. Large means: looks real.

    every, depths   which layers have a head: each `every`-th, or those at these shares of the depth
    kinds           sets of heads, where there is more than one kind of real samples; each set has a head on every layer
    """

    def __init__(
        self,
        backbone: StudentModel,
        every: int = 4,
        side: int = 4,
        *,
        depths: Sequence[float] | None = None,
        kinds: int = 1,
    ):
        super().__init__()
        self.backbone = backbone
        backbone.expert.extra = nn.ModuleList()  # of a student; heads are on the layers before them
        config = backbone.config.llm
        deep = config.num_hidden_layers
        self.layers = tuple(range(every, deep + 1, every)) or (deep,) if depths is None else layers_at(depths, deep)
        self.heads = nn.ModuleList(Head(config.hidden_size, side) for _ in range(kinds) for _ in self.layers)

    def forward(
        self,
        x: Float[Tensor, "B n values"],
        t: Float[Tensor, "B"],
        cache: KVCache,
        text_scale: Tensor | None = None,
        image_scale: Tensor | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Float[Tensor, "B heads"]:
        """Gradients flow to x, and to backbone and heads alike. grid: rows and columns of x; None: as many of each.
        The heads of the first kind come first, each kind from the lowest layer up."""
        states: list[Tensor] = []
        grid = grid or self.backbone.base.grid_of(x.size(1))
        self.backbone(x, t, cache, grid, text_scale=text_scale, image_scale=image_scale, hidden_states=states)
        kinds = len(self.heads) // len(self.layers)
        return torch.stack([head(states[layer], grid) for layer, head in zip(self.layers * kinds, self.heads)], 1)


class PixelDiscriminator(nn.Module):
    """D(picture): a logit from each of several layers of the model's own vision encoder, which stays as it is (DMDX
    takes SAM's; method.md 6.1.2). Large means: looks real.

    depths: the shares of the encoder's depth that have a head; kinds: see `Discriminator`.
    """

    def __init__(self, base: Bagel, depths: Sequence[float] = (0.25, 0.5, 0.75, 1.0), kinds: int = 1):
        super().__init__()
        self._base = Shared(base)
        config = base.config.vision
        self.layers = layers_at(depths, config.num_hidden_layers)
        side = base.config.picture_side // config.patch_size
        self.heads = nn.ModuleList(Head(config.hidden_size, side) for _ in range(kinds) for _ in self.layers)

    def forward(self, pictures: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B heads"]:
        """pictures in [-1, 1]. Gradients flow to them and to the heads."""
        states, grid = vision_states(self._base.module, pictures)
        kinds = len(self.heads) // len(self.layers)
        return torch.stack([head(states[layer - 1], grid) for layer, head in zip(self.layers * kinds, self.heads)], 1)


class LightDiscriminator(nn.Module):
    """D(x_t, t): a small transformer over latents, trained from scratch, with one logit for each place. Large means:
    looks real.

    Ours. It has a twelfth of the weights of nano's backbone. It reads no prompt: whether a picture is what was asked
    for, another loss must say. What it can see is a thing that is half drawn, or drawn in two ways.

    channels, side   values of a latent token, and tokens along a side
    kinds            logits for each place, one for each kind of real samples
    """

    def __init__(self, channels: int, side: int, kinds: int = 1, *, width: int = 128, layers: int = 2):
        super().__init__()
        self.read, self.time, self.last = nn.Linear(channels, width), TimeEmbedder(width), nn.Linear(width, kinds)
        self.places = nn.Parameter(sincos_table(side, width, base=20.0), requires_grad=False)
        self.layers = transformer(width, layers, heads=width // 32)
        self.side = side

    def forward(
        self, x: Float[Tensor, "B n values"], t: Float[Tensor, "B"], grid: tuple[int, int] | None = None
    ) -> Float[Tensor, "B logits"]:
        """Gradients flow to x and to all weights. grid: rows and columns of x; None: as many of each. The logits of the
        first kind come first, each kind's by place."""
        places = self.places[table_rows(*(grid or (self.side, self.side)), self.side)]
        states = self.layers(self.read(x) + places + self.time(t)[:, None])
        return self.last(states).mT.flatten(1)


def layers_at(depths: Sequence[float], deep: int) -> tuple[int, ...]:
    """The layers, counted from 1, at these shares of the depth; each once."""
    if not all(0 < depth <= 1 for depth in depths):
        raise ValueError(f"depths of heads are shares of the network's depth, above 0 and up to 1, not {tuple(depths)}")
    return tuple(dict.fromkeys(max(1, round(depth * deep)) for depth in depths))


def vision_states(base: Bagel, pictures: Float[Tensor, "B 3 H W"]) -> tuple[list[Tensor], tuple[int, int]]:
    """What each layer of the vision encoder gives for pictures in [-1, 1], and the rows and columns of its tokens."""
    patch = base.config.vision.patch_size
    grid = pictures.size(-2) // patch, pictures.size(-1) // patch
    states: list[Tensor] = []
    base.vit_model(patchify(pictures, patch).to(base.dtype), base.vit_pos_embed.rows_of(*grid), states)
    return states, grid


def discriminate(
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, r1: float, generator: torch.Generator
) -> tuple[Tensor, float]:
    """A critic's loss, and the share of its logits that tell the two apart (half: by chance).

    real, fake: [B, n, values], without gradient; r1: weight of `approximate_r1`, 0 for none.
    """
    logits_real, logits_fake = critic(real), critic(fake)
    loss = hinge_discriminator_loss(logits_real, logits_fake)
    if r1:
        disturbed = real + 0.05 * noise_like(real, generator)
        loss = loss + r1 * approximate_r1(logits_real, critic(disturbed))
    return loss, float((logits_real > logits_fake).float().mean())
