"""What every training run shares: step-numbered data, one `fit` that resumes, checkpoints that are whole, and a log.

The data of step i are a function of (seed, rank, i), and so is the noise. The position in the data is then a number,
and a run that was killed ends with the same weights as one that was not.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cache
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, Timer, WeightAveraging
from lightning.pytorch.plugins import TorchCheckpointIO
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from hb.files import aside, check_finite, read_rows
from hb.machine import commit, machine
from hb.train.loggers import LOG, LogRows, loggers_of
from hb.train.resuming import record_rule, rule_of_run

for _name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
    logging.getLogger(_name).setLevel(logging.WARNING)  # or every Trainer prints an advertisement


# ---- data -----------------------------------------------------------------------------------------------------------


class StepData(L.LightningDataModule):
    """Batches by step number: `make(step, rank)` must return the same batch for the same arguments, always."""

    def __init__(self, make: Callable[[int, int], object], steps: int):
        super().__init__()
        self.make, self.steps, self.start = make, steps, 0

    def train_dataloader(self):
        return DataLoader(_Steps(self), batch_size=None, shuffle=False)

    def transfer_batch_to_device(self, batch, device: torch.device, dataloader_idx: int):
        """Tensors, also in dictionaries and sequences. Anything else, such as the request of an example, passes."""
        return moved(batch, device)

    def state_dict(self):
        return {"step": self.trainer.global_step}

    def load_state_dict(self, state):
        self.start = state["step"]


class _Steps(Dataset):
    def __init__(self, data: StepData):
        self.data = data

    def __len__(self):
        # of the whole run: Lightning counts the batches before the interruption as fetched
        return self.data.steps

    def __getitem__(self, i):
        if i >= len(self):
            raise IndexError
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        return self.data.make(self.data.start + i, rank)


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of this number over all processes that train together; without gradient where there are several."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    total = value.detach().clone()
    torch.distributed.all_reduce(total)
    return total / torch.distributed.get_world_size()


def least_over_processes(value: Tensor) -> Tensor:
    """The least of this number over all processes that train together."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(value := value.clone(), torch.distributed.ReduceOp.MIN)
    return value


def moved(batch, device: torch.device):
    """The same batch with its tensors on this device. Objects that are no tensors are handed on as they are."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {name: moved(value, device) for name, value in batch.items()}
    if type(batch) in (tuple, list):
        return type(batch)(moved(value, device) for value in batch)
    return batch


# ---- devices and precision ------------------------------------------------------------------------------------------


def working_device(accelerator: str = "auto", devices: int | str | Sequence[int] = 1, **_) -> str:
    """Where this process computes, and so where its data should lie.

    devices: as Lightning's Trainer takes them: a number, "auto", -1 for all, or the indices of some. Of several
    processes on one machine each has its own device, which LOCAL_RANK numbers.
    """
    if accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return "cpu"
    if isinstance(devices, str) and devices not in ("auto", "-1"):
        indices = [int(i) for i in devices.split(",") if i.strip()]
        devices = indices if "," in devices else indices[0]
    chosen = list(devices) if isinstance(devices, (list, tuple)) else range(torch.cuda.device_count())
    return f"cuda:{chosen[int(os.environ.get('LOCAL_RANK', 0))]}"


def precision_of(name: str) -> str:
    """Lightning's name for a precision; "auto" takes bfloat16 where the processor has units for it."""
    if name != "auto":
        return {"bf16": "bf16-mixed", "f32": "32-true", "f64": "64-true"}[name]
    return "bf16-mixed" if _has_fast_bfloat16() else "32-true"


@cache
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


def worth_compiling(steps: int) -> bool:
    """A minute or two of compiling pays after a few hundred steps (drawing alone, float32, a core with AVX-512: 1.25 s
    a step instead of 1.88). It needs a C++ compiler."""
    return steps >= 500 and (torch.cuda.is_available() or any(map(shutil.which, ("g++", "clang++"))))


# ---- the end of a run -----------------------------------------------------------------------------------------------


class SessionTimer(Timer):
    """Lightning's Timer (`Trainer(max_time=)`) for this session alone: all processes stop after the same step.

    Lightning's own counts the sessions before, too. A run that was given 30 minutes and is resumed with 30 more would
    then stop at once.
    """

    def __init__(self, minutes: float):
        super().__init__(timedelta(minutes=minutes), verbose=False)

    def on_fit_start(self, *_):
        """No check before the first step: a session makes at least one."""

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state_dict: dict) -> None:
        pass


