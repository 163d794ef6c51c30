"""What to watch while a reward trains a model: that reward, rewards that are held out, and the true distributions.

A model that is trained on a reward finds what the reward gets wrong. Here that can be seen from outside: the trained
reward rises while other rewards, the judge, the coverage or the spectrum say that pictures become worse. `should_stop`
is the rule that ends such a run. All figures are of the same prompts and the same noise at every check.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hb.data.tokens import marked
from hb.eval.coverage import in_order, overlap
from hb.eval.protocol import as_seen, noise_seed
from hb.infer.pipeline import Model
from hb.models.bagel import pad_ids
from hb.models.rewards import RewardCondition, RewardModel
from hb.world.distributions import true_distribution, unsaid
from hb.world.judge.judge import check
from hb.world.judge.reading import Reading, read
from hb.world.language import parse, say
from hb.world.scene import Request, Thing

PROMPTS = (
    "a circle",
    "a red square",
    "two hearts",
    "a star and a ring",
    "a cross left of a moon",
    "a green triangle and a pink circle",
    "three small squares",
    "a large striped moon",
)
ATTRIBUTES = ("color", "size", "place", "background")  # whose distributions are compared


# ---- figures of one set of pictures ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """One check: what a set of pictures came to.

    rewards     by name, of each picture [n]; the first is the one that is trained on, the others are held out
    right       share of pictures that the judge finds right; clean: mean cleanliness
    coverage    1 - total variation from the true distributions, mean over what prompts leave open
    divergence  see `divergence`; entropy: of what prompts leave open, mean over them, as a share of the world's
    slope       of the spectrum, see `spectrum_slope`
    """

    step: int
    rewards: dict[str, np.ndarray] = field(repr=False)
    right: float
    clean: float
    coverage: float
    divergence: dict[str, dict[str, float]]
    entropy: dict[str, float]
    slope: float

    @property
    def trained(self) -> np.ndarray:
        return next(iter(self.rewards.values()))

    @property
    def held_out(self) -> np.ndarray:
        """The mean of the held-out rewards of each picture."""
        held = list(self.rewards.values())[1:]
        return np.mean(held, 0) if held else np.full(len(self.trained), np.nan)

    def to_dict(self) -> dict[str, float]:
        """Plain numbers, as a logger takes them."""
        numbers = {f"reward {name}": values.mean() for name, values in self.rewards.items()}
        numbers |= dict(right=self.right, clean=self.clean, coverage=self.coverage, slope=self.slope)
        numbers |= {f"divergence {name}": found["value"] for name, found in self.divergence.items()}
        numbers |= {f"entropy {name}": value for name, value in self.entropy.items()}
        return {name: round(float(value), 5) for name, value in numbers.items()}


def look(
    pictures: Float[Tensor, "n 3 H W"], requests: Sequence[Request], rewards: Mapping[str, np.ndarray], step: int = 0
) -> Look:
    """All figures of pictures in [0, 1], each with what was asked; their rewards are computed already."""
    readings = read(pictures)
    right = [check(reading, request).right for reading, request in zip(readings, requests)]
    clean = [min(r.shape_cleanliness, r.background_cleanliness) for r in readings]
    shares = open_shares(readings, requests)
    return Look(
        step,
        dict(rewards),
        float(np.mean(right)),
        float(np.mean(clean)),
        coverage_lite(shares),
        divergence(shares),
        entropy(shares),
        spectrum_slope(pictures),
    )


@dataclass(frozen=True)
class OpenShare:
    """What one prompt leaves open about one thing: the values seen, and the distribution that the world gives them."""

    attribute: str
    seen: list[str]
    true: dict[str, float]


def open_shares(readings: Sequence[Reading], requests: Sequence[Request]) -> list[OpenShare]:
    """For each prompt and each of ATTRIBUTES that it leaves open. Pictures whose things are not those asked for cannot
    be compared and are left out; the judge's share counts them."""
    by_request: dict[Request, list] = {}
    for reading, request in zip(readings, requests, strict=True):
        by_request.setdefault(request, []).append((reading, in_order(request, [t.thing for t in reading.things])))
    found = []
    for request, mine in by_request.items():
        usable = [(reading, things) for reading, things in mine if things]
        for attribute, k in unsaid(request):
            if attribute not in ATTRIBUTES:
                continue
            seen = [_value(attribute, reading, things[k]) for reading, things in usable]
            found.append(OpenShare(attribute, [v for v in seen if v], true_distribution(request, attribute, k)))
    return found


