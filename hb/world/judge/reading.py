"""Reading a picture back into a scene: things on a background, and what is left over when they are drawn again.

The blobs are found in hb.world.judge.blobs and explained in hb.world.judge.fitting; what the explanation leaves over
are flaws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from hb.world.judge import fitting
from hb.world.judge.blobs import (
    MAX_BLOBS,
    Blobs,
    background_of,
    cut_windows,
    find_blobs,
    length,
    split_blobs,
    window_width,
)
from hb.world.judge.fitting import Fits
from hb.world.render import COLOR_RGB, STRIPE_DARKNESS
from hb.world.scene import (
    BACKGROUNDS,
    COLORS,
    GAP,
    MARGIN,
    MAX_THINGS,
    MAX_TURN,
    RADII,
    SHADES,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    Thing,
)

# What a good autoencoder may do to a picture. Lengths in pixels, areas as in a picture of 64 x 64, colors in [0, 1].
BLUR_TOLERANCE = 1.0  # standard deviation of the blur that explains a thing best, pixels of the picture itself
COLOR_TOLERANCE = 0.085  # distance of a thing's color from the nearest shade of a named color; half-way lies 0.10 off
SHADE_SLACK = 0.06  # how much darker or brighter than any shade
WRONG_ERROR = 0.20  # a pixel (mean of 3 x 3) is wrong if it misses by this share of the thing's contrast
WRONG_TOLERANCE = 0.12  # share of a thing's area that may be wrong
SIZE_TOLERANCE = 0.12  # of the logarithm of the radius; half-way between the sizes is 0.20
STRIPE_TOLERANCE = 0.18  # of the darkness of stripes; half-way between plain and striped is 0.21
TURN_SLACK = np.deg2rad(12.0)
PLACE_SLACK = 1.5 / 64  # of a center, wherever places, relations and room are checked
BACKGROUND_TOLERANCE = 0.06  # largest channel error of the background's color
DIRT_ERROR = 0.06  # a background pixel (mean of 3 x 3) this far off is dirty
DIRT_TOLERANCE = 8.0  # dirty pixels allowed
NOISE_TOLERANCE = 0.045  # standard deviation of background pixels
CROWD_AREA = 0.45  # no thing is looked for where more than this share of the picture differs from its background
UNRECOGNIZED = 0.35  # share of a thing's area: if more than this is wrong, its name is a guess
ATTRIBUTES = ("shape", "color", "size", "texture")
MOVED = 0.05  # a center further off than this is elsewhere, as a share of the side


@dataclass(frozen=True)
class ReadThing:
    """A thing as read, how far it is from a clean one, and what is wrong with it in words."""

    thing: Thing
    wrong: float  # share of its area that does not look like it
    blur: float  # pixels
    color_error: float  # distance from the nearest shade of a named color
    size_error: float  # of the logarithm of the radius
    stripe_error: float  # of the darkness of the stripes
    cleanliness: float  # in [0, 1]; 1 is within every tolerance
    flaws: tuple[str, ...] = ()

    @property
    def recognized(self) -> bool:
        return self.wrong <= UNRECOGNIZED


@dataclass(frozen=True)
class Reading:
    """What the judge saw in a picture."""

    things: tuple[ReadThing, ...]
    background: str | None
    flaws: tuple[str, ...]  # of the picture as a whole
    shape_cleanliness: float  # of the worst thing
    background_cleanliness: float

    @property
    def clean(self) -> bool:
        return not self.flaws and all(not t.flaws for t in self.things)

    @property
    def all_flaws(self) -> tuple[str, ...]:
        return self.flaws + tuple(flaw for t in self.things for flaw in t.flaws)

    @property
    def scene(self) -> Scene | None:
        """The scene in words, or None where the picture cannot be read as one."""
        readable = self.background and len(self.things) <= MAX_THINGS and all(t.recognized for t in self.things)
        return Scene(tuple(t.thing for t in self.things), self.background) if readable else None


# ---------------------------------------------------------------- reading


def read(pictures: Tensor) -> list[Reading] | Reading:
    """Readings of pictures [N, 3, H, W] (a list) or [3, H, W] (one), values in [0, 1], square, 64 or 128 pixels."""
    _check_pictures(pictures)
    if pictures.ndim == 3:
        return read(pictures[None])[0]
    if not len(pictures):
        return []
    pictures = pictures.detach().to("cpu", torch.float32)
    return [reading for chunk in pictures.split(64) for reading in _read(chunk)]


def _check_pictures(pictures: Tensor) -> None:
    if not isinstance(pictures, Tensor) or not pictures.is_floating_point():
        raise ValueError(f"pictures are float tensors in [0, 1], got {getattr(pictures, 'dtype', type(pictures))}")
    if pictures.ndim not in (3, 4) or pictures.shape[-3] != 3 or pictures.shape[-1] != pictures.shape[-2]:
        raise ValueError(f"pictures have shape [N, 3, side, side] or [3, side, side], got {list(pictures.shape)}")
    if pictures.shape[-1] not in (64, 128):
        raise ValueError(f"pictures are 64 or 128 pixels wide, got {pictures.shape[-1]}")
    low, high = pictures.nan_to_num(0.5, 0.5, 0.5).aminmax() if len(pictures) else (0, 1)
    if low < -1e-3 or high > 1 + 1e-3:
        raise ValueError(f"pixels lie in [0, 1], got {low:.2f} to {high:.2f}; clamp, or map [-1, 1] by (x + 1) / 2")


def _read(pictures: Tensor) -> list[Reading]:
    """Explain, draw the explanation again, and measure what is left over."""
    side = pictures.shape[-1]
    broken = ~pictures.isfinite().flatten(1).all(1)
    pictures = torch.where(pictures.isfinite(), pictures, torch.zeros(()))
    color, index, error = background_of(pictures)
    blobs, labels = find_blobs(pictures, color)
    crowded = torch.as_tensor(_crowded(blobs, len(pictures), side))
    blobs, fits, corner = _fit_blobs(pictures, color, blobs[~crowded.numpy()[blobs.row]], labels)
    cover, model, maps = _redraw(pictures, color, blobs, fits, corner)
    left_over = fitting.smooth(pictures - model)
    wrong = fitting.wrong_share(left_over, maps, blobs, fits, corner, WRONG_ERROR)
    things = _read_things(side, wrong, color, blobs, fits, corner)
    noise, dirt = _background_dirt(pictures - model, left_over, cover)
    columns = zip(*(column.tolist() for column in (broken, crowded, index, error, noise, dirt)))
    return [_assemble([things[i] for i in np.flatnonzero(blobs.row == row)], *c) for row, c in enumerate(columns)]


def _crowded(blobs: Blobs, count: int, side: int) -> np.ndarray:
    """Pictures with too many blobs, or too much of them, to be a scene."""
    area = np.bincount(blobs.row, blobs.area, minlength=count)
    return (np.bincount(blobs.row, minlength=count) > MAX_BLOBS) | (area > CROWD_AREA * side * side)


def _fit_blobs(pictures, color, blobs: Blobs, labels) -> tuple[Blobs, Fits, np.ndarray]:
    """Blobs, their fits and windows' corners; blobs that fit badly are cut into pieces, if those fit well."""
    values, weight, corner = cut_windows(pictures, color, blobs, labels)
    found = blobs, fitting.fit_things(values, weight, pictures.shape[-1]), corner
    for cut in fitting.CUTS:
        found = _split_bad(pictures, color, *found, labels, cut)
    return found


