"""How well rewards predict which of two pictures is preferred (method.md sections 6.2 and 7).

Pictures are of the evaluation sets' requests, which no reward was trained on. Simulated annotators compare all pairs of
one request, so the utility behind every click is known, and with it how good the best possible prediction is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, cycle, islice
from pathlib import Path

import numpy as np
import torch
from scipy.special import ndtr

from hb.data.preference_pool import Make, PreferencePool, make_preferences
from hb.eval import stats
from hb.eval.cache import digest, key_of
from hb.eval.protocol import as_seen
from hb.infer.pipeline import Model
from hb.models.rewards import RewardModel
from hb.train.reward import encoded, rewards_of
from hb.world import benchmark as bench
from hb.world.annotator import Annotator
from hb.world.language import say

FEW_STEPS = 12  # of the teacher, guided: as good as pictures to compare need be, at a quarter of the cost
EVERY = 4  # of the evaluation sets' requests
BINS = np.linspace(0.5, 1.0, 6)  # of the probability that is given to the picture predicted to win


# ---- pictures to compare --------------------------------------------------------------------------------------------


def ways(model: Model) -> list[dict]:
    """How the pictures of a request are made, as options of `draw` and `edit`: three by the students that serve by
    default, in turn, those with more steps first; one by the teacher in few steps. Without such a student the teacher
    makes all four."""
    teacher = dict(student="teacher", steps=FEW_STEPS)
    serving = sorted((-s.steps, name) for name, s in model.students.items() if s.default)
    students = cycle([dict(student=name) for _, name in serving] or [teacher])
    return [*islice(students, 3), teacher]


def maker(model: Model, how: Mapping) -> Make:
    """What makes pictures in one of these ways, as `make_preferences` takes it."""

    def make(texts: list[str], seeds: list[int], before: torch.Tensor | None) -> torch.Tensor:
        if before is None:
            return as_seen(model.draw(texts, seed=seeds, warn=False, **how))
        return as_seen(model.edit(before, texts, seed=seeds, **how))

    return make


def held_out_requests(every: int = EVERY) -> dict[str, list]:
    """Requests and edits of the evaluation sets, by task: prompts of SceneEval and complex ones, and edits."""
    prompts = [case.request for case in (*bench.scene_set()[::every], *bench.complex_set()[::every])]
    return dict(draw=prompts, edit=bench.edit_set()[::every])


def held_out_pictures(
    model: Model,
    people: Sequence[Annotator],
    *,
    seed: int = 0,
    every: int = EVERY,
    keep: Path | None = None,
    bar: bool = True,
) -> dict[str, PreferencePool]:
    """Pictures of these requests and a click for each pair, by task. keep: the pictures are stored there."""
    pools, how = {}, ways(model)
    for task, asked in held_out_requests(every).items():
        words = [case.edit.instruction if task == "edit" else say(case) for case in asked]
        keys = [key_of(model, "reward", task, options=options, cases=words, seed=seed) for options in how]
        folder = None if keep is None else Path(keep) / f"reward-{task}-{digest(keys)}"
        pools[task] = make_preferences(
            [maker(model, options) for options in how],
            asked,
            model.text,
            people,
            side=model.bagel.config.picture_side,
            seed=10_000_019 + seed,  # noise that no training picture began with
            folder=folder,
            bar=bar,
        )
    return pools


# ---- predictions against clicks -------------------------------------------------------------------------------------


def reward_eval(
    rewards: Mapping[str, RewardModel],
    pools: Mapping[str, PreferencePool],
    people: Sequence[Annotator],
    others: Sequence[Annotator],
    *,
    seed: int = 0,
) -> dict:
    """Accuracies of the rewards on clicks of `people`, whose taste they were trained on, and of `others`.

    rewards     by name: `accuracy`, `normalized` = (accuracy - 1/2) / (accuracy of the true utility - 1/2), `others`
                the same on other people's clicks, `calibration` (see there), all means over tasks of equal weight
    judge       the same of the judge's verdict alone, with half a point where it says the same of both
    ceiling     accuracy of each clicker's own utility; ceilings: the same by task; agreement: of two annotators
    """
    clicks, theirs = (Clicks(pools, them, seed + k) for k, them in enumerate((people, others)))
    out = dict(judge=_scored(_judge(pools), clicks, theirs))
    out |= dict(ceiling=clicks.accuracy(clicks.utility), agreement=clicks.agreement(), others=theirs.agreement())
    out |= dict(ceilings={task: clicks.accuracy({task: values}) for task, values in clicks.utility.items()})
    out["rewards"] = {name: reward_score(reward, pools, clicks, theirs, seed) for name, reward in rewards.items()}
    return out | dict(comparisons={task: len(pool) for task, pool in pools.items()}, people=[p.name for p in people])


def reward_score(reward: RewardModel, pools, clicks: Clicks, theirs: Clicks, seed: int = 0) -> dict:
    """See `reward_eval`."""
    mu, log_sigma = {}, {}
    for task, pool in pools.items():
        part = encoded(reward, pool, held=0.0, seed=seed)
        mu[task], log_sigma[task] = (r.double().numpy() for r in rewards_of(reward, part.features, part.of_pictures))
    score = _scored({task: values[None] for task, values in mu.items()}, clicks, theirs)
    return score | dict(calibration=clicks.calibration(mu, log_sigma))


def _scored(values: Mapping[str, np.ndarray], clicks: Clicks, theirs: Clicks) -> dict:
    by_task = {task: clicks.accuracy({task: v}) for task, v in values.items()}
    found = dict(accuracy=clicks.accuracy(values), normalized=clicks.normalized(values), tasks=by_task)
    return found | dict(others=theirs.normalized(values))


def _judge(pools: Mapping[str, PreferencePool]) -> dict[str, np.ndarray]:
    return {task: (pool.merits[:, 0] == 1).double().numpy()[None] for task, pool in pools.items()}


class Clicks:
    """Every pair of every pool compared once by each of these people; requests are clusters."""

    def __init__(self, pools: Mapping[str, PreferencePool], people: Sequence[Annotator], seed: int):
        self.pairs = {task: pool.pair.numpy() for task, pool in pools.items()}
        self.request = {task: pool.request[pool.pair[:, 0]].numpy() for task, pool in pools.items()}
        self.people = people
        self.utility, self.choice = {}, {}
        for k, (task, pool) in enumerate(pools.items()):
            rng = np.random.default_rng([2, 61, seed, k])
            merits = pool.merits.double().numpy()
            self.utility[task] = np.stack([person.utilities(merits) for person in people])
            sides = [self.utility[task][:, self.pairs[task][:, side]] for side in (0, 1)]
            self.choice[task] = np.stack([person.choose(*us, rng) for person, *us in zip(people, *sides)])

    def hits(self, values: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """By task and request, how often the larger of these values [1 or people, P] was chosen; a tie is half."""
        out = []
        for task, value in values.items():
            first, second = (value[:, self.pairs[task][:, side]] for side in (0, 1))
            hit = np.where(first == second, 0.5, (second > first) == self.choice[task])
            out.append(self._by_request(task, hit.mean(0)))
        return out

    def _by_request(self, task: str, numbers: np.ndarray) -> np.ndarray:
        at = self.request[task]
        return np.bincount(at, numbers)[np.unique(at)] / np.bincount(at)[np.unique(at)]

    def accuracy(self, values: Mapping[str, np.ndarray]) -> dict:
        """With a bootstrap interval over requests."""
        return stats.mean_interval(self.hits(values), (0, 1))

    def normalized(self, values: Mapping[str, np.ndarray]) -> dict:
        """(accuracy - 1/2) / (accuracy of the true utility - 1/2), requests drawn together."""
        true = self.hits({task: self.utility[task] for task in values})
        return stats.ratio([hits - 0.5 for hits in self.hits(values)], [hits - 0.5 for hits in true])

    def agreement(self) -> dict:
        """How often two annotators choose the same picture."""
        groups = []
        for task, choice in self.choice.items():
            both = [choice[i] == choice[j] for i, j in combinations(range(len(choice)), 2)]
            groups.append(self._by_request(task, np.mean(both, 0)))
        return stats.mean_interval(groups, (0, 1))

    def calibration(self, mu: Mapping[str, np.ndarray], log_sigma: Mapping[str, np.ndarray]) -> dict:
        """Predicted probability against frequency.

        bins    of the probability given to the picture with the larger mu: its mean, how often that picture was chosen
                (an interval with requests as clusters)
        error   mean distance of the two, each bin weighted by its clicks (expected calibration error)
        """
        predicted, hit, cluster = [], [], []
        for k, task in enumerate(mu):
            (m1, m2), (s1, s2) = ([v[task][self.pairs[task][:, side]] for side in (0, 1)] for v in (mu, log_sigma))
            p = ndtr((m1 - m2) / np.sqrt(np.exp(2 * s1) + np.exp(2 * s2)))
            for choice in self.choice[task]:
                predicted.append(np.maximum(p, 1 - p))
                hit.append((p < 0.5) == (choice == 1))
                cluster.append(self.request[task] * len(mu) + k)
        return calibration(*map(np.concatenate, (predicted, hit, cluster)))


def calibration(predicted: np.ndarray, hit: np.ndarray, cluster: np.ndarray) -> dict:
    """See `Clicks.calibration`. predicted [n] in [1/2, 1]: probability of what was predicted; hit [n]: did it come
    so?; cluster [n]: which cases belong together."""
    which, bins = np.clip(np.digitize(predicted, BINS) - 1, 0, len(BINS) - 2), []
    for b in range(len(BINS) - 1):
        here = which == b
        if not here.any():
            continue
        _, number = np.unique(cluster[here], return_inverse=True)
        share = stats.clustered_share(np.bincount(number, hit[here]), np.bincount(number))
        bins.append(dict(predicted=round(float(predicted[here].mean()), 4), frequency=share.to_dict()))
    away = [b["frequency"]["n"] * abs(b["predicted"] - b["frequency"]["value"]) for b in bins]
    return dict(bins=bins, error=round(float(sum(away) / len(predicted)), 4))
