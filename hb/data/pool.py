"""From scenes to arrays: a pool of encoded examples, made once and trained on.

Pictures are rendered, encoded to latents and described, then kept as small integer and half-precision arrays. The
caller hands over what makes latents of pictures: this room imports no networks. `hb.data.folder` makes the same kind of
pool from pictures of one's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from hb.data.mixes import DRAW_MIX, SKEW
from hb.data.records import Caption, Instruction, nothing, pack, stacked, unpack
from hb.data.stored import Stored
from hb.data.tokens import DRAW_TOKENS, EDIT_TOKENS, Tokenizer, marked, pad
from hb.seeding import TRAINING
from hb.world.benchmark import EditCase
from hb.world.language import sample_edit, sample_request, say
from hb.world.render import render, to_uint8
from hb.world.scene import NoRoom, Request, Scenes, sample_any, sample_scenes

CHUNK = 1000  # prompts or scenes of a part: what one process writes at a time, and tqdm counts
PICTURES_A_PROMPT = 4  # different pictures of one prompt share its text in training: the distribution is multi-modal
Produce = Callable[[Tensor], Tensor]  # pictures [n, 3, H, W] in [0, 1] to one array with n rows


@dataclass(frozen=True)
class Budget:
    """The widths of a pool: tokens of a prompt and of an instruction, markers included, and pictures of one prompt."""

    draw_tokens: int = DRAW_TOKENS
    edit_tokens: int = EDIT_TOKENS
    pictures_a_prompt: int = PICTURES_A_PROMPT


@dataclass(frozen=True)
class Pool(Stored):
    """Examples as arrays. Token ids are padded with the tokenizer's `end`; lengths count the two markers.

    draw_*    N prompts, and some pictures of each
    scene_*   M pictures with an edit (instruction, picture before and after)

    Pictures are H x W and latents h x w, of any aspect, the same for the whole pool. Features are a vision encoder's,
    one for each latent token of the pictures to be drawn; without such an encoder there are 0 of them. A record says
    what a row was made from.

    Dialogues are not in it: they are written anew for every step (`write_dialogues`), which costs next to nothing.
    """

    draw_ids: Tensor  # int32 [N, tokens]
    draw_length: Tensor  # int32 [N]
    draw_latent: Tensor  # half [N, pictures of a prompt, C, h, w]
    draw_features: Tensor  # half [N, pictures of a prompt, latent tokens, width]
    draw_record: Tensor  # uint8 [N, bytes]
    scene_picture: Tensor  # uint8 [M, H, W, 3]
    scene_latent: Tensor  # half [M, C, h, w]
    edit_ids: Tensor  # int32 [M, tokens]
    edit_length: Tensor  # int32 [M]
    edit_latent: Tensor  # half [M, C, h, w]
    edit_features: Tensor  # half [M, latent tokens, width]
    edit_record: Tensor  # uint8 [M, bytes]

    DRAW: ClassVar = ("draw_ids", "draw_length", "draw_latent", "draw_features", "draw_record")
    EDIT: ClassVar = (
        *("edit_ids", "edit_length", "edit_latent", "edit_features", "edit_record"),
        *("scene_latent", "scene_picture"),
    )

    @property
    def prompts(self) -> int:
        return len(self.draw_ids)

    @property
    def edits(self) -> int:
        return len(self.edit_ids)

    @property
    def budget(self) -> Budget:
        return Budget(self.draw_ids.size(1), self.edit_ids.size(1), self.draw_latent.size(1))

    def request(self, row: int) -> Request | Caption:
        """What prompt number `row` asks for."""
        return unpack(self.draw_record[row])

    def edit(self, row: int) -> EditCase | Instruction:
        """What was edited in row `row`, how, and a right outcome."""
        return unpack(self.edit_record[row])

    @staticmethod
    def load(path: Path) -> Pool:
        """The pool in this file. Files of before version 0.2 are read too; they do not hold records."""
        stored = _renewed(load_file(path))
        missing = {f.name for f in fields(Pool)} - stored.keys()
        if missing:
            raise ValueError(
                f"{path} is a pool of an older kind (it lacks {', '.join(sorted(missing))}); delete it, and it is made "
                "anew"
            )
        return Pool(**stored)

    def to(self, device: str | torch.device) -> Pool:
        """The same pool there. What `pick` takes of a pool comes to lie where the pool does."""
        return Pool(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def rows(self, names: Sequence[str], rows: Tensor) -> dict[str, Tensor]:
        """These rows of the arrays of these names."""
        rows = rows.to(self.draw_ids.device)
        return {name: getattr(self, name)[rows] for name in names}

    def latent_statistics(self) -> tuple[float, float]:
        """Mean and standard deviation over all latent values."""
        sample = self.draw_latent.flatten(0, 1).float()
        return float(sample.mean()), float(sample.std())


_OLD_NAMES = dict(draw_seen="draw_features", edit_seen="edit_features")
_IDS = ("draw_ids", "draw_length", "edit_ids", "edit_length")


def _renewed(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The arrays of an old file under today's names; ids were int16."""
    stored = {_OLD_NAMES.get(name, name): array for name, array in stored.items()}
    stored |= {name: stored[name].int() for name in _IDS if name in stored}
    absent = {
        f"{task}_record": nothing(len(stored[f"{task}_ids"])) for task in ("draw", "edit") if f"{task}_ids" in stored
    }
    return absent | stored


