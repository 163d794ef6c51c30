"""Distilled students: found by name, metered, nobody else's, and measured against their teacher on the same noise."""

import json
from dataclasses import replace

import pytest
import torch

from hb.cli.main import main
from hb.eval.edit import edit_eval
from hb.eval.scene import SceneScore, scene_difference, scene_eval, steps_ablation
from hb.eval.speed import student_speed
from hb.infer.artifacts import STUDENT, STUDENT_CONFIG, Student, fingerprint
from hb.infer.pipeline import Model
from hb.models.checkpoint import CheckpointError
from hb.models.conditioning import StudentModel
from hb.world import benchmark as bench


def parcel(model, *, shaken=0.0, seed=0, **settings):
    """A student of this model: the teacher's own weights, or those shaken a little."""
    generator = torch.Generator().manual_seed(seed)
    weights = {
        n: p.detach() + shaken * torch.randn(p.shape, generator=generator)
        for n, p in StudentModel(model.bagel).released_weights().items()
    }
    usual = dict(stage="cfg", steps=6, shift=model.sampling.shift, teacher=fingerprint(model.bagel))
    return Student(**usual | settings, weights=weights)


@pytest.fixture(scope="module")
def model(tiny_folder):
    """The tiny model with some velocity (its last layer starts at zero) and four students."""
    model = Model.from_pretrained(tiny_folder)
    with torch.no_grad():
        model.bagel.latent.output.weight.normal_(0, 0.2, generator=torch.Generator().manual_seed(1))
    model.students = dict(
        cfg=parcel(model, any_steps=True),
        six=parcel(model, shaken=0.02, default=True),
        multistep=parcel(model, shaken=0.02, sampler="multistep"),
        other=parcel(model, shaken=0.02, seed=3),
    )
    return model


def test_an_untrained_student_draws_what_the_unguided_teacher_draws(model):
    for steps in (3, 6):
        student = model.draw(["a red circle", "two stars"], student="cfg", nfe=steps)
        teacher = model.draw(["a red circle", "two stars"], student="teacher", steps=steps, text_scale=1.0)
        assert torch.equal(student.pixels, teacher.pixels) and student.nfe == teacher.nfe == steps


def test_the_nfe_that_a_student_serves_finds_it(model):
    drawn = model.draw("a red circle", nfe=6)
    assert drawn.student == "six" and drawn.nfe == 6
    assert torch.equal(drawn.pixels, model.draw("a red circle", student="six").pixels)
    assert model.draw("a red circle", student="teacher", nfe=6).student is None  # three guided steps
    assert model.draw("a red circle", nfe=8).student is None


def test_an_edit_costs_six_and_reads_what_the_teacher_reads(model):
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    calls = []
    bagel = model.open_student("six")
    handle = bagel.latent.output.register_forward_hook(lambda m, i, o: calls.append(len(o)))
    done = model.edit(pictures, "make the circle green", nfe=6)
    handle.remove()
    assert done.nfe == 6 and calls == [2] * 6 and done.student == "six"
    untrained = model.edit(pictures, "make the circle green", student="cfg", nfe=6)
    teacher = model.edit(pictures, "make the circle green", student="teacher", steps=6, text_scale=1.0)
    assert torch.equal(untrained.pixels, teacher.pixels)


def test_a_student_without_eyes_edits_by_the_latent_alone(model, monkeypatch):
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    model = Model(model.bagel, model.text, model.sampling, students=dict(six=model.students["six"]))
    edit = lambda **how: model.edit(pictures, "make the circle green", nfe=6, **how).pixels
    seeing = edit()
    model.students["six"] = replace(model.students["six"], reads_vision=False)
    blind = edit()
    assert not torch.allclose(blind, seeing, atol=1e-4)
    monkeypatch.setattr(type(model.bagel), "see", None)  # whoever looks now falls over
    assert torch.equal(edit(), blind)
    with pytest.raises(TypeError):
        edit(student="teacher")


def test_the_picture_scale_is_an_edits_knob_and_the_text_scale_both(model):
    pictures = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    edit = lambda **scales: model.edit(pictures, "remove the star", student="six", **scales).latent
    draw = lambda **scales: model.draw("a star", student="six", **scales).latent
    assert not torch.equal(edit(image_scale=1.0), edit(image_scale=2.5))
    assert not torch.equal(edit(text_scale=1.5), edit(text_scale=4.0))
    assert not torch.equal(draw(text_scale=1.5), draw(text_scale=4.0))


@pytest.mark.parametrize("student", ["six", "multistep"])
def test_a_picture_does_not_depend_on_its_batch(model, student):
    together = model.draw(["a red circle", "two stars"], student=student, seed=[5, 9])
    alone = model.draw("two stars", student=student, seed=9)
    assert torch.allclose(together.latent[1], alone.latent[0], atol=1e-5)