class StopOnInterrupt(Callback):
    """Ctrl-C ends a run after its current step, because half a step cannot be resumed. A second one ends it at once.

    With several processes Lightning's own handling stays: they could not agree on the step.
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


class SaveAtEnd(Callback):
    """A checkpoint at the last step, whether the run is finished or its time is over."""

    def __init__(self, path: Path):
        self.path = path

    def on_train_batch_end(self, trainer, *_):
        if trainer.should_stop or trainer.global_step >= trainer.max_steps:
            trainer.save_checkpoint(self.path)


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints are written beside their place and renamed, and only if all their weights are finite numbers.

    Lightning moves a checkpoint here from the folder for temporary files. Where that is on another disk the move is a
    copy, and a process killed in it would leave half a checkpoint in the place of the last good one.
    """

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        check_finite(Path(path).name, {k: v for k, v in checkpoint.get("state_dict", {}).items()})
        with aside(path) as part:
            super().save_checkpoint(checkpoint, part, storage_options)


# ---- fit ------------------------------------------------------------------------------------------------------------


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
    clip: float | None = 1.0,
    callbacks: Sequence[Callback] = (),
    logger: str = "csv",
    **options,
) -> L.Trainer:
    """Train `module` for data.steps steps in `folder`; if the folder holds last.ckpt and resume is True, go on from it.

    ema        decay of the averaged weights, which the module holds afterwards; None: no average
    minutes    stop after so many, in this session
    callbacks  Lightning callbacks of the caller's, after the run's own
    logger     where the log goes beside the run's own: see `hb.train.loggers.loggers_of`
    options    what Lightning's Trainer takes: devices, num_nodes, strategy, accelerator, precision
    """
    # numbers below 1e-38 become 0: a processor takes eight times as long over them, and a gate that has closed has
    # nothing but such gradients (the pixel decoder's step went from 0.3 to 1.4 seconds)
    torch.set_flush_denormal(True)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    last = folder / "last.ckpt"
    if not resume and last.exists():
        last.unlink()
    module.optimizer_rule = record_rule(folder)
    # EMAWeightAveraging is the same, one weight after another
    averages = None if ema is None else WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(ema))
    interrupt = StopOnInterrupt()
    # the log and the last checkpoint must see that the run stops, so they come after what stops it
    own = [
        _checkpoints(folder, save_every),
        *([averages] if averages else []),
        *([SessionTimer(minutes)] if minutes is not None else []),
        interrupt,
        LogRows(),
        SaveAtEnd(last),
    ]
    options |= dict(callbacks=[*own, *callbacks], logger=loggers_of(logger, folder))
    trainer = _trainer(folder, data.steps, bar=bar, clip=clip, **options)
    with warnings.catch_warnings():
        # they do not concern us: data follow from the step number, so nothing has to be resumable, sharded or in an
        # empty folder
        warnings.filterwarnings("ignore", module=r"lightning\.")
        trainer.fit(module, data, ckpt_path=str(last) if last.exists() else None, weights_only=True)
    if averages is not None:
        averages.on_train_end(trainer, module)  # a run that was already finished never gets there by itself
    if interrupt.asked:
        raise KeyboardInterrupt
    return trainer


def _trainer(folder: Path, steps: int, *, bar: bool, clip: float | None, **options) -> L.Trainer:
    """Lightning's Trainer as all runs here use it."""
    return L.Trainer(
        max_steps=steps,
        max_epochs=-1,
        plugins=[WholeCheckpoints()],
        log_every_n_steps=0,  # `LogRows` does it
        enable_progress_bar=bar,
        enable_model_summary=False,
        gradient_clip_val=clip,
        default_root_dir=folder,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **options,
    )


def _checkpoints(folder: Path, every: int) -> ModelCheckpoint:
    saved = ModelCheckpoint(
        folder, filename="last", save_top_k=1, every_n_train_steps=every, enable_version_counter=False
    )
    saved.CHECKPOINT_NAME_LAST = "last"
    return saved


def provenance(folder: Path, command: str, **facts) -> dict:
    """Where a checkpoint came from: command, commit, machine, and the run's own log condensed."""
    rows = read_rows(Path(folder) / LOG)
    curve = rows[:: max(1, len(rows) // 40)] + rows[-1:]
    return dict(
        command=command,
        commit=commit(),
        machine=machine(),
        date=time.strftime("%Y-%m-%d"),
        torch=torch.__version__,
        optimizer_rule=rule_of_run(Path(folder)),
        steps=rows[-1]["step"] if rows else 0,
        curve=curve,
        **facts,
    )
