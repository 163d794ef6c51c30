"""`hb eval complex` and `hb eval contradictory`: prompts that say much, and prompts that cannot be true."""

from __future__ import annotations

import time
from collections.abc import Mapping

from hb import plots
from hb.cli.output import Table, table, write_figure
from hb.cli.results import (
    PICTURES,
    ROWS,
    Number,
    against_of,
    by,
    cost,
    finish,
    first_of_each,
    flip_table,
    of_interval,
    of_low_end,
)
from hb.cli.use import open_model
from hb.eval.complex import complex_difference, complex_eval, complex_summary, contradictory_eval
from hb.world import benchmark as bench

TITLE = "Right pictures where much is asked, and what is wrong in the others"


def complex_prompts(args) -> None:
    model, began = open_model(args), time.monotonic()
    spent, name = cost(args, "complex")
    cases = first_of_each(bench.complex_set(), args.limit, lambda case: case.task)
    measured = lambda how: complex_eval(
        model, pictures=args.pictures or PICTURES, seed=args.seed, cases=cases, keep=ROWS, bar=not args.json, **how
    )
    score, against = measured(spent), against_of(args)
    got, notes = complex_summary(score), []
    who = f"{by(args)}{got['nfe']:g} NFE"
    lines, seen = summary_lines(got, who), {who: got}
    if against is not None:
        theirs = measured(against)
        got |= dict(against=complex_summary(theirs), difference=complex_difference(score, theirs))
        seen[f"{args.against}, {theirs.nfe:g} NFE"] = got["against"]
        lines += difference_lines(got, who, args.against)
        flipped = got["difference"]["flips"]
        rows = flipped["cells"] | {"all": flipped["overall"]}
        notes.append(flip_table(rows, args.student or "ours", args.against))
    file = finish(args, name, model, lines, got, began, notes=[*kind_notes(got), *notes])
    write_figure(file.with_suffix(".png"), plots.complexity(seen, title=TITLE), dpi=120)


def summary_lines(got: Mapping, who: str) -> list[Number]:
    """The numbers of what `complex_summary` gives."""
    lines = [of_interval(cell_in_words(cell), values["right"]) for cell, values in got["cells"].items()]
    lines.append(of_interval(f"complex prompts, {who}", got["overall"], headline=True))
    return [*lines, of_interval(f"prompts with at least one of {got['pictures']} right, {who}", got["best"])]


def difference_lines(got: Mapping, who: str, against: str) -> list[Number]:
    """The numbers of a comparison. got: a summary with `against` and `difference`. One evaluation may lose more than
    several."""
    least = -0.08 if got["nfe"] == 1 else -0.03
    theirs, difference = got["against"], got["difference"]
    other, what = f"{against} at {theirs['nfe']:g}", f"{who} minus {against} at {theirs['nfe']:g}"
    lines = [of_interval(f"complex prompts, {other} NFE, same prompts and noise", theirs["overall"])]
    lines += [of_interval(f"{cell_in_words(cell)}: {what}", d) for cell, d in difference["cells"].items()]
    return [*lines, of_low_end(f"complex prompts, {what}", difference["overall"], target=least)]


def kind_notes(got: Mapping) -> list[str | Table]:
    """How many pictures have each kind of mistake."""
    each, cells = got["overall"]["n"] // len(got["cells"]), got["cells"]
    rows = [[kind, *(c["kinds"][kind] for c in cells.values()), total] for kind, total in got["kinds"].items()]
    words = f"Pictures with each kind of mistake, of {each} in each cell; one may have several."
    return [words, table(["", *cells, "all"], rows)]


def cell_in_words(cell: str) -> str:
    """ "4 full" is "4 things, full"."""
    count, level = cell.split()
    return f"{count} thing{'s' * (count != '1')}, {level}"


def contradictory(args) -> None:
    began = time.monotonic()
    got = contradictory_eval()
    refused, mistaken = got["refused"], got["mistaken"]
    what = "contradictory prompts refused, both clashing phrases quoted"
    lines = [
        of_interval(what, refused, target=1.0, headline=True),
        of_interval("consistent look-alikes refused", mistaken, at_most=0.0, headline=True),
    ]
    counts = table(["refused", "contradictory", "consistent"], [[kind, *both] for kind, both in got["kinds"].items()])
    of = lambda share: f"{round(share['value'] * share['n'])} of {share['n']}"
    words = f"{of(refused)} contradictory prompts are refused with both phrases quoted, "
    finish(args, "contradictory", None, lines, got, began, notes=[f"{words}{of(mistaken)} consistent ones.", counts])
