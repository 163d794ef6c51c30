"""Training the teacher: the unified model on latents, to draw, edit and answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hb.data.batches import BatchSizes, pick
from hb.data.dialogues import write_dialogues
from hb.data.mixes import DRAW_MIX
from hb.data.own_pictures import OwnPictures
from hb.flow import interpolate, shift_time, velocity_of
from hb.models.autoencoder import Autoencoder
from hb.models.bagel import Bagel
from hb.models.checkpoint import load_model
from hb.models.config import BagelConfig
from hb.models.initialize import initialize
from hb.models.roles import adamw
from hb.models.sequence import ImageSplit, TextSplit
from hb.models.tokenizer import Text
from hb.models.vision import VisionTower, patchify
from hb.pictures import from_uint8
from hb.seeding import noise_like, seeded_generator
from hb.train.optim import (
    MuonAdamW,
    Training,
    muon_dtype_of,
    parameter_groups,
    refuse_not_finite,
    scheduled,
    warmup_constant_decay,
)
from hb.train.pools import pool_for
from hb.train.retained import Retained
from hb.train.sheets import TeacherSheet
from hb.train.trainer import StepData, fit, mean_over_processes, precision_of, working_device, worth_compiling

# what is trained: the branch that draws, the branch that answers; see TeacherSettings
LEARNS = dict(all=(True, True), understanding=(False, True), answers=(False, True), drawing=(True, False))


@dataclass(frozen=True)
class TeacherSettings:
    """How the teacher is trained.

    lr, adamw_lr   rates of Muon and of AdamW
    weight_decay   Muon's matrices can grow to a spectral norm of 1 / weight_decay. At 0.01 the residual stream had
                   reached 200 after 1,560 steps, and what a layer added to it was next to nothing
    decay          the share of the run over which the rate falls to zero. While it is high, what is not renewed within
                   1 / (lr * weight_decay) steps is forgotten, and fine things are learned only as it falls
    shift          of the times, 4 as in BAGEL's later stages. What a drawing will be is decided early, above t = 0.8,
                   and at a shift of 2 only one picture in four was noised that far
    ce_weight      weight of the cross-entropy of answers
    drop_text, drop_pictures, drop_view   probabilities of dropping a condition, for guidance: the text of a drawing or
                   an edit; both readings of an edit's picture, as the image-dropped branch of the sampler has it; the
                   vision encoder's reading alone
    align_weight, aligned_layer   of the alignment loss, see `TeacherTraining`; None: a third of the way up (REPA)
    learns         "all", or one of the two branches alone while the other stays as it is (LMFusion: Shi et al. 2024,
                   arXiv 2412.15188, trains the drawing branch beside a frozen language model). "understanding" answers
                   only; "drawing" draws and edits, and whatever was made for the understanding branch, a draft for one,
                   stays valid (`hb.infer.artifacts.understanding_fingerprint`). "answers": of the understanding branch
                   what no drawing reads (`answering_modules`), so that pictures stay as they are, to the last bit
    """

    lr: float = 0.02
    adamw_lr: float = 0.003
    weight_decay: float = 0.1
    decay: float = 0.8
    shift: float = 4.0
    ce_weight: float = 0.5
    drop_text: float = 0.1
    drop_pictures: float = 0.1
    drop_view: float = 0.1
    align_weight: float = 0.5
    aligned_layer: int | None = None
    learns: str = "all"

    def __post_init__(self):
        refuse_not_finite(learning_rate=self.lr, adamw_lr=self.adamw_lr, weight_decay=self.weight_decay)
        if self.learns not in LEARNS:
            raise ValueError(f"a teacher cannot be trained on {self.learns!r}; choose from {', '.join(LEARNS)}")


class TeacherTraining(Training):
    """The unified model learns to draw, edit and answer, all in one step (BAGEL section 2; bagel.md section 10).

    loss = draw_mse + edit_mse + ce_weight * ce, ce weighted as in `answer_weights`. Velocity targets are eps - x0 at
    t = shift(sigmoid(normal)).

    With a pretrained vision encoder (hb.train.vision) a fourth term, the alignment loss (REPA: Yu et al. 2024, arXiv
    2410.06940, equation 2: minus the mean cosine): a small projection, which is thrown away later, of the generation
    tokens' hidden states after layer `aligned` is aligned with the encoder's features of the finished picture. It is
    not in BAGEL; it is meant to make little training go further, not yet measured.

    Differs from BAGEL: one prefix carries several noise splits (other pictures of the same prompt, or other noises of
    the same edit). They cannot see each other, so this is the same loss for less work. BAGEL drops every split on its
    own with probabilities 0.1 (text), 0.3 (ViT), 0.3 (VAE).
    """

    copies = 3  # noises of one edit in one step

    def __init__(
        self,
        model: Bagel,
        *,
        total: int,
        seed: int = 0,
        compiled: bool = False,
        muon_dtype: torch.dtype = torch.float32,
        align: bool = False,
        retained: Retained | None = None,
        settings: TeacherSettings = TeacherSettings(),
    ):
        super().__init__()
        self.__dict__["retained"] = retained  # used and not trained
        self.model, self.total, self.seed, self.settings = model, total, seed, settings
        self.compiled, self.muon_dtype = compiled, muon_dtype
        self.draws, self.answers = LEARNS[settings.learns]
        freeze_others(model, settings.learns)
        width, layers = model.config.llm.hidden_size, model.config.llm.num_hidden_layers
        self.aligned = settings.aligned_layer or max(1, layers // 3)
        self.align = None
        if align and self.draws:  # not without an encoder: DDP refuses weights that are never used
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                last = adamw(nn.Linear(2 * width, model.config.vision.hidden_size))
                self.align = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), last)

    def on_train_start(self):
        self.model.compiled = self.compiled
        if self.retained is not None:
            self.retained.model.to(self.device)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        generator = seeded_generator(self.seed, self.global_step, self.global_rank)
        terms = {}
        if self.draws:
            losses = dict(draw=self.draw_loss, edit=self.edit_loss)
            # a pool of one's own pictures may hold captions alone, or edits alone
            done = {task: loss(batch, generator) for task, loss in losses.items() if len(batch[f"{task}_ids"])}
            terms |= {task: error for task, (error, _) in done.items()}
            terms["align"] = sum(align for _, align in done.values())
        if self.answers:
            terms["ce"] = self.dialogue_loss(batch)
        self.log_dict(terms, prog_bar=True)
        weights = dict(ce=self.settings.ce_weight, align=self.settings.align_weight)
        return sum(weights.get(name, 1.0) * term for name, term in terms.items())

    # ---- what is read -----------------------------------------------------------------------------------------------

    def _kept(self, n: int, dropped: float, generator) -> Tensor:
        return (torch.rand(n, generator=generator) >= dropped).to(self.device)

    def _text(self, ids: Tensor, length: Tensor, keep: Tensor | None = None) -> TextSplit:
        length, ids = length.int(), ids.int()
        if not self.compiled:  # a compiled layer needs the same shape every step, any other is faster with the shortest
            ids = ids[:, : int(length.max())]
        return TextSplit(ids, length if keep is None else length * keep)

    def _latent(self, latent: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Stored latents [..., C, h, w] as tokens [..., n, values] in float32, and their grid."""
        patch, lead = self.model.config.latent_patch, latent.shape[:-3]
        rows, columns = (size // patch for size in latent.shape[-2:])
        return patchify(latent.flatten(0, -4).float(), patch).unflatten(0, lead), (rows, columns)

    def _view(self, picture: Tensor, keep: Tensor) -> ImageSplit:
        """Stored pictures, uint8 [B, H, W, 3], as the vision encoder reads them: patches of pixels in [-1, 1]."""
        patch = self.model.config.vision.patch_size
        pixels = from_uint8(picture)
        rows, columns = (size // patch for size in pixels.shape[-2:])
        return ImageSplit("vit", patchify(pixels, patch), keep, grid=(rows, columns))

    def _noised(self, latent: Tensor, grid: tuple[int, int], generator) -> tuple[list[ImageSplit], Tensor]:
        """Noise splits for clean tokens [B, copies, n, values], and their velocity targets in the same shape."""
        t = torch.randn(latent.shape[:2], generator=generator)
        t = shift_time(torch.sigmoid(t), self.settings.shift).to(latent)
        eps = noise_like(latent, generator)
        x = interpolate(latent.flatten(0, 1), eps.flatten(0, 1), t.flatten()).unflatten(0, t.shape)
        keep = torch.ones(len(latent), dtype=torch.bool, device=latent.device)
        splits = [ImageSplit("noise", x[:, i], keep, t[:, i], grid) for i in range(latent.size(1))]
        return splits, velocity_of(latent, eps)

    # ---- losses -----------------------------------------------------------------------------------------------------

    def alignment_loss(self, states: list[Tensor], features: Tensor) -> Tensor:
        """1 - mean cosine between the projected hidden states of the last tokens and `features` [B, copies, n, width];
        states: after each layer."""
        if self.align is None:
            return features.new_zeros((), dtype=torch.float32)
        state = states[self.aligned][:, -features.size(1) * features.size(2) :]
        output = self.align(state).float().unflatten(1, features.shape[1:3])
        return 1 - F.cosine_similarity(output, features.float(), dim=-1).mean()

    def draw_loss(self, batch, generator) -> tuple[Tensor, Tensor]:
        """Mean squared error of velocities, and the alignment loss."""
        latent, grid = self._latent(batch["draw_latent"])
        keep = self._kept(len(latent), self.settings.drop_text, generator)
        text = self._text(batch["draw_ids"], batch["draw_length"], keep)
        noised, target = self._noised(latent, grid, generator)
        states: list[Tensor] = []
        output = self.model([text, *noised], states)[1:]
        if self.retained is not None:
            target = self.retained.targets(target, self.retained.prompts(batch["draw_record"]), [text, *noised])
        error = F.mse_loss(torch.stack(output, 1).float(), target)
        return error, self.alignment_loss(states, batch["draw_features"])

    def edit_loss(self, batch, generator) -> tuple[Tensor, Tensor]:
        """Mean squared error of velocities, and the alignment loss."""
        (before, grid), (after, after_grid) = (self._latent(batch[f"{name}_latent"]) for name in ("scene", "edit"))
        n = len(before)
        pictures = self._kept(n, self.settings.drop_pictures, generator)
        view = pictures & self._kept(n, self.settings.drop_view, generator)
        keep = self._kept(n, self.settings.drop_text, generator)
        text = self._text(batch["edit_ids"], batch["edit_length"], keep)
        copies = after[:, None].expand(-1, self.copies, -1, -1).contiguous()
        noised, target = self._noised(copies, after_grid, generator)
        condition = [ImageSplit("vae", before, pictures, grid=grid), self._view(batch["scene_picture"], view)]
        states: list[Tensor] = []
        output = self.model([*condition, text, *noised], states)[3:]
        if self.retained is not None:
            target = self.retained.targets(target, torch.ones(n, dtype=torch.bool), [*condition, text, *noised])
        features = batch["edit_features"][:, None].expand(-1, self.copies, -1, -1)
        error = F.mse_loss(torch.stack(output, 1).float(), target)
        return error, self.alignment_loss(states, features)

    def dialogue_loss(self, batch) -> Tensor:
        """Cross-entropy of the answers' tokens, weighted. The weights of all processes are summed, or the tokens of one
        with few would count for more."""
        shown = torch.ones(len(batch["dialogue_ids"]), dtype=torch.bool, device=self.device)
        text = self._text(batch["dialogue_ids"], batch["dialogue_length"])
        hidden = self.model([self._view(batch["dialogue_picture"], shown), text])[1][:, :-1]
        answer = batch["dialogue_answer"][:, : hidden.size(1)]
        logits = self.model.logits(hidden[answer])
        errors = F.cross_entropy(logits.float(), text.ids[:, 1:][answer].long(), reduction="none")
        weight = answer_weights(answer)[answer]
        return (errors * weight).sum() / mean_over_processes(weight.sum())

    def configure_optimizers(self):
        own = self.settings
        groups = parameter_groups(
            self, muon_lr=own.lr, adamw_lr=own.adamw_lr, weight_decay=own.weight_decay, roles=self.roles
        )
        rate = lambda i: warmup_constant_decay(i, total=self.total, decay=own.decay)
        return scheduled(MuonAdamW(groups, self.muon_dtype), rate)


def freeze_others(model: Bagel, learns: str) -> None:
    """Weights that a run with this choice of LEARNS does not train get no gradient."""
    draws, answers = LEARNS[learns]
    reads = answering_modules(model) if learns == "answers" else model.understanding_branch()
    trained = (*(model.generation_branch() if draws else ()), *(reads if answers else ()))
    kept = {id(p) for module in trained for p in module.parameters() if p.requires_grad}
    for p in model.parameters():
        p.requires_grad_(id(p) in kept)


def answering_modules(model: Bagel) -> tuple[nn.Module, ...]:
    """What lies between the last layer's keys and values and the logits. No picture depends on it: a drawing reads a
    prompt, and an edit a picture, by keys and values alone."""
    expert = model.mot.understanding
    last = expert.layers[-1]
    return last.q_proj, last.q_norm, last.o_proj, last.mlp_norm, last.mlp, expert.norm, model.lm_head


def answer_weights(answer: Tensor) -> Tensor:
    """Weights [B, n] of tokens, 1 / sqrt(length of the answer) for those that `answer` [B, n] marks; a gap ends an
    answer.

    Token by token, a description outweighs thirty answers of yes or no, and these are what is hard.
    """
    begins = answer & ~F.pad(answer, (1, 0))[:, :-1]
    which = begins.cumsum(1) * answer  # 0 outside, then 1, 2, ... in each row
    length = answer.new_zeros(*answer.shape[:1], answer.size(1) + 1, dtype=torch.float32)
    length.scatter_add_(1, which, answer.float())
    return answer / length.gather(1, which).clamp(min=1).sqrt()


# ---- the run --------------------------------------------------------------------------------------------------------


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
    retain: Path | None = None,
    vision_encoder: VisionTower | None = None,
    mix: Mapping[str, float] = DRAW_MIX,
    own: OwnPictures | None = None,
    settings: TeacherSettings = TeacherSettings(),
    compiled: bool | None = None,
    callbacks=(),
    **trainer,
) -> Bagel:
    """Train the unified model on a pool of latents, in `folder` (resumes there); returns it with averaged weights.

    mix              shares of the tasks among the prompts that are drawn, see `make_pool`
    own              pictures of one's own, in the place of the tiny world
    start_from       a model folder whose weights to begin with, for a run that goes on from a shipped checkpoint
    retain           a model folder whose velocities are the targets where they are right, see `Retained`
    vision_encoder   a pretrained one (hb.train.vision), which the model keeps as it is and whose features the alignment
                     loss uses. BAGEL goes on training its encoder; ours would forget
    compiled         None: where a run is long enough for it
    """
    model = begun_model(config, autoencoder, text, seed, start_from, vision_encoder)
    side, pool = config.picture_side, None
    if sizes.draw or sizes.edit:
        where = working_device(**trainer)
        made_of = dict(prompts=prompts, scenes=scenes, seed=seed, mix=mix, own=own)
        seen = dict(vision_encoder=vision_encoder, square=config.token_pixels)
        path = Path(folder) / "pool.safetensors"
        pool = pool_for(autoencoder, text, path, side=side, precision=precision, device=where, **made_of, **seen)
        pool, sizes = pool.to(where), sizes.fitting(pool)
    dialogues = partial(own.dialogues, text) if own else partial(write_dialogues, text, side)

    def examples(step: int, rank: int) -> dict[str, Tensor]:
        drawn = pick(pool, sizes, seed, step, rank) if pool else {}
        return drawn | (dialogues(sizes.dialogue, seed, step, rank) if sizes.dialogue else {})

    precision = precision_of(precision)
    module = TeacherTraining(
        model,
        total=steps,
        seed=seed,
        compiled=worth_compiling(steps) if compiled is None else compiled,
        muon_dtype=muon_dtype_of(precision),
        align=vision_encoder is not None,
        retained=retain and Retained.beside(model, retain),
        settings=settings,
    )
    kept = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    sheets = (TeacherSheet(folder, text, own=own),) if module.draws else ()
    data = StepData(examples, steps)
    fit(module, data, folder, ema=ema, precision=precision, callbacks=(*sheets, *callbacks), **trainer)
    model.load_state_dict(kept, strict=False)  # an average of equal weights is equal up to rounding only
    return model


def begun_model(
    config: BagelConfig,
    autoencoder: Autoencoder,
    text: Text,
    seed: int,
    start_from: Path | None = None,
    vision_encoder: VisionTower | None = None,
) -> Bagel:
    """The model as its training begins. A pretrained vision encoder is put in place and frozen."""
    markers = (text.start, text.end, text.vision_start, text.vision_end)
    model = Bagel(replace(config, autoencoder=autoencoder.config), markers, autoencoder)
    initialize(model, torch.Generator().manual_seed(seed))
    if start_from is not None:
        begin_from(model, load_model(start_from)[0])
    if vision_encoder is not None:
        model.vit_model.load_state_dict(vision_encoder.state_dict())
        # frozen: with the trunk's rate and weight decay, 500 steps took its accuracy on shapes from 97% to 47%
        model.vit_model.requires_grad_(False)
    return model


def begin_from(model: Bagel, begun: Bagel) -> None:
    """Give `model` the weights of one for other latents, or for other tokens of the same latents.

    With another number of channels the first and last layers stay fresh. With smaller tokens, each begins as the mean
    of what the large token held in its positions (one place for four: what comes in is divided by two and not by four,
    since what four positions add up to grows with the root of their number), and the table of positions stays fresh.
    """
    fresh, begin = model.state_dict(), dict(begun.state_dict())
    now, then = model.config, begun.config
    if then.autoencoder.z_channels != now.autoencoder.z_channels:
        begin |= {k: fresh[k] for k in ("latent.input.weight", "latent.output.weight", "latent.output.bias")}
    elif (positions := then.latent_patch**2) > 1 == now.latent_patch:
        begin["latent.input.weight"] = (
            begin["latent.input.weight"].unflatten(1, (positions, -1)).sum(1) / positions**0.5
        )
        for name in ("latent.output.weight", "latent.output.bias"):
            begin[name] = begin[name].unflatten(0, (positions, -1)).mean(0)
    if then.latent_side != now.latent_side:
        begin["latent_pos_embed.pos_embed"] = fresh["latent_pos_embed.pos_embed"]
    other = [k for k, w in fresh.items() if k not in begin or begin[k].shape != w.shape]
    if other:
        raise ValueError(
            f"the model to start from is of another size than the one to be trained ({other[0]} does not fit); "
            "choose its own --preset, or another --start-from"
        )
    model.load_state_dict(begin)
