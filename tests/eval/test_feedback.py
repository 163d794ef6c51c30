"""The observatory on a run: a row for each check, and the rule that ends a hacked run at its best check."""

import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from hb.eval.feedback import WatchReward
from hb.infer.artifacts import Student, fingerprint
from hb.models.conditioning import StudentModel
from hb.train.loggers import LogMeasured


class Scripted:
    """A reward that gives all pictures of its k-th check the same number."""

    def __init__(self, *values):
        self.values = iter(values)

    def condition(self, model, ids, length):
        return None

    def __call__(self, pixels, condition):
        return torch.full((len(pixels),), next(self.values)), None


@pytest.fixture
def run(tiny, tmp_path):
    """A run of four steps that is checked before and after each; the average's weights are the number of the step."""

    def of(trained, held, **options):
        stub = Student("refl", 1, 3.0, fingerprint(tiny.bagel), reads_vision=False)
        watch = WatchReward(
            tiny, stub, dict(mine=Scripted(*trained), other=Scripted(*held)), folder=tmp_path, pictures=2
        )
        logged = []
        trainer = SimpleNamespace(global_step=0, max_steps=4, should_stop=False, global_rank=0)
        trainer.loggers = [SimpleNamespace(log_metrics=lambda row, step: logged.append((step, row)))]
        module = SimpleNamespace(average=StudentModel(tiny.bagel), global_step=0)
        watched = LogMeasured(watch, 1, before=True, ends=watch.ends if options.get("stops", True) else None)
        at = lambda step: [p.data.fill_(float(step) / 10) for p in module.average.parameters()]
        at(0)
        watched.on_train_start(trainer, module)
        for step in range(1, 5):
            trainer.global_step = module.global_step = step
            at(step)
            watched.on_train_batch_end(trainer, module, None, None, step)
            if trainer.should_stop:
                break
        return logged, float(next(module.average.parameters()).detach().flatten()[0]), tmp_path

    return of


def test_a_hacked_run_ends_and_its_student_is_that_of_the_best_check(run):
    logged, weight, folder = run(trained=[0, 1, 2, 3, 4], held=[0, 1, 0, -1, -2])
    assert [step for step, _ in logged] == [1, 2, 3]  # two checks in a row below the one of step 1
    assert weight == pytest.approx(0.1)
    assert [row["watch_hacked"] for _, row in logged] == [0, 0, 1]
    rows = [json.loads(line) for line in (folder / "observatory.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2, 3] and rows[2]["reward other"] == 0
    assert {"right", "coverage", "slope", "reward mine", "hacked"} <= rows[0].keys()
    with Image.open(folder / "observatory-000003.png") as sheet:
        assert sheet.size[0] % 8 == 0


def test_without_the_rule_or_without_a_fall_a_run_goes_on(run):
    logged, weight, _ = run(trained=[0, 1, 2, 3, 4], held=[0, 1, 0, -1, -2], stops=False)
    assert len(logged) == 4 and weight == pytest.approx(0.4) and logged[-1][1]["watch_hacked"] == 1


def test_a_run_whose_held_out_rewards_rise_along_is_not_ended(run):
    logged, weight, _ = run(trained=[0, 1, 2, 3, 4], held=[0, 1, 2, 3, 4])
    assert len(logged) == 4 and weight == pytest.approx(0.4) and logged[-1][1]["watch_hacked"] == 0