def _split_bad(pictures, color, blobs, fits, corner, labels, cut):
    """The same, with badly fitting blobs replaced by their pieces where all of those fit well."""
    bad = np.flatnonzero((fits.misfit > fitting.SPLIT_MISFIT).numpy() & (blobs.label > 0))
    if not len(bad):
        return blobs, fits, corner
    pieces, piece_labels, parent = split_blobs(pictures, color, blobs, labels, bad, cut)
    several = np.bincount(parent, minlength=len(blobs))[parent] > 1
    if not several.any():
        return blobs, fits, corner
    pieces, parent = pieces[several], parent[several]
    values, weight, piece_corner = cut_windows(pictures, color, pieces, piece_labels)
    piece_fits = fitting.fit_things(values, weight, pictures.shape[-1])
    worst = np.full(len(blobs), -1.0)
    np.maximum.at(worst, parent, piece_fits.misfit.numpy())
    better = (worst >= 0) & (worst < fitting.SPLIT_MISFIT)
    old, new = np.flatnonzero(~better), np.flatnonzero(better[parent])
    corner = np.concatenate([corner[old], piece_corner[new]])
    return blobs[old].joined(pieces[new].unlabelled()), fits[old].joined(piece_fits[new]), corner


def _redraw(pictures, color, blobs, fits, corner) -> tuple[Tensor, Tensor, Tensor]:
    """The whole reading drawn again: cover [N, H, W], picture [N, 3, H, W], and each thing's own cover [n, w, w]."""
    side = pictures.shape[-1]
    cover = torch.zeros(len(pictures), side, side)
    model = color[:, :, None, None].expand_as(pictures).clone()
    maps, layers = fitting.draw_fits(fits, side)
    width = maps.shape[-1]
    for i, (x, y) in enumerate(corner.tolist()):
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + width, side), min(y + width, side)
        here = slice(y0 - y, y1 - y), slice(x0 - x, x1 - x)
        row = int(blobs.row[i])
        cover[row, y0:y1, x0:x1] += maps[i][here]
        model[row, :, y0:y1, x0:x1] += layers[i][(slice(None), *here)]
    return cover, model, maps


