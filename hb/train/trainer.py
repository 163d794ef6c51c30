"""What every training run shares: step-numbered data, a resumable Trainer, checkpoints that name their maker.

The data of step i are a function of (seed, rank, i), and so is the noise. The position in the data is then a number,
and a run that was killed goes on as if it had not been.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, WeightAveraging
from lightning.pytorch.plugins import TorchCheckpointIO
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from hb.files import append_rows, aside, read_rows, write

for _name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
    logging.getLogger(_name).setLevel(logging.WARNING)  # or every Trainer prints an advertisement


def warm_then_cosine(step: int, total: int, warmup: int = 50) -> float:
    """Learning-rate factor: up to 1 in `warmup` steps, and along half a cosine to 0 at `total`."""
    return min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * min(step / max(total, 1), 1.0)))


def warmup_constant_decay(step: int, *, total: int, warmup: int = 100, decay: float = 0.3) -> float:
    """Learning-rate factor: up to 1 in `warmup` steps, constant, then linearly to 0 over the last `decay` of the
    run."""
    down = max(1, round(decay * total))
    return min(1.0, (step + 1) / warmup, max(0.0, (total - step) / down))


def worth_compiling(steps: int) -> bool:
    """A minute or two of compiling pays after a few hundred steps (drawing alone, float32, a core with AVX-512: 1.25 s
    a step instead of 1.88). It needs a C++ compiler, which not everybody has."""
    return steps >= 500 and (torch.cuda.is_available() or any(map(shutil.which, ("g++", "clang++"))))


def noise_levels(latents: Tensor, noise: float) -> Tensor:
    """Standard deviations [B, 1, 1, 1] from 0 to `noise`, spread evenly over the batch: no second draw to seed."""
    return noise * torch.linspace(0, 1, len(latents)).to(latents)[:, None, None, None]


def painting_errors(back: Tensor, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """L1 of pixels, and of their differences to the right and below neighbour (sharp rims)."""
    error = back.float() - pictures
    return error.abs().mean(), error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


class StepData(L.LightningDataModule):
    """Batches by step number: `make(step, rank)` must return the same batch for the same arguments, always."""

    def __init__(self, make: Callable[[int, int], object], steps: int):
        super().__init__()
        self.make, self.steps, self.start = make, steps, 0

    def train_dataloader(self):
        return DataLoader(_Steps(self), batch_size=None, shuffle=False)

    def state_dict(self):
        return {"step": self.trainer.global_step}

    def load_state_dict(self, state):
        self.start = state["step"]


class _Steps(Dataset):
    def __init__(self, data: StepData):
        self.data = data

    def __len__(self):
        # of the whole run: Lightning counts the batches before the interruption as fetched, and would begin again too
        # soon
        return self.data.steps

    def __getitem__(self, i):
        if i >= len(self):
            raise IndexError
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        return self.data.make(self.data.start + i, rank)


def working_device(accelerator: str = "auto", devices: int = 1, **_) -> str:
    """Where a run of one process computes, and so where its data should lie; several processes hand theirs over
    themselves."""
    return "cuda" if accelerator in ("auto", "gpu", "cuda") and devices == 1 and torch.cuda.is_available() else "cpu"


class Log(Callback):
    """A line of JSON every `every` steps and at the last: step, seconds of training, learning rate, and whatever the
    module logged.

    A resumed run forgets the lines after the step it goes on from, and its clock goes on too.
    """

    def __init__(self, folder: Path, every: int = 50):
        self.path, self.every, self.began = Path(folder) / "log.jsonl", every, time.monotonic()

    def on_train_start(self, trainer, module):
        if trainer.global_rank or not self.path.exists():
            return
        rows = [row for row in read_rows(self.path) if row["step"] <= trainer.global_step]
        write(self.path, "".join(json.dumps(row) + "\n" for row in rows).encode())
        self.began -= rows[-1]["seconds"] if rows else 0.0

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        step = trainer.global_step
        due = step % self.every == 0 or step == trainer.max_steps or trainer.should_stop
        if not due or trainer.global_rank:
            return
        row = {"step": step, "seconds": round(time.monotonic() - self.began, 1)}
        row |= {k: round(float(v), 6) for k, v in trainer.callback_metrics.items()}
        row["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        append_rows(self.path, [row])


class StopAfter(Callback):
    """Stops a run after so many minutes, as if its last step had been reached; resume goes on from there."""

    def __init__(self, minutes: float):
        self.minutes, self.began = minutes, time.monotonic()

    def on_train_batch_end(self, trainer, *_):
        over = (time.monotonic() - self.began) / 60 > self.minutes
        # processes must agree, or the one whose clock is slow waits for the others for ever
        trainer.should_stop |= trainer.strategy.reduce_boolean_decision(over, all=False)


class StopOnInterrupt(Callback):
    """Ctrl-C ends a run after the step it came in: half a step cannot be gone on from. A second one ends it at once.

    With several processes Lightning's own way stays: they could not agree on the step.
    """

    def __init__(self):
        self.asked, self.before = False, None

    def on_train_start(self, trainer, *_):
        if trainer.world_size == 1 and threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGINT, self._ask)

    def _ask(self, *_):
        self.asked = True
        self._restore()

    def _restore(self):
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)
            self.before = None

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop |= self.asked

    def on_train_end(self, *_):
        self._restore()

    def on_exception(self, *_):
        self._restore()


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning moves a checkpoint here from the folder for temporary files. Where that is on another disk the move is
    a copy, and a process killed in it would leave half a checkpoint in the place of the last good one."""

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        with aside(path) as part:
            super().save_checkpoint(checkpoint, part, storage_options)


