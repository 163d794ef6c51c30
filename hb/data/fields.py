"""Fields: latents that say what is in a picture and where, computed from the scene itself.

A latent learned from pixels alone is sharp: a thing that moves by four pixels has a new code, and a network that draws
must learn all of those codes before one shape comes out whole. Real systems have the same trouble and the same remedy:
they give a part of the latent a meaning (VA-VAE: Yao & Wang 2025, arXiv 2501.01423; ReDi: Kouzelis et al. 2025, arXiv
2504.16064). They take it from a large vision encoder; in the tiny world the scene is known and can be all of the
latent.

With half of the channels taught and half left to pixels, a teacher had the right shapes in its field (95 of 96 pictures
from t = 0.65) and wrong ones in its pictures (66): what it could not draw was the sharp half (data/results/DIARY.md).
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hb.seeding import TRAINING
from hb.world.render import BACKGROUND_RGB, COLOR_RGB
from hb.world.scene import MAX_TURN, SHAPES, Scenes, sample_any

FIELD = (
    "red", "green", "blue", "striped", "turn", "red behind", "green behind", "blue behind",
    "there", "dx", "dy", "size", "shape 0", "shape 1", "shape 2", "shape 3",
)  # fmt: skip
NEAR, FAR = 0.9, 1.8  # in radii: a thing's card has full weight up to here, and none from there
LOOKS = ("shape", "color", "size", "texture", "turn", "shade")  # of a thing: all but where it is


def thing_field(scenes: Scenes, rows: int) -> Float[Tensor, "N 16 rows rows"]:
    """The field of a scene: the card of each thing, on the squares around it, with soft weights, so that the field
    moves when the thing does.

    A card holds the thing's color (red, green, blue in [-1, 1], shade included); 1 if striped, -1 if plain; its turn in
    [-1, 1], 0 where a turn cannot be seen; 1; the offset to the thing's center in radii, (dx, dy); its size, -1 or 1;
    its shape as one of eight corners of a cross-polytope, plus or minus one of four axes. Weight 1 up to NEAR radii
    from the center and 0 from FAR, smooth between. The color behind, in [-1, 1], is the same everywhere.
    """
    center = (np.arange(rows) + 0.5) / rows
    py, px = np.meshgrid(center, center, indexing="ij")
    radius = scenes.radius[:, None]
    dx = (scenes.x[:, None] - px.reshape(1, -1, 1)) / radius  # [N, squares, things]
    dy = (scenes.y[:, None] - py.reshape(1, -1, 1)) / radius
    present = scenes.shape >= 0
    far = np.clip((FAR - np.hypot(dx, dy)) / (FAR - NEAR), 0, 1)
    weight = np.where(present[:, None], far * far * (3 - 2 * far), 0.0)
    shape, color = np.clip(scenes.shape, 0, None), np.clip(scenes.color, 0, None)
    axes = np.eye(len(SHAPES) // 2)
    corners = np.stack([axes, -axes], 1).reshape(len(SHAPES), -1)[shape]  # [N, things, 4]
    rgb = 2 * COLOR_RGB[color] * scenes.shade[..., None] - 1
    round_one = np.isin(shape, [SHAPES.index("circle"), SHAPES.index("ring")]) & (scenes.texture <= 0)
    turn = np.where(round_one, 0.0, scenes.turn / MAX_TURN)
    own = np.concatenate([rgb, np.stack([2.0 * scenes.texture - 1, turn], -1)], -1)
    size = 2.0 * scenes.size[..., None] - 1
    everywhere = lambda values: np.broadcast_to(values[:, None], (*dx.shape, values.shape[-1]))
    behind = np.broadcast_to((2 * BACKGROUND_RGB[scenes.background] - 1)[:, None], (len(scenes), rows * rows, 3))
    where = np.stack([np.ones_like(dx), dx, dy], -1)
    card = np.concatenate([everywhere(own), where, everywhere(size), everywhere(corners)], -1)
    laid = (weight[..., None] * np.where(weight[..., None] > 0, card, 0.0)).sum(2)
    field = np.concatenate([laid[..., :5], behind, laid[..., 5:]], -1)
    return torch.from_numpy(field).float().mT.unflatten(-1, (rows, rows))


def random_scenes(n: int, seed: int, step: int, rank: int = 0) -> Scenes:
    """Scenes with one to four things, all else left to chance."""
    rng = np.random.default_rng([TRAINING, seed, 23, step, rank])
    return sample_any(n, rng)


def statistics(seed: int) -> tuple[Float[Tensor, "16 1 1"], Float[Tensor, "16 1 1"]]:
    """Mean and standard deviation of each line of FIELD: latents are in units in which these are 0 and 1."""
    middle, spread = _statistics(seed)
    return middle.clone(), spread.clone()  # loading weights writes into buffers


@cache
def _statistics(seed: int) -> tuple[Tensor, Tensor]:
    field = thing_field(random_scenes(4096, seed, 0), rows=8)  # they do not depend on the rows
    return field.mean((0, 2, 3))[:, None, None], field.std((0, 2, 3))[:, None, None]


def with_other_looks(scenes: Scenes, rng: np.random.Generator, share: float = 0.3) -> Scenes:
    """The same things in the same places. Each of their looks, and each color behind, is another one in `share` of the
    cases."""
    other = sample_any(len(scenes), rng)
    there = scenes.shape >= 0

    def mixed(ours: np.ndarray, theirs: np.ndarray, may: np.ndarray) -> np.ndarray:
        return np.where(may & (rng.random(may.shape) < share), theirs, ours)

    # where the other scene has no thing in this slot, the looks of its first one
    looks = {name: np.where(other.shape >= 0, getattr(other, name), getattr(other, name)[:, :1]) for name in LOOKS}
    looks = {name: mixed(getattr(scenes, name), theirs, there) for name, theirs in looks.items()}
    return replace(scenes, **looks, background=mixed(scenes.background, other.background, np.ones(len(scenes), bool)))
