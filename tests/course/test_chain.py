"""The strip that 07, 08 and 09 end with, its numbers from files, and the knob of 07: one noise, the chain's own
order."""

import json

import pytest
import torch
from matplotlib.colors import to_hex

from hb import plots
from hb.course import chain
from hb.course.chapters import ch07
from hb.eval.cache import identity
from hb.infer.pipeline import Model
from hb.world.judge.reading import read
from tests.cli.test_students import parcel

TEACHERS = ["teacher, 8 NFE", "teacher, unguided, 6 NFE"]


@pytest.fixture(scope="module")
def model(tiny_folder):
    """The tiny model with some velocity, and students in the order in which files lie in a folder. Untrained: each
    draws what the unguided teacher draws from the same noise."""
    model = Model.from_pretrained(tiny_folder)
    with torch.no_grad():
        model.bagel.latent.output.weight.normal_(0, 0.2, generator=torch.Generator().manual_seed(1))
    model.students = {name: parcel(model, any_steps=name == "cfg") for name in ("cfg", "dmdo", "other", "tscd")}
    return model


@pytest.fixture(scope="module", autouse=True)
def small():
    """Strips of two prompts, read as black: an untrained model draws noise, and the judge takes long to read that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chain, "CHAIN_PROMPTS", chain.CHAIN_PROMPTS[:2])
        patch.setattr(chain, "read", lambda pictures: read(torch.zeros_like(pictures)))
        yield


@pytest.fixture(scope="module")
def strips(model, small):
    """The strip of each stage, drawn once, with a hurried teacher."""
    return {stage: chain.chain_strip(model, stage, steps=4) for stage in ("cfg", "tscd", "dmdo")}


def _rows(chart):
    return [ax.get_ylabel() for ax in chart.axes if ax.get_ylabel()]


def _pictures(chart):
    """[rows, columns, H, W, 3] as shown."""
    shown = torch.stack([torch.as_tensor(ax.images[0].get_array()) for ax in chart.axes])
    return shown.unflatten(0, (len(_rows(chart)), -1))


# ---- the strip ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage, made", [("cfg", 1), ("tscd", 2), ("dmdo", 3)])
def test_the_strip_is_in_the_chains_order_and_ends_where_the_story_is(strips, stage, made):
    students = ["cfg, 6 NFE", "tscd, 6 NFE", "dmdo, 6 NFE"]
    assert _rows(strips[stage]) == TEACHERS + students[:made]


def test_every_row_begins_with_the_same_noise(strips):
    """Untrained students are the unguided teacher, and six steps are six steps: only other noise could tell them
    apart."""
    teacher, unguided, *students = _pictures(strips["dmdo"])
    assert all(torch.equal(row, unguided) for row in students) and not torch.equal(teacher, unguided)
    assert len({tuple(picture.flatten().tolist()) for picture in unguided}) == len(chain.CHAIN_PROMPTS)


def test_every_notebooks_strip_has_the_same_first_rows(strips):
    shown = [_pictures(strip) for strip in strips.values()]
    for earlier, later in zip(shown, shown[1:]):
        assert torch.equal(earlier, later[: len(earlier)])


def test_a_stage_that_is_not_of_the_chain_is_refused(model):
    for stage in ("other", "teacher", None):
        with pytest.raises(ValueError, match="cfg, tscd, dmdo"):
            chain.chain_strip(model, stage)


class _Drawer:
    """Draws a red circle, whatever is asked; its students too."""

    students = dict(cfg=None)

    def draw(self, prompts, steps, seed, student, text_scale=4.0, warn=True):
        from hb.infer.pipeline import Pictures
        from hb.world.render import render
        from hb.world.scene import Scene, Thing

        pixels = render([Scene((Thing("circle", "red", "large", 0.5, 0.5),))]).expand(len(prompts), -1, -1, -1)
        return Pictures(pixels, tuple(prompts), steps, steps, {}, tuple(range(len(prompts))))


def test_frames_of_the_strip_are_the_judges(monkeypatch):
    monkeypatch.setattr(chain, "read", read)
    strip = chain.chain_strip(_Drawer(), "cfg")
    assert _rows(strip) == ["teacher, 50 NFE", TEACHERS[1], "cfg, 6 NFE"]  # it hurries only where it is asked to
    frames = [to_hex(ax.spines["top"].get_edgecolor()) for ax in strip.axes]
    asked = [plots.RIGHT if prompt == "a red circle" else plots.WRONG for prompt in chain.CHAIN_PROMPTS]
    assert frames == asked * 3 and plots.RIGHT in asked


# ---- its numbers ----------------------------------------------------------------------------------------------------


def _score(value, **more):
    overall = dict(value=value, low=value - 0.02, high=value + 0.01, n=600)
    return dict(overall=overall, tasks={name: dict(n=300, value=value) for name in ("single", "two")}, **more)


def _record(of, name, result, student=None, **more):
    who = student and dict(name=student, identity=of.students[student].fingerprint())
    return (
        dict(name=name, command=f"hb eval {name}", model=dict(identity=identity(of)), student=who, result=result) | more
    )


def _ladder(of, **more):
    def rung(value, student, guided, steps, nfe):
        whose = dict(identity=of.students[student].fingerprint()) if student in of.students else {}
        return _score(value, student=student, guided=guided, steps=steps, nfe=nfe, **whose)

    rungs = [
        rung(0.91, None, True, 50, 100.0),
        rung(0.41, None, True, 6, 12.0),
        rung(0.61, None, False, 6, 6.0),
        rung(0.71, "cfg", True, 6, 6.0),
        rung(0.90, "cfg", True, 50, 50.0),
        rung(0.95, "dmdo", True, 6, 6.0),
    ]
    return _record(of, "scene_steps_ablation", dict(rows=rungs), **more)


def _write(folder, *records):
    for record in records:
        (folder / f"{record['name']}.json").write_text(json.dumps(record))
    return folder


def test_a_table_by_task_has_a_line_for_each_link_that_the_file_is_about(model, tmp_path):
    said = chain.by_task(model, chain.chain_until("tscd"), _write(tmp_path, _ladder(model)))
    head, *lines = said.splitlines()
    assert head.split() == list(_ladder(model)["result"]["rows"][0]["tasks"])
    assert [line.split(",")[0] for line in lines] == ["teacher", "teacher", "cfg"]
    assert "another model" in chain.by_task(
        model, chain.CHAIN, _write(tmp_path, _ladder(model, model=dict(identity="feed")))
    )


def test_fifty_steps_of_a_student_are_measured_like_any_link(model, tmp_path):
    link = chain.Link("cfg", 50, "", student="cfg")
    assert "0.900" in chain.measured(model, [link], _write(tmp_path, _ladder(model)))


def test_numbers_are_the_files_each_with_its_interval_and_its_command(model, tmp_path):
    own = _record(model, "scene_cfg_nfe6", _score(0.723, nfe=6.0), student="cfg")
    head, *lines = chain.chain_score(model, "cfg", _write(tmp_path, _ladder(model), own)).splitlines()
    assert [line.partition(" NFE")[0] for line in lines] == ["teacher, 100", "teacher, unguided, 6", "cfg, 6", "cfg, 6"]
    assert [line.partition(" NFE")[2].split()[0] for line in lines] == ["0.910", "0.610", "0.710", "0.723"]
    assert "0.703 to 0.733" in lines[3] and lines[3].endswith("hb eval scene_cfg_nfe6") and " 600 " in lines[3]
    assert all(line.endswith("hb eval scene_steps_ablation") for line in lines[:3])


def test_another_models_numbers_are_not_shown(model, tmp_path):
    said = chain.chain_score(model, "dmdo", _write(tmp_path, _ladder(model, model=dict(identity="feed"))))
    assert said.count("another model (feed") == 1 and identity(model) in said and "hb eval scene_steps_ablation" in said
    assert "0.9" not in said and "interval" not in said


def test_another_students_numbers_are_not_shown(model, tmp_path):
    other = _record(model, "scene_cfg_nfe6", _score(0.99, nfe=6.0), student="cfg")
    other["student"]["identity"] = "feed"
    said = chain.chain_score(model, "cfg", _write(tmp_path, _ladder(model), other))
    assert "another student 'cfg'" in said and "0.99" not in said and "0.710" in said


def test_a_rung_of_another_student_is_not_shown(model, tmp_path):
    """cfg is trained anew, and the ladder has not been climbed since."""
    ladder = _ladder(model)
    ladder["result"]["rows"][3]["identity"] = "feed"
    said = chain.chain_score(model, "cfg", _write(tmp_path, ladder))
    assert (
        "scene_steps_ablation.json is about another student 'cfg'; measure again" in said
        and "0.710" not in said
        and "0.910" in said
    )


def test_what_was_not_measured_is_said(model, tmp_path):
    assert (
        chain.chain_score(model, "cfg", tmp_path)
        == "scene_steps_ablation.json is not there: hb eval scene --steps-ablation."
    )
    said = chain.chain_score(model, "tscd", _write(tmp_path, _ladder(model)))
    assert "scene_steps_ablation.json has no row for 'tscd'" in said and "0.710" in said


def test_a_stage_that_the_model_has_no_student_of_is_said_and_has_no_row(model, tmp_path):
    bare = Model(model.bagel, model.text, model.sampling)
    assert _rows(chain.chain_strip(bare, "cfg", steps=4)) == TEACHERS
    said = chain.chain_score(bare, "cfg", _write(tmp_path, _ladder(model)))
    assert "no student 'cfg' yet" in said and "0.910" in said and "0.710" not in said


# ---- the knob -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grid(model):
    return ch07.scale_grid(model, prompts=chain.CHAIN_PROMPTS[:2], steps=3, scales=(1.0, 2.0, 5.0))


def test_teacher_and_student_of_the_knob_share_their_noise(grid):
    """At scale 1 an untrained student is the teacher."""
    assert torch.equal(grid.teachers[1.0].pixels, grid.students[1.0].pixels)
    assert grid.teachers[1.0].seeds == grid.teachers[5.0].seeds


def test_the_knob_tells_who_hears_it(grid):
    """An untrained student says plain v at every scale; the teacher does not."""
    (teacher, student), still = grid.moved(5.0), grid.moved(1.0)
    assert teacher > 1e-4 and student == 0 and still == (0, 0)


def test_turning_the_knob_draws_nothing_anew(grid, monkeypatch):
    monkeypatch.setattr(Model, "draw", lambda *a, **k: pytest.fail("drawn while a slider moved"))
    box = ch07.student_scale(grid)
    before = box.picture.png
    box.controls["scale"].value = 5.0
    assert box.picture.png != before and box.note.value.endswith("cfg 0.000")


def test_the_knobs_figure_has_every_scale_and_the_metered_costs(grid):
    chart = ch07.student_scale_figure(grid)
    assert _rows(chart) == ["teacher, 3 or 6 NFE", "cfg, 3 NFE"]
    assert [ax.get_title() for ax in chart.axes[:3]] == ["scale 1", "scale 2", "scale 5"]
    assert torch.equal(_pictures(chart)[0, 0], _pictures(chart)[1, 2])
