"""`hb distill STAGE`: a stage of a recipe, or all of it. Students go into a folder of their own, by
name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

from torch import Tensor

from hb.cli.output import to_json
from hb.cli.runs import claim, interruptible, is_first_process, own_pictures, replace_folder, shares_of, trainer_options
from hb.cli.use import open_model
from hb.data.mixes import mixed
from hb.eval.feedback import WatchReward
from hb.eval.one_step import watching
from hb.infer.artifacts import STUDENT_CONFIG, Student, fingerprint
from hb.infer.pipeline import STUDENTS, Model
from hb.pictures import from_uint8
from hb.train.distill.adp import OneStep
from hb.train.distill.adp_settings import OneStepSettings
from hb.train.distill.batch import StageBatch
from hb.train.distill.dmdo import RENAMED, DistributionMatching, MatchingSettings
from hb.train.distill.feedback import DiffusionDpo, DpoSettings, Draft, DraftSettings
from hb.train.distill.recipe import check_beginning, mean_of, run_stage, with_new_guidance_embedding
from hb.train.distill.rewarded import Reward
from hb.train.distill.specs import CHAINS, SERVED, SHIFT, STAGES, StageSpec
from hb.train.distill.stage import Stage
from hb.train.distill.tscd import SegmentedConsistency
from hb.train.loggers import LogMeasured
from hb.train.optim import refuse_not_finite
from hb.train.pools import pool_for
from hb.train.trainer import precision_of, provenance, working_device

SETTINGS = {
    OneStep: (OneStepSettings,),
    DistributionMatching: (MatchingSettings,),
    Draft: (DraftSettings,),
    DiffusionDpo: (DpoSettings,),
}
STAGE_SETTINGS = {"average", "deployed", "decay", "copies"}  # of every stage; the rate has an option of its own


def distill(args) -> None:
    model = open_model(args)
    if model.bagel.config.picture_side is None:
        raise ValueError(
            f"{args.model} is not of the tiny world, and its training data are not here; distill nano or your own"
        )
    if (args.start_from or args.mean_with) and args.stage in CHAINS:
        raise ValueError(
            f"--start-from and --mean-with are for one stage; {args.stage} begins with the teacher, each stage "
            "with the one before it"
        )
    if args.new_guidance_embedding and not args.start_from:
        raise ValueError(
            "--new-guidance-embedding goes with --start-from: a run that begins with the teacher has a new one"
        )
    folder = Path(args.folder) if args.folder else Path("runs") / model.name / "distill"
    names = CHAINS.get(args.stage, (args.stage,))
    specs = {name: _as_asked(STAGES[name], args, name) for name in names}
    args.preset = model.name  # whose run it is
    students = dict(model.students) | _in(folder)
    own = own_pictures(args, folder, model.bagel.config.picture_side, model.text)
    made = {}
    for name in names:
        made[name] = students[name] = _one(name, specs[name], model, folder, students, args, own)
        if not is_first_process():
            continue
        if args.install:
            _put(made[name], Path(args.install) / STUDENTS / name)
    if args.stage in SERVED and is_first_process():
        made[args.stage] = served = replace(made[names[-1]], default=True)
        for home in (folder, *([Path(args.install)] if args.install else [])):
            _put(served, home / STUDENTS / args.stage)
    if is_first_process():
        _say(args, made, folder)


def _one(name: str, spec: StageSpec, model: Model, folder: Path, students: dict[str, Student], args, own) -> Student:
    shares = shares_of(args.mix)
    mix = mixed(shares)
    # stages share a pool, those of another mix have their own; one that was made of anything else is made anew
    kind = ["pool", *(f"{task}{share:g}" for task, share in sorted(shares.items())), *(["own"] if args.data else [])]
    pool_name = "-".join(kind) + ".safetensors"
    home, begin = folder / name, Student.load(args.start_from) if args.start_from else None
    if begin is not None and args.new_guidance_embedding:
        begin = with_new_guidance_embedding(begin, model.bagel)
    check_beginning(name, spec, model.bagel, students, begin)
    others = [Student.load(folder) for folder in args.mean_with]  # read now: a wrong one must not cost a run
    if others:
        mean_of([_untrained(name, spec, model, others[0].weights), *others])
    # a beginning by its folder, not by its weights: the run may end by putting its own there
    first = args.start_from or (spec.after and students[spec.after].fingerprint())
    facts = dict(
        stage=name,
        steps=spec.steps,
        lr=spec.lr,
        prompts=spec.prompts,
        edits=spec.edits,
        options=_as_noted(spec.options),
        vision=None if spec.vision else False,  # None: as in a run from before there was a choice
        teacher=fingerprint(model.bagel),
        pool=args.pool,
        start=first,
        mix=shares or None,
        new_guidance_embedding=args.new_guidance_embedding or None,
        extra_layers=spec.extra_layers or None,  # None: as in a run from before there was a choice
        data=args.data,
    )
    # the rate too: a run that diverged is told to go on with a smaller one
    claim(home, args, facts, ("last.ckpt", "log.jsonl"), may_change=("steps", "lr"))
    options = trainer_options(args) | dict(precision=precision_of(args.precision))
    pool = pool_for(
        model.bagel.autoencoder,
        model.text,
        folder / pool_name,
        side=model.bagel.config.picture_side,
        prompts=args.pool,
        scenes=args.pool,
        seed=args.seed,
        mix=mix,
        own=own,
        device=working_device(**options),
    )
    guidance = dict(draw=model.sampling.draw, edit=model.sampling.edit)
    student = interruptible(
        run_stage,
        name,
        home,
        model.bagel,
        pool,
        guidance=guidance,
        students=students,
        spec=spec,
        steps=spec.steps,
        tiny=model.pixel_decoder,
        begin=begin,
        reward=reward_of(model, args.reward) if rewarded(spec) else None,
        callbacks=_watching(name, spec, model, home, args),
        **options,
    )
    student = mean_of([student, *others])
    student = replace(student, provenance=student.provenance | provenance(home, args.command, model=model.name))
    if is_first_process():
        _put(student, folder / STUDENTS / name)
    return student


def rewarded(spec: StageSpec) -> bool:
    """Does the stage need a reward?"""
    return spec.make in (Draft, DiffusionDpo) or bool(spec.options.get("reward"))


def _trained_reward(model: Model, name: str | None) -> str:
    """The reward of this name, or the model's first."""
    return name or next(iter(model.rewards), "vision")


