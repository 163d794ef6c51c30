"""What may be typed after `hb`. The verbs are in `hb.cli`, imported when one is chosen: help is instant."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from importlib import import_module

WELCOME = """\
hb: one small model that draws, edits and answers, and the whole Hyper-Bagel recipe that makes it fast.

Start with:
  hb demo                                            draws, edits, asks, and judges what came out
  hb draw "a red circle left of a blue star"
  hb lab                                             the notebooks
"""
MORE = """\
`hb VERB --help` explains a verb and gives examples. A mistake ends with a sentence and status 2; HB_TRACEBACK=1 shows
where the sentence came from."""

MODEL_HELP = 'a shipped model ("nano") or a model folder, ours or the released BAGEL-7B-MoT (default: %(default)s)'
STOPPED = "stopped; no half-written file was left behind"
GOES_ON = "stopped; nothing is lost: the same command goes on from "


def main(argv: list[str] | None = None) -> int:
    """Run one command line; returns the exit status (0 done, 2 a mistake with a sentence, 130 interrupted)."""
    argv = sys.argv[1:] if argv is None else argv
    args = _parse(argv)
    args.command = shlex.join(["hb", *argv])
    module, verb = args.run.split(":")
    try:
        return getattr(import_module(module), verb)(args) or 0
    except KeyboardInterrupt:
        print(f"\nhb: {args.stopped}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has gone: `hb eval judge | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, ModuleNotFoundError) as error:
        if os.environ.get("HB_TRACEBACK"):
            raise
        print(f"hb: {_sentence(error)}", file=sys.stderr)
        return 2


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:  # "[Errno 2] ..." means nothing to most people
        return f"{error.filename or 'a file'}: {error.strerror.lower()}"
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed here; `make setup` installs everything into .venv"
    return str(error)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = build_parser()
    if argv[:1] == ["lab"] and not {"-h", "--help"} & set(argv):  # its options are JupyterLab's, not ours
        args = parser.parse_args(["lab"])
        args.notebook = next((word for word in argv[1:] if word.endswith(".ipynb")), None)
        args.options = [word for word in argv[1:] if word != args.notebook]
        return args
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.error(f"I do not know {' '.join(unknown)}; `hb {args.verb} --help` lists what there is")
    return args


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("hb", description=WELCOME, epilog=MORE, formatter_class=_Plain)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for add in (_demo, _draw, _edit, _ask, _train, _distill, _recipe, _tune, _eval, _bench, _lab):
        add(verbs)
    return parser


class _Plain(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of descriptions and examples."""

    def __init__(self, prog):
        super().__init__(prog, max_help_position=30, width=110)


def _verb(verbs, name: str, run: str, short: str, about: str, examples: str, *parents, stopped: str = STOPPED):
    """A verb's parser, with what --help says about it."""
    epilog = "examples:\n" + "\n".join(f"  {line}" for line in examples.strip().splitlines())
    parser = verbs.add_parser(
        name, help=short, description=about, epilog=epilog, formatter_class=_Plain, parents=parents
    )
    parser.set_defaults(run=f"hb.cli.{run}", stopped=stopped)
    return parser


# ---- options that several verbs have --------------------------------------------------------------------------------


def _at_least_one(word: str) -> int:
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {number}")
    return number


_at_least_one.__name__ = "whole number"  # what argparse calls it when somebody types "six"


def _json() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--json", action="store_true", help="print JSON and nothing else")
    return options


def _model() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    group = options.add_argument_group("model")
    group.add_argument("--model", default="nano", metavar="NAME", help=MODEL_HELP)
    group.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    group.add_argument(
        "--dtype", default="f32", choices=("f32", "bf16", "f16"), help="type of the weights (default: %(default)s)"
    )
    group.add_argument(
        "--full-decoder",
        action="store_true",
        help="pixels by the autoencoder's own decoder, if the model has a tiny one too",
    )
    return options


def _student(against: bool = False) -> argparse.ArgumentParser:
    """--student, and for measurements --against."""
    options = argparse.ArgumentParser(add_help=False)
    group = options.add_argument_group("student")
    group.add_argument(
        "--student",
        metavar="NAME",
        help='a distilled denoiser of the model, or "teacher" (default: the one that serves --nfe)',
    )
    if against:
        group.add_argument(
            "--against",
            metavar="NAME",
            help='measure "teacher" or another student too, on the same prompts and noise, and print the difference',
        )
    return options


def _cost(nfe: str, evaluations: int | None = None) -> argparse.ArgumentParser:
    """--nfe or --steps."""
    options = argparse.ArgumentParser(add_help=False)
    group = options.add_argument_group("cost").add_mutually_exclusive_group()
    group.add_argument("--nfe", type=_at_least_one, default=evaluations, metavar="N", help=nfe)
    group.add_argument(
        "--steps", type=_at_least_one, metavar="N", help="or the number of steps; what they cost is metered"
    )
    return options


