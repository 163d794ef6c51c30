"""The chain of students, a row longer in each of 07, 08 and 09: the same noise for each, and what was measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

from hb import plots
from hb.course.widgets import as_seen
from hb.eval.cache import identity
from hb.eval.protocol import RESULTS
from hb.infer.pipeline import Model, Pictures
from hb.world.judge.judge import check
from hb.world.judge.reading import read
from hb.world.language import parse


@dataclass(frozen=True)
class Link:
    """One row of the chain's strip: who draws it, in how many steps, and the file `hb eval scene` keeps about just
    that."""

    name: str
    steps: int
    file: str
    student: str | None = None
    guided: bool = True

    def draw(self, model: Model, steps: int | None = None) -> Pictures:
        """The strip's prompts, always from the same noise."""
        off = {} if self.guided else dict(text_scale=1.0)
        who = self.student or "teacher"
        return model.draw(CHAIN_PROMPTS, steps=steps or self.steps, seed=CHAIN_SEED, student=who, warn=False, **off)


CHAIN = (  # in the order of the course: each stage begins with what the one before it made
    Link("teacher", 50, "scene_nfe100"),
    Link("teacher, unguided", 6, "scene_steps6_text1", guided=False),
    *(Link(name, 6, f"scene_{name}_nfe6", student=name) for name in ("cfg", "tscd", "dmdo")),
)


CHAIN_PROMPTS = (
    "a red circle",
    "two stars",
    "three moons",
    "a green ring",
    "a pink star left of a blue heart",
    "a cross above a yellow square",
)


CHAIN_SEED = 7


LADDER = "scene_steps_ablation"


def chain_until(stage: str) -> tuple[Link, ...]:
    """The chain as far as it is made when `stage` is."""
    stages = [link.student for link in CHAIN]
    if stage not in stages[2:]:
        raise ValueError(f"no stage called {stage!r} in the chain; choose from {', '.join(stages[2:])}")
    return CHAIN[: stages.index(stage) + 1]


def chain_strip(model: Model, stage: str, *, steps: int = 50) -> plots.Chart:
    """The same noise for every link of the chain up to `stage`, framed by the judge's verdict. A stage that the model
    has no student of has no row. steps: the guided teacher's, for who cannot wait."""
    rows, right = {}, {}
    for link in chain_until(stage):
        if link.student in (None, *model.students):
            drawn = link.draw(model, steps if link is CHAIN[0] else None)
            name, seen = f"{link.name}, {drawn.nfe:g} NFE", as_seen(drawn)
            rows[name] = seen
            right[name] = [check(r, parse(p)).right for r, p in zip(read(seen), CHAIN_PROMPTS)]
    columns = [fill(prompt, 13) for prompt in CHAIN_PROMPTS]
    return plots.strip(
        rows, columns, right=right, size=0.9, title="One noise a column, drawn by every link of the chain"
    )


def chain_score(model: Model, stage: str, folder: Path = RESULTS) -> str:
    """SceneEval of every link up to `stage`."""
    return measured(model, chain_until(stage), folder)


def measured(model: Model, links: Sequence[Link], folder: Path = RESULTS) -> str:
    """SceneEval of these links, read from what `hb eval scene` wrote: a line a number, and its command.

    Numbers of another model or another student are not shown; a sentence in their place says so.
    """
    lines, sentences = [], []
    for link in links:
        if link.student not in (None, *model.students):
            sentences.append(f"This model has no student {link.student!r} yet: hb distill six-nfe.")
            continue
        for path in (Path(folder) / f"{file}.json" for file in (LADDER, link.file)):
            if path.exists():
                record = json.loads(path.read_text())
                score = _score_of(record, link)
                if why := _wrong_about(record, score, model, link):
                    sentences.append(f"{path.name} {why}; measure again: {record['command']}.")
                else:
                    lines.append(_score_line(record, score, link))
            elif path.stem == LADDER:
                sentences.append(f"{path.name} is not there: hb eval scene --steps-ablation.")
    table = (
        [_SCORE_LINE.format("SceneEval", "right", "95% interval", "pictures", "measured by"), *lines] if lines else []
    )
    return "\n".join(table + list(dict.fromkeys(sentences)))


def by_task(model: Model, links: Sequence[Link], folder: Path = RESULTS) -> str:
    """The share right in each task of SceneEval, a line for each link, from the step-count ablation."""
    path = Path(folder) / f"{LADDER}.json"
    if not path.exists():
        return f"{path.name} is not there."
    record = json.loads(path.read_text())
    scores = {link: _score_of(record, link) for link in links}
    scores = {link: score for link, score in scores.items() if not _wrong_about(record, score, model, link)}
    if not scores:
        return f"{path.name} is about another model or other students; measure again: {record['command']}."
    tasks = list(next(iter(scores.values()))["tasks"])
    lines = [" " * 25 + "".join(f"{task:>13}" for task in tasks)]
    for link, score in scores.items():
        shares = "".join(f"{score['tasks'][task]['value']:13.2f}" for task in tasks)
        lines.append(f"{link.name + f', {link.steps} steps':25}{shares}")
    return "\n".join(lines)


_SCORE_LINE = "{:25} {:>5}  {:14}  {:>8}  {}"


def _score_line(record: dict, score: dict, link: Link) -> str:
    share, pictures = score["overall"], sum(task["n"] for task in score["tasks"].values())
    interval = f"{share['low']:.3f} to {share['high']:.3f}"
    return _SCORE_LINE.format(
        f"{link.name}, {score['nfe']:g} NFE", f"{share['value']:.3f}", interval, pictures, record["command"]
    )


def _score_of(record: dict, link: Link) -> dict | None:
    """What a record says about this link: a row of the ablation, or all of a file that is about nothing else."""
    if record["name"] != LADDER:
        return record["result"]
    mine = (link.student, link.guided, link.steps)
    return next((r for r in record["result"]["rows"] if (r["student"], r["guided"], r["steps"]) == mine), None)


def _wrong_about(record: dict, score: dict | None, model: Model, link: Link) -> str | None:
    """Why these numbers are not this link's; None: they are."""
    if record["model"]["identity"] != identity(model):
        return f"is about another model ({record['model']['identity']}, and this one is {identity(model)})"
    if score is None:
        return f"has no row for {link.name!r}"
    who = record.get("student") or score  # of a file, or of a rung
    if link.student and who.get("identity") != model.students[link.student].fingerprint():
        return f"is about another student {link.student!r}"
    return None
