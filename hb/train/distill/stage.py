"""The rules of the game: a stage is a list of turns, each moves one network and no other (house.md, principle 9)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import lightning as L
import torch
from torch import Tensor, nn

from hb.guidance import Guidance, combine_each
from hb.models.bagel import Bagel
from hb.models.conditioning import StudentModel
from hb.seeding import seeded_generator
from hb.train.distill.batch import Round, read_round
from hb.train.optim import MuonAdamW, split_parameters
from hb.train.trainer import warmup_constant_decay


class Diverged(ValueError):  # what the command line says as a sentence
    """A run that cannot be saved by going on."""


def diverged(step: int, what: str) -> Diverged:
    """In words, with the way out."""
    return Diverged(
        f"diverged at step {step}: {what}. Go on from the last checkpoint, if one was saved, with a smaller --lr, or begin again "
        "with --fresh"
    )


@dataclass(frozen=True)
class Turn:
    """One network's move: whose weights may change, what they are asked to lower, how often.

    every    plays in each `every`-th step (DMD2 lets the student move once in five)
    times    and then so many times, each time on new draws
    begins   the first step it plays in: a judge may need to learn what it judges first
    """

    name: str
    module: nn.Module
    loss: Callable[[object, torch.Generator], Tensor]
    optimizer: torch.optim.Optimizer
    every: int = 1
    times: int = 1
    begins: int = 0

    def plays(self, step: int) -> bool:
        return step >= self.begins and step % self.every == 0

    @property
    def params(self) -> tuple[nn.Parameter, ...]:
        return tuple(p for p in self.module.parameters() if p.requires_grad)


def muon(module: nn.Module, lr: float, dtype: torch.dtype = torch.float32) -> torch.optim.Optimizer:
    """Muon for matrices, AdamW at a tenth of the rate for the rest. dtype: what matrices are orthogonalized in.

    The embedders of scales get AdamW at three times the rate: all else has been trained before, they begin at zero. At
    a tenth, 1,240 steps of nano moved what they say by 0.6 from one end of the scale to the other, where the time's
    reaches 9.
    """
    knobs = {name for name, p in module.named_parameters() if ".guidance." in name and p.requires_grad}
    groups = split_parameters(module, muon_lr=lr, adamw_lr=lr / 10, leave_out=knobs)
    own = [p for name, p in module.named_parameters() if name in knobs]
    return MuonAdamW([*groups, dict(params=own, kind="adamw", lr=3 * lr, weight_decay=0.0)] if own else groups, dtype)


def adam(module: nn.Module, lr: float, betas: tuple[float, float] = (0.0, 0.99)) -> torch.optim.Optimizer:
    """Adam without momentum, as games like it."""
    return torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr, betas=betas, weight_decay=0.0)


class Stage(L.LightningModule):
    """A student, its slow average, and turns. What a stage is differs in `play` (what a step is played on) and `turns`.

    teacher   reads prompts and pictures; never trained. Hangs on the stage without being a sub-module
    student   a generation branch; its average is what leaves the workshop
    eyes      see `Student`: does it read what the vision tower sees, or is that for its judges alone?
    watched   a number that `play` puts into `facts`; above `limit` the run has diverged
    compiled   layers run as compiled graphs. Worth its minutes for long runs only
    muon_dtype   what Muon, where a stage uses it, orthogonalizes in: bfloat16 where the processor is fast at it (a
                 third of
              a step of stage 1 went there)
    """

    watched, limit = "", float("inf")

    def __init__(
        self,
        teacher: Bagel,
        student: StudentModel,
        *,
        guidance: dict[str, Guidance],
        total: int,
        average: float = 0.99,
        deployed: float = 0.5,
        copies: int = 2,
        seed: int = 0,
        decay: float = 0.3,
        eyes: bool = True,
        muon_dtype: torch.dtype = torch.float32,
        compiled: bool = False,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.__dict__["teacher"] = teacher
        self.student = student
        self.average = frozen_copy(student)
        self.guidance, self.total, self.kept = guidance, total, average
        self.deployed, self.copies, self.seed, self.decay, self.muon_dtype = deployed, copies, seed, decay, muon_dtype
        self.compiled, self.eyes = compiled, eyes
        self.facts: dict[str, float] = {}

    # ---- what a stage must say --------------------------------------------------------------------------------------

    def turns(self) -> list[Turn]:
        """Called once. Exactly one network moves in a turn; one turn at least must play in every step."""
        raise NotImplementedError

    def play(self, round_: Round, generator: torch.Generator) -> object:
        """What all turns of a step share: a rollout, a pair to be told apart. Default: the round itself."""
        return round_

    # ---- the game ---------------------------------------------------------------------------------------------------

    def configure_optimizers(self):
        self.played = self.turns()
        if not any(turn.every == 1 and not turn.begins for turn in self.played):
            raise ValueError("one turn must play in every step, from the first: a step is counted when somebody moves")
        # as asked now: a checkpoint's optimizers bring the rates of their own day along
        self.rates = [[group["lr"] for group in turn.optimizer.param_groups] for turn in self.played]
        return [turn.optimizer for turn in self.played]

    def on_fit_start(self):
        self.teacher.to(self.device)
        for model in (self.teacher, *(part for part in self.modules() if isinstance(part, StudentModel))):
            model.compiled = self.compiled

    def training_step(self, batch: dict, batch_idx: int) -> None:
        step = self.global_step
        generator = seeded_generator(self.seed, step, self.global_rank)
        self.facts = {}
        round_ = read_round(
            self.teacher,
            batch,
            self.guidance,
            generator,
            deployed=self.deployed,
            copies=self.copies,
            padded=self.compiled,
            eyes=self.eyes,
        )
        ground = self.play(round_, generator)
        last = [turn for turn in self.played if turn.plays(step)][-1]
        factor = warmup_constant_decay(step, total=self.total, warmup=20, decay=self.decay)
        for turn, optimizer, rates in zip(self.played, self._optimizers(), self.rates):
            if not turn.plays(step):
                continue
            for group, rate in zip(optimizer.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            for move in range(turn.times):
                loss = turn.loss(ground, generator)
                self._check(turn.name, loss, step)
                self.move(turn, optimizer, loss, counts=turn is last and move == turn.times - 1)
            self.facts[turn.name] = float(loss.detach())
        self.average.follow(self.student, self.kept)
        self.log_dict(self.facts, prog_bar=True)

    def _optimizers(self) -> list:
        optimizers = self.optimizers()
        return optimizers if isinstance(optimizers, list) else [optimizers]

    def move(self, turn: Turn, optimizer, loss: Tensor, counts: bool) -> None:
        """One step of one network: gradients land on this turn's weights and nowhere else."""
        plain = optimizer.optimizer
        plain.zero_grad(set_to_none=True)
        loss.backward(inputs=list(turn.params))
        norm = nn.utils.clip_grad_norm_(turn.params, 1.0)
        # a loss that is a number can have a slope that is none, and one step along it leaves no weight that is one
        if not bool(norm.isfinite()):
            raise diverged(self.global_step, f"the {turn.name}'s gradient is {float(norm)}")
        # Lightning counts each step of each of its optimizers; a step of the game shall count once
        (optimizer if counts else plain).step()
        plain.zero_grad(set_to_none=True)

    def _check(self, name: str, loss: Tensor, step: int) -> None:
        watched = self.facts.get(self.watched, 0.0)
        if not bool(torch.isfinite(loss)):
            what = f"the {name}'s loss is {float(loss.detach())}"
        elif not watched <= self.limit:  # so written, it is true of NaN as well
            what = f"{self.watched} is {watched:.3g}, above {self.limit:g}"
        else:
            return
        raise diverged(step, what)

    # ---- what several stages need -----------------------------------------------------------------------------------

    def guided(self, model: Bagel, x: Tensor, t: Tensor, round_: Round) -> Tensor:
        """The teacher's velocity as it is deployed: two or three passes, renormed, within the interval."""
        how = self.guidance[round_.task]
        v, no_text = (model.velocity(x, t, c) for c in (round_.full, round_.no_text))
        no_image = None if round_.no_image is None else model.velocity(x, t, round_.no_image)
        low, high = how.interval
        return combine_each(
            v,
            no_text,
            no_image,
            guided=(t > low) & (t <= high),
            renorm=how.renorm,
            renorm_min=how.renorm_min,
            **round_.scales,
        )


def frozen_copy(branch: StudentModel) -> StudentModel:
    """A branch with the same weights, apart, without gradient."""
    return StudentModel(branch, trainable=False)


def uniform(n: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """n numbers in [0, 1)."""
    return torch.rand(n, generator=generator).to(like)
