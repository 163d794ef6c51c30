"""Preferences as a person or a program gives them: a file of JSON lines, one comparison a line.

    {"prompt": "a red star", "pictures": ["000.png", "001.png"], "choice": 1, "annotator": "me", "time": "2026-11-09"}
    {"instruction": "make the star green", "source": "002.png", "pictures": [...], "choice": null, ...}

`choice` is 0 or 1, the number of the better picture, or null for "cannot decide". A picture is a file, relative to the
one that names it, or a row of a safetensors file, "pool.safetensors#17": of its array `picture` (uint8 [n, H, W, 3]),
or of `latent`, which the caller decodes. `time` is in ISO 8601.

Every line is read by itself. One that cannot be used stays in the file, and a sentence says what is wrong with it.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hb.files import write
from hb.pictures import to_image, to_tensor

Decode = Callable[[Tensor], Tensor]  # stored latents [n, ...] to pictures [n, 3, H, W] in [0, 1]
EXPECTED = (
    '{"prompt": ..., "pictures": [..., ...], "choice": 0, 1 or null, "annotator": ..., "time": ...}, or the same with '
    '"instruction" and "source" in the place of "prompt"'
)


@dataclass(frozen=True)
class Preference:
    """One comparison of two pictures.

    text       the prompt, or the instruction of an edit
    pictures   where the two lie; the first was shown on the left
    choice     0 or 1; None: the annotator could not decide
    source     of an edit, where the edited picture lies; None: the two were drawn
    """

    text: str
    pictures: tuple[str, str]
    choice: int | None
    annotator: str
    time: str
    source: str | None = None

    def __post_init__(self):
        for name in ("text", "annotator", "time", *(["source"] if self.source is not None else [])):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise ValueError(f"{name!r} is {value!r}, and must be a text that says something")
        pair = self.pictures
        if len(pair) != 2 or not all(isinstance(p, str) and p for p in pair) or pair[0] == pair[1]:
            raise ValueError(f"'pictures' is {list(pair)}, and must name two different pictures")
        if isinstance(self.choice, bool) or self.choice not in (0, 1, None):
            raise ValueError(f"'choice' is {self.choice!r}, and must be 0, 1 or null")
        try:
            datetime.fromisoformat(self.time)
        except ValueError:
            raise ValueError(f"'time' is {self.time!r}, and must be as 2026-11-09T14:30:00+00:00") from None

    def to_dict(self) -> dict:
        """The values of a line."""
        said = dict(prompt=self.text) if self.source is None else dict(instruction=self.text, source=self.source)
        rest = dict(choice=self.choice, annotator=self.annotator, time=self.time)
        return said | dict(pictures=list(self.pictures)) | rest


def now() -> str:
    """The time of a click, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def parse_line(line: bytes) -> Preference:
    """The comparison in a line. Raises ValueError, in words, for a line that holds none."""
    try:
        values = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8; save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON ({error.msg} at character {error.pos + 1})") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    edit = isinstance(values, dict) and "instruction" in values
    needed = {"instruction", "source"} if edit else {"prompt"}
    needed |= {"pictures", "choice", "annotator", "time"}
    if not isinstance(values, dict) or not needed <= values.keys() or ("prompt" in values and edit):
        missing = sorted(needed - values.keys()) if isinstance(values, dict) else []
        lacks = f" (it lacks {', '.join(missing)})" if missing else ""
        raise ValueError(f"it is not {EXPECTED}{lacks}")
    if not isinstance(values["pictures"], list):
        raise ValueError(f"'pictures' is {values['pictures']!r}, and must be a list of two names")
    if edit and values["source"] is None:
        raise ValueError("'source' is null, and must name the picture that was edited")
    text = values["instruction"] if edit else values["prompt"]
    return Preference(
        text,
        tuple(values["pictures"]),
        values["choice"],
        values["annotator"],
        values["time"],
        values["source"] if edit else None,
    )


# ---- a file that grows ----------------------------------------------------------------------------------------------


class PreferenceFile:
    """A file of JSON lines that clicks are written to, one at a time; each is on the disk before the next.

    rows       what could be read, in the order of the file
    lines      of each row, the number of its line, from 1 on
    left_out   a sentence for each line that could not be read; it stays where it is
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.rows: list[Preference] = []
        self.lines: list[int] = []
        self.left_out: list[str] = []
        for number, line in enumerate(_lines(self.path), start=1):
            if not line.strip():
                continue
            try:
                self.rows.append(parse_line(line))
                self.lines.append(number)
            except ValueError as error:
                self.left_out.append(f"{self.path.name}, line {number}: {error}.")

    def __len__(self) -> int:
        return len(self.rows)

    def append(self, row: Preference) -> None:
        """Write one more line. A last line without an end, as a stopped process leaves it, is ended first."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            file.seek(0)
            before = file.read()
            file.write((b"\n" if before and not before.endswith(b"\n") else b"") + _line(row))
            file.flush()
            os.fsync(file.fileno())
        self.rows.append(row)
        self.lines.append(len(_lines(self.path)))

    def undo(self) -> Preference | None:
        """Take the last row out of the file; None if there is no row. Lines of others stay."""
        if not self.rows:
            return None
        row, number, lines = self.rows[-1], self.lines[-1], _lines(self.path)
        if len(lines) < number or lines[number - 1] + b"\n" != _line(row) and parse_line(lines[number - 1]) != row:
            raise ValueError(f"another program has changed {self.path}, so its last row stays; open the file again")
        del lines[number - 1]
        write(self.path, b"".join(line + b"\n" for line in lines))
        self.lines.pop()
        return self.rows.pop()


