"""`hb train`: every part of a model. A stopped run goes on; what comes out records where it came from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from hb.cli.output import to_json, write_json
from hb.cli.runs import (
    claim,
    interruptible,
    is_first_process,
    own_pictures,
    place,
    replace_folder,
    shares_of,
    trainer_options,
)
from hb.cli.starting import VISION, autoencoder_for, check_only_answers, load_autoencoder, load_vision, model_folder
from hb.cli.use import open_model
from hb.data.batches import BatchSizes
from hb.data.mixes import mixed
from hb.data.own_pictures import OwnPictures
from hb.files import write_tensors
from hb.infer.artifacts import DraftCheckpoint, PixelDecoderCheckpoint, fingerprint, understanding_fingerprint
from hb.infer.pipeline import SHIPPED, Model, Sampling
from hb.infer.speculative.draft import DraftConfig
from hb.models.checkpoint import AUTOENCODER, load_model
from hb.models.config import PRESETS, BagelConfig
from hb.models.tokenizer import Text, train_tokenizer
from hb.train.autoencoder import train_autoencoder, train_pixel_decoder, train_semantic
from hb.train.draft import train_draft
from hb.train.optim import refuse_not_finite
from hb.train.refiner import check_latents_are_fields, train_refiner
from hb.train.teacher import LEARNS, TeacherSettings, train_teacher
from hb.train.trainer import precision_of, provenance
from hb.train.vision import train_vision
from hb.world.language.corpus import corpus

TOKENIZER = SHIPPED.parent / "tokenizer"
CORPUS = 4000  # scenes that the tokenizer is trained on


@dataclass(frozen=True)
class Usual:
    """How a stage is trained unless the caller says otherwise. batch: pictures, or prompts, in a step; lr: Muon's."""

    steps: int
    batch: int
    lr: float


USUAL = {
    ("autoencoder", "nano"): Usual(steps=3500, batch=40, lr=0.008),
    ("teacher", "nano"): Usual(steps=4000, batch=48, lr=0.014),
    ("vision", "nano"): Usual(steps=4000, batch=32, lr=0.03),
    # needs a GPU; a first guess, not yet trained to the end
    ("vision", "small"): Usual(steps=10_000, batch=64, lr=0.03),
    ("autoencoder", "small"): Usual(steps=20_000, batch=64, lr=0.008),
    ("teacher", "small"): Usual(steps=20_000, batch=96, lr=0.014),
}
USUAL_DECODER = Usual(steps=6000, batch=16, lr=0.025)
USUAL_REFINER = Usual(steps=5000, batch=64, lr=0.01)
USUAL_DRAFT = Usual(steps=1200, batch=12, lr=0.01)


# ---- the verbs ------------------------------------------------------------------------------------------------------


def tokenizer(args) -> None:
    folder = Path(args.out) if args.out else TOKENIZER
    text = Text(train_tokenizer(corpus(np.random.default_rng([3, 0]), CORPUS)))
    replace_folder(folder, text.save)
    print(f"{text.vocab_size} tokens, written to {folder}")


def autoencoder(args) -> None:
    config, folder = _preset("autoencoder", args), _folder(args) / "autoencoder"
    usual = _usual("autoencoder", args)
    start = load_autoencoder(Path(args.start_from)) if args.start_from else None
    noise = args.noise if args.noise is not None else 0.4 if args.semantic else 0.0
    facts = dict(
        asdict(usual),
        start=start and fingerprint(start),
        decoder_only=args.decoder_only,
        semantic=args.semantic,
        noise=noise,
        data=args.data,
    )
    if args.semantic and args.data:
        raise ValueError(
            "--semantic teaches latents what is where in the tiny world, which pictures of one's own do not say: leave "
            "out one of --semantic and --data"
        )
    own = own_pictures(args, folder, config.picture_side)
    if args.semantic and args.decoder_only:
        raise ValueError(
            "--semantic trains the encoder and the decoder: leave out one of --semantic and --decoder-only"
        )
    claim(folder, args, facts, ("last.ckpt", "log.jsonl"))
    numbers, run = dict(steps=usual.steps, batch=usual.batch, lr=usual.lr, noise=noise), trainer_options(args)
    if args.semantic:
        run |= dict(precision=precision_of(args.precision))
        done = interruptible(
            train_semantic, folder, config.autoencoder, side=config.picture_side, start_from=start, **numbers, **run
        )
    else:
        done = interruptible(
            train_autoencoder,
            folder,
            config,
            **numbers,
            start_from=start,
            decoder_only=args.decoder_only,
            pictures=_pictures_of(own, args.seed),
            **run,
        )
    if not is_first_process():
        return
    weights = {name: value.contiguous() for name, value in done.state_dict().items()}
    write_tensors(folder / AUTOENCODER, weights, {"format": "pt"})
    write_json(folder / "vae_config.json", asdict(done.config) | dict(downsample=done.config.downsample))
    facts = provenance(folder, args.command, preset=args.preset, seed=args.seed, settings=facts)
    write_json(folder / "provenance.json", facts)
    _say(args, facts | dict(folder=str(folder)), f"The autoencoder is in {folder}. Next: hb train teacher{_same(args)}")


