"""Pretraining the vision encoder: it learns what is where before the unified model is trained on its features.

BAGEL begins with a SigLIP tower pretrained on captions from the web. Ours begins with nothing, so it is pretrained on
labels of its own: for every patch, which thing covers it, of what shape, color, size and texture, and where its center
is. Without it only the tokens of answers train the tower, and nano's first one had learned no shape from 25,000
dialogues. How much training of the unified model it saves is not measured yet.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hb.models.config import VisionConfig
from hb.models.roles import adamw
from hb.models.vision import VisionTower, patchify, table_rows
from hb.seeding import TRAINING
from hb.train.optim import Training, muon, refuse_not_finite, scheduled, warm_then_cosine
from hb.train.trainer import StepData, fit
from hb.world.render import render
from hb.world.scene import BACKGROUNDS, COLORS, SHAPES, SIZES, TEXTURES, Scenes, sample_any

ATTRIBUTES = dict(shape=len(SHAPES), color=len(COLORS), size=len(SIZES), texture=len(TEXTURES))
REACH = 1.25  # a patch belongs to a thing if its center is within so many radii


def patch_labels(scenes: Scenes, side: int) -> dict[str, Tensor]:
    """Labels of each of side x side patches: index of every attribute [N, side^2], -100 where nothing is
    (the index that cross-entropy leaves out); `offset` [N, side^2, 2] to the thing's center, in radii; `background`
    [N]."""
    center = (np.arange(side) + 0.5) / side
    py, px = np.meshgrid(center, center, indexing="ij")
    dx = scenes.x[:, None] - px.reshape(1, -1, 1)  # [N, patches, things]
    dy = scenes.y[:, None] - py.reshape(1, -1, 1)
    radius = scenes.radius[:, None]
    far = np.where(scenes.shape[:, None] >= 0, np.hypot(dx, dy) / radius, np.inf)
    nearest = far.argmin(-1)
    there = np.take_along_axis(far, nearest[..., None], -1)[..., 0] < REACH
    out = {}
    for name in ATTRIBUTES:
        index = np.take_along_axis(getattr(scenes, name)[:, None].repeat(far.shape[1], 1), nearest[..., None], -1)[
            ..., 0
        ]
        out[name] = torch.from_numpy(np.where(there, index, -100))
    pick = lambda values: np.take_along_axis(values / radius, nearest[..., None], -1)[..., 0]
    offset = np.where(there[..., None], np.stack([pick(dx), pick(dy)], -1), np.nan)
    out["offset"] = torch.from_numpy(offset).float()
    out["background"] = torch.from_numpy(scenes.background)
    return out


class VisionPretraining(Training):
    """One linear head for each attribute on every patch's feature. loss = sum of cross-entropies + mean |offset
    error|."""

    def __init__(self, config: VisionConfig, *, total: int, lr: float = 0.03):
        super().__init__()
        self.tower = VisionTower(config)
        self.tower.begin_positions()
        width = config.hidden_size
        kinds = dict(there=2, background=len(BACKGROUNDS), offset=2) | ATTRIBUTES
        self.heads = adamw(nn.ModuleDict({name: nn.Linear(width, n) for name, n in kinds.items()}))
        self.total, self.lr = total, lr

    def losses(self, pictures: Float[Tensor, "B 3 H W"], labels: dict[str, Tensor]) -> dict[str, Tensor]:
        """pictures in [-1, 1]."""
        patch = self.tower.config.patch_size
        rows, columns = (size // patch for size in pictures.shape[-2:])
        positions = table_rows(rows, columns, self.tower.config.side, pictures.device)
        features = self.tower(patchify(pictures, patch), positions)
        there = labels["shape"] >= 0
        classified = lambda name, label: F.cross_entropy(self.heads[name](features).flatten(0, 1), label.flatten())
        out = {name: classified(name, labels[name]) for name in ATTRIBUTES}
        out["there"] = classified("there", there.long())
        everywhere = labels["background"][:, None].expand(there.shape)
        out["background"] = classified("background", everywhere)
        out["offset"] = (self.heads["offset"](features) - labels["offset"])[there].abs().mean()
        return out

    def training_step(self, batch, batch_idx):
        losses = self.losses(*batch)
        self.log_dict(losses, prog_bar=True)
        return sum(losses.values())

    def configure_optimizers(self):
        optimizer = muon(self, self.lr, roles=self.roles)
        return scheduled(optimizer, lambda i: warm_then_cosine(i, self.total))


def labeled_pictures(
    n: int, side: int, patch: int, seed: int, step: int, rank: int = 0
) -> tuple[Tensor, dict[str, Tensor]]:
    """n pictures [n, 3, side, side] in [-1, 1] and the labels of their patches."""
    rng = np.random.default_rng([TRAINING, seed, 19, step, rank])
    scenes = sample_any(n, rng)
    return render(scenes, side) * 2 - 1, patch_labels(scenes, side // patch)


def train_vision(
    folder: Path,
    config: VisionConfig,
    *,
    steps: int,
    batch: int = 32,
    lr: float = 0.03,
    seed: int = 0,
    start_from: VisionTower | None = None,
    **trainer,
) -> VisionTower:
    """Pretrain a vision encoder in `folder` (resumes there). Takes some minutes for nano; more steps do not hurt."""
    refuse_not_finite(learning_rate=lr)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = VisionPretraining(config, total=steps, lr=lr)
    if start_from is not None:
        module.tower.load_state_dict(start_from.state_dict())
    side, patch = config.image_size, config.patch_size
    data = StepData(lambda step, rank: labeled_pictures(batch, side, patch, seed, step, rank), steps)
    fit(module, data, folder, ema=None, **trainer)
    return module.tower.eval()
