"""Judging the judge: pictures damaged in known ways, and how many of them it accepts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from hb.world.judge.blobs import background_of, find_blobs
from hb.world.judge.judge import same_scene
from hb.world.judge.reading import read
from hb.world.render import COLOR_RGB, render
from hb.world.scene import COLORS, MAX_THINGS, Request, Scenes, Wish, sample_scenes


def damage(pictures: Tensor, kind: str, strength: float, generator: torch.Generator) -> Tensor:
    """Clean pictures [N, 3, H, W], each damaged in one of the ways in DAMAGES."""
    if kind not in DAMAGES:
        raise ValueError(f"no damage called {kind!r}; choose from {', '.join(DAMAGES)}")
    return DAMAGES[kind](pictures, strength, generator).clamp(0, 1)


def _blur(pictures, strength, generator):
    """A Gaussian blur of `strength` pixels."""
    return torch.as_tensor(ndimage.gaussian_filter(pictures.numpy(), (0, 0, strength, strength)))


def _noise(pictures, strength, generator):
    """Independent Gaussian noise of standard deviation `strength`."""
    return pictures + strength * torch.randn(pictures.shape, generator=generator)


def _reconstruct(pictures, strength, generator):
    """What a fair autoencoder does, at strength 1: blur 0.5 px, noise 0.02 and a tint of up to 0.03 per channel."""
    tint = 0.06 * strength * (torch.rand(len(pictures), 3, 1, 1, generator=generator) - 0.5)
    return _noise(_blur(pictures, 0.5 * strength, generator), 0.02 * strength, generator) + tint


def _mix(pictures, strength, generator):
    """Averaged with the next picture, which gets the weight `strength`."""
    return torch.lerp(pictures, pictures.roll(1, 0), strength)


def _layer(pictures, generator):
    """One thing of each picture, drawn by lot: its mask [N, H, W], the background [N, 3] and a direction [N, 2]."""
    background, _, _ = background_of(pictures)
    blobs, labels = find_blobs(pictures, background)
    mask = torch.zeros(len(pictures), *pictures.shape[2:], dtype=torch.bool)
    for row in range(len(pictures)):
        mine = blobs.label[blobs.row == row]
        chosen = mine[int(torch.randint(len(mine), (), generator=generator))]
        mask[row] = torch.as_tensor(labels[row] == chosen)
    soft = torch.nn.functional.max_pool2d(mask.float()[:, None], 3, stride=1, padding=1)[:, 0] > 0
    angle = 2 * math.pi * torch.rand(len(pictures), generator=generator)
    return soft, background, torch.stack([angle.cos(), angle.sin()], 1)


def _cut(pictures, strength, generator):
    """A share `strength` of one thing, cut off by a straight line, is painted over."""
    mask, background, way = _layer(pictures, generator)
    axis = torch.arange(pictures.shape[-1], dtype=torch.float32)
    along = way[:, 0, None, None] * axis[None, None, :] + way[:, 1, None, None] * axis[None, :, None]
    out = pictures.clone()
    for row in range(len(out)):
        line = along[row][mask[row]].quantile(1 - strength)
        out[row, :, mask[row] & (along[row] > line)] = background[row, :, None]
    return out


def _copy(pictures, mask, background, shift, strength):
    """A copy of the masked thing laid over the picture at `shift` [N, 2] whole pixels, as opaque as `strength`."""
    out = pictures.clone()
    for row, (dx, dy) in enumerate(shift.round().long().tolist()):
        layer = (pictures[row] - background[row, :, None, None]) * mask[row]
        there = torch.roll(mask[row], (dy, dx), (0, 1))
        copied = torch.roll(layer, (dy, dx), (1, 2)) + background[row, :, None, None]
        out[row] = torch.where(there, torch.lerp(out[row], copied, strength), out[row])
    return out


def _ghost(pictures, strength, generator):
    """A second, faint copy of one thing, 8/64 of the side away."""
    mask, background, way = _layer(pictures, generator)
    return _copy(pictures, mask, background, way * 8 * pictures.shape[-1] / 64, strength)


def _merge(pictures, strength, generator):
    """A full second copy of one thing that overlaps the first by a share `strength` of its width."""
    mask, background, way = _layer(pictures, generator)
    width = 2 * (mask.sum((1, 2)) / math.pi).sqrt()
    return _copy(pictures, mask, background, way * (1 - strength) * width[:, None], 1.0)


def _recolored(pictures, strength, generator, other):
    """One thing's color, stripes and all, moves a share `strength` of the way to `other(index, generator)`."""
    mask, background, _ = _layer(pictures, generator)
    out = pictures.clone()
    for row in range(len(out)):
        pixels = pictures[row][:, mask[row]] - background[row, :, None]
        index, amount = _paint_used(pixels, background[row])
        change = other(index, generator) - COLOR_RGB[index]
        out[row][:, mask[row]] += strength * amount * torch.as_tensor(change, dtype=torch.float32)[:, None]
    return out


