"""Training from the command line: beginnings, settings that are refused, runs that go on."""

import json
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hb.cli import train
from hb.cli.distill import settings_of
from hb.data.batches import pick
from hb.infer.pipeline import load
from hb.models.vision import VisionTower
from hb.train.distill.adp import OneStep
from hb.train.distill.cfg import CFGDistillation
from tests.conftest import TOKENIZER, tiny_config


def test_the_tokenizer_comes_out_the_same(hb):
    assert hb("train", "tokenizer", "--out", "again")[0] == 0
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert Path("again", name).read_bytes() == (TOKENIZER / name).read_bytes()


@pytest.fixture
def tiny_preset(monkeypatch):
    monkeypatch.setitem(train.PRESETS, "tiny", tiny_config(1024))
    monkeypatch.setitem(train.USUAL, ("autoencoder", "tiny"), train.Usual(2, 4, 0.008))
    monkeypatch.setitem(train.USUAL, ("teacher", "tiny"), train.Usual(4, 3, 0.02))


@pytest.mark.parametrize(
    ("option", "branch"), [("--edits", "understanding"), ("--edits", "answers"), ("--dialogues", "drawing")]
)
def test_examples_of_a_branch_that_rests_are_refused(hb, tiny_preset, tiny_folder, option, branch):
    status, _, said = hb(
        "train", "teacher", "--preset", "tiny", "--start-from", tiny_folder, "--learns", branch, option, 2
    )
    assert status == 2 and f"{option} is for what --learns {branch} does not train" in said


def test_answers_alone_bring_no_other_eyes_and_no_other_latents(hb, tiny_preset, tiny_folder, tmp_path):
    alone = ("train", "teacher", "--preset", "tiny", "--start-from", tiny_folder, "--learns", "answers")
    tower = VisionTower(train.PRESETS["tiny"].vision)
    save_file(tower.state_dict(), tmp_path / train.VISION)
    for option, other in (("--autoencoder", "nano"), ("--vision", tmp_path)):
        status, _, said = hb(*alone, option, other)
        assert status == 2 and f"{option} brings another" in said
    status, _, said = hb(*alone, "--autoencoder", tiny_folder)
    assert (
        "brings another" not in said and "another size" in said
    )  # its own may be named; what is wrong is "tiny" itself


@pytest.mark.parametrize(
    ("mix", "why"),
    [(["counting"], "TASK=SHARE"), (["counting=many"], "TASK=SHARE"), (["dancing=0.5"], "no task 'dancing'"),
     (["two=nan"], "0 or more"), (["two=0.1", "two=0.2"], "a task twice"),
     (["two=0.5", "--learns", "answers"], "draws none"), (["two=-1"], "0 or more"),
     (["two=0.7", "counting=0.7"], "1 or less together")],
)  # fmt: skip
def test_shares_that_are_none_are_refused(hb, tiny_preset, tiny_folder, mix, why):
    status, _, said = hb("train", "teacher", "--preset", "tiny", "--start-from", tiny_folder, "--mix", *mix)
    assert status == 2 and why in said


def test_a_beginning_of_another_size_is_refused_in_words(hb, tiny_preset, tiny_folder):
    status, _, said = hb(
        "train", "teacher", "--preset", "tiny", "--start-from", tiny_folder, "--autoencoder", tiny_folder
    )
    assert status == 2 and "another size" in said


def test_a_shipped_model_is_known_by_its_name_as_a_beginning_and_as_an_autoencoder(hb, tiny_preset):
    both = ("--start-from", "nano", "--autoencoder", "nano")
    status, _, said = hb("train", "teacher", "--preset", "tiny", *both)
    assert status == 2 and "another size" in said  # both were found, and nano is not what "tiny" says


def test_shares_reach_the_pool(hb, tiny_preset, tiny_folder, monkeypatch):
    def made(*_, mix, **__):
        raise ValueError(f"counting {mix['counting']}, rich {mix['rich']}")

    monkeypatch.setattr("hb.train.pools.make_pool", made)
    monkeypatch.setitem(train.PRESETS, "tiny", load(tiny_folder).bagel.config)
    status, _, said = hb(
        "train",
        "teacher",
        "--preset",
        "tiny",
        "--start-from",
        tiny_folder,
        "--autoencoder",
        tiny_folder,
        "--mix",
        "counting=0.5",
        "rich=0.25",
    )
    assert status == 2 and "counting 0.5, rich 0.25" in said


