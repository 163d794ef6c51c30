"""`hb train reward` and `hb eval reward`: a model of what people prefer, and how well it predicts clicks."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from hb import plots
from hb.cli.output import table, to_json, write_figure
from hb.cli.results import PICTURES_AGAINST, ROWS, Number, against_of, cost, finish, in_full, of_interval, of_low_end
from hb.cli.runs import SHOWN, claim, interruptible, is_first_process, replace_folder, trainer_options
from hb.cli.train import Usual, asked_for
from hb.cli.use import open_model
from hb.data.preference_pool import PreferencePool, from_clicks, joined, make_preferences, some_edits, some_requests
from hb.data.preference_scenes import rendered_preferences
from hb.data.preferences import read_preferences
from hb.eval.coverage import coverage_eval
from hb.eval.reward import EVERY, held_out_pictures, maker, reward_eval, ways
from hb.eval.reward_change import reward_change, rewarded_rows
from hb.infer.artifacts import RewardCheckpoint
from hb.infer.folders import REWARDS
from hb.infer.pipeline import Model
from hb.models.rewards import RewardConfig
from hb.seeding import TRAINING
from hb.train.reward import train_reward
from hb.train.trainer import precision_of, provenance
from hb.world import benchmark as bench
from hb.world.annotator import Annotator, annotators

TITLE = "Predicted and observed preferences on requests that no reward was trained on"
PEOPLE, OTHERS = 3, 1000  # annotators of a reward that does not say; others are this many seeds away
USUAL = Usual(steps=1500, batch=64, lr=2e-3)


# ---- hb train reward ------------------------------------------------------------------------------------------------


def train(args) -> None:
    model = open_model(args)
    usual, side = asked_for(USUAL, args), model.bagel.config.picture_side
    if side is None and not args.clicks:
        raise ValueError(
            f"{args.model} is not of the tiny world, so no simulated annotator can read its pictures; give clicks of "
            "people with --clicks FILE"
        )
    form = dict(features=args.features, inner=args.width, layers=args.layers, attention=args.attention)
    RewardConfig.of(model.bagel, **form)  # refused before anything is made
    if not args.prompts and not args.edits:
        raise ValueError("--prompts 0 and --edits 0 leave nothing to compare; give one of them, or --clicks FILE")
    name = args.name or args.features
    folder = Path(args.folder) if args.folder else Path("runs") / model.name / "reward" / name
    facts = dict(
        asdict(usual),
        features=args.features,
        loss=args.loss,
        width=args.width,
        layers=args.layers,
        reads=RewardCheckpoint.stamp(model.bagel),
        clicks=args.clicks,
        attention=args.attention or None,  # None: as in a run from before there was a choice
    )
    if not args.clicks:
        facts |= dict(
            prompts=args.prompts, edits=args.edits, rendered=args.rendered, annotators=args.annotators, noise=args.noise
        )
        facts |= dict(careless=args.careless, annotator_seed=args.annotator_seed, pictures=args.pictures)
    args.preset = model.name
    claim(folder, args, facts, ("last.ckpt", "log.jsonl", "draw.safetensors", "edit.safetensors"))
    pools = _clicked(args, model, side) if args.clicks else _simulated(args, model, folder, side)
    done = interruptible(
        train_reward,
        folder,
        model.bagel,
        pools,
        form=form,
        loss=args.loss,
        **asdict(usual),
        **trainer_options(args) | dict(precision=precision_of(args.precision)),
    )
    if not is_first_process():
        return
    made = {task: dict(pictures=len(pool.picture), comparisons=len(pool)) for task, pool in pools.items()}
    facts = provenance(folder, args.command, model=model.name, seed=args.seed, settings=facts, pools=made)
    done = replace(done, provenance=done.provenance | facts)
    out = Path(args.out) if args.out else folder / "checkpoint"
    places = [out, *([Path(args.install) / REWARDS / name] if args.install else [])]
    for place in places:
        replace_folder(place, done.save)
    if args.json:
        print(to_json(facts | dict(folder=str(out), thresholds=done.thresholds, held_out=done.provenance["held_out"])))
        return
    for task, held in done.provenance["held_out"].items():
        print(f"{task}: {made[task]['comparisons']} comparisons; {held['right']:.3f} right of {held['n']} held out")
    next_step = (
        "Next: hb eval reward" if args.install else f"To use it, put it into the model's folder as {REWARDS}/{name}"
    )
    print(f"{facts['steps']} steps done. The reward is in {places[-1]}. {next_step}.")


def _clicked(args, model: Model, side: int | None) -> dict[str, PreferencePool]:
    """What a person clicked, by task. Sentences about rows that are left out go to stderr."""
    clicks = read_preferences(args.clicks, size=side and (side, side), decode=model.decode_pictures)
    print("\n  ".join([f"{args.clicks}: {clicks}", *clicks.left_out[:SHOWN]]), file=sys.stderr)
    return from_clicks(clicks, model.text)


def _simulated(args, model: Model, folder: Path, side: int) -> dict[str, PreferencePool]:
    """Pictures of prompts and edits, drawn once and stored; rendered ones beside them; and the clicks of simulated
    annotators."""
    people = annotators(args.annotators, args.annotator_seed, noise=args.noise, careless=args.careless)
    home = Path(args.pictures) if args.pictures else folder / "pictures"
    rng = np.random.default_rng([TRAINING, args.seed, 43])
    asked = dict(draw=some_requests(args.prompts, rng), edit=some_edits(args.edits, rng))
    pools = {}
    for task, cases in asked.items():
        if not cases:
            continue
        stored = home / f"{task}.safetensors"
        if not stored.exists():
            how = dict(side=side, seed=args.seed, folder=home / task, bar=not args.json)
            make_preferences([maker(model, way) for way in ways(model)], cases, model.text, people, **how).save(
                stored, _made_of(model)
            )
        elif PreferencePool.made_of(stored) != _made_of(model):
            raise ValueError(f"{stored} has pictures of another model; give another --pictures, or remove the folder")
        both = [PreferencePool.load(stored)]
        if args.rendered:
            others = (some_requests if task == "draw" else some_edits)(args.rendered * len(cases), rng)
            both.append(rendered_preferences(others, model.text, side=side, seed=args.seed))
        pools[task] = joined(both).clicked(people, args.seed)
    return pools


def _made_of(model: Model) -> dict:
    students = {name: student.fingerprint() for name, student in model.students.items() if student.default}
    return dict(model=model.fingerprint(), students=students)


# ---- hb eval reward -------------------------------------------------------------------------------------------------


def evaluate(args) -> None:
    if args.student is not None:
        return _change(args)
    model, began = open_model(args), time.monotonic()
    names = [args.reward] if args.reward else _every_reward(args, model)
    rewards = {name: model.open_reward(name) for name in names}
    people, others = _people(args, model.rewards[names[0]])
    pools = held_out_pictures(model, people, seed=args.seed, every=args.every or EVERY, keep=ROWS, bar=not args.json)
    got = reward_eval(rewards, pools, people, others, seed=args.seed)
    trained, *held = names
    lines = [of_interval("accuracy of the annotators' own utilities", got["ceiling"])]
    lines += [of_interval(f"accuracy of their utilities, {task}", of_task) for task, of_task in got["ceilings"].items()]
    lines += [of_interval("agreement of two annotators", got["agreement"])]
    for who, score in (("the judge alone", got["judge"]), *got["rewards"].items()):
        told = who if score is got["judge"] else f"reward {who}"
        lines += [of_interval(f"accuracy, {told}", score["accuracy"])]
        lines += [of_interval(f"accuracy, {told}, {task}", of_task) for task, of_task in score["tasks"].items()]
        first = dict(target=0.8 if in_full(args) else None) if who == trained else {}
        lines += [of_interval(f"normalized accuracy, {told}", score["normalized"], headline=who in names, **first)]
        lines += [of_interval(f"normalized accuracy on other annotators' clicks, {told}", score["others"])]
    lines += [
        Number(f"calibration error, reward {name}", score["calibration"]["error"], headline=name == trained)
        for name, score in got["rewards"].items()
    ]
    got |= dict(thresholds={name: model.rewards[name].thresholds for name in names})
    got |= dict(identities={name: model.rewards[name].fingerprint() for name in names})
    file = finish(args, "reward", model, lines, got, began)
    curves = {name: score["calibration"]["bins"] for name, score in got["rewards"].items()}
    write_figure(file.with_suffix(".png"), plots.calibration(curves, title=TITLE), dpi=120)


def _change(args) -> None:
    """`hb eval reward --student A --against B`: the first reward, or --reward, is the one that A was trained on."""
    model, began = open_model(args), time.monotonic()
    every = _every_reward(args, model)
    trained = args.reward or every[0]
    names = [trained, *(name for name in every if name != trained)]
    rewards = {name: model.open_reward(name) for name in names}
    identities = {name: model.rewards[name].fingerprint() for name in names}
    spent, name = cost(args, "reward")
    run, sides = dict(seed=args.seed, keep=ROWS, bar=not args.json), (spent, against_of(args))
    how = dict(cases=bench.scene_set(), pictures=args.pictures or PICTURES_AGAINST, **run)
    rows = [rewarded_rows(model, rewards, identities, **how, **side) for side in sides]
    fewer = {} if args.pictures is None else dict(pictures=12 * args.pictures)
    covered = [coverage_eval(model, keep=ROWS, bar=not args.json, **fewer, **side) for side in sides]
    own, others = _people(args, model.rewards[trained])
    got = reward_change(*rows, {"its annotators": own, "other annotators": others}, tuple(covered))
    shown, lines = {f"reward {trained}": got["rewards"][trained]}, []
    shown |= {f"utility of {people}": of_people for people, of_people in got["utility"].items()}
    held = {f"reward {other}, held out": got["rewards"][other] for other in names[1:]}
    held |= {"right, by the judge": got["right"], "coverage": got["coverage"]}
    who = f"{args.student} minus {args.against}"
    lines += [of_interval(f"{what}: {who}", of["difference"], headline=True) for what, of in shown.items()]
    lines += [of_low_end(f"{what}: {who}", of["difference"], target=-0.01) for what, of in held.items()]
    means = [[what, f"{of['before']:.3f}", f"{of['after']:.3f}"] for what, of in (shown | held).items()]
    notes = [table(["mean of", args.against, args.student], means)]
    if not args.reward and len(names) > 1:
        notes.append(f"Was {args.student} trained on another reward than {trained}? Name it with --reward.")
    finish(args, name, model, lines, got | dict(trained=trained, identities=identities), began, notes=notes)


def _every_reward(args, model: Model) -> list[str]:
    """The names of the model's rewards. Raises ValueError if it has none."""
    if not model.rewards:
        raise ValueError(f"{args.model} has no rewards; train one: hb train reward --install {args.model}")
    return list(model.rewards)


def _people(args, reward: RewardCheckpoint) -> tuple[list[Annotator], list[Annotator]]:
    """The annotators that the reward was trained on, and others."""
    known = reward.provenance.get("settings", {})
    seed = known.get("annotator_seed", 0) if args.annotator_seed is None else args.annotator_seed
    how = {name: known[name] for name in ("noise", "careless") if name in known}
    count = known.get("annotators", PEOPLE)
    return annotators(count, seed, **how), annotators(count, seed + OTHERS, **how)
