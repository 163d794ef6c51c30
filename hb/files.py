"""Files that are whole or not there, and files of rows that survive being cut off."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def aside(path: str | Path) -> Iterator[Path]:
    """A name to write to in the place of `path`. It becomes `path` when the block ends, and goes when the block fails:
    whoever interrupts us finds the old file or the new one, never half of one, and nothing beside it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write(path: str | Path, data: bytes) -> Path:
    """Write these bytes aside, then rename."""
    with aside(path) as part:
        part.write_bytes(data)
    return Path(path)


def read_rows(path: str | Path) -> list[dict]:
    """The rows of a file of JSON lines; none if there is no file.

    A row is whole when its line has ended. The last one may not have: it was being written when somebody stopped us.
    A line that is no JSON is what became of such a row when the next was written behind it, and is left out too.
    """
    path, rows = Path(path), []
    for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:  # json's and unicode's errors are ValueErrors
            continue
    return rows


def append_rows(path: str | Path, rows: Iterable[dict]) -> None:
    """Write rows behind the last whole one. What there is of another is cut off: it would take the first of ours
    along."""
    with Path(path).open("a+b") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.writelines(json.dumps(row).encode() + b"\n" for row in rows)
