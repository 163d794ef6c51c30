"""EditEval: seven groups of edits, one at a time and five in a row (metrics.md section 1).

The model is VIEScore's SC and PQ (Ku et al. 2024, arXiv 2312.14867).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hb.eval import stats
from hb.eval.cache import Progress, key_of
from hb.eval.protocol import BATCH, as_seen, noise_seed
from hb.eval.stats import Share
from hb.infer.pipeline import Model
from hb.world import benchmark as bench
from hb.world.cases import score_case, what_is_free
from hb.world.judge.edits import drift, picked, score_edit, touched
from hb.world.judge.reading import Reading, read
from hb.world.language import others_instead, parse_edit
from hb.world.render import render

CHAINS = 10  # of 40, each of five edits: as long as a batch of pictures, and as much to lose
STORED = ("right", "SC", "PQ", "O", "drift")  # of each edit, in a result


# ---- one edit -------------------------------------------------------------------------------------------------------


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

    choices   the cases pick one of several alike things: `picked` counts which one was edited, and `outcomes` tells it
              of each edit
    """
    cases = bench.edit_set() if cases is None else cases
    side = model.bagel.config.picture_side
    asked = [f"{c.edit.instruction}: {c.source} {c.edit.target}" for c in cases]
    key = key_of(model, "edit", "edit", options=edit, cases=asked, seed=seed, **(dict(choices=True) if choices else {}))

    def work(numbers: list[int]) -> list[dict]:
        chosen = [cases[i] for i in numbers]
        before, seeds = as_seen(render([c.source for c in chosen], side)), [noise_seed(seed, i) for i in numbers]
        done = model.edit(before, [c.edit.instruction for c in chosen], seed=seeds, **edit)
        after = as_seen(done)
        cost = dict(nfe=done.nfe, steps=done.steps, seconds=sum(done.seconds.values()) / len(numbers))
        judged = zip(chosen, read(after), before, after)
        return [
            _score(c, reading, b, a) | (_choice(c, reading) if choices else {}) | cost for c, reading, b, a in judged
        ]

    rows = Progress(keep, key).run(len(cases), BATCH, work, "editing", bar)
    return _summary(rows) | (_choices(rows) if choices else {})


def _summary(rows: list[dict]) -> dict:
    of = {g: [r for r in rows if r["group"] == g] for g in sorted({r["group"] for r in rows})}
    mean = lambda rows, name: round(float(np.mean([r[name] for r in rows])), 4)
    groups = {g: {name: mean(of[g], name) for name in ("O", "SC", "PQ", "drift")} | {"n": len(of[g])} for g in of}
    return dict(
        O=stats.mean_interval([[r["O"] for r in of[g]] for g in of], (0, 10)),
        SC=mean(rows, "SC"),
        PQ=mean(rows, "PQ"),
        drift=stats.mean_interval([[r["drift"] for r in rows]], (0, 1), best=0),
        groups=groups,
        nfe=rows[0]["nfe"],
        steps=rows[0]["steps"],
        seconds_per_picture=mean(rows, "seconds"),
        edits={g: {name: [float(f"{r[name]:.4g}") for r in of[g]] for name in STORED} for g in of},
        rows=rows,
    )


def _score(case: bench.EditCase, reading: Reading, before: Tensor, after: Tensor) -> dict:
    edit = case.edit
    score = score_case(reading, case)
    sc = 10 * min(score.success, score.kept)
    pq = 10 * min(reading.shape_cleanliness, reading.background_cleanliness)
    moved = drift(before, after, touched(case.source, edit.target, reading, before.shape[-1])) or 0.0
    figures = dict(SC=sc, PQ=pq, O=float(np.sqrt(sc * pq)), drift=moved)
    return dict(group=edit.group, right=int(score.success == 1.0), **figures, reasons=score.reasons[:2])


def _choice(case: bench.EditCase, reading: Reading) -> dict:
    free, place = what_is_free(case.edit)
    instead = others_instead(parse_edit(case.edit.instruction), case.source)
    return dict(picked=picked(reading, case.source, case.edit.target, instead, free, place))


