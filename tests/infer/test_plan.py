"""The words of a call become a plan: grids, costs, settings."""

import dataclasses

import pytest
import torch

from hb.guidance import Guidance
from hb.infer.plan import Sampling, make_plan


def test_the_published_grid_costs_98_and_131(tiny, picture):
    assert tiny.draw("a circle", released_steps=True).nfe == 98
    assert tiny.edit(picture, "remove the star", released_steps=True).nfe == 131
    interval = dataclasses.replace(tiny.sampling, draw=Guidance(4.0, interval=(0.4, 1.0)))
    assert tiny.draw("a circle", released_steps=True, sampling=interval).nfe == 90
    always = dataclasses.replace(tiny.sampling, edit=Guidance(4.0, 2.0, renorm="text_channel"))
    assert tiny.edit(picture, "remove the star", released_steps=True, sampling=always).nfe == 147


def test_sampling_settings_survive_the_folder(tiny, tmp_path):
    ours = Sampling(draw=Guidance(3.0), steps=20, shift=2.0)
    ours.save(tmp_path)
    assert Sampling.load(tmp_path) == ours


def test_options_that_mean_the_same_give_equal_plans(tiny):
    """What differs in words only is one plan, and so one entry of the evaluation's cache."""
    plans = [
        tiny.plan("draw", nfe=100),
        tiny.plan("draw", steps=50, student="teacher"),
        make_plan("draw", tiny.sampling, {}, text_scale=tiny.sampling.draw.text_scale),
    ]
    assert all(plan.to_dict() == plans[0].to_dict() for plan in plans) and plans[0].nfe == 100
    assert plans[0].to_dict() != tiny.plan("draw", steps=49).to_dict()
    student, grid, guidance = tiny.settle("draw", nfe=100)  # the form until 0.1
    assert (student, guidance) == (None, plans[0].guidance) and torch.equal(grid, plans[0].grid)


def test_a_plan_is_frozen(tiny):
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny.plan("edit").student = "six"