def _scale(picture_too: bool = False) -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument(
        "--text-scale", type=float, metavar="W", help="guidance by the text; 1 turns it off and halves the cost"
    )
    if picture_too:
        options.add_argument("--image-scale", type=float, metavar="W", help="guidance by the picture; 1 turns it off")
    return options


def _seed() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument(
        "--seed", type=int, default=0, metavar="N", help="where the noise begins (default: %(default)s)"
    )
    return options


def _raw() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument(
        "--raw",
        action="store_true",
        help="give the model your words as they are; otherwise small models, which know "
        "only the tiny world's words, get them in its spelling, and unknown words are refused",
    )
    return options


def _out(default: str, help: str) -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--out", default=default, metavar="FILE", help=f"{help} (default: %(default)s)")
    return options


# ---- using a model --------------------------------------------------------------------------------------------------


def _demo(verbs):
    parser = _verb(
        verbs,
        "demo",
        "demo:demo",
        "draw, edit, ask and judge, in about a minute",
        "Eight drawings, three edits and five questions, each judged against the truth of the tiny world.\n"
        "Prints a table and saves OUT/demo.png and OUT/demo.json. Seeds are fixed.",
        "hb demo\nhb demo --model runs/nano/model --out out/mine",
        _model(),
        _json(),
    )
    parser.add_argument("--out", default="out", metavar="FOLDER", help="where the two files go (default: %(default)s)")


def _draw(verbs):
    parser = _verb(
        verbs,
        "draw",
        "use:draw",
        "draw pictures from prompts",
        "Draw pictures of one or more prompts, print what they cost, and say whether each shows what was asked.\n"
        "Several pictures are saved one by one (FILE-1.png ...) and side by side (FILE.png).\n\n"
        "The tiny world has circles, squares, triangles, stars, crosses, hearts, rings and moons, small or large,\n"
        "plain or striped, in eight colors, at nine places, on a white, gray, black, beige or navy background.",
        'hb draw "a red circle left of a blue star"\n'
        'hb draw "three hearts" "two big stripy stars" --n 1 --nfe 100\n'
        'hb draw "a moon on a navy background" --steps 6 --text-scale 1 --seed 7',
        _cost("function evaluations a picture may cost (default: the model's own setting, 100 for a teacher)"),
        _student(),
        _scale(),
        _seed(),
        _raw(),
        _out("out/draw.png", "picture file to write"),
        _model(),
        _json(),
    )
    parser.add_argument("prompts", nargs="+", metavar="PROMPT", help="what to draw; quote each prompt")
    parser.add_argument("--n", type=_at_least_one, default=4, help="pictures of each prompt (default: %(default)s)")
    parser.add_argument(
        "--quiet", action="store_true", help="no warning of prompts that the model was measured to draw wrong mostly"
    )


def _edit(verbs):
    parser = _verb(
        verbs,
        "edit",
        "use:edit",
        "change a picture as an instruction says",
        "Change a picture as an instruction says, print what it cost, and say whether it was done.\n"
        "Small models work at the size they were trained on: other pictures are resized to it.",
        'hb edit out/draw-1.png "make the star green"\n'
        'hb edit out/draw-1.png "remove the circle" --out out/alone.png\n'
        'hb edit out/draw-1.png "change the background to black" --nfe 132',
        _cost("function evaluations the edit may cost (default: the model's own setting, 132 for a teacher)"),
        _student(),
        _scale(picture_too=True),
        _seed(),
        _raw(),
        _out("out/edit.png", "picture file to write"),
        _model(),
        _json(),
    )
    parser.add_argument("picture", metavar="PICTURE", help="a picture file")
    parser.add_argument("instruction", nargs="+", metavar="INSTRUCTION", help="what to change; quote it")


def _ask(verbs):
    parser = _verb(
        verbs,
        "ask",
        "use:ask",
        "ask about a picture",
        "Ask one or more questions about a picture.",
        'hb ask out/draw-1.png "describe the picture"\n'
        'hb ask out/draw-1.png "how many stars are there?" "what color is the circle?"',
        _seed(),
        _raw(),
        _model(),
        _json(),
    )
    parser.add_argument("picture", metavar="PICTURE", help="a picture file")
    parser.add_argument("questions", nargs="+", metavar="QUESTION", help="what to ask; quote each question")
    parser.add_argument(
        "--temperature", type=float, default=0.0, help="0, the default, always gives the likeliest words"
    )
    parser.add_argument(
        "--plain", action="store_true", help="one token at a time, without the draft model: the same words, slower"
    )
    parser.add_argument(
        "--max-tokens", type=_at_least_one, default=128, metavar="N", help="longest answer (default: %(default)s)"
    )