def _read_things(side, wrong, color, blobs, fits, corner) -> list[ReadThing]:
    half = window_width(side) // 2
    rgb = (fits.color + color[blobs.row]).numpy()
    named, shade, error = nearest_color(rgb)
    taken = fits.dark.numpy()
    dark = (taken * rgb).sum(1) / np.maximum((rgb * rgb).sum(1), 1e-6)
    error = np.maximum(error, np.linalg.norm(taken - dark[:, None] * rgb, axis=1))  # stripes have no hue of their own
    center = (corner + half + 0.5 + fits.pose[:, :2].numpy()) / side
    out = []
    for i in range(len(rgb)):
        shape = SHAPES[fits.shape[i]]
        radius = float(fits.pose[i, 3]) / side
        size = int(np.argmin(np.abs(np.log(radius / np.asarray(RADII)))))
        texture = TEXTURES[int(dark[i] > STRIPE_DARKNESS / 2)]
        turn = 0.0 if shape in ("circle", "ring") and texture == "plain" else float(fits.pose[i, 2])
        x, y = np.clip(center[i], 0, 1).tolist()
        thing = Thing(shape, COLORS[named[i]], SIZES[size], x, y, texture, turn, float(shade[i]))
        out.append(_describe(thing, radius, float(wrong[i]), float(fits.blur[i]), float(error[i]), float(dark[i])))
    return out


