"""`hb eval` and `hb bench`: measure, print with intervals and targets, keep the numbers with where they came from."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, islice
from pathlib import Path

import numpy as np
import torch

from hb import plots
from hb.cli.output import table, to_json, write_figure, write_json
from hb.cli.use import is_shipped, open_model
from hb.eval import pictures as evaluate
from hb.infer.artifacts import understanding_fingerprint
from hb.infer.pipeline import Model
from hb.machine import commit, machine
from hb.world import benchmark as bench
from hb.world.judge.damage import confusion

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


# ---- the verbs ------------------------------------------------------------------------------------------------------


def scene(args) -> None:
    if args.ladder:
        return _ladder(args)
    model, began = open_model(args), time.monotonic()
    spent, name = _cost(args, "scene")
    cases = _first(bench.scene_set(), args.limit, lambda case: case.task)
    against = _against(args)
    pictures = args.pictures or (PICTURES if against is None else PICTURES_AGAINST)
    measured = lambda how: evaluate.scene_eval(
        model, pictures=pictures, seed=args.seed, cases=cases, keep=ROWS, bar=not args.json, **how
    )
    score = measured(spent)
    full = name == "scene_nfe100" and _in_full(args)
    lines = [
        Number(task, share.value, *share.interval, share.n, target=0.90 if full else None)
        for task, share in score.tasks.items()
    ]
    lines.append(
        of_interval(
            f"SceneEval, {_by(args)}{score.nfe:g} NFE", score.overall, target=0.95 if full else None, headline=True
        )
    )
    got = score.to_dict()
    if against is not None:
        theirs = measured(against)
        difference = evaluate.scene_difference(score, theirs)
        got |= dict(against=theirs.to_dict(), difference=difference)
        who = f"{_by(args)}{score.nfe:g} NFE minus {args.against} at {theirs.nfe:g}"
        lines.append(
            of_interval(f"SceneEval, {args.against} at {theirs.nfe:g} NFE, same prompts and noise", theirs.overall)
        )
        lines += [
            Number(f"{task}: {who}", d["value"], d["low"], d["high"], d["n"], target=-0.03)
            for task, d in difference["tasks"].items()
        ]
        d = difference["overall"]
        lines.append(
            Number(
                f"{who}: lower end of the interval", d["low"], d["low"], d["high"], d["n"], target=-0.01, headline=True
            )
        )
    finish(args, name, model, lines, got, began)


def complex_prompts(args) -> None:
    model, began = open_model(args), time.monotonic()
    spent, name = _cost(args, "complex")
    cases = _first(bench.complex_set(), args.limit, lambda case: case.task)
    pictures, against = args.pictures or PICTURES, _against(args)
    measured = lambda how: evaluate.complex_eval(
        model, pictures=pictures, seed=args.seed, cases=cases, keep=ROWS, bar=not args.json, **how
    )
    score = measured(spent)
    got = evaluate.complex_summary(score)
    who, seen = f"{_by(args)}{got['nfe']:g} NFE", {f"{_by(args)}{got['nfe']:g} NFE": got}
    lines = [of_interval(_cell(cell), values["right"]) for cell, values in got["cells"].items()]
    lines.append(of_interval(f"complex prompts, {who}", got["overall"], headline=True))
    lines.append(of_interval(f"prompts with at least one of {pictures} right, {who}", got["best"]))
    if against is not None:
        other = measured(against)
        theirs, difference = evaluate.complex_summary(other), evaluate.complex_difference(score, other)
        seen[f"{args.against}, {theirs['nfe']:g} NFE"] = theirs
        what = f"{who} minus {args.against} at {theirs['nfe']:g}"
        lines.append(
            of_interval(
                f"complex prompts, {args.against} at {theirs['nfe']:g} NFE, same prompts and noise", theirs["overall"]
            )
        )
        lines += [of_interval(f"{_cell(cell)}: {what}", d) for cell, d in difference["cells"].items()]
        d = difference["overall"]
        lines.append(
            Number(
                f"complex prompts, {what}: lower end of the interval",
                d["low"],
                d["low"],
                d["high"],
                d["n"],
                target=-0.03,
                headline=True,
            )
        )
        got |= dict(against=theirs, difference=difference)
    counts = [
        [kind, *(values["kinds"][kind] for values in got["cells"].values()), total]
        for kind, total in got["kinds"].items()
    ]
    notes = f"Pictures with each kind of mistake, of {got['overall']['n'] // len(got['cells'])} in each cell; one may have several.\n\n"
    folder = finish(args, name, model, lines, got, began, notes=notes + table(["", *got["cells"], "all"], counts))
    figure = plots.complexity(seen, title="Right pictures where much is asked, and what is wrong in the others")
    write_figure(folder / f"{_full_name(args, model, name)}.png", figure, dpi=120)


def _cell(cell: str) -> str:
    """ "4 full" in words."""
    count, level = cell.split()
    return f"{count} thing{'s' * (count != '1')}, {level}"


def _by(args) -> str:
    return f"{args.student}, " if getattr(args, "student", None) else ""


def _against(args) -> dict | None:
    """What to draw the other side with: the teacher as it is deployed, or a student at its own cost."""
    return None if getattr(args, "against", None) is None else dict(student=args.against)


def _ladder(args) -> None:
    if args.limit is not None:
        raise ValueError("--limit does not go with --ladder; for a quick look: hb eval scene --steps 6 --limit 5")
    model, began = open_model(args), time.monotonic()
    rungs = evaluate.ladder(model, pictures=args.pictures or 1, keep=ROWS, bar=not args.json)
    lines = [of_interval(_rung(r), r["overall"]) for r in rungs]
    at = {(r["guided"], r["steps"]): r["overall"]["value"] for r in rungs if not r["student"]}
    for steps, least in ((6, 0.10), (1, 0.50)):  # or the world is too easy, and there is nothing to distil
        lost = at[True, 50] - at[False, steps]
        what = f"lost from 50 guided to {steps} unguided step{'s' * (steps > 1)}"
        lines.append(Number(what, round(lost, 4), target=least, headline=True))
    for r in rungs:
        nearest = sorted(r.get("ahead", ()), key=lambda d: d["low"])
        for d in nearest:
            what = f"{r['student']} ahead of {_rung(d)}: lower end of the interval"
            lines.append(Number(what, d["low"], d["low"], d["high"], d["n"], target=0.0, headline=d is nearest[0]))
    folder = finish(args, "scene_ladder", model, lines, dict(rungs=rungs), began)
    figure = plots.ladder(
        rungs,
        y="SceneEval",
        title="The teacher's own few steps, and what students make of six"
        if model.students
        else "The teacher's own few steps: what a student must beat",
    )
    write_figure(folder / f"{_full_name(args, model, 'scene_ladder')}.png", figure, dpi=120)


def _rung(r: dict) -> str:
    if r["student"]:
        return f"student {r['student']}, {r['nfe']:g} NFE"
    return f"{r['steps']} steps, {'guided' if r['guided'] else 'unguided'} ({r['nfe']:g} NFE)"


def edit(args) -> None:
    if args.chains and args.complex:
        raise ValueError("--chains and --complex are two different sets of edits; choose one")
    model, began = open_model(args), time.monotonic()
    spent, name = _cost(args, "edit")
    if args.chains:
        if args.limit is not None:
            raise ValueError("--limit does not go with --chains: there are only 40 of them")
        turns = evaluate.chain_eval(model, seed=args.seed, keep=ROWS, bar=not args.json, **spent)
        lines = [of_interval(f"turn {t['turn']}: done", t["success"]) for t in turns]
        lines += [of_interval(f"turn {t['turn']}: drift", t["drift"], headline=t["turn"] == len(turns)) for t in turns]
        finish(args, name.replace("edit", "edit_chains", 1), model, lines, dict(turns=turns), began)
        return
    cases = _first(
        bench.edit_complex_set() if args.complex else bench.edit_set(), args.limit, lambda case: case.edit.group
    )
    measured = lambda how: evaluate.edit_eval(
        model, seed=args.seed, cases=cases, keep=ROWS, bar=not args.json, choices=args.complex, **how
    )
    mine, against = measured(spent), _against(args)
    got = _without_rows(mine)
    full = name == "edit_nfe132" and _in_full(args) and not args.complex
    lines = [Number(f"{group}: O", values["O"], n=values["n"]) for group, values in got["groups"].items()]
    if args.complex:
        name = name.replace("edit", "edit_complex", 1)
        lines += [
            of_interval(f"{group}: the right one of several was edited", share)
            for group, share in got["picked_right"].items()
        ]
        lines += [of_interval(f"edited instead: {which}", got["picked"][which]) for which in ("other", "both", "none")]
        lines.append(
            of_interval(
                f"the right one of several was edited, {_by(args)}{got['nfe']:g} NFE",
                got["picked"]["right"],
                headline=True,
            )
        )
    lines += [Number("SC, mean", got["SC"]), Number("PQ, mean", got["PQ"])]
    lines.append(of_interval("drift", got["drift"], at_most=0.02 if full else None))
    what = f"EditEval O (0 to 10){', one of several alike things' * args.complex}, {_by(args)}{got['nfe']:g} NFE"
    lines.append(of_interval(what, got["O"], target=9.0 if full else None, headline=True))
    if against is not None:
        theirs = measured(against)
        ratios = evaluate.edit_ratios(mine, theirs)
        got |= dict(against=_without_rows(theirs), ratios=ratios)
        o, drift, who = ratios["O"], ratios["drift"], f"{args.against} at {theirs['nfe']:g} NFE"
        lines.append(of_interval(f"O, {who}, same edits and noise", theirs["O"]))
        if args.complex:
            lines.append(
                of_interval(
                    f"the right one of several was edited, {who}, same edits and noise", theirs["picked"]["right"]
                )
            )
            lines.append(of_interval(f"O, share of {who}, one of several alike things", o, headline=True))
        else:
            lines.append(
                Number(
                    f"O, share of {who}: upper end of the interval",
                    o["high"],
                    o["low"],
                    o["high"],
                    o["n"],
                    target=1.0,
                    headline=True,
                )
            )
            lines.append(
                Number(
                    f"drift, share of {who}",
                    drift["value"],
                    drift["low"],
                    drift["high"],
                    drift["n"],
                    at_most=1.1,
                    headline=True,
                )
            )
    finish(args, name, model, lines, got, began)


def understand(args) -> None:
    model, began = open_model(args), time.monotonic()
    got = _without_rows(evaluate.understand_eval(model, keep=ROWS, bar=not args.json))
    lines = [of_interval(f"answers: {kind}", share) for kind, share in got["kinds"].items()]
    lines.append(of_interval("answers", got["answers"], target=0.97, headline=True))
    lines += [
        of_interval(f"descriptions: {name}", got[name], target=0.95, headline=True) for name in ("recall", "precision")
    ]
    lines.append(of_interval("descriptions: background", got["background"]))
    finish(args, "understand", model, lines, got, began)


def coverage(args) -> None:
    model, began = open_model(args), time.monotonic()
    spent, name = _cost(args, "coverage")
    if args.ambiguous:
        name = name.replace("coverage", "coverage_ambiguous", 1)
    prompts = evaluate.AMBIGUOUS_PROMPTS if args.ambiguous else evaluate.COVERAGE_PROMPTS
    measured = lambda how: evaluate.coverage_eval(
        model, pictures=args.pictures or 200, prompts=prompts, keep=ROWS, bar=not args.json, **how
    )
    got = measured(spent)
    lines = [Number(attribute, value) for attribute, value in got["attributes"].items()]
    lines.append(of_interval("pictures that could be used", got["readable"]))
    least = 0.90 if name == "coverage_nfe100" and _in_full(args) else None
    what = f"coverage{', ambiguous prompts' * args.ambiguous}"
    lines.append(of_interval(f"{what}, {_by(args)}{got['nfe']:g} NFE", got["value"], target=least, headline=True))
    away, between = got["frechet"], "Fréchet distance between two sets of rendered pictures"
    lines.append(
        Number(f"Fréchet distance from rendered pictures, {_by(args)}{got['nfe']:g} NFE", away["value"], n=away["n"])
    )
    lines += [
        Number(f"{between}: mean", away["floor"], n=away["n"]),
        Number(f"{between}: largest", away["highest"], n=away["n"]),
    ]
    against = _against(args)
    if against is not None:
        theirs = measured(against)
        share = evaluate.ratio(
            *([np.array([p["score"] / p["ceiling"] for p in part["parts"]])] for part in (got, theirs))
        )
        got |= dict(against=theirs, share=share)
        lines.append(
            Number(
                f"{what}, share of {args.against} at {theirs['nfe']:g} NFE",
                share["value"],
                share["low"],
                share["high"],
                share["n"],
                target=0.95,
                headline=True,
            )
        )
    finish(args, name, model, lines, got, began)


def contradictory(args) -> None:
    began = time.monotonic()
    got = evaluate.contradictory_eval()
    refused, mistaken = got["refused"], got["mistaken"]
    lines = [
        of_interval("contradictory prompts refused, both clashing phrases quoted", refused, target=1.0, headline=True),
        Number(
            "consistent look-alikes refused",
            mistaken["value"],
            mistaken["low"],
            mistaken["high"],
            mistaken["n"],
            at_most=0.0,
            headline=True,
        ),
    ]
    counts = table(["refused", "contradictory", "consistent"], [[kind, *both] for kind, both in got["kinds"].items()])
    of = lambda share: f"{round(share['value'] * share['n'])} of {share['n']}"
    notes = f"{of(refused)} contradictory prompts are refused with both phrases quoted, {of(mistaken)} consistent ones are refused."
    finish(args, "contradictory", None, lines, got, began, notes=f"{notes}\n\n{counts}")


def judge(args) -> None:
    began = time.monotonic()
    rows = confusion(args.n or 200, args.seed)
    lines = []
    for row in rows:
        accepted = evaluate.Share(round(row.accepted * row.count), row.count)
        wanted = {True: " (should be)", False: " (should not be)", None: ""}[row.accept]
        lines.append(of_interval(f"accepted{wanted}: {row.kind} {row.strength:g}", accepted.to_dict()))
    sound = [r.accepted for r in rows if r.accept]
    broken = [r.accepted for r in rows if r.accept is False]
    lines += [
        Number("judge: sound pictures accepted, worst kind", min(sound), headline=True),
        Number("judge: broken pictures accepted, worst kind", max(broken), headline=True),
        Number("judge: taken for another scene, worst kind", max(r.misread for r in rows), headline=True),
    ]
    finish(args, "judge", None, lines, dict(rows=[asdict(row) for row in rows]), began)


def autoencoder(args) -> None:
    model, began = open_model(args), time.monotonic()
    got = evaluate.reconstruction(model, n=args.n or 10_000, seed=args.seed)
    lines = [
        of_interval("as rendered: read exactly and clean", got["rendered"]),
        of_interval(
            "autoencoder: read exactly and clean",
            got["reconstructed"],
            target=0.99 if _in_full(args) else None,
            headline=True,
        ),
        Number("mean absolute error of pixels", got["error"]),
    ]
    finish(args, "autoencoder", model, lines, got, began)


def speed(args) -> None:
    model, began = open_model(args), time.monotonic()
    rows = evaluate.speed(model, batches=args.batches, repeats=args.repeats)
    lines = []
    for row in rows:
        what = f"{row['task']}, {row['batch']} at once" + (f", {row['nfe']:g} NFE" if row["nfe"] else "")
        lines.append(Number(what, row["rate"], row["low"], row["high"], args.repeats, unit=row["unit"], headline=True))
    parts = [[r["task"], r["batch"], part, f"{s:.4f}"] for r in rows for part, s in r["seconds"].items()]
    for name in (n for n, s in model.students.items() if s.default):
        for row in evaluate.student_speed(model, name, batch=max(args.batches), repeats=args.repeats):
            rows.append(row)
            task, n = row["task"], row["batch"]
            lines.append(
                Number(f"{task}, {name}: metered NFE, the teacher's over it", row["nfe_ratio"], headline=True, unit="x")
            )
            least = {"draw": 14.0, "edit": 18.0}[task] if n == 16 and row["nfe"] == 6 else None
            lines.append(
                Number(
                    f"{task}, {name}, {n} at once: seconds, the teacher's over its",
                    row["ratio"],
                    row["low"],
                    row["high"],
                    args.repeats,
                    unit="x",
                    target=least,
                    headline=True,
                )
            )
            parts += [
                [f"{task}, {who}", n, part, f"{s:.4f}"] for who, ps in row["seconds"].items() for part, s in ps.items()
            ]
    notes = table(["task", "batch", "part", "seconds"], parts)
    note = "Median and range over the repeats; everything included."
    finish(args, "speed", model, lines, dict(rows=rows), began, between="range", notes=f"{note}\n\n{notes}")


# ---- what they share ------------------------------------------------------------------------------------------------


def _cost(args, name: str) -> tuple[dict, str]:
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


def _in_full(args) -> bool:
    """Is it the measurement that targets are for, no option having made it another one?"""
    return not any(getattr(args, option, None) for option in SHORTENED)


def _first(cases: Sequence, limit: int | None, kind) -> list:
    """The first `limit` cases of each kind; the sets hold one kind after another."""
    if limit is None:
        return list(cases)
    return [case for _, group in groupby(cases, kind) for case in islice(group, limit)]


def _without_rows(got: dict) -> dict:
    return {name: value for name, value in got.items() if name not in ("rows", "told")}


def _full_name(args, model: Model | None, name: str) -> str:
    """The name of a result says whatever was not as usual."""
    for option in (*SHORTENED, "seed"):
        if getattr(args, option, None):
            name += f"_{option}{getattr(args, option)}"
    return name if model is None or args.model == "nano" else f"{model.name}_{name}"


def finish(
    args,
    name: str,
    model: Model | None,
    lines: list[Number],
    got: dict,
    began: float,
    *,
    between: str = "95% interval",
    notes: str = "",
) -> Path:
    """Keep the numbers, print them; returns the folder they went to."""
    shipped = model is None or is_shipped(args.model)
    folder = Path(args.results) if args.results else evaluate.RESULTS if shipped and _in_full(args) else ELSEWHERE
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
    file = write_json(folder / f"{_full_name(args, model, name)}.json", record)
    if args.json:
        print(to_json(record))
        return folder
    print(as_table(lines, between))
    print(f"\n{notes}" if notes else "", end="\n" if notes else "")
    missed = [line for line in lines if line.met is False]
    for line in missed:
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


def as_table(lines: Sequence[Number], between: str = "95% interval") -> str:
    cells = [[f.what, f.shown, f.interval, "" if f.n is None else f.n, f.verdict] for f in lines]
    return table(["", "value", between, "n", "target"], cells)