def test_the_two_samplers_are_two(model):
    model.students["euler twin"] = replace(model.students["multistep"], sampler="euler")
    a, b = (model.draw("a star", student=name) for name in ("multistep", "euler twin"))
    del model.students["euler twin"]
    assert not torch.allclose(a.latent, b.latent) and a.nfe == b.nfe == 6


def test_names_and_costs_that_nobody_serves_are_told(model):
    with pytest.raises(ValueError, match="no student called 'seven' here; there are cfg, six"):
        model.draw("a star", student="seven")
    with pytest.raises(ValueError, match="made for 6 evaluations, not 5; .*steps=5"):
        model.draw("a star", student="six", nfe=5)
    assert model.draw("a star", student="six", steps=5).nfe == 5
    with pytest.raises(ValueError, match=r"Or name a student.*six \(6\)"):
        model.draw("a star", nfe=7)


def test_a_folder_brings_its_students_and_another_teachers_are_refused(model, tmp_path):
    model.save_pretrained(tmp_path / "whole")
    again = Model.from_pretrained(tmp_path / "whole")
    assert again.students.keys() == model.students.keys()
    assert torch.equal(again.draw("a star", nfe=6).pixels, model.draw("a star", nfe=6).pixels)
    other = Model(again.bagel, again.text, students={"six": replace(again.students["six"], teacher="somebody")})
    with pytest.raises(CheckpointError, match="made from another teacher"):
        other.draw("a star", student="six")


def test_a_damaged_student_is_named(model, tmp_path):
    model.students["six"].save(tmp_path)
    (tmp_path / STUDENT).write_bytes((tmp_path / STUDENT).read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="may be truncated"):
        Student.load(tmp_path)
    (tmp_path / STUDENT_CONFIG).write_text(json.dumps({"stage": "cfg"}))
    with pytest.raises(CheckpointError, match="is damaged"):
        Student.load(tmp_path)
    with pytest.raises(CheckpointError, match="make a student first: hb distill"):
        Student.load(tmp_path / "nowhere")


# ---- measured against its teacher -----------------------------------------------------------------------------------


def test_a_student_is_measured_as_itself_and_against_itself_loses_nothing(model, tmp_path, monkeypatch):
    cases = bench.scene_set()[::100]
    run = lambda name: scene_eval(model, pictures=1, cases=cases, keep=tmp_path, bar=False, student=name)
    mine = run("six")
    assert mine.nfe == 6
    assert scene_difference(mine, run("six"))["overall"]["value"] == 0
    kept = lambda: len(list(tmp_path.glob("*.jsonl")))
    run("multistep")  # the same weights, another walk
    assert kept() == 2
    for student, files in (
        (model.students["other"], 3),
        (model.students["six"], 3),
        (parcel(model, shaken=0.02, seed=5), 4),
    ):
        monkeypatch.setitem(model.students, "other", student)  # by its weights, not by its name
        run("other")
        assert kept() == files


def test_the_same_pictures_asked_for_in_other_words_are_not_drawn_again(model, tmp_path):
    cases, edits = bench.scene_set()[::200], bench.edit_set()[::60]
    scene = lambda **how: scene_eval(model, pictures=1, cases=cases, keep=tmp_path, bar=False, **how)
    edit = lambda **how: edit_eval(model, cases=edits, keep=tmp_path, bar=False, **how)
    same = [dict(nfe=8), dict(steps=4), dict(steps=4, text_scale=model.sampling.draw.text_scale, student="teacher")]
    assert len({scene(**how).seconds for how in same}) == 1  # a second drawing would have taken another time
    same = [dict(steps=2), dict(steps=2, student="teacher", image_scale=model.sampling.edit.image_scale)]
    assert len({edit(**how)["seconds_per_picture"] for how in same}) == 1
    assert len(list(tmp_path.glob("*.jsonl"))) == 2
    scene(steps=4, text_scale=1.0), edit(steps=2, image_scale=1.0), scene(steps=3), scene(nfe=6)
    assert len(list(tmp_path.glob("*.jsonl"))) == 6
    edits = bench.edit_set()[1 : 1 + len(edits)]  # as many others
    edit(steps=2)
    assert len(list(tmp_path.glob("*.jsonl"))) == 7


def verdicts(value, tasks=("single", "two"), prompts=5, pictures=2):
    rows = [
        dict(task=t, case=f"{t}{c}", right=value(t, c)) for t in tasks for c in range(prompts) for _ in range(pictures)
    ]
    return SceneScore({}, {}, 6, 6, 0.1, rows)


def test_a_difference_is_paired_by_prompt():
    """Two who are right on the same prompts differ by nothing, within a bound; right on others, by nothing within much
    more."""
    even, odd = verdicts(lambda t, c: c % 2), verdicts(lambda t, c: 1 - c % 2)
    same = scene_difference(even, even)["overall"]
    assert same["low"] < same["value"] == 0 < same["high"] and same["note"] == "20 pairs, no differences"
    apart = scene_difference(even, odd)["overall"]
    assert apart["low"] < same["low"] < apart["value"] < same["high"] < apart["high"]
    with pytest.raises(ValueError, match="same prompts"):
        scene_difference(even, verdicts(lambda t, c: 1, prompts=4))


