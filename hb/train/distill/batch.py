"""What one step of distillation plays on: prompts or edits already read, clean latents, and the scales to be served."""

from __future__ import annotations

from dataclasses import dataclass

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
from hb.seeding import TRAINING

TASKS = ("draw", "edit")


@dataclass(frozen=True)
class Round:
    """B pictures of one task. Contexts were read by the original weights and carry no gradient."""

    task: str
    full: KVCache  # everything: what the teacher reads, and whoever judges
    read: KVCache  # what a student reads: the same, or all but what the eyes see of a picture to be edited
    no_text: KVCache
    no_image: KVCache | None  # of an edit
    latent: Tensor  # clean tokens [B, n, values]
    text_scale: Tensor  # [B]
    image_scale: Tensor | None  # [B], of an edit

    @property
    def size(self) -> int:
        return len(self.latent)

    @property
    def scales(self) -> dict[str, Tensor | None]:
        return dict(text_scale=self.text_scale, image_scale=self.image_scale)


def pick_round(pool: Pool, sizes: dict[str, int], seed: int, step: int, rank: int = 0, editing: float = 0.5) -> dict:
    """Rows of the pool for step `step`: of which task is a coin, so that moves made every other step meet both tasks.

    sizes: prompts, or edits, in a step. A size of 0 leaves that task out. editing: the share of steps that edit, where
    there are both.
    """
    rng = np.random.default_rng([TRAINING, seed, 23, step, rank])
    tasks = [task for task in TASKS if sizes.get(task)]
    if not tasks:
        raise ValueError("a round needs prompts or edits: give at least one size above 0")
    task = tasks[-1] if rng.random() < editing else tasks[0]
    count, names = (pool.prompts, Pool.DRAW) if task == "draw" else (pool.edits, Pool.EDIT)
    return dict(task=task) | pool.rows(names, random_rows(rng, count, sizes[task], f"{task}s"))


@torch.no_grad()
def read_round(
    teacher: Bagel,
    batch: dict,
    guidance: dict[str, Guidance],
    generator: torch.Generator,
    *,
    deployed: float = 0.5,
    copies: int = 2,
    padded: bool = False,
    eyes: bool = True,
) -> Round:
    """Read prompts, or pictures and instructions, once each; several pictures, or noises, share a reading.

    deployed: the share of pictures at the scales of `guidance`, those that will be used; the others' are uniform over
    the ranges of Hyper-Bagel. copies: noises of one edit. padded: texts stay as long as the pool's longest, so that
    every round has the same shape, as compiled layers want it. eyes: see `Student`.
    """
    task, device = batch["task"], teacher.device
    ids, length = batch[f"{task}_ids"].long(), batch[f"{task}_length"].long()
    if not padded:
        ids = ids[:, : int(length.max())]
    if len(set(batch[f"{task}_latent"].shape[-2:])) > 1:  # networks of a stage are called without a grid
        raise ValueError("stages of distillation train on square pictures only; give square ones")
    tokens = lambda latent: patchify(latent.float().to(device), teacher.config.latent_patch)
    if task == "draw":
        copies = batch["draw_latent"].size(1)
        _, full = teacher.read_ids(teacher.empty(len(ids)), ids, length)
        read = full
        no_text, no_image = teacher.empty(len(ids)), None
        latent = tokens(batch["draw_latent"].flatten(0, 1))
    else:
        seen = teacher.read_latent(teacher.empty(len(ids)), tokens(batch["scene_latent"]))
        pixels = batch["scene_picture"].movedim(-1, 1).float() / 127.5 - 1
        _, no_text = teacher.see(seen, pixels)
        _, full = teacher.read_ids(no_text, ids, length)
        read = full if eyes else teacher.read_ids(seen, ids, length)[1]
        _, no_image = teacher.read_ids(teacher.empty(len(ids)), ids, length)
        latent = tokens(batch["edit_latent"]).repeat_interleave(copies, 0)
    rows = torch.arange(len(ids), device=device).repeat_interleave(copies)
    spread = lambda context: context and context.select(rows)
    scale = lambda used, distribution: _scales(len(rows), used, distribution, deployed, generator).to(device)
    whole = spread(full)
    own = whole if read is full else spread(read)
    return Round(
        task,
        whole,
        own,
        spread(no_text),
        spread(no_image),
        latent,
        scale(guidance[task].text_scale, TEXT_SCALES),
        scale(guidance[task].image_scale, IMAGE_SCALES) if task == "edit" else None,
    )


def _scales(
    n: int, used: float, distribution: tuple[float, float], deployed: float, generator: torch.Generator
) -> Tensor:
    low, high = distribution
    drawn = low + (high - low) * torch.rand(n, generator=generator)
    return torch.where(torch.rand(n, generator=generator) < deployed, torch.full((n,), float(used)), drawn)
