"""Training a reward model on comparisons: the preferred picture's reward should be the larger one.

The vision encoder, the understanding branch and the autoencoder stay as they are, so their features of all pictures are
computed once, before the first step. A step then costs milliseconds, and no picture is looked at again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hb.data.preference_pool import PreferencePool
from hb.infer.artifacts import RewardCheckpoint
from hb.models.bagel import Bagel
from hb.models.rewards import RewardCondition, RewardConfig, RewardModel
from hb.preference_losses import bradley_terry_loss, preference_probability, ranking_loss
from hb.seeding import TRAINING
from hb.train.optim import Training, refuse_not_finite, scheduled, warm_then_cosine
from hb.train.trainer import StepData, fit
from hb.world.benchmark import EditCase
from hb.world.render import render
from hb.world.scene import Request, Scenes, scenes_that_fit

LOSSES = ("uncertain", "bradley-terry")
AT_ONCE = 128  # pictures whose features are computed together


@dataclass(frozen=True)
class Encoded:
    """A pool as the head takes it. Features are half precision; rows are those of the pool.

    held   comparisons, of requests that no step trains on; learnt: the others
    """

    pool: PreferencePool
    features: Tensor  # [P, rows, columns, width]
    condition: RewardCondition  # of the R requests
    learnt: Tensor
    held: Tensor

    def sides(self, rows: Tensor) -> dict[str, Tensor]:
        """The two pictures of these comparisons and what they were made for, as plain tensors."""
        better, worse = self.pool.better[rows], self.pool.worse[rows]
        asked = self.condition.select(self.pool.request[better])
        found = dict(better=self.features[better], worse=self.features[worse], text=asked.text, present=asked.present)
        return found | (dict(source=asked.source) if asked.source is not None else {})

    @property
    def of_pictures(self) -> RewardCondition:
        """The condition of every picture."""
        return self.condition.select(self.pool.request)


@torch.no_grad()
def encoded(reward: RewardModel, pool: PreferencePool, *, held: float = 0.1, seed: int = 0) -> Encoded:
    """The features of a pool. held: share of the requests whose comparisons are held out of training, to see whether
    what is learnt holds for others."""
    parts = []
    for rows in _slices(len(pool.ids)):
        ids, length = pool.ids[rows].long(), pool.length[rows].long()
        parts.append(reward.condition(reward.model, ids, length, pool.sources(rows)).to("cpu"))
    text, present = (torch.cat([getattr(part, name) for part in parts]) for name in ("text", "present"))
    source = torch.cat([part.source.half() for part in parts]) if pool.task == "edit" else None
    features = _features(reward, len(pool.picture), pool.pixels)
    order = np.random.default_rng([TRAINING, seed, 47]).permutation(len(pool.ids))
    apart = torch.zeros(len(pool.ids), dtype=torch.bool)
    apart[torch.from_numpy(order[: round(held * len(order))])] = True
    is_held = apart[pool.request[pool.pair[:, 0]]]
    condition = RewardCondition(text.half(), present, source)
    return Encoded(pool, features, condition, torch.where(~is_held)[0], torch.where(is_held)[0])


def _features(reward: RewardModel, n: int, pixels: Callable[[slice], Tensor]) -> Tensor:
    """Features of the n pictures pixels(rows), in half precision."""
    return torch.cat([reward.features(pixels(rows)).half() for rows in _slices(n)]).cpu()


def _slices(n: int) -> list[slice]:
    return [slice(at, at + AT_ONCE) for at in range(0, n, AT_ONCE)]


def comparisons(parts: list[Encoded], size: int, seed: int, step: int, rank: int = 0) -> dict[str, Tensor]:
    """The comparisons of step `step`: `size` of one task, chosen with the tasks' own shares."""
    rng = np.random.default_rng([TRAINING, seed, 53, step, rank])
    counts = np.array([len(part.learnt) for part in parts], float)
    part = parts[int(rng.choice(len(parts), p=counts / counts.sum()))]
    return part.sides(part.learnt[torch.from_numpy(rng.integers(0, len(part.learnt), size))])


