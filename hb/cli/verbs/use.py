"""`hb demo`, `hb draw`, `hb edit`, `hb ask`, `hb lab`."""

from typing import Annotated

import typer

from hb.cli import options as o
from hb.cli.verb import arguments, verb

app = typer.Typer()
PANEL = "Use a model"

Picture = Annotated[str, o.Words(metavar="PICTURE", help="A picture file.")]
Student = o.StudentName
DrawNFE = Annotated[
    int | None,
    o.nfe_option("Function evaluations a picture may cost (default: the model's own setting, 100 for a teacher)."),
]
EditNFE = Annotated[
    int | None,
    o.nfe_option("Function evaluations the edit may cost (default: the model's own setting, 132 for a teacher)."),
]
PictureOut = Annotated[str, o.Name(metavar="FILE", help="Picture file to write.")]


@verb(
    app,
    short_help="Draw, edit, ask and judge, in about a minute.",
    rich_help_panel=PANEL,
    examples="hb demo\nhb demo --model runs/nano/model --out out/mine",
)
def demo(
    model: o.ModelOptions,
    out: Annotated[str, o.Folder(help="Folder for the two files.")] = "out",
    seeds: Annotated[int | None, o.Whole(help="Instead, do all from so many seeds and count what is right.")] = None,
    json: o.Json = False,
):
    """Eight drawings, three edits and five questions, each judged against the truth of the tiny world.

    Prints a table and saves OUT/demo.png and OUT/demo.json, or with --seeds OUT/demo_seeds.json. Seeds are fixed."""
    args = arguments(locals())
    from hb.cli.demo import demo

    return demo(args)


@verb(
    app,
    short_help="Draw pictures from prompts.",
    rich_help_panel=PANEL,
    examples="""
hb draw "a red circle left of a blue star"
hb draw "three hearts" "two big stripy stars" --n 1 --nfe 100
hb draw "a moon on a navy background" --steps 6 --text-scale 1 --seed 7
""",
)
def draw(
    prompts: Annotated[list[str], o.Words(metavar="PROMPT", help="What to draw; quote each prompt.")],
    model: o.ModelOptions,
    n: Annotated[int, o.Whole(help="Pictures of each prompt.")] = 4,
    nfe: DrawNFE = None,
    steps: o.Steps = None,
    student: Student = None,
    text_scale: o.TextScale = None,
    seed: o.Seed = 0,
    raw: o.Raw = False,
    quiet: Annotated[
        bool, o.Flag("--quiet", help="No warning of prompts that the model was measured to draw wrong mostly.")
    ] = False,
    out: PictureOut = "out/draw.png",
    json: o.Json = False,
):
    """Draw pictures of one or more prompts, print what they cost, and say whether each shows what was asked.

    Several pictures are saved one by one (FILE-1.png ...) and side by side (FILE.png).

    The tiny world has circles, squares, triangles, stars, crosses, hearts, rings and moons, small or large,
    plain or striped, in eight colors, at nine places, on a white, gray, black, beige or navy background."""
    args = arguments(locals())
    o.nfe_or_steps(nfe, steps)
    from hb.cli.use import draw

    return draw(args)


@verb(
    app,
    short_help="Change a picture as an instruction says.",
    rich_help_panel=PANEL,
    examples="""
hb edit out/draw-1.png "make the star green"
hb edit out/draw-1.png "remove the circle" --out out/alone.png
hb edit out/draw-1.png "change the background to black" --nfe 132
""",
)
def edit(
    picture: Picture,
    instruction: Annotated[list[str], o.Words(metavar="INSTRUCTION", help="What to change; quote it.")],
    model: o.ModelOptions,
    nfe: EditNFE = None,
    steps: o.Steps = None,
    student: Student = None,
    text_scale: o.TextScale = None,
    image_scale: o.ImageScale = None,
    seed: o.Seed = 0,
    raw: o.Raw = False,
    out: PictureOut = "out/edit.png",
    json: o.Json = False,
):
    """Change a picture as an instruction says, print what it cost, and say whether it was done.

    Small models work at the size they were trained on: other pictures are resized to it."""
    args = arguments(locals())
    o.nfe_or_steps(nfe, steps)
    from hb.cli.use import edit

    return edit(args)


@verb(
    app,
    short_help="Ask about a picture.",
    rich_help_panel=PANEL,
    examples="""
hb ask out/draw-1.png "describe the picture"
hb ask out/draw-1.png "how many stars are there?" "what color is the circle?"
""",
)
def ask(
    picture: Picture,
    questions: Annotated[list[str], o.Words(metavar="QUESTION", help="What to ask; quote each question.")],
    model: o.ModelOptions,
    temperature: Annotated[float, o.Number(metavar="T", help="0 always takes the likeliest token.")] = 0.0,
    plain: Annotated[
        bool, o.Flag("--plain", help="One token a pass, without the draft model: the same answer, slower.")
    ] = False,
    max_tokens: Annotated[int, o.Whole(help="Longest answer.")] = 128,
    seed: o.Seed = 0,
    raw: o.Raw = False,
    json: o.Json = False,
):
    """Ask one or more questions about a picture."""
    args = arguments(locals())
    from hb.cli.use import ask

    return ask(args)


@verb(
    app,
    short_help="Open the notebooks.",
    rich_help_panel=PANEL,
    examples="hb lab\nhb lab notebooks/03_unified_model.ipynb\nhb lab --no-browser --port 8899",
    context_settings=dict(ignore_unknown_options=True),  # they are JupyterLab's
)
def lab(
    words: Annotated[
        list[str] | None,
        o.Words(
            metavar="[NOTEBOOK] [JUPYTERLAB OPTIONS]", help="A notebook (default: the tour), and what JupyterLab reads."
        ),
    ] = None,
):
    """Start JupyterLab on the tour, or on another notebook. What is not listed here is passed on to JupyterLab."""
    from hb.cli.lab import lab

    return lab(words or [])
