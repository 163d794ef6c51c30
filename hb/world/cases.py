"""A reading held against the case that asked for it: what an instruction leaves open, and how well it was done."""

from __future__ import annotations

from hb.world.benchmark import EditCase
from hb.world.judge.edits import EditScore, score_edit
from hb.world.judge.reading import Reading
from hb.world.language import Edit, parse_edit


def what_is_free(edit: Edit) -> tuple[frozenset[str], str | None]:
    """The sides of an edited thing that its instruction leaves open, as the judge names them, and a place it asks
    for."""
    free = frozenset(("place" if a in ("x", "y") else a) for a in edit.free if a not in ("turn", "shade"))
    change = parse_edit(edit.instruction).change
    return free, change.place if change is not None else None


def score_case(reading: Reading, case: EditCase) -> EditScore:
    """`score_edit` of a case: everything that its instruction leaves open may be anything."""
    free, place = what_is_free(case.edit)
    return score_edit(reading, case.source, case.edit.target, free, place)
