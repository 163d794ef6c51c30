"""Between latent tokens and hidden states: projections, the time, and a student's guidance embedding."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hb.models.roles import adamw, guidance_embedding

TEXT_SCALES, IMAGE_SCALES = (1.0, 5.0), (1.0, 2.5)  # ranges that are trained, as in Hyper-Bagel


class TimeEmbedder(nn.Module):
    """t in [0, 1], not multiplied by 1000, to width D: sinusoid of 256, linear, SiLU, linear (Peebles & Xie 2022)."""

    def __init__(self, width: int, size: int = 256):
        super().__init__()
        self.size = size
        self.mlp = nn.Sequential(adamw(nn.Linear(size, width)), nn.SiLU(), nn.Linear(width, width))

    def sinusoid(self, t: Float[Tensor, "B"]) -> Float[Tensor, "B size"]:
        half = self.size // 2
        frequency = torch.exp(-math.log(10000.0) / half * torch.arange(half, device=t.device, dtype=torch.float32))
        angle = t.float()[:, None] * frequency
        return torch.cat([angle.cos(), angle.sin()], dim=-1)

    def forward(self, t: Float[Tensor, "B"]) -> Float[Tensor, "B D"]:
        return self.mlp(self.sinusoid(t).to(self.mlp[0].weight.dtype))


class GuidanceEmbedding(nn.Module):
    """The guidance scales as inputs: two more embedders, built as the timestep's and added where it is (method.md 5.1;
    FLUX's way; Meng et al. 2023, arXiv 2210.03142).

    The last layers start at zero: an untrained student is the unguided teacher. Scales go in as
    (scale - 1) / (largest - 1), so that 0 is "off" and the range is that of t. The first layers start as the time
    embedder's, which already tells numbers of this range apart (ours: features of a random layer hardly differ between
    two scales, and after a thousand steps the output did not depend on the scale).
    """

    def __init__(self, time: TimeEmbedder):
        super().__init__()
        width = time.mlp[-1].out_features
        self.text, self.image = (TimeEmbedder(width, time.size).to(time.mlp[0].weight) for _ in range(2))
        for embedder in (self.text, self.image):
            guidance_embedding(embedder).mlp[0].load_state_dict(time.mlp[0].state_dict())
            nn.init.zeros_(embedder.mlp[-1].weight)
            nn.init.zeros_(embedder.mlp[-1].bias)

    def forward(self, text_scale: Tensor | None, image_scale: Tensor | None) -> Float[Tensor, "B D"] | float:
        """Scales [B]; None: there is nothing of this kind to be guided by."""
        out = 0.0
        for scale, embedder, (low, high) in (
            (text_scale, self.text, TEXT_SCALES),
            (image_scale, self.image, IMAGE_SCALES),
        ):
            if scale is not None:
                scale = scale.to(embedder.mlp[0].weight.device)
                out = out + embedder((scale - low) / (high - low))
        return out


class LatentInterface(nn.Module):
    """Noisy latent tokens to hidden states, and hidden states to velocities.

    input, output  linear layers (`vae2llm` and `llm2vae` in the released file)
    time           embedding of t, added to every token; there is no adaptive norm
    guidance       None for a teacher
    """

    def __init__(self, values: int, width: int):
        super().__init__()
        self.time = TimeEmbedder(width)
        self.input, self.output = adamw(nn.Linear(values, width)), adamw(nn.Linear(width, values))
        self.guidance: GuidanceEmbedding | None = None

    def embed(
        self,
        tokens: Float[Tensor, "B n values"],
        t: Float[Tensor, "B"],
        text_scale: Tensor | None = None,
        image_scale: Tensor | None = None,
    ) -> Float[Tensor, "B n D"]:
        """Tokens at times t (0 for clean ones), positions not yet added."""
        added = self.time(t)
        if self.guidance is not None:
            added = added + self.guidance(text_scale, image_scale)
        return self.input(tokens.to(self.input.weight.dtype)) + added[:, None]
