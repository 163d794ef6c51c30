"""Two teachers of one student: each has the rows of a batch that it is right about, and nothing else changes."""

import copy
from dataclasses import replace

import pytest
import torch

from hb.cli.main import main
from hb.data.records import unpack
from hb.models.checkpoint import save_model
from hb.models.conditioning import StudentModel
from hb.seeding import seeded_generator
from hb.train.distill.cfg import CFGDistillation
from hb.train.distill.recipe import asks_teacher
from hb.train.distill.second_teacher import SecondTeacher, says_much
from hb.train.distill.specs import STAGES
from hb.train.distill.stage import Stage
from hb.world.benchmark import complex_set, scene_set
from tests.train.distill.conftest import GUIDANCE, bare, shake, stage_batch_of


@pytest.fixture
def other(teacher):
    """The teacher with other generation weights, which reads as it does."""
    model = copy.deepcopy(teacher)
    for part in model.generation_branch():
        shake(part)
    return model.requires_grad_(False)


def guided(teacher, second, batch):
    t = torch.linspace(0.3, 0.9, batch.size)
    with torch.no_grad():
        stage = bare(Stage, guidance=GUIDANCE, teacher=teacher, second_teacher=second)
        return stage.guided(batch.latent, t, batch)


def much(monkeypatch, *rows):
    """Only the prompts of these rows of a batch say much."""
    answers = iter([])

    def says(record):
        return next(answers)

    def records(batch):
        nonlocal answers
        answers = iter([i in rows for i in range(len(batch["draw_record"]))])

    monkeypatch.setattr("hb.train.distill.second_teacher.says_much", says)
    return records


@pytest.mark.parametrize("rows", [(), (0,), (1,), (0, 1)])
def test_each_teacher_has_its_rows(teacher, other, pool, monkeypatch, rows):
    batch = stage_batch_of(teacher, pool, "draw")
    first, second = guided(teacher, None, batch), guided(other, None, batch)
    assert (first - second).abs().amax((1, 2)).min() > 0.01
    much(monkeypatch, *rows)(batch.source)
    mixed = guided(teacher, SecondTeacher(other), batch)
    of_second = torch.isin(batch.rows, torch.tensor(rows, dtype=torch.long))
    assert torch.equal(mixed[~of_second], first[~of_second])
    assert torch.allclose(mixed[of_second], second[of_second], atol=1e-5)


def test_edits_are_the_first_teachers(teacher, other, pool):
    batch = stage_batch_of(teacher, pool, "edit")
    assert torch.equal(guided(teacher, SecondTeacher(other), batch), guided(teacher, None, batch))


def test_a_prompt_of_scene_eval_says_little_and_most_complex_ones_much():
    """The two sets on which a student of two teachers is measured: 590 of 600, and all of three things and more."""
    assert sum(says_much(case.request) for case in scene_set()) == 10
    assert all(says_much(case.request) for case in complex_set() if case.task[0] in "34")
    assert not says_much("a prompt of one's own pictures")


def test_a_selected_batch_still_says_which_prompt_is_whose(teacher, pool):
    batch = stage_batch_of(teacher, pool, "draw")
    last = batch.select(torch.arange(batch.size - 2, batch.size))
    rows = SecondTeacher(teacher).rows
    kept = [int(row) + batch.size - 2 for row in rows(last)]
    assert kept == [int(row) for row in rows(batch) if row >= batch.size - 2]
    assert len(batch.source["draw_record"]) == 2 and unpack(batch.source["draw_record"][0])


def test_a_model_that_reads_in_another_way_is_refused(teacher, other, tmp_path, text):
    save_model(other, tmp_path / "drawing", text)
    assert SecondTeacher.beside(teacher, tmp_path / "drawing").model.config == teacher.config
    with torch.no_grad():
        other.embed_tokens.weight.add_(0.1)
    save_model(other, tmp_path / "reading", text)
    with pytest.raises(ValueError, match="reading reads prompts or encodes pictures with other weights"):
        SecondTeacher.beside(teacher, tmp_path / "reading")


def test_stages_that_ask_no_teacher_have_no_second_one():
    asking = {name for name, spec in STAGES.items() if asks_teacher(spec)}
    assert {"cfg", "dmdo", "dmd2"} <= asking
    assert not asking & {"tscd", "dmdo-literal", "continued", "adp"}


def test_stage_one_learns_from_both(teacher, other, pool, monkeypatch):
    """Its loss against a student that is the teacher: zero where nothing is guided, but for the second one's rows."""
    still = {task: replace(how, text_scale=1.0, image_scale=1.0) for task, how in GUIDANCE.items()}
    batch = stage_batch_of(teacher, pool, "draw", deployed=1.0)
    ones = replace(batch, text_scale=torch.ones_like(batch.text_scale))
    losses = {}
    for rows in ((), (0,), (0, 1)):
        stage = CFGDistillation(
            teacher, StudentModel(teacher), guidance=still, total=10, second_teacher=SecondTeacher(other)
        )
        much(monkeypatch, *rows)(ones.source)
        losses[rows] = stage.student_loss(ones, seeded_generator(3)).item()
    assert losses[()] < 1e-9 < losses[0,] < losses[0, 1]


def test_the_option_reaches_the_stage_or_is_refused(tiny_folder, other, text, tmp_path, monkeypatch, capsys):
    def ran(*_, second_teacher, **__):
        raise ValueError(f"asked is {second_teacher and second_teacher.model.config.latent_side}")

    monkeypatch.setattr("hb.cli.distill.run_stage", ran)
    save_model(other, tmp_path / "second", text)
    argv = ["--model", tiny_folder, "--folder", tmp_path / "run", "--pool", 2, "--accelerator", "cpu"]
    argv, second = [*map(str, argv)], ["--second-teacher", str(tmp_path / "second")]
    assert main(["distill", "cfg", *argv]) == 2 and "asked is None" in capsys.readouterr().err
    assert main(["distill", "cfg", *argv, *second, "--fresh"]) == 2
    assert f"asked is {other.config.latent_side}" in capsys.readouterr().err
    assert main(["distill", "continued", *argv, *second]) == 2
    assert "--second-teacher does not go with the stage 'continued'" in capsys.readouterr().err
