"""The command line `hb`.

The verbs are declared in `hb.cli.verbs`. What they do is imported when one is run, so that help is instant.
"""

import shlex
import sys
from functools import cache
from types import SimpleNamespace
from typing import Annotated

import typer
from typer.main import get_command

import hb
from hb.cli.errors import INTERRUPTED, MISTAKE
from hb.cli.verb import PARSE_ONLY, TYPED, Group, examples_text
from hb.cli.verbs import bench, distill, evaluate, train, tune, use

app = typer.Typer(
    cls=Group,
    help="hb: one small model that draws, edits and answers, and the whole Hyper-Bagel recipe that makes it fast.\n\n"
    "`hb VERB --help` explains a verb and gives examples. A mistake ends with a sentence and exit status 2; "
    "HB_TRACEBACK=1 shows where the sentence came from.",
    epilog=examples_text(
        "hb demo                                            draws, edits, asks, and judges what came out\n"
        'hb draw "a red circle left of a blue star"\n'
        "hb lab                                             the notebooks"
    ),
    context_settings=dict(help_option_names=["-h", "--help"]),
    pretty_exceptions_enable=False,
)


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"hb {hb.__version__}")
        raise typer.Exit()


@app.callback()
def _before_the_verb(
    version: Annotated[
        bool, typer.Option("--version", metavar="", is_eager=True, callback=_say_version, help="Print the version.")
    ] = False,
) -> None:
    """What `hb` itself takes, without a verb."""


app.add_typer(use.app)
app.add_typer(distill.app)
app.add_typer(train.app, name="train", rich_help_panel="Make a model")
app.add_typer(tune.app, name="tune", rich_help_panel="Make a model")
app.add_typer(evaluate.app, name="eval", rich_help_panel="Measure a model")
app.add_typer(bench.app, name="bench", rich_help_panel="Measure a model")


def main(argv: list[str] | None = None) -> int:
    """Run one command line; returns the exit status: 0 done, 2 a mistake, 130 interrupted, 1 an unexpected error."""
    argv = sys.argv[1:] if argv is None else argv
    typed = TYPED.set(shlex.join(["hb", *argv]))
    try:
        return run(argv)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        usage = f"{context.get_usage()}\n" if context else ""
        print(f"{usage}hb: {error.format_message()}", file=sys.stderr)
        return MISTAKE
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    finally:
        TYPED.reset(typed)


def parse(argv: list[str]) -> SimpleNamespace:
    """The options that a command line gives its verb, without running it. Raises typer.TyperException for a mistake."""
    return run(argv, obj=PARSE_ONLY)


def run(argv: list[str], **context):
    return command().main(list(argv), prog_name="hb", standalone_mode=False, **context)


@cache
def command():
    return get_command(app)


if __name__ == "__main__":
    raise SystemExit(main())
