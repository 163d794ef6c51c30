"""Fitting things to pixels: find the blobs, guess what each one is, then draw it again until it fits.

This is analysis by synthesis. A blob's window is explained as

    picture = background + cover * (color - background) - cover * stripe * dark

with `cover` and `stripe` from the renderer's own signed distances, so that `color` and `dark` solve a 2 x 2 linear
system, and center, turn and radius take a few Gauss-Newton steps (variable projection: the derivatives are freed of
what the colors could explain). Lengths are in pixels, angles in radians, and pictures in [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from hb.world.judge.blobs import CONTRAST, Blobs, length, window_width
from hb.world.judge.guessing import guess
from hb.world.judge.silhouettes import blur_maps, draw_maps, draw_with_slopes
from hb.world.scene import RADII

GOOD_MISFIT = 0.01  # ... until one fits as well as this
RIMS = (3.0, 3.0, 2.0)  # width of the rim in each Gauss-Newton step: wide first, so that it feels a far edge
# standard deviations tried, pixels; 0.25 is left out: its neighbours weigh 0.0003, so rounding would choose between it
# and 0
BLURS = (0.0, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
SPLIT_MISFIT = 0.08  # a blob that fits worse than this may be two things whose corners touch
CUTS = ((0.0, 1), (0.6, 0), (0.6, 1), (0.0, 2), (0.6, 2))  # tried in turn, see `split_blobs`
GUESS_BLURS = (0.5, 1.5)  # a guess is as good as the better of these fits, pixels
MAX_STEP = 1.5  # of any parameter in one Gauss-Newton step, pixels
CHUNK = 256  # windows at once: what fits the cache


@dataclass(frozen=True)
class Fits:
    """Things fitted to n windows, in pixels of the window, whose middle is (0, 0)."""

    shape: Tensor  # [n], index into SHAPES
    pose: Tensor  # [n, 4]: x, y, turn, radius
    color: Tensor  # [n, 3]: fitted color of the plain parts, less the background's
    dark: Tensor  # [n, 3]: what a full stripe takes away
    blur: Tensor  # [n]: standard deviation of the blur that fits best, pixels
    misfit: Tensor  # [n]: share of the energy that neither the thing nor noise explains

    def __getitem__(self, rows) -> Fits:
        return Fits(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def joined(self, other: Fits) -> Fits:
        return Fits(**{f.name: torch.cat([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)})


# ---------------------------------------------------------------- solving
_RIDGE = torch.diag(torch.tensor([1e-3, 1e-1], dtype=torch.float64))  # no stripes where none can be seen


def _gram(maps: Tensor, values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted inner products of maps with maps [n, m, m] and with the picture's channels [n, m, 3], in float64."""
    maps = maps * weight[:, None]
    return (maps @ maps.mT).double(), (maps @ values).double()


def _solve_colors(gram: Tensor, right: Tensor) -> Tensor:
    """Coefficients [n, 2, 3] of cover and cover * stripe."""
    return torch.linalg.solve(gram[:, :2, :2] + _RIDGE, right[:, :2])


def _misfit(gram, right, coef, energy) -> Tensor:
    """Unexplained energy: |values - maps coef|^2, from inner products alone."""
    explained = 2 * (coef * right[:, :2]).sum((1, 2)) - torch.einsum("nic,nij,njc->n", coef, gram[:, :2, :2], coef)
    return (energy - explained).clamp_min(0)


