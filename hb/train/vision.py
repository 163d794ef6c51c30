"""Training the eyes first: the vision tower learns what is where before it has to talk about it.

BAGEL begins with a SigLIP tower that has read a web of captions. Ours begins with nothing, so it gets a schooling of
its own: for every patch, which thing covers it, of what shape, color, size and texture, and where its center is.
Without it only the words of an answer teach the tower to see, and nano's first one had learnt no shape from 25,000
conversations. How much training of the unified model it saves is not measured yet.
"""

from __future__ import annotations

from pathlib import Path

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hb.models.config import VisionConfig
from hb.models.vision import VisionTower, patchify, table_rows
from hb.seeding import TRAINING
from hb.train.optim import MuonAdamW, split_parameters
from hb.train.trainer import StepData, fit, warm_then_cosine
from hb.world.render import render
from hb.world.scene import BACKGROUNDS, COLORS, SHAPES, SIZES, TEXTURES, Scenes, sample_any

ATTRIBUTES = dict(shape=len(SHAPES), color=len(COLORS), size=len(SIZES), texture=len(TEXTURES))
REACH = 1.25  # a patch belongs to a thing if its center is within so many radii


def patch_truth(scenes: Scenes, side: int) -> dict[str, Tensor]:
    """What there is to see in each of side x side patches: index of every attribute [N, side^2], -100 where nothing is
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


class VisionPretraining(L.LightningModule):
    """One linear reading of each attribute from every patch's feature. loss = sum of cross-entropies + mean |offset
    error|."""

    def __init__(self, config: VisionConfig, *, total: int, lr: float = 0.03):
        super().__init__()
        self.tower = VisionTower(config)
        self.tower.begin_places()
        width = config.hidden_size
        kinds = dict(there=2, background=len(BACKGROUNDS), offset=2) | ATTRIBUTES
        self.heads = nn.ModuleDict({name: nn.Linear(width, n) for name, n in kinds.items()})
        self.total, self.lr = total, lr

    def losses(self, pictures: Float[Tensor, "B 3 H W"], truth: dict[str, Tensor]) -> dict[str, Tensor]:
        """pictures in [-1, 1]."""
        side = pictures.size(-1) // self.tower.config.patch_size
        places = table_rows(side, side, self.tower.config.side, pictures.device)
        seen = self.tower(patchify(pictures, self.tower.config.patch_size), places)
        there = truth["shape"] >= 0
        out = {
            name: F.cross_entropy(self.heads[name](seen).flatten(0, 1), truth[name].flatten()) for name in ATTRIBUTES
        }
        out["there"] = F.cross_entropy(self.heads["there"](seen).flatten(0, 1), there.long().flatten())
        everywhere = truth["background"][:, None].expand(there.shape)
        out["background"] = F.cross_entropy(self.heads["background"](seen).flatten(0, 1), everywhere.flatten())
        out["offset"] = (self.heads["offset"](seen) - truth["offset"])[there].abs().mean()
        return out

    def training_step(self, batch, batch_idx):
        losses = self.losses(*batch)
        self.log_dict(losses, prog_bar=True)
        return sum(losses.values())

    def configure_optimizers(self):
        optimizer = MuonAdamW(split_parameters(self, muon_lr=self.lr, adamw_lr=self.lr / 10))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: warm_then_cosine(i, self.total))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def schooling(n: int, side: int, patch: int, seed: int, step: int, rank: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    """n pictures [n, 3, side, side] in [-1, 1] and what there is to see in them."""
    rng = np.random.default_rng([TRAINING, seed, 19, step, rank])
    scenes = sample_any(n, rng)
    return render(scenes, side) * 2 - 1, patch_truth(scenes, side // patch)


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
    """School a vision tower in `folder` (resumes there). Takes some minutes for nano; more steps do not hurt."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = VisionPretraining(config, total=steps, lr=lr)
    if start_from is not None:
        module.tower.load_state_dict(start_from.state_dict())
    data = StepData(lambda step, rank: schooling(batch, config.image_size, config.patch_size, seed, step, rank), steps)
    fit(module, data, folder, ema=None, **trainer)
    return module.tower.eval()
