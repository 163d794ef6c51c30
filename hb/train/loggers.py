"""The log of a run: one row of numbers at a time, to the run's own file and to the logger the caller chose.

`log.jsonl` is always written; provenance and notebooks read curves from it. Its columns may change from step to step
(an update that runs every fifth step has a loss only then), which a file of JSON lines allows and a CSV file does not.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import time
from collections.abc import Callable
from pathlib import Path

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from hb.files import append_rows, read_rows, write

LOG, TABLE = "log.jsonl", "metrics.csv"
LOGGERS = ("csv", "tensorboard", "wandb")


class RunLog(Logger):
    """Rows of JSON in the run's folder, and at the end the same as a table, `metrics.csv`."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = Path(folder)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def version(self) -> str:
        return ""

    @property
    def path(self) -> Path:
        return self.folder / LOG

    def log_hyperparams(self, *_, **__) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        append_rows(self.path, [dict(step=step) | metrics])

    def rewind(self, step: int) -> float:
        """Forget the rows after this step, from which the run goes on. Returns the seconds that the others took."""
        if not self.path.exists():
            return 0.0
        rows = [row for row in read_rows(self.path) if row["step"] <= step]
        write(self.path, "".join(json.dumps(row) + "\n" for row in rows).encode())
        timed = [row["seconds"] for row in rows if "seconds" in row]  # rows of --watch have none
        return timed[-1] if timed else 0.0

    @rank_zero_only
    def finalize(self, status: str) -> None:
        rows = read_rows(self.path)
        if not rows:
            return
        table = io.StringIO()
        writer = csv.DictWriter(table, list(dict.fromkeys(name for row in rows for name in row)), restval="")
        writer.writeheader()
        writer.writerows(rows)
        write(self.folder / TABLE, table.getvalue().encode())


def is_due(trainer: Trainer, every: int) -> bool:
    """Is this step one of every so many, or the last? In the first process alone: the others are silent."""
    step = trainer.global_step
    due = step % every == 0 or step == trainer.max_steps or trainer.should_stop
    return bool(due) and not trainer.global_rank


class LogRows(Callback):
    """Every `every` steps and at the last: seconds of training, what the module logged, and the learning rate.

    A resumed run continues the clock and forgets what was logged after the step that it goes on from.
    """

    def __init__(self, every: int = 50):
        self.every, self.began = every, time.monotonic()

    def on_train_start(self, trainer, module):
        self.began = time.monotonic()
        if not trainer.global_rank:
            self.began -= max(
                (log.rewind(trainer.global_step) for log in trainer.loggers if isinstance(log, RunLog)), default=0.0
            )

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if not is_due(trainer, self.every):
            return
        row = dict(seconds=round(time.monotonic() - self.began, 1))
        row |= {name: round(float(value), 6) for name, value in trainer.callback_metrics.items()}
        row["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        for logger in trainer.loggers:
            logger.log_metrics(row, trainer.global_step)


class LogMeasured(Callback):
    """Every `every` steps and at the last, what `measure(module)` gives, as watch_NAME in the log.

    Evaluations are handed in this way: this room imports none.

    before   measure before the first step too; that row is not logged
    ends     asked after each measurement: does the run end here?
    """

    def __init__(
        self,
        measure: Callable[[LightningModule], dict[str, float]],
        every: int,
        *,
        before: bool = False,
        ends: Callable[[LightningModule], bool] | None = None,
    ):
        self.measure, self.every, self.before, self.ends = measure, every, before, ends

    def on_train_start(self, trainer, module):
        if self.before and not trainer.global_rank:
            self.measure(module)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if not is_due(trainer, self.every):
            return
        row = {f"watch_{name}": value for name, value in self.measure(module).items()}
        for logger in trainer.loggers:
            logger.log_metrics(row, trainer.global_step)
        if self.ends is not None and not trainer.should_stop and self.ends(module):
            trainer.should_stop = True


def loggers_of(name: str, folder: Path) -> list[Logger]:
    """The run's own log, and beside it "tensorboard" or "wandb"; "csv" adds nothing.

    Raises ValueError if the package that a logger needs is not installed.
    """
    if name not in LOGGERS:
        raise ValueError(f"no logger {name!r}; choose from {', '.join(LOGGERS)}")
    if name != "csv" and importlib.util.find_spec(name) is None:
        raise ValueError(f"the logger {name!r} needs a package that is not installed: pip install {name}")
    own = RunLog(folder)
    if name == "tensorboard":
        from lightning.pytorch.loggers import TensorBoardLogger

        return [own, TensorBoardLogger(folder, name="tensorboard", version="")]
    if name == "wandb":
        from lightning.pytorch.loggers import WandbLogger

        return [own, WandbLogger(name=Path(folder).name, project="hb", save_dir=folder, log_model=False)]
    return [own]
