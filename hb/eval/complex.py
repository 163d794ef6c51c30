"""Complex prompts: one to four things, half or all of what can be said about them; what is wrong, by kind.

Drawn and judged as in SceneEval; the tasks of a score are the cells, "4 full".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from hb.eval import stats
from hb.eval.scene import SceneScore, compact, flips, scene_difference, scene_eval
from hb.eval.stats import Share
from hb.infer.pipeline import Model
from hb.world import benchmark as bench
from hb.world.judge.faults import FAULTS
from hb.world.language import LanguageError, parse


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
    """`scene_eval` on the complex prompts."""
    cases = bench.complex_set() if cases is None else cases
    return scene_eval(model, pictures=pictures, seed=seed, cases=cases, keep=keep, bar=bar, **draw)


def complex_summary(score: SceneScore) -> dict:
    """Of each cell and overall, the unweighted mean of the cells:

    right      the share of right pictures
    best       the share of prompts with at least one right picture: what drawing again until the judge is content
               would bring
    kinds      how many pictures have each kind of mistake; one may have several
    outcomes   of each picture: "" if right, else kinds and reasons
    """
    verdicts = score.matrix()
    best = {cell: Share(int(right.max(1).sum()), len(right)) for cell, right in verdicts.items()}
    cells = {
        cell: dict(right=score.tasks[cell].to_dict(), best=best[cell].to_dict(), kinds=_counted(_of(score, cell)))
        for cell in verdicts
    }
    return dict(
        overall=score.overall,
        best=stats.mean_of_shares(list(best.values())),
        kinds=_counted(score.rows),
        cells=cells,
        pictures=next(iter(verdicts.values())).shape[1],
        nfe=score.nfe,
        steps=score.steps,
        seconds_per_picture=round(score.seconds, 5),
        verdicts=compact(verdicts),
        outcomes={cell: [_outcome(row) for row in _of(score, cell)] for cell in verdicts},
    )


def complex_difference(ours: SceneScore | Mapping, theirs: SceneScore | Mapping) -> dict:
    """Ours minus theirs on the same prompts and noise, paired by prompt, per cell and overall; and which verdicts
    changed."""
    difference, flipped = scene_difference(ours, theirs), flips(ours, theirs)
    return dict(
        overall=difference["overall"],
        cells=difference["tasks"],
        flips=dict(overall=flipped["overall"], cells=flipped["tasks"]),
    )


def _of(score: SceneScore, cell: str) -> list[dict]:
    return [row for row in score.rows if row["task"] == cell]


def _counted(rows: Sequence[Mapping]) -> dict[str, int]:
    counts = Counter(kind for row in rows for kind in row["kinds"])
    return {kind: counts[kind] for kind in FAULTS}


def _outcome(row: Mapping) -> str:
    return "" if row["right"] else f"{','.join(row['kinds'])}: {'; '.join(row['reasons'])}"


# ---- prompts that contradict themselves -----------------------------------------------------------------------------


def contradictory_eval(cases: Sequence[bench.ClashCase] | None = None) -> dict:
    """How many contradictory prompts the grammar refuses with both clashing phrases quoted, and how many consistent
    ones it refuses."""
    rows = [
        dict(kind=case.kind, prompt=case.prompt, clash=case.clash, refusal=refusal(case.prompt))
        for case in (bench.contradictory_set() if cases is None else cases)
    ]
    clashing, consistent = ([row for row in rows if bool(row["clash"]) == wanted] for wanted in (True, False))
    share = lambda rows: Share(sum(map(_is_refused, rows)), len(rows)).to_dict()
    count = lambda rows, kind: sum(_is_refused(row) for row in rows if row["kind"] == kind)
    kinds = {row["kind"]: [count(clashing, row["kind"]), count(consistent, row["kind"])] for row in rows}
    return dict(refused=share(clashing), mistaken=share(consistent), kinds=kinds, rows=rows)


def _is_refused(row: Mapping) -> bool:
    """Is it refused, and are the phrases that clash quoted?"""
    return row["refusal"] is not None and all(f"'{words}'" in row["refusal"] for words in row["clash"])


def refusal(prompt: str) -> str | None:
    """Why the grammar refuses a prompt; None if it does not."""
    try:
        parse(prompt)
    except LanguageError as error:
        return str(error)
    return None
