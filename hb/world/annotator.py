"""Simulated annotators: which of two pictures a person prefers, with a taste that no judge measures, and with mistakes.

A picture has four merits, each in [0, 1]. Two are the judge's: is it right, and is it clean? Two are taste: do the
things stand out from the background, and is the layout balanced? A utility is their weighted sum. Each annotator has
weights of their own, so two of them disagree even without noise.

A click follows Thurstone (1927, case V): each utility is met with Gaussian noise of one size, and the larger one wins.
Some clicks are careless: a coin's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import ndtr
from torch import Tensor

from hb.world.benchmark import EditCase
from hb.world.cases import score_case
from hb.world.judge.faults import faults
from hb.world.judge.reading import Reading, read
from hb.world.render import BACKGROUND_RGB, COLOR_RGB
from hb.world.scene import BACKGROUNDS, COLORS, SHADES, Request, Thing

CARELESS = 0.05
NOISE = 0.15
# the distance of the two colors that are furthest apart: what contrast is measured in
FURTHEST = max(np.linalg.norm(s * c - b) for s, c, b in product(SHADES, COLOR_RGB, BACKGROUND_RGB))


class Merits(NamedTuple):
    """What a picture has to offer, each in [0, 1].

    right        of a drawing 1 / (1 + kinds of mistakes), so 1 where the judge finds it right; of an edit the lesser of
                 what was done and what was kept
    cleanliness  the judge's, of the worst thing or the background
    contrast     mean distance of a thing's color from the background's, over the largest there is
    balance      1 where the things' common center is the picture's, 0 where it is half a side or more away
    """

    right: float
    cleanliness: float
    contrast: float
    balance: float


def merits(picture: Tensor | Reading, asked: Request | EditCase) -> Merits:
    """The merits of a picture [3, H, W] in [0, 1], or of the judge's reading of it, for what was asked."""
    reading = picture if isinstance(picture, Reading) else read(picture)
    things = [t.thing for t in reading.things]
    if isinstance(asked, EditCase):
        score = score_case(reading, asked)
        right = min(score.success, score.kept)
    else:
        right = 1 / (1 + len(faults(reading, asked)))
    clean = min(reading.shape_cleanliness, reading.background_cleanliness)
    return Merits(right, clean, contrast(things, reading.background), balance(things))


def contrast(things: Sequence[Thing], background: str | None) -> float:
    """How far the things' colors are from the background's; 0 where one of them cannot be told."""
    if not things or background is None:
        return 0.0
    behind = BACKGROUND_RGB[BACKGROUNDS.index(background)]
    away = [np.linalg.norm(t.shade * COLOR_RGB[COLORS.index(t.color)] - behind) for t in things]
    return float(min(1.0, np.mean(away) / FURTHEST))


def balance(things: Sequence[Thing]) -> float:
    """How near the picture's center the center of all things is, each weighted by its radius squared."""
    if not things:
        return 0.0
    weight = np.array([t.radius**2 for t in things])
    center = weight @ [(t.x, t.y) for t in things] / weight.sum()
    return float(np.clip(1 - 2 * np.linalg.norm(center - 0.5), 0, 1))


@dataclass(frozen=True)
class Annotator:
    """Somebody who compares pictures.

    right, cleanliness, contrast, balance   what a whole merit is worth, in units of utility
    noise      standard deviation of what is added to each utility, anew in each comparison
    careless   share of clicks that a fair coin makes
    """

    name: str = "simulated"
    right: float = 2.0
    cleanliness: float = 1.0
    contrast: float = 1.5
    balance: float = 1.5
    noise: float = NOISE
    careless: float = CARELESS

    def __post_init__(self):
        if self.noise < 0 or not 0 <= self.careless <= 1:
            raise ValueError(
                f"noise is 0 or more and careless a share from 0 to 1, got {self.noise:g} and {self.careless:g}"
            )

    @property
    def weights(self) -> np.ndarray:
        return np.array([getattr(self, merit) for merit in Merits._fields])

    def utility(self, picture: Tensor | Reading, asked: Request | EditCase) -> float:
        """What this picture is worth to this annotator, without noise."""
        return float(self.utilities(np.array(merits(picture, asked))))

    def utilities(self, merits: Float[np.ndarray, "*n 4"]) -> Float[np.ndarray, "*n"]:
        """The same of merits that are known already."""
        return merits @ self.weights

    def preference(self, first: Float[np.ndarray, "*n"], second: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """Probability that the first of two utilities wins: Phi((u_1 - u_2) / (noise sqrt(2))), and half of the
        careless clicks."""
        ahead = np.asarray(first, float) - second
        careful = np.heaviside(ahead, 0.5) if self.noise == 0 else ndtr(ahead / (self.noise * 2**0.5))
        return self.careless / 2 + (1 - self.careless) * careful

    def choose(
        self, first: Float[np.ndarray, "*n"], second: Float[np.ndarray, "*n"], rng: np.random.Generator
    ) -> np.ndarray:
        """A click for each pair of utilities: 0 for the first, 1 for the second."""
        return (rng.random(np.shape(first)) >= self.preference(first, second)).astype(np.int64)


def annotators(count: int, seed: int = 0, *, spread: float = 0.3, **usual: float) -> list[Annotator]:
    """So many annotators with weights of their own: the usual ones, each times exp(spread n), n standard normal.

    usual: fields of Annotator. Other seeds are other people.
    """
    rng, middle = np.random.default_rng([4, seed]), Annotator(**usual)
    made = []
    for k in range(count):
        weights = middle.weights * np.exp(spread * rng.standard_normal(len(Merits._fields)))
        own = dict(zip(Merits._fields, weights.tolist()))
        made.append(Annotator(f"simulated-{seed}-{k}", **usual | own))
    return made
