"""The turns of a live session: pictures that were drawn, edited or opened, with their drift; undo and redo; files."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from hb.files import write
from hb.infer.hints import DRAW, EDIT
from hb.pictures import to_tensor
from hb.world.judge.edits import drift, touched
from hb.world.judge.reading import Reading, read
from hb.world.language import LanguageError, apply, parse_edit

OPEN = "open"
READ_SIDES = (64, 128)  # pixels to a side of pictures that the judge reads
FORMAT, VERSION = "hb live history", 1
LARGEST_SIDE, MOST_TURNS = 2048, 1000  # of a history that is opened


@dataclass(frozen=True, eq=False)
class Turn:
    """One picture and how it came to be.

    verb     "draw", "edit", or "open" for a picture from elsewhere
    text     as it was typed; said: as the model read it
    before   the turn whose picture was edited; None for a drawing or an opened picture
    nfe      function evaluations; student: whose, None for the teacher; seconds: by part
    """

    verb: str
    text: str
    said: str
    image: Image.Image = field(repr=False)
    seed: int = 0
    before: Turn | None = field(default=None, repr=False)
    nfe: float = 0
    student: str | None = None
    seconds: dict[str, float] = field(default_factory=dict, repr=False)

    @cached_property
    def pixels(self) -> Float[Tensor, "3 H W"]:
        """In [0, 1], as a person sees them: in bytes."""
        return to_tensor(self.image) / 2 + 0.5

    @cached_property
    def reading(self) -> Reading | None:
        """What the judge reads in the picture; None where it is of a size that the judge does not read."""
        return read(self.pixels) if self.image.width == self.image.height in READ_SIDES else None

    @cached_property
    def region(self) -> Bool[Tensor, "H W"] | None:
        """Pixels that the instructions since the last drawing allow to change; None where that cannot be told: a
        picture cannot be read, or an instruction does not fit it."""
        if self.before is None:
            return torch.zeros(self.image.height, self.image.width, dtype=torch.bool)
        source, seen = self.before.reading, self.reading
        if self.before.region is None or None in (source, seen) or source.scene is None:
            return None
        try:
            target = apply(parse_edit(self.said), source.scene, np.random.default_rng(0))
        except LanguageError:
            return None
        return self.before.region | touched(source.scene, target, seen, self.image.width)

    @cached_property
    def drift(self) -> float | None:
        """How far the rest has drifted since the last drawing: mean absolute change of the pixels outside `region`, in
        [0, 1], as `hb eval edit --chains` measures it. None for a first picture and where it cannot be told."""
        if self.before is None or self.region is None:
            return None
        return drift(self.first.pixels, self.pixels, self.region)

    @property
    def first(self) -> Turn:
        """The drawing or opened picture that all edits since then began with."""
        turn = self
        while turn.before is not None:
            turn = turn.before
        return turn

    def to_dict(self) -> dict:
        """Ready for JSON, the picture as PNG."""
        out = io.BytesIO()
        self.image.save(out, "png")
        told = dict(verb=self.verb, text=self.text, said=self.said, seed=self.seed, nfe=self.nfe, student=self.student)
        return told | dict(drift=self.drift, picture=base64.b64encode(out.getvalue()).decode())


class History:
    """Turns one after another, and which of them is the current one. A new turn takes the place of what was undone."""

    def __init__(self, turns: Sequence[Turn] = (), position: int | None = None):
        self.turns, self.position = list(turns), len(turns) if position is None else position

    @property
    def current(self) -> Turn | None:
        """None before the first."""
        return self.turns[self.position - 1] if self.position else None

    def push(self, turn: Turn) -> None:
        self.turns[self.position :] = [turn]
        self.position += 1

    def go_to(self, position: int) -> bool:
        """Make turn number `position` the current one, counted from 1; 0 is before the first. False if there is none
        of that number."""
        if not 0 <= position <= len(self.turns):
            return False
        self.position = position
        return True

    # ---- files ------------------------------------------------------------------------------------------------------

    def to_json(self) -> str:
        turns = [turn.to_dict() for turn in self.turns]
        return json.dumps(dict(format=FORMAT, version=VERSION, position=self.position, turns=turns), indent=1) + "\n"

    def save(self, path: str | Path) -> Path:
        return write(path, self.to_json().encode())

    @staticmethod
    def from_json(text: str) -> History:
        """What `to_json` wrote. Raises ValueError with what is wrong."""
        try:
            values = json.loads(text)
        except ValueError as error:
            raise ValueError(f"this is no history of a live session: it is not JSON ({error})") from None
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise ValueError(f"this is no history of a live session: its format is not {FORMAT!r}")
        if values.get("version") != VERSION:
            raise ValueError(f"this history has version {values.get('version')!r}; this hb reads version {VERSION}")
        given, position = values.get("turns"), values.get("position")
        if not isinstance(given, list) or len(given) > MOST_TURNS:
            raise ValueError(f"this history is damaged: its turns are no list of at most {MOST_TURNS}")
        turns: list[Turn] = []
        for number, row in enumerate(given, 1):
            turns.append(_turn(row, number, turns[-1] if turns else None))
        if type(position) is not int or not 0 <= position <= len(turns):
            raise ValueError(f"this history is damaged: there is no turn number {position!r}")
        return History(turns, position)

    @staticmethod
    def load(path: str | Path) -> History:
        """Raises ValueError or OSError with what is wrong."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"{path} is no history of a live session: it is not text") from None
        return History.from_json(text)


def _turn(row, number: int, last: Turn | None) -> Turn:
    """From JSON. Raises ValueError with what is wrong."""
    kinds = dict(verb=str, text=str, said=str, seed=int, nfe=(int, float), picture=str)
    bad = [name for name, kind in kinds.items() if not isinstance(row, dict) or not isinstance(row.get(name), kind)]
    if bad:
        raise ValueError(f"turn {number} of this history is damaged: no {', '.join(bad)}")
    if row["verb"] not in (DRAW, EDIT, OPEN):
        raise ValueError(f"turn {number} of this history is of no kind that there is: {row['verb']!r}")
    before = last if row["verb"] == EDIT else None
    if row["verb"] == EDIT and before is None:
        raise ValueError(f"turn {number} of this history edits a picture, and there is none before it")
    image = _image(row["picture"], number)
    if before is not None and before.image.size != image.size:
        raise ValueError(f"the picture of turn {number} is of another size than the one it was made of")
    words = {name: row[name] for name in ("verb", "text", "said", "seed", "nfe")}
    student = row.get("student")
    return Turn(**words, image=image, before=before, student=student if isinstance(student, str) else None)


def _image(data: str, number: int) -> Image.Image:
    damaged = ValueError(f"the picture of turn {number} of this history is damaged")
    try:
        image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)), formats=["png"])
    except (ValueError, OSError, SyntaxError):  # what Pillow and base64 raise
        raise damaged from None
    if max(image.size) > LARGEST_SIDE:
        raise ValueError(f"the picture of turn {number} has more than {LARGEST_SIDE} pixels to a side")
    try:
        return image.convert("RGB")
    except (ValueError, OSError, SyntaxError):
        raise damaged from None


def retold(turn: Turn, text: str) -> Turn:
    """The same picture for words that were typed in another way."""
    return turn if turn.text == text else replace(turn, text=text)
