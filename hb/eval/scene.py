"""SceneEval: six tasks, every drawing judged; comparisons on the same noise; what few steps cost (metrics.md
section 1).

The model is GenEval (Ghosh et al. 2023, arXiv 2310.11513).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hb.eval import stats
from hb.eval.cache import Progress, key_of
from hb.eval.protocol import BATCH, as_seen, noise_seed
from hb.eval.stats import Share
from hb.infer.pipeline import Model
from hb.world import benchmark as bench
from hb.world.judge.faults import faults
from hb.world.judge.judge import check
from hb.world.judge.reading import Reading, read
from hb.world.scene import Request

STEPS = (50, 25, 12, 6, 3, 1)


@dataclass(frozen=True)
class SceneScore:
    """SceneEval: per task and overall accuracy, metered cost, and each picture's verdict (1 right, 0 wrong)."""

    tasks: dict[str, Share]
    overall: dict
    nfe: float
    steps: int
    seconds: float
    rows: list[dict] = field(repr=False)

    def to_dict(self) -> dict:
        return dict(
            overall=self.overall,
            tasks={k: v.to_dict() for k, v in self.tasks.items()},
            nfe=self.nfe,
            steps=self.steps,
            seconds_per_picture=round(self.seconds, 5),
            verdicts=compact(self.matrix()),
        )

    def matrix(self) -> dict[str, np.ndarray]:
        """Verdicts per task, [prompts, pictures]: what paired comparisons are made of."""
        tasks = defaultdict(lambda: defaultdict(list))
        for row in self.rows:
            tasks[row["task"]][row["case"]].append(row["right"])
        return {task: np.array(list(cases.values()), float) for task, cases in tasks.items()}


