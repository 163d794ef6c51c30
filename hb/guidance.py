"""Classifier-free guidance for text and picture, its interval, and the renorm that tames it (bagel.md section 7).

Pure functions of velocities; who computes those is `sampling/image.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RENORMS = ("global", "channel", "text_channel")


@dataclass(frozen=True)
class Guidance:
    """How a picture is guided. A scale of 1 means off and costs nothing.

    interval    guided where low < t <= high, on the shifted t
    renorm      "global": one factor a picture; "channel": one a token; "text_channel": one a token, before the picture
                guidance
    renorm_min  least factor; 1 turns the renorm off
    """

    text_scale: float = 4.0
    image_scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    renorm: str = "global"
    renorm_min: float = 0.0

    def __post_init__(self):
        if self.renorm not in RENORMS:
            raise ValueError(f"unknown renorm {self.renorm!r}; choose from {', '.join(RENORMS)}")
        if not 0 <= self.renorm_min <= 1:
            raise ValueError(f"renorm_min is a share, from 0 (free) to 1 (off); got {self.renorm_min}")
        if self.interval[0] > self.interval[1]:
            raise ValueError(f"the guidance interval runs from low to high, got {self.interval}")

    def scales_at(self, t: float) -> tuple[float, float]:
        """(text, image) scale at time t. Without text guidance there is no picture guidance either, as in BAGEL."""
        low, high = self.interval
        if not low < t <= high or self.text_scale <= 1:
            return 1.0, 1.0
        return self.text_scale, max(self.image_scale, 1.0)

    def branches_at(self, t: float) -> int:
        """Function evaluations at time t: 1, 2 with text guidance, 3 with picture guidance too.

        The published code also evaluates the picture branch where its result is unused (text off, picture on); we do
        not.
        """
        text, image = self.scales_at(t)
        return 1 + (text > 1) + (image > 1)

    def evaluations(self, grid: Tensor) -> int:
        """What walking this grid will cost a picture. Records carry the metered number instead; the two must agree."""
        return sum(self.branches_at(float(t)) for t in grid[:-1])


OFF = Guidance(text_scale=1.0)
# as BAGEL is sampled by default
DRAWING = Guidance(text_scale=4.0, renorm="global")
EDITING = Guidance(text_scale=4.0, image_scale=2.0, interval=(0.4, 1.0), renorm="text_channel")


def combine(
    v: Tensor,
    no_text: Tensor | None,
    no_image: Tensor | None,
    *,
    text_scale: float,
    image_scale: float,
    renorm: str = "global",
    renorm_min: float = 0.0,
) -> Tensor:
    """The guided velocity.

    g = no_text + text_scale (v - no_text);  m = no_image + image_scale (g - no_image)
    then scaled by clip(|v| / |m|, renorm_min, 1): it can only shrink.

    All are [B, tokens, values]. "global" takes the norm over each picture alone; the published code takes it over the
    whole call, which is the same for its batch of one.
    """
    if text_scale <= 1 or no_text is None:
        return v
    g = no_text + text_scale * (v - no_text)
    if renorm == "text_channel":
        g = g * _shrink(v, g, (-1,), renorm_min)
    if image_scale > 1 and no_image is not None:
        g = no_image + image_scale * (g - no_image)
    if renorm == "text_channel":
        return g
    return g * _shrink(v, g, (-1,) if renorm == "channel" else (-2, -1), renorm_min)


def combine_each(
    v: Tensor,
    no_text: Tensor,
    no_image: Tensor | None,
    *,
    text_scale: Tensor,
    image_scale: Tensor | None,
    guided: Tensor,
    renorm: str = "global",
    renorm_min: float = 0.0,
) -> Tensor:
    """`combine` with scales of its own for each picture, for training: a test holds the two together.

    text_scale, image_scale [B]; guided [B]: is this picture's time within the interval? Where it is not, v stays v.
    """
    wide = lambda values: values.reshape(-1, 1, 1)
    g = no_text + wide(text_scale) * (v - no_text)
    if renorm == "text_channel":
        g = g * _shrink(v, g, (-1,), renorm_min)
    if no_image is not None:
        g = no_image + wide(image_scale) * (g - no_image)
    if renorm != "text_channel":
        g = g * _shrink(v, g, (-1,) if renorm == "channel" else (-2, -1), renorm_min)
    return torch.where(wide(guided & (text_scale > 1)), g, v)


def _shrink(reference: Tensor, new: Tensor, dims: tuple[int, ...], least: float) -> Tensor:
    ratio = reference.norm(dim=dims, keepdim=True) / (new.norm(dim=dims, keepdim=True) + 1e-8)
    return torch.clamp(ratio, least, 1.0)
