"""`hb eval` and `hb bench`: measure, print with intervals and targets, keep the numbers with where they came from."""

from __future__ import annotations

import time
from dataclasses import asdict, replace

import hb.eval.autoencoder
import hb.eval.coverage
import hb.eval.edit
import hb.eval.one_step
import hb.eval.scene
import hb.eval.speed
import hb.eval.understand
from hb import plots
from hb.cli.output import table, write_figure
from hb.cli.results import (
    PICTURES,
    PICTURES_AGAINST,
    ROWS,
    Number,
    against_of,
    by,
    cost,
    finish,
    first_of_each,
    flip_table,
    in_full,
    of_interval,
    of_low_end,
    without_rows,
)
from hb.cli.use import open_model
from hb.eval.stats import Share
from hb.models.pixel_decoder import FAST_BF16
from hb.world import benchmark as bench
from hb.world.judge.damage import confusion

# ---- the verbs ------------------------------------------------------------------------------------------------------


def scene(args) -> None:
    if args.steps_ablation:
        return _steps_ablation(args)
    model, began = open_model(args), time.monotonic()
    spent, name = cost(args, "scene")
    cases = first_of_each(bench.scene_set(), args.limit, lambda case: case.task)
    against = against_of(args)
    many = against is not None and args.nfe != 1  # a share of the teacher's shows in four: its target is not 0.01 away
    pictures = args.pictures or (PICTURES_AGAINST if many else PICTURES)
    measured = lambda how: hb.eval.scene.scene_eval(
        model, pictures=pictures, seed=args.seed, cases=cases, keep=ROWS, bar=not args.json, **how
    )
    score = measured(spent)
    full = name == "scene_nfe100" and in_full(args)
    least = dict(each=0.90, all=0.95) if full else dict(each=None, all=None)
    lines = [of_interval(task, share.to_dict(), target=least["each"]) for task, share in score.tasks.items()]
    what = f"SceneEval, {by(args)}{score.nfe:g} NFE"
    lines.append(of_interval(what, score.overall, target=least["all"], headline=True))
    got, notes = score.to_dict(), []
    if against is not None:
        theirs = measured(against)
        difference, flipped = hb.eval.scene.scene_difference(score, theirs), hb.eval.scene.flips(score, theirs)
        got |= dict(against=theirs.to_dict(), difference=difference, flips=flipped)
        who = f"{by(args)}{score.nfe:g} NFE minus {args.against} at {theirs.nfe:g}"
        what = f"SceneEval, {args.against} at {theirs.nfe:g} NFE, same prompts and noise"
        lines.append(of_interval(what, theirs.overall))
        one = score.nfe == 1  # may lose more than several: its targets are shares
        each = None if one else -0.03
        lines += [of_interval(f"{task}: {who}", d, target=each) for task, d in difference["tasks"].items()]
        if not one:
            lines.append(of_low_end(who, difference["overall"], target=-0.01))
        else:
            lines.append(of_interval(who, difference["overall"]))
        if one and theirs.overall["value"]:  # a share of nothing means nothing
            got["share"] = hb.eval.scene.scene_share(score, theirs)
            lines.append(of_interval(f"SceneEval, share of {args.against}'s", got["share"], target=0.97, headline=True))
        notes.append(flip_table(flipped["tasks"] | {"all": flipped["overall"]}, args.student or "ours", args.against))
    finish(args, name, model, lines, got, began, notes=notes)


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
    spent, name = cost(args, "edit")
    if args.chains:
        if args.limit is not None:
            raise ValueError("--limit does not go with --chains: there are only 40 of them")
        turns = hb.eval.edit.chain_eval(model, seed=args.seed, keep=ROWS, bar=not args.json, **spent)
        lines = [of_interval(f"turn {t['turn']}: done", t["success"]) for t in turns]
        lines += [of_interval(f"turn {t['turn']}: drift", t["drift"], headline=t["turn"] == len(turns)) for t in turns]
        finish(args, name.replace("edit", "edit_chains", 1), model, lines, dict(turns=turns), began)
        return
    every = bench.edit_complex_set() if args.complex else bench.edit_set()
    cases = first_of_each(every, args.limit, lambda case: case.edit.group)
    measured = lambda how: hb.eval.edit.edit_eval(
        model, seed=args.seed, cases=cases, keep=ROWS, bar=not args.json, choices=args.complex, **how
    )
    mine, against = measured(spent), against_of(args)
    got, notes = without_rows(mine), []
    full = name == "edit_nfe132" and in_full(args) and not args.complex
    lines = [Number(f"{group}: O", values["O"], n=values["n"]) for group, values in got["groups"].items()]
    if args.complex:
        name = name.replace("edit", "edit_complex", 1)
        lines += picked_lines(got, f"{by(args)}{got['nfe']:g} NFE")
    lines += [Number("SC, mean", got["SC"]), Number("PQ, mean", got["PQ"])]
    lines.append(of_interval("drift", got["drift"], at_most=0.02 if full else None))
    what = f"EditEval O (0 to 10){', one of several alike things' * args.complex}, {by(args)}{got['nfe']:g} NFE"
    lines.append(of_interval(what, got["O"], target=9.0 if full else None, headline=True))
    if against is not None:
        theirs = measured(against)
        ratios, flipped = hb.eval.edit.edit_ratios(mine, theirs), hb.eval.edit.edit_flips(mine, theirs)
        got |= dict(against=without_rows(theirs), ratios=ratios, flips=flipped)
        who = f"{args.against} at {theirs['nfe']:g} NFE"
        lines.append(of_interval(f"O, {who}, same edits and noise", theirs["O"]))
        if args.complex:
            what = f"the right one of several was edited, {who}, same edits and noise"
            lines.append(of_interval(what, theirs["picked"]["right"]))
            lines.append(of_interval(f"O, share of {who}, one of several alike things", ratios["O"], headline=True))
        else:
            lines.append(of_low_end(f"O, share of {who}", ratios["O"], target=0.95 if mine["nfe"] == 1 else 0.98))
            lines.append(of_interval(f"drift, share of {who}", ratios["drift"], at_most=1.1, headline=True))
        notes.append(flip_table(flipped["groups"] | {"all": flipped["overall"]}, args.student or "ours", args.against))
    finish(args, name, model, lines, got, began, notes=notes)


