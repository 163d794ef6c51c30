"""How well a reward predicts clicks: the true utility reaches 1, a coin 0, and probabilities that are true are
calibrated."""

import json

import numpy as np
import pytest
import torch

from hb.cli.main import main
from hb.data.preference_pool import make_preferences, some_edits, some_requests
from hb.eval.reward import Clicks, calibration, held_out_requests, reward_eval, ways
from hb.infer.pipeline import Model
from hb.models.rewards import RewardConfig, RewardModel
from hb.train.reward import train_reward
from hb.world import benchmark as bench
from hb.world.annotator import annotators
from hb.world.language import parse
from hb.world.render import render
from hb.world.scene import sample_scenes

PEOPLE = annotators(3)


def draw_right(texts, seeds, before):
    return render(sample_scenes([parse(t) for t in texts], np.random.default_rng(seeds[0])), 64)


@pytest.fixture(scope="module")
def pools(tiny):
    rng = np.random.default_rng(0)
    asked, cases = some_requests(60, rng), some_edits(8, rng)
    done = lambda texts, seeds, before: render([case.edit.target for case in cases], 64)
    how = dict(side=64, bar=False)
    return dict(
        draw=make_preferences([draw_right] * 4, asked, tiny.text, PEOPLE, **how),
        edit=make_preferences([done, lambda t, s, b: b], cases, tiny.text, PEOPLE, **how),
    )


@pytest.fixture(scope="module")
def clicks(pools):
    return Clicks(pools, PEOPLE, 0)


def test_the_true_utility_is_the_ceiling(clicks):
    assert clicks.normalized(clicks.utility)["value"] == 1.0
    expected = [
        np.mean([(u[c[:, 0]] > u[c[:, 1]]) == (chosen == 0) for u, chosen in zip(clicks.utility[t], clicks.choice[t])])
        for t, c in clicks.pairs.items()
    ]
    assert clicks.accuracy(clicks.utility)["value"] == pytest.approx(np.mean(expected), abs=1e-3)


def test_a_constant_and_a_coin_are_worth_nothing(clicks):
    nothing = {task: np.zeros((1, u.shape[1])) for task, u in clicks.utility.items()}
    assert clicks.accuracy(nothing)["value"] == 0.5 and clicks.normalized(nothing)["value"] == 0.0
    rng = np.random.default_rng(0)
    coin = {"draw": rng.standard_normal((1, clicks.utility["draw"].shape[1]))}
    assert abs(clicks.normalized(coin)["value"]) < 0.25


def test_minus_the_utility_is_worth_minus_one(clicks):
    assert clicks.normalized({t: -u for t, u in clicks.utility.items()})["value"] == pytest.approx(-1.0)


def test_agreement_is_below_the_ceiling_and_that_of_the_probabilities(pools, clicks):
    """Two annotators agree with p q + (1 - p)(1 - q)."""
    expected = []
    for task, pair in clicks.pairs.items():
        p = [a.preference(u[pair[:, 0]], u[pair[:, 1]]) for a, u in zip(PEOPLE, clicks.utility[task])]
        expected.append(np.mean([p[i] * p[j] + (1 - p[i]) * (1 - p[j]) for i, j in ((0, 1), (0, 2), (1, 2))]))
    got = clicks.agreement()
    assert got["value"] == pytest.approx(np.mean(expected), abs=0.05)
    assert got["value"] < clicks.accuracy(clicks.utility)["value"]


def test_true_probabilities_are_calibrated_and_bold_ones_are_not():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1.0, 20_000)
    hit = rng.random(20_000) < p
    cluster = np.arange(20_000) // 4
    true = calibration(p, hit, cluster)
    assert true["error"] < 0.02 and len(true["bins"]) == 5
    assert all(b["frequency"]["low"] - 0.01 < b["predicted"] < b["frequency"]["high"] + 0.01 for b in true["bins"])
    bold = calibration(1 - (1 - p) / 4, hit, cluster)
    assert bold["error"] > 0.15 and all(b["predicted"] > b["frequency"]["value"] for b in bold["bins"])


