"""A stage of distillation is a list of updates: each changes one network and no other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor, nn

from hb.guidance import Guidance, combine_each
from hb.models.bagel import Bagel
from hb.models.conditioning import StudentModel
from hb.seeding import seeded_generator
from hb.train.distill.batch import StageBatch, read_batch
from hb.train.optim import Training, muon, warmup_constant_decay


class Diverged(ValueError):  # what the command line prints as a sentence
    """A run that cannot be saved by going on."""


def diverged(step: int, what: str) -> Diverged:
    """In words, with the way out."""
    return Diverged(
        f"diverged at step {step}: {what}. Go on from the last checkpoint, if one was saved, with a smaller --lr, or "
        "begin again with --fresh"
    )


@dataclass(frozen=True)
class Update:
    """Optimizer steps of one network: whose weights change, which loss they lower, how often.

    loss       loss(shared, generator), where `shared` is what `Stage.shared_state` returned
    every      it is made in each `every`-th step (DMD2 updates the student once in five)
    repeats    and then so many times, each time with new random draws
    start      the first step in which it is made: a critic may need to learn first
    """

    name: str
    network: nn.Module
    loss: Callable[[object, torch.Generator], Tensor]
    optimizer: torch.optim.Optimizer
    every: int = 1
    repeats: int = 1
    start: int = 0

    def due(self, step: int) -> bool:
        return step >= self.start and step % self.every == 0

    @property
    def params(self) -> tuple[nn.Parameter, ...]:
        return tuple(p for p in self.network.parameters() if p.requires_grad)


class Stage(Training):
    """A student, its slow average, and updates. A subclass says what a step shares (`shared_state`) and its `updates`.

    teacher   reads prompts and pictures; never trained. Hangs on the stage without being a sub-module
    student   a generation branch; its average is what the stage returns
    vision    see `read_batch`: does the student read the vision encoder's features, or do critics alone?
    watched   a number that `shared_state` puts into `facts`; above `limit` the run has diverged
    compiled  layers run as compiled graphs. Worth its minutes for long runs only
    muon_dtype   what Muon, where a stage uses it, orthogonalizes in: bfloat16 where the processor is fast at it (a
              third of a step of stage 1 went there)
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
        vision: bool = True,
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
        self.compiled, self.vision = compiled, vision
        self.facts: dict[str, float] = {}

    # ---- what a stage defines ---------------------------------------------------------------------------------------

    def updates(self) -> list[Update]:
        """Called once. One update at least must be due in every step."""
        raise NotImplementedError

    def shared_state(self, batch: StageBatch, generator: torch.Generator) -> object:
        """What all updates of a step share: a rollout, a pair to be told apart. Default: the batch itself."""
        return batch

    def muon(self, network: nn.Module, lr: float) -> torch.optim.Optimizer:
        """See `hb.train.optim.muon`."""
        return muon(network, lr, self.muon_dtype, roles=self.roles)

    # ---- a step -----------------------------------------------------------------------------------------------------

    def configure_optimizers(self):
        self.made = self.updates()
        if not any(update.every == 1 and not update.start for update in self.made):
            raise ValueError("one update must be due in every step, from the first: steps are counted by it")
        # as asked now: a checkpoint's optimizers bring the rates of their own day along
        self.rates = [[group["lr"] for group in update.optimizer.param_groups] for update in self.made]
        return [update.optimizer for update in self.made]

    def on_fit_start(self):
        self.teacher.to(self.device)
        for model in (self.teacher, *(part for part in self.modules() if isinstance(part, StudentModel))):
            model.compiled = self.compiled

    def training_step(self, batch: dict, batch_idx: int) -> None:
        step = self.global_step
        generator = seeded_generator(self.seed, step, self.global_rank)
        self.facts = {}
        how = dict(deployed=self.deployed, copies=self.copies, padded=self.compiled, vision=self.vision)
        shared = self.shared_state(read_batch(self.teacher, batch, self.guidance, generator, **how), generator)
        due = [update.due(step) for update in self.made]
        last = max(i for i, now in enumerate(due) if now)
        factor = warmup_constant_decay(step, total=self.total, warmup=20, decay=self.decay)
        for i, (update, optimizer, rates) in enumerate(zip(self.made, self._optimizers(), self.rates)):
            if not due[i]:
                continue
            for group, rate in zip(optimizer.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            for repeat in range(update.repeats):
                loss = update.loss(shared, generator)
                self._check(update.name, loss, step)
                self.take_step(update, optimizer, loss, counts=i == last and repeat == update.repeats - 1)
            self.facts[update.name] = float(loss.detach())
        self.average.follow(self.student, self.kept)
        self.log_dict(self.facts, prog_bar=True)

    def _optimizers(self) -> list:
        optimizers = self.optimizers()
        return optimizers if isinstance(optimizers, list) else [optimizers]

    def take_step(self, update: Update, optimizer, loss: Tensor, counts: bool) -> None:
        """One optimizer step of one network: gradients land on its weights and nowhere else."""
        plain = optimizer.optimizer
        plain.zero_grad(set_to_none=True)
        self._backward(loss, update.params)
        norm = nn.utils.clip_grad_norm_(update.params, 1.0)
        # a loss that is a number can have a slope that is none, and one step along it leaves no weight that is one
        if not bool(norm.isfinite()):
            raise diverged(self.global_step, f"the {update.name}'s gradient is {float(norm)}")
        # Lightning counts each step of each of its optimizers; a step of the stage shall count once
        (optimizer if counts else plain).step()
        plain.zero_grad(set_to_none=True)

    def _backward(self, loss: Tensor, params: tuple[nn.Parameter, ...]) -> None:
        """Gradients of these parameters, averaged over the processes that train together.

        DDP's own reducer cannot do it. It is armed once for a backward pass through all trained parameters and waits
        for the gradient of each; here a pass is for one network (`inputs`), there are several in a step, and which of
        them is updated changes from step to step. So its hooks are off, and each update reduces its own gradients.
        """
        strategy = self.trainer.strategy
        parallel = isinstance(strategy, ParallelStrategy)
        with strategy.block_backward_sync() if parallel else nullcontext():
            self.manual_backward(loss, inputs=list(params))
        if self.trainer.world_size > 1:
            average_gradients(params)

    def _check(self, name: str, loss: Tensor, step: int) -> None:
        watched = self.facts.get(self.watched, 0.0)
        what = None
        if not bool(torch.isfinite(loss)):
            what = f"the {name}'s loss is {float(loss.detach())}"
        elif not watched <= self.limit:  # so written, it is true of NaN as well
            what = f"{self.watched} is {watched:.3g}, above {self.limit:g}"
        # all processes stop together, or the others would wait for the gradients of the one that stopped
        if self._in_any_process(what is not None):
            raise diverged(step, what or "another process reports it")

    def _in_any_process(self, here: bool) -> bool:
        trainer = self._trainer
        return here if trainer is None else trainer.strategy.reduce_boolean_decision(here, all=False)

    # ---- what several stages need -----------------------------------------------------------------------------------

    def guided(self, model: Bagel, x: Tensor, t: Tensor, batch: StageBatch) -> Tensor:
        """The teacher's velocity as it is deployed: two or three passes, renormed, within the interval."""
        how = self.guidance[batch.task]
        v, no_text = (model.velocity(x, t, c, batch.grid) for c in (batch.full, batch.no_text))
        no_image = None if batch.no_image is None else model.velocity(x, t, batch.no_image, batch.grid)
        low, high = how.interval
        return combine_each(
            v,
            no_text,
            no_image,
            guided=(t > low) & (t <= high),
            renorm=how.renorm,
            renorm_min=how.renorm_min,
            **batch.scales,
        )


def average_gradients(params: tuple[nn.Parameter, ...]) -> None:
    """Each gradient becomes its mean over all processes, in two messages. A weight without one in every process keeps
    none; without one in some it counts as zero there."""
    there = torch.tensor([float(p.grad is not None) for p in params], device=params[0].device)
    torch.distributed.all_reduce(there)
    used = [p for p, n in zip(params, there.tolist()) if n]
    for p in used:
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    flat = torch.cat([p.grad.flatten() for p in used])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    for p, mean in zip(used, flat.split([p.numel() for p in used])):
        p.grad.copy_(mean.view_as(p.grad))


def frozen_copy(branch: StudentModel) -> StudentModel:
    """A branch with the same weights, apart, without gradient."""
    return StudentModel(branch, trainable=False)


def uniform(n: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """n numbers in [0, 1)."""
    return torch.rand(n, generator=generator).to(like)
