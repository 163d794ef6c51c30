"""`hb eval`: how good a model is."""

from functools import partial
from typing import Annotated

import typer

from hb.cli import options as o
from hb.cli.errors import GOES_ON
from hb.cli.verb import Group, arguments, examples_text, verb

app = typer.Typer(
    cls=Group,
    help="Measure a model on the frozen sets of data/eval. Prints a table with 95% intervals and the target where "
    "there is one, and keeps the numbers with where they came from. Stopped work goes on.",
    short_help="Measure how good a model is.",
    epilog=examples_text(
        "hb eval scene --limit 5        a quick look\nhb eval scene                  the whole measurement"
    ),
)
STOPPED = GOES_ON + "the last batch"

PictureNFE = Annotated[
    int | None,
    o.nfe_option("Function evaluations a picture may cost (default: 100, or what the student was made for)."),
]
EditNFE = Annotated[
    int | None, o.nfe_option("Function evaluations an edit may cost (default: 132, or what the student was made for).")
]
Limit = partial(o.Whole, "--limit")


@verb(
    app,
    short_help="SceneEval: do drawings show what was asked?",
    stopped=STOPPED,
    renamed={"--ladder": "--steps-ablation"},
    examples="""
hb eval scene
hb eval scene --steps 6 --text-scale 1
hb eval scene --steps-ablation
hb eval scene --limit 5 --pictures 1
""",
)
def scene(
    model: o.ModelOptions,
    nfe: PictureNFE = None,
    steps: o.Steps = None,
    student: o.StudentName = None,
    against: o.Against = None,
    text_scale: o.TextScale = None,
    pictures: Annotated[
        int | None,
        o.Whole(
            help="Pictures of each prompt (default: 4; with --against 16, but for --nfe 1; with --steps-ablation 1)."
        ),
    ] = None,
    steps_ablation: Annotated[
        bool,
        o.Flag(
            "--steps-ablation", help="Step-count ablation: 50, 25, 12, 6, 3 and 1 steps, guided and not, and a figure."
        ),
    ] = False,
    limit: Annotated[int | None, Limit(help="Only the first N prompts of each task: for a quick look.")] = None,
    seed: o.Seed = 0,
    results: o.Results = None,
    json: o.Json = False,
):
    """SceneEval (after GenEval): six tasks of 100 prompts, each drawing judged."""
    args = arguments(locals())
    o.nfe_or_steps(nfe, steps)
    from hb.cli.evaluate import scene

    return scene(args)


@verb(
    app,
    name="complex",
    short_help="Prompts that say much: one to four things, half or all said.",
    stopped=STOPPED,
    examples="""
hb eval complex
hb eval complex --student dmdo --nfe 6 --against teacher
hb eval complex --limit 5 --pictures 1
""",
)
def complex_prompts(
    model: o.ModelOptions,
    nfe: PictureNFE = None,
    steps: o.Steps = None,
    student: o.StudentName = None,
    against: o.Against = None,
    text_scale: o.TextScale = None,
    pictures: Annotated[int | None, o.Whole(help="Pictures of each prompt (default: 4).")] = None,
    limit: Annotated[int | None, Limit(help="Only the first N prompts of each cell: for a quick look.")] = None,
    seed: o.Seed = 0,
    results: o.Results = None,
    json: o.Json = False,
):
    """Eight cells of 40 prompts: one to four things, and half or all of what can be said about them.

    Shares right, what drawing again would bring, and what is wrong in the others, by kind and as a figure."""
    args = arguments(locals())
    o.nfe_or_steps(nfe, steps)
    from hb.cli.complex import complex_prompts

    return complex_prompts(args)