def _lab(verbs):
    parser = _verb(
        verbs,
        "lab",
        "lab:lab",
        "open the notebooks",
        "Start JupyterLab on the tour, or on another notebook. What is not listed here goes on to JupyterLab.",
        "hb lab\nhb lab notebooks/03_unified_model.ipynb\nhb lab --no-browser --port 8899",
    )
    parser.add_argument("notebook", nargs="?", help="a notebook (default: the tour)")


# ---- training -------------------------------------------------------------------------------------------------------


def _train(verbs):
    parser = verbs.add_parser(
        "train",
        help="train the autoencoder, the eyes, the teacher, the draft",
        formatter_class=_Plain,
        description="Train a part of the model from scratch. In order: tokenizer (shipped), autoencoder, eyes, teacher,\n"
        "draft. "
        "Everything is made from seeds; nothing is downloaded. A stopped run goes on when the command is given again.",
        epilog="examples:\n  hb train autoencoder && hb train teacher      nano, into runs/nano; a night on two cores\n"
        "  hb demo --model runs/nano/model              what came of it",
    )
    stages = parser.add_subparsers(dest="stage", metavar="STAGE", required=True)
    tokenizer = _verb(
        stages,
        "tokenizer",
        "train:tokenizer",
        "rebuild data/tokenizer (seconds)",
        "Rebuild the tokenizer from the tiny world's sentences. Always the same bytes.",
        "hb train tokenizer --out out/tokenizer",
    )
    tokenizer.add_argument("--out", metavar="FOLDER", help="where to write it (default: data/tokenizer)")
    autoencoder = _stage(
        stages,
        "autoencoder",
        "pictures to latents and back (about an hour for nano on two cores)",
        "Train the autoencoder. Writes FOLDER/autoencoder/ae.safetensors and vae_config.json.",
        "hb train autoencoder\nhb train autoencoder --minutes 30\nhb train autoencoder --folder runs/mine --threads 1",
        batch="pictures in a step",
    )
    autoencoder.add_argument(
        "--decoder-only",
        action="store_true",
        help="with --start-from: sharpen the decoder, and leave latents as they are",
    )
    autoencoder.add_argument(
        "--semantic",
        action="store_true",
        help="latents that say what is in the picture and where, every channel (after VA-VAE)",
    )
    autoencoder.add_argument(
        "--noise",
        type=float,
        metavar="SD",
        help="with --semantic (0.4) or --decoder-only (0): noise on the latents the decoder learns from",
    )
    _stage(
        stages,
        "eyes",
        "optional: the vision tower, schooled before it has to talk (minutes)",
        "School the vision tower: what lies under every patch, of what shape, color, size and texture, and where its center\n"
        "is. BAGEL begins with SigLIP's eyes; ours have to be made. Writes FOLDER/eyes/eyes.safetensors.",
        "hb train eyes && hb train teacher --eyes runs/nano/eyes\nhb train eyes --start-from nano --minutes 20",
        batch="pictures in a step",
    )
    teacher = _stage(
        stages,
        "teacher",
        "the unified model (a night for nano on two cores)",
        "Train the unified model on the latents of FOLDER/autoencoder. At the end, and when --minutes are over,\n"
        "writes the model in the released form into FOLDER/model, with where it came from (provenance.json).",
        "hb train teacher\nhb train teacher --minutes 60 --threads 1\n"
        "hb train teacher --start-from nano --lr 0.005 --folder runs/more\n"
        "hb train teacher --preset small --accelerator gpu --devices 8 --num-nodes 2 --strategy ddp",
        batch="prompts in a step; edits and conversations keep their proportion",
    )
    teacher.add_argument(
        "--autoencoder", metavar="FOLDER", help="folder with its ae.safetensors (default: FOLDER/autoencoder)"
    )
    teacher.add_argument(
        "--eyes", metavar="FOLDER", help="schooled eyes to begin with, and to learn drawing from (hb train eyes)"
    )
    teacher.add_argument("--edits", type=_at_least_one, metavar="N", help="in a step (default: half the prompts)")
    teacher.add_argument(
        "--talks", type=_at_least_one, metavar="N", help="conversations in a step (default: half the prompts)"
    )
    teacher.add_argument(
        "--learns",
        choices=("all", "understanding", "answers", "drawing"),
        default="all",
        help="one branch alone, the other stays as it is; answers: of understanding what no drawing reads; these two "
        "take --batch conversations a step (default: %(default)s)",
    )
    teacher.add_argument(
        "--pool",
        type=_at_least_one,
        default=40_000,
        metavar="N",
        help="prompts, and scenes, made once and trained on (default: %(default)s)",
    )
    _mix(teacher)
    teacher.add_argument("--out", metavar="FOLDER", help="where the model goes (default: FOLDER/model)")
    decoder = _stage(
        stages,
        "decoder",
        "a tiny decoder that draws the pixels in half the time (minutes)",
        "Train a tiny decoder for a model's latents: where six steps make a picture, decoding it is a third of the time.\n"
        "Writes FOLDER/parcel. Put that into the model's folder as decoder/ to use it.",
        "hb train decoder\nhb train decoder --model runs/nano/model --minutes 10",
        _model(),
        batch="pictures in a step",
    )
    settler = _stage(
        stages,
        "settler",
        "lets the tiny decoder make up its mind where latents have not (minutes)",
        "Train a settler: a small transformer in front of a model's tiny decoder. A model of few steps hands over things that are\n"
        "half of one color and half of another, and a decoder paints patches of both; the settler has all of a thing agree.\n"
        "Writes FOLDER/parcel, the tiny decoder with its settler. Put that into the model's folder as decoder/ to use it.",
        "hb train settler\nhb train settler --model runs/nano/model --minutes 10",
        _model(),
        batch="scenes in a step",
    )
    for stage in (decoder, settler):
        stage.add_argument(
            "--noise",
            type=float,
            default=0.4,
            metavar="SD",
            help="latents get noise of up to this deviation (default: %(default)s)",
        )
        stage.add_argument("--out", metavar="FOLDER", help="where the parcel goes (default: FOLDER/parcel)")
    _train_draft(stages)


