"""Training the teacher: first the autoencoder, then the unified model on its latents."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hb.data.batches import BatchSizes, pick
from hb.data.dialogues import write_dialogues
from hb.data.mixes import DRAW_MIX
from hb.data.own_pictures import OwnPictures
from hb.data.pool import Pool, make_pool
from hb.files import read_rows
from hb.flow import interpolate, shift_time, velocity_of
from hb.infer.artifacts import PixelDecoderCheckpoint, fingerprint
from hb.machine import commit, machine
from hb.models.autoencoder import Autoencoder, AutoencoderConfig
from hb.models.bagel import Bagel
from hb.models.checkpoint import load_model
from hb.models.config import BagelConfig
from hb.models.initialize import initialize
from hb.models.pixel_decoder import PixelDecoder, PixelDecoderConfig
from hb.models.sequence import ImageSplit, TextSplit
from hb.models.tokenizer import Text
from hb.models.vision import VisionTower, patchify, table_rows
from hb.seeding import TRAINING, noise_like, seeded_generator
from hb.train.optim import MuonAdamW, muon_dtype_of, split_parameters
from hb.train.sheets import AutoencoderSheet, TeacherSheet
from hb.train.trainer import (
    StepData,
    fit,
    noise_levels,
    painting_errors,
    warm_then_cosine,
    warmup_constant_decay,
    working_device,
    worth_compiling,
)
from hb.world.render import render
from hb.world.scene import SHAPES, sample_any

# what a decoder learns last: points, narrow arms, and the hole of a ring. Of 54 scenes in 2,000 that it still got
# wrong, 14 had lost a small moon and 3 to 4 each a small ring, cross, heart, circle, triangle or star; two had lost a
# large moon
THIN = tuple(
    map(SHAPES.index, ("star", "star", "ring", "ring", "cross", "cross", "moon", "moon", "moon", "triangle", "heart"))
)


def random_pictures(n: int, side: int, seed: int, step: int, rank: int = 0, thin: float = 0.0) -> Tensor:
    """Pictures [n, 3, side, side] in [-1, 1] of scenes with one to four things, all else left to chance.

    thin: the share of things that become one of THIN, whatever they were, and the share of large things that become
    small: a pixel that is wrong counts for more of a small thing with whoever looks at it, and for less of the loss.
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


class AutoencoderTraining(L.LightningModule):
    """The autoencoder learns to give pictures back, through a latent that is nearly Gaussian.

    Loss: L1 of pixels and of their differences to the right and below neighbour (sharp rims), plus `kl` times the
    Kullback-Leibler divergence per latent value from N(0, 1) (Kingma & Welling 2014). FLUX adds perceptual and
    adversarial losses; flat shapes do not need them.

    decoder_only: the encoder stays as it is, so latents keep their meaning and a teacher trained on them stays good.
    noise: the decoder gets latents with noise of a standard deviation drawn from [0, noise] for every picture: what a
    model that draws hands it is never exact. Only with decoder_only: an encoder that learns beside it moves its codes
    apart.
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
        with (
            torch.no_grad()
        ):  # begin with little noise: at standard deviation 1 it drowns the signal and nothing is learnt
            self.autoencoder.encoder.conv_out.bias[config.z_channels :] = -5.0
        self.total, self.lr, self.kl, self.seed, self.decoder_only = total, lr, kl, seed, decoder_only
        self.autoencoder.encoder.requires_grad_(not decoder_only)

    def losses(self, pictures: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pixel, edge and divergence losses, and the share of noise in the latents, for the posterior's draw `eps`."""
        mean, logvar = self.autoencoder.moments(pictures)
        mean, logvar = mean.float(), logvar.float().clamp(-20, 10)
        more = noise_levels(mean, self.noise) / self.autoencoder.config.scale_factor
        z = mean + ((0.5 * logvar).exp() + more) * eps
        pixel, edge = painting_errors(self.autoencoder.decoder(z), pictures)
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        return pixel, edge, divergence, (0.5 * logvar).exp().mean() / mean.std()

    def training_step(self, batch, batch_idx):
        pictures = batch.to(self.device, memory_format=torch.channels_last)
        config = self.autoencoder.config
        latent = (len(pictures), config.z_channels) + tuple(s // config.downsample for s in pictures.shape[-2:])
        eps = torch.randn(latent, generator=seeded_generator(self.seed, self.global_step, self.global_rank)).to(
            pictures
        )
        pixel, edge, divergence, noise_share = self.losses(pictures, eps)
        metrics = dict(pixel=pixel, edge=edge, kl=divergence, noise_share=noise_share)
        self.log_dict(metrics, prog_bar=True)
        # from the start, the divergence wins: optimizers that normalize gradients follow its steady pull into collapse
        weight = self.kl * min(1.0, self.global_step / 600)
        return pixel + edge + weight * divergence

    def configure_optimizers(self):
        optimizer = MuonAdamW(split_parameters(self.autoencoder, muon_lr=self.lr, adamw_lr=self.lr / 10))
        # a decoder alone is trained at a rate that it does not bear for long
        rate = warm_then_cosine if self.decoder_only else warmup_constant_decay
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: rate(i, total=self.total))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


