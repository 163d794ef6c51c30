"""Pictures from people to pictures for the model: color mode, size, range (bagel.md section 5)."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

MAX_PIXELS = 14 * 14 * 9 * 1024
ORIENTATION = 0x0112  # the EXIF tag
DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")


def resized(w: int, h: int, *, most: int, least: int, stride: int, max_pixels: int = MAX_PIXELS, pictures: int = 1):
    """Size (w, h) that BAGEL gives a picture of w x h: long side at most `most`, short side at least `least` where that
    does not push the long one out, both multiples of `stride`. pictures: how many one sample holds, which share
    `max_pixels`; the batch size has nothing to do with it."""
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
    """RGB as a viewer shows it: turned as EXIF says, transparency blended on white, more than 8 bits rounded to 8.

    Raises ValueError for a picture of mode I or F whose values have no meaning as brightness.
    """
    if picture.getexif().get(ORIENTATION, 1) != 1:
        picture = ImageOps.exif_transpose(picture)
    if picture.mode in DEEP_MODES:
        return _to_bytes(picture).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


def _to_bytes(picture: Image.Image) -> Image.Image:
    """A gray picture of 16 bits, whole numbers or floats, in 8 bits. Pillow's `convert` would clip at 255.

    I;16: 0 to 65535. I: 0 to 255, or 0 to 65535 if any value is above 255. F: 0 to 1, or 0 to 255 if any value is
    above 1.
    """
    values = np.asarray(picture).astype(np.float64)
    least, most = float(values.min()), float(values.max())
    largest = {"I": 65535, "F": 255}.get(picture.mode, 65535)
    if not (least >= 0 and most <= largest):  # NaN fails every comparison
        raise ValueError(
            f"a picture of mode {picture.mode!r} must hold values from 0 to {largest}, got {least:.4g} to {most:.4g}; "
            "scale them and convert the picture to 'L'"
        )
    if picture.mode == "F":
        scale = 255 if most <= 1 else 1
    else:
        scale = 1 if picture.mode == "I" and most <= 255 else 1 / 257
    return Image.fromarray((values * scale).round().astype(np.uint8))


def to_tensor(picture: Image.Image) -> Tensor:
    """RGB image to [3, H, W] in [-1, 1]."""
    pixels = torch.from_numpy(np.asarray(to_rgb(picture), dtype=np.float32).copy())
    return pixels.movedim(-1, 0) / 127.5 - 1


def from_uint8(pictures: Tensor) -> Tensor:
    """Stored pictures, uint8 [B, H, W, 3], to [B, 3, H, W] in [-1, 1]."""
    return pictures.movedim(-1, 1).float() / 127.5 - 1


def to_image(picture: Tensor, *, truncate: bool = False) -> Image.Image:
    """[3, H, W] in [-1, 1] to an image, clamped and rounded to bytes: `to_image(to_tensor(x))` is x.

    truncate: cut the fraction off, as the published code does with what it has drawn. Used for drawn and edited
    pictures alone (`hb.infer.records.Pictures.images`, and the evaluation, which judges the same bytes).
    """
    levels = (picture.detach().cpu().float() / 2 + 0.5).clamp(0, 1) * 255
    bytes_ = (levels if truncate else levels.round()).to(torch.uint8)
    return Image.fromarray(bytes_.movedim(0, -1).numpy())
