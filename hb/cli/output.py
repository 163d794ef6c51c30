"""What verbs leave behind: JSON that any reader takes, pictures, tables for people."""

from __future__ import annotations

import io
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hb.files import write


def to_json(values) -> str:
    """JSON in which what is not a number (a share of none) is null."""
    return json.dumps(_plain(values), indent=1, allow_nan=False)


def _plain(value):
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: str | Path, values) -> Path:
    return write(path, (to_json(values) + "\n").encode())


def check_picture_name(path: str | Path) -> Path:
    """The path, if a picture can be written there: better said before a long drawing than after."""
    path = Path(path)
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ValueError(f"pictures are written as .png, .jpg or .webp, not {path.name!r}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the name of a picture file in it")
    check_writable(path.parent)
    return path


def check_writable(folder: str | Path) -> None:
    """Raises ValueError if files cannot be made in this folder, which need not exist yet."""
    folder = Path(folder)
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ValueError(f"nothing can be written in {there}; choose another place with --out")


def write_picture(path: str | Path, picture: Image.Image) -> Path:
    path = check_picture_name(path)
    out = io.BytesIO()
    picture.save(out, Image.registered_extensions()[path.suffix.lower()])
    return write(path, out.getvalue())


def write_figure(path: str | Path, figure, **options) -> Path:
    """A matplotlib Figure as PNG, without the date that would change the file every time."""
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None}, **options)
    return write(path, out.getvalue())


def table(head: Sequence[str], rows: Sequence[Sequence]) -> Table:
    """Columns under a rule; columns of numbers stand at the right."""
    rows = [[str(cell) for cell in row] for row in rows]
    made = Table(
        box=box.Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True), pad_edge=False, show_edge=False
    )
    for i, name in enumerate(head):
        numbers = all(_is_number(row[i]) for row in rows)
        made.add_column(Text(name), justify="right" if numbers else "left")
    for row in rows:
        made.add_row(*map(Text, row))  # Text: brackets in a cell are no markup
    return made


def show(what: str | Table) -> None:
    """Print on a terminal in its width; into a pipe or file in whatever width it takes, without colors."""
    if isinstance(what, str):
        print(what)
        return
    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else 10_000, force_terminal=None if terminal else False)
    with console.capture() as captured:
        console.print(what)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _is_number(cell: str) -> bool:
    return not cell or cell[0] in "-0123456789"


def seconds_by_part(seconds: dict[str, float]) -> str:
    """ "3.2 s (prefill 0.01, denoise 3.11)"."""
    return f"{sum(seconds.values()):.2f} s ({', '.join(f'{part} {spent:.2f}' for part, spent in seconds.items())})"
