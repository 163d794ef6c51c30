"""What `hb distill` attaches to a run, and what it refuses before one begins."""

from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch

from hb.cli.distill import _one, _watching
from hb.course import toy
from hb.course.chapters import ch11
from hb.infer.artifacts import RewardCheckpoint, Student, fingerprint
from hb.infer.pipeline import Model
from hb.models.conditioning import StudentModel
from hb.models.rewards import RewardConfig, RewardModel
from hb.train.distill.specs import STAGES


@pytest.fixture
def rewarding(tiny):
    """The tiny model with two rewards."""
    config = RewardConfig.of(tiny.bagel, "vision", inner=16)
    with torch.random.fork_rng():
        weights = dict(RewardModel(config, tiny.bagel).head.state_dict())
    made = RewardCheckpoint(
        asdict(config), RewardCheckpoint.stamp(tiny.bagel), dict(draw=0.0, edit=0.0), weights=weights
    )
    return Model(tiny.bagel, tiny.text, tiny.sampling, "rewarding", rewards=dict(a=made, b=made))


@pytest.mark.parametrize(("goes_on", "reward", "names"), [(False, None, ["a", "b"]), (True, "b", ["b", "a"])])
def test_a_stage_with_a_reward_is_watched_by_all_rewards_the_trained_one_first(
    rewarding, tmp_path, goes_on, reward, names
):
    args = SimpleNamespace(watch=5, reward=reward, go_on_when_hacked=goes_on)
    instruments, rewards = _watching("refl", STAGES["refl"], rewarding, tmp_path, args)
    assert instruments.ends is None and (rewards.ends is None) is goes_on and rewards.before
    assert list(rewards.measure.observatory.rewards) == names
    assert len(_watching("adp", STAGES["adp"], rewarding, tmp_path, args)) == 1


def test_a_mean_with_a_student_of_another_form_is_refused_before_the_run(tiny, tmp_path):
    weights = {name: p.detach() for name, p in StudentModel(tiny.bagel).released_weights().items()}
    one = Student("dmdo", 6, 3.0, fingerprint(tiny.bagel), reads_vision=False, weights=weights)
    one.save(tmp_path / "six")
    args = SimpleNamespace(mix=(), data=None, new_guidance_embedding=False)
    args.start_from, args.mean_with = str(tmp_path / "six"), [str(tmp_path / "six")]
    students = dict(dmdo=one, regression=replace(one, stage="regression", steps=1))
    with pytest.raises(ValueError, match="one teacher and one form"):
        _one("continued", STAGES["continued"], tiny, tmp_path / "run", students, args, None)
    assert not (tmp_path / "run").exists()


def test_the_stored_hacked_run_shows_what_notebook_11_says():
    record = toy.stored(ch11.HACKED)
    first, last = record["rows"][0], record["rows"][-1]
    rises = [name for name in ("reward vision", "reward without-vision") if last[name] > first[name]]
    falls = [name for name in ("right", "clean", "coverage") if last[name] < first[name]]
    assert len(rises) == 2 and len(falls) == 3
    assert len(ch11.hacked_table(record).splitlines()) == len(record["rows"]) + 2
