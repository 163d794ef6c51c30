"""Fitting things to pixels: find the blobs, guess what each one is, then draw it again until it fits.

This is analysis by synthesis. A blob's window is explained as

    picture = background + cover * (color - background) - cover * stripe * dark

with `cover` and `stripe` from the renderer's own signed distances, so that `color` and `dark` solve a 2 x 2 linear
system, and center, turn and radius take a few Gauss-Newton steps (variable projection: the derivatives are freed of
what the colors could explain). Lengths are in pixels, angles in radians, and pictures in [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import cache

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from hb.world.render import BACKGROUND_RGB, SIGNED_DISTANCE, STRIPE_PERIOD
from hb.world.scene import RADII, SHAPES

CONTRAST = 0.12  # a pixel this far (Euclidean, rgb) from the background belongs to a blob
SPECK_AREA = 20  # smaller blobs are no things; in pixels of a 64 x 64 picture, as all areas here
MAX_BLOBS = 8  # a picture with more blobs is not looked at closely
GUESSES = 3  # shapes tried for each blob ...
GOOD_MISFIT = 0.01  # ... until one fits as well as this
BANK_TURNS = (0.0, 0.25, -0.25, 0.12, -0.12)
BANK_BLURS = (0.0, 1.0)
RIMS = (3.0, 3.0, 2.0)  # width of the rim in each Gauss-Newton step: wide first, so that it feels a far edge
# standard deviations tried, pixels; 0.25 is left out: its neighbours weigh 0.0003, so rounding would choose between it
# and 0
BLURS = (0.0, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
SPLIT_MISFIT = 0.08  # a blob that fits worse than this may be two things whose corners touch
CUTS = ((0.0, 1), (0.6, 0), (0.6, 1), (0.0, 2), (0.6, 2))  # tried in turn, see `split_blobs`
GUESS_BLURS = (0.5, 1.5)  # a guess is as good as the better of these fits, pixels
MAX_STEP = 1.5  # of any parameter in one Gauss-Newton step, pixels
CHUNK = 256  # windows at once: what fits the cache

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


# ---------------------------------------------------------------- finding


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


# ---------------------------------------------------------------- windows


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


# ---------------------------------------------------------------- drawing a thing in a window


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


def _draw_with_slopes(shape: Tensor, pose: Tensor, width: int, side: int, rim: float) -> Tensor:
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
        maps = _draw_with_slopes(shape, pose, width, side, rim)
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


# ---------------------------------------------------------------- guessing


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