def nearest_color(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For colors [n, 3]: index of the nearest named color, the shade of it, and the distance left."""
    low, high = SHADES[0] - SHADE_SLACK, SHADES[1] + SHADE_SLACK
    shade = np.clip(rgb @ COLOR_RGB.T / (COLOR_RGB**2).sum(1), low, high)
    error = np.linalg.norm(rgb[:, None] - shade[..., None] * COLOR_RGB, axis=-1)
    best = error.argmin(1)
    every = np.arange(len(rgb))
    return best, shade[every, best], error[every, best]


def _describe(thing: Thing, radius, wrong, blur, color_error, dark) -> ReadThing:
    """Hold every measure against its tolerance; say in words which ones fail."""
    it = f"the {thing.shape} at {whereabouts(thing)}"
    name, off = f"{thing.size} {thing.color} {thing.shape}", f"{color_error:.2f} away"
    scale = float(abs(np.log(radius / thing.radius)))
    stripe = abs(dark - (STRIPE_DARKNESS if thing.texture == "striped" else 0.0))
    turn = max(0.0, abs(thing.turn) - MAX_TURN) if thing.shape not in ("circle", "ring") else 0.0
    least = thing.radius + MARGIN
    out = max(max(least - c, c - (1 - least)) for c in (thing.x, thing.y))
    tests = (
        (
            wrong,
            WRONG_TOLERANCE,
            f"the thing at {whereabouts(thing)} cannot be recognized: the nearest is a {name}, "
            f"but {wrong:.0%} of it is wrong",
        ),
        (blur, BLUR_TOLERANCE, f"{it} is blurred: its rim is {_rim(blur):.1f} pixels wide"),
        (color_error, COLOR_TOLERANCE, f"the color of {it} is none of ours: {thing.color} is nearest, {off}"),
        (scale, SIZE_TOLERANCE, f"{it} is neither small nor large: its radius is {radius:.3f} of the side"),
        (stripe, STRIPE_TOLERANCE, f"the stripes of {it} are neither there nor absent: darkness {dark:.2f}"),
        (turn, TURN_SLACK, f"{it} is turned too far: {np.rad2deg(thing.turn):.0f} degrees"),
        (out, PLACE_SLACK, f"{it} is partly outside the picture"),
    )
    cleanliness = min(_clean(value, tolerance) for value, tolerance, _ in tests)
    flaws = tuple(words for value, tolerance, words in tests if value > tolerance)
    return ReadThing(thing, wrong, blur, color_error, scale, stripe, cleanliness, flaws)


def _rim(blur: float) -> float:
    """Width of the ramp that is as soft as a pixel's edge after a blur."""
    return float(np.sqrt(1 + 12 * blur**2))


def _clean(value: float, tolerance: float) -> float:
    """1 within the tolerance, then falling to 0 at twice the tolerance."""
    return float(np.clip(2 - value / tolerance, 0, 1))


def _background_dirt(raw, left_over, cover) -> tuple[Tensor, Tensor]:
    """Noise (standard deviation) and number of dirty pixels, away from all things, in 64 x 64 units."""
    near = torch.nn.functional.max_pool2d((cover > 0.02).float()[:, None], 5, stride=1, padding=2)[:, 0] > 0
    free = (~near).float()
    total = free.sum((1, 2)).clamp_min(1)
    noise = ((raw.square().mean(1) * free).sum((1, 2)) / total).sqrt()
    dirty = (length(left_over, 1) > DIRT_ERROR).float() * free
    return noise, dirty.sum((1, 2)) * (64 / raw.shape[-1]) ** 2


def _assemble(things, broken, crowded, index, error, noise, dirt) -> Reading:
    """All that was measured in one picture, held against the tolerances."""
    name = BACKGROUNDS[index]
    tests = (
        (error, BACKGROUND_TOLERANCE, f"the background is none of ours: {name} is nearest, {error:.2f} away"),
        (noise, NOISE_TOLERANCE, f"the background is not flat: its pixels vary by {noise:.2f}"),
        (dirt, DIRT_TOLERANCE, f"the background is not clean: {dirt:.0f} pixels belong to nothing"),
    )
    doubts = (
        (broken, "some pixels are not numbers"),
        (crowded, "too much of the picture differs from its background for it to be a scene"),
        (not crowded and not things, "nothing is drawn on the background"),
    )
    readable = not broken and not crowded and error <= 2 * BACKGROUND_TOLERANCE and noise <= 3 * NOISE_TOLERANCE
    flaws = [words for value, tolerance, words in tests if value > tolerance] + [w for found, w in doubts if found]
    return Reading(
        things=tuple(sorted(things, key=lambda t: (t.thing.y, t.thing.x))),
        background=name if readable else None,
        flaws=(*flaws, *_crowding([t.thing for t in things])),
        shape_cleanliness=min((t.cleanliness for t in things), default=0.0),
        background_cleanliness=min(_clean(v, t) for v, t, _ in tests) if readable else 0.0,
    )


def _crowding(things: Sequence[Thing]) -> list[str]:
    """Too many things, or things too near to each other."""
    flaws = []
    if len(things) > MAX_THINGS:
        flaws.append(f"{len(things)} things are in the picture, {MAX_THINGS} is the most there can be")
    for a, b in combinations(things, 2):
        if distance(a, b) < a.radius + b.radius + GAP - PLACE_SLACK:
            flaws.append(f"the {a.shape} at {whereabouts(a)} and the {b.shape} at {whereabouts(b)} touch")
    return flaws


def whereabouts(thing: Thing) -> str:
    """A thing's center, for sentences."""
    return f"({thing.x:.2f}, {thing.y:.2f})"


def distance(a: Thing, b: Thing) -> float:
    """Between the centers, as a share of the side."""
    return float(np.hypot(a.x - b.x, a.y - b.y))