def _value(attribute: str, reading: Reading, thing: Thing) -> str | None:
    return reading.background if attribute == "background" else getattr(thing, attribute)


def coverage_lite(shares: Sequence[OpenShare]) -> float:
    """Mean of 1 - total variation between the values seen and the true distribution (method.md section 7.3, without
    the correction for finite samples: to compare checks of one size with each other)."""
    return float(np.mean([overlap(share.seen, share.true) for share in shares])) if shares else float("nan")


def divergence(shares: Sequence[OpenShare]) -> dict[str, dict[str, float]]:
    """KL(seen || true) in nats by attribute, mean over prompts: {"color": {value, floor}, ...}.

    floor: what n samples of the true distribution itself have on average, about (K - 1) / (2 n) for K values (Miller
    1955). A prompt without a usable picture counts as a collapse onto the rarest value.
    """
    out = {}
    for attribute in ATTRIBUTES:
        mine = [share for share in shares if share.attribute == attribute]
        if mine:
            floors = [(len(_possible(share)) - 1) / (2 * max(len(share.seen), 1)) for share in mine]
            out[attribute] = dict(value=float(np.mean([_kl(s) for s in mine])), floor=float(np.mean(floors)))
    return out


def _possible(share: OpenShare) -> list[float]:
    return [p for p in share.true.values() if p > 0]


def _kl(share: OpenShare) -> float:
    if not share.seen:
        return float(-np.log(min(_possible(share))))
    rate = {value: share.seen.count(value) / len(share.seen) for value in set(share.seen)}
    # a place that 4,000 scenes did not meet has a share of 0 there
    return float(sum(p * np.log(p / max(share.true.get(value, 0.0), 1e-4)) for value, p in rate.items()))


def entropy(shares: Sequence[OpenShare]) -> dict[str, float]:
    """Entropy of the values seen over that of the true distribution, by attribute, mean over prompts: 1 is as varied as
    the world, 0 always the same."""
    out = {}
    for attribute in ATTRIBUTES:
        mine = [share for share in shares if share.attribute == attribute and share.seen]
        if mine:
            of = lambda seen: _entropy(np.unique(seen, return_counts=True)[1])
            ratios = [of(share.seen) / _entropy(np.array(list(share.true.values()))) for share in mine]
            out[attribute] = float(np.mean(ratios))
    return out


def _entropy(weights: np.ndarray) -> float:
    p = weights[weights > 0] / weights.sum()
    return float(-(p * np.log(p)).sum())


