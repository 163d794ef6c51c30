"""`hb draw`, `hb edit`, `hb ask`: a model at work, and whether it did what was asked."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from hb.cli.output import check_picture_name, seconds_by_part, to_json, write_picture
from hb.eval.protocol import as_seen
from hb.infer.pipeline import SHIPPED, Model, Pictures, load
from hb.models.checkpoint import WEIGHTS, CheckpointError
from hb.pictures import to_rgb, to_tensor
from hb.world.judge.edits import EditScore, score_edit
from hb.world.judge.judge import Verdict, check
from hb.world.judge.reading import Reading, read
from hb.world.language import DESCRIBE_REQUESTS, Command, LanguageError, apply, find, parse, parse_edit, say, say_edit
from hb.world.language.words import READABLE, split_words
from hb.world.scene import Request, Scene

DTYPES = dict(f32=torch.float32, bf16=torch.bfloat16, fp16=torch.float16, f64=torch.float64)
JUDGED_SIDES = (64, 128)
ASKING_WORDS = frozenset(
    "how many there are what where than more same is or describe this do you see any size shape texture place".split()
)


# ---- the verbs ------------------------------------------------------------------------------------------------------


def draw(args) -> None:
    out = check_picture_name(args.out)
    model = open_model(args)
    prompts = one_sentence(args.prompts)
    wished = [wish(p) if is_tiny(model, args) else (p, None) for p in prompts]
    flat = [w for w in wished for _ in range(args.n)]
    with plain_warnings():
        pictures = model.draw(
            [said for said, _ in flat],
            nfe=args.nfe,
            steps=args.steps,
            text_scale=args.text_scale,
            student=args.student,
            seed=[args.seed + i for _ in prompts for i in range(args.n)],
            warn=not args.quiet,
        )
    verdicts = judged(pictures, [request for _, request in flat])
    files = save_pictures(out, pictures, columns=args.n)
    if args.json:
        print(to_json(pictures.to_dict() | dict(verdicts=verdicts, files=list(map(str, files)))))
        return
    for k, (prompt, (said, _)) in enumerate(zip(prompts, wished)):
        print(prompt + (f"   (read as: {said})" if said != prompt else ""))
        for i in range(k * args.n, (k + 1) * args.n):
            print(f"  seed {pictures.seeds[i]}: {in_words(verdicts[i])}")
    print_cost(pictures, files)


def edit(args) -> None:
    out = check_picture_name(args.out)
    model = open_model(args)
    instruction = " ".join(args.instruction)
    picture = open_picture(args.picture)
    tiny = is_tiny(model, args)
    command = parse_edit(instruction) if tiny else None
    said = say_edit(command) if tiny else instruction
    scene = scene_in(picture, model) if tiny else None
    if scene is not None and command.of is not None:
        find(command.of, scene)  # "no star in this picture" is worth knowing before the wait
    done = model.edit(
        [picture],
        said,
        nfe=args.nfe,
        steps=args.steps,
        seed=args.seed,
        text_scale=args.text_scale,
        image_scale=args.image_scale,
        student=args.student,
    )
    verdict = edit_verdict(read(as_seen(done))[0], command, scene) if scene is not None else None
    file = write_picture(out, done.image)
    if args.json:
        print(to_json(done.to_dict() | dict(verdict=verdict, files=[str(file)])))
        return
    print(instruction + (f"   (read as: {said})" if said != instruction else ""))
    unjudged = "not judged: the judge cannot read the picture you gave as a scene of the tiny world" if tiny else ""
    print(f"  {in_words(verdict) or unjudged}".rstrip())
    print_cost(done, [file])


def ask(args) -> None:
    model = open_model(args)
    picture = open_picture(args.picture)
    asked = one_sentence(args.questions)
    questions = [plain_question(q) for q in asked] if is_tiny(model, args) else asked
    answers = model.ask(
        [picture],
        questions,
        max_tokens=args.max_tokens,
        temperature=args.temperature,
        seed=args.seed,
        speculate=not args.plain,
    )
    if args.json:
        print(to_json(answers.to_dict() | dict(acceptance_length=answers.acceptance_length)))
        return
    for question, answer in zip(asked, answers.texts):
        print(f"{question}\n  {answer or '(nothing)'}")
    each = f", {answers.acceptance_length:.1f} tokens a pass" if answers.cycles else ""
    print(f"{answers.passes} passes of the model{each}, {seconds_by_part(answers.seconds)}")


# ---- what comes in --------------------------------------------------------------------------------------------------


def open_model(args) -> Model:
    """The model that was asked for. Where the shipped one is missing, says how to get it."""
    if args.model == "nano" and not is_shipped("nano") and not Path("nano").is_dir():
        raise CheckpointError(
            "the trained model is not here: data/checkpoints/nano is missing from this copy of hb. Fetch one that has "
            "it, or train your own, a night on two cores: `hb train autoencoder`, then `hb train teacher`, and then "
            "give it with --model runs/nano/model"
        )
    check_device(args.device)
    model = load(args.model, device=args.device, dtype=DTYPES[args.dtype])
    if getattr(args, "full_decoder", False):
        model.pixel_decoder = None
    if getattr(args, "no_refiner", False) and model.pixel_decoder is not None:
        model.pixel_decoder = model.pixel_decoder.without_refiner()
    return model


def check_device(name: str) -> None:
    """Raises ValueError for a device that this machine does not have."""
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (number and not number.isdigit()):
        raise ValueError(f"no device called {name!r}; there are cpu, cuda, cuda:1 and mps")
    there = dict(cpu=1, cuda=torch.cuda.device_count(), mps=int(torch.backends.mps.is_available()))[kind]
    if not there:
        raise ValueError(f"PyTorch finds no {kind} device here; use --device cpu")
    if int(number or 0) >= there:
        raise ValueError(f"there is no {name} here; the last one is {kind}:{there - 1}")


def is_shipped(name: str) -> bool:
    """Is this the name of a model in data/checkpoints, and not a path to one?"""
    return Path(name).name == name and (SHIPPED / name / WEIGHTS).exists()


def folder_of(name: str) -> Path:
    """The folder of a model that `open_model` opens by this name."""
    return SHIPPED / name if is_shipped(name) else Path(name)


def open_picture(path: str) -> Image.Image:
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no picture {path}")
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture
    except UnidentifiedImageError:
        raise ValueError(f"{path} is not a picture that can be read; PNG, JPEG and WebP are fine") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} is too large to be opened safely ({error}); make it smaller first") from None
    except (OSError, SyntaxError) as error:  # what Pillow raises for files that end too early
        raise ValueError(f"{path} is a damaged picture ({error})") from None


def is_tiny(model: Model, args) -> bool:
    """Was it trained on the tiny world's language? Other models get every word as it is."""
    return model.bagel.config.picture_side is not None and not args.raw


