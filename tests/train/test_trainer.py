"""Training goes on after an interruption as if there had been none."""

import json
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
import torch

from hb.files import read_rows
from hb.seeding import seeded_generator
from hb.train.loggers import LogRows, RunLog
from hb.train.trainer import StepData, fit, provenance, working_device
from hb.world.language import parse
from tests.train.conftest import Trip, run


def test_a_run_that_was_cut_off_ends_with_the_same_weights(text, pool, tmp_path):
    straight = run(text, pool, tmp_path / "straight")
    with pytest.raises(RuntimeError, match="power cut"):
        run(text, pool, tmp_path / "cut", (Trip(5),))
    resumed = run(text, pool, tmp_path / "cut")
    assert all(torch.equal(straight[k], resumed[k]) for k in straight)


def test_noise_of_a_step_depends_on_nothing_but_its_numbers():
    draw = lambda *key: torch.randn(4, generator=seeded_generator(*key))
    assert torch.equal(draw(1, 2, 3), draw(1, 2, 3))
    assert not torch.equal(draw(1, 2, 3), draw(1, 3, 2)) and not torch.equal(draw(1, 2), draw(2, 2))


SCRIPT = """
import sys, torch
sys.path.insert(0, {root!r})
torch.set_num_threads(1)
from tests.train.conftest import *

class Kill(Callback):
    def __init__(self, at): self.at = at
    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.at:
            import os, signal; os.kill(os.getpid(), signal.SIGKILL)

text = Text.load(TOKENIZER)
weights = run(text, tiny_pool(text), {folder!r}, (Kill({kill}),) if {kill} else ())
torch.save(weights, {folder!r} + "/end")
"""


def start(folder, *, kill=0):
    folder.mkdir(exist_ok=True)
    root = str(Path(__file__).resolve().parents[2])
    script = folder / "run.py"
    script.write_text(SCRIPT.format(root=root, folder=str(folder), kill=kill))
    return subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=500)


@pytest.mark.slow
def test_a_killed_process_resumes_to_the_same_weights(tmp_path):
    assert start(tmp_path / "straight").returncode == 0
    assert start(tmp_path / "cut", kill=5).returncode == -9
    assert start(tmp_path / "cut").returncode == 0
    a, b = (torch.load(tmp_path / run / "end", weights_only=True) for run in ("straight", "cut"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_run_writes_its_checkpoints_aside(text, pool, tmp_path, monkeypatch):
    rename, came = Path.replace, []
    monkeypatch.setattr(Path, "replace", lambda part, path: came.append(path.name) or rename(part, path))
    run(text, pool, tmp_path)
    assert came.count("last.ckpt") >= 4  # of 8 steps every second, and the end


def test_the_log_of_a_resumed_run_counts_each_step_once(text, pool, tmp_path):
    with pytest.raises(RuntimeError, match="power cut"):
        run(text, pool, tmp_path, (Trip(5), LogRows(every=1)))
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 5, "sec')  # the power went while this was written
    assert provenance(tmp_path, "hb train")["steps"] == 5
    run(text, pool, tmp_path, (LogRows(every=1),))

    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    steps = [r["step"] for r in rows]
    assert [s for s in steps if s < 8] == list(range(1, 8)) and [r["seconds"] for r in rows] == sorted(
        r["seconds"] for r in rows
    )


# ---- loggers --------------------------------------------------------------------------------------------------------


class Tiny(L.LightningModule):
    """One weight, one loss, and every batch that came."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.ones(1)), []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch)
        loss = self.weight.square().sum()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fitted(folder, module=None, steps=3, make=lambda step, rank: torch.zeros(1), **options):
    module = module or Tiny()
    return module, fit(module, StepData(make, steps), folder, ema=None, bar=False, accelerator="cpu", **options)


def test_the_log_is_a_file_of_rows_and_a_table(tmp_path):
    fitted(tmp_path, callbacks=(LogRows(every=1),))
    rows = read_rows(tmp_path / "log.jsonl")
    assert [row["step"] for row in rows[:3]] == [1, 2, 3] and {"seconds", "loss", "lr"} <= rows[0].keys()
    table = (tmp_path / "metrics.csv").read_text().splitlines()
    assert table[0] == "step,seconds,loss,lr" and len(table) == 1 + len(rows)


def test_an_unknown_logger_and_one_that_is_not_installed_are_refused_in_words(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no logger 'paper'; choose from csv, tensorboard, wandb"):
        fitted(tmp_path, logger="paper")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in ("tensorboard", "wandb"):
        with pytest.raises(ValueError, match=f"not installed: pip install {name}"):
            fitted(tmp_path, logger=name)


def test_every_logger_gets_the_same_rows(tmp_path, monkeypatch):
    got = []

    class Heard(RunLog):
        def log_metrics(self, metrics, step=None):
            got.append((step, metrics))

    monkeypatch.setattr("hb.train.trainer.loggers_of", lambda name, folder: [RunLog(folder), Heard(folder / "other")])
    fitted(tmp_path)
    assert [dict(step=step) | metrics for step, metrics in got] == read_rows(tmp_path / "log.jsonl")


# ---- time, devices, batches -----------------------------------------------------------------------------------------


def test_minutes_are_of_a_session_and_each_makes_a_step(tmp_path):
    """Lightning's own timer would stop the second session before its first step."""
    for session in (1, 2):
        _, trainer = fitted(tmp_path, minutes=0.0, steps=5)
        assert trainer.global_step == session
    assert fitted(tmp_path, steps=5)[1].global_step == 5


def test_what_is_no_tensor_reaches_a_step_untouched(tmp_path):
    """A request is a frozen dataclass: Lightning's own transfer refuses it."""
    request = parse("a red circle")
    module, _ = fitted(tmp_path, make=lambda step, rank: dict(x=torch.ones(1), request=[request]), steps=1)
    assert module.seen[0]["request"][0] is request and torch.equal(module.seen[0]["x"], torch.ones(1))


@pytest.mark.parametrize(
    ("options", "rank", "device"),
    [
        (dict(), 0, "cuda:0"),
        (dict(devices=4), 0, "cuda:0"),
        (dict(devices=4), 3, "cuda:3"),
        (dict(devices="auto"), 1, "cuda:1"),
        (dict(devices=-1), 2, "cuda:2"),
        (dict(devices=[2, 3]), 1, "cuda:3"),
        (dict(devices="2,3"), 0, "cuda:2"),
        (dict(devices=2, accelerator="cpu"), 1, "cpu"),
    ],
)
def test_each_process_works_on_its_own_device(options, rank, device, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    assert working_device(**options) == device
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert working_device(**options) == "cpu"


def test_a_run_prints_no_warning_of_lightnings(tmp_path, recwarn):
    """In a notebook they would show the path of a temporary folder."""
    (tmp_path / "something").touch()
    fitted(tmp_path)
    fitted(tmp_path, steps=4)
    assert not [w for w in recwarn if "lightning" in str(w.filename)]


def test_a_run_goes_on_from_a_step_at_which_something_was_measured(tmp_path):
    """The clock continues: rows of --watch, which come last in such a step, have no seconds."""
    log = RunLog(tmp_path)
    log.log_metrics(dict(seconds=3.5, loss=1.0), 50)
    log.log_metrics(dict(watch_right=0.7), 50)
    log.log_metrics(dict(seconds=9.0), 60)
    assert log.rewind(50) == 3.5
    assert [row["step"] for row in read_rows(log.path)] == [50, 50]
    assert RunLog(tmp_path / "other").rewind(50) == 0.0