def _train_draft(stages):
    draft = _stage(
        stages,
        "draft",
        "the draft model that makes asking faster (minutes on two cores)",
        "Train a draft for a model: the model answers questions about random scenes, the draft learns to foresee it.\n"
        "Writes FOLDER/parcel/draft.safetensors and draft.json. Put them into the model's folder as draft/ to use them.",
        "hb train draft\nhb train draft --model runs/nano/model --minutes 10\nhb train draft --layers 1 --folder runs/thin",
        _model(),
        batch="answers in a step",
    )
    kind = draft.add_argument_group("draft")
    kind.add_argument("--kind", default="hyper-bagel", choices=("hyper-bagel", "eagle3"), help="(default: %(default)s)")
    kind.add_argument(
        "--layers", type=_at_least_one, default=2, metavar="N", help="draft layers (default: %(default)s)"
    )
    kind.add_argument("--no-zero-init", action="store_true", help="draw the bridge's last weights instead of zeros")
    kind.add_argument(
        "--ce-weight",
        type=float,
        default=0.1,
        metavar="W",
        help="weight of the cross-entropy beside the divergence (default: %(default)s)",
    )
    kind.add_argument(
        "--pool",
        type=_at_least_one,
        default=4000,
        metavar="N",
        help="answers of the model to learn from, made once (default: %(default)s)",
    )
    draft.add_argument("--out", metavar="FOLDER", help="where the parcel goes (default: FOLDER/parcel)")


def _stage(stages, name: str, short: str, about: str, examples: str, *parents, batch: str):
    parser = _verb(
        stages,
        name,
        f"train:{name}",
        short,
        about,
        examples,
        *parents,
        _seed(),
        _json(),
        stopped=GOES_ON + "the last checkpoint",
    )
    run = parser.add_argument_group("run")
    if not parents:  # a draft's shape follows from its model
        run.add_argument("--preset", default="nano", help="nano or small (default: %(default)s)")
    run.add_argument("--folder", metavar="FOLDER", help="where the run lives (default: runs/NAME of preset or model)")
    run.add_argument("--steps", type=_at_least_one, metavar="N", help="length of the run (default: the preset's)")
    run.add_argument("--minutes", type=float, metavar="M", help="stop after so many; give the command again to go on")
    run.add_argument("--batch", type=_at_least_one, metavar="N", help=f"{batch} (default: the preset's)")
    run.add_argument("--lr", type=float, help="learning rate of Muon (default: the preset's)")
    run.add_argument(
        "--fresh", action="store_true", help="throw away what the folder holds of this stage, and begin again"
    )
    run.add_argument("--start-from", metavar="FOLDER", help="weights to begin with")
    _machine(parser)
    return parser


def _mix(parser) -> None:
    parser.add_argument(
        "--mix",
        nargs="+",
        default=(),
        metavar="TASK=SHARE",
        help="of the prompts, counting=0.5 say; tasks that are not named part the rest (default: as in hb/data.py)",
    )


