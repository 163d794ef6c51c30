"""Pictures from people to pictures for the model: color mode, size, range (bagel.md section 5)."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

MAX_PIXELS = 14 * 14 * 9 * 1024


def resized(w: int, h: int, *, most: int, least: int, stride: int, max_pixels: int = MAX_PIXELS, pictures: int = 1):
    """Size (w, h) that BAGEL gives a picture of w x h: long side at most `most`, short side at least `least` where that
    does not push the long one out, both multiples of `stride`."""
    scale = max(min(most / max(w, h), 1.0), least / min(w, h))
    w, h = _to_stride(w, h, scale, stride)
    if w * h > max_pixels / pictures:
        # by the ratio of areas, not its root: the public code does so, and the weights have seen it
        w, h = _to_stride(w, h, max_pixels / pictures / (w * h), stride)
    if max(w, h) > most:
        w, h = _to_stride(w, h, most / max(w, h), stride)
    return w, h


def _to_stride(w: int, h: int, scale: float, stride: int) -> tuple[int, int]:
    return tuple(max(stride, round(round(side * scale) / stride) * stride) for side in (w, h))


def to_rgb(picture: Image.Image) -> Image.Image:
    """RGB, transparency blended on white."""
    if picture.mode in ("RGBA", "LA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


def to_tensor(picture: Image.Image) -> Tensor:
    """RGB image to [3, H, W] in [-1, 1]."""
    pixels = torch.from_numpy(np.asarray(to_rgb(picture), dtype=np.float32).copy())
    return pixels.movedim(-1, 0) / 127.5 - 1


def to_image(picture: Tensor) -> Image.Image:
    """[3, H, W] in [-1, 1] to an image; clamped, and truncated to bytes as the public code does."""
    bytes_ = ((picture.detach().cpu().float() / 2 + 0.5).clamp(0, 1) * 255).to(torch.uint8)
    return Image.fromarray(bytes_.movedim(0, -1).numpy())