def _paint_used(pixels: Tensor, background: Tensor) -> tuple[int, Tensor]:
    """The named color that best explains pixels [3, n] (less the background), and how much of it each holds."""
    alike = 1e-3 * torch.tensor([[1.0, -1.0], [-1.0, 1.0]])  # blue on navy could be any mixture: take the plainest
    trials = []
    for index, color in enumerate(torch.as_tensor(COLOR_RGB, dtype=torch.float32)):
        mixture = torch.stack([-background, color], 1)  # less background, more color
        solved = torch.linalg.solve(mixture.T @ mixture + alike, mixture.T @ pixels)
        trials.append((float((mixture @ solved - pixels).square().sum()), index, solved[1].clamp(0, 1)))
    return min(trials, key=lambda t: t[0])[1:]


def _neighbour_color(index, generator):
    """The next color round the wheel, on one side or the other."""
    return COLOR_RGB[(index + 2 * int(torch.randint(2, (), generator=generator)) - 1) % len(COLORS)]


DAMAGES = {
    "blur": _blur,
    "noise": _noise,
    "reconstruct": _reconstruct,
    "cut": _cut,
    "ghost": _ghost,
    "merge": _merge,
    "mix": _mix,
    "offcolor": lambda p, s, g: _recolored(p, s, g, _neighbour_color),
    "gray": lambda p, s, g: _recolored(p, s, g, lambda *_: 0.3),
    "hue": lambda p, s, g: _recolored(p, s, g, lambda index, _: np.roll(COLOR_RGB[index], 1)),
}
GRADES = {  # how strong, and whether the judge should accept it (None: a matter of taste)
    "blur": ((0.5, True), (0.75, None), (1.0, None), (1.5, False), (2.5, False)),
    "noise": ((0.02, True), (0.04, None), (0.08, False)),
    "reconstruct": ((0.5, True), (1.0, True), (1.5, None), (2.0, None)),
    "cut": ((0.05, None), (0.15, None), (0.33, False), (0.5, False)),
    "ghost": ((0.05, None), (0.15, None), (0.25, False), (0.5, False)),
    "merge": ((0.25, False), (0.5, False)),
    "mix": ((0.05, None), (0.25, False), (0.5, False)),
    "offcolor": ((0.1, None), (0.25, None), (0.5, False)),
    "gray": ((0.1, None), (0.5, False), (1.0, False)),
    "hue": ((0.1, None), (0.5, False), (1.0, False)),
}


@dataclass(frozen=True)
class Row:
    """How one grade of damage fares: shares of pictures called clean, and called clean but read as another scene."""

    kind: str
    strength: float
    accept: bool | None  # should it be accepted?
    accepted: float
    misread: float
    count: int


def confusion(n: int = 200, seed: int = 0, side: int = 64) -> list[Row]:
    """The judge on n random scenes, clean and under every grade of every damage."""
    scenes = random_scenes(n, np.random.default_rng(seed))
    clean = render(scenes, side)
    generator = torch.Generator().manual_seed(seed)
    rows = [_grade("clean", 0.0, True, clean, scenes)]
    for kind, grades in GRADES.items():
        for strength, accept in grades:
            rows.append(_grade(kind, strength, accept, damage(clean, kind, strength, generator), scenes))
    return rows


def random_scenes(n: int, rng: np.random.Generator) -> Scenes:
    """One to four things, everything left to chance."""
    return sample_scenes([Request((Wish(),) * int(rng.integers(1, MAX_THINGS + 1))) for _ in range(n)], rng)


def _grade(kind, strength, accept, pictures, scenes) -> Row:
    readings = read(pictures)
    clean = [r.clean for r in readings]
    same = [r.scene is not None and same_scene(r.scene, scenes.scene(i)) for i, r in enumerate(readings)]
    misread = [c and not s for c, s in zip(clean, same)]
    return Row(kind, strength, accept, float(np.mean(clean)), float(np.mean(misread)), len(readings))


def format_confusion(rows: Sequence[Row]) -> str:
    """A table for people."""
    lines = [f"{'damage':12} {'strength':>8} {'accepted':>9} {'misread':>8}  should be"]
    wanted = {True: "accepted", False: "refused", None: "-"}
    for r in rows:
        lines.append(f"{r.kind:12} {r.strength:8.2f} {r.accepted:9.1%} {r.misread:8.1%}  {wanted[r.accept]}")
    return "\n".join(lines) + f"\n({rows[0].count} pictures a line)"
