"""Latents that say what is in the picture and where: an autoencoder whose every channel is taught a meaning.

A latent learnt from pixels alone is sharp: a thing that moves by four pixels has a new code, and a network that draws
must learn all of those codes before one shape comes out whole. Real systems have the same trouble, and the same cure:
give the latent a part that means something (VA-VAE: Yao & Wang 2025, arXiv 2501.01423; ReDi: Kouzelis et al. 2025,
arXiv 2504.16064). They take it from a large vision tower; in the tiny world the scene itself is known, and can be all
of the latent.

The encoder learns to read the field of `thing_field` in the picture. The decoder learns to paint from what the encoder
says, with noise on it: what a model that draws hands it is never exact, but a field says everything many times over.

The settler (hb.models.pixel_decoder) learns here too: what a field would be that has not made up its mind, only fields
can say.

With half of the channels taught and half left to pixels, a teacher had the right shapes in its field (95 of 96 pictures
from t = 0.65) and wrong ones in its pictures (66): what it could not draw was the sharp half (data/results/DIARY.md).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from hb.infer.artifacts import PixelDecoderCheckpoint
from hb.models.autoencoder import Autoencoder, AutoencoderConfig
from hb.models.pixel_decoder import LatentRefiner, PixelDecoder, PixelDecoderConfig
from hb.seeding import TRAINING, noise_like, seeded_generator
from hb.train.optim import MuonAdamW, split_parameters
from hb.train.sheets import AutoencoderSheet
from hb.train.trainer import StepData, fit, noise_levels, painting_errors, warm_then_cosine
from hb.world.render import BACKGROUND_RGB, COLOR_RGB, render
from hb.world.scene import MAX_TURN, SHAPES, Scenes, sample_any

FIELD = (
    "red", "green", "blue", "striped", "turn", "red behind", "green behind", "blue behind",
    "there", "dx", "dy", "size", "shape 0", "shape 1", "shape 2", "shape 3",
)  # fmt: skip
NEAR, FAR = 0.9, 1.8  # in radii: a thing's card has full weight up to here, and none from there
LOOKS = ("shape", "color", "size", "texture", "turn", "shade")  # of a thing: all but where it is
SETTLER = (96, 3)  # width and layers
LOGVAR = -6.0  # of the posterior: a deviation of 0.05, where latents have one of 1


def thing_field(scenes: Scenes, rows: int) -> Float[Tensor, "N 16 rows rows"]:
    """The field of a scene: each thing lays its card on the squares about it, softly, so that it moves when the thing
    does.

    A card: its color (red, green, blue in [-1, 1], shade included); 1 if striped, -1 if plain; its turn in [-1, 1], 0
    where a turn cannot be seen; 1; the way to the thing's center in radii, (dx, dy); its size, -1 or 1; its shape as
    one of eight corners of a cross-polytope, plus or minus one of four axes. Weight 1 up to NEAR radii from the center
    and 0 from FAR, smooth between. The color behind, in [-1, 1], is the same everywhere.
    """
    center = (np.arange(rows) + 0.5) / rows
    py, px = np.meshgrid(center, center, indexing="ij")
    radius = scenes.radius[:, None]
    dx = (scenes.x[:, None] - px.reshape(1, -1, 1)) / radius  # [N, squares, things]
    dy = (scenes.y[:, None] - py.reshape(1, -1, 1)) / radius
    present = scenes.shape >= 0
    far = np.clip((FAR - np.hypot(dx, dy)) / (FAR - NEAR), 0, 1)
    weight = np.where(present[:, None], far * far * (3 - 2 * far), 0.0)
    shape, color = np.clip(scenes.shape, 0, None), np.clip(scenes.color, 0, None)
    axes = np.eye(len(SHAPES) // 2)
    corners = np.stack([axes, -axes], 1).reshape(len(SHAPES), -1)[shape]  # [N, things, 4]
    rgb = 2 * COLOR_RGB[color] * scenes.shade[..., None] - 1
    round_one = np.isin(shape, [SHAPES.index("circle"), SHAPES.index("ring")]) & (scenes.texture <= 0)
    turn = np.where(round_one, 0.0, scenes.turn / MAX_TURN)
    own = np.concatenate([rgb, np.stack([2.0 * scenes.texture - 1, turn], -1)], -1)
    size = 2.0 * scenes.size[..., None] - 1
    everywhere = lambda values: np.broadcast_to(values[:, None], (*dx.shape, values.shape[-1]))
    behind = np.broadcast_to((2 * BACKGROUND_RGB[scenes.background] - 1)[:, None], (len(scenes), rows * rows, 3))
    where = np.stack([np.ones_like(dx), dx, dy], -1)
    card = np.concatenate([everywhere(own), where, everywhere(size), everywhere(corners)], -1)
    laid = (weight[..., None] * np.where(weight[..., None] > 0, card, 0.0)).sum(2)
    field = np.concatenate([laid[..., :5], behind, laid[..., 5:]], -1)
    return torch.from_numpy(field).float().mT.unflatten(-1, (rows, rows))


def random_scenes(n: int, seed: int, step: int, rank: int = 0) -> Scenes:
    """Scenes with one to four things, all else left to chance."""
    rng = np.random.default_rng([TRAINING, seed, 23, step, rank])
    return sample_any(n, rng)


def statistics(seed: int) -> tuple[Float[Tensor, "16 1 1"], Float[Tensor, "16 1 1"]]:
    """Mean and standard deviation of each line of FIELD: latents are in units in which these are 0 and 1."""
    field = thing_field(random_scenes(4096, seed, 0), rows=8)  # they do not depend on the rows
    return field.mean((0, 2, 3))[:, None, None], field.std((0, 2, 3))[:, None, None]


def with_meaning(config: AutoencoderConfig) -> AutoencoderConfig:
    """The same geometry with a channel for each line of FIELD, in units in which latents have mean 0 and variance 1."""
    return replace(config, z_channels=len(FIELD), scale_factor=1.0, shift_factor=0.0)


class SemanticAutoencoder(L.LightningModule):
    """The encoder learns to say the field, the decoder to paint from it; neither has a say in the other.

    loss = mean squared error of the means against the field (each channel of unit variance)
         + L1 of pixels and of their differences to the right and below neighbour, from latents with noise.
    The noise of a picture has a standard deviation of 0 to `noise`, evenly over the batch. What the decoder would like
    to read does not reach the encoder: that is how latents become sharp.

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
        said = self.autoencoder.encoder.conv_out
        with torch.no_grad():  # the posterior's deviation is not learnt
            said.weight[len(FIELD) :] = 0
            said.bias[len(FIELD) :] = LOGVAR
        self.total, self.lr, self.noise, self.seed = total, lr, noise, seed
        middle, spread = statistics(seed)
        self.register_buffer("middle", middle)
        self.register_buffer("spread", spread)

    def losses(
        self, pictures: Float[Tensor, "B 3 H W"], field: Float[Tensor, "B 16 h w"], eps: Float[Tensor, "B 16 h w"]
    ):
        """Of the field, of pixels and of edges. pictures in [-1, 1]; eps: noise of unit variance."""
        mean, _ = self.autoencoder.moments(pictures)
        wrong = F.mse_loss(mean.float(), (field - self.middle) / self.spread)
        noisy = mean.detach() + noise_levels(mean, self.noise) * eps
        return wrong, *painting_errors(self.autoencoder.decoder(noisy), pictures)

    def training_step(self, batch, batch_idx):
        pictures, field = batch
        generator = seeded_generator(self.seed, self.global_step, self.global_rank)
        eps = noise_like(field, generator)
        wrong, pixel, edge = self.losses(pictures.to(memory_format=torch.channels_last), field, eps)
        self.log_dict(dict(field=wrong, pixel=pixel, edge=edge), prog_bar=True)
        return wrong + pixel + edge

    def configure_optimizers(self):
        optimizer = MuonAdamW(split_parameters(self, muon_lr=self.lr, adamw_lr=self.lr / 10))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: warm_then_cosine(i, self.total))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


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
    module = SemanticAutoencoder(config, total=steps, lr=lr, noise=noise, seed=seed, start=start_from)

    def pictures_and_fields(step: int, rank: int) -> tuple[Tensor, Tensor]:
        scenes = random_scenes(batch, seed, step + 1, rank)
        return render(scenes, side) * 2 - 1, thing_field(scenes, side // config.downsample)

    fit(
        module,
        StepData(pictures_and_fields, steps),
        folder,
        ema=None,
        callbacks=(AutoencoderSheet(folder, side),),
        **trainer,
    )
    return module.autoencoder.cpu().eval()


def with_other_looks(scenes: Scenes, rng: np.random.Generator, share: float = 0.3) -> Scenes:
    """The same things in the same places. Each of their looks, and each color behind, is another one in `share` of the
    cases."""
    other = sample_any(len(scenes), rng)
    there = scenes.shape >= 0

    def mixed(ours: np.ndarray, theirs: np.ndarray, may: np.ndarray) -> np.ndarray:
        return np.where(may & (rng.random(may.shape) < share), theirs, ours)

    # where the other scene has no thing in this slot, the looks of its first one
    looks = {name: np.where(other.shape >= 0, getattr(other, name), getattr(other, name)[:, :1]) for name in LOOKS}
    looks = {name: mixed(getattr(scenes, name), theirs, there) for name, theirs in looks.items()}
    return replace(scenes, **looks, background=mixed(scenes.background, other.background, np.ones(len(scenes), bool)))


def undecided(
    fields: Float[Tensor, "3 B C h w"], generator: torch.Generator, most: float = 0.45
) -> Float[Tensor, "B C h w"]:
    """The first fields, on their way to the other two, by up to `most` together and not everywhere as far.

    What a model hands over that has not made up its mind is a mean of what it could have meant; the first is what it
    meant most.
    """
    sure, *others = fields
    batch, _, *size = sure.shape
    far = most * torch.rand(batch, generator=generator)
    parts = torch.rand(batch, generator=generator)
    uneven = F.interpolate(
        torch.randn(batch, 2, 3, 3, generator=generator), size=size, mode="bicubic", align_corners=True
    )
    shares = far[:, None] * torch.stack([parts, 1 - parts], 1)  # of each other one, in each picture
    shares = (shares[..., None, None] * (1 + 0.4 * uneven)).to(sure)
    return sure + sum(share[:, None] * (other - sure) for share, other in zip(shares.unbind(1), others))


class RefinerTraining(L.LightningModule):
    """The settler learns to say the field that was meant most.

    loss = L1 against that field, in units in which each channel has variance 1. L1 because its best answer is one of
    the things that could have been meant, where that of a squared error is their mean, which is what came in.
    noise: each picture's latents get noise besides, of a deviation from 0 to `noise`, evenly over the batch.
    """

    def __init__(self, settler: LatentRefiner, *, total: int, lr: float = 0.01, noise: float = 0.4, seed: int = 0):
        super().__init__()
        self.settler, self.total, self.lr, self.noise, self.seed = settler, total, lr, noise, seed

    def training_step(self, batch: Float[Tensor, "3 B C h w"], batch_idx: int) -> Tensor:
        generator = seeded_generator(self.seed, self.global_step, self.global_rank)
        z = undecided(batch, generator)
        z = z + noise_levels(z, self.noise) * noise_like(z, generator)
        left, was = (self.settler(z) - batch[0]).abs().mean(), (z - batch[0]).abs().mean()
        self.log_dict(dict(unsettled=left, before=was), prog_bar=True)
        return left

    def configure_optimizers(self):
        optimizer = MuonAdamW(split_parameters(self.settler, muon_lr=self.lr, adamw_lr=self.lr / 5))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: warm_then_cosine(i, self.total))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def check_says_fields(autoencoder: Autoencoder, side: int) -> None:
    """Raises ValueError if what this autoencoder's encoder says of pictures is not their field."""
    scenes = random_scenes(32, 0, 1)
    with torch.no_grad():
        said = autoencoder.moments(render(scenes, side) * 2 - 1)[0].float()
    wrong = "its latents are not fields, which is what a settler learns from; train its autoencoder with --semantic"
    if said.size(1) != len(FIELD):
        raise ValueError(wrong)
    middle, spread = statistics(0)
    meant = (thing_field(scenes, said.size(-1)) - middle) / spread
    if F.mse_loss(said, meant) > 0.5:  # a constant has 1
        raise ValueError(wrong)


