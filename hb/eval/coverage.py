"""Coverage: does a model draw all that a prompt allows? (metrics.md section 1; method.md section 7.3)"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from hashlib import sha256
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hb.eval import stats
from hb.eval.cache import Progress, key_of
from hb.eval.protocol import BATCH, as_seen, noise_seed
from hb.eval.stats import Share
from hb.infer.pipeline import Model
from hb.models.vision import patchify
from hb.world.distributions import true_distribution, unsaid
from hb.world.judge.reading import read
from hb.world.language import parse, say
from hb.world.render import render
from hb.world.scene import Request, Thing, sample_scenes

COVERAGE_PROMPTS = (
    "a circle",
    "a star and a ring",
    "two hearts",
    "a red square",
    "a cross left of a moon",
    "a green triangle and a pink circle",
)
AMBIGUOUS_PROMPTS = ("something", "something red", "a red thing and a star", "two small things")
RENDERED = 5


def coverage_eval(
    model: Model,
    *,
    pictures: int = 200,
    seed: int = 7,
    prompts: Sequence[str] = COVERAGE_PROMPTS,
    keep: Path | None = None,
    bar: bool = True,
    **draw,
) -> dict:
    """1 - total variation between what the model leaves to chance and what the world does, per attribute and prompt.

    A finite sample of the true distribution itself would not reach 1: `ceiling` is what `pictures` true draws score,
    and `value` is the model's score over it, averaged over prompts and attributes.

    frechet: the distance, in features of the model's own vision tower, between all pictures and as many rendered
    from the true distribution, the mean over RENDERED such sets; `floor` is the mean between two of these,
    `highest` the largest. There is no interval, since pictures that are drawn again, as in a bootstrap, are less
    diverse. It compares the students of one teacher: another has another tower.
    """
    requests = [parse(p) for p in prompts]
    said = [say(r) for r in requests]
    key = key_of(model, "coverage", "draw", options=draw, cases=said, pictures=pictures, seed=seed)

    def work(numbers: list[int]) -> list[dict]:
        chosen = [i // pictures for i in numbers]
        seeds = [noise_seed(seed, i) for i in numbers]
        drawn = model.draw([said[k] for k in chosen], seed=seeds, warn=False, **draw)
        seen = as_seen(drawn)
        rows = zip(chosen, read(seen), features_of(model, seen))
        return [_row(requests[k], reading, features) | dict(nfe=drawn.nfe) for k, reading, features in rows]

    rows = Progress(keep, key).run(len(requests) * pictures, BATCH, work, "covering", bar)
    parts = _parts(prompts, requests, rows, pictures)
    true = [_true_features(model, requests, pictures, np.random.default_rng([2, 6, k])) for k in range(RENDERED)]
    return dict(
        value=stats.mean_interval([relative(parts)], (0, 1)),
        raw=round(float(np.mean([p["score"] for p in parts])), 4),
        ceiling=round(float(np.mean([p["ceiling"] for p in parts])), 4),
        attributes=_by_attribute(parts),
        readable=_readable(rows, pictures).to_dict(),
        nfe=rows[0]["nfe"],
        parts=parts,
        frechet=_away_from(true, np.array([r["features"] for r in rows])),
    )


def coverage_share(ours: Mapping, theirs: Mapping) -> dict:
    """Coverage as a share of theirs, paired by prompt and attribute. Both are what `coverage_eval` gives, or
    stored."""
    return stats.ratio([relative(ours["parts"])], [relative(theirs["parts"])])


def relative(parts: Sequence[Mapping]) -> np.ndarray:
    """Coverage of every prompt and attribute: the score over what as many true draws reach, 1 at most."""
    return np.array([min(1.0, p["score"] / p["ceiling"]) for p in parts])


def _row(request: Request, reading, features: np.ndarray) -> dict:
    things = in_order(request, [t.thing for t in reading.things])
    words = things and [_words(t) for t in things]
    return dict(background=reading.background, things=words, features=[round(float(f), 5) for f in features])


def _parts(prompts: Sequence[str], requests: Sequence[Request], rows: list[dict], pictures: int) -> list[dict]:
    rng, parts = np.random.default_rng([2, 5]), []
    for number, request in enumerate(requests):
        mine = [r for r in rows[number * pictures : (number + 1) * pictures] if r["things"]]
        for attribute, k in unsaid(request):
            distribution = true_distribution(request, attribute, k)
            seen = [r["background"] if attribute == "background" else r["things"][k][attribute] for r in mine]
            score, ceiling = overlap(seen, distribution), _ceiling(distribution, max(len(mine), 1), rng)
            where = dict(prompt=prompts[number], attribute=attribute, thing=k)
            parts.append(where | dict(score=score, ceiling=ceiling))
    return parts


def _by_attribute(parts: list[dict]) -> dict[str, float]:
    by = defaultdict(list)
    for part, value in zip(parts, relative(parts)):
        by[part["attribute"]].append(value)
    return {attribute: round(float(np.mean(values)), 4) for attribute, values in by.items()}


def _readable(rows: list[dict], pictures: int) -> Share:
    usable = np.array([bool(r["things"]) for r in rows]).reshape(-1, pictures)
    return stats.clustered_share(usable.sum(1), np.full(len(usable), pictures))


@torch.no_grad()
def features_of(model: Model, pictures: Tensor) -> np.ndarray:
    """Features of the vision tower, the mean over the patches of each picture [n, 3, H, W] in [0, 1]: [n, width]."""
    tower, weights = model.bagel.vit_model, next(model.bagel.vit_model.parameters())
    patch = tower.config.patch_size
    places = model.bagel.vit_pos_embed.rows_of(*(side // patch for side in pictures.shape[-2:]))
    parts = [tower(patchify((part * 2 - 1).to(weights), patch), places).mean(1) for part in pictures.split(BATCH)]
    return torch.cat(parts).double().cpu().numpy()


def _true_features(model: Model, requests: Sequence[Request], pictures: int, rng) -> np.ndarray:
    scenes = sample_scenes([request for request in requests for _ in range(pictures)], rng)
    return features_of(model, as_seen(render(scenes, model.bagel.config.picture_side)))


def _away_from(true: list[np.ndarray], drawn: np.ndarray) -> dict:
    between = [frechet(a, b) for a, b in combinations(true, 2)]
    figures = dict(value=np.mean([frechet(drawn, t) for t in true]), floor=np.mean(between), highest=max(between))
    return {name: round(float(figure), 6) for name, figure in figures.items()} | dict(n=len(drawn))


def frechet(ours: np.ndarray, theirs: np.ndarray) -> float:
    """|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)) of two clouds [n, width] with means m and covariances C: the squared
    distance of Fréchet between two Gaussians (Dowson & Landau 1982; of pictures' features, Heusel et al. 2017, arXiv
    1706.08500).

    With C = R'R from a QR decomposition, the trace of the root is the sum of the singular values of R R'^T: no root of
    a matrix that is nearly singular need be taken.
    """
    means = ours.mean(0), theirs.mean(0)
    roots = [np.linalg.qr(x - m, mode="r") / (len(x) - 1) ** 0.5 for x, m in zip((ours, theirs), means)]
    common = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    return float(((means[0] - means[1]) ** 2).sum() + sum((r**2).sum() for r in roots) - 2 * common)


def overlap(seen: Sequence[str], distribution: dict[str, float]) -> float:
    """1 - total variation between the shares of the values seen and their distribution."""
    n = max(len(seen), 1)
    return 1 - 0.5 * sum(abs(seen.count(v) / n - p) for v, p in distribution.items()) if seen else 0.0


def _ceiling(distribution: dict[str, float], n: int, rng) -> float:
    values, p = list(distribution), np.array(list(distribution.values()))
    counts = rng.multinomial(n, p / p.sum(), size=500) / n
    return float(np.mean(1 - 0.5 * np.abs(counts - p).sum(1))) if values else 1.0


def in_order(request: Request, things: list[Thing]) -> list[Thing] | None:
    """The things in the order of the wishes they fulfil; None unless each wish has exactly one thing.

    Of several such orders the places of the things choose one, as good as by chance: the world fills wishes by
    chance, and reading order is not chance.
    """
    if len(things) != len(request.wishes):
        return None
    fulfils = lambda thing, wish: all(value in (None, getattr(thing, name)) for name, value in vars(wish).items())
    orders = [order for order in permutations(things) if all(map(fulfils, order, request.wishes))]
    if not orders:
        return None
    digest = sha256(repr([(t.x, t.y) for t in orders[0]]).encode()).digest()
    return list(orders[digest[0] % len(orders)])


def _words(thing: Thing) -> dict[str, str]:
    return dict(shape=thing.shape, color=thing.color, size=thing.size, texture=thing.texture, place=thing.place)
