"""The instruments of one-step training: limits of the spread, and what a run logs."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hb.eval.one_step import LITE_PROMPTS, spread_within_prompts, watching
from hb.infer.artifacts import Student, fingerprint
from hb.models.conditioning import StudentModel
from hb.train.loggers import LogMeasured
from hb.world import benchmark as bench
from hb.world.language import parse
from hb.world.render import render
from hb.world.scene import sample_scenes


@dataclass
class Drawn:
    pixels: torch.Tensor


def drawing(tiny, make):
    """The tiny model's autoencoder, with pictures from `make(prompts)` in the place of its own."""
    return SimpleNamespace(bagel=tiny.bagel, draw=lambda prompts, **_: Drawn(make(prompts)))


def rendered(prompts):
    return render(sample_scenes([parse(p) for p in prompts], np.random.default_rng(5)), 64)


def test_rendered_pictures_spread_as_rendered_pictures_do_and_one_picture_not_at_all(tiny):
    got = spread_within_prompts(drawing(tiny, rendered), count=24)
    assert got == pytest.approx(1.0, abs=0.12)
    same = lambda prompts: rendered(prompts)[:1].expand(len(prompts), -1, -1, -1)
    assert spread_within_prompts(drawing(tiny, same), count=8) < 1e-6
    half = lambda prompts: torch.cat([rendered(prompts[: len(prompts) // 2]).mean(0, keepdim=True)] * 1).expand(
        len(prompts), -1, -1, -1
    )
    assert spread_within_prompts(drawing(tiny, half), count=8) < 0.5


def test_prompts_of_the_instruments_are_in_no_evaluation():
    asked = {case.prompt for case in bench.other_complex(80, 1)}
    assert len(asked) >= 70 and not asked & {case.prompt for case in bench.complex_set()}
    assert {len(case.request.wishes) for case in bench.other_complex(80, 1)} == {1, 2, 3, 4}
    assert len(set(LITE_PROMPTS)) == 8


def test_a_run_that_is_watched_logs_the_numbers_at_its_steps(tiny):
    branch = StudentModel(tiny.bagel)
    stub = Student("adp", 1, 3.0, fingerprint(tiny.bagel), reads_vision=False)
    logged = []
    logger = SimpleNamespace(log_metrics=lambda row, step: logged.append((step, row)))
    watch = LogMeasured(watching(tiny, stub, prompts=6, per_prompt=2), every=2)
    module = SimpleNamespace(average=branch)
    for step in (1, 2):
        trainer = SimpleNamespace(global_step=step, max_steps=9, should_stop=False, global_rank=0, loggers=[logger])
        watch.on_train_batch_end(trainer, module, None, None, step)
    assert [step for step, _ in logged] == [2]
    names = {"right", "complex", "edits", "halves", "spread", "coverage_color", "coverage_size", "coverage_background"}
    assert logged[0][1].keys() == {f"watch_{name}" for name in names}
    assert not tiny.students  # the model is given back as it came
