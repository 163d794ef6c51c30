"""What the closing cells print is what is stored: figures with intervals and commands, ancestry, the toy's table."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from hb.course import evidence, toy
from hb.course import toy_one_step as one
from hb.course.toy import Setting


def _student(date, after=None, command="hb distill x", reads_vision=False, **options):
    made = dict(steps=100, date=date, command=command, settings=dict(after=after, options=options))
    return SimpleNamespace(provenance=made, reads_vision=reads_vision)


def _model(**students):
    return SimpleNamespace(students=students)


def test_a_figure_is_printed_with_its_interval_and_its_command(tmp_path):
    rows = [
        dict(what="coverage, 6 NFE", value=0.9, low=0.87, high=0.93),
        dict(what="color", value=0.5, low=None, high=None),
    ]
    record = dict(numbers=rows, command="hb eval coverage", date="2026-11-28", model=dict(name="nano", identity="feed"))
    (tmp_path / "coverage.json").write_text(json.dumps(record))
    said = evidence.numbers("coverage", "coverage", folder=tmp_path)
    assert said.splitlines()[0].split() == ["coverage,", "6", "NFE", "0.900", "(0.870", "to", "0.930)"]
    assert "hb eval coverage" in said and "feed" in said and "color" not in said
    assert "not there" in evidence.numbers("other", "x", folder=tmp_path)
    assert "hb bench other makes it" in evidence.numbers("other", "x", folder=tmp_path, made_by="hb bench other")


def test_a_diary_entry_ends_where_the_next_begins(tmp_path):
    (tmp_path / "DIARY.md").write_text("## A\n\n- **One.** `hb x`, 0.872\n  and more.\n- **Two.** Other.\n")
    said = evidence.diary("One", tmp_path)
    assert "hb x, 0.872 and more." in said and "Other" not in said
    assert "no entry 'Three'" in evidence.diary("Three", tmp_path)


@pytest.mark.parametrize("k", [0, 24])
def test_no_share_has_an_interval_of_width_zero(k):
    share = evidence.right_share(SimpleNamespace(tasks={name: SimpleNamespace(k=k // 2, n=12) for name in "ab"}))
    assert share["value"] == k / 24 and share["high"] - share["low"] > 0.1


def test_ancestry_is_what_the_students_files_hold():
    model = _model(
        cfg=_student("2026-11-28", command="hb distill cfg --start-from runs/a/cfg"),
        tscd=_student("2026-11-27", after="cfg"),
        dmdo=_student("2026-11-29", after="tscd"),
    )
    _, *lines = evidence.ancestry(model).splitlines()
    assert [line.split(maxsplit=3)[3] for line in lines] == [
        "an earlier cfg", "an earlier cfg than the one that ships", "the tscd of that time"
    ]  # fmt: skip
    assert evidence.ancestry(_model(), ["cfg"]).endswith("This model has no student 'cfg'.")


@pytest.mark.parametrize("sample", ["sample_student", "judged"])  # now, and as students of version 0.1 say it
def test_deviations_are_those_of_the_shipped_student(sample):
    student = _student("", renoise_student="fresh", adversarial=10.0, **{sample: "end"})
    said = evidence.deviations(_model(dmdo=student))
    for word in ("fresh", "the end of the trajectory", "weight 10", "guided teacher", "the clean latent", "refiner"):
        assert word in said


def test_a_log_is_printed_by_step():
    student = _student("")
    student.provenance["curve"] = [dict(step=50, discriminator=2.0, lr=0.1), dict(step=100, lr=0.1)]
    assert evidence.training(_model(tscd=student), "tscd", "discriminator").splitlines() == [
        "tscd, step 50", "discriminator  2"
    ]  # fmt: skip


# ---- the toy --------------------------------------------------------------------------------------------------------


def test_a_student_scored_at_the_end_is_scored_where_its_trajectory_ends():
    torch.manual_seed(0)
    net, z = toy.Net(), torch.randn(32, 2)
    for p in net.parameters():  # an untrained network's last layer is zero
        torch.nn.init.normal_(p, std=0.3)
    rollout = toy.sample(net, z, Setting())
    _, x0 = toy.scored(net, rollout, Setting(to_end=True), torch.Generator().manual_seed(0))
    assert torch.allclose(x0, rollout.x0, atol=1e-5)
    _, guess = toy.scored(net, rollout, Setting(), torch.Generator().manual_seed(0))
    assert not torch.allclose(guess, rollout.x0, atol=1e-2)


def test_the_data_are_near_five_blobs_and_a_point_is_not():
    data = toy.facts(toy.DATA.sample(2000, torch.Generator().manual_seed(1)))
    assert data.blobs == 5 and data.near > 0.9 and data.spread == pytest.approx(1, abs=0.05)
    assert toy.facts(torch.zeros(100, 2)).blobs == 0


def test_a_seed_gives_the_same_student_and_another_seed_another():
    torch.manual_seed(0)
    teacher, noise = toy.Net(), torch.randn(16, 2)
    made = [toy.distill(teacher, Setting(), noise, seed=seed, updates=4)[0] for seed in (0, 0, 1)]
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


def test_the_stored_table_has_every_setting_and_three_seeds():
    rows = toy.stored()["rows"]
    assert {row["name"] for row in rows} == set(toy.TABLE)
    assert all(sorted(r["seed"] for r in rows if r["name"] == name) == [0, 1, 2] for name in toy.TABLE)
    assert toy.table(toy.stored()).count("%") == len(rows)


# ---- the toy of one step ---------------------------------------------------------------------------------------------


def test_pairs_end_near_the_blobs_and_each_noise_has_one_end():
    z, end = one.ode_pairs(400, seed=3)
    again = one.ode_pairs(400, seed=3)
    assert torch.equal(end, again[1]) and toy.facts(end).near > 0.95 and toy.facts(z).near < 0.5


def test_regression_in_one_step_lowers_the_distance_to_the_ends_of_pairs():
    torch.manual_seed(0)
    teacher, (z, end) = toy.Net(), one.ode_pairs(200, seed=3)
    far = lambda updates: float(
        (one.distill(teacher, one.TABLE["regression"], z, updates=updates)[0] - end).norm(dim=1).mean()
    )
    assert far(120) < 0.8 * far(1)


@pytest.mark.parametrize("name", one.TABLE)
def test_every_setting_of_one_step_trains_and_repeats(name):
    torch.manual_seed(0)
    teacher, z, setting = toy.Net(), torch.randn(8, 2), replace(one.TABLE[name], warm=1)
    (ends, curve), (again, _), (other, _) = (one.distill(teacher, setting, z, seed=s, updates=2) for s in (0, 0, 1))
    assert torch.equal(ends, again) and not torch.equal(ends, other) and len(curve) == 2
    assert all(0 <= apart <= 1 for _, apart in curve)


def test_the_stored_table_of_one_step_has_every_setting_and_three_seeds():
    rows = toy.stored(one.RESULT)["rows"]
    assert {row["name"] for row in rows} == set(one.TABLE)
    assert all(sorted(r["seed"] for r in rows if r["name"] == name) == [0, 1, 2] for name in one.TABLE)
    assert one.table(toy.stored(one.RESULT)).count("%") == len(rows)


def test_students_of_one_evaluation_stand_side_by_side(tmp_path):
    def keep(name, what, value):
        row = dict(what=what, value=value, low=value - 0.02, high=value + 0.02)
        (tmp_path / f"{name}.json").write_text(json.dumps(dict(numbers=[dict(row, what="two"), row])))

    keep("scene_mine_nfe1", "SceneEval, mine, 1 NFE", 0.75)
    keep("scene_mine_nfe1_norefiner", "SceneEval, mine, 1 NFE", 0.6)
    keep("complex_mine_nfe1", "complex prompts, mine, 1 NFE", 0.4)
    *_, mine, missing = evidence.one_step_table("mine", "missing", folder=tmp_path).splitlines()
    assert mine.split() == "mine 0.750 (0.730 to 0.770) 0.600 - - 0.400".split()
    assert missing.split() == ["missing", *"-----"]
    shipped = evidence.one_step_table("one-nfe")
    for name, what in (("scene_one-nfe_nfe1", "SceneEval, "), ("edit_one-nfe_nfe1", "EditEval O")):
        numbers = json.loads((evidence.RESULTS / f"{name}.json").read_text())["numbers"]
        assert f"{next(n['value'] for n in numbers if n['what'].startswith(what)):.3f}" in shipped.splitlines()[-1]
