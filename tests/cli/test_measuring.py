"""Measurements from the command line: kept with where they came from, held against targets, and reported."""

import json
import re
import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace

import pytest
from PIL import Image

from hb.cli import output, report
from hb.cli.main import parse
from hb.eval import scene
from hb.eval.cache import identity
from hb.eval.protocol import RESULTS
from hb.infer.artifacts import Student, fingerprint
from hb.infer.pipeline import load
from hb.models.conditioning import StudentModel
from hb.world import benchmark as bench


def in_one_line(words: str) -> str:
    return " ".join(words.split())


# ---- measuring ------------------------------------------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch):
    """One case of each of two tasks, of each kind of question, and so on, instead of the whole sets."""
    for name, kind, n in (("scene_set", lambda c: c.task, 2), ("question_set", lambda c: c.question.kind, None)):
        cases = list({kind(case): case for case in getattr(bench, name)()}.values())[:n]
        monkeypatch.setattr(bench, name, lambda cases=cases: cases)
    monkeypatch.setattr(scene, "steps_ablation", partial(scene.steps_ablation, steps=(50, 6, 1)))
    for name, n in (("edit_chains", 1), ("description_set", 4)):
        cases = getattr(bench, name)()[:n]
        monkeypatch.setattr(bench, name, lambda cases=cases: cases)


def kept(name: str) -> Path:
    """The result of this name; behind it stands the digest of its key."""
    (file,) = Path("out/results").glob(f"{name}-????????.json")
    return file


@pytest.mark.parametrize(
    ("argv", "file", "headline"),
    [
        ("eval scene --limit 1 --pictures 2 --steps 1", "tiny_scene_steps1_limit1_pictures2", "SceneEval, 2 NFE"),
        ("eval scene --steps-ablation", "tiny_scene_steps_ablation", "lost from 50 guided to 6 unguided steps"),
        (
            "eval complex --limit 1 --pictures 2 --steps 1",
            "tiny_complex_steps1_limit1_pictures2",
            "complex prompts, 2 NFE",
        ),
        (
            "eval edit --complex --limit 1 --steps 1",
            "tiny_edit_complex_steps1_limit1",
            "EditEval O (0 to 10), one of several alike things, 3 NFE",
        ),
        (
            "eval coverage --ambiguous --pictures 3 --nfe 2",
            "tiny_coverage_ambiguous_nfe2_pictures3",
            "coverage, ambiguous prompts, 2 NFE",
        ),
        ("eval edit --limit 1 --steps 1 --seed 3", "tiny_edit_steps1_limit1_seed3", "EditEval O (0 to 10), 3 NFE"),
        ("eval edit --chains --steps 1", "tiny_edit_chains_steps1", "turn 5: drift"),
        ("eval understand", "tiny_understand", "answers"),
        ("eval coverage --pictures 3 --nfe 2", "tiny_coverage_nfe2_pictures3", "coverage, 2 NFE"),
        ("eval autoencoder --n 4", "tiny_autoencoder_n4", "autoencoder: read exactly and clean"),
        ("bench speed --batches 1 --repeats 1", "tiny_speed_batches1_repeats1", "draw, 1 at once, 100 NFE"),
    ],
)
def test_measurements_are_kept_with_where_they_came_from(hb, few, tiny_folder, argv, file, headline):
    status, said, _ = hb(*argv.split(), "--model", tiny_folder, "--json")
    record = json.loads(said)
    assert status == 0 and record == json.loads(kept(file).read_text())
    assert {"command", "commit", "machine", "torch", "date", "seed", "model"} <= record.keys()
    assert record["command"].startswith(f"hb {argv} --model")
    assert not list(RESULTS.glob("tiny*")), "a trial went among the published results"
    assert record["model"]["identity"] == identity(load(tiny_folder))
    assert headline in [number["what"] for number in record["numbers"] if number["headline"]]
    assert "rows" not in record["result"] or "bench" in argv or "--steps-ablation" in argv
    if "--steps-ablation" in argv or "eval complex" in argv:
        assert Image.open(kept(file).with_suffix(".png")).width > 600


def test_contradictions_are_counted_refused_and_drawn_raw(hb, tiny_folder):
    status, said, _ = hb("eval", "contradictory", "--results", "out/results")
    words = in_one_line(said)
    assert status == 0 and "40 of 40 contradictory prompts are refused" in words and "0 of 40 consistent ones" in words
    assert "NOT MET" not in said and json.loads(Path("out/results/contradictory.json").read_text())["model"] is None
    draw = ["draw", "two stars and only one star", "--steps", 1, "--n", 1, "--model", tiny_folder]
    status, _, err = hb(*draw)
    assert status == 2 and "'two stars'" in err and "'only one star'" in err
    assert hb(*draw, "--raw")[0] == 0 and Path("out/draw.png").exists()


def test_two_sets_of_edits_are_not_one(hb, tiny_folder):
    status, _, err = hb("eval", "edit", "--chains", "--complex", "--model", tiny_folder)
    assert status == 2 and "choose one" in err


