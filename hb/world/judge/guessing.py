"""First guesses: which shapes a blob may be, by comparison with silhouettes of every shape, size and turn."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from hb.world.judge.blobs import CONTRAST, length, window_width
from hb.world.judge.silhouettes import blur_maps, draw_maps
from hb.world.scene import RADII, SHAPES

GUESSES = 3  # shapes tried for each blob ...
BANK_TURNS = (0.0, 0.25, -0.25, 0.12, -0.12)
BANK_BLURS = (0.0, 1.0)


@dataclass(frozen=True)
class Bank:
    """Every shape, size, turn and blur, drawn with its centroid in the middle and scaled to length one."""

    maps: Tensor  # [m, P], shape by shape
    pose: Tensor  # [m, 4]


@cache
def template_bank(side: int) -> Bank:
    """The silhouettes that blobs are first compared with."""
    entries = [(s, t, r * side) for s in range(len(SHAPES)) for r in RADII for t in BANK_TURNS]
    shape = torch.tensor([e[0] for e in entries])
    pose = torch.tensor([(0.0, 0.0, t, r) for _, t, r in entries])
    width = window_width(side)
    axis = torch.arange(width) - (width - 1) / 2
    for _ in range(2):  # the second round corrects for pixels
        cover = draw_maps(shape, pose, width, side)[0].unflatten(1, (width, width))
        total = cover.sum((1, 2))
        pose[:, 0] -= (cover.sum(1) @ axis) / total
        pose[:, 1] -= (cover.sum(2) @ axis) / total
    sharp = draw_maps(shape, pose, width, side)[0]
    maps = torch.stack([_saturated(blur_maps(sharp, width, blur)) for blur in BANK_BLURS], 1).flatten(0, 1)
    return Bank(maps / maps.norm(dim=1, keepdim=True), pose.repeat_interleave(len(BANK_BLURS), 0))


def guess(values: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The GUESSES likeliest shapes [n, G] and their poses [n, G, 4], from soft silhouettes."""
    bank, width = template_bank(side), window_width(side)
    strength = length(values, 2)
    soft = _saturated(strength / _middle_strength(strength)) * (strength > CONTRAST / 2)
    axis = (torch.arange(width) - (width - 1) / 2).repeat(width)
    total = soft.sum(1).clamp_min(1e-6)
    cx, cy = soft @ axis / total, soft @ axis.view(width, width).T.flatten() / total
    centered = _shifted(soft.unflatten(1, (width, width)), cx, cy).flatten(1)
    likeness = centered @ bank.maps.T / centered.norm(dim=1, keepdim=True).clamp_min(1e-6)
    per_shape = likeness.unflatten(1, (len(SHAPES), -1))
    best, which = per_shape.max(-1)
    shape = best.topk(GUESSES, dim=1).indices
    entry = shape * per_shape.shape[-1] + which.gather(1, shape)
    pose = bank.pose[entry].clone()
    pose[..., 0] += cx[:, None]
    pose[..., 1] += cy[:, None]
    round_ = (shape == SHAPES.index("circle")) | (shape == SHAPES.index("ring"))
    pose[..., 2] *= ~round_  # a silhouette does not tell their turn: start half-way between the extremes
    return shape, pose


def _saturated(strength: Tensor) -> Tensor:
    """Silhouettes that stripes barely show in."""
    return (strength / 0.8).clamp(0, 1)


def _middle_strength(strength: Tensor) -> Tensor:
    """Median [n, 1] of what stands out in each window (1 where other blobs own all of it)."""
    return torch.where(strength > CONTRAST, strength, torch.nan).nanmedian(1, keepdim=True).values.nan_to_num(1.0)


def _shifted(maps: Tensor, cx: Tensor, cy: Tensor) -> Tensor:
    """Maps [n, w, w] moved so that (cx, cy) comes to the middle, bilinearly."""
    theta = torch.zeros(len(maps), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1
    scale = 2 / maps.shape[-1]
    theta[:, 0, 2], theta[:, 1, 2] = cx * scale, cy * scale
    grid = torch.nn.functional.affine_grid(theta, (len(maps), 1, *maps.shape[1:]), align_corners=False)
    return torch.nn.functional.grid_sample(maps[:, None], grid, align_corners=False)[:, 0]