def spectrum_slope(pictures: Float[Tensor, "n 3 H W"]) -> float:
    """Slope of log power against log frequency, of the pictures' mean brightness: about -2 to -3 for clean scenes,
    nearer to 0 where dither or patterns of single pixels have come in. A constant picture has no spectrum and is left
    out; NaN if none is left."""
    gray = pictures.double().mean(1)
    side = gray.shape[-1]
    window = torch.hann_window(side, periodic=False, dtype=torch.float64)
    gray = (gray - gray.mean((1, 2), keepdim=True)) * window[:, None] * window
    power = torch.fft.fft2(gray).abs().square()
    frequency = torch.fft.fftfreq(side, dtype=torch.float64) * side
    radius = torch.hypot(frequency[:, None], frequency).round().long()
    rings = torch.arange(1, side // 2)
    mean = torch.stack([power[:, radius == r].mean(1) for r in rings], 1)  # [n, rings]
    mean = mean[mean.sum(1) > 1e-12]
    if not len(mean):
        return float("nan")
    return float(np.polyfit(np.log(rings.numpy()), mean.mean(0).clamp_min(1e-12).log().numpy(), 1)[0])


# ---- the rule -------------------------------------------------------------------------------------------------------


def should_stop(looks: Sequence[Look], errors: float = 2.0, in_a_row: int = 2) -> bool:
    """Is the reward being hacked? At each of the last `in_a_row` checks the held-out mean is at least `errors` standard
    errors below its best check so far, and the trained mean above what it was there.

    Pictures are paired by prompt and noise, so a standard error is that of the mean of differences. The best check is
    the one before these with the largest held-out mean: a slow fall counts as well as a sudden one. Without held-out
    rewards nothing is ever stopped.
    """
    if len(looks) <= in_a_row:
        return False
    return all(_fallen(looks[: len(looks) - k], errors) for k in range(in_a_row))


def _fallen(looks: Sequence[Look], errors: float) -> bool:
    *before, last = looks
    best = max(before, key=lambda seen: -np.inf if np.isnan(seen.held_out.mean()) else seen.held_out.mean())
    fall = best.held_out - last.held_out
    error = fall.std(ddof=1) / len(fall) ** 0.5 if len(fall) > 1 else np.inf
    return bool(fall.mean() > 0 and fall.mean() >= errors * error and last.trained.mean() > best.trained.mean())


# ---- online ---------------------------------------------------------------------------------------------------------


def conditions_of(
    model: Model, rewards: Mapping[str, RewardModel], prompts: Sequence[str]
) -> dict[str, RewardCondition]:
    """What each reward reads of these prompts, one row each."""
    ids, length = pad_ids([marked(model.text, ids) for ids in model.text.encode_many(prompts)], model.text.end)
    return {name: reward.condition(model.bagel, ids, length) for name, reward in rewards.items()}


@torch.no_grad()
def scores_of(
    rewards: Mapping[str, RewardModel], pictures: Float[Tensor, "n 3 H W"], conditions: Mapping[str, RewardCondition]
) -> dict[str, np.ndarray]:
    """mu [n] of pictures in [0, 1], by reward."""
    return {
        name: reward(pictures * 2 - 1, conditions[name])[0].double().cpu().numpy() for name, reward in rewards.items()
    }


class Observatory:
    """Looks at a model again and again while it is trained: the same prompts, each from the same noises.

    rewards     by name, the trained one first
    looks       every check so far
    """

    def __init__(
        self,
        model: Model,
        rewards: Mapping[str, RewardModel],
        *,
        prompts: Sequence[str] = PROMPTS,
        pictures: int = 16,
        seed: int = 9,
    ):
        self.rewards, self.looks = dict(rewards), []
        requests = [parse(prompt) for prompt in prompts]
        self.requests = [request for request in requests for _ in range(pictures)]
        self.prompts = [say(request) for request in self.requests]
        self.seeds = [noise_seed(seed, i) for i in range(len(self.prompts))]
        self.conditions = conditions_of(model, self.rewards, self.prompts)

    def check(self, draw: Callable[[list[str], list[int]], Tensor], step: int = 0) -> Look:
        """Look at what `draw(prompts, seeds)` makes, pictures [n, 3, H, W] in [0, 1]."""
        pictures = as_seen(draw(self.prompts, self.seeds))
        self.looks.append(look(pictures, self.requests, self.scores(pictures), step))
        return self.looks[-1]

    def scores(self, pictures: Tensor) -> dict[str, np.ndarray]:
        """mu of every picture, by reward."""
        return scores_of(self.rewards, pictures, self.conditions)

    @property
    def stop(self) -> bool:
        """What the rule says after the last check."""
        return should_stop(self.looks)
