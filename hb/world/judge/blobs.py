"""Finding what stands out from the background, and cutting a window around each blob. Lengths are in pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from hb.world.render import BACKGROUND_RGB
from hb.world.scene import RADII

CONTRAST = 0.12  # a pixel this far (Euclidean, rgb) from the background belongs to a blob
SPECK_AREA = 20  # smaller blobs are no things; in pixels of a 64 x 64 picture, as all areas here
MAX_BLOBS = 8  # a picture with more blobs is not looked at closely

_IN_PICTURE = np.zeros((3, 3, 3), bool)  # neighbours for connected pixels: not across pictures, nor across corners
_IN_PICTURE[1] = ndimage.generate_binary_structure(2, 1)


@dataclass(frozen=True)
class Blobs:
    """What stands out in N pictures: one entry per blob that may be a thing."""

    row: np.ndarray  # which picture
    x: np.ndarray  # centroid, pixels
    y: np.ndarray
    area: np.ndarray  # in pixels
    label: np.ndarray  # its number in the label map [N, H, W] that comes with it, where 0 is background

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, rows) -> Blobs:
        return Blobs(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def unlabelled(self) -> Blobs:
        """The same blobs, in no label map any more."""
        return replace(self, label=np.zeros_like(self.label))

    def joined(self, other: Blobs) -> Blobs:
        return Blobs(**{f.name: np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)})


def background_of(pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The commonest color [N, 3], the nearest background's index [N] and its largest channel error [N]."""
    color = pictures.flatten(2).median(-1).values
    known = torch.as_tensor(BACKGROUND_RGB, dtype=torch.float32)
    error, index = (color[:, None] - known).abs().amax(-1).min(-1)
    return color, index, error


def length(values: Tensor, dim: int) -> Tensor:
    """Euclidean length along `dim` (torch's own norm is slow along short axes)."""
    return values.square().sum(dim).sqrt()


def find_blobs(pictures: Tensor, background: Tensor) -> tuple[Blobs, np.ndarray]:
    """Connected pixels that differ from the background, and their label map [N, H, W]."""
    differs = length(pictures - background[:, :, None, None], 1) > CONTRAST
    return _label(differs.numpy())


def _label(mask: np.ndarray) -> tuple[Blobs, np.ndarray]:
    labels, count = ndimage.label(mask, _IN_PICTURE)
    row, y, x = np.nonzero(labels)
    label = labels[row, y, x]
    area = np.bincount(label, minlength=count + 1)
    least = SPECK_AREA * (mask.shape[-1] / 64) ** 2
    keep = np.flatnonzero((area >= least) & (np.arange(count + 1) > 0))
    whose = np.zeros(count + 1, int)
    whose[label] = row
    mean = lambda values: np.bincount(label, values, minlength=count + 1)[keep] / area[keep]
    return Blobs(whose[keep], mean(x + 0.5), mean(y + 0.5), area[keep], keep), labels


def split_blobs(
    pictures: Tensor, background: Tensor, blobs: Blobs, labels: np.ndarray, which: np.ndarray, cut: tuple[float, int]
) -> tuple[Blobs, np.ndarray, np.ndarray]:
    """Blobs `which`, each cut where it is faint or thin: things whose corners touch come apart.

    cut   pixels below this share of a blob's median contrast are taken away, then so many layers of its rim
    Returns the pieces, a label map in which they replace those blobs, and the index of the blob each came from.
    """
    faint, layers = cut
    mask = np.isin(labels, blobs.label[which])
    strength = length(pictures - background[:, :, None, None], 1).numpy()
    least = np.zeros(labels.max() + 1)
    least[blobs.label[which]] = faint * ndimage.median(strength, labels, blobs.label[which])
    thick = mask & (strength >= least[labels])
    if layers:
        thick = ndimage.binary_erosion(thick, _IN_PICTURE, iterations=layers * mask.shape[-1] // 64)
    pieces, map_ = _label(thick)
    parent_of = np.zeros(labels.max() + 1, int)
    parent_of[blobs.label] = np.arange(len(blobs))
    piece_parent = np.zeros(map_.max() + 1, int)
    piece_parent[map_[thick]] = parent_of[labels[thick]]
    kept = (labels > 0) & ~mask
    map_[kept] = labels[kept] + map_.max()
    return pieces, map_, piece_parent[pieces.label]


def window_width(side: int) -> int:
    """Odd, and wide enough for the largest thing, a blur and a wrong first guess of the center."""
    return 2 * math.ceil(1.2 * max(RADII) * side + 4) + 1


def cut_windows(
    pictures: Tensor, background: Tensor, blobs: Blobs, labels: np.ndarray
) -> tuple[Tensor, Tensor, np.ndarray]:
    """Differences from the background [n, P, 3], weights [n, P] (0 outside the picture and on other blobs), corners."""
    side, width = pictures.shape[-1], window_width(pictures.shape[-1])
    half = width // 2
    corner = np.stack([np.floor(blobs.x).astype(int), np.floor(blobs.y).astype(int)], 1) - half
    xs = torch.as_tensor(corner[:, :1] + np.arange(width))
    ys = torch.as_tensor(corner[:, 1:] + np.arange(width))
    inside = ((ys >= 0) & (ys < side))[:, :, None] & ((xs >= 0) & (xs < side))[:, None, :]
    row = torch.as_tensor(blobs.row)[:, None, None]
    ys, xs = ys.clamp(0, side - 1)[:, :, None], xs.clamp(0, side - 1)[:, None, :]
    values = pictures[row, :, ys, xs] - background[row]
    owner = _grow(torch.as_tensor(labels, dtype=torch.float32), steps=3 * side // 64)[row, ys, xs]
    mine = (owner == 0) | (owner == torch.as_tensor(blobs.label)[:, None, None])
    weight = (inside & mine).float()
    return (values * weight[..., None]).flatten(1, 2), weight.flatten(1), corner


def _grow(labels: Tensor, steps: int) -> Tensor:
    """Labels spread into the background, so that a blob also owns its soft rim."""
    for _ in range(steps):
        spread = torch.nn.functional.max_pool2d(labels[:, None], 3, stride=1, padding=1)[:, 0]
        labels = torch.where(labels > 0, labels, spread)
    return labels