def vision(args) -> None:
    config, usual, folder = _preset("vision", args), _usual("vision", args), place(_folder(args), "vision")
    start = load_model(model_folder(args.start_from))[0].vit_model if args.start_from else None
    facts = dict(asdict(usual), start=args.start_from)
    claim(folder, args, facts, ("last.ckpt", "log.jsonl"))
    run = trainer_options(args) | dict(precision=precision_of(args.precision))
    tower = interruptible(
        train_vision, folder, config.vision, steps=usual.steps, batch=usual.batch, lr=usual.lr, start_from=start, **run
    )
    if not is_first_process():
        return
    write_tensors(folder / VISION, tower.state_dict(), {"format": "pt"})
    facts = provenance(folder, args.command, preset=args.preset, seed=args.seed, settings=facts)
    write_json(folder / "provenance.json", facts)
    _say(
        args,
        facts | dict(folder=str(folder)),
        f"The vision encoder is in {folder}. Next: hb train teacher{_same(args)} --vision {folder}",
    )


def teacher(args) -> None:
    config, usual, folder = _preset("teacher", args), _usual("teacher", args), _folder(args) / "teacher"
    start = model_folder(args.start_from) if args.start_from else None
    pictures = autoencoder_for(args, start, _folder(args))
    vision = load_vision(Path(args.vision), config) if args.vision else None
    text = Text.load(start or TOKENIZER)
    if args.learns == "answers":
        check_only_answers(start, pictures, vision)
    sizes, shares = _sizes(usual.batch, args), shares_of(args.mix)
    mix = mixed(shares)
    facts = dict(
        asdict(usual),
        edits=sizes.edit,
        dialogues=sizes.dialogue,
        pool=args.pool,
        autoencoder=fingerprint(pictures),
        start=args.start_from,
        retain=args.retain,
        vision=vision and fingerprint(vision),
        learns=args.learns,
        mix=shares or None,
        data=args.data,
    )
    own = own_pictures(args, folder, config.picture_side, text)
    claim(folder, args, facts, ("last.ckpt", "log.jsonl", "pool.safetensors"))
    done = interruptible(
        train_teacher,
        folder,
        config,
        pictures,
        text,
        steps=usual.steps,
        prompts=args.pool,
        scenes=args.pool,
        sizes=sizes,
        start_from=start,
        retain=model_folder(args.retain) if args.retain else None,
        vision_encoder=vision,
        mix=mix,
        own=own,
        settings=TeacherSettings(lr=usual.lr, learns=args.learns),
        **trainer_options(args),
    )
    if not is_first_process():
        return
    out = Path(args.out) if args.out else _folder(args) / "model"
    sampling = Sampling.load(start) if start else Sampling()
    model = Model(done.float().eval(), text, sampling, out.name)
    facts = provenance(folder, args.command, preset=args.preset, seed=args.seed, sizes=asdict(sizes), settings=facts)

    def save_all(into: Path) -> None:
        model.save_pretrained(into, torch.float16)
        write_json(into / "provenance.json", facts)

    replace_folder(out, save_all)
    _say(args, facts | dict(folder=str(out)), f"The model is in {out}. Try it: hb demo --model {out}")


def draft(args) -> None:
    model = open_model(args)
    usual = asked_for(USUAL_DRAFT, args)
    folder = Path(args.folder) if args.folder else Path("runs") / model.name / "draft"
    config = DraftConfig(args.kind, args.layers, not args.no_zero_init)
    start = DraftCheckpoint.load(args.start_from) if args.start_from else None
    facts = dict(
        asdict(usual),
        pool=args.pool,
        draft=asdict(config),
        ce_weight=args.ce_weight,
        target=understanding_fingerprint(model.bagel),
        start=args.start_from,
    )
    args.preset = model.name
    claim(folder, args, facts, ("last.ckpt", "log.jsonl", "answers.safetensors"))
    done = interruptible(
        train_draft,
        folder,
        model.bagel,
        model.text,
        config,
        **asdict(usual),
        pool=args.pool,
        ce_weight=args.ce_weight,
        start_from=start,
        **trainer_options(args) | dict(precision=precision_of(args.precision)),
    )
    if not is_first_process():
        return
    out = Path(args.out) if args.out else place(folder, "checkpoint")
    facts = provenance(folder, args.command, target=model.name, seed=args.seed, settings=facts)

    def save_all(into: Path) -> None:
        done.save(into)
        write_json(into / "provenance.json", facts)

    replace_folder(out, save_all)
    _say(args, facts | dict(folder=str(out)), f"The draft is in {out}. Next: hb tune tree --draft {out}")