# ---- from the tiny world --------------------------------------------------------------------------------------------


def make_pool(
    encode: Produce,
    text: Tokenizer,
    *,
    side: int,
    prompts: int,
    scenes: int,
    seed: int = 0,
    bar: bool = True,
    see: Produce | None = None,
    workers: int = 0,
    mix: Mapping[str, float] = DRAW_MIX,
    budget: Budget = Budget(),
) -> Pool:
    """Draw a pool. encode: pictures [n, 3, side, side] in [0, 1] -> latents [n, C, h, w]; see: pictures -> features;
    workers: processes that write prompts and render (the pool is the same with any number of them); mix: shares of the
    tasks among the prompts, 1 together (see `mixed`)."""
    jobs = [("draw", i, min(CHUNK, prompts - i)) for i in range(0, prompts, CHUNK)]
    jobs += [("scene", i, min(CHUNK, scenes - i)) for i in range(0, scenes, CHUNK)]
    written = DataLoader(_Written(jobs, text, side, seed, mix, budget), batch_size=None, num_workers=workers)
    return encoded_pool(tqdm(written, desc="making the pool", unit="k", disable=not bar), encode, see)


def encoded_pool(parts, encode: Produce, see: Produce | None = None) -> Pool:
    """A pool of parts that hold their pictures, in [0, 1], instead of latents: "drawn" [n * copies, 3, H, W], or
    "before" and "after" [n, 3, H, W], beside the arrays that need no network."""
    see = see or (lambda pictures: pictures.new_zeros(len(pictures), 0, 0))
    merged: dict[str, list[Tensor]] = {}
    for part in parts:
        for name, tensor in _encoded(part, encode, see).items():
            merged.setdefault(name, []).append(tensor)
    records = ("draw_record", "edit_record")
    arrays = {name: (stacked if name in records else torch.cat)(tensors) for name, tensors in merged.items()}
    return Pool(**_no_rows(arrays) | arrays)


