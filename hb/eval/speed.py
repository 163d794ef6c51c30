"""Pictures and tokens a second, everything included; a student beside its teacher in interleaved pairs (method.md
section 7.4).

Seconds are read from the clock of `torch.utils.benchmark`, which waits for the accelerator's queue first, and
summarized by its `Measurement`. Absolute figures hold for the kind of machine that stands beside them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch.utils.benchmark import Measurement, TaskSpec
from torch.utils.benchmark.utils.timer import timer as clock

from hb.infer.pipeline import Model
from hb.machine import machine
from hb.world import benchmark as bench
from hb.world.language import DESCRIBE_REQUEST
from hb.world.render import render

PROMPT, INSTRUCTION = "a red circle left of a blue star", "change the background to black"


def timed(job: Callable) -> tuple[float, object]:
    """Seconds of one call, and what it returned."""
    began = clock()
    made = job()
    return clock() - began, made


def interleaved(jobs: Mapping[str, Callable], repeats: int) -> dict[str, list[tuple[float, object]]]:
    """Every job `repeats` times after one warm-up, the jobs in turn and every second round backwards: a machine
    that slows down slows all of them."""
    out = {name: [] for name in jobs}
    for job in jobs.values():
        job()
    for number in range(repeats):
        for name in list(jobs)[:: 1 if number % 2 == 0 else -1]:
            out[name].append(timed(jobs[name]))
    return out


def median(values: Sequence[float]) -> float:
    return Measurement(1, list(values), TaskSpec("job()", setup="")).median


def speed(model: Model, *, batches: Sequence[int] = (1, 16), repeats: int = 5) -> list[dict]:
    """Pictures and tokens per second, and seconds by part; median and range over repeats."""
    scenes = render(bench.description_set()[: max(batches)], model.bagel.config.picture_side)
    rows = []
    for batch in batches:
        jobs = {
            "draw": lambda b=batch: model.draw([PROMPT] * b, warn=False),
            "edit": lambda b=batch: model.edit(scenes[:b], INSTRUCTION),
            "ask": lambda b=batch: model.ask(scenes[:b], DESCRIBE_REQUEST),
        }
        for task, runs in interleaved(jobs, repeats).items():
            rows.append(dict(task=task, batch=batch) | _rates(model, task, batch, runs) | dict(machine=machine()))
    return rows


def _rates(model: Model, task: str, pictures: int, runs: list[tuple[float, object]]) -> dict:
    """Tokens, or these many pictures of a run, over its seconds."""
    tokens = lambda record: sum(len(model.text.encode(t)) + 1 for t in record.texts)
    rate = [(tokens(record) if task == "ask" else pictures) / seconds for seconds, record in runs]
    return dict(
        unit="tokens/s" if task == "ask" else "pictures/s",
        rate=round(median(rate), 3),
        low=round(min(rate), 3),
        high=round(max(rate), 3),
        nfe=getattr(runs[-1][1], "nfe", None),
        seconds=_by_part([record for _, record in runs]),
    )


def student_speed(model: Model, student: str, *, batch: int = 16, repeats: int = 5) -> list[dict]:
    """A student against its teacher, side by side in each repeat: the ledger of its speed-up.

    rows: task, both metered costs and their ratio, the ratio of seconds (median and range over repeats), seconds by
    part
    """
    scenes = render(bench.description_set()[:batch], model.bagel.config.picture_side)
    jobs = {
        "draw": lambda who: model.draw([PROMPT] * batch, student=who, warn=False),
        "edit": lambda who: model.edit(scenes, INSTRUCTION, student=who),
    }
    both = ("teacher", student)
    return [
        dict(task=task, student=student, batch=batch)
        | _ratios(interleaved({who: lambda job=job, who=who: job(who) for who in both}, repeats), student)
        | dict(machine=machine())
        for task, job in jobs.items()
    ]


def one_at_a_time(model: Model, student: str, *, repeats: int = 5, calls: int = 20) -> dict:
    """Pictures a second of a student that draws one picture a call, everything included: median and range over
    `repeats` of the mean of `calls`."""

    def draw():
        for number in range(calls):
            drawn = model.draw(PROMPT, seed=number, student=student, warn=False)
        return drawn

    runs = interleaved({student: draw}, repeats)[student]
    return dict(task="draw", student=student, batch=1) | _rates(model, "draw", calls, runs) | dict(machine=machine())


def _ratios(runs: dict[str, list[tuple[float, object]]], student: str) -> dict:
    nfe = {who: runs[who][-1][1].nfe for who in runs}
    ratios = [theirs / ours for (theirs, _), (ours, _) in zip(runs["teacher"], runs[student])]
    return dict(
        nfe=nfe[student],
        nfe_teacher=nfe["teacher"],
        nfe_ratio=round(nfe["teacher"] / nfe[student], 4),
        ratio=round(median(ratios), 3),
        low=round(min(ratios), 3),
        high=round(max(ratios), 3),
        seconds={who: _by_part([record for _, record in runs[who]]) for who in runs},
    )


def _by_part(records: Sequence) -> dict[str, float]:
    parts = defaultdict(list)
    for record in records:
        for part, spent in record.seconds.items():
            parts[part].append(spent)
    return {part: round(float(np.median(spent)), 5) for part, spent in parts.items()}
