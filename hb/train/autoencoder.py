"""Training autoencoders and pixel decoders: pictures to latents and back.

Two kinds of latents. `AutoencoderTraining` learns them from pixels (Kingma & Welling 2014). `SemanticAutoencoder` has
them computed from the scene (`hb.data.fields`): its encoder learns to output the field, its decoder to read it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from hb.data.fields import FIELD, random_scenes, statistics, thing_field
from hb.infer.artifacts import PixelDecoderCheckpoint, fingerprint
from hb.models.autoencoder import Autoencoder, AutoencoderConfig
from hb.models.config import BagelConfig
from hb.models.pixel_decoder import PixelDecoder, PixelDecoderConfig
from hb.seeding import TRAINING, noise_like, seeded_generator
from hb.train.optim import Training, muon, refuse_not_finite, scheduled, warm_then_cosine, warmup_constant_decay
from hb.train.sheets import AutoencoderSheet
from hb.train.trainer import StepData, fit, precision_of
from hb.world.render import render
from hb.world.scene import SHAPES, sample_any

LOGVAR = -6.0  # of a semantic posterior: a standard deviation of 0.05, where latents have 1
# what a decoder learns last: points, narrow arms, and the hole of a ring. Of 54 scenes in 2,000 that it still got
# wrong, 14 had lost a small moon and 3 to 4 each a small ring, cross, heart, circle, triangle or star; two had lost a
# large moon
THIN = tuple(
    map(SHAPES.index, ("star", "star", "ring", "ring", "cross", "cross", "moon", "moon", "moon", "triangle", "heart"))
)


def random_pictures(n: int, side: int, seed: int, step: int, rank: int = 0, thin: float = 0.0) -> Tensor:
    """Pictures [n, 3, side, side] in [-1, 1] of scenes with one to four things, all else left to chance.

    thin: the share of things that become one of THIN, whatever they were, and the share of large things that become
    small: a wrong pixel of a small thing counts for more with the judge, and for less of the loss.
    """
    rng = np.random.default_rng([TRAINING, seed, step, rank])
    scenes = sample_any(n, rng)
    if thin:
        becomes = (scenes.shape >= 0) & (rng.random(scenes.shape.shape) < thin)
        scenes.shape[becomes] = rng.choice(THIN, int(becomes.sum()))
        scenes.size[(scenes.size > 0) & (rng.random(scenes.size.shape) < thin)] = 0
    return render(scenes, side) * 2 - 1


Pictures = Callable[[int, int, int], Tensor]  # number, step, rank -> pictures [n, 3, H, W] in [-1, 1], always the same


def world_pictures(side: int, seed: int, n: int, step: int, rank: int) -> Tensor:
    """`random_pictures` as `Pictures`, once side and seed are given."""
    return random_pictures(n, side, seed, step, rank)


def noise_levels(latents: Tensor, noise: float) -> Tensor:
    """Standard deviations [B, 1, 1, 1] from 0 to `noise`, spread evenly over the batch: no second draw to seed."""
    return noise * torch.linspace(0, 1, len(latents)).to(latents)[:, None, None, None]


def reconstruction_errors(output: Tensor, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """L1 of pixels, and of their differences to the right and below neighbor (sharp edges)."""
    error = output.float() - pictures
    return error.abs().mean(), error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


# ---- latents learned from pixels ------------------------------------------------------------------------------------


class AutoencoderTraining(Training):
    """The autoencoder learns to reconstruct pictures through a latent that is nearly Gaussian.

    Loss: L1 of pixels and of their differences to the right and below neighbor (sharp edges), plus `kl` times the
    Kullback-Leibler divergence per latent value from N(0, 1) (Kingma & Welling 2014). FLUX adds perceptual and
    adversarial losses; flat shapes do not need them.

    decoder_only  the encoder stays as it is, so latents keep their meaning and a teacher trained on them stays good
    noise         the decoder reads latents with noise of a standard deviation from 0 to `noise`, since what a model
                  draws is never exact. Only with decoder_only: an encoder that learns beside it moves its codes apart
    """

    def __init__(
        self,
        config: AutoencoderConfig,
        *,
        total: int,
        lr: float = 0.02,
        kl: float = 2e-4,
        seed: int = 0,
        decoder_only: bool = False,
        noise: float = 0.0,
    ):
        super().__init__()
        self.noise = noise
        self.autoencoder = Autoencoder(config)
        with torch.no_grad():  # begin with little noise: at standard deviation 1 it drowns the signal
            self.autoencoder.encoder.conv_out.bias[config.z_channels :] = -5.0
        self.total, self.lr, self.kl, self.seed, self.decoder_only = total, lr, kl, seed, decoder_only
        self.autoencoder.encoder.requires_grad_(not decoder_only)

    def losses(self, pictures: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pixel, edge and divergence losses, and the share of noise in the latents, for the posterior's draw `eps`."""
        mean, logvar = self.autoencoder.moments(pictures)
        mean, logvar = mean.float(), logvar.float().clamp(-20, 10)
        more = noise_levels(mean, self.noise) / self.autoencoder.config.scale_factor
        z = mean + ((0.5 * logvar).exp() + more) * eps
        pixel, edge = reconstruction_errors(self.autoencoder.decoder(z), pictures)
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        return pixel, edge, divergence, (0.5 * logvar).exp().mean() / mean.std()

    def training_step(self, batch, batch_idx):
        pictures = batch.to(self.device, memory_format=torch.channels_last)
        config = self.autoencoder.config
        latent = (len(pictures), config.z_channels) + tuple(s // config.downsample for s in pictures.shape[-2:])
        generator = seeded_generator(self.seed, self.global_step, self.global_rank)
        pixel, edge, divergence, noise_share = self.losses(
            pictures, torch.randn(latent, generator=generator).to(pictures)
        )
        metrics = dict(pixel=pixel, edge=edge, kl=divergence, noise_share=noise_share)
        self.log_dict(metrics, prog_bar=True)
        # at full weight from the start the divergence wins: optimizers that normalize gradients follow its steady
        # slope into collapse
        weight = self.kl * min(1.0, self.global_step / 600)
        return pixel + edge + weight * divergence

    def configure_optimizers(self):
        # a decoder alone is trained at a rate that it does not bear for long
        rate = warm_then_cosine if self.decoder_only else warmup_constant_decay
        optimizer = muon(self.autoencoder, self.lr, roles=self.roles)
        return scheduled(optimizer, lambda i: rate(i, total=self.total))


def train_autoencoder(
    folder: Path,
    config: BagelConfig,
    *,
    steps: int,
    batch: int = 40,
    lr: float = 0.008,
    seed: int = 0,
    precision: str = "auto",
    start_from: Autoencoder | None = None,
    decoder_only: bool = False,
    noise: float = 0.0,
    pictures: Pictures | None = None,
    **trainer,
) -> Autoencoder:
    """Train an autoencoder in `folder` (resumes there); returns it scaled so that latents have unit variance.

    decoder_only needs start_from, and leaves its encoder and scale alone; noise (in latents of unit variance) needs
    both. pictures: in the place of the tiny world's.
    """
    refuse_not_finite(learning_rate=lr, noise=noise)
    if decoder_only and start_from is None:
        raise ValueError("training the decoder alone needs an autoencoder to start from")
    if noise and not decoder_only:
        raise ValueError("noise is for a decoder trained alone: an encoder that learns beside it moves its codes apart")
    side = config.picture_side
    plain = replace(config.autoencoder, scale_factor=1.0, shift_factor=0.0)
    if decoder_only:
        plain = start_from.config
    module = AutoencoderTraining(plain, total=steps, lr=lr, seed=seed, decoder_only=decoder_only, noise=noise)
    if start_from is not None:
        module.autoencoder.load_state_dict(start_from.state_dict())
    pictures = pictures or partial(world_pictures, side, seed)
    data = StepData(lambda step, rank: pictures(batch, step, rank), steps)
    # no averaged weights: the last, slowed-down steps of the schedule do better than any average over fast ones
    _fit(module, data, folder, side, pictures, precision=precision_of(precision), **trainer)
    if decoder_only:
        start_from.load_state_dict(module.autoencoder.cpu().state_dict())
        return start_from.eval()
    return normalized(module.autoencoder, pictures(1024, steps, 0))


def _fit(module: L.LightningModule, data: StepData, folder: Path, side: int, pictures=None, callbacks=(), **trainer):
    sheet = AutoencoderSheet(folder, side, pictures)
    fit(module, data, folder, ema=None, callbacks=(sheet, *callbacks), **trainer)


@torch.no_grad()
def normalized(autoencoder: Autoencoder, pictures: Tensor) -> Autoencoder:
    """The same autoencoder with scale and shift set so that these pictures' latents have mean 0 and variance 1."""
    autoencoder = autoencoder.cpu().eval()
    mean = torch.cat([autoencoder.moments(part)[0] for part in pictures.split(128)])
    scaled = Autoencoder(
        replace(autoencoder.config, scale_factor=float(1 / mean.std()), shift_factor=float(mean.mean()))
    )
    scaled.load_state_dict(autoencoder.state_dict())
    return scaled.eval()


def train_pixel_decoder(
    folder: Path,
    autoencoder: Autoencoder,
    *,
    side: int,
    steps: int,
    batch: int = 16,
    lr: float = 0.025,
    noise: float = 0.4,
    thin: float = 0.4,
    seed: int = 0,
    precision: str = "auto",
    start_from: PixelDecoderCheckpoint | None = None,
    pictures: Pictures | None = None,
    **trainer,
) -> PixelDecoderCheckpoint:
    """Train a pixel decoder for an autoencoder's latents in `folder` (resumes there).

    noise: see AutoencoderTraining; thin: see random_pictures; start_from: weights to begin with. Its latent refiner, if
    it has one, stays as it is, to the last bit: the layers behind it learn to decode refined latents.
    """
    refuse_not_finite(learning_rate=lr, noise=noise, thin=thin)
    module = AutoencoderTraining(autoencoder.config, total=steps, lr=lr, seed=seed, decoder_only=True, noise=noise)
    module.autoencoder.load_state_dict(autoencoder.state_dict())
    module.autoencoder.decoder = decoder = _begun_decoder(autoencoder, start_from, seed)
    thinned = pictures or (lambda n, step, rank: random_pictures(n, side, seed, step, rank, thin))
    data = StepData(lambda step, rank: thinned(batch, step, rank), steps)
    _fit(module, data, folder, side, pictures, precision=precision_of(precision), **trainer)
    weights = {k: v.detach().cpu() for k, v in decoder.state_dict().items()}
    config = asdict(decoder.config) | dict(widths=list(decoder.config.widths))
    return PixelDecoderCheckpoint(config, fingerprint(autoencoder.encoder), {}, weights)


def _begun_decoder(autoencoder: Autoencoder, start: PixelDecoderCheckpoint | None, seed: int) -> PixelDecoder:
    config = PixelDecoderConfig.of(start.config) if start else PixelDecoderConfig(autoencoder.config.z_channels)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        decoder = PixelDecoder(config).to(memory_format=torch.channels_last)
    if start is not None:
        decoder.load_state_dict(start.weights)
        if decoder.settle is not None:
            decoder.settle.requires_grad_(False)
    return decoder


# ---- latents computed from the scene --------------------------------------------------------------------------------


def with_meaning(config: AutoencoderConfig) -> AutoencoderConfig:
    """The same geometry with a channel for each line of FIELD, in units in which latents have mean 0 and variance 1."""
    return replace(config, z_channels=len(FIELD), scale_factor=1.0, shift_factor=0.0)


class SemanticAutoencoder(Training):
    """The encoder learns to output the field, the decoder to decode it; no gradient passes between them.

    loss = mean squared error of the means against the field (each channel of unit variance)
         + L1 of pixels and of their differences to the right and below neighbor, from latents with noise.
    The noise of a picture has a standard deviation of 0 to `noise`, evenly over the batch. The decoder's gradient does
    not reach the encoder: it would make latents sharp.

    start: an autoencoder whose weights to begin with, as far as their shapes fit.
    """

    def __init__(
        self,
        config: AutoencoderConfig,
        *,
        total: int,
        lr: float = 0.01,
        noise: float = 0.4,
        seed: int = 0,
        start: Autoencoder | None = None,
    ):
        super().__init__()
        self.autoencoder = Autoencoder(with_meaning(config))
        if start is not None:
            fresh = self.autoencoder.state_dict()
            fits = {k: v for k, v in start.state_dict().items() if k in fresh and v.shape == fresh[k].shape}
            self.autoencoder.load_state_dict(fresh | fits)
        last = self.autoencoder.encoder.conv_out
        with torch.no_grad():  # the posterior's deviation is not learned
            last.weight[len(FIELD) :] = 0
            last.bias[len(FIELD) :] = LOGVAR
        self.total, self.lr, self.noise, self.seed = total, lr, noise, seed
        middle, spread = statistics(seed)
        self.register_buffer("middle", middle)
        self.register_buffer("spread", spread)

    def losses(
        self, pictures: Float[Tensor, "B 3 H W"], field: Float[Tensor, "B 16 h w"], eps: Float[Tensor, "B 16 h w"]
    ):
        """Of the field, of pixels and of edges. pictures in [-1, 1]; eps: noise of unit variance."""
        mean, _ = self.autoencoder.moments(pictures)
        error = F.mse_loss(mean.float(), (field - self.middle) / self.spread)
        noisy = mean.detach() + noise_levels(mean, self.noise) * eps
        return error, *reconstruction_errors(self.autoencoder.decoder(noisy), pictures)

    def training_step(self, batch, batch_idx):
        pictures, field = batch
        generator = seeded_generator(self.seed, self.global_step, self.global_rank)
        eps = noise_like(field, generator)
        error, pixel, edge = self.losses(pictures.to(memory_format=torch.channels_last), field, eps)
        self.log_dict(dict(field=error, pixel=pixel, edge=edge), prog_bar=True)
        return error + pixel + edge

    def configure_optimizers(self):
        optimizer = muon(self, self.lr, roles=self.roles)
        return scheduled(optimizer, lambda i: warm_then_cosine(i, self.total))


def train_semantic(
    folder: Path,
    config: AutoencoderConfig,
    *,
    side: int,
    steps: int,
    batch: int = 40,
    lr: float = 0.01,
    noise: float = 0.4,
    seed: int = 0,
    start_from: Autoencoder | None = None,
    **trainer,
) -> Autoencoder:
    """Train an autoencoder whose latents are fields, in `folder` (resumes there)."""
    refuse_not_finite(learning_rate=lr, noise=noise)
    module = SemanticAutoencoder(config, total=steps, lr=lr, noise=noise, seed=seed, start=start_from)

    def pictures_and_fields(step: int, rank: int) -> tuple[Tensor, Tensor]:
        scenes = random_scenes(batch, seed, step + 1, rank)
        return render(scenes, side) * 2 - 1, thing_field(scenes, side // config.downsample)

    _fit(module, StepData(pictures_and_fields, steps), folder, side, **trainer)
    return module.autoencoder.cpu().eval()
