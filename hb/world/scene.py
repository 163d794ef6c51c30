"""What a picture can show: one to four things on a plain background, and the distribution they are drawn from.

`Thing` and `Scene` are for reading and writing; `Scenes` holds many of them as arrays, for speed. A `Request` says
what is fixed; everything it leaves `None` is drawn at random, so the distribution of pictures given a prompt is known
exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart", "ring", "moon")
COLORS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SIZES = ("small", "large")
TEXTURES = ("plain", "striped")
BACKGROUNDS = ("white", "gray", "black", "beige", "navy")
RELATIONS = ("left of", "right of", "above", "below")
PLACES = (
    "top left", "top", "top right",
    "left", "center", "right",
    "bottom left", "bottom", "bottom right",
)  # fmt: skip

MAX_THINGS = 4
RADII = (7.0 / 64, 10.5 / 64)  # of small and large things, as a fraction of the side
MARGIN = 1.0 / 64  # least distance from a thing's rim to the picture's edge
GAP = 2.5 / 64  # least distance between two rims: the judge needs a pixel of background between things
RELATION_MARGIN = 8.0 / 64  # "left of" means: the center is at least this much further left
STRIPED_SHARE = 0.25
MAX_TURN = np.deg2rad(20.0)
SHADES = (0.86, 1.0)


@dataclass(frozen=True)
class Thing:
    """One thing. x, y: center in [0, 1] (y grows downwards); turn: radians; shade: brightness factor in SHADES."""

    shape: str
    color: str
    size: str
    x: float
    y: float
    texture: str = "plain"
    turn: float = 0.0
    shade: float = 1.0

    def __post_init__(self):
        for value, known in ((self.shape, SHAPES), (self.color, COLORS), (self.size, SIZES), (self.texture, TEXTURES)):
            if value not in known:
                raise ValueError(f"no such thing as {value!r} here; choose from {', '.join(known)}")

    @property
    def radius(self) -> float:
        return RADII[SIZES.index(self.size)]

    @property
    def place(self) -> str:
        return place_of(self.x, self.y)


@dataclass(frozen=True)
class Scene:
    """Up to four things that do not touch, on a background."""

    things: tuple[Thing, ...]
    background: str = "white"

    def __post_init__(self):
        if self.background not in BACKGROUNDS:
            raise ValueError(f"no background {self.background!r}; choose from {', '.join(BACKGROUNDS)}")
        if len(self.things) > MAX_THINGS:
            raise ValueError(f"a scene holds at most {MAX_THINGS} things, got {len(self.things)}")

    def has_room(self) -> bool:
        """Do all things keep their distance from each other and from the edge?"""
        for i, a in enumerate(self.things):
            if not all(a.radius + MARGIN <= c <= 1 - a.radius - MARGIN for c in (a.x, a.y)):
                return False
            for b in self.things[:i]:
                if np.hypot(a.x - b.x, a.y - b.y) < a.radius + b.radius + GAP:
                    return False
        return True


@dataclass(frozen=True)
class Wish:
    """What is asked of one thing; None is left to chance."""

    shape: str | None = None
    color: str | None = None
    size: str | None = None
    texture: str | None = None
    place: str | None = None


@dataclass(frozen=True)
class Request:
    """What is asked of a scene: exactly these things, perhaps a relation between the first two, perhaps a background.

    `relation` reads "first RELATION second".
    """

    wishes: tuple[Wish, ...]
    relation: str | None = None
    background: str | None = None

    def __post_init__(self):
        if not 1 <= len(self.wishes) <= MAX_THINGS:
            raise ValueError(f"a request asks for 1 to {MAX_THINGS} things, got {len(self.wishes)}")
        if self.relation is not None and len(self.wishes) < 2:
            raise ValueError(f"{self.relation!r} needs two things to relate")


@dataclass(frozen=True)
class Scenes:
    """N scenes as arrays: indices into the tuples above, -1 where a slot holds nothing. All thing arrays are [N, 4]."""

    shape: np.ndarray
    color: np.ndarray
    size: np.ndarray
    texture: np.ndarray
    x: np.ndarray
    y: np.ndarray
    turn: np.ndarray
    shade: np.ndarray
    background: np.ndarray  # [N]

    def __len__(self) -> int:
        return len(self.background)

    def __getitem__(self, rows) -> Scenes:
        """Rows by slice or index array (a single row needs a list: `scenes[[3]]`)."""
        return Scenes(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @property
    def radius(self) -> np.ndarray:
        return np.asarray(RADII)[np.clip(self.size, 0, 1)]

    def scene(self, row: int) -> Scene:
        """Row `row` in words."""
        things = []
        for k in range(MAX_THINGS):
            if self.shape[row, k] < 0:
                continue
            things.append(
                Thing(
                    shape=SHAPES[self.shape[row, k]],
                    color=COLORS[self.color[row, k]],
                    size=SIZES[self.size[row, k]],
                    x=float(self.x[row, k]),
                    y=float(self.y[row, k]),
                    texture=TEXTURES[self.texture[row, k]],
                    turn=float(self.turn[row, k]),
                    shade=float(self.shade[row, k]),
                )
            )
        return Scene(tuple(things), BACKGROUNDS[self.background[row]])

    def to_list(self) -> list[Scene]:
        return [self.scene(row) for row in range(len(self))]

    @staticmethod
    def from_list(scenes: Sequence[Scene]) -> Scenes:
        n = len(scenes)
        index = {name: np.full((n, MAX_THINGS), -1, np.int64) for name in ("shape", "color", "size", "texture")}
        real = {name: np.zeros((n, MAX_THINGS)) for name in ("x", "y", "turn", "shade")}
        words = {"shape": SHAPES, "color": COLORS, "size": SIZES, "texture": TEXTURES}
        for row, scene in enumerate(scenes):
            for k, thing in enumerate(scene.things):
                for name, known in words.items():
                    index[name][row, k] = known.index(getattr(thing, name))
                for name in real:
                    real[name][row, k] = getattr(thing, name)
        background = np.array([BACKGROUNDS.index(s.background) for s in scenes], np.int64)
        return Scenes(**index, **real, background=background)


def place_of(x: float, y: float) -> str:
    """The ninth of the picture that holds a center: thirds of the side in each direction."""
    return PLACES[3 * min(int(y * 3), 2) + min(int(x * 3), 2)]


def holds(relation: str, x0, y0, x1, y1):
    """Is the first center RELATION the second, clearly (by RELATION_MARGIN)? Works on floats and arrays."""
    ahead = {"left of": x1 - x0, "right of": x0 - x1, "above": y1 - y0, "below": y0 - y1}[relation]
    return ahead > RELATION_MARGIN


def _draw(rng, wanted: list[str | None], words: Sequence[str], distribution=None) -> np.ndarray:
    """Indices of the wanted words; where None, drawn from `distribution` (uniform if not given)."""
    out = rng.choice(len(words), size=len(wanted), p=distribution)
    for i, word in enumerate(wanted):
        if word is not None:
            out[i] = words.index(word)
    return out


def sample_scenes(requests: Sequence[Request], rng: np.random.Generator, tries: int = 1_000_000) -> Scenes:
    """One scene per request, from the exact distribution: what is unsaid is independent and uniform (striped with
    probability STRIPED_SHARE), and the centers are uniform over all arrangements with room in which the relation and
    places hold.

    Raises ValueError for a request that finds no room in `tries` arrangements.
    """
    n = len(requests)
    flat = [(row, k, wish) for row, request in enumerate(requests) for k, wish in enumerate(request.wishes)]
    at = (np.array([f[0] for f in flat], np.int64), np.array([f[1] for f in flat], np.int64))
    wishes = [f[2] for f in flat]

    def table(values, empty, dtype):
        out = np.full((n, MAX_THINGS), empty, dtype)
        out[at] = values
        return out

    shape = table(_draw(rng, [w.shape for w in wishes], SHAPES), -1, np.int64)
    color = table(_draw(rng, [w.color for w in wishes], COLORS), -1, np.int64)
    size = table(_draw(rng, [w.size for w in wishes], SIZES), -1, np.int64)
    striped = (1 - STRIPED_SHARE, STRIPED_SHARE)
    texture = table(_draw(rng, [w.texture for w in wishes], TEXTURES, striped), -1, np.int64)
    turn = table(rng.uniform(-MAX_TURN, MAX_TURN, len(flat)), 0.0, float)
    shade = table(rng.uniform(*SHADES, len(flat)), 0.0, float)
    background = _draw(rng, [r.background for r in requests], BACKGROUNDS)

    place = table([-1 if w.place is None else PLACES.index(w.place) for w in wishes], -1, np.int64)
    relation = np.array([-1 if r.relation is None else RELATIONS.index(r.relation) for r in requests], np.int64)
    x, y = place_centers(np.asarray(RADII)[np.clip(size, 0, 1)], shape >= 0, place, relation, rng, tries)
    return Scenes(shape, color, size, texture, x, y, turn, shade, background)


def scenes_that_fit(requests: Sequence[Request], rng: np.random.Generator, copies: int = 1) -> tuple[Scenes, list[int]]:
    """`copies` scenes of each request that a picture has room for, one request after the other, and the numbers of
    these requests. An unsaid size is drawn, so a request may find room in one copy and none in the next; it is then
    left out with all its copies."""
    kept = list(range(len(requests)))
    while kept:
        try:
            return sample_scenes([requests[k] for k in kept for _ in range(copies)], rng), kept
        except NoRoom as full:
            without = {row // copies for row in full.rows}
            kept = [k for at, k in enumerate(kept) if at not in without]
    return sample_scenes([], rng), kept


def sample_any(n: int, rng: np.random.Generator) -> Scenes:
    """n scenes with one to four things, as many of each, all else left to chance."""
    return sample_scenes(any_requests(n, rng), rng)


def any_requests(n: int, rng: np.random.Generator) -> list[Request]:
    """n requests for one to four things, as many of each, that say nothing else."""
    return [Request((Wish(),) * int(count)) for count in rng.integers(1, MAX_THINGS + 1, n)]


class NoRoom(ValueError):
    """Some requests ask for more than fits into the picture. rows: their numbers."""

    def __init__(self, rows: list[int]):
        super().__init__(
            f"no room for the things of {len(rows)} request(s), the first is number {rows[0]}; ask for less"
        )
        self.rows = rows


def place_centers(radius, present, place, relation, rng, tries: int = 1_000_000):
    """Centres [N, 4] for things of these radii: plain rejection sampling, so the distribution is uniform over what is
    allowed."""
    n = len(radius)
    x, y = np.zeros((n, MAX_THINGS)), np.zeros((n, MAX_THINGS))
    todo = np.arange(n)
    tried = 0
    while len(todo) and tried < tries:
        copies = max(1, 8192 // len(todo))  # few rows are left after some rounds: try many arrangements of each at once
        tried += copies
        rows = np.repeat(todo, copies)
        lo = radius[rows] + MARGIN
        low_x, high_x, low_y, high_y = lo, 1 - lo, lo, 1 - lo
        asked = place[rows] >= 0
        col, line = place[rows] % 3, place[rows] // 3
        low_x = np.where(asked, np.maximum(low_x, col / 3), low_x)
        high_x = np.where(asked, np.minimum(high_x, (col + 1) / 3), high_x)
        low_y = np.where(asked, np.maximum(low_y, line / 3), low_y)
        high_y = np.where(asked, np.minimum(high_y, (line + 1) / 3), high_y)
        px = rng.uniform(low_x, high_x)
        py = rng.uniform(low_y, high_y)
        fits = _has_room(px, py, radius[rows], present[rows])
        for r, name in enumerate(RELATIONS):
            asks = relation[rows] == r
            fits &= ~asks | holds(name, px[:, 0], py[:, 0], px[:, 1], py[:, 1])
        good, first = np.unique(rows[fits], return_index=True)
        chosen = np.flatnonzero(fits)[first]
        x[good], y[good] = px[chosen], py[chosen]
        todo = np.setdiff1d(todo, good, assume_unique=True)
    if len(todo):
        raise NoRoom(todo.tolist())
    return x, y


def _has_room(x, y, radius, present):
    fits = np.ones(len(x), bool)
    for i in range(MAX_THINGS):
        for j in range(i):
            far = np.hypot(x[:, i] - x[:, j], y[:, i] - y[:, j]) >= radius[:, i] + radius[:, j] + GAP
            fits &= far | ~present[:, i] | ~present[:, j]
    return fits
