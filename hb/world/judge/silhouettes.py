"""A thing drawn in a window, without colors: its cover and its stripes, their slopes, and their blur.

Pixels, radians; the signed distances are the renderer's own.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from hb.world.render import SIGNED_DISTANCE, STRIPE_PERIOD
from hb.world.scene import SHAPES


def _distances(shape: Tensor, pose: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Signed distance [n, width, width] in pixels, and the offsets dx, dy from the center."""
    axis = torch.arange(width) - (width - 1) / 2
    x, y, turn, radius = (p[:, None, None] for p in pose.unbind(-1))
    dx, dy = axis[None, None, :] - x, axis[None, :, None] - y
    cos, sin = turn.cos(), turn.sin()
    u, v = (cos * dx + sin * dy) / radius, (cos * dy - sin * dx) / radius
    out = torch.empty_like(u)
    for index in shape.unique().tolist():
        at = shape == index
        out[at] = SIGNED_DISTANCE[SHAPES[index]](u[at], v[at])
    return out * radius, dx, dy


def _stripe_direction(turn, side: int) -> tuple[Tensor, Tensor]:
    """How much the stripes' phase grows per pixel, to the right and downwards."""
    wave_number = 2 * math.pi / (STRIPE_PERIOD * side) * math.sqrt(0.5)
    cos, sin = turn.cos()[:, None, None], turn.sin()[:, None, None]
    return wave_number * (cos - sin), wave_number * (cos + sin)


def _stripes(dx, dy, turn, side: int) -> tuple[Tensor, Tensor]:
    """How dark the stripes are in [0, 1], and their slope in the wave's phase."""
    a, b = _stripe_direction(turn, side)
    phase = a * dx + b * dy
    level = 0.5 + 1.5 * phase.sin()
    return level.clamp(0, 1), 1.5 * phase.cos() * ((level > 0) & (level < 1))


def draw_maps(shape: Tensor, pose: Tensor, width: int, side: int) -> tuple[Tensor, Tensor]:
    """Cover and cover * stripe, [n, width * width] each: the renderer's, without colors."""
    distance, dx, dy = _distances(shape, pose, width)
    cover = (0.5 - distance).clamp(0, 1)
    stripe, _ = _stripes(dx, dy, pose[:, 2], side)
    return cover.flatten(1), (cover * stripe).flatten(1)


def draw_with_slopes(shape: Tensor, pose: Tensor, width: int, side: int, rim: float) -> Tensor:
    """Ten maps [n, 10, width * width]: cover, cover * stripe, then both differentiated by x, y, turn and radius.

    Turn and radius are measured at the rim (arc length and growth), so all four are in pixels.
    """
    distance, dx, dy = _distances(shape, pose, width + 2)  # one pixel more on each side, for differences
    gx = (distance[:, 1:-1, 2:] - distance[:, 1:-1, :-2]) / 2
    gy = (distance[:, 2:, 1:-1] - distance[:, :-2, 1:-1]) / 2
    distance, dx, dy = distance[:, 1:-1, 1:-1], dx[:, :, 1:-1], dy[:, 1:-1]
    turn, radius = pose[:, 2], pose[:, 3, None, None]
    cover = (0.5 - distance / rim).clamp(0, 1)
    edge = ((cover > 0) & (cover < 1)) / -rim
    swing, growth = (gx * dy - gy * dx) / radius, (distance - gx * dx - gy * dy) / radius
    by_pose = [-gx * edge, -gy * edge, swing * edge, growth * edge]
    stripe, slope = _stripes(dx, dy, turn, side)
    slope = slope * cover
    a, b = _stripe_direction(turn, side)
    by_phase = [-a * slope, -b * slope, (a * dy - b * dx) / radius * slope, torch.zeros_like(slope)]
    striped = [m * stripe + p for m, p in zip(by_pose, by_phase)]
    return torch.stack([cover, cover * stripe, *by_pose, *striped], 1).flatten(2)


@cache
def _blur_matrix(width: int, sigma: float) -> Tensor:
    """[width, width]: a Gaussian blur along one axis."""
    if sigma == 0:
        return torch.eye(width)
    gaussian = lambda offset: (-0.5 * (offset / sigma) ** 2).exp() * (offset.abs() < 5 * sigma)  # denormals are slow
    axis = torch.arange(width)
    return gaussian(axis[:, None] - axis[None]) / gaussian(torch.arange(-width, width + 1)).sum()


def blur_maps(maps: Tensor, width: int, sigma: float) -> Tensor:
    """Gaussian blur of maps [..., width * width]."""
    k = _blur_matrix(width, sigma)
    rows = maps.reshape(-1, width) @ k  # one large product instead of many small ones: ten times faster
    return (rows.unflatten(0, (-1, width)).mT.reshape(-1, width) @ k).unflatten(0, (-1, width)).mT.reshape(maps.shape)