class SaveAtEnd(Callback):
    """A checkpoint at the last step, whether the run is finished or its time is over: nothing that was done is lost."""

    def __init__(self, path: Path):
        self.path = path

    def on_train_batch_end(self, trainer, *_):
        if trainer.should_stop or trainer.global_step >= trainer.max_steps:
            trainer.save_checkpoint(self.path)


def fit(
    module: L.LightningModule,
    data: StepData,
    folder: Path,
    *,
    ema: float | None = 0.999,
    save_every: int = 500,
    minutes: float | None = None,
    resume: bool = True,
    bar: bool = True,
    callbacks: tuple[Callback, ...] = (),
    devices: int = 1,
    num_nodes: int = 1,
    strategy: str = "auto",
    accelerator: str = "auto",
    precision: str = "32-true",
    clip: float | None = 1.0,
) -> L.Trainer:
    """Train `module` for data.steps steps in `folder`; if the folder holds last.ckpt and resume is True, go on from it.

    After it, the module holds the averaged (EMA) weights, if ema is not None.
    """
    # numbers below 1e-38 become 0: a processor takes eight times as long over them, and a gate that has closed has
    # nothing but such gradients (the tiny decoder's step went from 0.3 to 1.4 seconds)
    torch.set_flush_denormal(True)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    last = folder / "last.ckpt"
    if not resume and last.exists():
        last.unlink()
    own: list[Callback] = [
        ModelCheckpoint(
            folder, filename="last", save_top_k=1, every_n_train_steps=save_every, enable_version_counter=False
        )
    ]
    own[0].CHECKPOINT_NAME_LAST = "last"
    # EMAWeightAveraging is the same, one weight after another
    averages = None if ema is None else WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(ema))
    if averages is not None:
        own.append(averages)
    if minutes is not None:
        own.append(StopAfter(minutes))
    interrupt = StopOnInterrupt()
    own += [interrupt, Log(folder), SaveAtEnd(last)]  # these two must see that the run stops
    trainer = L.Trainer(
        max_steps=data.steps,
        max_epochs=-1,
        devices=devices,
        num_nodes=num_nodes,
        strategy=strategy,
        accelerator=accelerator,
        precision=precision,
        callbacks=[*own, *callbacks],
        logger=False,
        plugins=[WholeCheckpoints()],
        enable_progress_bar=bar,
        enable_model_summary=False,
        gradient_clip_val=clip,
        default_root_dir=folder,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    trainer.fit(module, data, ckpt_path=str(last) if last.exists() else None, weights_only=True)
    if averages is not None:
        averages.on_train_end(trainer, module)  # a run that was already finished never gets there by itself
    if interrupt.asked:
        raise KeyboardInterrupt
    return trainer
