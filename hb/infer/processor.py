"""From what people have to what the model takes: texts, numbers and pictures, each checked in one place."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from itertools import groupby
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hb.infer.records import Pictures
from hb.models.config import BagelConfig
from hb.models.tokenizer import Text
from hb.pictures import resized, to_image, to_rgb, to_tensor

T = TypeVar("T")
RELEASED_SIDE = 1024  # pixels, of a picture that the released model draws unless told otherwise
KINDS_OF_PICTURES = "pictures must be PIL images, a tensor [B, 3, H, W] in [0, 1], or what draw and edit return"


# ---- numbers ---------------------------------------------------------------------------------------------------------


def whole(value, name: str, least: int | None = None) -> int:
    """A whole number of any type: Python's, NumPy's, or a tensor with one element."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} is a whole number, got {value!r}") from None
    if least is not None and number < least:
        raise ValueError(f"{name} is a whole number from {least} on, got {number}")
    return number


def real(value, name: str) -> float:
    """A finite number of any type."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is a number, got {value!r}") from None
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {number}")
    return number


def seed_of(value) -> int:
    """A seed of up to 64 bits, signed or not."""
    seed = whole(value, "a seed")
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"a seed has at most 64 bits, got {seed}")
    return seed


def seeds_of(seed, n: int) -> list[int]:
    """n seeds: those that are given, or one and the numbers after it."""
    if isinstance(seed, (Tensor, np.ndarray)) and seed.ndim:
        seed = seed.tolist()
    if isinstance(seed, (Sequence, range)) and not isinstance(seed, str):
        seeds = [seed_of(s) for s in seed]
    else:
        first = seed_of(seed)
        seeds = [first + i if first + i < 2**64 else first + i - 2**64 for i in range(n)]
    if len(seeds) != n:
        raise ValueError(f"{n} pictures need {n} seeds, got {len(seeds)}")
    return seeds


# ---- texts -----------------------------------------------------------------------------------------------------------


def texts_of(texts: str | Sequence[str], what: str) -> list[str]:
    """A list of texts, none of them empty. what: "prompt", "instruction" or "question"."""
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not texts or not all(isinstance(t, str) and t.strip() for t in texts):
        raise ValueError(f"give a {what}, or a list of them; an empty {what} says nothing")
    return texts


def paired(pictures: list[T], texts: list[str], what: str) -> tuple[list[T], list[str]]:
    """As many pictures as texts: one of either goes with all of the other."""
    n = max(len(pictures), len(texts))
    pictures, texts = (each * n if len(each) == 1 else each for each in (pictures, texts))
    if len(pictures) != len(texts):
        raise ValueError(f"{len(pictures)} pictures but {len(texts)} {what}s; give one for each, or one for all")
    return pictures, texts


# ---- pictures --------------------------------------------------------------------------------------------------------


def grouped_by_size(pictures: Sequence[Tensor]) -> list[list[int]]:
    """Indices of the pictures of each size, in order within a group: a batch holds one size."""
    size = lambda i: tuple(pictures[i].shape[-2:])
    return [list(group) for _, group in groupby(sorted(range(len(pictures)), key=size), key=size)]


class Processor:
    """Texts to token ids, pictures to pixels, for a model of this config and tokenizer."""

    def __init__(self, config: BagelConfig, text: Text | None):
        self.config, self.text = config, text

    @property
    def side(self) -> int:
        """The side of a picture whose size is not given."""
        return self.config.picture_side or RELEASED_SIDE

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text."""
        if self.text is None:
            raise ValueError(
                "this model folder has no tokenizer.json, so it cannot read text; put one beside the weights"
            )
        return self.text.encode_many(texts)

    def pictures(self, pictures) -> list[Tensor]:
        """Pictures of any kind as a list of [3, H, W] in [-1, 1]."""
        if isinstance(pictures, Pictures):
            pictures = pictures.pixels
        if isinstance(pictures, Tensor):
            return list(self._checked(pictures[None] if pictures.ndim == 3 else pictures))
        if isinstance(pictures, Image.Image):
            pictures = [pictures]
        kinds = (Image.Image, Tensor)
        if not isinstance(pictures, Sequence) or not pictures or not all(isinstance(p, kinds) for p in pictures):
            raise ValueError(KINDS_OF_PICTURES)
        return [self._checked(p[None])[0] if isinstance(p, Tensor) else self._resized(p) for p in pictures]

    def _resized(self, picture: Image.Image) -> Tensor:
        """At the size that the model was trained on. The released rule looks at this picture alone."""
        picture, side = to_rgb(picture), self.config.picture_side
        size = (side, side) if side else resized(*picture.size, most=1024, least=512, stride=16)
        return to_tensor(picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC))

    def _checked(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] from [0, 1] to [-1, 1]."""
        if pixels.ndim != 4 or pixels.size(1) != 3 or not pixels.numel():
            raise ValueError(f"a picture tensor is [B, 3, H, W] or [3, H, W], got shape {list(pixels.shape)}")
        low, high = float(pixels.min()), float(pixels.max())
        if not pixels.is_floating_point() or not (low >= -0.001 and high <= 1.001):  # NaN fails every comparison
            raise ValueError(
                f"picture tensors hold floats in [0, 1], got {pixels.dtype} from {low:.3g} to {high:.3g}; "
                "divide bytes by 255"
            )
        side = self.config.picture_side
        if side and tuple(pixels.shape[-2:]) != (side, side):
            raise ValueError(
                f"this model was trained on {side}x{side} pictures, got {tuple(pixels.shape[-2:])}; resize them"
            )
        return pixels.float() * 2 - 1

    def for_vision(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] at the vision encoder's size. Only the released model resizes again, to multiples of its
        14-pixel patches."""
        if self.config.picture_side:
            return pixels
        h, w = pixels.shape[-2:]
        size = resized(w, h, most=980, least=224, stride=14)
        return torch.stack([to_tensor(to_image(p).resize(size, Image.Resampling.BICUBIC)) for p in pixels])