def picked_lines(got: dict, who: str) -> list[Number]:
    """Which of several alike things was edited."""
    right, picked = "the right one of several was edited", got["picked"]
    lines = [of_interval(f"{group}: {right}", share) for group, share in got["picked_right"].items()]
    lines += [of_interval(f"edited instead: {which}", picked[which]) for which in ("other", "both", "none")]
    return [*lines, of_interval(f"{right}, {who}", picked["right"], headline=True)]


def understand(args) -> None:
    model, began = open_model(args), time.monotonic()
    got = without_rows(hb.eval.understand.understand_eval(model, keep=ROWS, bar=not args.json))
    lines = [of_interval(f"answers: {kind}", share) for kind, share in got["kinds"].items()]
    lines.append(of_interval("answers", got["answers"], target=0.97, headline=True))
    lines += [
        of_interval(f"descriptions: {name}", got[name], target=0.95, headline=True) for name in ("recall", "precision")
    ]
    lines.append(of_interval("descriptions: background", got["background"]))
    finish(args, "understand", model, lines, got, began)


def coverage(args) -> None:
    model, began = open_model(args), time.monotonic()
    spent, name = cost(args, "coverage")
    if args.ambiguous:
        name = name.replace("coverage", "coverage_ambiguous", 1)
    prompts = hb.eval.coverage.AMBIGUOUS_PROMPTS if args.ambiguous else hb.eval.coverage.COVERAGE_PROMPTS
    measured = lambda how: hb.eval.coverage.coverage_eval(
        model, pictures=args.pictures or 200, prompts=prompts, keep=ROWS, bar=not args.json, **how
    )
    got, what = measured(spent), f"coverage{', ambiguous prompts' * args.ambiguous}"
    lines = [Number(attribute, value) for attribute, value in got["attributes"].items()]
    lines.append(of_interval("pictures that could be used", got["readable"]))
    least = 0.90 if name == "coverage_nfe100" and in_full(args) else None
    lines.append(of_interval(f"{what}, {by(args)}{got['nfe']:g} NFE", got["value"], target=least, headline=True))
    away, between = got["frechet"], "Fréchet distance between two sets of rendered pictures"
    lines.append(
        Number(f"Fréchet distance from rendered pictures, {by(args)}{got['nfe']:g} NFE", away["value"], n=away["n"])
    )
    lines += [
        Number(f"{between}: mean", away["floor"], n=away["n"]),
        Number(f"{between}: largest", away["highest"], n=away["n"]),
    ]
    against = against_of(args)
    if against is not None:
        theirs = measured(against)
        share = hb.eval.coverage.coverage_share(got, theirs)
        got |= dict(against=theirs, share=share)
        who = f"{args.against} at {theirs['nfe']:g} NFE"
        lines.append(of_interval(f"{what}, share of {who}", share, target=0.95, headline=True))
    finish(args, name, model, lines, got, began)


