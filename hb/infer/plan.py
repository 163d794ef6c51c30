"""How a picture is sampled: from the words of a call (nfe, steps, student, scales) to one frozen `SamplingPlan`."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import chain
from pathlib import Path

from torch import Tensor

from hb.files import write
from hb.flow import released_grid, time_grid
from hb.guidance import DRAWING, EDITING, Guidance
from hb.infer.artifacts import Student
from hb.infer.processor import real, whole
from hb.infer.relay import Relay, relays, student_of
from hb.models.checkpoint import CheckpointError
from hb.models.latents import IMAGE_SCALES, TEXT_SCALES

SAMPLING = "sampling.json"


@dataclass(frozen=True)
class Sampling:
    """How a model is sampled unless the caller says otherwise: BAGEL's published settings, or a preset's own."""

    draw: Guidance = DRAWING
    edit: Guidance = EDITING
    steps: int = 50
    shift: float = 3.0

    def save(self, folder: str | Path) -> None:
        """Write `sampling.json`."""
        write(Path(folder) / SAMPLING, (json.dumps(asdict(self), indent=1) + "\n").encode())

    @staticmethod
    def load(folder: str | Path) -> Sampling:
        """Read `sampling.json`; what it does not say has BAGEL's value. Raises CheckpointError with what is wrong."""
        path = Path(folder) / SAMPLING
        if not path.exists():
            return Sampling()
        try:
            return _sampling(json.loads(path.read_text()))
        except (ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path} is damaged ({error}); correct it or copy it again") from None


def _sampling(values: dict) -> Sampling:
    """From what the file holds. Raises ValueError or TypeError."""
    usual, changes = Sampling(), {}
    for task in ("draw", "edit"):
        given = dict(values.pop(task, {}))
        if "interval" in given:
            low, high = given["interval"]
            given["interval"] = (real(low, "interval"), real(high, "interval"))
        for scale in {"text_scale", "image_scale"} & given.keys():
            given[scale] = real(given[scale], scale)
        changes[task] = replace(getattr(usual, task), **given)
    if "steps" in values:
        changes["steps"] = whole(values.pop("steps"), "steps", 1)
    if "shift" in values:
        changes["shift"] = real(values.pop("shift"), "shift")
    if values:
        raise ValueError(
            f"it holds {', '.join(map(repr, values))}; there are {', '.join(f.name for f in fields(usual))}"
        )
    return replace(usual, **changes)


@dataclass(frozen=True, eq=False)
class SamplingPlan:
    """Everything that decides a picture but its request and its noise.

    grid          boundaries from 1 to 0, one more than steps
    guidance      of the teacher; of a student the scales that go into it
    student       its name; None: the teacher
    sampler       "euler" or "multistep", see `Student`
    reads_vision  is a picture to be edited read through the vision encoder too?
    """

    grid: Tensor = field(repr=False)
    guidance: Guidance
    student: str | None = None
    sampler: str = "euler"
    reads_vision: bool = True

    @property
    def steps(self) -> int:
        return len(self.grid) - 1

    @property
    def nfe(self) -> int:
        """Function evaluations that a picture costs."""
        return self.steps if self.student is not None else self.guidance.evaluations(self.grid)

    def to_dict(self) -> dict:
        """Ready for JSON."""
        return asdict(replace(self, grid=None)) | dict(grid=self.grid.tolist())


def make_plan(
    verb: str,
    sampling: Sampling,
    students: Mapping[str, Student],
    *,
    nfe: int | None = None,
    steps: int | None = None,
    text_scale: float | None = None,
    image_scale: float | None = None,
    released_steps: bool = False,
    student: str | None = None,
) -> SamplingPlan:
    """The plan that these options of `draw` or `edit` (verb) mean. Options that mean the same give equal plans.

    Raises ValueError for a student, or a cost, that is not to be had.
    """
    nfe = None if nfe is None else whole(nfe, "nfe", 1)
    steps = None if steps is None else whole(steps, "steps", 1)
    if steps is not None and nfe is not None:
        raise ValueError("say nfe or steps, not both: one follows from the other")
    given = dict(text_scale=text_scale, image_scale=image_scale)
    changes = {name: real(scale, name) for name, scale in given.items() if scale is not None}
    guidance = replace(getattr(sampling, verb), **changes)
    name = student_for(student, students, nfe)
    make = released_grid if released_steps else time_grid
    if name is None:
        if nfe is not None:
            return SamplingPlan(_grid_costing(nfe, guidance, sampling.shift, make, verb, students), guidance)
        return SamplingPlan(make(sampling.steps if steps is None else steps, sampling.shift), guidance)
    chosen = student_of(name, students)
    if nfe not in (None, chosen.steps) and not chosen.any_steps and not isinstance(chosen, Relay):
        raise ValueError(
            f"the student {name!r} was made for {chosen.steps} evaluations, not {nfe}; to use it on another grid all "
            f"the same, say steps={nfe}"
        )
    grid = chosen.grid(steps or nfe or chosen.steps, make)
    return SamplingPlan(grid, _held(guidance, name, verb), name, chosen.sampler, chosen.reads_vision)


def student_for(name: str | None, students: Mapping[str, Student], nfe: int | None = None) -> str | None:
    """The student that is meant: the one that was named, or the one that serves this nfe by default, or a relay of two
    that do (`hb.infer.relay`); None: the teacher."""
    if name == "teacher":
        return None
    if name is None:
        exact = (n for n, s in students.items() if s.default and s.steps == nfe)
        joint = (n for n in relays(students) if nfe is not None and 1 < nfe < student_of(n, students).steps)
        return next(chain(exact, joint), None)
    student_of(name, students)  # raises if there is none
    return name


def _held(guidance: Guidance, student: str, verb: str) -> Guidance:
    """Scales within what students were trained on: at most the largest, with a warning. Up to 1 guidance is off, as
    it is for the teacher."""
    ranges = dict(text_scale=TEXT_SCALES) | (dict(image_scale=IMAGE_SCALES) if verb == "edit" else {})
    changes = {}
    for name, (low, high) in ranges.items():
        scale = getattr(guidance, name)
        changes[name] = min(max(scale, low), high)
        if scale > high:
            warnings.warn(
                f"the student {student!r} was trained with {name} {low:g} to {high:g}: {scale:g} is held at {high:g}",
                stacklevel=5,
            )
    return replace(guidance, **changes)


def _grid_costing(
    nfe: int, guidance: Guidance, shift: float, make, verb: str, students: Mapping[str, Student]
) -> Tensor:
    """The teacher's grid that costs so many evaluations."""
    costs: dict[int, Tensor] = {}
    for n in range(2 if make is released_grid else 1, max(nfe, 4) + 2):
        grid = make(n, shift)
        costs.setdefault(guidance.evaluations(grid), grid)
    if nfe in costs:
        return costs[nfe]
    near = sorted(sorted(costs, key=lambda c: abs(c - nfe))[:2])
    raise ValueError(
        f"no number of steps makes {verb} cost {nfe} evaluations at this guidance; the nearest are "
        f"{' and '.join(map(str, near))}. " + _served(students)
    )


def _served(students: Mapping[str, Student]) -> str:
    """What students there are, in a sentence."""
    if not students:
        return "A distilled student costs one evaluation a step; this model has none yet: hb distill six-nfe."
    listed = ", ".join(f"{n} ({s.steps})" for n, s in students.items())
    return f"Or name a student, each with the evaluations it was made for: {listed}."
