"""Whoever stops us finds files whole or not there, and rows up to the last whole one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from hb.cli import output
from hb.data.pool import make_pool
from hb.files import NotFinite, append_rows, aside, read_rows, write, write_tensors
from hb.infer.artifacts import DraftCheckpoint, PixelDecoderCheckpoint, Student
from hb.infer.pipeline import Sampling
from hb.models.checkpoint import save_model
from hb.models.tokenizer import Text
from hb.train.distill.recipe import Sheet
from hb.train.draft import Answered
from hb.train.loggers import RunLog
from hb.train.trainer import WholeCheckpoints
from hb.world import benchmark as bench
from tests.conftest import TOKENIZER, tiny_config


def sheet(folder: Path):
    callback = Sheet(folder, None, {}, {}, torch.ones(1))
    callback.draw = lambda stage: Image.new("RGB", (2, 2))
    callback.on_train_batch_end(SimpleNamespace(global_step=200, max_steps=999, should_stop=False, global_rank=0), None)


def log(folder: Path):
    if not (folder / "log.jsonl").exists():
        append_rows(folder / "log.jsonl", [dict(step=1, seconds=2.0)])
    RunLog(folder).rewind(5)


def pool(folder: Path):
    made = make_pool(lambda p: p[:, :, ::8, ::8], Text.load(TOKENIZER), side=64, prompts=2, scenes=2, bar=False)
    made.save(folder / "pool.safetensors")


def sets(folder: Path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "_MAKERS", dict.fromkeys(("a.jsonl", "b.jsonl"), lambda rng: [dict(a=1)]))
        bench.write_sets(folder)


def answers(folder: Path):
    Answered(*torch.zeros(4, 1, dtype=torch.int16).unbind()).save(folder / "answers.safetensors")


WEIGHTS = dict(w=torch.zeros(2))
WRITERS = {
    "sampling": Sampling().save,
    "config": tiny_config(600).save,
    "tokenizer": Text.load(TOKENIZER).save,
    "evaluation sets": sets,
    "sheet": sheet,
    "log": log,
    "checkpoint": lambda folder: WholeCheckpoints().save_checkpoint(dict(state_dict=WEIGHTS), folder / "last.ckpt"),
    "pool": pool,
    "answers": answers,
    "draft": DraftCheckpoint({}, {}, "", WEIGHTS).save,
    "student": Student("cfg", 6, 3.0, "", weights=WEIGHTS).save,
    "tiny decoder": PixelDecoderCheckpoint({}, "", weights=WEIGHTS).save,
    "model": None,  # needs one
    "picture": lambda folder: output.write_picture(folder / "a.png", Image.new("RGB", (2, 2))),
    "record": lambda folder: output.write_json(folder / "a.json", dict(a=1)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_whoever_writes_does_it_aside_and_leaves_nothing_when_stopped(name, tiny, tmp_path, monkeypatch):
    """Stopped at each renaming in turn, of which there are as many as files."""
    save, rename = WRITERS[name] or (lambda folder: save_model(tiny.bagel, folder, tiny.text)), Path.replace
    save(tmp_path)
    names = {file.name for file in tmp_path.iterdir()}
    for stop in range(len(names)):
        for file in tmp_path.iterdir():
            file.write_bytes(b"old")
        came = set()

        def replace(part, path, came=came, stop=stop):
            if len(came) == stop:
                raise KeyboardInterrupt
            came.add(path.name)
            return rename(part, path)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Path, "replace", replace)
            save(tmp_path)
        assert {file.name for file in tmp_path.iterdir()} == names
        assert {file.name for file in tmp_path.iterdir() if file.read_bytes() != b"old"} == came


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_file_is_the_old_one(tmp_path, error):
    path = write(tmp_path / "deep" / "file.json", b"old")
    with pytest.raises(error), aside(path) as part:
        part.write_bytes(b"ne")
        raise error("in the middle")
    assert path.read_bytes() == b"old" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("torn", ['{"i": 2, "ta', '{"i": 2}'])  # of the second only its line's end is missing
def test_a_torn_last_row_is_none_and_takes_no_other_along(torn, tmp_path):
    path = tmp_path / "rows.jsonl"
    append_rows(path, [dict(i=0), dict(i=1)])
    with path.open("a") as file:
        file.write(torn)
    assert read_rows(path) == [dict(i=0), dict(i=1)]
    append_rows(path, [dict(i=3)])
    assert read_rows(path) == [dict(i=0), dict(i=1), dict(i=3)] == [*map(json.loads, path.read_text().splitlines())]


def test_rows_are_read_around_one_that_was_torn_before_it_was_cut_off(tmp_path):
    assert read_rows(tmp_path / "rows.jsonl") == []
    (tmp_path / "rows.jsonl").write_text('{"i": 0}\n{"i": 1, "ta{"i": 2}\n{"i": 3}\n')
    assert read_rows(tmp_path / "rows.jsonl") == [dict(i=0), dict(i=3)]


def test_two_writers_of_one_file_do_not_mix_and_leave_nothing_beside_it(tmp_path):
    path = tmp_path / "pool"
    with aside(path) as one, aside(path) as other:
        assert one != other
        one.write_bytes(b"one")
        other.write_bytes(b"other")
    assert path.read_bytes() == b"one" and list(tmp_path.iterdir()) == [path]  # the outer block ends last


def test_what_a_killed_process_left_is_removed_and_what_another_is_writing_is_not(tmp_path):
    left, writing = tmp_path / "a.bin.0123.part", tmp_path / "a.bin.4567.part"
    for part in (left, writing):
        part.write_bytes(b"half")
    os.utime(left, (0, 0))
    write(tmp_path / "a.bin", b"whole")
    assert not left.exists() and writing.exists()


ALONE = """
import sys, time
from pathlib import Path
from hb.files import alone_in, append_rows
folder = Path(sys.argv[1])
for i in range(3):
    with alone_in(folder):
        append_rows(folder / "rows", [dict(who=sys.argv[2], what="in")])
        time.sleep(0.05)
        append_rows(folder / "rows", [dict(who=sys.argv[2], what="out")])
"""


def test_two_processes_are_not_in_one_block_at_once(tmp_path):
    root = Path(__file__).resolve().parents[1]
    run = lambda who: subprocess.Popen(
        [sys.executable, "-c", ALONE, str(tmp_path), who], cwd=root, env=os.environ | dict(PYTHONPATH=str(root))
    )
    assert [process.wait(100) for process in (run("a"), run("b"))] == [0, 0]
    rows = read_rows(tmp_path / "rows")
    pairs = list(zip(rows[::2], rows[1::2]))
    assert len(pairs) == 6 and all(a["who"] == b["who"] and (a["what"], b["what"]) == ("in", "out") for a, b in pairs)


def test_weights_that_are_no_numbers_never_replace_a_file(tmp_path):
    path = write_tensors(tmp_path / "w.safetensors", WEIGHTS)
    before = path.read_bytes()
    broken = dict(good=torch.zeros(2), bad=torch.tensor([1.0, float("nan")]), ids=torch.tensor([1]))
    with pytest.raises(NotFinite, match="w.safetensors is not written.*1 of 3 tensors.*bad first.*smaller --lr"):
        write_tensors(path, broken)
    for save in (DraftCheckpoint({}, {}, "", broken).save, Student("cfg", 6, 3.0, "", weights=broken).save):
        with pytest.raises(NotFinite, match="not written"):
            save(tmp_path)
    with pytest.raises(NotFinite, match="last.ckpt is not written"):
        WholeCheckpoints().save_checkpoint(dict(state_dict=broken), tmp_path / "last.ckpt")
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
