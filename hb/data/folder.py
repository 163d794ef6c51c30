"""Pictures of one's own: a folder, or a file of JSON lines, in the place of the tiny world.

    my_pictures/
        cat.png  cat.txt       a picture and its caption in a text file of the same name, or
        captions.jsonl         {"image": "cat.png", "text": "a gray cat on a chair"}
        edits.jsonl            {"image": "cat.png", "instruction": "make the cat black", "edited": "black.png"}

All three may be there, and both kinds of lines may stand in one file, whose own path can be given instead of the
folder's. Paths are relative to the file that names them. `hb train autoencoder --data my_pictures` trains on every
picture; `hb train teacher --data my_pictures` and `hb distill STAGE --data my_pictures` on captions (drawing, and
describing) and edits.

    own = read_folder("my_pictures", size=(64, 64), text=tokenizer)
    pool = own.pool(encode, tokenizer)

What is done to them:
- a picture of any mode and any aspect is turned as its EXIF orientation says, transparency becomes white, 16 bits
  become 8; it is resized to fit into `size` and padded with white, or, with fit="crop", resized to cover `size` and
  cropped at the center
- words outside of the tokenizer's vocabulary are encoded in pieces: it has every byte. A text longer than `tokens` is
  cut there, and a note says so
- a row that cannot be used is left out, and one sentence says which and why (`left_out`). The others are used. If none
  is left, that is an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from hb.data.own_pictures import EXPECTED, MOST_TOKENS, OwnPictures
from hb.data.records import Caption, Instruction
from hb.data.tokens import Tokenizer
from hb.pictures import to_rgb

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
LONGEST = 16  # times its shorter side; a longer strip has less than four pixels across after it is fitted into 64
_PATHS = ("image", "edited")


def read_folder(
    path: str | Path,
    *,
    size: tuple[int, int],
    fit: str = "pad",
    text: Tokenizer | None = None,
    tokens: int = MOST_TOKENS,
) -> OwnPictures:
    """Read a folder, or a file of JSON lines, of one's own. All pictures are held in memory at their new size.

    size: height and width; fit: "pad" or "crop"; text: whose tokens are counted, to say which texts are too long.
    """
    path = Path(path).expanduser()
    if fit not in ("pad", "crop"):
        raise ValueError(f"fit is 'pad' or 'crop', not {fit!r}")
    if not path.exists():
        raise ValueError(f"there is no {path}; --data takes a folder of pictures, or a file of JSON lines")
    reading = _Reading(path if path.is_dir() else path.parent, size, fit, text, tokens)
    for file in [path] if path.is_file() else [path / name for name in ("captions.jsonl", "edits.jsonl")]:
        reading.read_lines(file)
    if path.is_dir():
        reading.read_pictures()
    return reading.done(path)


@dataclass
class _Reading:
    """A folder that is being read: what was found so far, and what was wrong."""

    folder: Path
    size: tuple[int, int]
    fit: str
    text: Tokenizer | None
    tokens: int
    pictures: dict[str, Tensor] = field(default_factory=dict)  # by name
    shapes: dict[str, tuple[int, int]] = field(default_factory=dict)  # as they came
    unreadable: dict[str, str] = field(default_factory=dict)
    rows: dict[Caption | Instruction, str] = field(default_factory=dict)  # and where each stands
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    lines: int = 0

    def read_lines(self, file: Path) -> None:
        if not file.is_file():
            return
        for number, line in enumerate(file.read_bytes().split(b"\n"), start=1):
            if line.strip():
                self.lines += 1
                where = f"{file.name}, line {number}"
                self.attempt(where, partial(self.read_line, line, where))

    def read_pictures(self) -> None:
        """Every picture of the folder, with the text beside it if there is one, and texts without a picture."""
        files = sorted(f for f in self.folder.rglob("*") if f.is_file() and not f.name.startswith("."))
        beside: dict[Path, list[str]] = {}
        for file in (f for f in files if f.suffix.lower() in SUFFIXES):
            name = self.name_of(file)
            beside.setdefault(file.with_suffix(""), []).append(name)
            if name not in self.unreadable:  # else a line has said so
                self.attempt(name, partial(self.picture, name))
        for file in (f for f in files if f.suffix.lower() == ".txt"):
            names = beside.get(file.with_suffix(""))
            if names is None:
                self.left_out.append(f"{self.name_of(file)}: there is no picture of this name beside it.")
            for name in names or ():
                if name in self.pictures:
                    self.attempt(self.name_of(file), partial(self.read_text, file, name))

    def read_text(self, file: Path, name: str) -> None:
        self.add(Caption(name, " ".join(_decoded(file.read_bytes()).split())), self.name_of(file))

    def name_of(self, file: Path) -> str:
        return file.relative_to(self.folder).as_posix()

    def read_line(self, line: bytes, where: str) -> None:
        self.add(_parsed(line), where)

    def attempt(self, where: str, act: Callable[[], object]) -> None:
        """Do it, or write down why it cannot be done."""
        try:
            act()
        except ValueError as error:
            self.left_out.append(f"{where}: {error}.")

    def add(self, row: Caption | Instruction, where: str) -> None:
        """A row, once it is known to be good."""
        words = row.text if isinstance(row, Caption) else row.instruction
        if not words.strip():
            raise ValueError(f"the {'text' if isinstance(row, Caption) else 'instruction'} is empty")
        if row in self.rows:
            raise ValueError(f"it says the same as {self.rows[row]}")
        self.picture(row.image)
        if isinstance(row, Instruction):
            self.picture(row.edited)
            before, after = self.shapes[row.image], self.shapes[row.edited]
            if before != after:
                raise ValueError(
                    f"{row.image} is {before[0]} x {before[1]} pixels and {row.edited} {after[0]} x {after[1]}; "
                    "the two pictures of an edit have one size"
                )
        self.rows[row] = where
        count = len(self.text.encode(words)) if self.text else 0
        if count > self.tokens - 2:
            self.notes.append(f"{where}: the text has {count} tokens, and is cut after {self.tokens - 2}.")

    def picture(self, name: str) -> Tensor:
        """The picture of this name, read once."""
        if name in self.unreadable:
            raise ValueError(self.unreadable[name])
        if name not in self.pictures:
            try:
                self.pictures[name], self.shapes[name] = _fitted(self.folder / name, name, self.size, self.fit)
            except ValueError as error:
                self.unreadable[name] = str(error)
                raise
        return self.pictures[name]

    def done(self, path: Path) -> OwnPictures:
        if not self.pictures or (self.lines and not self.rows):
            why = " ".join(self.left_out[:3]) or f"It holds no pictures ({', '.join(SUFFIXES)})."
            more = f" And {len(self.left_out) - 3} more." if len(self.left_out) > 3 else ""
            raise ValueError(f"nothing in {path} can be trained on. {why}{more}")
        names = sorted(self.pictures)
        return OwnPictures(
            torch.stack([self.pictures[name] for name in names]),
            tuple(names),
            tuple(row for row in self.rows if isinstance(row, Caption)),
            tuple(row for row in self.rows if isinstance(row, Instruction)),
            tuple(self.left_out),
            tuple(self.notes),
        )


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8; save it as UTF-8") from None


def _parsed(line: bytes) -> Caption | Instruction:
    try:
        values = json.loads(_decoded(line))
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON ({error.msg} at character {error.pos + 1})") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    for kind, keys in ((Caption, {"image", "text"}), (Instruction, {"image", "instruction", "edited"})):
        if isinstance(values, dict) and keys <= values.keys() and not ({"text", "instruction"} <= values.keys()):
            wrong = [key for key in sorted(keys) if not isinstance(values[key], str)]
            if wrong:
                raise ValueError(f"{wrong[0]!r} is {values[wrong[0]]!r}, and must be a text in quotation marks")
            tidy = lambda key: Path(values[key]).as_posix() if key in _PATHS else " ".join(values[key].split())
            return kind(**{key: tidy(key) for key in keys})
    raise ValueError(f"it is not {EXPECTED}")


def _fitted(path: Path, name: str, size: tuple[int, int], fit: str) -> tuple[Tensor, tuple[int, int]]:
    """A picture as uint8 [H, W, 3] of this size, and the width and height that it came with."""
    if not path.is_file():
        raise ValueError(f"there is no file {name}")
    try:
        with Image.open(path) as opened:
            picture = to_rgb(_in_eight_bits(ImageOps.exif_transpose(opened)))
    except Exception as error:  # Pillow's decoders raise many kinds
        raise ValueError(f"{name} cannot be read as a picture ({str(error) or type(error).__name__})") from None
    if max(picture.size) > LONGEST * min(picture.size):
        raise ValueError(
            f"{name} is {picture.width} x {picture.height} pixels; one side may be {LONGEST} times the other, not more"
        )
    height, width = size
    method = Image.Resampling.LANCZOS
    if fit == "pad":
        resized = ImageOps.pad(picture, (width, height), method, color="white")
    else:
        resized = ImageOps.fit(picture, (width, height), method)
    return torch.from_numpy(np.array(resized)), picture.size


def _in_eight_bits(picture: Image.Image) -> Image.Image:
    """Gray values of 16 bits, of 32 and fractions as bytes; Pillow would cut them off at 255."""
    if not picture.mode.startswith(("I", "F")):
        return picture
    values = np.asarray(picture).astype(np.float64)
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 65535:
        raise ValueError("its values are not finite numbers from 0 to 65535")
    most = 1.0 if picture.mode == "F" and values.max() <= 1 else 255.0
    if picture.mode.startswith("I;16") or values.max() > 255:
        most = 65535.0
    return Image.fromarray((values * (255 / most)).round().astype(np.uint8))
