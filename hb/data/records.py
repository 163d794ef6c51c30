"""What a training example was made from, kept beside it: a judge or a reward can score what a model makes of it.

A record is a line of JSON. Many are one array, uint8 [n, width], filled up with spaces, which JSON permits at the end:
so a batch takes rows of them like rows of any other array, and they travel to other processes and devices with it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hb.world.benchmark import EditCase
from hb.world.language import Edit
from hb.world.scene import Request, Scene, Thing, Wish

DIGITS = 6  # of places, turns and shades
_SPACE = ord(" ")


@dataclass(frozen=True)
class Caption:
    """A picture of one's own, by its file's name, and its text."""

    image: str
    text: str


@dataclass(frozen=True)
class Instruction:
    """Two pictures of one's own, by their files' names, and what leads from the first to the second."""

    image: str
    instruction: str
    edited: str


Record = Request | EditCase | Caption | Instruction


def pack(records: Sequence[Record]) -> Tensor:
    """uint8 [n, width]."""
    lines = [json.dumps(_values(r), separators=(",", ":"), ensure_ascii=False).encode() for r in records]
    width = max(map(len, lines), default=0)
    joined = b"".join(line.ljust(width) for line in lines)
    return torch.frombuffer(bytearray(joined), dtype=torch.uint8).view(len(lines), width) if joined else nothing(0)


def nothing(n: int) -> Tensor:
    """The array of n rows of which it is not known what they were made from."""
    return torch.zeros(n, 0, dtype=torch.uint8)


def unpack(row: Tensor) -> Record:
    """The record in one row of such an array."""
    if not len(row):
        raise ValueError(
            "this pool was made before pools kept what their rows were made from; delete its file, and it is made anew"
        )
    return _record(json.loads(bytes(row.cpu().tolist())))


def stacked(parts: Sequence[Tensor]) -> Tensor:
    """Several such arrays as one, filled up to the widest."""
    width = max(part.size(1) for part in parts)
    return torch.cat([F.pad(part, (0, width - part.size(1)), value=_SPACE) for part in parts])


# ---- to JSON and back -----------------------------------------------------------------------------------------------


def _values(record: Record) -> dict:
    if isinstance(record, Request):
        return asdict(record) | dict(wishes=[astuple(wish) for wish in record.wishes])
    if isinstance(record, EditCase):
        edit = record.edit
        facts = dict(group=edit.group, instruction=edit.instruction, thing=edit.thing, free=edit.free)
        return facts | dict(source=_of_scene(record.source), target=_of_scene(edit.target))
    return asdict(record)


def _record(values: dict) -> Record:
    if "wishes" in values:
        return Request(tuple(Wish(*wish) for wish in values["wishes"]), values["relation"], values["background"])
    if "source" in values:
        source, target = _to_scene(values["source"]), _to_scene(values["target"])
        return EditCase(
            source, Edit(values["group"], values["instruction"], target, values["thing"], tuple(values["free"]))
        )
    return (Instruction if "instruction" in values else Caption)(**values)


def _of_scene(scene: Scene) -> list:
    short = lambda value: round(value, DIGITS) if isinstance(value, float) else value
    return [scene.background, *([short(value) for value in astuple(thing)] for thing in scene.things)]


def _to_scene(values: list) -> Scene:
    background, *things = values
    return Scene(tuple(Thing(*thing) for thing in things), background)
