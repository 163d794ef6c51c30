"""What two wishes come to together: is one of the other's kind, and have both of them room?"""

from __future__ import annotations

import math

from hb.world.scene import GAP, MARGIN, PLACES, RADII, RELATION_MARGIN, SIZES, Wish


def is_a(wish: Wish, kind: Wish) -> bool:
    """Is every thing that this wish asks for one of that kind? A red star is a star."""
    return all(value is None or getattr(wish, name) == value for name, value in vars(kind).items())


def may_be(wish: Wish, kind: Wish) -> bool:
    """Can a thing that this wish asks for be one of that kind? A star can be a red thing."""
    return all(
        None in (value, getattr(wish, name)) or getattr(wish, name) == value for name, value in vars(kind).items()
    )


def can_be_together(one: Wish, other: Wish, relation: str | None = None) -> bool:
    """Are there sizes and centers for two things such that both are where they are asked to be, apart, and related as
    asked?

    Exact: small things have the most room, and things are furthest apart at corners of the regions their centers may
    lie in.
    """
    (x, y), (u, v) = _region(one), _region(other)
    across, down = max(u[1] - x[0], x[1] - u[0]), max(v[1] - y[0], y[1] - v[0])
    if relation:
        ahead = {"left of": u[1] - x[0], "right of": x[1] - u[0], "above": v[1] - y[0], "below": y[1] - v[0]}[relation]
        if ahead <= RELATION_MARGIN:
            return False
        across, down = (ahead, down) if relation in ("left of", "right of") else (across, ahead)
    return math.hypot(across, down) > _radius(one) + _radius(other) + GAP


def _radius(wish: Wish) -> float:
    return RADII[SIZES.index(wish.size or SIZES[0])]


def _region(wish: Wish) -> list[tuple[float, float]]:
    """Least and largest x and y of the thing's center."""
    edge, bounds = _radius(wish) + MARGIN, [(0.0, 1.0)] * 2
    if wish.place:
        line, column = divmod(PLACES.index(wish.place), 3)
        bounds = [(k / 3, (k + 1) / 3) for k in (column, line)]
    return [(max(low, edge), min(high, 1 - edge)) for low, high in bounds]
