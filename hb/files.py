"""Files that are whole or not there, and files of rows that survive being cut off."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

ABANDONED = 3600  # seconds without a write after which a part file belongs to a process that was killed


@contextmanager
def aside(path: str | Path) -> Iterator[Path]:
    """A name to write to in the place of `path`. It becomes `path` when the block ends, and is removed when it fails.

    An interrupted process leaves the old file or the new one, never half of one. Each writer has a name of its own, so
    two processes that write one file do not mix: the last to finish wins. Part files that killed processes left behind
    are removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _remove_abandoned(path: Path) -> None:
    for part in path.parent.glob(f"{path.name}*.part"):
        try:
            if part.is_file() and time.time() - part.stat().st_mtime > ABANDONED:
                part.unlink()
        except FileNotFoundError:  # another process removed or renamed it first
            continue


@contextmanager
def alone_in(folder: str | Path) -> Iterator[None]:
    """At most one process is inside such a block for a folder; the others wait. The lock ends with its process.

    Without file locks (Windows) nobody waits: all do the same work, and `aside` keeps what they write apart.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def write(path: str | Path, data: bytes) -> Path:
    """Write these bytes aside, then rename."""
    with aside(path) as part:
        part.write_bytes(data)
    return Path(path)


class NotFinite(ValueError):
    """Numbers that are infinite or none (NaN) where weights or settings belong."""


def check_finite(where: str, tensors: Mapping) -> None:
    """Raises NotFinite if any of these tensors holds an infinite number or NaN."""
    bad = [name for name, value in tensors.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if bad:
        raise NotFinite(
            f"{where} is not written, and what was there before is kept: {len(bad)} of {len(tensors)} tensors hold "
            f"numbers that are not finite ({bad[0]} first). The run has diverged; train again with a smaller --lr"
        )


def write_tensors(path: str | Path, tensors: Mapping, metadata: Mapping[str, str] | None = None) -> Path:
    """Write a safetensors file aside, then rename. Raises NotFinite instead of replacing good weights by broken
    ones."""
    from safetensors.torch import save_file  # with torch it takes a second to import, and few who write files need it

    check_finite(Path(path).name, tensors)
    with aside(path) as part:
        save_file({name: value.contiguous() for name, value in tensors.items()}, part, dict(metadata or {}))
    return Path(path)


def read_rows(path: str | Path) -> list[dict]:
    """The rows of a file of JSON lines; none if there is no file.

    A row is whole when its line has ended. The last one may not have: it was being written when the process stopped.
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
    """Write rows behind the last whole one. What there is of another is cut off: it would spoil the first new row."""
    with Path(path).open("a+b") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.writelines(json.dumps(row).encode() + b"\n" for row in rows)