def one_sentence(words: list[str]) -> list[str]:
    """`hb draw a red circle` without quotes means one prompt, not three."""
    return [" ".join(words)] if len(words) > 1 and not any(" " in word for word in words) else words


def wish(prompt: str) -> tuple[str, Request]:
    """A prompt in words that the model has seen, and what it asks for. Raises LanguageError for other worlds' words."""
    request = parse(prompt)
    return say(request), request


def plain_question(question: str) -> str:
    """A question in the tiny world's spelling. Raises LanguageError for a word that no question has."""
    words = [word for word in split_words(question) if word != ","]
    text = " ".join(words).replace("what thing", "what shape")  # in prompts, "a red shape" is any red thing
    for request in DESCRIBE_REQUESTS:
        if text == " ".join(split_words(request)):
            return request
    strange = next((word for word in words if word not in READABLE | ASKING_WORDS), None)
    if strange is not None:
        raise LanguageError(
            f"the word {strange!r} is not known; questions are like 'how many stars are there?', 'what color is the "
            "circle?', 'where is the red heart?', 'is the ring left of the moon?' or 'describe the picture'"
        )
    return text + "?"


# ---- what comes out -------------------------------------------------------------------------------------------------


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings as one sentence on the error stream, without the line of code they come from."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(f"hb: {message}", file=sys.stderr)
        yield


def judged(pictures: Pictures, requests: list[Request | None]) -> list[dict | None]:
    """A verdict on each picture; None where nothing in the tiny world's words was asked."""
    if pictures.pixels.shape[-1] not in JUDGED_SIDES or None in requests:
        return [None] * len(requests)
    return [to_verdict(check(reading, request)) for reading, request in zip(read(as_seen(pictures)), requests)]


def to_verdict(verdict: Verdict) -> dict:
    return dict(right=verdict.right, reasons=list(verdict.reasons))


def scene_in(picture: Image.Image, model: Model) -> Scene | None:
    """What the judge sees in a picture as the model gets it; None if it is no scene of the tiny world."""
    side = model.bagel.config.picture_side
    if side not in JUDGED_SIDES:
        return None
    return read(to_tensor(to_rgb(picture).resize((side, side), Image.Resampling.BICUBIC)) / 2 + 0.5).scene


def edit_verdict(reading: Reading, command: Command, scene: Scene) -> dict:
    """Was the command done, and is all else as it was? `scene` is what was there before."""
    try:
        target = apply(command, scene, np.random.default_rng(0))
    except LanguageError as error:
        return dict(right=False, reasons=[f"cannot be done: {error}"])
    place = command.change.place if command.change else None
    score: EditScore = score_edit(reading, scene, target, left_open(command), place)
    return dict(
        right=score.success == score.kept == 1, reasons=list(score.reasons), success=score.success, kept=score.kept
    )


def left_open(command: Command) -> frozenset[str]:
    """The sides of the edited thing that an instruction leaves to chance, as the judge names them."""
    if command.group == "move":
        return frozenset({"place"})
    if command.group == "add":
        return frozenset(
            {"place"} | {side for side in ("color", "size", "texture") if getattr(command.change, side) is None}
        )
    return frozenset()


def in_words(verdict: dict | None) -> str:
    if verdict is None:
        return ""
    return "right" if verdict["right"] else "wrong: " + "; ".join(verdict["reasons"][:2])


def save_pictures(path: Path, pictures: Pictures, columns: int) -> list[Path]:
    """One picture goes to `path`; several go to path-1, path-2 ... and side by side, enlarged, to `path`."""
    images = pictures.images
    if len(images) == 1:
        return [write_picture(path, images[0])]
    zoom = max(1, 128 // images[0].width)
    single = [write_picture(path.with_stem(f"{path.stem}-{i}"), image) for i, image in enumerate(images, 1)]
    return [write_picture(path, pictures.sheet(columns=columns, zoom=zoom)), *single]


def print_cost(pictures: Pictures, files: list[Path]) -> None:
    took = seconds_by_part(pictures.seconds)
    by = f", student {pictures.student}" if pictures.student else ""
    print(f"{pictures.nfe:g} function evaluations a picture (metered, {pictures.steps} steps{by}), {took}")
    first, last = str(files[0]), re.sub(r".*/", "", str(files[-1]))
    print(f"saved {first}" + (f", and one by one as {files[1].name} to {last}" if len(files) > 1 else ""))
