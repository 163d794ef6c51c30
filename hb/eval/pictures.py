"""How good, how diverse, how fast: SceneEval, EditEval, understanding, coverage, the step ladder, honest latency.

Every figure carries an interval: Wilson for shares of single pictures, bootstrap over prompts for means of tasks.
Definitions: product.md section 7; GenEval (Ghosh et al. 2023) and VIEScore's SC and PQ (Ku et al. 2024) are the models.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import torch
from scipy.stats import binomtest
from torch import Tensor
from tqdm import tqdm

from hb import limits
from hb.files import append_rows, read_rows
from hb.infer.artifacts import fingerprint
from hb.infer.pipeline import Model, Pictures
from hb.models.vision import patchify
from hb.pictures import to_image, to_tensor
from hb.world import benchmark as bench
from hb.world.judge.edits import edit_region, picked, score_edit
from hb.world.judge.judge import FAULTS, Reading, check, faults, read
from hb.world.language import (
    DESCRIBE_REQUEST,
    LanguageError,
    described_right,
    others_instead,
    parse,
    parse_description,
    parse_edit,
    say,
)
from hb.world.render import render
from hb.world.scene import Request, Scene, Scenes, Thing, sample_scenes

RESULTS = limits.RESULTS
BATCH = 50
CHAINS = 10  # of 40, each of five edits: as long as a batch of pictures, and as much to lose


# ---- intervals ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Share:
    """k of n, with its 95% Wilson interval."""

    k: int
    n: int

    @property
    def value(self) -> float:
        return self.k / self.n if self.n else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        if not self.n:
            return float("nan"), float("nan")
        ci = binomtest(self.k, self.n).proportion_ci(0.95, method="wilson")
        return float(ci.low), float(ci.high)

    def to_dict(self) -> dict:
        return dict(
            value=round(self.value, 4), low=round(self.interval[0], 4), high=round(self.interval[1], 4), n=self.n
        )


def bootstrap(groups: Sequence[np.ndarray], draws: int = 4000, seed: int = 0) -> tuple[float, float, float]:
    """Mean of the groups' means and its 95% interval, each group's members drawn again with replacement."""
    rng = np.random.default_rng([2, seed])
    means = np.zeros(draws)
    for values in groups:
        values = np.asarray(values, float)
        means += values[rng.integers(0, len(values), (draws, len(values)))].mean(1)
    means /= len(groups)
    return float(np.mean([np.mean(g) for g in groups])), *map(float, np.quantile(means, (0.025, 0.975)))


def _interval(groups) -> dict:
    value, low, high = bootstrap(groups)
    return dict(value=round(value, 4), low=round(low, 4), high=round(high, 4), n=int(sum(map(len, groups))))


def wilson(share: float, n: int) -> tuple[float, float]:
    """95% Wilson interval of a share of n, which need not be a whole number of them: of means of clusters, n counts
    clusters."""
    z = 1.959964
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


def clustered(matrix: np.ndarray) -> dict:
    """The share of ones in a matrix [prompts, pictures], with its interval over prompts: bootstrap, or Wilson of as
    many as there are prompts where all prompts have the same share, since a bootstrap of equal values has no width. n
    counts pictures."""
    share = matrix.mean(1)
    value, low, high = bootstrap([share])
    if np.ptp(share) == 0:
        low, high = wilson(value, len(share))
    return dict(value=round(value, 4), low=round(low, 4), high=round(high, 4), n=matrix.size)


def clustered_difference(ours: np.ndarray, theirs: np.ndarray) -> dict:
    """The mean of ours - theirs, [prompts, pictures] each, with its interval over prompts. Where all prompts have the
    same difference the share of prompts that have another one is at most Wilson's upper end for none of them, and that
    is the interval's half width."""
    apart = (ours - theirs).mean(1)
    value, low, high = bootstrap([apart])
    if np.ptp(apart) == 0:
        half = wilson(0.0, len(apart))[1]
        low, high = max(-1.0, value - half), min(1.0, value + half)
    return dict(value=round(value, 4), low=round(low, 4), high=round(high, 4), n=ours.size)