def instruments(args) -> None:
    model, began = open_model(args), time.monotonic()
    spent, name = cost(args, "scene")
    if student := spent.get("student"):  # one cost for drawings and edits; the teacher has its own for each
        spent.setdefault("nfe", model.student(student).steps if not args.steps else None)
    elif not args.steps:
        spent = dict(steps=model.sampling.steps)
    spent = {option: value for option, value in spent.items() if value is not None}
    got = hb.eval.one_step.instruments(
        model, prompts=args.n or 150, seed=args.seed, keep=ROWS, bar=not args.json, **spent
    )
    lines = [
        of_interval("right, prompts as in SceneEval", got["right"], headline=True),
        of_interval("right, complex prompts", got["complex"], headline=True),
        Number("pictures with a thing that is not one thing", got["halves"]),
        of_interval("EditEval O (0 to 10)", got["edits"], headline=True),
        *(Number(f"coverage of {attribute}", value) for attribute, value in got["coverage"].items()),
        Number("spread of latents within a prompt, 1 as rendered", got["spread"]),
    ]
    finish(args, name.replace("scene", "instruments", 1), model, lines, got, began)


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
            target=0.99 if in_full(args) else None,
            headline=True,
        ),
        Number("mean absolute error of pixels", got["error"]),
    ]
    finish(args, "autoencoder", model, lines, got, began)


# what a student of so many evaluations is asked to be faster by than its teacher, 16 at once
TIMES_FASTER = {6: dict(draw=14.0, edit=18.0), 1: dict(draw=50.0, edit=40.0)}


def speed(args) -> None:
    model, began = open_model(args), time.monotonic()
    rows = hb.eval.speed.speed(model, batches=args.batches, repeats=args.repeats)
    lines = []
    for row in rows:
        what = f"{row['task']}, {row['batch']} at once" + (f", {row['nfe']:g} NFE" if row["nfe"] else "")
        lines.append(Number(what, row["rate"], row["low"], row["high"], args.repeats, unit=row["unit"], headline=True))
    parts = [[r["task"], r["batch"], part, f"{s:.4f}"] for r in rows for part, s in r["seconds"].items()]
    for name in (n for n, s in model.students.items() if s.default):
        alone = hb.eval.speed.one_at_a_time(model, name, repeats=args.repeats)
        rows.append(alone)
        least = (25.0 if FAST_BF16 else 15.0) if alone["nfe"] == 1 else None
        rate = (alone["rate"], alone["low"], alone["high"], args.repeats)
        lines.append(Number(f"draw, {name}, 1 at once", *rate, unit=alone["unit"], target=least, headline=True))
        for row in hb.eval.speed.student_speed(model, name, batch=max(args.batches), repeats=args.repeats):
            rows.append(row)
            task, n = row["task"], row["batch"]
            lines.append(
                Number(f"{task}, {name}: metered NFE, the teacher's over it", row["nfe_ratio"], headline=True, unit="x")
            )
            least = TIMES_FASTER.get(row["nfe"], {}).get(task) if n == 16 else None
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
