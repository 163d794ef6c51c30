"""Real or fake? A copy of the generation branch that may learn, with many small heads on its layers (DMDX; method.md
5.2.3).

DMDX (arXiv 2507.18569) freezes the backbone; Hyper-Bagel trains it, and so do we. Our grids are 8 x 8, so a head has
two stride-2 blocks instead of three, and is as wide as the model, at most 256.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hb.losses import approximate_r1, hinge_discriminator_loss
from hb.models.conditioning import StudentModel
from hb.models.kv_cache import KVCache
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
    """D(x_t, t, prefix): a logit from each of several layers of the backbone. Large means: looks real."""

    def __init__(self, backbone: StudentModel, every: int = 4, side: int = 4):
        super().__init__()
        self.backbone = backbone
        config = backbone.config.llm
        self.layers = tuple(range(every, config.num_hidden_layers + 1, every)) or (config.num_hidden_layers,)
        self.heads = nn.ModuleList(Head(config.hidden_size, side) for _ in self.layers)

    def forward(
        self,
        x: Float[Tensor, "B n values"],
        t: Float[Tensor, "B"],
        cache: KVCache,
        text_scale: Tensor | None = None,
        image_scale: Tensor | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Float[Tensor, "B heads"]:
        """Gradients flow to x, and to backbone and heads alike. grid: rows and columns of x; None: as many of each."""
        states: list[Tensor] = []
        grid = grid or self.backbone.base.grid_of(x.size(1))
        self.backbone(x, t, cache, grid, text_scale=text_scale, image_scale=image_scale, hidden_states=states)
        return torch.stack([head(states[layer], grid) for layer, head in zip(self.layers, self.heads)], 1)


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
