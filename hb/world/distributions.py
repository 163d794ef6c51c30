"""What a request leaves to chance, and how often each value then occurs: the true conditional distribution."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np

from hb.world.scene import (
    BACKGROUNDS,
    COLORS,
    PLACES,
    SHAPES,
    SIZES,
    STRIPED_SHARE,
    TEXTURES,
    Request,
    place_of,
    sample_scenes,
)

_DISTRIBUTIONS = {
    "shape": dict.fromkeys(SHAPES, 1 / len(SHAPES)),
    "color": dict.fromkeys(COLORS, 1 / len(COLORS)),
    "size": dict.fromkeys(SIZES, 1 / len(SIZES)),
    "texture": dict(zip(TEXTURES, (1 - STRIPED_SHARE, STRIPED_SHARE))),
    "background": dict.fromkeys(BACKGROUNDS, 1 / len(BACKGROUNDS)),
}
ATTRIBUTES = (*_DISTRIBUTIONS, "place")


def unsaid(request: Request) -> list[tuple[str, int]]:
    """What a request leaves to chance, as (attribute, thing); the background has thing 0."""
    left = [
        (attribute, k)
        for k, wish in enumerate(request.wishes)
        for attribute in ("shape", "color", "size", "texture", "place")
        if getattr(wish, attribute) is None
    ]
    return left + ([("background", 0)] if request.background is None else [])


def true_distribution(
    request: Request, attribute: str, thing: int = 0, n: int = 4000, seed: int = 0
) -> dict[str, float]:
    """How often each value of an attribute occurs among the pictures a request allows.

    Exact, except for an unsaid place: its distribution depends on the room left, and is counted over `n` scenes.
    thing   number of the wish; a background has none
    """
    if attribute not in ATTRIBUTES:
        raise ValueError(f"no attribute {attribute!r}; choose from {', '.join(ATTRIBUTES)}")
    if not 0 <= thing < len(request.wishes):
        raise ValueError(f"the request has things 0 to {len(request.wishes) - 1}, not {thing}")
    said = request.background if attribute == "background" else getattr(request.wishes[thing], attribute)
    if said is None and attribute == "place":
        return dict(_place_distribution(request, thing, n, seed))
    values = _DISTRIBUTIONS.get(attribute, dict.fromkeys(PLACES, 0.0))
    return dict(values) if said is None else {value: float(value == said) for value in values}


@cache
def _place_distribution(request: Request, thing: int, n: int, seed: int) -> dict[str, float]:
    scenes = sample_scenes([request] * n, np.random.default_rng([2, 99, seed]))
    places = Counter(place_of(x, y) for x, y in zip(scenes.x[:, thing].tolist(), scenes.y[:, thing].tolist()))
    return {place: places[place] / n for place in PLACES}
