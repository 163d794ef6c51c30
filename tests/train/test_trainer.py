"""Training goes on after an interruption as if there had been none."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hb.seeding import seeded_generator
from hb.train.loggers import LogRows
from hb.train.trainer import provenance
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
