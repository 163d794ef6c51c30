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
- words outside of the tokenizer's vocabulary are encoded in pieces: it knows every byte. A text longer than `tokens` is
  cut there, and a note says so
- a row that cannot be used is left out, and one sentence says which and why (`left_out`). The others are used. If none
  is left, that is an error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from hb.data.dialogues import dialogue_arrays, in_turns
from hb.data.pool import PICTURES_A_PROMPT, Pool, Produce, encoded_pool
from hb.data.records import Caption, Instruction, pack
from hb.data.tokens import DIALOGUE_TOKENS, Tokenizer, marked, pad
from hb.pictures import to_rgb
from hb.seeding import TRAINING
from hb.world.language import DESCRIBE_REQUESTS

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MOST_TOKENS = 96  # of a text, markers included
LONGEST = 16  # times its shorter side; a longer strip has less than four pixels across after it is fitted into 64
_PATHS = ("image", "edited")
EXPECTED = '{"image": ..., "text": ...} or {"image": ..., "instruction": ..., "edited": ...}'


@dataclass(frozen=True)
class OwnPictures:
    """Pictures of one size, and what is said of them; images are named relative to the folder.

    left_out, notes   one sentence each for a row that is not used, and for one that is used changed
    """

    pictures: Tensor  # uint8 [n, H, W, 3]
    names: tuple[str, ...]
    captions: tuple[Caption, ...]
    edits: tuple[Instruction, ...]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        counted = f"{len(self.names)} pictures, {len(self.captions)} captions, {len(self.edits)} edits"
        return counted + (f"; {len(self.left_out)} rows are left out" if self.left_out else "")

    def fingerprint(self) -> str:
        """Of all that training sees of them."""
        digest = hashlib.sha256(self.pictures.numpy().tobytes())
        digest.update(repr((tuple(self.pictures.shape), self.names, self.captions, self.edits)).encode())
        return digest.hexdigest()[:16]

    def pixels(self, names: Sequence[str]) -> Tensor:
        """These pictures, [n, 3, H, W] in [0, 1]."""
        at = {name: i for i, name in enumerate(self.names)}
        return self.pictures[[at[name] for name in names]].movedim(-1, 1).float() / 255

    def random_pictures(self, n: int, seed: int, step: int, rank: int = 0) -> Tensor:
        """n pictures for step `step` of an autoencoder's training, [n, 3, H, W] in [-1, 1]."""
        rows = np.random.default_rng([TRAINING, seed, step, rank]).integers(0, len(self.names), n)
        return self.pictures[torch.from_numpy(rows)].movedim(-1, 1).float() / 127.5 - 1

    def pool(
        self,
        encode: Produce,
        text: Tokenizer,
        *,
        see: Produce | None = None,
        tokens: int = MOST_TOKENS,
        pictures_a_prompt: int = PICTURES_A_PROMPT,
    ) -> Pool:
        """The same kind of pool as the tiny world's (`make_pool` says what encode and see are).

        A prompt has as many pictures as its caption has; fewer than `pictures_a_prompt` are repeated, each time with
        other noise of the autoencoder's, and more make further rows of the same text.
        """
        if not self.captions and not self.edits:
            raise ValueError(
                "there is nothing to learn drawing from: no picture has a caption, and there are no edits; "
                f"write captions.jsonl or edits.jsonl, rows of {EXPECTED}. {' '.join(self.left_out[:3])}".rstrip()
            )
        ids = lambda texts: pad(*_rows_of(texts, text, tokens), text.end)
        return encoded_pool(self._parts(ids, pictures_a_prompt), encode, see)

    def _parts(self, ids: Callable, copies: int, chunk: int = 256) -> Iterator[dict[str, Tensor]]:
        prompts = list(_prompts(self.captions, copies))
        (draw_ids, draw_length), (edit_ids, edit_length) = (
            ids([text for text, _ in prompts]),
            ids([e.instruction for e in self.edits]),
        )
        for i in range(0, len(prompts), chunk):
            part = prompts[i : i + chunk]
            yield dict(
                draw_ids=draw_ids[i : i + chunk],
                draw_length=draw_length[i : i + chunk],
                draw_record=pack([Caption(images[0], text) for text, images in part]),
                drawn=self.pixels([image for _, images in part for image in images]),
            )
        for i in range(0, len(self.edits), chunk):
            part = self.edits[i : i + chunk]
            before, after = (self.pixels([getattr(e, side) for e in part]) for side in ("image", "edited"))
            yield dict(
                edit_ids=edit_ids[i : i + chunk],
                edit_length=edit_length[i : i + chunk],
                edit_record=pack(part),
                scene_picture=(before * 255).round().to(torch.uint8).movedim(1, -1),
                before=before,
                after=after,
            )

    def dialogues(self, text: Tokenizer, n: int, seed: int, step: int, rank: int = 0) -> dict[str, Tensor]:
        """n captioned pictures for step `step`, and a request to describe each with the caption as the answer; arrays
        as of `write_dialogues`."""
        if not self.captions:
            raise ValueError("there are no captions to learn describing from; write some, or give --learns drawing")
        rng = np.random.default_rng([TRAINING, seed, 13, step, rank])
        chosen = [self.captions[i] for i in rng.integers(0, len(self.captions), n)]
        asked = [DESCRIBE_REQUESTS[i] for i in rng.integers(0, len(DESCRIBE_REQUESTS), n)]
        dialogues = [_described(text.encode(a), text.encode(c.text), text) for a, c in zip(asked, chosen)]
        pictures = (self.pixels([c.image for c in chosen]) * 255).round().to(torch.uint8)
        return dict(dialogue_picture=pictures.movedim(1, -1), **dialogue_arrays(dialogues, text))

    def hold_back(self, n: int, seed: int = 0) -> tuple[OwnPictures, OwnPictures]:
        """Two parts without a picture in common, the second of n pictures. Pictures that edits lead to and from stay
        together, so fewer are held back where groups do not add up to n."""
        held: set[str] = set()
        groups = connected(self.names, self.edits)
        for i in np.random.default_rng([TRAINING, seed, 31]).permutation(len(groups)):
            if len(held) + len(groups[i]) <= n:
                held |= set(groups[i])
        return self._only(set(self.names) - held), self._only(held)

    def _only(self, names: set[str]) -> OwnPictures:
        rows = [i for i, name in enumerate(self.names) if name in names]
        return replace(
            self,
            pictures=self.pictures[rows],
            names=tuple(self.names[i] for i in rows),
            captions=tuple(c for c in self.captions if c.image in names),
            edits=tuple(e for e in self.edits if e.image in names),
        )