def _choices(rows: list[dict]) -> dict:
    """Which of several alike things was edited: overall, and the right one by group."""
    of = {g: [r for r in rows if r["group"] == g] for g in sorted({r["group"] for r in rows})}
    share = lambda rows, which: Share(sum(r["picked"] == which for r in rows), len(rows)).to_dict()
    words = lambda r: f"{r['picked']}, O {r['O']:.1f}" + (f": {'; '.join(r['reasons'])}" if r["reasons"] else "")
    return dict(
        picked={which: share(rows, which) for which in ("right", "other", "both", "none")},
        picked_right={g: share(of[g], "right") for g in of},
        outcomes={g: [words(r) for r in of[g]] for g in of},
    )


# ---- comparisons ----------------------------------------------------------------------------------------------------


def _figures(got: Mapping, name: str) -> dict[str, np.ndarray]:
    """One figure of every edit, by group: of what `edit_eval` gives, or of the `result` that a file of results
    holds."""
    if "edits" not in got:
        raise ValueError("this result is from before every edit's figures were stored; measure it again")
    return {group: np.array(figures[name], float) for group, figures in got["edits"].items()}


def _paired(ours: Mapping, theirs: Mapping, name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    a, b = _figures(ours, name), _figures(theirs, name)
    if {g: len(v) for g, v in a.items()} != {g: len(v) for g, v in b.items()}:
        raise ValueError("the two were not measured on the same edits, so they cannot be paired")
    return {group: (a[group], b[group]) for group in a}


def edit_ratios(ours: Mapping, theirs: Mapping) -> dict:
    """O and drift as shares of theirs, paired by edit, with intervals."""
    return {name: stats.ratio(*zip(*_paired(ours, theirs, name).values())) for name in ("O", "drift")}


def edit_flips(ours: Mapping, theirs: Mapping) -> dict:
    """Which edits are done by one alone: for each group and overall the 2 x 2 table with McNemar's p-value."""
    pairs = {g: (a[:, None], b[:, None]) for g, (a, b) in _paired(ours, theirs, "right").items()}
    every = [np.concatenate(side) for side in zip(*pairs.values())]
    return dict(overall=stats.flips(*every), groups={g: stats.flips(a, b) for g, (a, b) in pairs.items()})


# ---- five edits in a row --------------------------------------------------------------------------------------------


def chain_eval(model: Model, *, seed: int = 0, keep: Path | None = None, bar: bool = True, **edit) -> list[dict]:
    """Five edits in a row, each on the last one's picture: what is right and how far the rest has drifted, per
    turn."""
    chains = bench.edit_chains()
    asked = [f"{c.source}: {[f'{e.instruction}: {e.target}' for e in c.edits]}" for c in chains]
    key = key_of(model, "chains", "edit", options=edit, cases=asked, seed=seed)

    def work(numbers: list[int]) -> list[dict]:
        seeds = lambda turn: [noise_seed(seed + turn, i) for i in numbers]
        return _edited_in_turn(model, [chains[i] for i in numbers], seeds, edit)

    rows = Progress(keep, key).run(len(chains), CHAINS, work, "chains", bar)
    return [_turn(rows, turn) for turn in range(len(chains[0].edits))]


def _turn(rows: list[dict], turn: int) -> dict:
    right = [r["right"][turn] for r in rows]
    drift = [r["drift"][turn] for r in rows if r["drift"][turn] is not None]
    return dict(
        turn=turn + 1,
        success=Share(sum(right), len(right)).to_dict(),
        drift=stats.mean_interval([drift], (0, 1), best=0),
        right="".join(map(str, right)),
        drifts=[float(f"{d:.4g}") for d in drift],
    )


def _edited_in_turn(
    model: Model, chains: list[bench.ChainCase], seeds: Callable[[int], list[int]], edit: dict
) -> list[dict]:
    """For each chain and turn: was the edit right, and the drift outside what was to change so far; None if that is
    all."""
    side = model.bagel.config.picture_side
    first = current = as_seen(render([c.source for c in chains], side))
    out = [dict(right=[], drift=[]) for _ in chains]
    regions = torch.zeros(len(chains), side, side, dtype=torch.bool)
    for turn in range(len(chains[0].edits)):
        current = as_seen(model.edit(current, [c.edits[turn].instruction for c in chains], seed=seeds(turn), **edit))
        for i, (chain, reading) in enumerate(zip(chains, read(current))):
            source, target = chain.source if turn == 0 else chain.edits[turn - 1].target, chain.edits[turn].target
            regions[i] |= touched(source, target, reading, side)
            success = score_edit(reading, source, target, *what_is_free(chain.edits[turn])).success
            out[i]["right"].append(int(success == 1.0))
            out[i]["drift"].append(drift(first[i], current[i], regions[i]))
    return out