def _machine(parser) -> None:
    host = parser.add_argument_group("machine")
    host.add_argument(
        "--threads", type=_at_least_one, metavar="N", help="of the processor; 1 is best beside other work"
    )
    host.add_argument("--accelerator", default="auto", metavar="KIND", help="cpu, gpu or auto (default: %(default)s)")
    host.add_argument(
        "--devices", type=_at_least_one, default=1, metavar="N", help="on each machine (default: %(default)s)"
    )
    host.add_argument("--num-nodes", type=_at_least_one, default=1, metavar="N", help="machines (default: %(default)s)")
    host.add_argument(
        "--strategy", default="auto", metavar="NAME", help="Lightning's: auto, ddp, fsdp ... (default: %(default)s)"
    )
    host.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "bf16", "f32"),
        help="auto takes bf16 where the processor is fast at it (default: %(default)s)",
    )


def _distill(verbs):
    parser = _verb(
        verbs,
        "distill",
        "distill:distill",
        "make a student that draws in 6 evaluations instead of 100 or 132",
        "Distil a model: one stage, or the whole six-evaluation recipe of Hyper-Bagel.\n\n"
        "  cfg            stage 1: guidance in one pass, 50 evaluations; the scale stays a knob\n"
        "  tscd           stage 2: three segments, an adversary, 6 evaluations\n"
        "  dmdo           stage 3: distribution matching along the ODE, 6 evaluations\n"
        "  six-nfe        the three, one after another\n"
        "  dmdo-literal, lcm, pcm, dmd2    as printed, and baselines at equal cost\n"
        "  hyper-sd       stage 2 in its first form: cfg, then segments halved from student to student,\n"
        "                 hyper-sd-8, hyper-sd-4, hyper-sd-2 and hyper-sd-1, at as many evaluations\n\n"
        "Every student is kept in FOLDER/students/STAGE. A stopped run goes on when the command is given again.",
        "hb distill six-nfe\nhb distill cfg --minutes 10\nhb distill dmdo --renoise-fake mixed --renoise-student fresh\n"
        "hb distill six-nfe --model runs/nano/model --install runs/nano/model",
        _seed(),
        _model(),
        _json(),
        stopped=GOES_ON + "the last checkpoint",
    )
    parser.add_argument(
        "stage",
        metavar="STAGE",
        choices=(
            "six-nfe",
            "cfg",
            "tscd",
            "dmdo",
            "dmdo-literal",
            "lcm",
            "pcm",
            "dmd2",
            "hyper-sd",
            "hyper-sd-8",
            "hyper-sd-4",
            "hyper-sd-2",
            "hyper-sd-1",
        ),
        help="see above",
    )
    run = parser.add_argument_group("run")
    run.add_argument("--folder", metavar="FOLDER", help="where the run lives (default: runs/MODEL/distill)")
    run.add_argument(
        "--start-from",
        metavar="FOLDER",
        help="a student to begin with, to go on training one, say (default: as the recipe has it)",
    )
    run.add_argument(
        "--new-knobs", action="store_true", help="with --start-from: its embedders of the guidance scales begin anew"
    )
    run.add_argument("--steps", type=_at_least_one, metavar="N", help="of each stage (default: the stage's own)")
    run.add_argument("--minutes", type=float, metavar="M", help="stop each stage after so many")
    run.add_argument(
        "--prompts",
        type=_at_least_one,
        metavar="N",
        help="in a step that draws, four pictures each (default: the stage's own)",
    )
    run.add_argument(
        "--edits",
        type=_at_least_one,
        metavar="N",
        help="in a step that edits, two noises each (default: the stage's own)",
    )
    run.add_argument("--lr", type=float, help="learning rate of the student (default: the stage's own)")
    run.add_argument(
        "--pool",
        type=_at_least_one,
        default=4000,
        metavar="N",
        help="prompts, and scenes, made once and trained on (default: %(default)s)",
    )
    _mix(run)
    run.add_argument(
        "--fresh", action="store_true", help="throw away what the folder holds of a stage, and begin it again"
    )
    run.add_argument(
        "--install", metavar="MODEL", help="a model folder to put the students into, where they are found by name"
    )
    knobs = parser.add_argument_group("knobs of a stage")
    knobs.add_argument(
        "--eyes",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="does the student see a picture to be edited, beside reading its latent? (default: dmdo does not)",
    )
    knobs.add_argument(
        "--mse", type=float, metavar="W", help="tscd: weight of the mean square beside the adversary (printed: 0)"
    )
    for turn in ("fake", "student"):
        knobs.add_argument(
            f"--renoise-{turn}",
            choices=("coupled", "fresh", "mixed"),
            help=f"dmdo: how the {turn}'s samples are noised (printed: coupled)",
        )
    knobs.add_argument(
        "--judged",
        choices=("end", "guess"),
        help="dmdo: what the scores judge, ends of walks or what one step saw (printed: either can be meant)",
    )
    knobs.add_argument(
        "--learns",
        choices=("end", "guess"),
        help="dmdo: what the fake score learns, the ends of walks (as printed) or what each step saw",
    )
    knobs.add_argument(
        "--fake-times", type=_at_least_one, metavar="N", help="dmdo: moves of the fake score for one of the student"
    )
    _machine(parser)