def test_the_judge_is_judged_and_targets_missed_are_said(hb, few, tiny_folder):
    status, said, _ = hb("eval", "judge", "--n", 1)
    assert status == 0 and "accepted (should be): clean" in said and kept("judge_n1")
    status, said, _ = hb("eval", "edit", "--limit", 1, "--model", tiny_folder, "--steps", 1)
    assert "target" in said and "95% interval" in said
    status, said, _ = hb("eval", "scene", "--model", tiny_folder)
    assert status == 0 and "NOT MET: SceneEval, 100 NFE is 0.000, the target is at least 0.95" in said


def test_guidance_is_tuned_on_other_cases_and_the_best_is_kept(hb, tiny_folder, tmp_path, monkeypatch):
    """A model that draws and edits best at one pair of scales; all else of its settings stays."""
    folder = tmp_path / "mine"
    copytree(tiny_folder, folder)
    asked = set()

    def scene(model, *, cases, text_scale, **_):
        asked.update(case.prompt for case in cases)
        return SimpleNamespace(overall=dict(value=1 / text_scale, low=0.0, high=1.0))

    def edit(model, *, cases, text_scale, image_scale, **_):
        asked.update(case.edit.instruction + str(case.source) for case in cases)
        return dict(O=dict(value=10 - abs(text_scale - 3) - abs(image_scale - 1.5), low=0.0, high=10.0))

    monkeypatch.setattr("hb.eval.scene.scene_eval", scene)
    monkeypatch.setattr("hb.eval.edit.edit_eval", edit)
    before = load(folder).sampling
    status, said, _ = hb("tune", "guidance", "--model", folder, "--text", 2, 3, "--image", 1.2, 1.5, "--n", 12)
    after = load(folder).sampling
    assert status == 0 and "guided by 2 now, editing by 3 (text) and 1.5 (picture)" in said
    assert after == replace(
        before, draw=replace(before.draw, text_scale=2.0), edit=replace(before.edit, text_scale=3.0, image_scale=1.5)
    )
    measured = {c.prompt for c in bench.scene_set()} | {c.edit.instruction + str(c.source) for c in bench.edit_set()}
    assert len(asked) > 20 and not asked & measured
    assert hb("tune", "guidance", "--model", folder, "--text", 1)[0] == 2


@pytest.mark.parametrize(("what", "verb"), [("scene", "draw"), ("edit --chains", "edit")])
def test_a_stopped_measurement_goes_on(hb, few, tiny_folder, monkeypatch, what, verb):
    argv = ["eval", *what.split(), "--steps", 1, "--model", tiny_folder, "--json"]
    first = json.loads(hb(*argv)[1])
    monkeypatch.setattr(f"hb.infer.pipeline.Model.{verb}", None)  # what is kept need not be drawn again
    assert json.loads(hb(*argv)[1])["result"] == first["result"]


# ---- the report -----------------------------------------------------------------------------------------------------


def test_the_report_fills_its_block_and_nothing_else(tmp_path):
    number = dict(what="SceneEval", value=0.96, low=0.95, high=0.97, unit="", target=0.95, met=True, headline=True)
    record = dict(
        numbers=[number, number | dict(headline=False)],
        key="abc",
        command="hb eval scene",
        machine="2 cores",
        commit="abc",
        date="2026-01-01",
    )
    output.write_json(tmp_path / "scene_nfe100.json", record)
    table = report.results_table(tmp_path)
    document = "before\n<!-- results -->\nold\n<!-- /results -->\nafter\n"
    once = report.with_block(document, "results", table)
    assert once == report.with_block(once, "results", table)
    assert once.startswith("before\n") and once.endswith("\nafter\n") and "old" not in once
    assert once.count("| SceneEval | 0.960 | 0.950 to 0.970 | at least 0.95: met | `hb eval scene` |") == 1
    with pytest.raises(ValueError, match="no block"):
        report.with_block("nothing here", "results", table)


def test_the_readme_tells_the_truth_about_python(tiny, monkeypatch):
    monkeypatch.setattr("hb.infer.pipeline.load", lambda name: tiny)
    weights = {name: p.detach() for name, p in StudentModel(tiny.bagel).released_weights().items()}
    for name, steps in (("one-nfe", 1), ("dmdo", 6)):
        student = Student(name, steps, 3.0, fingerprint(tiny.bagel), default=True, weights=weights)
        monkeypatch.setitem(tiny.students, name, student)
    code = (report.ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]
    exec(compile(code, "README.md", "exec"), {})


def test_commands_in_the_readme_can_be_typed():
    text = (report.ROOT / "README.md").read_text()
    blocks = [line for block in text.split("```bash\n")[1:] for line in block.split("```")[0].splitlines()]
    quoted = re.findall(r"`(hb [^`]+)`", text)
    commands = [c.split("#")[0].strip() for line in (*blocks, *quoted) for c in line.split("&&")]
    commands = [c for c in commands if c.startswith("hb ")]
    assert len(commands) > 8
    for words in commands:
        assert parse(shlex.split(words)[1:])