def _newton_step(gram: Tensor, right: Tensor, coef: Tensor) -> Tensor:
    """One Gauss-Newton step [n, 4] in pixels, colors projected out (Kaufman's variable projection)."""
    plain, striped = slice(2, 6), slice(6, 10)
    g, h = coef[:, :1], coef[:, 1:]  # [n, 1, 3]
    missing = right[:, 2:] - gram[:, 2:, :2] @ coef  # <slope, what is not explained>, per channel
    gradient = (missing[:, :4] * g + missing[:, 4:] * h).sum(-1)
    explained = gram[:, :, :2] @ torch.linalg.inv(gram[:, :2, :2] + _RIDGE) @ gram[:, :2]
    free = gram - explained
    gg, gh, hh = ((a * b).sum(-1, keepdim=True) for a, b in ((g, g), (g, h), (h, h)))
    cross = free[:, plain, striped]
    normal = gg * free[:, plain, plain] + gh * (cross + cross.mT) + hh * free[:, striped, striped]
    damping = 1e-3 * torch.diagonal(normal, dim1=1, dim2=2).sum(-1) + 1e-3
    normal = normal + damping[:, None, None] * torch.eye(4, dtype=torch.float64)
    return torch.linalg.solve(normal, gradient).clamp(-MAX_STEP, MAX_STEP)


def refine(shape, pose, values, weight, side: int, rims=RIMS, blur: float = 0.0):
    """Gauss-Newton from `pose`; returns pose [n, 4]."""
    width = math.isqrt(values.shape[1])
    for rim in rims:
        maps = draw_with_slopes(shape, pose, width, side, rim)
        if blur:
            maps = blur_maps(maps, width, blur)
        gram, right = _gram(maps, values, weight)
        step = _newton_step(gram, right, _solve_colors(gram, right)).float()
        pose = _moved(pose, step, side)
    return pose


def _moved(pose: Tensor, step: Tensor, side: int) -> Tensor:
    x, y, turn, radius = pose.unbind(-1)
    reach = 7.0 * side / 64  # a moon's center is up to 5 pixels from its middle
    low, high = 0.85 * min(RADII) * side, 1.1 * max(RADII) * side  # further off, a star passes for a tiny soft disc
    moved = [
        (x + step[:, 0]).clamp(-reach, reach),
        (y + step[:, 1]).clamp(-reach, reach),
        turn + step[:, 2] / radius,
        (radius + step[:, 3]).clamp(low, high),
    ]
    return torch.stack(moved, -1)


def evaluate(shape, pose, values, weight, side: int, blurs: tuple[float, ...] = (0.0,)) -> tuple[Tensor, Tensor]:
    """Coefficients [n, b, 2, 3] and misfits [n, b] (shares of the energy) of drawings as they are, at each blur."""
    width = math.isqrt(values.shape[1])
    sharp = torch.stack(draw_maps(shape, pose, width, side), 1)
    energy = values.square().sum((1, 2)).double().clamp_min(1e-6)
    coefs, misfits = [], []
    for blur in blurs:
        gram, right = _gram(blur_maps(sharp, width, blur) if blur else sharp, values, weight)
        coefs.append(_solve_colors(gram, right))
        misfits.append(_misfit(gram, right, coefs[-1], energy) / energy)
    return torch.stack(coefs, 1).float(), torch.stack(misfits, 1).float()


# ---------------------------------------------------------------- comparing


def draw_fits(fits: Fits, side: int) -> tuple[Tensor, Tensor]:
    """Cover [n, w, w] of each fit and what it adds to the background [n, 3, w, w], blurred as fitted."""
    width = window_width(side)
    maps = torch.stack(draw_maps(fits.shape, fits.pose, width, side), 1)
    for sigma in fits.blur.unique().tolist():
        at = fits.blur == sigma
        maps[at] = blur_maps(maps[at], width, sigma)
    layers = fits.color[:, :, None] * maps[:, :1] - fits.dark[:, :, None] * maps[:, 1:]
    return maps[:, 0].unflatten(1, (width, width)), layers.unflatten(2, (width, width))


def smooth(pictures: Tensor) -> Tensor:
    """Means of 3 x 3 pixels: structure stays, noise falls to a third."""
    return torch.nn.functional.avg_pool2d(pictures, 3, stride=1, padding=1, count_include_pad=False)