def test_training_from_nothing_to_a_model(hb, tiny_preset):
    run = ("--preset", "tiny", "--folder", "mine", "--accelerator", "cpu", "--precision", "f32", "--json")
    status, said, _ = hb("train", "autoencoder", *run)
    assert status == 0 and json.loads(said)["settings"]["batch"] == 4
    teacher = ("train", "teacher", *run, "--pool", 6)

    status, said, _ = hb(*teacher, "--minutes", 0)  # time is over after one step: a model is there all the same
    assert status == 0 and json.loads(said)["settings"]["pool"] == 6
    early = Path("mine/model/ema.safetensors").read_bytes()
    status, said, _ = hb(*teacher)
    record = json.loads(said)
    assert status == 0 and record["steps"] == 4 and Path("mine/model/ema.safetensors").read_bytes() != early
    assert json.loads(Path("mine/model/provenance.json").read_text())["command"].startswith("hb train teacher")

    weights = Path("mine/model/ema.safetensors").read_bytes()
    assert hb(*teacher)[0] == 0 and Path("mine/model/ema.safetensors").read_bytes() == weights  # finished is finished
    status, _, complaint = hb(*teacher, "--lr", 0.5)
    assert status == 2 and "holds a run with lr 0.02, not 0.5" in complaint
    assert hb("draw", "a star", "--model", "mine/model", "--steps", 1, "--n", 1)[0] == 0

    assert (
        hb(
            "train",
            "teacher",
            *run,
            "--folder",
            "more",
            "--start-from",
            "mine/model",
            "--pool",
            4,
            "--steps",
            1,
            "--dialogues",
            2,
        )[0]
        == 0
    )
    assert json.loads(Path("more/model/provenance.json").read_text())["sizes"] == dict(draw=3, edit=1, dialogue=2)
    assert Path("more/model/ae.safetensors").read_bytes() == Path("mine/model/ae.safetensors").read_bytes()


def test_ctrl_c_ends_after_a_whole_step_and_nothing_is_lost(hb, tiny_preset, monkeypatch):
    run = ("--preset", "tiny", "--accelerator", "cpu", "--precision", "f32", "--json")
    assert hb("train", "autoencoder", *run, "--folder", "whole")[0] == 0
    teacher = ("train", "teacher", *run, "--pool", 6, "--autoencoder", "whole/autoencoder")
    assert hb(*teacher, "--folder", "whole")[0] == 0

    def impatient(pool, sizes, seed, step, rank=0):
        if step == 1:
            signal.raise_signal(signal.SIGINT)
        return pick(pool, sizes, seed, step, rank)

    with monkeypatch.context() as patch:
        patch.setattr("hb.train.teacher.pick", impatient)
        status, _, complaint = hb(*teacher, "--folder", "cut")
    assert status == 130 and "goes on" in complaint and not Path("cut/model").exists()
    steps = torch.load("cut/teacher/last.ckpt", weights_only=True)["global_step"]
    assert 0 < steps < 4
    assert hb(*teacher, "--folder", "cut")[0] == 0
    assert Path("cut/model/ema.safetensors").read_bytes() == Path("whole/model/ema.safetensors").read_bytes()


def test_settings_of_a_stage_are_numbers_words_or_pairs_and_unknown_ones_are_refused():
    got = settings_of(["r1=0.25", "pairing=hinge", "regression=[1, 0.05]", "penalty_every=2"], OneStep, "adp")
    assert got == dict(r1=0.25, pairing="hinge", regression=(1, 0.05), penalty_every=2)
    assert settings_of(["average=0.9"], CFGDistillation, "cfg") == dict(average=0.9)
    for words, make, name in ((["r3=1"], OneStep, "adp"), (["r1"], OneStep, "adp"), (["r1=1"], CFGDistillation, "cfg")):
        with pytest.raises(ValueError, match="--set takes NAME=VALUE"):
            settings_of(words, make, name)
