"""A relay of two students: one takes the first step from noise, the other goes on (as T-Stitch does with a small and a
large model: arXiv 2402.14167).

A student of one evaluation is trained to decide at once what the picture will be; a student of several steps is trained
to finish what is begun. Together they serve every number of evaluations between theirs, with no training of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from hb.infer.artifacts import Student
from hb.models.bagel import Bagel
from hb.models.conditioning import StudentModel

AND = "+"  # between the names of two students


@dataclass(frozen=True)
class Relay(Student):
    """`first` takes the step from t = 1, `rest` the last steps of its own grid, or all but the first: so `steps`, the
    most it serves, is `rest`'s."""

    first: Student | None = None
    rest: Student | None = None

    @classmethod
    def of(cls, name: str, first: Student, rest: Student) -> Relay:
        """name: theirs. Raises ValueError for two students that do not fit."""
        if wrong := misfit(first, rest):
            raise ValueError(f"{name}: {wrong}")
        return cls(name, rest.steps, rest.shift, rest.teacher, reads_vision=rest.reads_vision, first=first, rest=rest)

    def grid(self, steps: int, make: Callable[[int, float], Tensor]) -> Tensor:
        """1 and the last boundaries of the second student's grid. Raises ValueError if there are not as many."""
        if not 2 <= steps <= self.steps:
            raise ValueError(
                f"{self.stage} takes one step by the first student and 1 to {self.steps - 1} by the second: 2 to "
                f"{self.steps} evaluations, not {steps}"
            )
        whole = make(self.steps, self.shift)
        return torch.cat([whole[:1], whole[self.steps - steps + 1 :]])

    def fingerprint(self) -> str:
        return f"{self.first.fingerprint()}{AND}{self.rest.fingerprint()}"

    def open(self, teacher: Bagel) -> RelayModel:
        return RelayModel(self.first.open(teacher), self.rest.open(teacher))


class RelayModel(nn.Module):
    """Velocities of the first student at t = 1, of the second below."""

    def __init__(self, first: StudentModel, rest: StudentModel):
        super().__init__()
        self.first, self.rest = first, rest

    @property
    def device(self) -> torch.device:
        return self.rest.device

    def velocity(self, x: Tensor, t: Tensor, *context, **scales) -> Tensor:
        """t [B]: one time for all."""
        return (self.first if bool((t == 1).all()) else self.rest).velocity(x, t, *context, **scales)


def misfit(first: Student, rest: Student) -> str:
    """Why they make no relay; empty where they do."""
    if rest.steps < 2 or rest.sampler != "euler":
        return "the second student has to take several steps, and of Euler's method"
    if first.reads_vision != rest.reads_vision:
        return "one of them reads pictures through the vision encoder, the other does not"
    return ""


def relays(students: Mapping[str, Student]) -> list[str]:
    """The relays of the students that serve by default: each of one step with each of several that it fits."""
    serving = [(name, s) for name, s in students.items() if s.default]
    pairs = product(serving, serving)
    return [f"{a}{AND}{b}" for (a, one), (b, many) in pairs if one.steps == 1 and not misfit(one, many)]


def student_of(name: str, students: Mapping[str, Student]) -> Student:
    """The student of this name, or the relay of two names with a "+" between. Raises ValueError if there is none."""
    if name in students:
        return students[name]
    first, joined, rest = name.partition(AND)
    for part in (first, rest) if joined else (name,):
        if part not in students:
            known = ", ".join(students) or "none (make them: hb distill six-nfe)"
            raise ValueError(f"no student called {part!r} here; there are {known}; and 'teacher', which is none")
    return Relay.of(name, students[first], students[rest])
