"""Comparisons as arrays, ready for training: pictures of requests, and which of two was preferred.

A pool is made of simulated clicks on pictures that the caller's models draw (`make_preferences`), or of a person's own
(`from_clicks`). It is of one task: its pictures were drawn from prompts, or edited after instructions. This room
imports no networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from hb.data.preferences import Preferences
from hb.data.records import Caption, Instruction, Record, pack, stacked, unpack
from hb.data.stored import Stored
from hb.data.tokens import Tokenizer, marked, pad
from hb.pictures import from_uint8
from hb.seeding import TRAINING
from hb.world.annotator import Annotator, merits
from hb.world.benchmark import EditCase
from hb.world.judge.reading import read
from hb.world.language import DRAWN_TASKS, sample_edit, sample_request, say
from hb.world.render import render, to_uint8
from hb.world.scene import Request, sample_any, scenes_that_fit

CHUNK = 64  # requests whose pictures are made, and stored, together: what a stopped making loses
# texts, seeds and, where pictures are edited, those [n, 3, H, W] in [0, 1] -> pictures [n, 3, H, W] in [0, 1]
Make = Callable[[list[str], list[int], Tensor | None], Tensor]


@dataclass(frozen=True)
class PreferencePool(Stored):
    """R requests, P pictures of them, N comparisons of two pictures of one request.

    ids, length   token ids of the texts with their markers, int32 [R, tokens] and [R]
    record        uint8 [R, bytes]: what was asked (`hb.data.records.unpack`)
    source        uint8 [R, H, W, 3]: the pictures that were edited; of drawings [0, ...]
    picture       uint8 [P, H, W, 3]; request [P]: of which request each is
    merits        float32 [P, 4]: `hb.world.annotator.Merits`; of a person's own pictures [P, 0]
    pair          int64 [N, 2]: two pictures; choice [N]: 0 or 1; annotator [N]: whose click it is
    """

    ids: Tensor
    length: Tensor
    record: Tensor
    source: Tensor
    picture: Tensor
    request: Tensor
    merits: Tensor
    pair: Tensor
    choice: Tensor
    annotator: Tensor

    OF_REQUESTS: ClassVar = ("ids", "length", "record")

    def __len__(self) -> int:
        return len(self.pair)

    @property
    def task(self) -> str:
        """ "draw" or "edit"."""
        return "edit" if len(self.source) else "draw"

    @property
    def better(self) -> Tensor:
        """The preferred picture of each comparison, [N]."""
        return self.pair.gather(1, self.choice[:, None])[:, 0]

    @property
    def worse(self) -> Tensor:
        """The other one."""
        return self.pair.gather(1, 1 - self.choice[:, None])[:, 0]

    def asked(self, row: int) -> Record:
        """What request number `row` asked for."""
        return unpack(self.record[row])

    def pixels(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """Pictures [n, 3, H, W] in [-1, 1]."""
        return from_uint8(self.picture[rows])

    def sources(self, rows: Tensor | slice = slice(None)) -> Tensor | None:
        """What was edited, as `pixels`; None of drawings."""
        return from_uint8(self.source[rows]) if self.task == "edit" else None

    @staticmethod
    def load(path: Path) -> PreferencePool:
        """The pool in this file."""
        return PreferencePool(**load_file(path))

    def clicked(self, people: Sequence[Annotator], seed: int = 0) -> PreferencePool:
        """The same pictures, all pairs of one request compared once, by these annotators in turn."""
        if not self.merits.size(1):
            raise ValueError("these pictures are a person's own, and simulated annotators cannot read their merits")
        pair = pairs_of(self.request)
        rng = np.random.default_rng([TRAINING, seed, 37])
        who = torch.from_numpy(rng.integers(0, len(people), len(pair)))
        utility = torch.stack([torch.from_numpy(a.utilities(self.merits.double().numpy())) for a in people])
        of_pair = utility[who[:, None], pair].numpy()
        choice = np.empty(len(pair), np.int64)
        for k, person in enumerate(people):
            mine = (who == k).numpy()
            choice[mine] = person.choose(of_pair[mine, 0], of_pair[mine, 1], rng)
        kept = {f.name: getattr(self, f.name) for f in fields(self)}
        return PreferencePool(**kept | dict(pair=pair, choice=torch.from_numpy(choice), annotator=who))


def pairs_of(request: Tensor) -> Tensor:
    """All pairs of pictures of the same request, int64 [N, 2], each in the order of the pictures."""
    of: dict[int, list[int]] = {}
    for picture, number in enumerate(request.tolist()):
        of.setdefault(number, []).append(picture)
    return torch.tensor([pair for mine in of.values() for pair in combinations(mine, 2)]).reshape(-1, 2)


def joined(parts: Sequence[PreferencePool]) -> PreferencePool:
    """Pools of one task as one."""
    width = max(part.ids.size(1) for part in parts)
    fill = int(parts[0].ids[0, -1]) if len(parts[0].ids) else 0
    out: dict[str, list[Tensor]] = {f.name: [] for f in fields(PreferencePool)}
    requests = pictures = 0
    for part in parts:
        for name, kept in out.items():
            kept.append(getattr(part, name))
        out["ids"][-1] = torch.nn.functional.pad(part.ids, (0, width - part.ids.size(1)), value=fill)
        out["request"][-1] = part.request + requests
        out["pair"][-1] = part.pair + pictures
        requests, pictures = requests + len(part.ids), pictures + len(part.picture)
    return PreferencePool(**{name: (stacked if name == "record" else torch.cat)(kept) for name, kept in out.items()})


# ---- simulated ------------------------------------------------------------------------------------------------------


def some_requests(n: int, rng: np.random.Generator) -> list[Request]:
    """n requests that a picture has room for, as many of each task of drawing, complex prompts among them."""
    out: list[Request] = []
    while len(out) < n:
        asked = [sample_request(DRAWN_TASKS[(len(out) + k) % len(DRAWN_TASKS)], rng) for k in range(n - len(out))]
        out += [asked[k] for k in scenes_that_fit(asked, rng)[1]]
    return out


def some_edits(n: int, rng: np.random.Generator) -> list[EditCase]:
    """n edits of random scenes."""
    return [EditCase(scene, sample_edit(scene, rng)) for scene in sample_any(n, rng).to_list()]


def make_preferences(
    make: Sequence[Make],
    asked: Sequence[Request] | Sequence[EditCase],
    text: Tokenizer,
    people: Sequence[Annotator],
    *,
    side: int,
    seed: int = 0,
    folder: Path | None = None,
    bar: bool = True,
) -> PreferencePool:
    """One picture of each request by each of `make`, read by the judge; all pairs of a request compared once, by these
    annotators in turn.

    folder: parts are stored here as they are made, and taken from here by the next call with the same arguments
    """
    parts = []
    for at in tqdm(range(0, len(asked), CHUNK), desc="pictures to compare", disable=not bar, leave=False):
        path = None if folder is None else Path(folder) / f"part-{at:06}.safetensors"
        if path is not None and path.exists():
            parts.append(PreferencePool.load(path))
            continue
        parts.append(_part(make, asked[at : at + CHUNK], text, side, seed, at))
        if path is not None:
            parts[-1].save(path)
    return joined(parts).clicked(people, seed)


def _part(make, asked, text: Tokenizer, side: int, seed: int, at: int) -> PreferencePool:
    rng = np.random.default_rng([TRAINING, seed, 41, at])
    texts = spoken(asked, rng)
    before = render([a.source for a in asked], side) if isinstance(asked[0], EditCase) else None
    pictures, request = [], []
    for k, one in enumerate(make):
        seeds = [(TRAINING * 1_000_003 + seed) * 1_000_003 + (at + i) * len(make) + k for i in range(len(asked))]
        pictures.append(to_uint8(one(texts, seeds, before)))
        request.append(torch.arange(len(asked)))
    picture, request = torch.cat(pictures), torch.cat(request)
    readings = read(picture.movedim(-1, 1).float() / 255)
    found = [merits(reading, asked[number]) for reading, number in zip(readings, request.tolist())]
    return written(asked, text, side, rng, picture, request, torch.tensor(found), texts)


def written(
    asked: Sequence[Request] | Sequence[EditCase],
    text: Tokenizer,
    side: int,
    rng: np.random.Generator,
    picture: Tensor,
    request: Tensor,
    merits: Tensor,
    texts: Sequence[str] | None = None,
) -> PreferencePool:
    """A pool of these pictures, not compared yet. texts: what the requests are in words (else in random ones)."""
    texts = texts or spoken(asked, rng)
    rows = [marked(text, text.encode(words)) for words in texts]
    ids, length = pad(rows, max(map(len, rows)), text.end)
    edits = isinstance(asked[0], EditCase)
    source = to_uint8(render([a.source for a in asked], side)) if edits else picture[:0]
    none = torch.zeros(0, dtype=torch.int64)
    return PreferencePool(
        ids, length, pack(asked), source, picture, request, merits.float(), none.view(0, 2), none, none
    )


def spoken(asked: Sequence[Request] | Sequence[EditCase], rng: np.random.Generator) -> list[str]:
    """Each request in words."""
    return [a.edit.instruction if isinstance(a, EditCase) else say(a, rng) for a in asked]


# ---- a person's own -------------------------------------------------------------------------------------------------


def from_clicks(clicks: Preferences, text: Tokenizer) -> dict[str, PreferencePool]:
    """The decided comparisons of a person, by task: "draw", "edit", or both. Those without a decision teach nothing.

    Raises ValueError if nothing was decided.
    """
    decided = [row for row in clicks.rows if row.choice is not None]
    if not decided:
        why = f" {clicks.left_out[0]}" if clicks.left_out else ""
        raise ValueError(f"there is nothing to learn from: {clicks}.{why}")
    by_task = {"draw": [r for r in decided if r.source is None], "edit": [r for r in decided if r.source is not None]}
    return {task: _of_rows(rows, clicks, text) for task, rows in by_task.items() if rows}


def _of_rows(rows: list, clicks: Preferences, text: Tokenizer) -> PreferencePool:
    requests = list(dict.fromkeys((row.text, row.source) for row in rows))
    shown = list(dict.fromkeys(((row.text, row.source), name) for row in rows for name in row.pictures))
    at = {picture: number for number, picture in enumerate(shown)}
    ids_of = [marked(text, text.encode(words)) for words, _ in requests]
    ids, length = pad(ids_of, max(map(len, ids_of)), text.end)
    bytes_of = lambda names: to_uint8(torch.stack([clicks.shown[name] for name in names]))
    edits = requests[0][1] is not None
    first = {request: name for request, name in reversed(shown)}
    records = [Instruction(s, t, first[t, s]) if edits else Caption(first[t, s], t) for t, s in requests]
    picture = bytes_of([name for _, name in shown])
    names = clicks.annotators
    return PreferencePool(
        ids=ids,
        length=length,
        record=pack(records),
        source=bytes_of([s for _, s in requests]) if edits else picture[:0],
        picture=picture,
        request=torch.tensor([requests.index(request) for request, _ in shown]),
        merits=torch.zeros(len(shown), 0),
        pair=torch.tensor([[at[(r.text, r.source), name] for name in r.pictures] for r in rows]),
        choice=torch.tensor([r.choice for r in rows]),
        annotator=torch.tensor([names.index(r.annotator) for r in rows]),
    )