def _lines(path: Path) -> list[bytes]:
    """The lines of a file, without their ends; none if there is no file."""
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    return lines[:-1] if lines[-1] == b"" else lines


def _line(row: Preference) -> bytes:
    return json.dumps(row.to_dict(), ensure_ascii=False).encode() + b"\n"


# ---- the pictures ---------------------------------------------------------------------------------------------------


def load_picture(name: str, folder: str | Path, decode: Decode | None = None) -> Tensor:
    """A stored picture [3, H, W] in [0, 1]. Raises ValueError, in words, if there is none.

    decode: for names of latents, "pool.safetensors#17" where the file has no array `picture`
    """
    file, _, row = name.partition("#")
    path = Path(folder) / file
    if not path.is_file():
        raise ValueError(f"there is no file {file}")
    if row:
        return _stored(path, name, row, decode)
    try:
        with Image.open(path) as opened:
            return to_tensor(opened) / 2 + 0.5
    except Exception as error:  # Pillow's decoders raise many kinds
        raise ValueError(f"{name} cannot be read as a picture ({str(error) or type(error).__name__})") from None


def _stored(path: Path, name: str, row: str, decode: Decode | None) -> Tensor:
    try:
        with safe_open(path, framework="pt") as opened:
            kind = next((kind for kind in ("picture", "latent") if kind in opened.keys()), None)
            if kind is None or not row.isdigit() or int(row) >= opened.get_slice(kind).get_shape()[0]:
                raise ValueError(f"there is no picture {name}: the file holds no such row of 'picture' or 'latent'")
            value = opened.get_slice(kind)[int(row) : int(row) + 1]
    except SafetensorError as error:
        raise ValueError(f"{path.name} cannot be read ({error})") from None
    if kind == "picture":
        return value[0].movedim(-1, 0).float() / 255
    if decode is None:
        raise ValueError(f"{name} is a latent, and only a model makes a picture of it")
    return decode(value.float())[0]


def save_picture(picture: Tensor, path: str | Path) -> Path:
    """Write a picture [3, H, W] in [0, 1] as PNG, whole or not at all."""
    out = io.BytesIO()
    to_image(picture * 2 - 1).save(out, "png")
    return write(path, out.getvalue())


@dataclass(frozen=True)
class Preferences:
    """Comparisons with their pictures: rows that can be used, and a sentence for each that cannot.

    shown   by name, [3, H, W] in [0, 1], all of one size
    """

    rows: tuple[Preference, ...]
    shown: dict[str, Tensor]
    left_out: tuple[str, ...] = ()

    def __str__(self) -> str:
        decided = sum(row.choice is not None for row in self.rows)
        counted = f"{len(self.rows)} comparisons, {decided} of them decided, by {len(self.annotators)} annotators"
        return counted + (f"; {len(self.left_out)} rows are left out" if self.left_out else "")

    @property
    def annotators(self) -> list[str]:
        return list(dict.fromkeys(row.annotator for row in self.rows))

    def export(self, folder: str | Path) -> Path:
        """Write the rows and all their pictures into a folder that stands alone: preferences.jsonl, and PNG files.
        Returns the path of the JSON lines."""
        folder, names = Path(folder), {}
        for number, (name, picture) in enumerate(self.shown.items()):
            names[name] = f"{number:05}.png"
            save_picture(picture, folder / names[name])
        renamed = [
            asdict(row) | dict(pictures=tuple(names[p] for p in row.pictures), source=row.source and names[row.source])
            for row in self.rows
        ]
        return write_preferences(folder / "preferences.jsonl", [Preference(**values) for values in renamed])


def read_preferences(
    path: str | Path, *, size: tuple[int, int] | None = None, decode: Decode | None = None
) -> Preferences:
    """The rows of a file whose pictures are there. size: (height, width) that pictures must have, default: the first's.

    Raises ValueError if the file is not there.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"there is no {path}; give a file of JSON lines, each {EXPECTED}")
    file = PreferenceFile(path)
    left_out, rows, shown = list(file.left_out), [], {}
    picture = cache(lambda name: load_picture(name, path.parent, decode))
    for number, row in zip(file.lines, file.rows):
        names = [*row.pictures, *([row.source] if row.source else [])]
        try:
            found = {name: picture(name) for name in names}
            size = size or tuple(found[names[0]].shape[-2:])
            _check_size(found, size)
        except ValueError as error:
            left_out.append(f"{path.name}, line {number}: {error}.")
            continue
        rows.append(row)
        shown |= found
    return Preferences(tuple(rows), shown, tuple(left_out))


def _check_size(pictures: dict[str, Tensor], size: tuple[int, int]) -> None:
    for name, picture in pictures.items():
        if tuple(picture.shape[-2:]) != tuple(size):
            height, width = picture.shape[-2:]
            raise ValueError(f"{name} is {width} x {height} pixels, and the others are {size[1]} x {size[0]}")


def write_preferences(path: str | Path, rows: Iterable[Preference]) -> Path:
    """A whole file of these rows."""
    return write(path, b"".join(map(_line, rows)))