def _no_rows(arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a pool without prompts, or without edits, has in their place: arrays of the right kind with 0 rows."""
    latent = arrays["draw_latent" if "draw_latent" in arrays else "scene_latent"].shape[-3:]
    half = lambda *shape: torch.zeros(shape, dtype=torch.half)
    ids, length = torch.zeros(0, 2, dtype=torch.int32), torch.zeros(0, dtype=torch.int32)
    draw = dict(draw_latent=half(0, 1, *latent), draw_features=half(0, 1, 0, 0))
    edit = dict(scene_latent=half(0, *latent), edit_latent=half(0, *latent), edit_features=half(0, 0, 0))
    texts = dict(draw_ids=ids, edit_ids=ids, draw_length=length, edit_length=length)
    rest = dict(
        draw_record=nothing(0), edit_record=nothing(0), scene_picture=torch.zeros(0, 0, 0, 3, dtype=torch.uint8)
    )
    return draw | edit | texts | rest


def _encoded(part: dict[str, Tensor], encode: Produce, see: Produce) -> dict[str, Tensor]:
    if "drawn" in part:
        pictures, prompts = part.pop("drawn"), len(part["draw_ids"])
        by_prompt = lambda values: values.half().unflatten(0, (prompts, -1))
        return part | dict(draw_latent=by_prompt(encode(pictures)), draw_features=by_prompt(see(pictures)))
    pictures, targets = part.pop("before"), part.pop("after")
    return part | dict(
        scene_latent=encode(pictures).half(), edit_latent=encode(targets).half(), edit_features=see(targets).half()
    )


@dataclass(frozen=True)
class _Written(Dataset):
    """Parts of a pool before they are encoded, each from a seed of its own."""

    jobs: list[tuple[str, int, int]]
    text: Tokenizer
    side: int
    seed: int
    mix: Mapping[str, float]
    budget: Budget

    def __len__(self):
        return len(self.jobs)

    def __getitem__(self, i):
        kind, start, n = self.jobs[i]
        rng = np.random.default_rng([TRAINING, self.seed, kind == "scene", start])
        return self.draw_part(n, rng) if kind == "draw" else self.scene_part(n, rng)

    def draw_part(self, n: int, rng) -> dict[str, Tensor]:
        copies = self.budget.pictures_a_prompt
        requests, rows, scenes = [], [], None
        while scenes is None:
            self._ask_for_more(requests, rows, n, rng)
            try:
                scenes = sample_scenes([r for r in requests for _ in range(copies)], rng)
            except NoRoom as full:  # large things in places side by side: others are drawn instead of these few
                for k in sorted({row // copies for row in full.rows}, reverse=True):
                    del requests[k], rows[k]
        ids, length = pad(rows, self.budget.draw_tokens, self.text.end)
        return dict(draw_ids=ids, draw_length=length, draw_record=pack(requests), drawn=render(scenes, self.side))

    def _ask_for_more(self, requests: list[Request], rows: list[list[int]], n: int, rng) -> None:
        """Adds requests, and the token ids of their prompts, until there are n."""
        names, shares = list(self.mix), list(self.mix.values())
        while len(rows) < n:
            request = sample_request(names[rng.choice(len(names), p=shares)], rng, SKEW)
            row = marked(self.text, self.text.encode(say(request, rng)))
            if len(row) <= self.budget.draw_tokens:  # the few longer ones are left out: short sequences train faster
                requests.append(request)
                rows.append(row)

    def scene_part(self, n: int, rng) -> dict[str, Tensor]:
        scenes = sample_any(n, rng)
        pictures = render(scenes, self.side)
        cases = [EditCase(scene, self._some_edit(scene, rng)) for scene in scenes.to_list()]
        targets = render(Scenes.from_list([case.edit.target for case in cases]), self.side)
        rows = [marked(self.text, self.text.encode(case.edit.instruction)) for case in cases]
        ids, length = pad(rows, self.budget.edit_tokens, self.text.end)
        facts = dict(edit_ids=ids, edit_length=length, edit_record=pack(cases))
        return facts | dict(scene_picture=to_uint8(pictures), before=pictures, after=targets)

    def _some_edit(self, scene, rng):
        while True:
            edit = sample_edit(scene, rng)
            if edit is not None and len(self.text.encode(edit.instruction)) + 2 <= self.budget.edit_tokens:
                return edit