def ratio(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], draws: int = 4000, seed: int = 0) -> dict:
    """Mean of the groups' means of `ours` over that of `theirs`, paired: the same members are drawn again for both.

    Raises ValueError where theirs is 0: a share of nothing means nothing.
    """
    rng = np.random.default_rng([2, seed])
    sums = np.zeros((2, draws))
    for a, b in zip(ours, theirs, strict=True):
        pick = rng.integers(0, len(a), (draws, len(a)))
        sums += np.stack([np.asarray(a, float)[pick].mean(1), np.asarray(b, float)[pick].mean(1)])
    point = [float(np.mean([np.mean(g) for g in groups])) for groups in (ours, theirs)]
    if point[1] == 0:
        raise ValueError("the teacher's own figure is 0, so there is nothing to be a share of; train it further first")
    low, high = np.quantile(sums[0] / np.maximum(sums[1], 1e-12), (0.025, 0.975))
    return dict(
        value=round(point[0] / point[1], 4),
        low=round(float(low), 4),
        high=round(float(high), 4),
        n=int(sum(map(len, ours))),
    )


# ---- work that can be interrupted -----------------------------------------------------------------------------------


class Progress:
    """Rows of an evaluation as they are made, kept in a file: a second start goes on where the first was stopped."""

    def __init__(self, folder: Path | None, key: dict):
        self.rows: dict[int, dict] = {}
        self.path = None
        if folder is not None:
            digest = sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:16]
            self.path = Path(folder) / f"{key['what']}-{digest}.jsonl"
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.rows = {row["i"]: row for row in read_rows(self.path)}

    def run(self, n: int, batch: int, work: Callable[[list[int]], list[dict]], title: str, bar: bool) -> list[dict]:
        """Rows 0 to n - 1; `work` makes those that are missing, `batch` at a time."""
        missing = [i for i in range(n) if i not in self.rows]
        for at in tqdm(range(0, len(missing), batch), desc=title, disable=not bar, leave=False):
            part = missing[at : at + batch]
            made = [row | {"i": i} for i, row in zip(part, work(part), strict=True)]
            self.rows |= {row["i"]: row for row in made}
            if self.path is not None:
                append_rows(self.path, made)
        return [self.rows[i] for i in range(n)]


def identity(model: Model) -> str:
    """A fingerprint of the weights: results of one model are never taken for another's."""
    return fingerprint(model.bagel)


def _how(model: Model, verb: str, options: dict) -> dict:
    """What draws, and how. nfe=100 and student="teacher" are the same where the teacher serves 100: its pictures are
    made once."""
    name, grid, guidance = model.settle(verb, **options)
    student = name and model.students[name]
    who = student and (student.fingerprint(), student.sampler, verb == "draw" or student.eyes)
    painter = model.tiny and model.tiny.fingerprint()
    return dict(student=who, grid=grid.tolist(), guidance=asdict(guidance), painter=painter)


def as_seen(pictures: Pictures | Tensor) -> Tensor:
    """Pictures as a person gets them, in bytes, read back: [B, 3, H, W] in [0, 1]."""
    pixels = pictures.pixels if isinstance(pictures, Pictures) else pictures
    return torch.stack([to_tensor(to_image(p * 2 - 1)) for p in pixels]) / 2 + 0.5