def wrong_share(left_over: Tensor, cover: Tensor, blobs: Blobs, fits: Fits, corner: np.ndarray, error: float) -> Tensor:
    """For each fit: pixels on or next to it that miss by more than `error` of its contrast, as a share of its area."""
    side, width = left_over.shape[-1], cover.shape[-1]
    xs = torch.as_tensor(corner[:, :1] + np.arange(width)).clamp(0, side - 1)[:, None, :]
    ys = torch.as_tensor(corner[:, 1:] + np.arange(width)).clamp(0, side - 1)[:, :, None]
    misses = length(left_over[torch.as_tensor(blobs.row)[:, None, None], :, ys, xs], -1)
    near = torch.nn.functional.max_pool2d((cover > 0.02).float()[:, None], 5, stride=1, padding=2)[:, 0]
    contrast = fits.color.norm(dim=1).clamp_min(CONTRAST)
    wrong = (misses > error * contrast[:, None, None]) * near
    return wrong.sum((1, 2)) / cover.sum((1, 2)).clamp_min(1)


# ---------------------------------------------------------------- fitting

_EMPTY = (((), torch.long), ((4,), None), ((3,), None), ((3,), None), ((), None), ((), None))


def fit_things(values: Tensor, weight: Tensor, side: int) -> Fits:
    """The best thing for each window: guess, refine every guess, keep the best, measure its blur, refine again."""
    if not len(values):
        return Fits(*(torch.zeros(0, *size, dtype=kind) for size, kind in _EMPTY))
    parts = [_fit(v, w, side) for v, w in zip(values.split(CHUNK), weight.split(CHUNK))]
    return Fits(**{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Fits)})


def _fit(values: Tensor, weight: Tensor, side: int) -> Fits:
    shape, pose = guess(values, side)
    shape, pose = _best_guess(shape, pose, values, weight, side)
    coef, misfit = torch.zeros(len(shape), 2, 3), torch.zeros(len(shape))
    for steps in (2, 1):  # a sharp drawing of a soft thing leads astray, so look at the blur in between
        blur = _best_blur(shape, pose, values, weight, side)
        for sigma in blur.unique().tolist():
            at = blur == sigma
            pose[at] = refine(shape[at], pose[at], values[at], weight[at], side, (1.0,) * steps, sigma)
            result = evaluate(shape[at], pose[at], values[at], weight[at], side, (sigma,))
            coef[at], misfit[at] = result[0][:, 0], result[1][:, 0]
    return Fits(shape, pose, coef[:, 0], -coef[:, 1], blur, (misfit - noise_share(values, weight)).clamp_min(0))


def _best_guess(shape, pose, values, weight, side):
    """The shape [n] and pose [n, 4] that fit best; where the first guess fits well, the others are not tried."""
    noise = noise_share(values, weight)
    best_shape, best_pose, least = shape[:, 0].clone(), pose[:, 0].clone(), torch.full((len(shape),), torch.inf)
    for k in range(shape.shape[1]):
        at = torch.nonzero(least > noise + GOOD_MISFIT)[:, 0]
        if not len(at):
            break
        tried, window = shape[at, k], (values[at], weight[at], side)
        refined = refine(tried, pose[at, k], *window)
        misfit = evaluate(tried, refined, *window, GUESS_BLURS)[1].amin(1)
        better = misfit < least[at]
        at = at[better]
        best_shape[at], best_pose[at], least[at] = tried[better], refined[better], misfit[better]
    return best_shape, best_pose


def noise_share(values: Tensor, weight: Tensor) -> Tensor:
    """The share of each window's energy that is noise, if it is as noisy everywhere as where nothing is [n]."""
    square = values.square().sum(2)
    quiet = (square < (CONTRAST / 2) ** 2) * weight
    noise = (square * quiet).sum(1) / quiet.sum(1).clamp_min(1)
    return noise * weight.sum(1) / square.sum(1).clamp_min(1e-6)


def _best_blur(shape, pose, values, weight, side) -> Tensor:
    return torch.tensor(BLURS)[evaluate(shape, pose, values, weight, side, BLURS)[1].argmin(1)]
