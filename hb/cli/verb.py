"""How a verb is declared: an annotated function that Typer reads, and what a Typer command lacks.

A verb takes its options one by one or by groups. A group is a dataclass in `hb.cli.options`; each of its fields
becomes an option of the verb, so that the six options of a model are written down once.
"""

import inspect
import math
import sys
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import fields, is_dataclass
from functools import wraps
from types import SimpleNamespace

import typer
from typer.core import TyperCommand, TyperGroup

from hb.cli.errors import STOPPED, status_of

TYPED: ContextVar[str] = ContextVar("the command line as it was typed", default="hb")
PARSE_ONLY = object()  # as the context's object: give back the parsed options instead of running the verb


class WithExamples:
    """Prints the examples below the help as they are; Typer would wrap their lines."""

    def format_help(self, ctx: typer.Context, formatter) -> None:
        examples, self.epilog = self.epilog, None
        super().format_help(ctx, formatter)
        self.epilog = examples
        typer.echo(examples)


class Group(WithExamples, TyperGroup):
    """Verbs of one kind."""


class Verb(WithExamples, TyperCommand):
    """A command whose options take several values, whose old words are still read, and whose errors are sentences."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        args = _new_words(args, self.callback.renamed)
        several = {name for p in self.params if getattr(p, "multiple", False) for name in p.opts}
        rest = super().parse_args(ctx, _repeated(args, several))
        for param in self.params:
            _check_finite(ctx, param)
        return rest

    def invoke(self, ctx: typer.Context):
        if ctx.obj is PARSE_ONLY:
            return SimpleNamespace(**ctx.params)
        return status_of(lambda: super(Verb, self).invoke(ctx), self.callback.stopped)


def verb(
    app: typer.Typer, *, examples: str, stopped: str = STOPPED, renamed: dict | None = None, formerly: str = "", **more
):
    """Register a function as a verb of this app. Its docstring is the help, its arguments are the options.

    stopped   what an interruption is answered with
    renamed   old options and what they are called now: they are read for one more release
    formerly  an old name of the verb, likewise
    more      for `typer.Typer.command`: name, short_help ...
    """

    def register(function: Callable) -> Callable:
        command = _one_by_one(function)
        command.stopped, command.renamed = stopped, renamed or {}
        more.setdefault("epilog", examples_text(examples))
        app.command(cls=Verb, **more)(command)
        if formerly:
            app.command(formerly, cls=Verb, hidden=True, epilog=more["epilog"])(command)
        return function

    return register


def examples_text(examples: str) -> str:
    return "\n".join(["examples:", *(f"  {line}" for line in examples.strip().splitlines())])


def arguments(values: dict) -> SimpleNamespace:
    """What a verb was given, `locals()` of its function, as one flat object with the command line as it was typed."""
    flat = {}
    for name, value in values.items():
        flat |= vars(value) if is_dataclass(value) else {name: value}
    return SimpleNamespace(**flat, command=TYPED.get())


def _one_by_one(function: Callable) -> Callable:
    """The function with each argument that is a group of options replaced by these options."""
    groups, options = {}, []
    for param in inspect.signature(function).parameters.values():
        if not is_dataclass(param.annotation):
            options.append(param.replace(kind=param.KEYWORD_ONLY))
            continue
        groups[param.name] = param.annotation
        for field in fields(param.annotation):
            options.append(
                inspect.Parameter(field.name, param.KEYWORD_ONLY, default=field.default, annotation=field.type)
            )

    @wraps(function)
    def command(**values):
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        return function(**values)

    command.__signature__ = inspect.Signature(options)
    command.__annotations__ = {option.name: option.annotation for option in options}
    return command


def _new_words(args: Sequence[str], renamed: dict[str, str]) -> list[str]:
    """The command line with options under the names they have now; says so on stderr for each that had an old one."""
    words = []
    for place, word in enumerate(args):
        if word == "--":
            return words + list(args[place:])
        option, equals, value = word.partition("=")
        if option in renamed:
            print(
                f"hb: {option} is called {renamed[option]} now; the old name works for one more release",
                file=sys.stderr,
            )
            option = renamed[option]
        words.append(option + equals + value)
    return words


def _repeated(args: Sequence[str], several: set[str]) -> list[str]:
    """`--mix a b` as `--mix a --mix b`: click options take a fixed number of values, ours as many as follow."""
    words, option = [], None
    for place, word in enumerate(args):
        if word == "--":
            return words + list(args[place:])
        if word.startswith("-") and not _is_number(word):
            name = word.partition("=")[0]
            option = name if name in several else None
        elif option and words[-1] != option:
            words.append(option)
        words.append(word)
    return words


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False


def _check_finite(ctx: typer.Context, param) -> None:
    """Refuse nan and inf, which Python takes as numbers."""
    value = ctx.params.get(param.name)
    for number in value if isinstance(value, (list, tuple)) else (value,):
        if isinstance(number, float) and not math.isfinite(number):
            raise typer.BadParameter(f"{number} is not a finite number", ctx=ctx, param=param)
