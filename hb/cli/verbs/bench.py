"""`hb bench`: how fast a model is."""

from typing import Annotated, Literal

import typer

from hb.cli import options as o
from hb.cli.errors import GOES_ON
from hb.cli.verb import Group, arguments, examples_text, verb

app = typer.Typer(
    cls=Group,
    help="Measure how fast a model is on this machine. Let nothing else run beside it.",
    short_help="Measure how fast a model is.",
    epilog=examples_text("hb bench speed\nhb bench ask"),
)


@verb(
    app,
    short_help="Drawing, editing and asking: pictures and tokens a second.",
    examples="""
hb bench speed
hb bench speed --batches 1 --repeats 3
hb bench speed --device cuda --dtype bf16
""",
)
def speed(
    model: o.ModelOptions,
    batches: Annotated[list[int], typer.Option(min=1, metavar="N ...", help="Batch sizes.")] = (1, 16),
    repeats: Annotated[int, o.Whole(help="Repeats of each.")] = 5,
    results: o.Results = None,
    json: o.Json = False,
):
    """Drawing, editing and asking at the model's own settings, everything included: median and range over repeats,
    after one call to warm up, and the seconds each part takes."""
    args = arguments(locals())
    from hb.cli.evaluate import speed

    return speed(args)


@verb(
    app,
    short_help="Asking with and without a draft.",
    examples="""
hb bench ask
hb bench ask --n 5 --rounds 1
hb bench ask --batch 8
hb bench ask --eagle3 runs/eagle3/checkpoint
""",
)
def ask(
    model: o.ModelOptions,
    draft: o.DraftFolder = None,
    temperatures: o.Temperatures = (0.0, 0.5, 1.0, 1.5),
    n: Annotated[int | None, o.Whole(help="Questions, or batches of them, for each task (default: 12).")] = None,
    rounds: Annotated[int | None, o.Whole(help="Times that each is answered (default: 2; short answers 12).")] = None,
    batch: Annotated[int, o.Whole(help="Questions asked at once.")] = 1,
    eagle3: Annotated[str | None, o.Folder(help="Checkpoint of an EAGLE-3 draft, to measure it too.")] = None,
    threads: o.Threads = None,
    results: o.Results = None,
    json: o.Json = False,
):
    """Tokens a second of plain decoding, prompt lookup, chains and trees: same model, same questions, same run;
    ratios with bootstrap intervals, tokens a pass, and where the time goes."""
    args = arguments(locals())
    from hb.cli.speculation import ask

    return ask(args)


@verb(
    app,
    short_help="Drawing while one types: from a key to its picture.",
    examples="""
hb bench live
hb bench live --browser
hb bench live --student dmdo --nfe 6 --repeats 1
""",
)
def live(
    model: o.ModelOptions,
    student: Annotated[
        str | None,
        o.Name(
            help="The student that draws (default: one-nfe where the model has it, else its default student).",
            rich_help_panel=o.STUDENT,
        ),
    ] = None,
    nfe: Annotated[
        int | None, o.nfe_option("Function evaluations of a picture (default: what the student was made for).")
    ] = None,
    repeats: Annotated[int, o.Whole(help="How often the sentences are typed.")] = 5,
    browser: Annotated[bool, o.Flag("--browser", help="Type in a page of a real Chromium too.")] = False,
    server: Annotated[
        Literal["voila", "lab"], typer.Option(help="What serves the page: Voila or JupyterLab.", metavar="voila|lab")
    ] = "voila",
    delay_ms: Annotated[float, o.Number(help="Milliseconds between two keys in the page.", min=0)] = 80.0,
    threads: o.Threads = None,
    results: o.Results = None,
    json: o.Json = False,
):
    """Type sentences letter by letter and time every key that changes the picture: p50 and p95, and by part.

    Without --browser, from the words to the picture's bytes in this process. With it, also from the key to the picture
    on the screen."""
    args = arguments(locals())
    from hb.cli.live import live

    return live(args)


@verb(
    app,
    name="draft-ablation",
    short_help="Which part of the draft's recipe matters?",
    stopped=GOES_ON + "the last finished draft",
    examples="hb bench draft-ablation\nhb bench draft-ablation --steps 300 --seeds 2 --n 10",
)
def draft_ablation(
    model: o.ModelOptions,
    steps: Annotated[int, o.Whole(help="Steps of each training.")] = 600,
    pool: Annotated[int, o.Whole(help="Answers to learn from.")] = 1500,
    seeds: Annotated[int, o.Whole(help="Seeds of each variant.")] = 3,
    n: Annotated[int | None, o.Whole(help="Descriptions to measure on (default: 40).")] = None,
    folder: Annotated[str | None, o.Folder(help="Folder of the runs (default: runs).")] = None,
    threads: o.Threads = None,
    results: o.Results = None,
    json: o.Json = False,
):
    """Hyper-Bagel's table 1: train every variant with several seeds and measure tau and alpha over chains of ten."""
    args = arguments(locals())
    from hb.cli.speculation import draft_ablation

    return draft_ablation(args)


@verb(
    app,
    name="before-after",
    short_help="Is this working tree as fast as an earlier commit?",
    examples="""
hb bench before-after --against HEAD~1
hb bench before-after --against HEAD~1 --only draw ask --pairs 11
""",
)
def before_after(
    against: Annotated[str, o.Name(metavar="COMMIT", help="The commit to compare with.")],
    pairs: Annotated[int, o.Whole(help="Pairs of each row.")] = 7,
    threads: Annotated[int, o.Whole(help="Threads of each process.")] = 1,
    only: Annotated[list[str], o.Name(metavar="NAME ...", help="Only rows that begin with one of these names.")] = (),
    json: o.Json = False,
):
    """Draw, edit, ask, import and train in this working tree and in one of COMMIT, in pairs, and print the ratios.

    For a clone of the repository. The exit status is 1 if a row is slower."""
    args = arguments(locals())
    from hb.cli.before_after import before_after

    return before_after(args)