def test_every_row_of_the_step_count_ablation_has_its_students(model, monkeypatch):
    asked = []

    def score(model, *, student, pictures, keep, bar, **how):
        asked.append((student, how))
        right = {"six": lambda t, c: 1, "multistep": lambda t, c: c > 0}.get(student, lambda t, c: 0)
        return replace(verdicts(right), nfe=how["steps"])

    monkeypatch.setattr("hb.eval.scene.scene_eval", score)
    rows = steps_ablation(model, steps=(50, 1), bar=False)
    assert [r["student"] for r in rows] == [None] * 4 + ["cfg", "six", "multistep", "other"]
    assert asked[-1] == ("other", dict(steps=6)) and asked[0] == ("teacher", dict(steps=50))
    assert [r.get("identity") for r in rows[4:]] == [s.fingerprint() for s in model.students.values()]
    ahead = {
        d["student"]: d for d in rows[5].pop("ahead")
    }  # of the one that serves, before those of its cost: not before itself
    assert set(ahead) == {"cfg", "multistep", "other"} and not any("ahead" in r for r in rows)
    assert ahead["multistep"]["value"] == 0.2 and ahead["other"]["value"] == 1.0 > ahead["other"]["low"] > 0.4


def test_speed_is_a_ratio_side_by_side(model):
    draw, edit = student_speed(model, "six", batch=1, repeats=1)
    assert (draw["nfe_teacher"], draw["nfe"], draw["nfe_ratio"]) == (100, 6, round(100 / 6, 4))
    assert (edit["nfe_teacher"], edit["nfe_ratio"]) == (132, 22.0)
    assert draw["low"] <= draw["ratio"] <= draw["high"] and set(draw["seconds"]["six"]) == set(
        draw["seconds"]["teacher"]
    )


@pytest.mark.parametrize("against, pictures", [([], 4), (["--against", "cfg"], 16)])
def test_a_difference_is_measured_on_more_pictures(model, tmp_path, monkeypatch, against, pictures):
    asked = []

    def score(model, *, pictures, **how):
        asked.append(pictures)
        return replace(verdicts(lambda t, c: 1), overall=dict(value=1, low=1, high=1))

    monkeypatch.setattr("hb.eval.scene.scene_eval", score)
    model.save_pretrained(tmp_path / "whole")
    main(
        ["eval", "scene", "--student", "six", *against, "--model", str(tmp_path / "whole"), "--results", str(tmp_path)]
    )
    assert set(asked) == {pictures} and len(asked) == 1 + bool(against)


def test_the_command_prints_the_difference(model, tmp_path, capsys):
    folder = tmp_path / "whole"
    model.save_pretrained(folder)
    args = ["--model", str(folder), "--results", str(tmp_path / "r"), "--limit", "1"]
    assert main(["eval", "scene", "--student", "six", "--nfe", "6", "--against", "cfg", "--pictures", "1", *args]) == 0
    said = capsys.readouterr().out
    assert "six, 6 NFE minus cfg at 6: lower end of the interval" in said and "attribution: six" in said
    (file,) = (tmp_path / "r").glob("*scene_six_nfe6*.json")
    kept = json.loads(file.read_text())
    assert kept["student"]["identity"] == model.students["six"].fingerprint() and "difference" in kept["result"]


@pytest.mark.parametrize("theirs", [1, 0])
def test_one_evaluation_is_held_to_a_share(model, tmp_path, monkeypatch, capsys, theirs):
    asked = []

    def score(model, *, student, pictures, **how):
        asked.append(pictures)
        right, nfe = ((lambda t, c: t == "single"), 1) if student == "cfg" else ((lambda t, c: theirs), 6)
        overall = dict(value=0.5 if nfe == 1 else theirs, low=0, high=1)
        return replace(verdicts(right), overall=overall, nfe=nfe)

    monkeypatch.setattr("hb.eval.scene.scene_eval", score)
    model.save_pretrained(tmp_path / "whole")
    args = ["--model", str(tmp_path / "whole"), "--results", str(tmp_path / "r"), "--json"]
    assert main(["eval", "scene", "--student", "cfg", "--nfe", "1", "--against", "six", *args]) == 0
    assert asked == [4, 4]  # sixteen where a difference of 0.01 is asked for
    numbers = {row["what"]: row for row in json.loads(capsys.readouterr().out)["numbers"]}
    assert not any("lower end" in what for what in numbers)  # that is what is asked of several evaluations
    assert numbers["cfg, 1 NFE minus six at 6"]["target"] is None  # the difference is printed, whatever theirs is
    share = numbers.get("SceneEval, share of six's")
    if theirs:
        assert (share["value"], share["target"], share["met"]) == (0.5, 0.97, False)
    else:  # nothing to be a share of, and nothing is lost
        assert share is None
