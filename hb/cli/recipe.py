"""`hb recipe`: everything from scratch, one command after another, each of which could have been typed by hand."""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from hb.cli.runs import place
from hb.cli.starting import OLD_VISION, VISION
from hb.cli.train import USUAL, USUAL_DECODER, USUAL_DRAFT, USUAL_REFINER
from hb.infer.artifacts import PIXEL_DECODER
from hb.infer.pipeline import DECODER
from hb.train.distill.specs import SIX_NFE, STAGES


@dataclass(frozen=True)
class Part:
    """One command of the recipe. words: after `hb`; makes: what is there when it is done; steps: the usual length."""

    words: tuple[str, ...]
    makes: Path
    steps: int
    why: str


def parts(folder: Path, preset: str = "nano") -> list[Part]:
    """The recipe in order."""
    f, model = folder, str(folder / "model")
    train = lambda what, *rest: ("train", what, *map(str, rest))
    of = ("--preset", preset)
    on = ("--vision", place(f, "vision"), "--autoencoder", f / "autoencoder")
    decoder = place(f / "decoder", "checkpoint")
    steps = USUAL["teacher", preset].steps
    # the drawing branch attends to the understanding branch, which therefore is trained to the end first
    teacher = [
        Part(
            train("teacher", *of, *on, "--folder", f / "both"),
            f / "both" / "model" / "ema.safetensors",
            steps,
            "the unified model, both branches at once",
        ),
        Part(
            train(
                "teacher",
                *of,
                *on,
                "--start-from",
                f / "both" / "model",
                "--learns",
                "understanding",
                "--folder",
                f / "reads",
            ),
            f / "reads" / "model" / "ema.safetensors",
            steps // 2,
            "its understanding branch alone",
        ),
        Part(
            train(
                "teacher",
                *of,
                *on,
                "--start-from",
                f / "reads" / "model",
                "--learns",
                "drawing",
                "--folder",
                f / "draws",
                "--out",
                model,
            ),
            f / "model" / "ema.safetensors",
            2 * steps,
            "its drawing branch alone",
        ),
    ]
    return [
        Part(
            train("autoencoder", *of, "--semantic", "--folder", f),
            f / "autoencoder" / "ae.safetensors",
            USUAL["autoencoder", preset].steps,
            "pictures to latents whose channels say what is where, and back",
        ),
        Part(
            train("vision", *of, "--folder", f),
            eyes if (eyes := f / "eyes" / OLD_VISION).exists() else f / "vision" / VISION,
            USUAL["vision", preset].steps,
            "the vision encoder, pretrained",
        ),
        *teacher,
        Part(
            train("decoder", "--model", model, "--folder", f / "decoder"),
            decoder / PIXEL_DECODER,
            USUAL_DECODER.steps,
            "pixels in half the time, with sharper edges",
        ),
        Part(
            train(
                "refiner",
                "--model",
                model,
                "--start-from",
                decoder,
                "--folder",
                place(f, "refiner"),
                "--out",
                f / "model" / DECODER,
            ),
            f / "model" / DECODER / PIXEL_DECODER,
            USUAL_REFINER.steps,
            "one color for a shape that was left half of each",
        ),
        # before the students: they learn the guided velocity as it is deployed
        Part(
            ("tune", "guidance", "--model", model, "--results", str(f / "tuned")),
            f / "tuned" / "model_tune_guidance.json",
            25,
            "how strongly drawings and edits are to be guided",
        ),
        Part(
            train("draft", "--model", model, "--folder", f / "draft", "--out", f / "model" / "draft"),
            f / "model" / "draft" / "draft.safetensors",
            USUAL_DRAFT.steps,
            "a draft that guesses answers ahead",
        ),
        *(
            Part(
                ("distill", name, "--model", model, "--folder", str(f / "distill"), "--install", model),
                f / "model" / "students" / name / "student.safetensors",
                STAGES[name].steps,
                STAGES[name].about,
            )
            for name in SIX_NFE
        ),
    ]


def recipe(args) -> None:
    folder = Path(args.folder) if args.folder else Path("runs") / args.preset
    if ("teacher", args.preset) not in USUAL:
        raise ValueError(
            f"no recipe for {args.preset!r}; there are {' and '.join(p for s, p in USUAL if s == 'teacher')}"
        )
    if args.share <= 0:
        raise ValueError(f"--share is a part of the usual length, more than 0; got {args.share:g}")
    todo = parts(folder, args.preset)
    for number, part in enumerate(todo, 1):
        words = [*part.words, "--steps", str(max(1, round(args.share * part.steps)))]
        if part.words[0] != "tune":
            words += ["--accelerator", args.accelerator, *(("--threads", str(args.threads)) if args.threads else ())]
        words += ["--pool", str(args.pool)] if args.pool and part.words[1] in ("teacher", "draft", *SIX_NFE) else []
        done = part.makes.exists()
        print(
            f"==> {number} of {len(todo)}, {part.why}{': already there' if done else ''}\n    "
            f"{shlex.join(['hb', *words])}",
            flush=True,
        )
        if done or args.dry_run:
            continue
        # a process of its own: what a stage held in memory goes with it, and Ctrl-C reaches it as if it had been typed
        status = subprocess.run([sys.executable, "-m", "hb", *words]).returncode
        if status == 130:
            raise KeyboardInterrupt
        if status:
            raise ValueError(
                "this part stopped; the reason is above. `hb recipe` goes on from here when it is given again"
            )
    if not args.dry_run:
        print(
            f"All is done. Next, on a quiet machine: hb tune tree --model {folder / 'model'}; then "
            f"hb demo --model {folder / 'model'}"
        )