def test_a_predicted_probability_belongs_to_the_side_with_the_larger_mu(clicks):
    """With mu the first annotator's utility and the sigma of the noise, he is calibrated."""
    mine = Clicks.__new__(Clicks)
    mine.__dict__ |= vars(clicks) | dict(choice={t: c[:1] for t, c in clicks.choice.items()})
    mu = {t: u[0] for t, u in clicks.utility.items()}
    sigma = {t: np.full(u.shape[1], np.log(PEOPLE[0].noise)) for t, u in clicks.utility.items()}
    assert mine.calibration(mu, sigma)["error"] < 0.08
    assert mine.calibration({t: -m for t, m in mu.items()}, sigma)["error"] > 0.5


def test_an_evaluation_of_a_reward_has_all_figures(tiny, pools, tmp_path):
    trained = train_reward(tmp_path, tiny.bagel, pools, steps=3, batch=8, bar=False, accelerator="cpu")
    got = reward_eval(dict(mine=trained.open(tiny.bagel)), pools, PEOPLE, annotators(3, 1000))
    mine = got["rewards"]["mine"]
    assert mine["tasks"].keys() == {"draw", "edit"} and mine["calibration"]["bins"]
    for figure in (mine["accuracy"], mine["normalized"], mine["others"], got["ceiling"], got["agreement"]):
        assert figure["low"] <= figure["value"] <= figure["high"]
    assert got["judge"]["accuracy"]["value"] >= 0.5  # it knows of the edits that were not done
    assert got["comparisons"] == dict(draw=len(pools["draw"]), edit=len(pools["edit"]))


def test_the_same_clicks_meet_every_reward(tiny, pools):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        reward = RewardModel(RewardConfig.of(tiny.bagel, "vision", inner=16, heads=2), tiny.bagel).eval()
    one, two = (reward_eval(dict(a=reward, b=reward), pools, PEOPLE, PEOPLE, seed=k) for k in (0, 1))
    assert one["rewards"]["a"] == one["rewards"]["b"] and one["ceiling"] != two["ceiling"]


def test_requests_are_of_the_evaluation_sets():
    asked = held_out_requests(40)
    assert len(asked["draw"]) == 15 + 8 and len(asked["edit"]) == 11
    assert set(asked["draw"]) <= {c.request for c in (*bench.scene_set(), *bench.complex_set())}


def test_pictures_are_of_the_default_student_and_the_teacher(tiny):
    assert ways(tiny) == [dict(student="teacher", steps=12)] * 4


def test_hb_eval_reward_keeps_its_numbers_and_a_figure(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hb.eval.reward.FEW_STEPS", 1)
    rng = np.random.default_rng(0)
    pool = make_preferences([draw_right] * 2, some_requests(6, rng), tiny.text, PEOPLE, side=64, bar=False)
    trained = train_reward(
        tmp_path / "run", tiny.bagel, dict(draw=pool), steps=2, batch=4, bar=False, accelerator="cpu"
    )
    Model(tiny.bagel, tiny.text, tiny.sampling, rewards=dict(vision=trained)).save_pretrained(tmp_path / "m")
    assert main(["eval", "reward", "--model", "m", "--every", "300", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    whats = [number["what"] for number in record["numbers"]]
    assert "normalized accuracy, reward vision" in whats and "agreement of two annotators" in whats
    assert list((tmp_path / "out" / "results").glob("m_reward_every300-*.png"))
    # a second time no picture is drawn again
    monkeypatch.setattr(Model, "draw", None)
    assert main(["eval", "reward", "--model", "m", "--every", "300", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["result"] == record["result"]


def test_a_model_without_rewards_gets_a_sentence(tiny_folder, capsys):
    assert main(["eval", "reward", "--model", str(tiny_folder)]) == 2
    assert "hb train reward" in capsys.readouterr().err
