"""`hb eval lossless`, `hb bench ask`, `hb bench draft-ablation`, `hb tune tree`: speculation, checked and timed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from hb.cli.output import Table, table
from hb.cli.results import Number, finish, of_interval
from hb.cli.use import folder_of, open_model
from hb.eval import text as evaluate_text
from hb.eval.stats import t_interval
from hb.eval.text import CHAIN, TREE
from hb.infer.artifacts import DRAFT_CONFIG, DraftCheckpoint
from hb.infer.fused import decode_fast
from hb.infer.pipeline import Model
from hb.infer.speculative.decode import decode_speculative
from hb.infer.speculative.draft import DraftConfig, open_draft
from hb.infer.speculative.plan import Plan
from hb.infer.speculative.runner import DraftModel
from hb.infer.speculative.tune import Tuned, shortlist, tune
from hb.models.distribution import GREEDY, TokenDistribution
from hb.train.draft import train_draft, tuning_reads
from hb.train.trainer import precision_of
from hb.world import benchmark as bench

VARIANTS = {
    "vanilla EAGLE-3": dict(config=DraftConfig("eagle3", zero_init=False), ce_weight=0.0),
    "Hyper-Bagel": dict(config=DraftConfig()),
    "without zero-init": dict(config=DraftConfig(zero_init=False)),
    "without CE": dict(config=DraftConfig(), ce_weight=0.0),
    "without both": dict(config=DraftConfig(zero_init=False), ce_weight=0.0),
}


def with_draft(args) -> Model:
    """The model, with the draft that was named, or its own."""
    model = open_model(args)
    if getattr(args, "draft", None):
        model.draft = DraftCheckpoint.load(args.draft)
    if model.draft is None:
        raise ValueError(f"{args.model} has no draft model; train one (hb train draft) and name it with --draft")
    return model


def lossless(args) -> None:
    model, began = with_draft(args), time.monotonic()
    if args.threads:
        torch.set_num_threads(args.threads)
    plans = {"chain": CHAIN, "tree": TREE}
    errors = evaluate_text.exact_errors()
    same = evaluate_text.same_words(model, plans=plans, limit=args.limit, bar=not args.json)
    drawn = {"tree": TREE, "drawn chain": replace(CHAIN, rule="drawn")}
    squares = evaluate_text.chi_square(model, plans=drawn, draws=args.draws or 600, bar=not args.json)
    lines = [Number(f"exact distribution, rule {rule!r}: largest error", e, at_most=1e-6) for rule, e in errors.items()]
    lines.append(Number("exact distributions: largest error", max(errors.values()), at_most=1e-6, headline=True))
    for row in same["rows"]:
        share = 1 - len(row["different"]) / row["prompts"]
        lines.append(
            Number(
                f"greedy, {row['plan']}, {row['batch']} at once: same words",
                share,
                n=row["prompts"],
                target=1.0,
                headline=True,
            )
        )
    for row in squares:
        lines.append(
            Number(
                f"chi-square at temperature 1, {row['plan']}: p-value",
                row["p_value"],
                n=row["draws"],
                target=0.001,
                headline=True,
            )
        )
    result = dict(errors=errors, same=same, chi_square=squares)
    finish(args, "lossless", model, lines, result, began)


def ask(args) -> None:
    model, began = with_draft(args), time.monotonic()
    if args.threads:
        torch.set_num_threads(args.threads)
    best = model.draft.best
    plans = {"chain of 10": CHAIN, "best chain": CHAIN, "best tree": TREE}
    plans |= {f"best {kind}": Plan.from_dict(best[kind]) for kind in ("chain", "tree") if kind in best}
    eagle = DraftModel(open_draft(DraftCheckpoint.load(args.eagle3), model.bagel), model.bagel) if args.eagle3 else None
    lines, result = [], {}
    for task in evaluate_text.tasks(model, args.n or 12, args.temperatures, args.batch):
        shipped = Plan.of(model.draft.plans, task.distribution.temperature)
        generate = task.distribution.is_greedy and args.batch == 1
        ways = evaluate_text.methods(model, plans | {"hb (as shipped)": shipped}, eagle, generate)
        got = evaluate_text.race(task, ways, rounds=args.rounds, bar=not args.json)
        result[task.name] = got
        for way, row in got.items():
            if way == "plain":
                lines.append(Number(f"{task.name}: plain", row["tokens_per_second"], unit="tokens/s", headline=True))
                continue
            target = _target(task.name, way)
            lines.append(
                Number(
                    f"{task.name}: {way}, ratio to plain",
                    row["ratio"],
                    row["low"],
                    row["high"],
                    row["answers"],
                    target=target,
                    headline=target is not None,
                )
            )
        if task.name == "descriptions":
            for way, least in (("chain of 10", 4.5), ("best tree", 6.0)):
                lines.append(Number(f"tau, {way}", got[way]["tau"], target=least, headline=True))
    finish(
        args, "ask" if args.batch == 1 else f"ask_batch{args.batch}", model, lines, result, began, notes=_ledger(result)
    )


def _target(task: str, way: str) -> float | None:
    if task == "descriptions":
        return {"best tree": 3.0, "best chain": 2.2, "hb (as shipped)": 0.95}.get(way)
    return 0.95 if way == "hb (as shipped)" else None


def _ledger(result: dict) -> tuple[str, Table]:
    """Where a ratio comes from: tokens a pass, times what a pass alone may use of the time."""
    rows = []
    for task, got in result.items():
        for way, row in got.items():
            if way != "plain":
                shares = row["shares"]
                rows.append(
                    [
                        task,
                        way,
                        row["tau"],
                        f"{row['ratio'] / max(row['tau'], 1e-9):.3f}",
                        *(f"{100 * shares.get(part, 0):.0f}%" for part in ("draft", "target", "judge and keep")),
                        f"{row['ratio']:.3f}",
                        " ".join(f"{a:.2f}" for a in row["acceptance"][:6]),
                    ]
                )
    head = ["task", "by", "tau", "plain step / cycle", "draft", "target", "keep", "ratio", "acceptance by depth"]
    return "Ratio = tau x (time of a plain step / time of a cycle).", table(head, rows)


# ---- tuning ---------------------------------------------------------------------------------------------------------


def tune_tree(args) -> None:
    model, began = with_draft(args), time.monotonic()
    if args.threads:
        torch.set_num_threads(args.threads)
    fast, draft = model.fast_text(), model.fast_draft()
    side, n = model.bagel.config.picture_side, args.n or 8
    told = tuning_reads(model.bagel, model.text, side, 5 * n)
    begin, reads = (
        _when_to_begin(fast, told, tuning_reads(model.bagel, model.text, side, 20 * n, describe=False)),
        told[:n],
    )
    first = tune(fast, draft, reads, begin=begin, everything=args.grid)
    found: dict[float, Tuned] = {0.0: first}
    for t in args.temperatures:
        if t:
            found[t] = tune(
                fast, draft, reads, TokenDistribution(temperature=t), begin=begin, costs=first.costs, table=first.table
            )
    lines = [Number("a plain step", 1000 * first.costs.plain, unit="ms")]
    lines += [
        Number(f"a pass over {n} nodes", s / first.costs.plain, unit="plain steps")
        for n, s in first.costs.target.items()
    ]
    lines += [
        Number(f"a drafting step, width {w}", s / first.costs.plain, unit="plain steps")
        for w, s in first.costs.step.items()
    ]
    lines.append(Number("a cycle's fixed part", first.costs.cycle / first.costs.plain, unit="plain steps"))
    for depth, ranks in enumerate(first.table.tolist(), 1):
        lines.append(Number(f"guess {depth} right at first, given those before", ranks[0]))
    for t, tuned in found.items():
        best = max(tuned.trials, key=lambda trial: trial.ratio)
        lines.append(
            Number(
                f"temperature {t:g}: {in_words(tuned.plan)}",
                best.ratio if tuned.plan.depth else 1.0,
                unit="x plain",
                headline=True,
            )
        )
    if args.grid:
        raced = [t for t in first.trials if not t.plan.reward]
        listed = shortlist([t.plan for t in sorted(raced, key=lambda t: -t.predicted)])  # what is raced without --grid
        chosen, best = max(t.ratio for t in raced if t.plan in listed), max(t.ratio for t in raced)
        lines.append(
            Number(
                "choice of `hb tune tree` over the best of the grid",
                chosen / best,
                n=len(raced),
                target=0.95,
                headline=True,
            )
        )
    trials = {f"{t:g}": [asdict(x) for x in tuned.trials] for t, tuned in found.items()}
    plans = {f"{t:g}": asdict(tuned.plan) for t, tuned in found.items()}
    kinds = {
        "chain": [t for t in first.trials if t.plan.width == 1],
        "tree": [t for t in first.trials if t.plan.width > 1],
    }
    best = {kind: asdict(max(trials, key=lambda t: t.ratio).plan) for kind, trials in kinds.items() if trials}
    checkpoint = Path(args.draft) if args.draft else folder_of(args.model) / "draft"
    model.draft.planned(plans, best).save(checkpoint)
    finish(
        args,
        "tune_tree",
        model,
        lines,
        dict(trials=trials, plans=plans),
        began,
        notes=[f"The plans are in {checkpoint / DRAFT_CONFIG}."],
    )


def in_words(plan: Plan) -> str:
    if not plan.depth:
        return "plain"
    kind = f"tree {plan.depth} deep, {plan.width} wide, {plan.budget} guesses"
    if plan.is_narrow:
        kind = (
            f"chain of {plan.depth}"
            if plan.width == 1
            else f"main path of {plan.depth} with {plan.budget - plan.depth} leaves"
        )
    return kind + (", stopping early" if plan.reward else "")


def _when_to_begin(fast, told, short) -> dict:
    """`Plan.start_after` and `Plan.long_after`: after how many tokens the short answers have ended, and the first words
    of descriptions that no short answer begins with. A draft that begins at a short answer's end costs as much as the
    answer."""
    most = 12  # of what is short
    answer = lambda read, tokens: decode_fast(fast, read.context, max_tokens=tokens)[0][0]
    answers = [answer(read, most) for read in short]
    begun = {row[0] for row in (answer(read, 1) for read in told) if row} - {row[0] for row in answers if row}
    ended = [len(row) for row in answers if len(row) < most]
    return dict(start_after=1 + max(ended, default=0), long_after=tuple(sorted(begun)))


# ---- the ablation ---------------------------------------------------------------------------------------------------


def draft_ablation(args) -> None:
    """Hyper-Bagel's table 1 on this model: every variant, several seeds, tau and alpha over chains of ten."""
    model, began = open_model(args), time.monotonic()
    if args.threads:
        torch.set_num_threads(args.threads)
    scenes = bench.description_set()[: args.n or 40]
    folder, rows = Path(args.folder or "runs") / f"{model.name}-ablation", []
    folder.mkdir(parents=True, exist_ok=True)
    for name, options in VARIANTS.items():
        for seed in range(args.seeds):
            checkpoint = train_draft(
                folder / f"{name.replace(' ', '-')}-{seed}-{args.steps}",
                model.bagel,
                model.text,
                seed=seed,
                steps=args.steps,
                pool=args.pool,
                answers=folder / f"answers-{seed}.safetensors",
                bar=not args.json,
                precision=precision_of("f32"),
                **options,
            )
            model.draft = checkpoint
            tau = _tau(model, scenes)
            rows.append(dict(variant=name, seed=seed, tau=tau, alpha=evaluate_text.alpha(tau, 10)))
    lines = []
    for name in VARIANTS:
        for what in ("tau", "alpha"):
            got = t_interval([r[what] for r in rows if r["variant"] == name])
            lines.append(of_interval(f"{name}: {what}, chain of 10", got, headline=what == "tau"))
    finish(
        args,
        "draft_ablation",
        model,
        lines,
        dict(rows=rows, steps=args.steps, pool=args.pool),
        began,
        between="95% interval over seeds",
    )


def _tau(model: Model, scenes: Sequence) -> float:
    kept = passes = 0
    for scene in scenes:
        read = evaluate_text.read_scene(model, [scene])
        said = decode_speculative(model.fast_text(), model.fast_draft(), read, plan=CHAIN, distribution=GREEDY)
        kept += sum(sum(c.kept) for c in said.cycles)
        passes += said.passes
    return kept / passes