class RewardTraining(Training):
    """The head learns from comparisons; loss "uncertain": `ranking_loss`, "bradley-terry": the same without sigma."""

    def __init__(
        self, reward: RewardModel, *, total: int, lr: float = 2e-3, weight_decay: float = 0.05, loss: str = "uncertain"
    ):
        super().__init__()
        if loss not in LOSSES:
            raise ValueError(f"no loss called {loss!r}; there are {', '.join(LOSSES)}")
        self.head = reward.head
        self.total, self.lr, self.weight_decay, self.loss = total, lr, weight_decay, loss

    def rewards(self, batch: dict[str, Tensor]) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """(mu, log_sigma) of the better and of the worse pictures, in one pass."""
        condition = RewardCondition(batch["text"], batch["present"], batch.get("source"))
        twice = torch.arange(len(batch["better"]), device=batch["better"].device).repeat(2)
        # stored in half precision, which autocast to bfloat16 does not put together
        features = torch.cat([batch[side].to(self.head.unit.dtype) for side in ("better", "worse")])
        mu, log_sigma = self.head(features, condition.select(twice))
        return tuple(zip(mu.chunk(2), log_sigma.chunk(2)))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        better, worse = self.rewards(batch)
        loss = ranking_loss(*better, *worse) if self.loss == "uncertain" else bradley_terry_loss(better[0], worse[0])
        right = (better[0] > worse[0]).float().mean()
        self.log_dict(dict(loss=loss, right=right, sigma=torch.cat([better[1], worse[1]]).mean().exp()), prog_bar=True)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(
            self.head.parameters(), self.lr, betas=(0.9, 0.99), weight_decay=self.weight_decay
        )
        return scheduled(optimizer, lambda i: warm_then_cosine(i, self.total))


@torch.no_grad()
def accuracy(reward: RewardModel, part: Encoded, rows: Tensor) -> dict[str, float]:
    """Of these comparisons: the share with the larger mu on the preferred side, and the mean negative log-likelihood
    of the clicks."""
    training, right, loss = RewardTraining(reward, total=1), 0.0, 0.0
    for at in rows.split(AT_ONCE):
        better, worse = training.rewards(part.sides(at))
        right += float((better[0] > worse[0]).double().sum())
        loss -= float(preference_probability(*better, *worse).double().clamp_min(1e-12).log().sum())
    n = max(1, len(rows))
    return dict(right=round(right / n, 4), loss=round(loss / n, 4), n=len(rows))


def train_reward(
    folder: Path,
    model: Bagel,
    pools: Mapping[str, PreferencePool],
    *,
    steps: int,
    batch: int = 64,
    lr: float = 2e-3,
    weight_decay: float = 0.05,
    loss: str = "uncertain",
    seed: int = 0,
    form: Mapping[str, object] | None = None,
    **trainer,
) -> RewardCheckpoint:
    """Train a reward for `model` on pools by task, "draw" and "edit", in `folder` (resumes there).
    form: what `RewardConfig.of` takes, beside the model.

    Its unit: over all pictures of the pools, rewards have mean 0 and standard deviation 1. Its thresholds: the median
    reward of a rendered scene for each request; where requests are not of the tiny world, of the preferred pictures.
    """
    refuse_not_finite(learning_rate=lr, weight_decay=weight_decay)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        reward = RewardModel(RewardConfig.of(model, **form or {}), model)
    parts = {task: encoded(reward, pool, seed=seed) for task, pool in pools.items()}
    module = RewardTraining(reward, total=steps, lr=lr, weight_decay=weight_decay, loss=loss)
    data = StepData(lambda step, rank: comparisons(list(parts.values()), batch, seed, step, rank), steps)
    fit(module, data, Path(folder), ema=None, **trainer)
    reward.eval().cpu()
    every = [rewards_of(reward, part.features, part.of_pictures)[0] for part in parts.values()]
    reward.rescale(torch.cat(every))
    return RewardCheckpoint(
        config=asdict(reward.config),
        reads=RewardCheckpoint.stamp(model),
        thresholds={task: round(threshold(reward, part, seed), 4) for task, part in parts.items()},
        provenance=dict(held_out={task: accuracy(reward, part, part.held) for task, part in parts.items()}),
        weights=dict(reward.head.state_dict()),
    )


@torch.no_grad()
def rewards_of(reward: RewardModel, features: Tensor, condition: RewardCondition) -> tuple[Tensor, Tensor]:
    """(mu, log_sigma) of pictures with these features; the condition has a row for each."""
    rows = torch.arange(len(features)).split(AT_ONCE)
    found = [reward.head(features[at].float(), condition.select(at)) for at in rows]
    return tuple(map(torch.cat, zip(*found)))


@torch.no_grad()
def threshold(reward: RewardModel, part: Encoded, seed: int = 0) -> float:
    """The median reward of scenes that are right by construction: what ReFL's hinge asks for and no more. Requests that
    a new scene finds no room for are left out."""
    pool = part.pool
    asked = [pool.asked(row) for row in range(len(pool.ids))]
    rows = list(range(len(asked)))
    if all(isinstance(a, Request) for a in asked):
        scenes, rows = scenes_that_fit(asked, np.random.default_rng([TRAINING, seed, 59]))
    elif all(isinstance(a, EditCase) for a in asked):
        scenes = Scenes.from_list([a.edit.target for a in asked])
    else:
        liked = pool.better
        return float(rewards_of(reward, part.features[liked], part.of_pictures.select(liked))[0].median())
    pictures = render(scenes, pool.picture.size(1)) * 2 - 1
    condition = part.condition.select(torch.tensor(rows))
    features = _features(reward, len(pictures), lambda at: pictures[at])
    return float(rewards_of(reward, features, condition)[0].median())
