"""The batch of one distillation step: prompts or edits that the teacher has read, clean latents, guidance scales."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from hb.data.batches import random_rows
from hb.data.pool import Pool
from hb.guidance import Guidance
from hb.models.bagel import Bagel
from hb.models.kv_cache import KVCache
from hb.models.latents import IMAGE_SCALES, TEXT_SCALES
from hb.models.vision import patchify
from hb.pictures import from_uint8
from hb.seeding import TRAINING

TASKS = ("draw", "edit")


@dataclass(frozen=True)
class StageBatch:
    """B pictures of one task. Contexts were read by the original weights and carry no gradient.

    full             everything: what the teacher and critics read
    student_context  the same, or without the vision encoder's features of a picture to be edited
    no_text, no_image   for guidance; no_image is there for edits only
    latent           clean tokens [B, n, values]
    text_scale, image_scale   [B]; the latter for edits only
    grid             rows and columns of the tokens; None: as many of each
    source           the batch as it was picked; its records say what each row was made from (`hb.data.records.unpack`)
    rows             [B]: which row of `source` each picture belongs to
    """

    task: str
    full: KVCache
    student_context: KVCache
    no_text: KVCache
    no_image: KVCache | None
    latent: Tensor
    text_scale: Tensor
    image_scale: Tensor | None
    grid: tuple[int, int] | None = None
    source: dict = field(default_factory=dict, repr=False)
    rows: Tensor | None = None

    @property
    def size(self) -> int:
        return len(self.latent)

    def select(self, rows: Tensor) -> StageBatch:
        """The given rows of it."""
        contexts = {name: getattr(self, name) for name in ("full", "student_context", "no_text", "no_image")}
        chosen = {id(context): context and context.select(rows) for context in contexts.values()}
        arrays = {name: getattr(self, name) for name in ("latent", "text_scale", "image_scale", "rows")}
        return replace(
            self,
            **{name: chosen[id(context)] for name, context in contexts.items()},
            **{name: array if array is None else array[rows] for name, array in arrays.items()},
        )

    @property
    def scales(self) -> dict[str, Tensor | None]:
        return dict(text_scale=self.text_scale, image_scale=self.image_scale)


def pick_batch(pool: Pool, sizes: dict[str, int], seed: int, step: int, rank: int = 0, editing: float = 0.5) -> dict:
    """Rows of the pool for step `step`. Its task is drawn at random, so that updates of every other step meet both.

    All processes have the same task in a step: a drawing and an edit take different times. sizes: prompts, or edits, in
    a step. A size of 0 leaves that task out. editing: the share of steps that edit, where there are both.
    """
    tasks = [task for task in TASKS if sizes.get(task)]
    if not tasks:
        raise ValueError("a batch needs prompts or edits: give at least one size above 0")
    first, own = (np.random.default_rng([TRAINING, seed, 23, step, r]) for r in (0, rank))
    task = tasks[-1] if first.random() < editing else tasks[0]
    own.random()  # the first number of process 0 was the task's; the others leave theirs out
    count, names = (pool.prompts, Pool.DRAW) if task == "draw" else (pool.edits, Pool.EDIT)
    return dict(task=task) | pool.rows(names, random_rows(own, count, sizes[task], f"{task}s"))


@torch.no_grad()
def read_batch(
    teacher: Bagel,
    batch: dict,
    guidance: dict[str, Guidance],
    generator: torch.Generator,
    *,
    deployed: float = 0.5,
    copies: int = 2,
    padded: bool = False,
    vision: bool = True,
) -> StageBatch:
    """Read prompts, or pictures and instructions, once each; several pictures, or noises, share a reading.

    deployed  the share of pictures at the scales of `guidance`, those that will be used; the others' are uniform over
              the ranges of Hyper-Bagel
    copies    noises of one edit
    padded    texts stay as long as the pool's longest, so that every batch has the same shape, as compiled layers need
    vision    whether students read the vision encoder's features of a picture to be edited
    """
    task, device = batch["task"], teacher.device
    ids, length = batch[f"{task}_ids"].int(), batch[f"{task}_length"].int()
    if not padded:
        ids = ids[:, : int(length.max())]
    if task == "draw":
        copies = batch["draw_latent"].size(1)
        contexts = _read_prompts(teacher, ids, length)
        latent, grid = _tokens(teacher, batch["draw_latent"].flatten(0, 1))
    else:
        contexts = _read_edits(teacher, batch, ids, length, vision)
        latent, grid = _tokens(teacher, batch["edit_latent"])
        latent = latent.repeat_interleave(copies, 0)
    rows = torch.arange(len(ids), device=device).repeat_interleave(copies)
    spread = {id(context): context and context.select(rows) for context in contexts}  # what is shared stays shared
    scale = lambda used, span: _scales(len(rows), used, span, deployed, generator).to(device)
    return StageBatch(
        task,
        *(spread[id(context)] for context in contexts),
        latent,
        scale(guidance[task].text_scale, TEXT_SCALES),
        scale(guidance[task].image_scale, IMAGE_SCALES) if task == "edit" else None,
        grid,
        batch,
        rows,
    )


def _read_prompts(teacher: Bagel, ids: Tensor, length: Tensor) -> tuple[KVCache | None, ...]:
    """full, student_context, no_text and no_image of drawings."""
    _, full = teacher.read_ids(teacher.empty(len(ids)), ids, length)
    return full, full, teacher.empty(len(ids)), None


def _read_edits(teacher: Bagel, batch: dict, ids: Tensor, length: Tensor, vision: bool) -> tuple[KVCache, ...]:
    """The same of edits."""
    latent, grid = _tokens(teacher, batch["scene_latent"])
    seen = teacher.read_latent(teacher.empty(len(ids)), latent, grid)
    pixels = from_uint8(batch["scene_picture"])
    _, no_text = teacher.see(seen, pixels)
    _, full = teacher.read_ids(no_text, ids, length)
    student = full if vision else teacher.read_ids(seen, ids, length)[1]
    _, no_image = teacher.read_ids(teacher.empty(len(ids)), ids, length)
    return full, student, no_text, no_image


def _tokens(teacher: Bagel, latent: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Stored latents [B, C, h, w] as tokens, and their grid."""
    patch = teacher.config.latent_patch
    rows, columns = (size // patch for size in latent.shape[-2:])
    return patchify(latent.float().to(teacher.device), patch), (rows, columns)


def _scales(n: int, used: float, span: tuple[float, float], deployed: float, generator: torch.Generator) -> Tensor:
    low, high = span
    drawn = low + (high - low) * torch.rand(n, generator=generator)
    return torch.where(torch.rand(n, generator=generator) < deployed, torch.full((n,), float(used)), drawn)