def decoder(args) -> None:
    model = open_model(args)
    usual = asked_for(USUAL_DECODER, args)
    folder = Path(args.folder) if args.folder else Path("runs") / model.name / "decoder"
    start = PixelDecoderCheckpoint.load(args.start_from) if args.start_from else None
    if start is not None:
        start.open(model.bagel)  # raises if it belongs to another encoder, or is of an older kind
    side = model.bagel.config.picture_side
    own = own_pictures(args, folder, side)
    facts = dict(asdict(usual), noise=args.noise, autoencoder=fingerprint(model.bagel.autoencoder))
    facts |= dict(start=args.start_from, data=args.data)
    args.preset = model.name
    claim(folder, args, facts, ("last.ckpt", "log.jsonl"))
    done = interruptible(
        train_pixel_decoder,
        folder,
        model.bagel.autoencoder,
        side=side,
        **asdict(usual),
        noise=args.noise,
        start_from=start,
        pictures=_pictures_of(own, args.seed),
        **trainer_options(args),
    )
    _write_decoder(args, done, folder, model, facts | (dict(before=start.provenance) if start is not None else {}))


def refiner(args) -> None:
    model = open_model(args)
    usual = asked_for(USUAL_REFINER, args)
    folder = Path(args.folder) if args.folder else place(Path("runs") / model.name, "refiner")
    start = PixelDecoderCheckpoint.load(args.start_from) if args.start_from else model.pixel_decoder
    if start is None:
        raise ValueError(
            f"{model.name} has no pixel decoder, which a refiner stands in front of; train one first: hb train decoder"
        )
    start.open(model.bagel)  # raises if it belongs to another encoder
    side, autoencoder = model.bagel.config.picture_side, model.bagel.autoencoder
    check_latents_are_fields(autoencoder, side)
    facts = dict(asdict(usual), noise=args.noise, decoder=start.fingerprint(), start=args.start_from)
    args.preset = model.name
    claim(folder, args, facts, ("last.ckpt", "log.jsonl"))
    done = interruptible(
        train_refiner,
        folder,
        start,
        rows=side // autoencoder.config.downsample,
        **asdict(usual),
        noise=args.noise,
        **trainer_options(args) | dict(precision=precision_of(args.precision)),
    )
    _write_decoder(args, done, folder, model, facts | dict(before=start.provenance))


def _write_decoder(args, done: PixelDecoderCheckpoint, folder: Path, model: Model, facts: dict) -> None:
    """Write the checkpoint of a finished run, and print what comes next."""
    if not is_first_process():
        return
    out = Path(args.out) if args.out else place(folder, "checkpoint")
    facts = provenance(folder, args.command, model=model.name, seed=args.seed, settings=facts)
    replace_folder(out, replace(done, provenance=facts).save)
    _say(
        args,
        facts | dict(folder=str(out)),
        f"The pixel decoder is in {out}. To use it, put it into the model's folder as decoder/.",
    )


# ---- what goes in ---------------------------------------------------------------------------------------------------


def _pictures_of(own: OwnPictures | None, seed: int):
    """Pictures of one's own as an autoencoder's training takes them."""
    return own and (lambda n, step, rank: own.random_pictures(n, seed, step, rank))


def _preset(stage: str, args) -> BagelConfig:
    trained = [name for s, name in USUAL if s == stage]
    if args.preset not in trained:
        raise ValueError(f"no preset {args.preset!r} to train; there are {' and '.join(trained)}")
    return PRESETS[args.preset]


def _usual(stage: str, args) -> Usual:
    return asked_for(USUAL[stage, args.preset], args)


def asked_for(usual: Usual, args) -> Usual:
    refuse_not_finite(**{f"--{name}": getattr(args, name, None) for name in ("lr", "noise", "ce_weight", "minutes")})
    return Usual(args.steps or usual.steps, args.batch or usual.batch, usual.lr if args.lr is None else args.lr)


def _sizes(batch: int, args) -> BatchSizes:
    """What a step of the teacher holds: of what is not learnt, nothing."""
    draws, answers = LEARNS[args.learns]
    for option, learnt in (("edits", draws), ("dialogues", answers)):
        if getattr(args, option) and not learnt:
            raise ValueError(f"--{option} is for what --learns {args.learns} does not train; leave one of the two out")
    if args.mix and not draws:
        raise ValueError(
            f"--mix is of prompts to draw, and --learns {args.learns} draws none; leave one of the two out"
        )
    half = max(1, batch // 2)
    if not draws:
        return BatchSizes(0, 0, args.dialogues or batch)
    return BatchSizes(batch, args.edits or half, (args.dialogues or half) if answers else 0)


def _folder(args) -> Path:
    return Path(args.folder) if args.folder else Path("runs") / args.preset


def _same(args) -> str:
    options = [("preset", "nano"), ("folder", None)]
    return "".join(f" --{name} {getattr(args, name)}" for name, usual in options if getattr(args, name) != usual)


def _say(args, facts: dict, words: str) -> None:
    print(to_json(facts) if args.json else f"{facts['steps']} steps done. {words}")
