"""`hb eval` and `hb bench`: measure, print with intervals and targets, keep the numbers with where they came from."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby, islice
from pathlib import Path

import torch

import hb.eval.autoencoder
import hb.eval.coverage
import hb.eval.edit
import hb.eval.scene
import hb.eval.speed
import hb.eval.understand
from hb import plots
from hb.cli.output import Table, show, table, to_json, write_figure, write_json
from hb.cli.use import is_shipped, open_model
from hb.eval.cache import digest, identity, result_key, result_name
from hb.eval.protocol import RESULTS
from hb.eval.stats import Share
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


# ---- the verbs ------------------------------------------------------------------------------------------------------


def scene(args) -> None:
    if args.steps_ablation:
        return _steps_ablation(args)
    model, began = open_model(args), time.monotonic()
    spent, name = _cost(args, "scene")
    cases = _first(bench.scene_set(), args.limit, lambda case: case.task)
    against = _against(args)
    pictures = args.pictures or (PICTURES if against is None else PICTURES_AGAINST)
    measured = lambda how: hb.eval.scene.scene_eval(
        model, pictures=pictures, seed=args.seed, cases=cases, keep=ROWS, bar=not args.json, **how
    )
    score = measured(spent)
    full = name == "scene_nfe100" and _in_full(args)
    least = dict(each=0.90, all=0.95) if full else dict(each=None, all=None)
    lines = [of_interval(task, share.to_dict(), target=least["each"]) for task, share in score.tasks.items()]
    what = f"SceneEval, {_by(args)}{score.nfe:g} NFE"
    lines.append(of_interval(what, score.overall, target=least["all"], headline=True))
    got, notes = score.to_dict(), ""
    if against is not None:
        theirs = measured(against)
        difference, flipped = hb.eval.scene.scene_difference(score, theirs), hb.eval.scene.flips(score, theirs)
        got |= dict(against=theirs.to_dict(), difference=difference, flips=flipped)
        who = f"{_by(args)}{score.nfe:g} NFE minus {args.against} at {theirs.nfe:g}"
        what = f"SceneEval, {args.against} at {theirs.nfe:g} NFE, same prompts and noise"
        lines.append(of_interval(what, theirs.overall))
        lines += [of_interval(f"{task}: {who}", d, target=-0.03) for task, d in difference["tasks"].items()]
        lines.append(of_low_end(who, difference["overall"], target=-0.01))
        notes = flip_table(flipped["tasks"] | {"all": flipped["overall"]}, args.student or "ours", args.against)
    finish(args, name, model, lines, got, began, notes=notes)


def flip_table(flipped: dict, ours: str, theirs: str) -> str:
    """Which verdicts changed, a row for each task."""
    head = ["right for", "both", f"{ours} only", f"{theirs} only", "neither", "McNemar's p"]
    cells = ("both", "only_ours", "only_theirs", "neither", "p_value")
    return table(head, [[task, *(row[cell] for cell in cells)] for task, row in flipped.items()])


def _by(args) -> str:
    return f"{args.student}, " if getattr(args, "student", None) else ""


def _against(args) -> dict | None:
    """What to draw the other side with: the teacher as it is deployed, or a student at its own cost."""
    return None if getattr(args, "against", None) is None else dict(student=args.against)


def _steps_ablation(args) -> None:
    if args.limit is not None:
        raise ValueError(
            "--limit does not go with --steps-ablation; for a quick look: hb eval scene --steps 6 --limit 5"
        )
    model, began = open_model(args), time.monotonic()
    rows = hb.eval.scene.steps_ablation(model, pictures=args.pictures or 1, keep=ROWS, bar=not args.json)
    lines = [of_interval(_row(r), r["overall"]) for r in rows]
    at = {(r["guided"], r["steps"]): r for r in rows if not r["student"]}
    for steps, least in ((6, 0.10), (1, 0.50)):  # or the world is too easy, and there is nothing to distil
        lost = hb.eval.scene.scene_difference(at[True, 50], at[False, steps])["overall"]
        what = f"lost from 50 guided to {steps} unguided step{'s' * (steps > 1)}"
        lines.append(of_interval(what, lost, target=least, headline=True))
    for r in rows:
        nearest = sorted(r.get("ahead", ()), key=lambda d: d["low"])
        for d in nearest:
            number = of_low_end(f"{r['student']} ahead of {_row(d)}", d, target=0.0)
            lines.append(replace(number, headline=d is nearest[0]))
    file = finish(args, "scene_steps_ablation", model, lines, dict(rows=rows), began)
    figure = plots.ladder(
        rows,
        y="SceneEval",
        title="The teacher's own few steps, and what students make of six"
        if model.students
        else "The teacher's own few steps: what a student must beat",
    )
    write_figure(file.with_suffix(".png"), figure, dpi=120)


def _row(r: dict) -> str:
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
        turns = hb.eval.edit.chain_eval(model, seed=args.seed, keep=ROWS, bar=not args.json, **spent)
        lines = [of_interval(f"turn {t['turn']}: done", t["success"]) for t in turns]
        lines += [of_interval(f"turn {t['turn']}: drift", t["drift"], headline=t["turn"] == len(turns)) for t in turns]
        finish(args, name.replace("edit", "edit_chains", 1), model, lines, dict(turns=turns), began)
        return
    every = bench.edit_complex_set() if args.complex else bench.edit_set()
    cases = _first(every, args.limit, lambda case: case.edit.group)
    measured = lambda how: hb.eval.edit.edit_eval(
        model, seed=args.seed, cases=cases, keep=ROWS, bar=not args.json, choices=args.complex, **how
    )
    mine, against = measured(spent), _against(args)
    got, notes = _without_rows(mine), ""
    full = name == "edit_nfe132" and _in_full(args) and not args.complex
    lines = [Number(f"{group}: O", values["O"], n=values["n"]) for group, values in got["groups"].items()]
    if args.complex:
        name = name.replace("edit", "edit_complex", 1)
        lines += picked_lines(got, f"{_by(args)}{got['nfe']:g} NFE")
    lines += [Number("SC, mean", got["SC"]), Number("PQ, mean", got["PQ"])]
    lines.append(of_interval("drift", got["drift"], at_most=0.02 if full else None))
    what = f"EditEval O (0 to 10){', one of several alike things' * args.complex}, {_by(args)}{got['nfe']:g} NFE"
    lines.append(of_interval(what, got["O"], target=9.0 if full else None, headline=True))
    if against is not None:
        theirs = measured(against)
        ratios, flipped = hb.eval.edit.edit_ratios(mine, theirs), hb.eval.edit.edit_flips(mine, theirs)
        got |= dict(against=_without_rows(theirs), ratios=ratios, flips=flipped)
        who = f"{args.against} at {theirs['nfe']:g} NFE"
        lines.append(of_interval(f"O, {who}, same edits and noise", theirs["O"]))
        if args.complex:
            what = f"the right one of several was edited, {who}, same edits and noise"
            lines.append(of_interval(what, theirs["picked"]["right"]))
            lines.append(of_interval(f"O, share of {who}, one of several alike things", ratios["O"], headline=True))
        else:
            lines.append(of_low_end(f"O, share of {who}", ratios["O"], target=0.98))
            lines.append(of_interval(f"drift, share of {who}", ratios["drift"], at_most=1.1, headline=True))
        notes = flip_table(flipped["groups"] | {"all": flipped["overall"]}, args.student or "ours", args.against)
    finish(args, name, model, lines, got, began, notes=notes)


def picked_lines(got: dict, who: str) -> list[Number]:
    """Which of several alike things was edited."""
    right, picked = "the right one of several was edited", got["picked"]
    lines = [of_interval(f"{group}: {right}", share) for group, share in got["picked_right"].items()]
    lines += [of_interval(f"edited instead: {which}", picked[which]) for which in ("other", "both", "none")]
    return [*lines, of_interval(f"{right}, {who}", picked["right"], headline=True)]


def understand(args) -> None:
    model, began = open_model(args), time.monotonic()
    got = _without_rows(hb.eval.understand.understand_eval(model, keep=ROWS, bar=not args.json))
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
    prompts = hb.eval.coverage.AMBIGUOUS_PROMPTS if args.ambiguous else hb.eval.coverage.COVERAGE_PROMPTS
    measured = lambda how: hb.eval.coverage.coverage_eval(
        model, pictures=args.pictures or 200, prompts=prompts, keep=ROWS, bar=not args.json, **how
    )
    got, what = measured(spent), f"coverage{', ambiguous prompts' * args.ambiguous}"
    lines = [Number(attribute, value) for attribute, value in got["attributes"].items()]
    lines.append(of_interval("pictures that could be used", got["readable"]))
    least = 0.90 if name == "coverage_nfe100" and _in_full(args) else None
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
        share = hb.eval.coverage.coverage_share(got, theirs)
        got |= dict(against=theirs, share=share)
        who = f"{args.against} at {theirs['nfe']:g} NFE"
        lines.append(of_interval(f"{what}, share of {who}", share, target=0.95, headline=True))
    finish(args, name, model, lines, got, began)


def judge(args) -> None:
    began = time.monotonic()
    rows = confusion(args.n or 200, args.seed)
    lines = []
    for row in rows:
        accepted = Share(round(row.accepted * row.count), row.count)
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
    got = hb.eval.autoencoder.reconstruction(model, n=args.n or 10_000, seed=args.seed)
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
    rows = hb.eval.speed.speed(model, batches=args.batches, repeats=args.repeats)
    lines = []
    for row in rows:
        what = f"{row['task']}, {row['batch']} at once" + (f", {row['nfe']:g} NFE" if row["nfe"] else "")
        lines.append(Number(what, row["rate"], row["low"], row["high"], args.repeats, unit=row["unit"], headline=True))
    parts = [[r["task"], r["batch"], part, f"{s:.4f}"] for r in rows for part, s in r["seconds"].items()]
    for name in (n for n, s in model.students.items() if s.default):
        for row in hb.eval.speed.student_speed(model, name, batch=max(args.batches), repeats=args.repeats):
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
    notes = (
        "Median and range over the repeats; everything included.",
        table(["task", "batch", "part", "seconds"], parts),
    )
    finish(args, "speed", model, lines, dict(rows=rows), began, between="range", notes=notes)


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


def full_name(args, model: Model | None, name: str, key: dict) -> str:
    """The name of a result says whatever was not as usual. Results that are not published carry the digest of their
    key too: two runs that differ in weights, versions or anything else never write the same file."""
    name = result_name(name, vars(args))
    if model is not None and args.model != "nano":
        name = f"{model.name}_{name}"
    return name if is_published(args, model) else f"{name}-{digest(key)[:8]}"


def is_published(args, model: Model | None) -> bool:
    """Is it a full measurement of a model that ships? The next one of later weights takes its place."""
    return (model is None or is_shipped(args.model)) and _in_full(args)


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
    student = model.students[name]
    return dict(name=name, identity=student.fingerprint(), sampler=student.sampler, reads_vision=student.reads_vision)


def as_table(lines: Sequence[Number], between: str = "95% interval") -> Table:
    cells = [[f.what, f.shown, f.interval, "" if f.n is None else f.n, f.verdict] for f in lines]
    return table(["", "value", between, "n", "target"], cells)
