"""Words as they are typed: what the model is to read of them, or a short hint where they cannot be read yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from hb.world.language import LanguageError, parse, parse_edit, say, say_edit
from hb.world.language.words import PROMPT_WORDS, READABLE, split_words

DRAW, EDIT = "draw", "edit"
EMPTY = {
    DRAW: "type what to draw, for instance 'a red circle left of a blue star'",
    EDIT: "type what to change, for instance 'make the star green'",
}
MOST, LONGEST = 3, 90  # words that an unfinished one can become, of which a hint speaks; letters of a hint
# what makes a sentence of words that stop early
TAILS = {
    DRAW: (
        " a star| circle| star| of a star| the left of a star| left of a star"
        "| navy background| a navy background| background| the top left| top left| it"
    ).split("|"),
    EDIT: (
        " the star green| the star| the star to the top| star to the top| star green| green| star| a circle| circle"
        "| to the top| the top| top| black| into a circle| with a circle| background black| the background black"
        "| the star with a circle| star with a circle| away the star| the picture| picture"
        "| color of the star to green| of the star to green| the star to green| star to green| to green"
        "| size of the star to large| of the star to large| the star to large| star to large| to large| large"
        "| the left with a circle| left with a circle"
    ).split("|"),
}
EDIT_WORDS = frozenset("make change turn replace into remove erase take away add put move larger smaller by".split())


@dataclass(frozen=True)
class Hint:
    """A sentence about words that make no picture yet. It is no error: the last picture stays."""

    text: str

    def __str__(self) -> str:
        return self.text


def understood(verb: str, text: str) -> str | Hint:
    """The words of the tiny world that a prompt ("draw") or an instruction ("edit") comes to, in the spelling that a
    model has seen; or a hint."""
    if not text.strip():
        return Hint(EMPTY[verb])
    try:
        return SAID[verb](text)
    except LanguageError as error:
        return Hint(_unfinished(verb, text) or _short(str(error)))


SAID: dict[str, Callable[[str], str]] = {
    DRAW: lambda text: say(parse(text)),
    EDIT: lambda text: say_edit(parse_edit(text)),
}


def _unfinished(verb: str, text: str) -> str | None:
    """How words go on that are the beginning of a sentence; None where they are not."""
    whole = _with_tail(verb, text)
    if whole:
        return f"go on, for instance '{whole}'"
    last = (split_words(text) or [""])[-1]
    if not last.isalpha() or not text.lower().endswith(last):
        return None
    before, known = text[: len(text) - len(last)], READABLE if verb == EDIT else READABLE - EDIT_WORDS | PROMPT_WORDS
    longer = sorted(word for word in known if word.startswith(last) and word != last)
    fits = (word for word in longer if _read(verb, before + word) or _with_tail(verb, before + word))
    some = list(islice(fits, MOST))
    return f"'{last}' can become {_either(some)}" if some else None


def _with_tail(verb: str, text: str) -> str | None:
    """A sentence that begins with this text, if one of TAILS makes it one; in good spelling: "two circles"."""
    begun = text.rstrip()
    for whole in (begun + tail for tail in TAILS[verb]):
        said = _read(verb, whole)
        if said:
            return said if said.startswith(begun) else whole
    return None


def _read(verb: str, text: str) -> str | None:
    try:
        return SAID[verb](text)
    except LanguageError:
        return None


def _either(words: list[str]) -> str:
    quoted = [f"'{word}'" for word in words]
    return " or ".join(part for part in (", ".join(quoted[:-1]), quoted[-1]) if part)


def _short(words: str) -> str:
    """The first part of a long sentence; what follows it is advice."""
    return words if len(words) <= LONGEST else words.split(";")[0]
