"""Latents that say what is where: more channels for an autoencoder, taught to name the things in the picture.

A latent learnt from pixels alone is sharp: a thing that moves by four pixels has a new code, and a network that draws must
learn all of those codes before one shape comes out whole. Real systems have the same trouble, and the same cure: give the
latent a part that means something (VA-VAE: Yao & Wang 2025, arXiv 2501.01423; ReDi: Kouzelis et al. 2025, arXiv 2504.16064). They take
it from a large vision tower; in the tiny world the scene itself is known.

Two runs, both from a trained autoencoder. `WidenedEncoder`: eight more channels learn the field of `thing_field`, the old
ones stay what they were. Then the decoder alone (hb.pretrain, decoder_only) learns to use both, with noise on its latents:
what it gets from a model that draws is never exact, and where the sharp part is doubtful the field says what was meant.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import lightning as L
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hb.data import TRAINING
from hb.model.autoencoder import Autoencoder
from hb.optim import MuonAdamW, split_parameters
from hb.training import StepData, fit, warm_then_cosine
from hb.world.render import render
from hb.world.scene import SHAPES, Scenes, sample_any

FIELD = ("there", "dx", "dy", "size", "shape 0", "shape 1", "shape 2", "shape 3")
NEAR, FAR = 0.9, 1.8  # in radii: a thing's card has full weight up to here, and none from there
NOISE = -6.0  # log-variance of the new channels: about 0.05 of the deviation of the released latents


def thing_field(scenes: Scenes, rows: int) -> Float[Tensor, "N 8 rows rows"]:
    """The field of a scene: each thing lays its card on the squares about it, softly, so that it moves when the thing does.

    A card: 1; the way to the thing's centre in radii, (dx, dy); its size, -1 or 1; its shape as one of eight corners of a
    cross-polytope, plus or minus one of four axes. Weight 1 up to NEAR radii from the centre and 0 from FAR, smooth between.
    """
    centre = (np.arange(rows) + 0.5) / rows
    py, px = np.meshgrid(centre, centre, indexing="ij")
    radius = scenes.radius[:, None]
    dx = (scenes.x[:, None] - px.reshape(1, -1, 1)) / radius  # [N, squares, things]
    dy = (scenes.y[:, None] - py.reshape(1, -1, 1)) / radius
    far = np.clip((FAR - np.hypot(dx, dy)) / (FAR - NEAR), 0, 1)
    weight = np.where(scenes.shape[:, None] >= 0, far * far * (3 - 2 * far), 0.0)
    axes = np.eye(len(SHAPES) // 2)
    corners = np.stack([axes, -axes], 1).reshape(len(SHAPES), -1)[np.clip(scenes.shape, 0, None)]  # [N, things, 4]
    one = np.ones_like(dx)
    size = np.broadcast_to(2.0 * scenes.size[:, None] - 1, dx.shape)
    card = np.stack([one, dx, dy, size], -1)
    card = np.concatenate([card, np.broadcast_to(corners[:, None], (*dx.shape, 4))], -1)
    field = (weight[..., None] * np.where(weight[..., None] > 0, card, 0.0)).sum(2)
    return torch.from_numpy(field).float().mT.unflatten(-1, (rows, rows))


def random_scenes(n: int, seed: int, step: int, rank: int = 0) -> Scenes:
    """Scenes with one to four things, all else left to chance."""
    rng = np.random.default_rng([TRAINING, seed, 23, step, rank])
    return sample_any(n, rng)


@torch.no_grad()
def widened(autoencoder: Autoencoder) -> Autoencoder:
    """The same autoencoder with len(FIELD) more channels, which say nothing yet and are not read by the decoder."""
    config, more = autoencoder.config, len(FIELD)
    wide = Autoencoder(replace(config, z_channels=config.z_channels + more))
    weights, fresh = autoencoder.state_dict(), wide.state_dict()
    for name, value in weights.items():
        if name.startswith("encoder.conv_out."):
            mean, logvar = value.chunk(2)
            none = value.new_zeros(more, *value.shape[1:])
            value = torch.cat([mean, none, logvar, none if value.ndim > 1 else none + NOISE])
        elif name == "decoder.conv_in.weight":
            value = torch.cat([value, value.new_zeros(len(value), more, *value.shape[2:])], 1)
        fresh[name] = value
    wide.load_state_dict(fresh)
    return wide


class WidenedEncoder(L.LightningModule):
    """The encoder learns the field in its new channels, and to say in the old ones what it said before.

    loss = mean squared error of the new means against the field (of unit variance) + `keep` times that of the old ones,
    means and log-variances, against the encoder as it was. The decoder is not touched.
    """

    def __init__(self, before: Autoencoder, *, total: int, lr: float = 0.01, keep: float = 10.0, seed: int = 0):
        super().__init__()
        self.before = before.eval().requires_grad_(False)
        self.autoencoder = widened(before)
        self.autoencoder.decoder.requires_grad_(False)
        self.to(memory_format=torch.channels_last)
        self.total, self.lr, self.keep, self.seed = total, lr, keep, seed
        rows = 8  # the statistics do not depend on it
        field = thing_field(random_scenes(4096, seed, 0), rows)
        self.register_buffer("middle", field.mean((0, 2, 3))[:, None, None])
        self.register_buffer("spread", field.std((0, 2, 3))[:, None, None])

    def wanted(self, field: Tensor) -> Tensor:
        """A field as raw latents, which scale_factor and shift_factor bring to mean 0 and variance 1."""
        config = self.autoencoder.config
        return (field - self.middle) / self.spread / config.scale_factor + config.shift_factor

    def losses(self, pictures: Float[Tensor, "B 3 H W"], field: Float[Tensor, "B 8 h w"]) -> tuple[Tensor, Tensor]:
        """Of the new channels, and of the old; both in units of the latents' variance. pictures in [-1, 1]."""
        old = self.before.config.z_channels
        mean, logvar = self.autoencoder.moments(pictures)
        with torch.no_grad():
            mean_before, logvar_before = self.before.moments(pictures)
        unit = self.autoencoder.config.scale_factor**2
        new = (mean[:, old:] - self.wanted(field)).square().mean() * unit
        kept = (mean[:, :old] - mean_before).square().mean() * unit
        return new, kept + 0.01 * (logvar[:, :old] - logvar_before).square().mean()

    def training_step(self, batch, batch_idx):
        pictures, field = batch
        new, kept = self.losses(pictures.to(memory_format=torch.channels_last), field)
        self.log_dict(dict(field=new, kept=kept), prog_bar=True)
        return new + self.keep * kept

    def configure_optimizers(self):
        optimizer = MuonAdamW(split_parameters(self, muon_lr=self.lr, adamw_lr=self.lr / 10))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: warm_then_cosine(i, self.total))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def train_widened(
    folder: Path, before: Autoencoder, *, side: int, steps: int, batch: int = 48, lr: float = 0.02, seed: int = 0, **trainer
) -> Autoencoder:
    """Widen a trained autoencoder in `folder` (resumes there). Its decoder does not read the new channels yet."""
    module = WidenedEncoder(before, total=steps, lr=lr, seed=seed)

    def pictures_and_fields(step: int, rank: int) -> tuple[Tensor, Tensor]:
        scenes = random_scenes(batch, seed, step + 1, rank)
        return render(scenes, side) * 2 - 1, thing_field(scenes, side // before.config.downsample)

    data = StepData(pictures_and_fields, steps)
    fit(module, data, folder, ema=None, **trainer)
    return module.autoencoder.cpu().requires_grad_(True).eval()