def reward_of(model: Model, name: str | None) -> Reward:
    """A reward of the model as stage 5 takes it. name: None for the first. Raises ValueError if there is none."""
    name = _trained_reward(model, name)
    reward, thresholds = model.open_reward(name), model.rewards[name].thresholds

    def of(pictures: Tensor, batch: StageBatch) -> tuple[Tensor, float]:
        task = batch.task
        source = from_uint8(batch.source["scene_picture"]) if task == "edit" else None
        ids, length = (batch.source[f"{task}_{what}"].int() for what in ("ids", "length"))
        condition = reward.condition(model.bagel, ids[:, : int(length.max())], length, source)
        return reward(pictures, condition.select(batch.rows))[0], thresholds[task]

    return of


def _untrained(name: str, spec: StageSpec, model: Model, weights: Mapping[str, Tensor]) -> Student:
    """The student that the stage will give, with these weights."""
    teacher = fingerprint(model.bagel)
    return Student(name, spec.evaluations, SHIFT, teacher, spec.sampler, reads_vision=spec.vision, weights=weights)


def _watching(name: str, spec: StageSpec, model: Model, folder: Path, args) -> list[LogMeasured]:
    """What --watch attaches: training never imports evaluations."""
    if not args.watch:
        return []
    student = _untrained(name, spec, model, {})
    student = replace(student, steps=6) if spec.any_steps else student
    watched = [LogMeasured(watching(model, student), args.watch)]
    if rewarded(spec):
        trained = _trained_reward(model, args.reward)
        names = [trained, *(other for other in model.rewards if other != trained)]
        rewards = {reward: model.open_reward(reward) for reward in names}
        measure = WatchReward(model, student, rewards, folder=folder)
        ends = None if args.go_on_when_hacked else measure.ends
        watched.append(LogMeasured(measure, args.watch, before=True, ends=ends))
    return watched


def _as_noted(options: dict) -> str:
    """A stage's options in the words of runs begun before 0.2, which go on if they are the same."""
    before = {new: old for old, new in RENAMED.items()}
    return str({before.get(name, name): value for name, value in options.items()}).replace("'multistep'", "'renoise'")


def _as_asked(spec: StageSpec, args, name: str) -> StageSpec:
    """The stage with the options of the command line. Raises ValueError for one that the stage does not have."""
    refuse_not_finite(**{f"--{name}": getattr(args, name) for name in ("lr", "mse", "minutes")})
    of_spec = ("steps", "lr", "prompts", "edits", "vision", "extra_layers")
    changes = {field: getattr(args, field) for field in of_spec if getattr(args, field) is not None}
    options = dict(spec.options)
    own = ("renoise_fake", "renoise_student", "sample_fake", "sample_student", "fake_updates")
    kinds = dict.fromkeys(own, DistributionMatching)
    for option, kind in (kinds | dict(mse=SegmentedConsistency)).items():
        value = getattr(args, option)
        if value is None:
            continue
        if spec.make is not kind and args.stage not in CHAINS:
            raise ValueError(f"--{option.replace('_', '-')} does not go with the stage {name!r}")
        if spec.make is kind:
            options[option] = value
    options |= settings_of(args.set, spec.make, name)
    return replace(spec, options=options, **changes)


def settings_of(words: Sequence[str], make: type[Stage], name: str) -> dict:
    """["r1=0.25", "pairing=hinge"] as settings of a stage. Raises ValueError for one that it does not have."""
    known = {field.name for kind in SETTINGS.get(make, ()) for field in fields(kind)} | STAGE_SETTINGS
    found = {}
    for word in words:
        setting, equals, value = word.partition("=")
        if not equals or setting not in known:
            raise ValueError(f"--set takes NAME=VALUE, and {name!r} has {', '.join(sorted(known))}; not {word!r}")
        try:
            found[setting] = json.loads(value)
        except ValueError:
            found[setting] = value
        if isinstance(found[setting], list):
            found[setting] = tuple(found[setting])
    return found


def _in(folder: Path) -> dict[str, Student]:
    """Students that earlier stages left."""
    found = sorted((folder / STUDENTS).glob(f"*/{STUDENT_CONFIG}"))
    return {file.parent.name: Student.load(file.parent) for file in found}


def _put(student: Student, folder: Path) -> None:
    replace_folder(folder, student.save)


def _say(args, made: dict[str, Student], folder: Path) -> None:
    if args.json:
        print(to_json({name: student.to_dict() for name, student in made.items()}))
        return
    for name, student in made.items():
        print(
            f"{name}: {student.provenance['steps']} steps; it serves {student.steps} evaluations. "
            f"It is in {folder / STUDENTS / name}"
        )
    last = next(reversed(made))
    if args.install:
        print(f'Try it: hb draw "a red circle" --model {args.install} --student {last}')
    else:
        print(f"To use it by name, give --install MODEL_FOLDER, or copy {folder / STUDENTS} into the model's folder.")