# what is learnt, and whether that draws and whether it talks: see TeacherTraining
LEARNS = dict(all=(True, True), understanding=(False, True), answers=(False, True), drawing=(True, False))


class TeacherTraining(L.LightningModule):
    """The unified model learns to draw, edit and answer, all in one step (BAGEL section 2; bagel.md section 10).

    loss = draw_mse + edit_mse + ce_weight * ce, ce weighed as in `shared_out`. Velocity targets are eps - x0 at
    t = shift(sigmoid(normal)). Conditions are dropped for guidance: the text of a drawing or an edit, the pictures of
    an edit (both at once, as the image-dropped branch of the sampler has it, or the vision tower's view alone).

    With schooled eyes (hb.train.vision) a fourth term: the generation tokens' states after layer `aligned` must say,
    through a small projection that is thrown away later, what the eyes see in the finished picture (REPA: Yu et al.
    2024, arXiv 2410.06940, equation 2: minus the mean cosine). It is not in BAGEL; it is meant to make little training
    go further, not yet measured.

    weight_decay: Muon's matrices can grow to a spectral norm of 1 / weight_decay. At 0.01 the stream of states had
    reached 200 after 1,560 steps, and what a layer added to it was next to nothing.

    decay: the share of the run over which the rate falls to zero. While it is high, what is not renewed within
    1 / (lr * weight_decay) steps is forgotten, and fine things are learnt only as it falls.

    shift: of the times, 4 as in BAGEL's later stages. What a drawing will be is decided early, above t = 0.8, and at a
    shift of 2 only one picture in four was noised that far.

    learns: "all", or one of the two branches alone while the other stays as it is (LMFusion: Shi et al. 2024, arXiv
    2412.15188, trains the drawing branch beside a frozen language model). "understanding" answers only; "drawing" draws
    and edits, and whatever was made for the understanding branch, a draft for one, stays true
    (`hb.infer.artifacts.understanding_fingerprint`). "answers": of the understanding branch what no drawing reads
    (`is_answering`), so that pictures stay as they are, to the last bit.

    Differs from BAGEL: one prefix carries several noise splits (other pictures of the same prompt, or other noises of
    the same edit). They cannot see each other, so this is the same loss for less work. BAGEL drops every split on its
    own with probabilities 0.1 (text), 0.3 (ViT), 0.3 (VAE).
    """

    def __init__(
        self,
        model: Bagel,
        *,
        total: int,
        lr: float = 0.02,
        adamw_lr: float = 0.003,
        weight_decay: float = 0.1,
        shift: float = 4.0,
        ce_weight: float = 0.5,
        drop_text: float = 0.1,
        drop_pictures: float = 0.1,
        drop_view: float = 0.1,
        decay: float = 0.8,
        seed: int = 0,
        compiled: bool = False,
        muon_dtype: torch.dtype = torch.float32,
        align: bool = False,
        align_weight: float = 0.5,
        aligned: int | None = None,
        learns: str = "all",
    ):
        super().__init__()
        self.draws, self.talks = LEARNS[learns]
        model.requires_grad_(False)
        for module in (
            *(model.generation_branch() if self.draws else ()),
            *(read_by(model, learns) if self.talks else ()),
        ):
            module.requires_grad_(True)
        self.model, self.compiled, self.muon_dtype = model, compiled, muon_dtype
        self.total, self.lr, self.adamw_lr, self.weight_decay, self.decay = total, lr, adamw_lr, weight_decay, decay
        self.shift, self.ce_weight, self.seed = shift, ce_weight, seed
        self.drop_text, self.drop_pictures, self.drop_view = drop_text, drop_pictures, drop_view
        self.align_weight = align_weight
        self.aligned = aligned or max(1, model.config.llm.num_hidden_layers // 3)  # REPA: about a third of the way up
        width, eyes = model.config.llm.hidden_size, model.config.vision.hidden_size
        self.align = None
        if align and self.draws:  # not without eyes: DDP does not like weights that are never used
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                self.align = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, eyes))

    def on_train_start(self):
        self.model.compiled = self.compiled

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        generator = seeded_generator(self.seed, self.global_step, self.global_rank)
        terms = {}
        if self.draws:
            losses = dict(draw=self.draw_loss, edit=self.edit_loss)
            # a pool of one's own pictures may hold captions alone, or edits alone
            done = {task: loss(batch, generator) for task, loss in losses.items() if len(batch[f"{task}_ids"])}
            terms |= {task: error for task, (error, _) in done.items()}
            terms["unlike"] = sum(unlike for _, unlike in done.values())
        if self.talks:
            terms["ce"] = self.dialogue_loss(batch)
        self.log_dict(terms, prog_bar=True)
        weights = dict(ce=self.ce_weight, unlike=self.align_weight)
        return sum(weights.get(name, 1.0) * term for name, term in terms.items())

    def _kept(self, n: int, dropped: float, generator) -> Tensor:
        return (torch.rand(n, generator=generator) >= dropped).to(self.device)

    def _text(self, ids: Tensor, length: Tensor, keep: Tensor | None = None) -> TextSplit:
        length, ids = length.long(), ids.long()
        if not self.compiled:  # a compiled layer wants the same shape every step, an eager one the shortest
            ids = ids[:, : int(length.max())]
        return TextSplit(ids, length if keep is None else length * keep)

    def _noised(self, latent: Tensor, grid: tuple[int, int], generator) -> tuple[list[ImageSplit], Tensor]:
        """Noise splits for clean tokens [B, copies, n, values], and their velocity targets in the same shape."""
        t = torch.randn(latent.shape[:2], generator=generator)
        t = shift_time(torch.sigmoid(t), self.shift).to(latent)
        eps = noise_like(latent, generator)
        x = interpolate(latent.flatten(0, 1), eps.flatten(0, 1), t.flatten()).unflatten(0, t.shape)
        keep = torch.ones(len(latent), dtype=torch.bool, device=latent.device)
        splits = [ImageSplit("noise", x[:, i], keep, t[:, i], grid) for i in range(latent.size(1))]
        return splits, velocity_of(latent, eps)

    def tokens(self, latent: Tensor) -> Tensor:
        """Stored latents [..., C, h, w] to tokens [..., n, values] in float32."""
        lead = latent.shape[:-3]
        return patchify(latent.flatten(0, -4).float(), self.model.config.latent_patch).unflatten(0, lead)

    def grid(self, latent: Tensor) -> tuple[int, int]:
        """Rows and columns of tokens of stored latents [..., C, h, w]."""
        return tuple(side // self.model.config.latent_patch for side in latent.shape[-2:])

    def view(self, picture: Tensor, keep: Tensor) -> ImageSplit:
        """Stored pictures, uint8 [B, H, W, 3], as the vision tower reads them: patches of pixels in [-1, 1]."""
        pixels, patch = picture.movedim(-1, 1).float() / 127.5 - 1, self.model.config.vision.patch_size
        return ImageSplit("vit", patchify(pixels, patch), keep, None, tuple(s // patch for s in picture.shape[1:3]))

    def unlike(self, trace: list[Tensor], seen: Tensor) -> Tensor:
        """1 - mean cosine between what the last tokens of a layer say, projected, and `seen` [B, copies, n, eyes]."""
        if self.align is None:
            return seen.new_zeros((), dtype=torch.float32)
        state = trace[self.aligned][:, -seen.size(1) * seen.size(2) :]
        said = self.align(state).float().unflatten(1, seen.shape[1:3])
        return 1 - F.cosine_similarity(said, seen.float(), dim=-1).mean()

    def draw_loss(self, batch, generator) -> tuple[Tensor, Tensor]:
        """Mean squared error of velocities, and `unlike`."""
        latent = self.tokens(batch["draw_latent"])
        text = self._text(batch["draw_ids"], batch["draw_length"], self._kept(len(latent), self.drop_text, generator))
        noised, target = self._noised(latent, self.grid(batch["draw_latent"]), generator)
        trace: list[Tensor] = []
        said = self.model([text, *noised], trace)[1:]
        return F.mse_loss(torch.stack(said, 1).float(), target), self.unlike(trace, batch["draw_features"])

    def edit_loss(self, batch, generator) -> tuple[Tensor, Tensor]:
        """Mean squared error of velocities, and `unlike`."""
        before, after = self.tokens(batch["scene_latent"]), self.tokens(batch["edit_latent"])
        n = len(before)
        pictures = self._kept(n, self.drop_pictures, generator)
        view = pictures & self._kept(n, self.drop_view, generator)
        text = self._text(batch["edit_ids"], batch["edit_length"], self._kept(n, self.drop_text, generator))
        grid = self.grid(batch["edit_latent"])
        noised, target = self._noised(after[:, None].expand(-1, self.copies, -1, -1).contiguous(), grid, generator)
        condition = [ImageSplit("vae", before, pictures, None, grid), self.view(batch["scene_picture"], view)]
        trace: list[Tensor] = []
        said = self.model([*condition, text, *noised], trace)[3:]
        seen = batch["edit_features"][:, None].expand(-1, self.copies, -1, -1)
        return F.mse_loss(torch.stack(said, 1).float(), target), self.unlike(trace, seen)

    copies = 3  # noises of one edit in one step

    def dialogue_loss(self, batch) -> Tensor:
        keep = torch.ones(len(batch["dialogue_ids"]), dtype=torch.bool, device=self.device)
        picture = self.view(batch["dialogue_picture"], keep)
        text = self._text(batch["dialogue_ids"], batch["dialogue_length"])
        hidden = self.model([picture, text])[1][:, :-1]
        wanted = batch["dialogue_answer"][:, : hidden.size(1)]
        logits = self.model.logits(hidden[wanted])
        errors = F.cross_entropy(logits.float(), text.ids[:, 1:][wanted], reduction="none")
        weight = shared_out(wanted)[wanted]
        return (errors * weight).sum() / weight.sum()

    def configure_optimizers(self):
        groups = split_parameters(self, muon_lr=self.lr, adamw_lr=self.adamw_lr, weight_decay=self.weight_decay)
        optimizer = MuonAdamW(groups, self.muon_dtype)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda i: warmup_constant_decay(i, total=self.total, decay=self.decay)
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def read_by(model: Bagel, learns: str) -> tuple[nn.Module, ...]:
    """What a run that answers trains: the understanding branch, or with "answers" what lies between the last layer's keys
    and values and the logits. A drawing reads a prompt, and an edit a picture, by keys and values alone, so that no
    picture changes then."""
    if learns != "answers":
        return model.understanding_branch()
    expert = model.mot.understanding
    last = expert.layers[-1]
    return last.q_proj, last.q_norm, last.o_proj, last.mlp_norm, last.mlp, expert.norm, model.lm_head


def shared_out(wanted: Tensor) -> Tensor:
    """Weights [B, n] of tokens, 1 / sqrt(length of the answer) for those that `wanted` [B, n] marks; a gap ends an
    answer.

    Token by token, a description outweighs thirty answers of yes or no, and these are what is hard.
    """
    begins = wanted & ~F.pad(wanted, (1, 0))[:, :-1]
    which = begins.cumsum(1) * wanted  # 0 outside, then 1, 2, ... in each row
    length = wanted.new_zeros(*wanted.shape[:1], wanted.size(1) + 1, dtype=torch.float32)
    length.scatter_add_(1, which, wanted.float())
    return wanted / length.gather(1, which).clamp(min=1).sqrt()


# ---- the two runs, as `hb train` starts them ------------------------------------------------------------------------


def precision_of(name: str) -> str:
    """Lightning's name for a precision; "auto" takes bfloat16 where the processor has units for it."""
    if name != "auto":
        return {"bf16": "bf16-mixed", "f32": "32-true"}[name]
    return "bf16-mixed" if _has_fast_bfloat16() else "32-true"


def _has_fast_bfloat16() -> bool:
    """CUDA, or a CPU on which a bfloat16 product is measurably faster than a float32 one: many emulate it, slowly."""
    if torch.cuda.is_available():
        return True
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.ones(1024, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
        a @ b
        began = time.perf_counter()
        for _ in range(10):
            a @ b
        seconds[dtype] = time.perf_counter() - began
    return seconds[torch.bfloat16] < seconds[torch.float32]


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
    pictures = pictures or partial(world_pictures, config.picture_side, seed)
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
    data = StepData(lambda step, rank: pictures(batch, step, rank), steps)
    # no averaged weights: the last, slowed-down steps of the schedule do better than any average over fast ones
    sheet = AutoencoderSheet(folder, side, pictures)
    fit(module, data, folder, ema=None, precision=precision_of(precision), callbacks=(sheet,), **trainer)
    if decoder_only:
        start_from.load_state_dict(module.autoencoder.cpu().state_dict())
        return start_from.eval()
    return normalized(module.autoencoder, pictures(1024, steps, 0))


def train_tiny_decoder(
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
    """Train a tiny decoder for an autoencoder's latents in `folder` (resumes there).

    noise: see AutoencoderTraining; thin: see random_pictures; start_from: weights to begin with. Its settler, if it has
    one, stays as it is, to the last bit: what comes after learns to paint what it has settled.
    """
    module = AutoencoderTraining(autoencoder.config, total=steps, lr=lr, seed=seed, decoder_only=True, noise=noise)
    module.autoencoder.load_state_dict(autoencoder.state_dict())
    config = (
        PixelDecoderConfig(**start_from.config)
        if start_from is not None
        else PixelDecoderConfig(autoencoder.config.z_channels)
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module.autoencoder.decoder = PixelDecoder(config).to(memory_format=torch.channels_last)
    if start_from is not None:
        module.autoencoder.decoder.load_state_dict(start_from.weights)
        for settled in module.autoencoder.decoder.settle.parameters() if config.settler else ():
            settled.requires_grad_(False)
    thinned = pictures or (lambda n, step, rank: random_pictures(n, side, seed, step, rank, thin))
    data = StepData(lambda step, rank: thinned(batch, step, rank), steps)
    sheet = AutoencoderSheet(folder, side, pictures)
    fit(module, data, folder, ema=None, precision=precision_of(precision), callbacks=(sheet,), **trainer)
    weights = {k: v.detach().cpu() for k, v in module.autoencoder.decoder.state_dict().items()}
    return PixelDecoderCheckpoint(
        asdict(config) | dict(widths=list(config.widths)), fingerprint(autoencoder.encoder), {}, weights
    )


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


def pool_for(
    autoencoder: Autoencoder,
    text: Text,
    path: Path,
    *,
    side: int,
    prompts: int,
    scenes: int,
    seed: int = 0,
    precision: str = "auto",
    device: str = "cpu",
    eyes: VisionTower | None = None,
    square: int | None = None,
    mix: Mapping[str, float] = DRAW_MIX,
    own: OwnPictures | None = None,
) -> Pool:
    """The pool at `path`, made first if it is not there or was made of something else; with eyes, what they see is in
    it, a feature for each square of so many pixels. mix: see `make_pool`. own: in the place of the tiny world, of which
    `prompts`, `scenes` and `mix` speak."""
    path = Path(path)
    # not precision, which "auto" finds by timing: a run that goes on must find its pool
    pictures = dict(
        encoder=fingerprint(autoencoder.encoder),
        scale=autoencoder.config.scale_factor,
        shift=autoencoder.config.shift_factor,
        eyes=eyes and fingerprint(eyes),
        square=square,
        side=side,
    )
    made_of = pictures | dict(tokenizer=text.fingerprint(), prompts=prompts, scenes=scenes, seed=seed, mix=dict(mix))
    made_of["data"] = own and own.fingerprint()
    if path.exists():
        complaint = _what_differs(Pool.made_of(path), made_of)
        if complaint is None:
            return Pool.load(path)
        print(f"{path.name} {complaint}: it is made anew", file=sys.stderr)
    autoencoder = autoencoder.to(device).eval()
    fast = precision_of(precision) == "bf16-mixed"
    generator = seeded_generator(seed, 11)
    workers = (
        0 if device == "cpu" else min(12, (os.cpu_count() or 1) - 1)
    )  # on a CPU encoding takes what cores there are

    @torch.no_grad()
    def encode(pictures: Tensor) -> Tensor:
        out = []
        for part in pictures.split(128 if device == "cpu" else 1024):
            part = (part * 2 - 1).to(device, memory_format=torch.channels_last)
            with torch.autocast(device, torch.bfloat16, enabled=fast):
                out.append(autoencoder.encode(part, generator).float().cpu())
        return torch.cat(out)

    @torch.no_grad()
    def see(pictures: Tensor) -> Tensor:
        return torch.cat([seen_by(eyes, part * 2 - 1, square) for part in pictures.split(128)])

    world = dict(side=side, prompts=prompts, scenes=scenes, seed=seed, workers=workers, mix=mix)
    pool = own.pool(encode, text, see=eyes and see) if own else make_pool(encode, text, see=eyes and see, **world)
    pool.save(path, made_of)
    return pool


def _what_differs(found: dict | None, wanted: dict) -> str | None:
    """The first thing, in words."""
    if found is None:
        return "does not say what it was made of"
    return next(
        (f"was made with {k} {found.get(k)}, not {wanted[k]}" for k in wanted if found.get(k) != wanted[k]), None
    )


def seen_by(eyes: VisionTower, pictures: Tensor, square: int) -> Tensor:
    """Features of pictures in [-1, 1], the mean over each square of so many pixels: [B, squares, width], row by row."""
    patch, sides = eyes.config.patch_size, pictures.shape[-2:]
    grid = tuple(side // patch for side in sides)
    seen = eyes(patchify(pictures, patch), table_rows(*grid, eyes.config.side)).mT.unflatten(-1, grid)
    return F.adaptive_avg_pool2d(seen, tuple(side // square for side in sides)).flatten(-2).mT


def train_teacher(
    folder: Path,
    config: BagelConfig,
    autoencoder: Autoencoder,
    text: Text,
    *,
    steps: int,
    prompts: int = 40_000,
    scenes: int = 40_000,
    sizes: BatchSizes = BatchSizes(),
    seed: int = 0,
    precision: str = "auto",
    ema: float = 0.995,
    start_from: Path | None = None,
    eyes: VisionTower | None = None,
    mix: Mapping[str, float] = DRAW_MIX,
    own: OwnPictures | None = None,
    settings: dict | None = None,
    **trainer,
) -> Bagel:
    """Train the unified model on a pool of latents, in `folder` (resumes there); returns it with averaged weights.

    mix: shares of the tasks among the prompts that are drawn, see `make_pool`. own: in the place of the tiny world.

    start_from: a model folder whose weights to begin with, for a run that goes on from a shipped checkpoint.
    eyes: a schooled vision tower (hb.train.vision), which the model keeps as it is and which says what there is to see.
    BAGEL goes on training its tower; ours would forget.
    """
    markers = (text.start, text.end, text.vision_start, text.vision_end)
    model = Bagel(replace(config, autoencoder=autoencoder.config), markers, autoencoder)
    initialize(model, torch.Generator().manual_seed(seed))
    if start_from is not None:
        begin_from(model, load_model(start_from)[0])
    if eyes is not None:
        model.vit_model.load_state_dict(eyes.state_dict())
        # and they stay: with the trunk's rate and weight decay, 500 steps took what they knew of shapes from 97% to 47%
        model.vit_model.requires_grad_(False)
    side, pool = config.picture_side, None
    if sizes.draw or sizes.edit:
        where = working_device(**trainer)
        pool = pool_for(
            autoencoder,
            text,
            Path(folder) / "pool.safetensors",
            side=side,
            prompts=prompts,
            scenes=scenes,
            seed=seed,
            precision=precision,
            device=where,
            eyes=eyes,
            square=config.token_pixels,
            mix=mix,
            own=own,
        ).to(where)
        sizes = sizes.fitting(pool)

    dialogues = partial(own.dialogues, text) if own else partial(write_dialogues, text, side)

    def examples(step: int, rank: int) -> dict[str, Tensor]:
        drawn = pick(pool, sizes, seed, step, rank) if pool else {}
        return drawn | (dialogues(sizes.dialogue, seed, step, rank) if sizes.dialogue else {})

    precision = precision_of(precision)
    settings = dict(compiled=worth_compiling(steps), align=eyes is not None) | (settings or {})
    module = TeacherTraining(model, total=steps, seed=seed, muon_dtype=muon_dtype_of(precision), **settings)
    data = StepData(examples, steps)
    kept = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    sheets = (TeacherSheet(folder, text, own=own),) if module.draws else ()
    fit(module, data, folder, ema=ema, precision=precision, callbacks=sheets, **trainer)
    model.load_state_dict(kept, strict=False)  # an average of equal weights is equal up to rounding only
    return model


def begin_from(model: Bagel, begun: Bagel) -> None:
    """Give `model` the weights of one for other latents, or for other tokens of the same latents.

    With another number of channels the first and last layers stay fresh. With smaller tokens, each begins as the mean
    of what the large token held in its places (one place for four: what comes in is divided by two and not by four,
    since what four places add up to grows with the root of their number), and the table of places stays fresh.
    """
    fresh, begin = model.state_dict(), dict(begun.state_dict())
    now, then = model.config, begun.config
    if then.autoencoder.z_channels != now.autoencoder.z_channels:
        begin |= {k: fresh[k] for k in ("latent.input.weight", "latent.output.weight", "latent.output.bias")}
    elif (places := then.latent_patch**2) > 1 == now.latent_patch:
        begin["latent.input.weight"] = begin["latent.input.weight"].unflatten(1, (places, -1)).sum(1) / places**0.5
        for name in ("latent.output.weight", "latent.output.bias"):
            begin[name] = begin[name].unflatten(0, (places, -1)).mean(0)
    if then.latent_side != now.latent_side:
        begin["latent_pos_embed.pos_embed"] = fresh["latent_pos_embed.pos_embed"]
    other = [k for k, w in fresh.items() if k not in begin or begin[k].shape != w.shape]
    if other:
        raise ValueError(
            f"the model to start from is of another size than the one to be trained ({other[0]} does not fit); "
            "choose its own --preset, or another --start-from"
        )
    model.load_state_dict(begin)


def provenance(folder: Path, command: str, **facts) -> dict:
    """Where a checkpoint came from: command, commit, machine, and the run's own log condensed."""
    rows = read_rows(Path(folder) / "log.jsonl")
    curve = rows[:: max(1, len(rows) // 40)] + rows[-1:]
    return dict(
        command=command,
        commit=commit(),
        machine=machine(),
        date=time.strftime("%Y-%m-%d"),
        torch=torch.__version__,
        steps=rows[-1]["step"] if rows else 0,
        curve=curve,
        **facts,
    )