@verb(
    app,
    short_help="EditEval: are edits done, and is all else kept?",
    stopped=STOPPED,
    examples="hb eval edit\nhb eval edit --steps 6\nhb eval edit --chains\nhb eval edit --complex --limit 5",
)
def edit(
    model: o.ModelOptions,
    nfe: EditNFE = None,
    steps: o.Steps = None,
    student: o.StudentName = None,
    against: o.Against = None,
    text_scale: o.TextScale = None,
    image_scale: o.ImageScale = None,
    chains: Annotated[
        bool,
        o.Flag("--chains", help="Instead, five edits one after another: how far does the rest of the picture drift?"),
    ] = False,
    complex: Annotated[
        bool,
        o.Flag(
            "--complex",
            help="Instead, edits of one of several alike things (the small red circle): was the right one edited?",
        ),
    ] = False,
    limit: Annotated[int | None, Limit(help="Only the first N edits of each group: for a quick look.")] = None,
    seed: o.Seed = 0,
    results: o.Results = None,
    json: o.Json = False,
):
    """EditEval (after GEdit): seven groups of 60 edits: success, what was kept, cleanliness, drift."""
    args = arguments(locals())
    o.nfe_or_steps(nfe, steps)
    from hb.cli.evaluate import edit

    return edit(args)


@verb(app, short_help="Are answers right and descriptions true?", stopped=STOPPED, examples="hb eval understand")
def understand(model: o.ModelOptions, results: o.Results = None, json: o.Json = False):
    """Answers of eleven kinds, and dense descriptions parsed back into scenes."""
    args = arguments(locals())
    from hb.cli.evaluate import understand

    return understand(args)


@verb(
    app,
    short_help="Does it draw all that a prompt allows?",
    stopped=STOPPED,
    examples="hb eval coverage\nhb eval coverage --pictures 50",
)
def coverage(
    model: o.ModelOptions,
    nfe: PictureNFE = None,
    steps: o.Steps = None,
    student: o.StudentName = None,
    against: o.Against = None,
    text_scale: o.TextScale = None,
    pictures: Annotated[int | None, o.Whole(help="Pictures of each prompt (default: 200).")] = None,
    ambiguous: Annotated[
        bool,
        o.Flag("--ambiguous", help='Instead, prompts that leave a shape open: "something", "a red thing and a star".'),
    ] = False,
    results: o.Results = None,
    json: o.Json = False,
):
    """What a prompt leaves open should vary as in the world: 1 - total variation, relative to what chance allows."""
    args = arguments(locals())
    o.nfe_or_steps(nfe, steps)
    from hb.cli.evaluate import coverage

    return coverage(args)


@verb(
    app,
    short_help="The instruments of one-step training, in a few minutes.",
    stopped=STOPPED,
    examples="hb eval instruments --student dmdo --nfe 6\nhb eval instruments --student one-nfe --no-refiner",
)
def instruments(
    model: o.ModelOptions,
    nfe: PictureNFE = None,
    steps: o.Steps = None,
    student: o.StudentName = None,
    n: Annotated[int | None, o.Whole(help="Prompts of each kind (default: 150).")] = None,
    seed: o.Seed = 1,
    results: o.Results = None,
    json: o.Json = False,
):
    """Right pictures of plain and of complex prompts, half shapes, edits, coverage and spread within a prompt.

    On prompts that no evaluation holds, so that runs may be chosen by it. `hb distill --watch N` measures the same
    while a student is trained."""
    args = arguments(locals())
    o.nfe_or_steps(nfe, steps)
    from hb.cli.evaluate import instruments

    return instruments(args)


@verb(app, short_help="Does speculation change an answer?", examples="hb eval lossless\nhb eval lossless --limit 20")
def lossless(
    model: o.ModelOptions,
    draft: o.DraftFolder = None,
    limit: Annotated[int | None, Limit(help="Only the first N descriptions, and questions: for a quick look.")] = None,
    draws: Annotated[int | None, o.Whole(help="Answers sampled for each picture (default: 600).")] = None,
    threads: o.Threads = None,
    results: o.Results = None,
    json: o.Json = False,
):
    """Greedy: the same tokens on every question and description of the frozen sets, chain and tree, alone and eight
    at once.

    At a temperature: output distributions by exact enumeration, and a chi-square test on the real model."""
    args = arguments(locals())
    from hb.cli.speculation import lossless

    return lossless(args)