def scene_eval(
    model: Model,
    *,
    pictures: int = 4,
    seed: int = 0,
    cases: Sequence[bench.SceneCase] | None = None,
    keep: Path | None = None,
    bar: bool = True,
    **draw,
) -> SceneScore:
    """Draw `pictures` pictures for each prompt and judge them. `draw` goes to Model.draw (nfe, steps, text_scale,
    ...).

    Noise depends on (seed, prompt, picture) alone, so two models, or two settings, can be compared picture by picture.
    """
    cases = bench.scene_set() if cases is None else cases
    asked = [f"{c.task}: {c.prompt}" for c in cases]
    key = key_of(model, "scene", "draw", options=draw, cases=asked, pictures=pictures, seed=seed)

    def work(numbers: list[int]) -> list[dict]:
        chosen = [cases[i // pictures] for i in numbers]
        seeds = [noise_seed(seed, i) for i in numbers]
        drawn = model.draw([c.prompt for c in chosen], seed=seeds, warn=False, **draw)
        cost = dict(nfe=drawn.nfe, steps=drawn.steps, seconds=sum(drawn.seconds.values()) / len(numbers))
        judged = zip(numbers, chosen, read(as_seen(drawn)))
        return [dict(task=c.task, case=i // pictures) | _judged(reading, c.request) | cost for i, c, reading in judged]

    return _score(Progress(keep, key).run(len(cases) * pictures, BATCH, work, "drawing", bar))


def _judged(reading: Reading, request: Request) -> dict:
    verdict = check(reading, request)
    return dict(right=int(verdict.right), kinds=faults(reading, request), reasons=verdict.reasons[:2])


def _score(rows: list[dict]) -> SceneScore:
    first, seconds = rows[0], float(np.mean([r["seconds"] for r in rows]))
    verdicts = SceneScore({}, {}, first["nfe"], first["steps"], seconds, rows).matrix()
    tasks = {t: stats.clustered_share(m.sum(1), np.full(len(m), m.shape[1])) for t, m in verdicts.items()}
    return SceneScore(tasks, stats.mean_of_shares(list(tasks.values())), first["nfe"], first["steps"], seconds, rows)


# ---- comparisons ----------------------------------------------------------------------------------------------------


def compact(verdicts: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Verdicts [prompts, pictures] of each task as a result stores them: "1101 0111 ...", a word a prompt."""
    word = lambda prompt: "".join(str(int(v)) for v in prompt)
    return {task: " ".join(map(word, matrix)) for task, matrix in verdicts.items()}


def verdicts_of(score: SceneScore | Mapping) -> dict[str, np.ndarray]:
    """Verdicts per task of a score, or of the `result` that a file of results holds."""
    if isinstance(score, SceneScore):
        return score.matrix()
    if "verdicts" not in score:
        raise ValueError("this result is from before verdicts were stored; measure it again")
    return {task: np.array([[*map(float, w)] for w in words.split()]) for task, words in score["verdicts"].items()}


def _paired(ours, theirs) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    a, b = verdicts_of(ours), verdicts_of(theirs)
    if [(t, m.shape) for t, m in a.items()] != [(t, m.shape) for t, m in b.items()]:
        raise ValueError("the two were not measured on the same prompts and pictures, so they cannot be paired")
    return {task: (a[task], b[task]) for task in a}


def scene_difference(ours: SceneScore | Mapping, theirs: SceneScore | Mapping) -> dict:
    """Ours minus theirs on the same prompts and noise, paired by prompt: per task and overall, with intervals.

    Lossless is the lower end of the interval at -0.01 or above (metrics.md section 2).
    """
    pairs = _paired(ours, theirs)
    overall = stats.paired_difference(*zip(*pairs.values()))
    return dict(overall=overall, tasks={t: stats.paired_difference([a], [b]) for t, (a, b) in pairs.items()})


def scene_share(ours: SceneScore | Mapping, theirs: SceneScore | Mapping) -> dict:
    """Ours over theirs on the same prompts and noise, paired by prompt, tasks of equal weight: an estimate."""
    pairs = _paired(ours, theirs).values()
    return stats.ratio(*([side.mean(1) for side in sides] for sides in zip(*pairs)))


def flips(ours: SceneScore | Mapping, theirs: SceneScore | Mapping) -> dict:
    """Which verdicts changed: for each task and overall the 2 x 2 table with McNemar's p-value. Prompts are
    clusters."""
    pairs = _paired(ours, theirs)
    every = [np.concatenate(side) for side in zip(*pairs.values())]
    return dict(overall=stats.flips(*every), tasks={t: stats.flips(a, b) for t, (a, b) in pairs.items()})


# ---- what few steps cost --------------------------------------------------------------------------------------------


def steps_ablation(
    model: Model, *, pictures: int = 1, keep: Path | None = None, bar: bool = True, steps: Iterable[int] = STEPS
) -> list[dict]:
    """The teacher's own few-step quality, guided and not, and every student's at the cost it was made for and at 6.

    The student that serves has `ahead` beside its score: how far before each other row of its cost, paired by prompt.
    """
    run = dict(pictures=pictures, keep=keep, bar=bar)
    rows, scores = [], []
    for guided in (True, False):
        for n in steps:
            options = dict(steps=n) if guided else dict(steps=n, text_scale=1.0)
            scores.append(scene_eval(model, student="teacher", **run, **options))
            rows.append(dict(guided=guided, student=None) | scores[-1].to_dict())
    for name, student in model.students.items():
        for n in sorted({student.steps, 6} if student.any_steps else {student.steps}):
            scores.append(scene_eval(model, student=name, steps=n, **run))
            rows.append(dict(guided=True, student=name, identity=student.fingerprint()) | scores[-1].to_dict())
    for row, score in zip(rows, scores):
        if row["student"] and model.students[row["student"]].default:
            row["ahead"] = _ahead(row, score, rows, scores)
    return rows


def _ahead(row: dict, score: SceneScore, rows: list[dict], scores: list[SceneScore]) -> list[dict]:
    """How far this row is before each other one that costs as much."""
    return [
        {name: other[name] for name in ("student", "guided", "steps", "nfe")}
        | scene_difference(score, theirs)["overall"]
        for other, theirs in zip(rows, scores)
        if other is not row and other["nfe"] == row["nfe"]
    ]
