"""`hb bench live`: every key that changes the picture is timed once, held against the targets, and kept."""

import json

import pytest

import hb.eval.live as measure
from hb.cli import live as module
from hb.cli.main import main
from hb.cli.results import as_table
from hb.eval.live import SENTENCES, TARGETS_MS, live_speed, percentiles, summary
from hb.infer.hints import understood
from hb.infer.live import LiveSession
from tests.infer.conftest import with_students


@pytest.fixture(scope="module")
def folder(tiny_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("live") / "tiny"
    with_students(tiny_folder).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(measure, "SENTENCES", SENTENCES[:2])


def test_rows_are_the_keys_that_change_the_picture(tiny_folder):
    session = LiveSession(with_students(tiny_folder))
    rows = live_speed(session, repeats=1)
    wanted = []
    for sentences in SENTENCES[:2]:
        for verb, sentence in zip(("draw", "edit"), sentences):
            last = None
            for end in range(1, len(sentence) + 1):
                said = understood(verb, sentence[:end])
                if isinstance(said, str) and said != last:
                    wanted.append((verb, sentence[:end]))
                    last = said
    assert [(row["verb"], row["text"]) for row in rows] == wanted and len(wanted) > 4
    assert all(row["ms"] >= sum(row["parts"].values()) > 0 and row["nfe"] == 1 for row in rows)
    got = summary(rows, session)
    assert got["keys"]["n"] == len(rows) == sum(verb["n"] for verb in got["verbs"].values())


def test_percentiles():
    assert percentiles(range(1, 102)) == dict(p50=51.0, p95=96.0, low=1.0, high=101.0, n=101)


def test_the_command_keeps_what_it_measured(folder, tmp_path, capsys):
    assert main(["bench", "live", "--model", str(folder), "--repeats", "1", "--results", str(tmp_path)]) == 0
    (file,) = tmp_path.glob("*.json")
    record = json.loads(file.read_text())
    assert record["name"] == "live_one-nfe_nfe1" and record["student"]["name"] == "one-nfe"
    numbers = {line["what"]: line for line in record["numbers"]}
    for which, ms in TARGETS_MS.items():
        assert numbers[f"key to picture in the kernel, {which}"]["at_most"] in (ms, 2 * ms)
    assert "target" in capsys.readouterr().out


def test_targets_are_met_or_not():
    keys = dict(p50=2 * TARGETS_MS["p50"] - 1, p95=2 * TARGETS_MS["p95"] + 1, low=1.0, high=999.0, n=9)
    lines = module._of_keys(keys, "here")
    assert [line.met for line in lines] == [module._slack() == 2, False] and as_table(lines) is not None


def test_without_a_browser_there_is_a_sentence_before_anything_is_loaded(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HB_CHROMIUM", str(tmp_path / "none"))
    assert main(["bench", "live", "--model", "no such model", "--browser"]) == 2
    said = capsys.readouterr().err
    assert "Chromium" in said or "playwright" in said


def test_the_page_opens_the_same_model(folder, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(module, "chromium", lambda: "chromium")
    monkeypatch.setattr(
        module, "_in_browser", lambda args: seen.append(module.cells_of(args)) or dict(keys=percentiles([5.0]))
    )
    words = ["bench", "live", "--model", str(folder), "--repeats", "1", "--browser", "--results", str(tmp_path)]
    assert main(words) == 0
    ((cell,),) = seen
    compile(cell, "cell", "exec")
    assert repr(str(folder.resolve())) in cell and "student='one-nfe', nfe=1" in cell
    (file,) = tmp_path.glob("*browser*.json")
    assert json.loads(file.read_text())["result"]["browser"]["server"] == "voila"
