"""What training on a reward changed: two students on the same prompts and the same noise (method.md sections 6.2, 7).

The reward that was trained on must rise, or nothing was learnt. Whether pictures became better is what everything else
says: rewards that were held out, the utilities of annotators, the judge, and coverage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hb.eval import stats
from hb.eval.cache import Progress, key_of
from hb.eval.coverage import relative
from hb.eval.observatory import conditions_of, scores_of
from hb.eval.protocol import BATCH, as_seen, noise_seed
from hb.infer.pipeline import Model
from hb.models.rewards import RewardModel
from hb.world import benchmark as bench
from hb.world.annotator import Annotator, merits
from hb.world.judge.judge import check
from hb.world.judge.reading import read


def rewarded_rows(
    model: Model,
    rewards: Mapping[str, RewardModel],
    identities: Mapping[str, str],
    *,
    cases: Sequence[bench.SceneCase],
    pictures: int,
    seed: int = 0,
    keep: Path | None = None,
    bar: bool = True,
    **draw,
) -> list[dict]:
    """A row for each of `pictures` pictures of each prompt: its task and case, whether the judge finds it `right`, its
    four `merits` (`hb.world.annotator.Merits`), and mu of each reward.

    identities   a fingerprint of each reward: rows of other rewards are not taken for these
    draw         goes to `Model.draw`. Noise depends on (seed, prompt, picture) alone, as in `scene_eval`
    """
    asked = [f"{case.task}: {case.prompt}" for case in cases]
    key = key_of(
        model, "rewarded", "draw", options=draw, cases=asked, pictures=pictures, seed=seed, rewards=dict(identities)
    )

    def work(numbers: list[int]) -> list[dict]:
        chosen = [cases[i // pictures] for i in numbers]
        prompts = [case.prompt for case in chosen]
        drawn = model.draw(prompts, seed=[noise_seed(seed, i) for i in numbers], warn=False, **draw)
        seen = as_seen(drawn)
        mu = scores_of(rewards, seen, conditions_of(model, rewards, prompts))
        rows = []
        for k, (i, case, reading) in enumerate(zip(numbers, chosen, read(seen))):
            row = dict(task=case.task, case=i // pictures, right=int(check(reading, case.request).right))
            row |= dict(merits=[round(float(merit), 6) for merit in merits(reading, case.request)], nfe=drawn.nfe)
            rows.append(row | dict(rewards={name: round(float(values[k]), 6) for name, values in mu.items()}))
        return rows

    return Progress(keep, key).run(len(cases) * pictures, BATCH, work, "drawing", bar)


def reward_change(
    after: Sequence[Mapping],
    before: Sequence[Mapping],
    people: Mapping[str, Sequence[Annotator]],
    coverage: tuple[Mapping, Mapping] | None = None,
) -> dict:
    """After minus before, paired by prompt and noise.

    after, before   of `rewarded_rows`
    people          groups of annotators by name, whose mean utility is compared
    coverage        two results of `coverage_eval`, after and before

    Returns rewards, utility (by name), right and, where it was measured, coverage: each a dict of `before`, `after`
    and `difference`, an estimate with its interval; the prompts of a task are drawn anew together.
    """
    if [(row["task"], row["case"]) for row in after] != [(row["task"], row["case"]) for row in before]:
        raise ValueError("the two were not measured on the same prompts and pictures, so they cannot be paired")

    def changed(number) -> dict:
        sides = [np.array([float(number(row)) for row in rows]) for rows in (after, before)]
        return _change(*([_by_prompt(before, side, task) for task in tasks] for side in sides))

    tasks = list(dict.fromkeys(row["task"] for row in before))
    reward = lambda name: lambda row: row["rewards"][name]
    utility = lambda who: lambda row: np.mean([person.utilities(np.array(row["merits"])) for person in who])
    out = dict(rewards={name: changed(reward(name)) for name in before[0]["rewards"]})
    out |= dict(utility={name: changed(utility(who)) for name, who in people.items()})
    out |= dict(right=changed(lambda row: row["right"]), nfe=[rows[0]["nfe"] for rows in (after, before)])
    if coverage is not None:
        out["coverage"] = _change(*([relative(got["parts"])] for got in coverage))
    return out


def _by_prompt(rows: Sequence[Mapping], numbers: np.ndarray, task: str) -> np.ndarray:
    """The mean of each prompt of this task."""
    of: dict[int, list[float]] = {}
    for row, number in zip(rows, numbers):
        if row["task"] == task:
            of.setdefault(row["case"], []).append(number)
    return np.array([np.mean(mine) for mine in of.values()])


def _change(after: list[np.ndarray], before: list[np.ndarray]) -> dict:
    mean = lambda groups: round(float(np.mean([group.mean() for group in groups])), 4)
    differences = [a - b for a, b in zip(after, before)]
    most = max(float(np.abs(d).max()) for d in differences)
    interval = stats.mean_interval(differences, (-most, most), best=np.nan)
    return dict(before=mean(before), after=mean(after), difference=interval)