def train_refiner(
    folder: Path,
    painter: PixelDecoderCheckpoint,
    *,
    rows: int,
    steps: int,
    batch: int = 64,
    lr: float = 0.01,
    noise: float = 0.4,
    seed: int = 0,
    **trainer,
) -> PixelDecoderCheckpoint:
    """Train a settler for a tiny decoder of fields of rows x rows places, in `folder` (resumes there); goes on from the
    one it has.

    The painter's own weights stay as they are, to the last bit.
    """
    middle, spread = statistics(seed)
    config = PixelDecoderConfig(**painter.config)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        decoder = PixelDecoder(replace(config, settler=config.settler or SETTLER))
    decoder.load_state_dict(decoder.state_dict() | painter.weights)
    module = RefinerTraining(decoder.settle, total=steps, lr=lr, noise=noise, seed=seed)

    def what_could_be_meant(step: int, rank: int) -> Tensor:
        scenes = random_scenes(batch, seed, step + 1, rank)
        rng = np.random.default_rng([TRAINING, seed, 29, step, rank])
        several = (scenes, with_other_looks(scenes, rng), with_other_looks(scenes, rng))
        return torch.stack([(thing_field(s, rows) - middle) / spread for s in several])

    fit(module, StepData(what_could_be_meant, steps), folder, ema=None, **trainer)
    weights = {k: v.detach().cpu() for k, v in decoder.state_dict().items()}
    return replace(painter, config=painter.config | dict(settler=list(decoder.config.settler)), weights=weights)
