"""The commands about speculation, from the outside: what they print, what they keep, and what they say without a
draft."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from hb.cli import speculation as speak
from hb.cli.main import main
from hb.eval import text as evaluate_text
from hb.infer.artifacts import DraftCheckpoint, understanding_fingerprint
from hb.infer.pipeline import Model, load
from hb.infer.speculative.draft import DraftConfig
from tests.infer.speculative.test_draft import shaken
from tests.infer.speculative.test_tune import no_clock  # noqa: F401 (a fixture)


@pytest.fixture(scope="module")
def with_draft(tiny, tmp_path_factory):
    """The folder of the tiny model with a draft that knows nothing."""
    draft = shaken(tiny, DraftConfig(layers=1))
    parcel = DraftCheckpoint(
        dict(kind="hyper-bagel", layers=1, zero_init=False, words=[]),
        {"0": dict(depth=2, budget=2)},
        understanding_fingerprint(tiny.bagel),
        draft.state_dict(),
    )
    folder = tmp_path_factory.mktemp("models") / "drafted"
    Model(tiny.bagel, tiny.text, draft=parcel).save_pretrained(folder)
    return folder


def record(folder, start):
    (file,) = folder.glob(f"*{start}*.json")
    return json.loads(file.read_text())


def test_a_model_folder_brings_its_draft(with_draft):
    assert load(with_draft).draft.plans == {"0": dict(depth=2, budget=2)}


def test_drafting_begins_where_no_short_answer_is_left(monkeypatch):
    """Short answers end after one or two words; one that never ends is not short; 9 begins a short answer too."""
    monkeypatch.setattr(speak, "decode_fast", lambda fast, said, max_tokens: ([said[:max_tokens]], 1))
    reads = lambda *rows: [SimpleNamespace(context=row) for row in rows]
    told = reads([7, 1, 1, 1], [9, 2, 2], [8, 3, 3, 3])
    assert speak._when_to_begin(None, told, reads([5], [9, 4], [], [6] * 40)) == dict(start_after=3, long_after=(7, 8))


@pytest.fixture
def short(monkeypatch):
    """Answers of a few words, or an untrained model talks to the end; distributions are enumerated in
    test_evaluate_text.py."""
    cases, tasks = evaluate_text._cases, evaluate_text.tasks
    monkeypatch.setattr(evaluate_text, "_cases", lambda limit: [(s, q, 8) for s, q, _ in cases(limit)])
    monkeypatch.setattr(evaluate_text, "tasks", lambda *args: [replace(task, most=8) for task in tasks(*args)])
    monkeypatch.setattr(evaluate_text, "exact_errors", lambda: {"point": 1e-16})


def test_lossless_prints_what_it_checked(with_draft, tmp_path, capsys, short):
    args = ["--model", str(with_draft), "--results", str(tmp_path), "--limit", "1", "--draws", "20"]
    assert main(["eval", "lossless", *args]) == 0
    said = capsys.readouterr().out
    assert "greedy, tree, 8 at once: same words" in said and "NOT MET" not in said
    kept = record(tmp_path, "lossless")
    assert kept["result"]["same"]["prompts"] == 2 and len(kept["result"]["same"]["rows"]) == 4


def test_asking_is_raced_against_its_peers(with_draft, tmp_path, capsys, short):
    args = ["--model", str(with_draft), "--results", str(tmp_path), "--n", "1", "--rounds", "1", "--temperatures", "0"]
    assert main(["bench", "ask", *args]) == 0
    said = capsys.readouterr().out
    for words in (
        "descriptions: prompt lookup",
        "transformers, assisted",
        "out of domain: hb (as shipped)",
        "Ratio = tau x",
    ):
        assert words in said
    assert "NOT MET: tau, chain of 10" in said  # a draft that knows nothing is called so


def test_tuning_turns_a_worthless_draft_off(with_draft, tmp_path, capsys, no_clock):  # noqa: F811 (the fixture)
    parcel = tmp_path / "checkpoint"
    load(with_draft).draft.save(parcel)
    args = [
        "--model",
        str(with_draft),
        "--draft",
        str(parcel),
        "--results",
        str(tmp_path),
        "--n",
        "1",
        "--temperatures",
        "0",
    ]
    assert main(["tune", "tree", *args]) == 0
    assert "temperature 0: plain" in capsys.readouterr().out
    tuned = DraftCheckpoint.load(parcel)
    assert tuned.plans["0"]["depth"] == 0 and set(tuned.best) == {"chain", "tree"}


@pytest.mark.parametrize("command", [["eval", "lossless"], ["bench", "ask"], ["tune", "tree"]])
def test_without_a_draft_they_say_what_to_do(tiny_folder, command, capsys):
    assert main([*command, "--model", str(tiny_folder)]) == 2
    assert "hb train draft" in capsys.readouterr().err


def test_a_draft_can_be_trained_and_gone_on_from(tiny_folder, tmp_path, capsys):
    args = [
        "train",
        "draft",
        "--model",
        str(tiny_folder),
        "--steps",
        "2",
        "--batch",
        "2",
        "--pool",
        "4",
        "--layers",
        "1",
        "--accelerator",
        "cpu",
        "--precision",
        "f32",
    ]
    assert main([*args, "--folder", str(tmp_path / "a")]) == 0
    first = DraftCheckpoint.load(tmp_path / "a" / "checkpoint")
    assert first.target == understanding_fingerprint(load(tiny_folder).bagel) and first.config["vocabulary"]
    assert main([*args, "--folder", str(tmp_path / "b"), "--start-from", str(tmp_path / "a" / "checkpoint")]) == 0
    assert DraftCheckpoint.load(tmp_path / "b" / "checkpoint").config == first.config
    assert main([*args, "--folder", str(tmp_path / "a"), "--layers", "2"]) == 2
    assert "--fresh" in capsys.readouterr().err


@pytest.mark.slow
def test_the_ablation_trains_every_variant(tiny_folder, tmp_path, capsys):
    args = [
        "--model",
        str(tiny_folder),
        "--results",
        str(tmp_path),
        "--folder",
        str(tmp_path),
        "--steps",
        "2",
        "--pool",
        "4",
        "--seeds",
        "2",
        "--n",
        "1",
    ]
    assert main(["bench", "draft-ablation", *args]) == 0
    rows = record(tmp_path, "draft_ablation")["result"]["rows"]
    assert len(rows) == 10 and "vanilla EAGLE-3: tau, chain of 10" in capsys.readouterr().out
