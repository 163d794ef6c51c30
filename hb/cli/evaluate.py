"""`hb eval` and `hb bench speed`: what is measured, and the targets that it is compared with."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby, islice

import numpy as np

from hb import plots
from hb.cli.output import table, write_figure
from hb.cli.results import ROWS, Number, finish, full_name, in_full, of_interval
from hb.cli.use import open_model
from hb.eval import pictures as evaluate
from hb.world import benchmark as bench
from hb.world.judge.damage import confusion

USUAL_COST = dict(scene=100, edit=132, coverage=100)  # the teacher's
PICTURES, PICTURES_AGAINST = 4, 16  # of each SceneEval prompt; a difference of 0.01 drowns in the generator of four


# ---- the verbs ------------------------------------------------------------------------------------------------------


def scene(args) -> None:
    if args.steps_ablation:
        return _steps_ablation(args)
    model, began = open_model(args), time.monotonic()
    spent, name = _cost(args, "scene")
    cases = _first(bench.scene_set(), args.limit, lambda case: case.task)
    against = _against(args)
    pictures = args.pictures or (PICTURES if against is None else PICTURES_AGAINST)
    measured = lambda how: evaluate.scene_eval(
        model, pictures=pictures, seed=args.seed, cases=cases, keep=ROWS, bar=not args.json, **how
    )
    score = measured(spent)
    full = name == "scene_nfe100" and in_full(args)
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
    rows = evaluate.ladder(model, pictures=args.pictures or 1, keep=ROWS, bar=not args.json)
    lines = [of_interval(_row_name(r), r["overall"]) for r in rows]
    at = {(r["guided"], r["steps"]): r["overall"]["value"] for r in rows if not r["student"]}
    for steps, least in ((6, 0.10), (1, 0.50)):  # or the world is too easy, and there is nothing to distil
        lost = at[True, 50] - at[False, steps]
        what = f"lost from 50 guided to {steps} unguided step{'s' * (steps > 1)}"
        lines.append(Number(what, round(lost, 4), target=least, headline=True))
    for r in rows:
        nearest = sorted(r.get("ahead", ()), key=lambda d: d["low"])
        for d in nearest:
            what = f"{r['student']} ahead of {_row_name(d)}: lower end of the interval"
            lines.append(Number(what, d["low"], d["low"], d["high"], d["n"], target=0.0, headline=d is nearest[0]))
    folder = finish(args, "scene_ladder", model, lines, dict(rungs=rows), began)
    figure = plots.ladder(
        rows,
        y="SceneEval",
        title="The teacher's own few steps, and what students make of six"
        if model.students
        else "The teacher's own few steps: what a student must beat",
    )
    write_figure(folder / f"{full_name(args, model, 'scene_ladder')}.png", figure, dpi=120)


def _row_name(r: dict) -> str:
    if r["student"]:
        return f"student {r['student']}, {r['nfe']:g} NFE"
    return f"{r['steps']} steps, {'guided' if r['guided'] else 'unguided'} ({r['nfe']:g} NFE)"


def edit(args) -> None:
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
    cases = _first(bench.edit_set(), args.limit, lambda case: case.edit.group)
    measured = lambda how: evaluate.edit_eval(model, seed=args.seed, cases=cases, keep=ROWS, bar=not args.json, **how)
    mine, against = measured(spent), _against(args)
    got = _without_rows(mine)
    full = name == "edit_nfe132" and in_full(args)
    lines = [Number(f"{group}: O", values["O"], n=values["n"]) for group, values in got["groups"].items()]
    lines += [Number("SC, mean", got["SC"]), Number("PQ, mean", got["PQ"])]
    lines.append(of_interval("drift", got["drift"], at_most=0.02 if full else None))
    what = f"EditEval O (0 to 10), {_by(args)}{got['nfe']:g} NFE"
    lines.append(of_interval(what, got["O"], target=9.0 if full else None, headline=True))
    if against is not None:
        theirs = measured(against)
        ratios = evaluate.edit_ratios(mine, theirs)
        got |= dict(against=_without_rows(theirs), ratios=ratios)
        o, drift, who = ratios["O"], ratios["drift"], f"{args.against} at {theirs['nfe']:g} NFE"
        lines.append(of_interval(f"O, {who}, same edits and noise", theirs["O"]))
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
    got = evaluate.coverage_eval(model, pictures=args.pictures or 200, keep=ROWS, bar=not args.json, **spent)
    lines = [Number(attribute, value) for attribute, value in got["attributes"].items()]
    lines.append(of_interval("pictures that could be used", got["readable"]))
    least = 0.90 if name == "coverage_nfe100" and in_full(args) else None
    lines.append(of_interval(f"coverage, {_by(args)}{got['nfe']:g} NFE", got["value"], target=least, headline=True))
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
        theirs = evaluate.coverage_eval(model, pictures=args.pictures or 200, keep=ROWS, bar=not args.json, **against)
        share = evaluate.ratio(
            *([np.array([p["score"] / p["ceiling"] for p in part["parts"]])] for part in (got, theirs))
        )
        got |= dict(against=theirs, share=share)
        lines.append(
            Number(
                f"coverage, share of {args.against} at {theirs['nfe']:g} NFE",
                share["value"],
                share["low"],
                share["high"],
                share["n"],
                target=0.95,
                headline=True,
            )
        )
    finish(args, name, model, lines, got, began)


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
            target=0.99 if in_full(args) else None,
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
    notes = (
        "Median and range over the repeats; everything included.",
        table(["task", "batch", "part", "seconds"], parts),
    )
    finish(args, "speed", model, lines, dict(rows=rows), began, between="range", notes=notes)


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


def _first(cases: Sequence, limit: int | None, kind) -> list:
    """The first `limit` cases of each kind; the sets hold one kind after another."""
    if limit is None:
        return list(cases)
    return [case for _, group in groupby(cases, kind) for case in islice(group, limit)]


def _without_rows(got: dict) -> dict:
    return {name: value for name, value in got.items() if name not in ("rows", "told")}
