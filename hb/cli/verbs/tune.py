"""`hb tune`: the settings that serve a model best."""

from typing import Annotated

import typer

from hb.cli import options as o
from hb.cli.errors import GOES_ON
from hb.cli.verb import Group, arguments, examples_text, verb

app = typer.Typer(
    cls=Group,
    help="Find the settings that serve a model best, by trying them.",
    short_help="Find a model's best settings.",
    epilog=examples_text("hb tune tree\nhb tune guidance"),
)


@verb(
    app,
    short_help="How much should the draft guess?",
    examples="""
hb tune tree
hb tune tree --draft runs/nano/draft/checkpoint
hb tune tree --grid       races the whole grid too
""",
)
def tree(
    model: o.ModelOptions,
    draft: o.DraftFolder = None,
    temperatures: o.Temperatures = (0.0, 0.5, 1.0, 1.5),
    grid: Annotated[
        bool, o.Flag("--grid", help="Measure every plan, and print how near the choice is to the best.")
    ] = False,
    n: Annotated[int | None, o.Whole(help="Pictures to tune on (default: 8).")] = None,
    threads: o.Threads = None,
    results: o.Results = None,
    json: o.Json = False,
):
    """Measure what passes and drafting steps cost here and how often guesses are right, and write the best depth,
    width and budget for each temperature into the draft's draft.json. Let nothing else run beside it."""
    args = arguments(locals())
    from hb.cli.speculation import tune_tree

    return tune_tree(args)


@verb(
    app,
    short_help="How strongly should the text, and a picture, guide?",
    stopped=GOES_ON + "the last batch",
    examples="hb tune guidance\nhb tune guidance --model runs/nano/model --n 42 --text 1.5 3",
)
def guidance(
    model: o.ModelOptions,
    text: Annotated[list[float], typer.Option(metavar="SCALE ...", help="Scales of the guidance by text.")] = (
        1.25,
        1.5,
        2.0,
        3.0,
        4.0,
    ),
    image: Annotated[
        list[float], typer.Option(metavar="SCALE ...", help="Scales of the guidance by a picture to be edited.")
    ] = (1.25, 1.5, 2.0),
    steps: Annotated[int, o.Whole(help="Steps of each picture.")] = 25,
    n: Annotated[int | None, o.Whole(help="Prompts, and edits (default: 96).")] = None,
    seed: o.Seed = 0,
    results: o.Results = None,
    json: o.Json = False,
):
    """Draw and edit at several scales, from prompts and instructions that no evaluation holds and from the same
    noise, and write the scales that were right most often into the model's sampling.json. Stopped work goes on."""
    args = arguments(locals())
    from hb.cli.guidance import tune_guidance

    return tune_guidance(args)