@verb(
    app, short_help="Are prompts that contradict themselves refused, and no others?", examples="hb eval contradictory"
)
def contradictory(results: o.Results = None, json: o.Json = False):
    """Forty prompts of ten kinds that cannot be true (two stars and only one star), each with a look-alike that can.

    A refusal has to quote both clashing phrases. Needs no model."""
    args = arguments(locals())
    from hb.cli.complex import contradictory

    return contradictory(args)


@verb(app, short_help="Can the judge be trusted?", examples="hb eval judge\nhb eval judge --n 1000")
def judge(
    n: Annotated[int | None, o.Whole(help="Pictures for each line of the table (default: 200).")] = None,
    seed: o.Seed = 0,
    results: o.Results = None,
    json: o.Json = False,
):
    """The judge on random scenes, clean and damaged in ten ways: what it accepts and misreads. Needs no model."""
    args = arguments(locals())
    from hb.cli.evaluate import judge

    return judge(args)


@verb(app, short_help="What does the autoencoder alone lose?", examples="hb eval autoencoder")
def autoencoder(
    model: o.ModelOptions,
    n: Annotated[int | None, o.Whole(help="Scenes (default: 10000).")] = None,
    seed: o.Seed = 0,
    results: o.Results = None,
    json: o.Json = False,
):
    """Random scenes through the autoencoder and back: how many does the judge still read exactly and find clean?"""
    args = arguments(locals())
    from hb.cli.evaluate import autoencoder

    return autoencoder(args)


@verb(
    app,
    short_help="Do rewards predict what people prefer? What does training on one change?",
    stopped=STOPPED,
    examples="hb eval reward\nhb eval reward --reward vision\nhb eval reward --every 20\n"
    "hb eval reward --student refl-regression --nfe 1 --against one-nfe",
)
def reward(
    model: o.ModelOptions,
    reward: Annotated[str | None, o.Name(help="Only the reward of this name (default: all of the model's).")] = None,
    every: Annotated[
        int | None, o.Whole(help="Take every Nth request of the evaluation sets, four pictures of each (default: 4).")
    ] = None,
    annotator_seed: Annotated[
        int | None, typer.Option(metavar="N", help="Whose clicks (default: of those that each reward was trained on).")
    ] = None,
    student: o.StudentName = None,
    nfe: PictureNFE = None,
    steps: o.Steps = None,
    against: o.Against = None,
    pictures: Annotated[
        int | None, o.Whole(help="With --student: pictures of each SceneEval prompt (default: 16).")
    ] = None,
    seed: o.Seed = 0,
    results: o.Results = None,
    json: o.Json = False,
):
    """Accuracy on comparisons of requests that no reward was trained on, as a share of what the annotators' own
    utilities reach; the agreement of two annotators beside it, and whether predicted probabilities come true.

    With --student A --against B: what training on a reward changed. A minus B on the same prompts and noise, of each
    reward, of annotators' utilities, of the judge's verdicts and of coverage."""
    args = arguments(locals())
    o.nfe_or_steps(nfe, steps)
    if student is None and (against or pictures or nfe or steps):
        raise typer.BadParameter(
            "--against, --pictures, --nfe and --steps are about a student's pictures; say whose with --student"
        )
    if student is not None and against is None:
        raise typer.BadParameter(f"say with --against what to compare {student} with, for example one-nfe")
    if student is not None and (every or annotator_seed is not None):
        raise typer.BadParameter("--every and --annotator-seed are about clicks, and do not go with --student")
    from hb.cli.reward import evaluate

    return evaluate(args)


@verb(
    app,
    short_help="Put the numbers into README.md and data/README.md.",
    examples="hb eval report\nhb eval report --check",
)
def report(
    check: Annotated[bool, o.Flag("--check", help="Write nothing; exit status 1 if something is out of date.")] = False,
):
    """Rewrite the table of results in README.md from data/results, and the list of files in data/README.md."""
    args = arguments(locals())
    from hb.cli.report import report

    return report(args)
