"""What verbs leave behind: JSON that any reader takes, pictures, tables for people."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

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
    """The path, if pictures of its kind can be written: better said before a long drawing than after."""
    path = Path(path)
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ValueError(f"I can write .png, .jpg and .webp, not {path.name!r}")
    return path


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


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; numbers stand at the right."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    right = [all(_is_number(row[i]) for row in rows) for i in range(len(head))]

    def line(cells):
        return "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right)).rstrip()

    return "\n".join([line(head), "  ".join("-" * w for w in widths), *map(line, rows)])


def _is_number(cell: str) -> bool:
    return not cell or cell[0] in "-0123456789"


def seconds_by_part(seconds: dict[str, float]) -> str:
    """ "3.2 s (prefill 0.01, denoise 3.11)"."""
    return f"{sum(seconds.values()):.2f} s ({', '.join(f'{part} {spent:.2f}' for part, spent in seconds.items())})"
