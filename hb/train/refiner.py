"""Training the latent refiner (hb.models.pixel_decoder): latents between several pictures become those of one.

A model of few steps outputs means: where a thing could have been pink or purple, some places of the latent are pink and
others purple. The refiner learns from fields (`hb.data.fields`) that are mixed on purpose, since only of a field is it
known what it could have been.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from hb.data.fields import FIELD, random_scenes, statistics, thing_field, with_other_looks
from hb.infer.artifacts import PixelDecoderCheckpoint
from hb.models.autoencoder import Autoencoder
from hb.models.pixel_decoder import LatentRefiner, PixelDecoder, PixelDecoderConfig
from hb.seeding import TRAINING, noise_like, seeded_generator
from hb.train.autoencoder import noise_levels
from hb.train.optim import Training, muon, refuse_not_finite, scheduled, warm_then_cosine
from hb.train.resuming import renamed
from hb.train.trainer import StepData, fit
from hb.world.render import render

REFINER = (96, 3)  # width and layers


def mixed_fields(
    fields: Float[Tensor, "3 B C h w"], generator: torch.Generator, most: float = 0.45
) -> Float[Tensor, "B C h w"]:
    """The first fields, moved towards the other two by up to `most` together, and not everywhere as far.

    The output of a model of few steps is a mean of several possible fields; the first is the likeliest of them.
    """
    first, *others = fields
    batch, _, *size = first.shape
    far = most * torch.rand(batch, generator=generator)
    parts = torch.rand(batch, generator=generator)
    uneven = F.interpolate(
        torch.randn(batch, 2, 3, 3, generator=generator), size=size, mode="bicubic", align_corners=True
    )
    shares = far[:, None] * torch.stack([parts, 1 - parts], 1)  # of each other one, in each picture
    shares = (shares[..., None, None] * (1 + 0.4 * uneven)).to(first)
    return first + sum(share[:, None] * (other - first) for share, other in zip(shares.unbind(1), others))


class RefinerTraining(Training):
    """The latent refiner learns to output the likeliest field of a mixture.

    loss = L1 against that field, in units in which each channel has variance 1. L1 because its minimum is one of the
    possible fields, where that of a squared error is their mean, which is the input.
    noise: each picture's latents get noise besides, of a deviation from 0 to `noise`, evenly over the batch.
    """

    def __init__(self, refiner: LatentRefiner, *, total: int, lr: float = 0.01, noise: float = 0.4, seed: int = 0):
        super().__init__()
        self.refiner, self.total, self.lr, self.noise, self.seed = refiner, total, lr, noise, seed

    def training_step(self, batch: Float[Tensor, "3 B C h w"], batch_idx: int) -> Tensor:
        generator = seeded_generator(self.seed, self.global_step, self.global_rank)
        z = mixed_fields(batch, generator)
        z = z + noise_levels(z, self.noise) * noise_like(z, generator)
        after, before = (self.refiner(z) - batch[0]).abs().mean(), (z - batch[0]).abs().mean()
        self.log_dict(dict(after=after, before=before), prog_bar=True)
        return after

    def configure_optimizers(self):
        optimizer = muon(self.refiner, self.lr, roles=self.roles, adamw_share=0.2)
        return scheduled(optimizer, lambda i: warm_then_cosine(i, self.total))

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["state_dict"] = renamed(checkpoint["state_dict"], {"settler.": "refiner."})
        super().on_load_checkpoint(checkpoint)


def check_latents_are_fields(autoencoder: Autoencoder, side: int) -> None:
    """Raises ValueError if this autoencoder's encoder does not output the fields of pictures."""
    scenes = random_scenes(32, 0, 1)
    with torch.no_grad():
        output = autoencoder.moments(render(scenes, side) * 2 - 1)[0].float()
    wrong = "its latents are not fields, which a latent refiner learns from; train its autoencoder with --semantic"
    if output.size(1) != len(FIELD):
        raise ValueError(wrong)
    middle, spread = statistics(0)
    target = (thing_field(scenes, output.size(-1)) - middle) / spread
    if F.mse_loss(output, target) > 0.5:  # a constant has 1
        raise ValueError(wrong)


def train_refiner(
    folder: Path,
    start_from: PixelDecoderCheckpoint,
    *,
    rows: int,
    steps: int,
    batch: int = 64,
    lr: float = 0.01,
    noise: float = 0.4,
    seed: int = 0,
    **trainer,
) -> PixelDecoderCheckpoint:
    """Train the latent refiner of a pixel decoder of fields of rows x rows places, in `folder` (resumes there); goes on
    from the one it has.

    The pixel decoder's own weights stay as they are, to the last bit.
    """
    refuse_not_finite(learning_rate=lr, noise=noise)
    middle, spread = statistics(seed)
    config = PixelDecoderConfig.of(start_from.config)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        decoder = PixelDecoder(replace(config, refiner=config.refiner or REFINER))
    decoder.load_state_dict(decoder.state_dict() | dict(start_from.weights))
    module = RefinerTraining(decoder.settle, total=steps, lr=lr, noise=noise, seed=seed)

    def possible_fields(step: int, rank: int) -> Tensor:
        scenes = random_scenes(batch, seed, step + 1, rank)
        rng = np.random.default_rng([TRAINING, seed, 29, step, rank])
        several = (scenes, with_other_looks(scenes, rng), with_other_looks(scenes, rng))
        return torch.stack([(thing_field(s, rows) - middle) / spread for s in several])

    fit(module, StepData(possible_fields, steps), folder, ema=None, **trainer)
    weights = {k: v.detach().cpu() for k, v in decoder.state_dict().items()}
    saved = {name: value for name, value in start_from.config.items() if name != "settler"}  # its name until 0.1
    return replace(start_from, config=saved | dict(refiner=list(decoder.config.refiner)), weights=weights)