# ---- drawing --------------------------------------------------------------------------------------------------------


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
        )

    def matrix(self) -> dict[str, np.ndarray]:
        """Verdicts per task, [prompts, pictures]: what paired comparisons are made of."""
        return _matrix(self.rows)


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
    """Draw `pictures` pictures for each prompt and judge them. `draw` goes to Model.draw (nfe, steps, text_scale, ...).

    Noise depends on (seed, prompt, picture) alone, so two models, or two settings, can be compared picture by picture.
    """
    cases = bench.scene_set() if cases is None else cases
    key = dict(
        what="scene",
        model=identity(model),
        pictures=pictures,
        seed=seed,
        n=len(cases),
        prompts=[c.prompt for c in cases],
    ) | _how(model, "draw", draw)

    def work(numbers: list[int]) -> list[dict]:
        chosen = [cases[i // pictures] for i in numbers]
        drawn = model.draw([c.prompt for c in chosen], seed=[_noise_seed(seed, i) for i in numbers], warn=False, **draw)
        readings = read(as_seen(drawn))
        spent = sum(drawn.seconds.values()) / len(numbers)
        verdicts = [check(r, c.request) for r, c in zip(readings, chosen)]
        return [
            dict(
                task=c.task,
                case=i // pictures,
                right=int(v.right),
                kinds=faults(r, c.request),
                reasons=v.reasons[:2],
                nfe=drawn.nfe,
                steps=drawn.steps,
                seconds=spent,
            )
            for i, c, r, v in zip(numbers, chosen, readings, verdicts)
        ]

    rows = Progress(keep, key).run(len(cases) * pictures, BATCH, work, "drawing", bar)
    verdicts = _matrix(rows)
    tasks = {task: Share(int(right.sum()), right.size) for task, right in verdicts.items()}
    return SceneScore(
        tasks,
        _interval([right.mean(1) for right in verdicts.values()]),
        rows[0]["nfe"],
        rows[0]["steps"],
        float(np.mean([r["seconds"] for r in rows])),
        rows,
    )


def _matrix(rows: list[dict]) -> dict[str, np.ndarray]:
    out = defaultdict(lambda: defaultdict(list))
    for row in rows:
        out[row["task"]][row["case"]].append(row["right"])
    return {task: np.array(list(cases.values()), float) for task, cases in out.items()}


def scene_difference(ours: SceneScore, theirs: SceneScore) -> dict:
    """Ours minus theirs on the same prompts and noise, paired by prompt: per task and overall, with intervals.

    Lossless is the lower end of the interval at -0.01 or above (product.md section 7).
    """
    a, b = ours.matrix(), theirs.matrix()
    if [(t, m.shape) for t, m in a.items()] != [(t, m.shape) for t, m in b.items()]:
        raise ValueError("the two were not measured on the same prompts and pictures, so they cannot be paired")
    groups = {task: (a[task] - b[task]).mean(1) for task in a}
    return dict(overall=_interval(list(groups.values())), tasks={t: _interval([g]) for t, g in groups.items()})


def _noise_seed(seed: int, i: int) -> int:
    return (seed + 1) * 10_000_000 + i


# ---- prompts that say much ------------------------------------------------------------------------------------------


def complex_eval(
    model: Model,
    *,
    pictures: int = 4,
    seed: int = 0,
    cases: Sequence[bench.SceneCase] | None = None,
    keep: Path | None = None,
    bar: bool = True,
    **draw,
) -> SceneScore:
    """SceneEval's way of drawing and judging on the prompts that say much: the tasks of the score are their cells, "4
    full"."""
    cases = bench.complex_set() if cases is None else cases
    return scene_eval(model, pictures=pictures, seed=seed, cases=cases, keep=keep, bar=bar, **draw)


def complex_summary(score: SceneScore) -> dict:
    """Of each cell and overall, the unweighted mean of the cells: the share right, the share of prompts with at least
    one picture right (`best`: what drawing again until the judge is content would bring), counts of pictures with each
    kind of mistake; and each picture's verdict: "" if right, else kinds and reasons."""
    of = score.matrix()
    kinds = {cell: Counter(kind for row in score.rows if row["task"] == cell for kind in row["kinds"]) for cell in of}
    cells = {
        cell: dict(right=clustered(right), best=clustered(right.max(1, keepdims=True)), kinds=_ordered(kinds[cell]))
        for cell, right in of.items()
    }
    verdicts = defaultdict(list)
    for row in score.rows:
        verdicts[row["task"]].append("" if row["right"] else f"{','.join(row['kinds'])}: {'; '.join(row['reasons'])}")
    return dict(
        overall=_interval([right.mean(1) for right in of.values()]) | dict(n=len(score.rows)),
        best=_interval([right.max(1) for right in of.values()]),
        kinds=_ordered(sum(kinds.values(), Counter())),
        cells=cells,
        pictures=next(iter(of.values())).shape[1],
        nfe=score.nfe,
        steps=score.steps,
        seconds_per_picture=round(score.seconds, 5),
        verdicts=dict(verdicts),
    )


def complex_difference(ours: SceneScore, theirs: SceneScore) -> dict:
    """Ours minus theirs on the same prompts and noise, paired by prompt: per cell and overall, with intervals."""
    a, b = ours.matrix(), theirs.matrix()
    difference = scene_difference(ours, theirs)
    return dict(
        overall=difference["overall"] | dict(n=sum(m.size for m in a.values())),
        cells={cell: clustered_difference(a[cell], b[cell]) for cell in a},
    )


def _ordered(counts: Counter) -> dict[str, int]:
    return {kind: counts[kind] for kind in FAULTS}


LADDER_STEPS = (50, 25, 12, 6, 3, 1)


def ladder(
    model: Model, *, pictures: int = 1, keep: Path | None = None, bar: bool = True, steps: Iterable[int] = LADDER_STEPS
) -> list[dict]:
    """The teacher's own few-step quality, guided and not, and every student's at the cost it was made for and at 6.

    The student that serves has `ahead` beside its score: how far before each other rung of its cost, paired by prompt.
    """
    rows, scores = [], []
    for guided in (True, False):
        for n in steps:
            options = dict(steps=n) if guided else dict(steps=n, text_scale=1.0)
            scores.append(scene_eval(model, pictures=pictures, keep=keep, bar=bar, student="teacher", **options))
            rows.append(dict(guided=guided, student=None) | scores[-1].to_dict())
    for name, student in model.students.items():
        for n in sorted({student.steps, 6} if student.any_steps else {student.steps}):
            scores.append(scene_eval(model, pictures=pictures, keep=keep, bar=bar, student=name, steps=n))
            rows.append(dict(guided=True, student=name, identity=student.fingerprint()) | scores[-1].to_dict())
    for row, score in zip(rows, scores):
        if row["student"] and model.students[row["student"]].default:
            row["ahead"] = [
                {name: other[name] for name in ("student", "guided", "steps", "nfe")}
                | scene_difference(score, theirs)["overall"]
                for other, theirs in zip(rows, scores)
                if other is not row and other["nfe"] == row["nfe"]
            ]
    return rows


# ---- editing --------------------------------------------------------------------------------------------------------


def edit_eval(
    model: Model,
    *,
    seed: int = 0,
    cases: Sequence[bench.EditCase] | None = None,
    keep: Path | None = None,
    bar: bool = True,
    choices: bool = False,
    **edit,
) -> dict:
    """EditEval: SC = 10 min(success, kept), PQ = 10 min(clean shapes, clean background), O = mean sqrt(SC PQ) per
    group, then over groups; drift = mean absolute pixel change outside the edited region, pixels in [0, 1].

    choices   the cases pick one of several alike things: `picked` counts which one was edited, and `verdicts` tells it
              of each edit
    """
    cases = bench.edit_set() if cases is None else cases
    side = model.bagel.config.picture_side
    asked = [f"{c.edit.instruction}: {c.source} {c.edit.target}" for c in cases]
    key = dict(what="edit", model=identity(model), seed=seed, cases=asked) | _how(model, "edit", edit)

    def work(numbers: list[int]) -> list[dict]:
        chosen = [cases[i] for i in numbers]
        before = as_seen(render([c.source for c in chosen], side))
        done = model.edit(
            before, [c.edit.instruction for c in chosen], seed=[_noise_seed(seed, i) for i in numbers], **edit
        )
        after = as_seen(done)
        spent = sum(done.seconds.values()) / len(numbers)
        return [
            _score(c, reading, b, a)
            | (_choice(c, reading) if choices else {})
            | dict(nfe=done.nfe, steps=done.steps, seconds=spent)
            for c, reading, b, a in zip(chosen, read(after), before, after)
        ]

    rows = Progress(keep, key).run(len(cases), BATCH, work, "editing", bar)
    groups = sorted({r["group"] for r in rows})
    of = {g: [r for r in rows if r["group"] == g] for g in groups}
    overall = _interval([np.array([r["O"] for r in of[g]]) for g in groups])
    mean = lambda rows, name: round(float(np.mean([r[name] for r in rows])), 4)
    chosen = _chosen(rows, of) if choices else {}
    return chosen | dict(
        O=overall,
        SC=mean(rows, "SC"),
        PQ=mean(rows, "PQ"),
        drift=_interval([np.array([r["drift"] for r in rows])]),
        groups={
            g: {name: mean(of[g], name) for name in ("O", "SC", "PQ", "drift")} | {"n": len(of[g])} for g in groups
        },
        nfe=rows[0]["nfe"],
        steps=rows[0]["steps"],
        seconds_per_picture=mean(rows, "seconds"),
        rows=rows,
    )


def _score(case: bench.EditCase, reading: Reading, before: Tensor, after: Tensor) -> dict:
    edit = case.edit
    free, place = what_is_free(edit)
    score = score_edit(reading, case.source, edit.target, free, place)
    sc = 10 * min(score.success, score.kept)
    pq = 10 * min(reading.shape_cleanliness, reading.background_cleanliness)
    outside = ~touched(case.source, edit.target, reading, before.shape[-1])
    drift = float((after - before).abs()[:, outside].mean()) if outside.any() else 0.0
    return dict(group=edit.group, SC=sc, PQ=pq, O=float(np.sqrt(sc * pq)), drift=drift, reasons=score.reasons[:2])


def _choice(case: bench.EditCase, reading: Reading) -> dict:
    free, place = what_is_free(case.edit)
    instead = others_instead(parse_edit(case.edit.instruction), case.source)
    return dict(picked=picked(reading, case.source, case.edit.target, instead, free, place))


def _chosen(rows: list[dict], groups: dict[str, list[dict]]) -> dict:
    share = lambda rows, which: Share(sum(r["picked"] == which for r in rows), len(rows)).to_dict()
    verdicts = {
        g: [f"{r['picked']}, O {r['O']:.1f}{': ' * bool(r['reasons'])}{'; '.join(r['reasons'])}" for r in of]
        for g, of in groups.items()
    }
    return dict(
        picked={which: share(rows, which) for which in ("right", "other", "both", "none")},
        picked_right={g: share(of, "right") for g, of in groups.items()},
        verdicts=verdicts,
    )


def what_is_free(edit) -> tuple[frozenset[str], str | None]:
    """The sides of an edited thing that its instruction leaves open, as the judge names them, and a place it asks
    for."""
    free = frozenset(("place" if a in ("x", "y") else a) for a in edit.free if a not in ("turn", "shade"))
    change = parse_edit(edit.instruction).change
    return free, change.place if change is not None else None


def touched(source: Scene, target: Scene, reading: Reading, side: int) -> Tensor:
    """Pixels [side, side] an edit may change: where source and target differ, and where the edited thing was put."""
    region = edit_region(source, target, side)
    kept = [t for t in source.things if t in target.things]
    new = [t.thing for t in reading.things if not any(np.hypot(t.thing.x - k.x, t.thing.y - k.y) < 0.05 for k in kept)]
    for thing in new:
        region |= edit_region(Scene((), source.background), Scene((thing,), source.background), side)
    return region


def edit_ratios(ours: dict, theirs: dict) -> dict:
    """O and drift as shares of theirs, paired by edit, with intervals. Both are what `edit_eval` gives."""
    out = {}
    for name in ("O", "drift"):
        by = [defaultdict(list), defaultdict(list)]
        for rows, into in zip((ours["rows"], theirs["rows"]), by):
            for row in rows:
                into[row["group"]].append(row[name])
        groups = sorted(by[0])
        out[name] = ratio(*([np.array(part[g]) for g in groups] for part in by))
    return out


def chain_eval(model: Model, *, seed: int = 0, keep: Path | None = None, bar: bool = True, **edit) -> list[dict]:
    """Five edits in a row, each on the last one's picture: what is right and how far the rest has drifted, per turn."""
    chains = bench.edit_chains()
    key = dict(what="chains", model=identity(model), seed=seed, chains=[str(c) for c in chains]) | _how(
        model, "edit", edit
    )

    def work(numbers: list[int]) -> list[dict]:
        return _walked(
            model, [chains[i] for i in numbers], lambda turn: [_noise_seed(seed + turn, i) for i in numbers], edit
        )

    rows = Progress(keep, key).run(len(chains), CHAINS, work, "chains", bar)
    out = []
    for turn in range(len(chains[0].edits)):
        right, drift = (
            np.array([r[name][turn] for r in rows if r[name][turn] is not None]) for name in ("right", "drift")
        )
        out.append(
            dict(turn=turn + 1, success=Share(int(right.sum()), len(chains)).to_dict(), drift=_interval([drift]))
        )
    return out


def _walked(model: Model, chains: list[bench.ChainCase], seeds: Callable[[int], list[int]], edit: dict) -> list[dict]:
    """For each chain and turn: was the edit right, and the drift outside what was to change so far; None if that is
    all."""
    side = model.bagel.config.picture_side
    first = current = as_seen(render([c.source for c in chains], side))
    out = [dict(right=[], drift=[]) for _ in chains]
    regions = torch.zeros(len(chains), side, side, dtype=torch.bool)
    for turn in range(len(chains[0].edits)):
        current = as_seen(model.edit(current, [c.edits[turn].instruction for c in chains], seed=seeds(turn), **edit))
        for i, (chain, reading) in enumerate(zip(chains, read(current))):
            source = chain.source if turn == 0 else chain.edits[turn - 1].target
            regions[i] |= touched(source, chain.edits[turn].target, reading, side)
            outside = (current[i] - first[i]).abs()[:, ~regions[i]]
            free, place = what_is_free(chain.edits[turn])
            right = score_edit(reading, source, chain.edits[turn].target, free, place).success == 1.0
            out[i]["right"].append(int(right))
            out[i]["drift"].append(float(outside.mean()) if outside.numel() else None)
    return out


# ---- prompts that contradict themselves -----------------------------------------------------------------------------


def contradictory_eval(cases: Sequence[bench.ClashCase] | None = None) -> dict:
    """How many contradictory prompts the grammar refuses with both clashing phrases quoted, and how many consistent
    ones it refuses."""
    rows = [
        dict(kind=case.kind, prompt=case.prompt, clash=case.clash, refusal=refusal(case.prompt))
        for case in (bench.contradictory_set() if cases is None else cases)
    ]
    clashing, consistent = ([row for row in rows if bool(row["clash"]) == wanted] for wanted in (True, False))
    seen = lambda row: row["refusal"] is not None and all(f"'{words}'" in row["refusal"] for words in row["clash"])
    share = lambda rows: Share(sum(map(seen, rows)), len(rows)).to_dict()
    kinds = {
        kind: [sum(seen(row) for row in part if row["kind"] == kind) for part in (clashing, consistent)]
        for kind in dict.fromkeys(row["kind"] for row in rows)
    }
    return dict(refused=share(clashing), mistaken=share(consistent), kinds=kinds, rows=rows)


def refusal(prompt: str) -> str | None:
    """Why the grammar refuses a prompt; None if it does not."""
    try:
        parse(prompt)
    except LanguageError as error:
        return str(error)
    return None


# ---- understanding --------------------------------------------------------------------------------------------------


def understand_eval(model: Model, *, keep: Path | None = None, bar: bool = True) -> dict:
    """Exact match of answers, by kind, and dense descriptions parsed back into scenes (recall and precision of
    things)."""
    side = model.bagel.config.picture_side
    questions, scenes = bench.question_set(), bench.description_set()
    name = identity(model)

    def answer(numbers):
        chosen = [questions[i] for i in numbers]
        said = model.ask(render([c.scene for c in chosen], side), [c.question.text for c in chosen], max_tokens=12)
        return [
            dict(kind=c.question.kind, right=int(text.strip() == c.question.answer), said=text, truth=c.question.answer)
            for c, text in zip(chosen, said.texts)
        ]

    def describe(numbers):
        chosen = [scenes[i] for i in numbers]
        said = model.ask(render(chosen, side), DESCRIBE_REQUEST, max_tokens=128)
        matches = [described_right(parse_description(text), scene) for text, scene in zip(said.texts, chosen)]
        return [dict(asdict(m), text=t) for m, t in zip(matches, said.texts)]

    answers = Progress(keep, dict(what="answers", model=name)).run(len(questions), BATCH, answer, "asking", bar)
    told = Progress(keep, dict(what="descriptions", model=name)).run(len(scenes), BATCH, describe, "describing", bar)
    kinds = sorted({r["kind"] for r in answers})
    share = lambda rows: Share(sum(r["right"] for r in rows), len(rows)).to_dict()
    return dict(
        answers=share(answers),
        kinds={k: share([r for r in answers if r["kind"] == k]) for k in kinds},
        recall=Share(sum(t["found"] for t in told), sum(t["true"] for t in told)).to_dict(),
        precision=Share(sum(t["found"] for t in told), max(1, sum(t["told"] for t in told))).to_dict(),
        background=Share(sum(t["background"] for t in told), len(told)).to_dict(),
        rows=answers,
        told=told,
    )


# ---- coverage -------------------------------------------------------------------------------------------------------

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

    frechet: the distance, in what the model's own vision tower sees, between all pictures and as many rendered from the
    true distribution, the mean over RENDERED such sets; `floor` is the mean between two of these, `highest` the
    largest. There is no interval, since pictures that are drawn again, as in a bootstrap, are less diverse. It compares
    the students of one teacher: another has another tower.
    """
    requests = [parse(p) for p in prompts]
    cases = [bench.SceneCase("coverage", say(r), r) for r in requests]
    key = dict(what="coverage", model=identity(model), pictures=pictures, seed=seed, prompts=prompts, features="mean")
    key |= _how(model, "draw", draw)

    def work(numbers):
        chosen = [cases[i // pictures] for i in numbers]
        drawn = model.draw([c.prompt for c in chosen], seed=[_noise_seed(seed, i) for i in numbers], warn=False, **draw)
        seen, out = as_seen(drawn), []
        for case, reading, features in zip(chosen, read(seen), features_of(model, seen)):
            things = _in_order(case.request, [t.thing for t in reading.things])
            out.append(
                dict(
                    nfe=drawn.nfe,
                    background=reading.background,
                    things=things and [_words(t) for t in things],
                    features=[round(float(f), 5) for f in features],
                )
            )
        return out

    rows = Progress(keep, key).run(len(cases) * pictures, BATCH, work, "covering", bar)
    rng, parts = np.random.default_rng([2, 5]), []
    for number, request in enumerate(requests):
        mine = [r for r in rows[number * pictures : (number + 1) * pictures] if r["things"]]
        for attribute, k in bench.unsaid(request):
            distribution = bench.true_distribution(request, attribute, k)
            seen = [r["background"] if attribute == "background" else r["things"][k][attribute] for r in mine]
            score, ceiling = overlap(seen, distribution), _ceiling(distribution, max(len(mine), 1), rng)
            parts.append(dict(prompt=prompts[number], attribute=attribute, thing=k, score=score, ceiling=ceiling))
    true = [_true_features(model, requests, pictures, np.random.default_rng([2, 6, k])) for k in range(RENDERED)]
    relative = np.array([min(1.0, p["score"] / p["ceiling"]) for p in parts])
    by = defaultdict(list)
    for part, value in zip(parts, relative):
        by[part["attribute"]].append(value)
    return dict(
        value=_interval([relative]),
        raw=round(float(np.mean([p["score"] for p in parts])), 4),
        ceiling=round(float(np.mean([p["ceiling"] for p in parts])), 4),
        attributes={a: round(float(np.mean(v)), 4) for a, v in by.items()},
        readable=Share(sum(bool(r["things"]) for r in rows), len(rows)).to_dict(),
        nfe=rows[0]["nfe"],
        parts=parts,
        frechet=_away_from(true, np.array([r["features"] for r in rows])),
    )


@torch.no_grad()
def features_of(model: Model, pictures: Tensor) -> np.ndarray:
    """What the vision tower says of pictures [n, 3, H, W] in [0, 1], the mean over the places of each: [n, width]."""
    tower, weights = model.bagel.vit_model, next(model.bagel.vit_model.parameters())
    patch = tower.config.patch_size
    places = model.bagel.vit_pos_embed.places(*(side // patch for side in pictures.shape[-2:]))
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


def _in_order(request: Request, things: list[Thing]) -> list[Thing] | None:
    """The things in the order of the wishes they fulfil; None unless there is such an order. Where there are several,
    each is as likely in the world, and one is taken by chance: reading order is not chance."""
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


# ---- the autoencoder's own limit ------------------------------------------------------------------------------------


def reconstruction(model: Model, n: int = 10_000, seed: int = 3) -> dict:
    """Share of random scenes that the judge reads exactly and finds clean, before and after the autoencoder."""
    from hb.world.judge.damage import random_scenes
    from hb.world.judge.judge import same_scene

    scenes: Scenes = random_scenes(n, np.random.default_rng([2, seed]))
    pictures = render(scenes, model.bagel.config.picture_side)
    back = []
    for at in range(0, n, BATCH):
        latent = model.bagel.encode(pictures[at : at + BATCH] * 2 - 1, torch.Generator().manual_seed(at))
        back.append(model.paint(latent).detach())
    back = torch.cat(back)
    exact = lambda p: [
        r.clean and r.scene is not None and same_scene(r.scene, scenes.scene(i)) for i, r in enumerate(read(p))
    ]
    return dict(
        rendered=Share(sum(exact(pictures)), n).to_dict(),
        reconstructed=Share(sum(exact(back)), n).to_dict(),
        error=round(float((back - pictures).abs().mean()), 5),
    )


# ---- speed ----------------------------------------------------------------------------------------------------------


def speed(model: Model, *, batches: Sequence[int] = (1, 16), repeats: int = 5) -> list[dict]:
    """Pictures and tokens per second, and seconds by part, after one warm-up call; median and range over repeats."""
    scenes = render(bench.description_set()[: max(batches)], model.bagel.config.picture_side)
    jobs = {
        "draw": lambda b: model.draw(["a red circle left of a blue star"] * b, warn=False),
        "edit": lambda b: model.edit(scenes[:b], "change the background to black"),
        "ask": lambda b: model.ask(scenes[:b], DESCRIBE_REQUEST),
    }
    rows = []
    for batch in batches:
        for name, job in jobs.items():
            job(batch)
            made, seconds, parts = [], [], defaultdict(list)
            for _ in range(repeats):
                began = time.perf_counter()
                record = job(batch)
                seconds.append(time.perf_counter() - began)
                made.append(sum(len(model.text.encode(t)) + 1 for t in record.texts) if name == "ask" else batch)
                for part, spent in record.seconds.items():
                    parts[part].append(spent)
            rate = np.array(made) / np.array(seconds)
            rows.append(
                dict(
                    task=name,
                    batch=batch,
                    unit="tokens/s" if name == "ask" else "pictures/s",
                    rate=round(float(np.median(rate)), 3),
                    low=round(float(rate.min()), 3),
                    high=round(float(rate.max()), 3),
                    nfe=getattr(record, "nfe", None),
                    seconds={part: round(float(np.median(v)), 5) for part, v in parts.items()},
                )
            )
    return rows


def student_speed(model: Model, student: str, *, batch: int = 16, repeats: int = 5) -> list[dict]:
    """A student against its teacher, side by side in each repeat, everything included: the ledger of its speed-up.

    rows: task, both metered costs and their ratio, the ratio of seconds (median and range over repeats), seconds by
    part
    """
    scenes = render(bench.description_set()[:batch], model.bagel.config.picture_side)
    jobs = {
        "draw": lambda who: model.draw(["a red circle left of a blue star"] * batch, student=who, warn=False),
        "edit": lambda who: model.edit(scenes, "change the background to black", student=who),
    }
    rows = []
    for task, job in jobs.items():
        for who in ("teacher", student):
            job(who)
        ratios, nfe, parts = [], {}, {who: defaultdict(list) for who in ("teacher", student)}
        for _ in range(repeats):
            took = {}
            for who in ("teacher", student):
                began = time.perf_counter()
                record = job(who)
                took[who], nfe[who] = time.perf_counter() - began, record.nfe
                for part, spent in record.seconds.items():
                    parts[who][part].append(spent)
            ratios.append(took["teacher"] / took[student])
        rows.append(
            dict(
                task=task,
                student=student,
                batch=batch,
                nfe=nfe[student],
                nfe_teacher=nfe["teacher"],
                nfe_ratio=round(nfe["teacher"] / nfe[student], 4),
                ratio=round(float(np.median(ratios)), 3),
                low=round(min(ratios), 3),
                high=round(max(ratios), 3),
                seconds={
                    who: {part: round(float(np.median(v)), 5) for part, v in p.items()} for who, p in parts.items()
                },
            )
        )
    return rows
