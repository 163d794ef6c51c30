"""Measured numbers: printed with intervals and targets, kept in a file with where they came from."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from hb.cli.output import Table, show, table, to_json, write_json
from hb.cli.use import is_shipped
from hb.eval import pictures as evaluate
from hb.infer.artifacts import understanding_fingerprint
from hb.infer.pipeline import Model
from hb.machine import commit, machine

ROWS = Path("runs/eval")  # each picture's verdict, so that a stopped measurement goes on
ELSEWHERE = Path("out/results")
# options that make a measurement another one than the published
SHORTENED = ("limit", "pictures", "n", "draws", "rounds")
# Options that the name of a result does not repeat: they are in it already, change no figure that is there without
# them, or, as threads, are in the record with the machine.
NOT_IN_NAME = frozenset(
    "nfe student against text_scale image_scale chains steps_ablation batch grid eagle3 "
    "model json results folder threads".split()
)


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

    @property
    def met(self) -> bool | None:
        if self.at_most is not None:
            return self.value <= self.at_most
        return None if self.target is None else self.value >= self.target

    @property
    def interval(self) -> str:
        return "" if self.low is None else f"{self.low:.3f} to {self.high:.3f}"

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
    """From what `hb.eval.pictures` gives: a dict with value, low, high, n."""
    return Number(what, interval["value"], interval["low"], interval["high"], interval.get("n"), **more)


def in_full(args) -> bool:
    """Is it the measurement that targets are for, no option having made it another one?"""
    return not any(getattr(args, option, None) for option in SHORTENED)


def full_name(args, model: Model | None, name: str) -> str:
    """The name of a result says whatever was not as usual, so that no measurement overwrites another one's."""
    unusual = {option: value for option, value in args.changed.items() if option not in NOT_IN_NAME}
    if "_steps" in name:  # a cost, which `_cost` has put there
        unusual.pop("steps", None)
    first = [option for option in (*SHORTENED, "seed") if option in unusual]
    for option in (*first, *sorted(unusual.keys() - set(first))):
        name += f"_{option}{_in_a_name(unusual[option])}"
    return name if model is None or args.model == "nano" else f"{model.name}_{name}"


def _in_a_name(value) -> str:
    """A value as part of a file name: nothing for a flag, 1-16 for several numbers, the last word of a path."""
    if value is True:
        return ""
    parts = value if isinstance(value, list) else [value]
    return "-".join(re.sub(r"[^\w.]+", "-", f"{p:g}" if isinstance(p, float) else Path(str(p)).name) for p in parts)


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
    """Keep the numbers, print them; returns the folder they went to."""
    shipped = model is None or is_shipped(args.model)
    folder = Path(args.results) if args.results else evaluate.RESULTS if shipped and in_full(args) else ELSEWHERE
    record = dict(
        name=name,
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
            identity=evaluate.identity(model),
            reads=understanding_fingerprint(model.bagel),
            device=args.device,
            dtype=args.dtype,
            parameters=sum(p.numel() for p in model.bagel.parameters()),
        ),
        student=_student_of(args, model),
        numbers=[line.to_dict() for line in lines],
        result=got,
    )
    file = write_json(folder / f"{full_name(args, model, name)}.json", record)
    if args.json:
        print(to_json(record))
        return folder
    show(as_table(lines, between))
    for note in notes:
        print()
        show(note)
    for line in (line for line in lines if line.met is False):
        print(f"NOT MET: {line.what} is {line.shown}, the target is {line.wanted}.")
    print(f"Written to {file}, with the command, commit and machine.")
    return folder


def _student_of(args, model: Model | None) -> dict | None:
    """Who drew, if it was a student."""
    name = model and model.student_for(getattr(args, "student", None), getattr(args, "nfe", None))
    if name is None:
        return None
    student = model.students[name]
    return dict(name=name, identity=student.fingerprint(), sampler=student.sampler, eyes=student.eyes)


def as_table(lines: Sequence[Number], between: str = "95% interval") -> Table:
    cells = [[f.what, f.shown, f.interval, "" if f.n is None else f.n, f.verdict] for f in lines]
    return table(["", "value", between, "n", "target"], cells)