def _recipe(verbs):
    parser = _verb(
        verbs,
        "recipe",
        "recipe:recipe",
        "everything from scratch, one command after another",
        "Makes a model from nothing: autoencoder, eyes, teacher, decoder, draft, and the six-evaluation students. Prints each\n"
        "command before it runs it; what is already there is not made again. A night for nano on two cores.",
        "hb recipe\nhb recipe --dry-run\nhb recipe --share 0.02 --pool 500 --folder runs/rehearsal      a rehearsal\n"
        "hb recipe --accelerator gpu",
        stopped=GOES_ON + "where it was",
    )
    parser.add_argument("--preset", default="nano", help="nano or small (default: %(default)s)")
    parser.add_argument("--folder", metavar="FOLDER", help="where all of it lives (default: runs/PRESET)")
    parser.add_argument(
        "--share", type=float, default=1.0, metavar="X", help="of the usual steps of each part (default: all)"
    )
    parser.add_argument(
        "--pool", type=_at_least_one, metavar="N", help="examples that parts make for themselves (default: theirs)"
    )
    parser.add_argument("--threads", type=_at_least_one, metavar="N", help="of the processor")
    parser.add_argument("--accelerator", default="auto", metavar="KIND", help="cpu, gpu or auto (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="print the commands only")


def _draft_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--draft", metavar="FOLDER", help="a draft's parcel (default: the one in the model's folder)")
    options.add_argument("--threads", type=_at_least_one, metavar="N", help="of the processor")
    return options


def _temperatures(*usual: float) -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument(
        "--temperatures",
        type=float,
        nargs="+",
        default=list(usual),
        metavar="T",
        help=f"(default: {' '.join(f'{t:g}' for t in usual)})",
    )
    return options


def _tune(verbs):
    parser = verbs.add_parser(
        "tune",
        help="find a model's best settings",
        formatter_class=_Plain,
        description="Find the settings that serve a model best, by trying them.",
        epilog="examples:\n  hb tune tree\n  hb tune guidance",
    )
    what = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    tree = _verb(
        what,
        "tree",
        "speak:tune_tree",
        "how much should the draft guess?",
        "Measures what passes and drafting steps cost here and how often guesses are right, and writes the best depth, width\n"
        "and budget for each temperature into the draft's draft.json. Let nothing else run beside it.",
        "hb tune tree\nhb tune tree --draft runs/nano/draft/parcel\nhb tune tree --grid       races the whole grid too",
        _draft_options(),
        _temperatures(0.0, 0.5, 1.0, 1.5),
        _model(),
        _results(),
        _json(),
    )
    tree.add_argument("--grid", action="store_true", help="race every plan, and say how near the choice is to the best")
    tree.add_argument("--n", type=_at_least_one, help="pictures to tune on (default: 8)")
    guidance = _verb(
        what,
        "guidance",
        "guidance:tune_guidance",
        "how strongly should the text, and a picture, guide?",
        "Draws and edits at several scales, from prompts and instructions that no evaluation holds and from the same noise,\n"
        "and writes the scales that were right most often into the model's sampling.json. Stopped work goes on.",
        "hb tune guidance\nhb tune guidance --model runs/nano/model --n 42 --text 1.5 3",
        _model(),
        _seed(),
        _results(),
        _json(),
    )
    for name, usual, whose in (
        ("text", [1.25, 1.5, 2.0, 3.0, 4.0], "text"),
        ("image", [1.25, 1.5, 2.0], "a picture to be edited"),
    ):
        guidance.add_argument(
            f"--{name}",
            type=float,
            nargs="+",
            default=usual,
            metavar="SCALE",
            help=f"of the guidance by {whose} (default: {' '.join(f'{s:g}' for s in usual)})",
        )
    guidance.add_argument("--steps", type=_at_least_one, default=25, help="of each picture (default: %(default)s)")
    guidance.add_argument("--n", type=_at_least_one, help="prompts, and edits (default: 96)")


# ---- measuring ------------------------------------------------------------------------------------------------------


def _results() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument(
        "--results",
        metavar="FOLDER",
        help="where the numbers go (default: data/results for a shipped model measured in full, else out/results)",
    )
    return options


