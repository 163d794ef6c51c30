"""Errors in words: one place turns the exceptions of every library into a sentence and an exit status."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator

STOPPED = "stopped; no half-written file was left behind"
GOES_ON = "stopped; nothing is lost: the same command goes on from "

DONE, UNKNOWN, MISTAKE, INTERRUPTED = 0, 1, 2, 130
UNKNOWN_HELP = (
    "this is an error in hb or in a library below it. Please report it with what HB_TRACEBACK=1 in front of the "
    "command prints"
)
DISK_FULL = "the disk is full; what was already there is as it was"

# Begin of the module -> words before the library's own. Exceptions are told apart by where they are defined: importing
# the libraries to ask isinstance would make every command as slow as the slowest of them.
LIBRARIES = {
    "safetensors": "a safetensors file cannot be read or written: ",
    "huggingface_hub": "the Hugging Face Hub: ",
    "httpx": "the network: ",
    "requests": "the network: ",
    "lightning": "Lightning refuses these settings: ",
    "PIL": "a picture cannot be read: ",
}
# Errors that libraries raise under general types, by a part of the message.
MESSAGES = {
    "Torch not compiled with CUDA enabled": "this PyTorch has no CUDA; use --device cpu or --accelerator cpu",
    "Found no NVIDIA driver": "there is no NVIDIA GPU here; use --device cpu or --accelerator cpu",
    "No CUDA GPUs are available": "there is no NVIDIA GPU here; use --device cpu or --accelerator cpu",
    "invalid device ordinal": "there are fewer GPUs here than the number asked for; --device cuda:0 is the first",
    "not linked with support for mps": "this PyTorch has no MPS; use --device cpu or --accelerator cpu",
    "No supported gpu backend found": "there is no GPU that PyTorch can use here; leave --accelerator out, or say cpu",
    "PytorchStreamWriter failed": DISK_FULL,
    "iostream error": DISK_FULL,
    "No space left on device": DISK_FULL,
}


def status_of(act: Callable[[], int | None], stopped: str = STOPPED) -> int:
    """Run it; returns its exit status, 0 where it gives none. An error becomes a sentence on stderr, see `sentence`."""
    try:
        return act() or DONE
    except KeyboardInterrupt:
        print(f"\nhb: {stopped}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has gone: `hb eval judge | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNKNOWN
    except Exception as error:
        if os.environ.get("HB_TRACEBACK") or type(error).__module__.startswith("typer"):  # its own: a usage error
            raise
        words = sentence(error)
        print(f"hb: {words or f'{_last_line(error)}; {UNKNOWN_HELP}'}", file=sys.stderr)
        return MISTAKE if words else UNKNOWN


def sentence(error: BaseException) -> str | None:
    """What went wrong, on one line; None for an error that is nobody's mistake."""
    for kind in (_by_message, _out_of_memory, _of_a_library, _of_the_system, _ours):
        words = kind(error)
        if words:
            return " ".join(words.split())
    return None


def _by_message(error: BaseException) -> str | None:
    return next((words for part, words in MESSAGES.items() if part in str(error)), None)


def _out_of_memory(error: BaseException) -> str | None:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # Python's, PyTorch's
        return "not enough memory; fewer pictures, examples or devices at once take less"
    return None


def _of_a_library(error: BaseException) -> str | None:
    name = type(error).__name__
    if name == "DecompressionBombError":
        return f"the picture is too large to be opened safely ({error}); make it smaller first"
    for module in _modules(error):
        for library, words in LIBRARIES.items():
            if module == library or module.startswith(library + "."):
                return words + _first_line(error)
    return None


def _modules(error: BaseException) -> Iterator[str]:
    """Where the error's class and those it is made of are defined."""
    return (kind.__module__ for kind in type(error).__mro__)


def _of_the_system(error: BaseException) -> str | None:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DISK_FULL
    if isinstance(error, OSError) and error.strerror:  # "[Errno 2] ..." means nothing to most people
        return f"{error.filename or 'a file'}: {error.strerror.lower()}"
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed here; `make setup` installs everything into .venv"
    return None


def _ours(error: BaseException) -> str | None:
    """A ValueError is how hb, and most libraries, refuse what they were given."""
    return str(error) if isinstance(error, (ValueError, OSError)) else None


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _last_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {_first_line(error)}"
