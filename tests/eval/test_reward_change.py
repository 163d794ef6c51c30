"""What training on a reward changed: differences are paired by prompt and noise, and every figure is of the pictures
that were drawn."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hb.cli.main import main
from hb.data.preference_pool import make_preferences, some_requests
from hb.eval.cache import digest, result_key
from hb.eval.protocol import as_seen, noise_seed
from hb.eval.reward_change import reward_change, rewarded_rows
from hb.infer.pipeline import Model
from hb.models.rewards import RewardConfig, RewardModel
from hb.train.reward import train_reward
from hb.world import benchmark as bench
from hb.world.annotator import Annotator, annotators, merits
from hb.world.judge.judge import check
from hb.world.judge.reading import read
from tests.eval.test_reward import draw_right

PEOPLE, CASES = annotators(2), bench.scene_set()


def rows(mu, right, n=12, tasks=("one", "two")):
    """Two pictures of each of n prompts; mu and right: of a picture, from its task, prompt and number."""
    whose = [(t, c, k) for t in tasks for c in range(n) for k in range(2)]
    verdict = lambda *at: dict(right=right(*at), merits=[right(*at), 0.5, 0.2, 0.1])
    of_each = lambda *at: dict(rewards=dict(a=mu(*at))) | verdict(*at)
    return [dict(task=t, case=c, nfe=1) | of_each(t, c, k) for t, c, k in whose]


def test_a_reward_that_rises_everywhere_by_the_same_has_no_spread():
    before = rows(lambda t, c, k: c + 0.1 * k, lambda t, c, k: c % 2)
    after = rows(lambda t, c, k: c + 0.1 * k + 0.25, lambda t, c, k: c % 2)
    got = reward_change(after, before, dict(people=PEOPLE))
    assert got["rewards"]["a"]["difference"]["value"] == pytest.approx(0.25)
    assert got["rewards"]["a"]["after"] - got["rewards"]["a"]["before"] == pytest.approx(0.25)
    assert got["right"]["difference"]["value"] == 0 and got["right"]["before"] == got["right"]["after"] == 0.5


def test_tasks_weigh_the_same_whatever_their_number_of_prompts():
    one = lambda gain: rows(lambda t, c, k: gain, lambda t, c, k: 0, n=12, tasks=("one",))
    two = lambda gain: rows(lambda t, c, k: gain, lambda t, c, k: 0, n=3, tasks=("two",))
    got = reward_change(one(1.0) + two(0.0), one(0.0) + two(0.0), {})
    assert got["rewards"]["a"]["difference"]["value"] == 0.5  # of all pictures it would be 0.8


def test_pairing_takes_out_what_prompts_differ_by():
    rng = np.random.default_rng(0)
    level, noise = 100 * rng.standard_normal(12), rng.standard_normal((12, 2))
    before = rows(lambda t, c, k: level[c], lambda t, c, k: 0)
    after = rows(lambda t, c, k: level[c] + 1 + noise[c, k], lambda t, c, k: 0)
    change = reward_change(after, before, {})["rewards"]["a"]["difference"]
    assert change["low"] < 1 + noise.mean() < change["high"] and change["high"] - change["low"] < 3


def test_a_utility_is_the_annotators_own_of_the_merits():
    person = Annotator(right=3.0)
    before = rows(lambda t, c, k: 0, lambda t, c, k: 0)
    after = rows(lambda t, c, k: 0, lambda t, c, k: int(c < 6))
    got = reward_change(after, before, dict(one=[person], two=[person, Annotator(right=1.0)]))
    assert got["utility"]["one"]["difference"]["value"] == pytest.approx(3.0 / 2)
    assert got["utility"]["two"]["difference"]["value"] == pytest.approx(2.0 / 2)


def test_coverage_is_compared_part_by_part():
    parts = lambda score: dict(parts=[dict(score=score, ceiling=0.8), dict(score=0.8, ceiling=0.8)])
    same = rows(lambda t, c, k: 0, lambda t, c, k: 0)
    got = reward_change(same, same, {}, (parts(0.4), parts(0.6)))["coverage"]
    assert (got["before"], got["after"]) == (0.875, 0.75) and got["difference"]["value"] == -0.125


def test_other_prompts_are_refused():
    one, other = (rows(lambda t, c, k: 0, lambda t, c, k: 0, n=n) for n in (3, 4))
    with pytest.raises(ValueError, match="cannot be paired"):
        reward_change(one, other, {})


@pytest.fixture(scope="module")
def reward(tiny):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return RewardModel(RewardConfig.of(tiny.bagel, "vision", inner=16, heads=2), tiny.bagel).eval()


def test_rows_are_what_each_picture_alone_has(tiny, reward):
    cases = [*CASES[:2], *CASES[-2:]]
    got = rewarded_rows(
        tiny, dict(r=reward), dict(r="0"), cases=cases, pictures=2, bar=False, student="teacher", steps=2
    )
    assert [row["case"] for row in got] == [0, 0, 1, 1, 2, 2, 3, 3]
    for i, row in enumerate(got):
        case = cases[i // 2]
        seen = as_seen(tiny.draw([case.prompt], seed=[noise_seed(0, i)], student="teacher", steps=2, warn=False))
        ids = torch.tensor([[tiny.text.start, *tiny.text.encode(case.prompt), tiny.text.end]])
        condition = reward.condition(tiny.bagel, ids, torch.tensor([ids.size(1)]))
        with torch.no_grad():
            assert row["rewards"]["r"] == pytest.approx(float(reward(seen * 2 - 1, condition)[0]), abs=1e-4)
        (reading,) = read(seen)
        assert row["right"] == check(reading, case.request).right
        assert row["merits"] == pytest.approx(list(merits(reading, case.request)), abs=1e-5)


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    place = tmp_path_factory.mktemp("rewarded")
    asked = some_requests(6, np.random.default_rng(0))
    pool = make_preferences([draw_right] * 2, asked, tiny.text, PEOPLE, side=64, bar=False)
    how = dict(steps=2, batch=4, bar=False, accelerator="cpu")
    one, two = (
        train_reward(place / form, tiny.bagel, dict(draw=pool), form=dict(features=form), **how)
        for form in ("vision", "latents")
    )
    Model(tiny.bagel, tiny.text, tiny.sampling, rewards=dict(vision=one, other=two)).save_pretrained(place / "m")
    return place / "m"


def test_the_command_compares_two_and_keeps_what_it_drew(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "scene_set", lambda: [*CASES[:2], *CASES[-2:]])
    words = ["eval", "reward", "--model", str(folder), "--reward", "other", "--pictures", "1", "--json"]
    words += ["--student", "teacher", "--steps", "1", "--against", "teacher"]
    assert main(words) == 0
    record = json.loads(capsys.readouterr().out)
    whats = [number["what"] for number in record["numbers"]]
    assert record["result"]["trained"] == "other" and record["result"]["nfe"][0] < record["result"]["nfe"][1]
    assert "reward other: teacher minus teacher" in whats
    for what in ("reward vision, held out", "right, by the judge", "coverage"):
        (line,) = (n for n in record["numbers"] if n["what"].startswith(f"{what}: "))
        assert line["target"] == -0.01 and line["value"] == line["low"]
    monkeypatch.setattr(Model, "draw", None)  # a second time no picture is drawn again
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["result"] == record["result"]


@pytest.mark.parametrize(
    "words, said",
    [
        (["--against", "teacher"], "say whose with --student"),
        (["--pictures", "2"], "say whose with --student"),
        (["--student", "teacher"], "say with --against"),
        (["--student", "teacher", "--against", "teacher", "--every", "9"], "do not go with --student"),
    ],
)
def test_options_that_do_not_go_together_get_a_sentence(folder, capsys, words, said):
    assert main(["eval", "reward", "--model", str(folder), *words]) == 2
    assert said in " ".join(capsys.readouterr().err.split()).replace("│ ", "")


def test_a_reward_that_is_not_there_gets_a_sentence(folder, capsys):
    words = ["--student", "teacher", "--against", "teacher", "--reward", "nothing"]
    assert main(["eval", "reward", "--model", str(folder), *words]) == 2
    assert "nothing" in capsys.readouterr().err


def test_other_rewards_make_another_result(tiny):
    """The key of a result holds what it was measured with: figures of two rewards never go into one file."""
    keys = []
    for mark in ("1", "2"):
        whole = Model(tiny.bagel, tiny.text, tiny.sampling, rewards=dict(r=SimpleNamespace(fingerprint=mark.upper)))
        keys.append(digest(result_key(whole, "reward_refl_nfe1", dict(student="refl"))))
    assert keys[0] != keys[1]