def _limit(what: str) -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--limit", type=_at_least_one, metavar="N", help=f"only the first N {what}: for a quick look")
    return options


def _eval(verbs):
    parser = verbs.add_parser(
        "eval",
        help="measure how good a model is",
        formatter_class=_Plain,
        description="Measure a model on the frozen sets of data/eval. Prints a table with 95% intervals and\n"
        "the target where there is one, and keeps the numbers with where they came from. Stopped work goes on.",
        epilog="examples:\n  hb eval scene --limit 5        a quick look\n"
        "  hb eval scene                  the whole measurement",
    )
    what = parser.add_subparsers(dest="what", metavar="WHAT", required=True)

    def add(name, short, about, examples, *parents):
        stopped = (
            GOES_ON + "the last batch" if name in ("scene", "complex", "edit", "understand", "coverage") else STOPPED
        )
        verb = "complex_prompts" if name == "complex" else name
        return _verb(
            what, name, f"measure:{verb}", short, about, examples, *parents, _results(), _json(), stopped=stopped
        )

    scene = add(
        "scene",
        "SceneEval: do drawings show what was asked?",
        "SceneEval (GenEval's twin): six tasks of 100 prompts, each drawing judged.",
        "hb eval scene\nhb eval scene --steps 6 --text-scale 1\nhb eval scene --ladder\n"
        "hb eval scene --limit 5 --pictures 1",
        _cost("function evaluations a picture may cost (default: 100, or what the student was made for)"),
        _scale(),
        _seed(),
        _student(against=True),
        _limit("prompts of each task"),
        _model(),
    )
    scene.add_argument(
        "--pictures",
        type=_at_least_one,
        metavar="N",
        help="of each prompt (default: 4; with --against 16, with --ladder 1)",
    )
    scene.add_argument(
        "--ladder", action="store_true", help="50, 25, 12, 6, 3 and 1 steps, guided and not, and a figure"
    )
    hard = add(
        "complex",
        "prompts that say much: one to four things, half or all said",
        "Eight cells of 40 prompts: one to four things, and half or all of what can be said about them. Shares right, what drawing\n"
        "again would bring, and what is wrong in the others, by kind and as a figure.",
        "hb eval complex\nhb eval complex --student dmdo --nfe 6 --against teacher\nhb eval complex --limit 5 --pictures 1",
        _cost("function evaluations a picture may cost (default: 100, or what the student was made for)"),
        _scale(),
        _seed(),
        _student(against=True),
        _limit("prompts of each cell"),
        _model(),
    )
    hard.add_argument("--pictures", type=_at_least_one, metavar="N", help="of each prompt (default: 4)")
    edit = add(
        "edit",
        "EditEval: are edits done, and is all else kept?",
        "EditEval (GEdit's twin): seven groups of 60 edits: success, what was kept, cleanliness, drift.",
        "hb eval edit\nhb eval edit --steps 6\nhb eval edit --chains\nhb eval edit --limit 5",
        _cost("function evaluations an edit may cost (default: 132, or what the student was made for)"),
        _scale(picture_too=True),
        _seed(),
        _student(against=True),
        _limit("edits of each group"),
        _model(),
    )
    edit.add_argument(
        "--chains", action="store_true", help="instead, five edits one after another: how far does the rest drift?"
    )
    edit.add_argument(
        "--complex",
        action="store_true",
        help="instead, edits of one of several alike things (the small red circle): was the right one edited?",
    )
    add(
        "understand",
        "are answers right and descriptions true?",
        "Answers of eleven kinds, and dense descriptions read back into scenes.",
        "hb eval understand",
        _model(),
    )
    coverage = add(
        "coverage",
        "does it draw all that a prompt allows?",
        "What a prompt leaves unsaid should vary as in the world: 1 - total variation, over what chance allows.",
        "hb eval coverage\nhb eval coverage --pictures 50",
        _cost("function evaluations a picture may cost (default: 100, or what the student was made for)"),
        _scale(),
        _student(against=True),
        _model(),
    )
    coverage.add_argument("--pictures", type=_at_least_one, metavar="N", help="of each prompt (default: 200)")
    coverage.add_argument(
        "--ambiguous",
        action="store_true",
        help='instead, prompts that leave a shape open: "something", "a red thing and a star"',
    )
    add(
        "contradictory",
        "are prompts that contradict themselves refused, and no others?",
        "Forty prompts of ten kinds that cannot be true (two stars and only one star), each with a look-alike that can. A refusal has to\n"
        "quote both clashing phrases. Needs no model.",
        "hb eval contradictory",
    )
    lossless = add(
        "lossless",
        "does speculation change a word?",
        "Greedy: the same words on every question and description of the frozen sets, chain and tree, alone and eight at once.\n"
        "At a temperature: output distributions by exact enumeration, and a chi-square test on the real model.",
        "hb eval lossless\nhb eval lossless --limit 20",
        _draft_options(),
        _limit("descriptions, and questions"),
        _model(),
    )
    lossless.set_defaults(run="hb.cli.speculation:lossless")
    lossless.add_argument("--draws", type=_at_least_one, help="answers drawn of each picture (default: 600)")
    judge = add(
        "judge",
        "can the judge be trusted?",
        "The judge on random scenes, clean and damaged in ten ways: what it accepts and misreads. Needs no model.",
        "hb eval judge\nhb eval judge --n 1000",
        _seed(),
    )
    judge.add_argument("--n", type=_at_least_one, help="pictures a line (default: 200)")
    autoencoder = add(
        "autoencoder",
        "what does the autoencoder alone lose?",
        "Random scenes through the autoencoder and back: how many does the judge still read exactly and find clean?",
        "hb eval autoencoder",
        _seed(),
        _model(),
    )
    autoencoder.add_argument("--n", type=_at_least_one, help="scenes (default: 10000)")
    report = _verb(
        what,
        "report",
        "report:report",
        "put the numbers into README.md and data/README.md",
        "Rewrite the table of results in README.md from data/results, and the list of files in data/README.md.",
        "hb eval report\nhb eval report --check",
    )
    report.add_argument("--check", action="store_true", help="write nothing; status 1 if something is out of date")


