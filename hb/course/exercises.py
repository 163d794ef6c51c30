"""Checks for the notebooks' exercises: a tick, a hint naming the likely mistake, or "not tried yet". They never raise.

A check compares the answer with a right one on cases where the usual mistakes differ, and knows those mistakes by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Hint(Exception):
    """What to look at again."""


class NotTried(Exception):
    """The stub is still there."""


Check = Callable[[object], None]


CHECKS: dict[str, Check] = {}


def check(name: str, answer: object) -> None:
    """Print how the answer to exercise `name` ("2.1") fares."""
    if name not in CHECKS:
        print(f"there is no exercise {name!r}; there are {', '.join(CHECKS)}")
        return
    try:
        if answer is ...:
            raise NotTried
        if answer is None:
            raise Hint("this is None: what does the line before the check give it?")
        CHECKS[name](answer)
    except NotTried:
        print(f"· {name} not tried yet")
    except Hint as hint:
        print(f"✗ {name} not yet: {hint}")
    except Exception as error:  # an answer may fail in any way it likes
        print(f"✗ {name} stopped with {type(error).__name__}: {error}")
    else:
        print(f"✓ {name}")


def exercise(name: str) -> Callable[[Check], Check]:
    """Registers a check."""

    def register(function: Check) -> Check:
        CHECKS[name] = function
        return function

    return register


def call(answer: object, *arguments):
    """What the answer gives for these arguments; the stub's `...` is "not tried yet"."""
    if not callable(answer):
        raise Hint(f"hand over the function itself, check(..., name), not what it returns ({type(answer).__name__})")
    given = answer(*[a.clone() if isinstance(a, Tensor) else a for a in arguments])
    if given is ...:
        raise NotTried
    if given is None:
        raise Hint("the function returns nothing (None): is its `return` missing?")
    return given


def close(given, wanted, atol: float = 1e-5) -> bool:
    """Equal to rounding, and of the same shape."""
    given, wanted = torch.as_tensor(given), torch.as_tensor(wanted)
    return given.shape == wanted.shape and torch.allclose(given.double(), wanted.double(), atol=atol)


def expect(given, wanted, mistakes: Sequence[tuple[object, str]], otherwise: str, atol: float = 1e-5) -> None:
    """Raise the hint of the mistake that gives exactly this, or a general one, unless the answer is right."""
    if close(given, wanted, atol):
        return
    for wrong, hint in mistakes:
        if close(given, wrong, atol):
            raise Hint(hint)
    given, wanted = torch.as_tensor(given), torch.as_tensor(wanted)
    if given.shape != wanted.shape:
        raise Hint(f"the shape should be {list(wanted.shape)}, yours is {list(given.shape)}. {otherwise}")
    raise Hint(otherwise)


def expect_number(answer: object, wanted: float, mistakes: dict[float, str], otherwise: str) -> None:
    if not isinstance(answer, (int, float, Tensor)):
        raise Hint(f"a number is asked for, this is a {type(answer).__name__}")
    expect(float(answer), float(wanted), [(float(k), hint) for k, hint in mistakes.items()], otherwise, atol=1e-3)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shaped_like_points(answer: object, points: Sequence[Tensor], *times: Tensor) -> None:
    """Hint if the answer is written for one time where each of the B points [B, ...] has its own, times [B]."""
    try:
        call(answer, *points, *times)
    except RuntimeError as error:
        call(answer, *points, *(t[:1, None] for t in times))  # what fails here too is another mistake
        raise Hint(
            "each point has a time of its own, `t` of shape [B]: write t[:, None] to fit points [B, 2]"
        ) from error