def _described(question: list[int], answer: list[int], text: Tokenizer) -> tuple[list[int], list[bool]]:
    room = DIALOGUE_TOKENS - len(question) - 4  # four markers
    return in_turns([(question, answer[:room])], text)


def _rows_of(texts: Sequence[str], text: Tokenizer, tokens: int) -> tuple[list[list[int]], int]:
    """Token ids of texts, cut to so many with their markers, and the longest length."""
    rows = [marked(text, text.encode(words)[: tokens - 2]) for words in texts]
    return rows, max(map(len, rows), default=2)


def _prompts(captions: Sequence[Caption], copies: int) -> Iterator[tuple[str, list[str]]]:
    """Each text with as many pictures as a row of a pool has."""
    by_text: dict[str, list[str]] = {}
    for caption in captions:
        by_text.setdefault(caption.text, []).append(caption.image)
    for text, images in by_text.items():
        for i in range(0, len(images), copies):
            part = images[i : i + copies]
            yield text, [part[k % len(part)] for k in range(copies)]


def connected(names: Sequence[str], edits: Sequence[Instruction]) -> list[list[str]]:
    """Pictures that edits connect, in the order of the first of each."""
    group = {name: [name] for name in names}
    for edit in edits:
        one, other = group[edit.image], group[edit.edited]
        if one is not other:
            one += other
            group |= dict.fromkeys(other, one)
    return list({id(g): g for g in group.values()}.values())


# ---- reading --------------------------------------------------------------------------------------------------------


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
