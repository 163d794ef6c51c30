"""Options that several verbs have: single ones, and groups of them that a verb takes as one argument."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import typer

Flag = partial(typer.Option, metavar="")  # `--json`
Name = partial(typer.Option, metavar="NAME")
Folder = partial(typer.Option, metavar="FOLDER")
Whole = partial(typer.Option, min=1, metavar="N")  # a whole number, 1 or more
Number = partial(typer.Option, metavar="X")  # a finite number: `Verb` refuses nan and inf
Words = partial(typer.Argument, show_default=False)

MODEL, STUDENT, COST, RUN, HOST = "Model", "Student", "Cost", "Run", "Machine"  # headings in the help

Json = Annotated[bool, Flag("--json", help="Print JSON and nothing else.")]
Seed = Annotated[int, typer.Option(metavar="N", help="The seed of the random numbers.")]
Threads = Annotated[
    int | None, Whole(help="Threads of the processor; 1 is best beside other work.", rich_help_panel=HOST)
]
Raw = Annotated[
    bool,
    Flag(
        "--raw",
        help="Pass your words on as they are. Without it, words for a model of the tiny world are rewritten in its "
        "spelling, and unknown words are refused.",
    ),
]
TextScale = Annotated[
    float | None, Number(metavar="W", help="Guidance by the text; 1 turns it off and halves the cost.")
]
ImageScale = Annotated[float | None, Number(metavar="W", help="Guidance by the picture; 1 turns it off.")]
Results = Annotated[
    str | None,
    Folder(
        help="Folder for the numbers (default: data/results for a shipped model measured in full, else out/results)."
    ),
]
StudentName = Annotated[
    str | None,
    Name(
        help='A distilled denoiser of the model; "A+B": A takes the first step, B the others; or "teacher" (default: '
        "what serves --nfe).",
        rich_help_panel=STUDENT,
    ),
]
Against = Annotated[
    str | None,
    Name(
        help='Measure "teacher" or another student too, on the same prompts and noise, and print the difference.',
        rich_help_panel=STUDENT,
    ),
]
Data = Annotated[
    str | None,
    Folder(
        help="Pictures of your own instead of the tiny world's: a folder of pictures, each with a .txt beside it or "
        "with captions.jsonl and edits.jsonl, or one file of JSON lines (hb/data/folder.py says more)."
    ),
]
Mix = Annotated[
    list[str],
    typer.Option(
        metavar="TASK=SHARE ...",
        help="Shares of the prompts, for example counting=0.5; tasks that are not named divide the rest.",
        show_default=False,
    ),
]
Temperatures = Annotated[list[float], typer.Option(metavar="T ...", help="Temperatures to measure at.")]
DraftFolder = Annotated[
    str | None, Folder("--draft", help="Checkpoint of a draft model (default: the one in the model's folder).")
]


def nfe_option(what: str) -> typer.models.OptionInfo:
    return Whole(help=what, rich_help_panel=COST)


Steps = Annotated[int | None, Whole(help="Or the number of steps; what they cost is metered.", rich_help_panel=COST)]


def nfe_or_steps(nfe: int | None, steps: int | None) -> None:
    if nfe is not None and steps is not None:
        raise typer.BadParameter("--nfe and --steps both say what a picture may cost; leave one of them out")


def _dtype(name: str) -> str:
    return "fp16" if name == "f16" else name  # the name of an earlier release


@dataclass
class ModelOptions:
    """Which model, and where its weights lie."""

    model: Annotated[
        str,
        Name(
            help='A shipped model ("nano"), a model folder, ours or the released BAGEL-7B-MoT, or owner/name on the '
            "Hugging Face Hub.",
            rich_help_panel=MODEL,
        ),
    ] = "nano"
    device: Annotated[
        str, Name(metavar="DEVICE", help="cpu, cuda, cuda:1 or mps (mps is not tested).", rich_help_panel=MODEL)
    ] = "cpu"
    dtype: Annotated[
        Literal["f32", "bf16", "fp16", "f64", "f16"],
        typer.Option(
            metavar="f32|bf16|fp16|f64",
            show_choices=False,
            help="Type of the weights.",
            rich_help_panel=MODEL,
            callback=_dtype,
        ),
    ] = "f32"
    full_decoder: Annotated[
        bool,
        Flag(
            "--full-decoder",
            help="Decode pixels with the autoencoder's own decoder, where the model has a pixel decoder too.",
            rich_help_panel=MODEL,
        ),
    ] = False
    no_refiner: Annotated[
        bool,
        Flag(
            "--no-refiner",
            help="Decode latents as they are, without the latent refiner of the pixel decoder.",
            rich_help_panel=MODEL,
        ),
    ] = False


@dataclass
class HostOptions:
    """The machine that a training runs on."""

    threads: Threads = None
    accelerator: Annotated[str, Name(metavar="KIND", help="cpu, gpu or auto.", rich_help_panel=HOST)] = "auto"
    devices: Annotated[int, Whole(help="Devices of each machine.", rich_help_panel=HOST)] = 1
    num_nodes: Annotated[int, Whole(help="Machines.", rich_help_panel=HOST)] = 1
    strategy: Annotated[str, Name(help="Lightning's strategy: auto, ddp, fsdp ...", rich_help_panel=HOST)] = "auto"
    precision: Annotated[
        Literal["auto", "bf16", "f32"],
        typer.Option(help="auto takes bf16 where the processor is fast at it.", rich_help_panel=HOST),
    ] = "auto"
    logger: Annotated[
        Literal["csv", "tensorboard", "wandb"],
        typer.Option(help="Where losses are logged, in the folder of the run.", rich_help_panel=HOST),
    ] = "csv"


@dataclass
class RunOptions:
    """A run of training in its folder."""

    folder: Annotated[
        str | None, Folder(help="Folder of the run (default: runs/NAME of preset or model).", rich_help_panel=RUN)
    ] = None
    steps: Annotated[
        int | None, Whole(help="Length of the run (default: the preset's or the stage's).", rich_help_panel=RUN)
    ] = None
    minutes: Annotated[
        float | None,
        Number(metavar="M", help="Stop after so many minutes; the same command goes on.", rich_help_panel=RUN),
    ] = None
    lr: Annotated[
        float | None, Number(help="Learning rate (default: the preset's or the stage's).", rich_help_panel=RUN)
    ] = None
    fresh: Annotated[
        bool, Flag("--fresh", help="Delete what the folder holds of this stage, and begin again.", rich_help_panel=RUN)
    ] = False
    start_from: Annotated[str | None, Folder(help="Weights to begin with.", rich_help_panel=RUN)] = None


Preset = Annotated[str, Name(help="nano or small.", rich_help_panel=RUN)]
Out = Annotated[str | None, Folder(help="Folder of the result (default: FOLDER/checkpoint).")]


def batch_option(what: str) -> typer.models.OptionInfo:
    return Whole(help=f"{what} (default: the preset's).", rich_help_panel=RUN)