def _bench(verbs):
    parser = verbs.add_parser(
        "bench",
        help="measure how fast a model is",
        formatter_class=_Plain,
        description="Measure how fast a model is on this machine. Let nothing else run beside it.",
        epilog="examples:\n  hb bench speed\n  hb bench ask",
    )
    what = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    speed = _verb(
        what,
        "speed",
        "measure:speed",
        "drawing, editing and asking: pictures and tokens a second",
        "Drawing, editing and asking at the model's own settings, everything included: median and range over repeats,\n"
        "after one call to warm up, and the seconds each part takes.",
        "hb bench speed\nhb bench speed --batches 1 --repeats 3\nhb bench speed --device cuda --dtype bf16",
        _model(),
        _results(),
        _json(),
    )
    speed.add_argument(
        "--batches", type=_at_least_one, nargs="+", default=[1, 16], metavar="N", help="sizes (default: 1 16)"
    )
    speed.add_argument("--repeats", type=_at_least_one, default=5, metavar="N", help="of each (default: %(default)s)")
    ask = _verb(
        what,
        "ask",
        "speak:ask",
        "asking with and without a draft",
        "Tokens a second of plain decoding, prompt lookup, chains and trees: same model, same questions, same run; ratios with\n"
        "bootstrap intervals, tokens a pass, and where the time goes.",
        "hb bench ask\nhb bench ask --n 5 --rounds 1\nhb bench ask --batch 8\nhb bench ask --eagle3 runs/eagle3/parcel",
        _draft_options(),
        _temperatures(0.0, 0.5, 1.0, 1.5),
        _model(),
        _results(),
        _json(),
    )
    ask.add_argument("--n", type=_at_least_one, help="questions, or batches of them, for each task (default: 12)")
    ask.add_argument("--rounds", type=_at_least_one, help="times that each is answered (default: 2; short answers 12)")
    ask.add_argument("--batch", type=_at_least_one, default=1, metavar="N", help="asked at once (default: %(default)s)")
    ask.add_argument("--eagle3", metavar="FOLDER", help="the parcel of an EAGLE-3 draft, to race it too")
    ablation = _verb(
        what,
        "draft-ablation",
        "speak:draft_ablation",
        "which part of the draft's recipe matters?",
        "Hyper-Bagel's table 1: trains every variant with several seeds and measures tau and alpha over chains of ten.",
        "hb bench draft-ablation\nhb bench draft-ablation --steps 300 --seeds 2 --n 10",
        _model(),
        _results(),
        _json(),
        stopped=GOES_ON + "the last finished draft",
    )
    ablation.add_argument("--steps", type=_at_least_one, default=600, help="of each training (default: %(default)s)")
    ablation.add_argument(
        "--pool", type=_at_least_one, default=1500, help="answers to learn from (default: %(default)s)"
    )
    ablation.add_argument("--seeds", type=_at_least_one, default=3, help="of each variant (default: %(default)s)")
    ablation.add_argument("--n", type=_at_least_one, help="descriptions to measure on (default: 40)")
    ablation.add_argument("--folder", metavar="FOLDER", help="where the runs live (default: runs)")
    ablation.add_argument("--threads", type=_at_least_one, metavar="N", help="of the processor")


if __name__ == "__main__":
    raise SystemExit(main())
