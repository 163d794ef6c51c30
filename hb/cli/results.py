"""What every measurement shares: numbers with intervals and targets, the file they are kept in, the printed table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby, islice
from pathlib import Path

import torch

from hb.cli.output import Table, show, table, to_json, write_json
from hb.cli.use import is_shipped
from hb.eval.cache import digest, identity, result_key, result_name
from hb.eval.protocol import RESULTS
from hb.infer.artifacts import understanding_fingerprint
from hb.infer.pipeline import Model
from hb.machine import commit, machine

ROWS = Path("runs/eval")  # each picture's verdict, so that a stopped measurement goes on
ELSEWHERE = Path("out/results")
USUAL_COST = dict(scene=100, complex=100, edit=132, coverage=100)  # the teacher's
PICTURES, PICTURES_AGAINST = 4, 16  # of each SceneEval prompt; a difference of 0.01 drowns in the generator of four
SHORTENED = (
    "limit",
    "pictures",
    "n",
    "draws",
    "rounds",
    "every",
)  # options that make a measurement another one than the published


@dataclass(frozen=True)
class Number:
    """One measured number. target: the least it should be (the plan's), at_most: the most; low and high: 95%
    interval."""

    what: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    target: float | None = None
    unit: str = ""
    headline: bool = False
    at_most: float | None = None
    note: str = ""  # about the interval, as "420, no failures"

    @property
    def met(self) -> bool | None:
        if self.at_most is not None:
            return self.value <= self.at_most
        return None if self.target is None else self.value >= self.target

    @property
    def interval(self) -> str:
        if self.low is None:
            return self.note
        return f"{self.low:.3f} to {self.high:.3f}" + (f" ({self.note})" if self.note else "")

    @property
    def verdict(self) -> str:
        if self.met is None:
            return ""
        return f"{self.wanted}: {'met' if self.met else 'not met'}"

    @property
    def wanted(self) -> str:
        return f"at least {self.target:g}" if self.at_most is None else f"at most {self.at_most:g}"

    @property
    def shown(self) -> str:
        """The value in words; what is tiny is not rounded to nothing."""
        value = f"{self.value:.1e}" if 0 < abs(self.value) < 5e-4 else f"{self.value:.3f}"
        return f"{value} {self.unit}".rstrip()

    def to_dict(self) -> dict:
        return asdict(self) | dict(met=self.met)


def of_interval(what: str, interval: dict, **more) -> Number:
    """From an estimate of `hb.eval.stats`: a dict with value, low, high, n, and a note where the interval is a
    bound."""
    note = interval.get("note", "")
    return Number(what, interval["value"], interval["low"], interval["high"], interval.get("n"), note=note, **more)


def of_low_end(what: str, interval: dict, target: float, **more) -> Number:
    """The lower end of an interval, which is what must reach the target: a noisy measurement then makes it harder."""
    number = of_interval(f"{what}: lower end of the interval", interval, target=target, headline=True, **more)
    return replace(number, value=interval["low"])


def cost(args, name: str) -> tuple[dict, str]:
    """What goes to draw or edit, and the name of the result: scene_nfe100, scene_steps6_text1 ..."""
    student = getattr(args, "student", None)
    nfe = args.nfe or (None if student else USUAL_COST[name])
    spent = dict(steps=args.steps) if args.steps else dict(nfe=nfe)
    name += f"_{student}" if student else ""
    name += f"_steps{args.steps}" if args.steps else f"_nfe{nfe}" if nfe else ""
    if student:
        spent["student"] = student
    for option, word in (("text_scale", "text"), ("image_scale", "image")):
        if getattr(args, option, None) is not None:
            spent[option] = getattr(args, option)
            name += f"_{word}{spent[option]:g}"
    return spent, name


def in_full(args) -> bool:
    """Is it the measurement that targets are for, no option having made it another one?"""
    return not any(getattr(args, option, None) for option in SHORTENED)


def first_of_each(cases: Sequence, limit: int | None, kind) -> list:
    """The first `limit` cases of each kind; the sets hold one kind after another."""
    if limit is None:
        return list(cases)
    return [case for _, group in groupby(cases, kind) for case in islice(group, limit)]


def without_rows(got: dict) -> dict:
    return {name: value for name, value in got.items() if name not in ("rows", "told")}


def full_name(args, model: Model | None, name: str, key: dict) -> str:
    """The name of a result says whatever was not as usual. Results that are not published carry the digest of their
    key too: two runs that differ in weights, versions or anything else never write the same file."""
    name = result_name(name, vars(args))
    if model is not None and args.model != "nano":
        name = f"{model.name}_{name}"
    return name if is_published(args, model) else f"{name}-{digest(key)[:8]}"


def is_published(args, model: Model | None) -> bool:
    """Is it a full measurement of a model that ships? The next one of later weights takes its place."""
    return (model is None or is_shipped(args.model)) and in_full(args)


def finish(
    args,
    name: str,
    model: Model | None,
    lines: list[Number],
    got: dict,
    began: float,
    *,
    between: str = "95% interval",
    notes: Sequence[str | Table] = (),
) -> Path:
    """Keep the numbers, print them; returns the file they went to."""
    folder = Path(args.results) if args.results else RESULTS if is_published(args, model) else ELSEWHERE
    key = result_key(model, name, vars(args))
    record = dict(
        name=name,
        key=digest(key),
        command=args.command,
        commit=commit(),
        machine=machine(),
        torch=torch.__version__,
        date=time.strftime("%Y-%m-%d"),
        seed=getattr(args, "seed", None),
        seconds=round(time.monotonic() - began, 1),
        model=None
        if model is None
        else dict(
            name=model.name,
            identity=identity(model),
            reads=understanding_fingerprint(model.bagel),
            device=args.device,
            dtype=args.dtype,
            parameters=sum(p.numel() for p in model.bagel.parameters()),
        ),
        student=_student_of(args, model),
        numbers=[line.to_dict() for line in lines],
        result=got,
    )
    file = write_json(folder / f"{full_name(args, model, name, key)}.json", record)
    if args.json:
        print(to_json(record))
        return file
    show(as_table(lines, between))
    for note in notes:
        print()
        show(note)
    missed = [line for line in lines if line.met is False]
    for line in missed:
        print(f"NOT MET: {line.what} is {line.shown}, the target is {line.wanted}.")
    print(f"Written to {file}, with the command, commit and machine.")
    return file


def _student_of(args, model: Model | None) -> dict | None:
    """Who drew, if it was a student."""
    name = model and model.student_for(getattr(args, "student", None), getattr(args, "nfe", None))
    if name is None:
        return None
    student = model.student(name)
    return dict(name=name, identity=student.fingerprint(), sampler=student.sampler, reads_vision=student.reads_vision)


def as_table(lines: Sequence[Number], between: str = "95% interval") -> Table:
    cells = [[f.what, f.shown, f.interval, "" if f.n is None else f.n, f.verdict] for f in lines]
    return table(["", "value", between, "n", "target"], cells)


def flip_table(flipped: dict, ours: str, theirs: str) -> Table:
    """Which verdicts changed, a row for each task."""
    head = ["right for", "both", f"{ours} only", f"{theirs} only", "neither", "McNemar's p"]
    cells = ("both", "only_ours", "only_theirs", "neither", "p_value")
    return table(head, [[task, *(row[cell] for cell in cells)] for task, row in flipped.items()])


def by(args) -> str:
    return f"{args.student}, " if getattr(args, "student", None) else ""


def against_of(args) -> dict | None:
    """What to draw the other side with: the teacher as it is deployed, or a student at its own cost."""
    return None if getattr(args, "against", None) is None else dict(student=args.against)
