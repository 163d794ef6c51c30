"""Chapter 11: clicks, closed forms on the line, and reward feedback in the plane."""

import math

import numpy as np
import pytest
import torch

from hb.course import evidence, line, toy
from hb.course import toy_reward as feedback
from hb.course.chapters import ch11
from hb.course.clicks import Comparison, beliefs
from hb.world.annotator import Annotator

# ---- ten clicks ------------------------------------------------------------------------------------------------------


def _pairs(n=4):
    pictures = torch.rand(2 * n, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return [Comparison(ch11.PROMPTS[i], (pictures[2 * i], pictures[2 * i + 1])) for i in range(n)]


def test_a_stand_in_clicks_where_nobody_did_and_writes_nothing(tmp_path):
    pairs = _pairs()
    clicker, of_pairs = ch11.ten_clicks(pairs, tmp_path / "clicks"), ch11.pair_merits(pairs)
    chosen, who = ch11.choices(clicker.preferences, of_pairs, Annotator())
    assert who == "stand-in" and set(chosen) <= {0, 1} and len(chosen) == 4
    assert not (tmp_path / "clicks").exists()


def test_a_persons_clicks_come_before_the_stand_ins(tmp_path):
    pairs = _pairs()
    clicker = ch11.ten_clicks(pairs, tmp_path)
    for choice in (1, None, 0):
        clicker.choose(choice)
    chosen, who = ch11.choices(clicker.preferences, ch11.pair_merits(pairs), Annotator())
    assert who == "me" and chosen == [1, None, 0, None]


def test_a_careful_stand_in_chooses_what_is_worth_more():
    of_pairs = torch.rand(50, 2, 4, generator=torch.Generator().manual_seed(1))
    person = Annotator(noise=0.0, careless=0.0)
    chosen, _ = ch11.choices([], of_pairs, person)
    worth = of_pairs @ torch.from_numpy(person.weights).float()
    assert chosen == worth.argmax(1).tolist()


def test_the_figures_say_what_was_chosen_and_that_sigma_shrinks():
    figure = ch11.ten_clicks_figure(_pairs(2), [1, None], "me")
    signs = [[text.get_text() for text in ax.texts] for ax in figure.axes]
    assert signs == [[], [], ["✓"], []]  # left, left, right, right
    steps = beliefs(torch.rand(6, 4), torch.rand(6, 4), scale=2.0)
    titles = [ax.get_title() for ax in ch11.beliefs_figure(steps).axes]
    assert titles == ["right", "cleanliness", "contrast", "balance"]


def test_sigma_is_learnt_in_closed_form_and_goes_to_zero_in_the_mean_of_draws():
    ax = ch11.sigma_figure(share=0.75, gap=1.0).axes[0]
    exact, averaged = [float(ax.lines[i].get_xdata()[0]) for i in (1, 3)]  # the two ▼
    assert torch.special.ndtr(torch.tensor(1 / (2**0.5 * exact))) == pytest.approx(0.75, abs=0.01)
    assert averaged == pytest.approx(float(ax.lines[0].get_xdata()[0]))  # the smallest sigma there is


# ---- the line --------------------------------------------------------------------------------------------------------


def test_a_tilted_normal_is_a_normal_that_has_moved():
    x = line.LINE
    q = line.tilted((-0.5 * (x / 0.5) ** 2).log_softmax(0), 2.0 * x, 0.5)
    mean = float((q * x).sum())
    assert mean == pytest.approx(2 * 0.25 / 0.5, abs=1e-3)
    assert float((q * (x - mean) ** 2).sum()) ** 0.5 == pytest.approx(0.5, abs=1e-3)


def test_no_distribution_beats_the_tilted_one_and_its_value_is_beta_log_z():
    log_p, _, learnt = line.on_the_line()
    for beta in (0.3, 2.0):
        value = lambda q, beta=beta: float((q * learnt).sum()) - beta * line.kl(q, log_p)
        best = line.tilted(log_p, learnt, beta)
        assert value(best) == pytest.approx(float(beta * (log_p + learnt / beta).logsumexp(0)), abs=1e-3)
        others = [line.tilted(log_p, learnt, b) for b in (0.7 * beta, 1.4 * beta)] + [log_p.exp()]
        assert all(value(q) < value(best) for q in others)


@pytest.mark.parametrize("n", [2, 4, 16])
def test_best_of_n_moves_by_its_formula_and_matches_draws(n):
    log_p, true, _ = line.on_the_line()
    q = line.best_of(n, log_p, true)
    assert line.kl(q, log_p) == pytest.approx(math.log(n) - (n - 1) / n, abs=0.02)
    rows = np.random.default_rng(0).choice(len(true), (20_000, n), p=(p := log_p.double().exp().numpy()) / p.sum())
    assert float((q * true).sum()) == pytest.approx(float(true[torch.from_numpy(rows)].max(1).values.mean()), abs=0.02)


def test_rewards_on_the_line_agree_up_to_the_edge_and_part_beyond_it():
    _, true, learnt = line.on_the_line()
    inside = line.LINE <= line.EDGE
    assert torch.equal(true[inside], learnt[inside]) and (learnt > true)[~inside].all()
    assert learnt.argmax() == len(learnt) - 1 and true.argmax() < int(inside.sum())


def test_a_hinge_ends_the_push_at_the_threshold_and_a_mean_does_not():
    x = torch.randn(500, generator=torch.Generator().manual_seed(0))
    end = line.follow(x, torch.tensor(1.0), 0.5, steps=600)
    assert torch.equal(end[x >= 0.5], x[x >= 0.5])
    assert torch.allclose(end[x < 0.5], torch.tensor(0.5), atol=0.011)
    assert torch.allclose(line.follow(x, torch.tensor(1.0)), x + 3, atol=1e-4)


def test_the_frontier_rises_for_the_learnt_reward_and_turns_for_the_utility():
    ax = line.frontier_figure().axes[0]
    learnt, true = (ax.lines[i].get_ydata() for i in (0, 2))
    assert (np.diff(learnt) > -1e-6).all() and np.max(true) > max(true[0], true[-1]) + 0.05


# ---- the plane -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rewards():
    points = toy.DATA.sample(1000, torch.Generator().manual_seed(0))
    return feedback.three_rewards(points, n=400, steps=60)


@pytest.fixture
def generator():
    torch.manual_seed(0)
    return toy.Net()


def test_clicks_follow_the_utility_and_the_same_pairs_can_be_clicked_again():
    points = 2 * torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    one, same, again = (feedback.clicks(points, 500, 3, again=k) for k in (0, 0, 1))
    assert torch.equal(one.first, again.first) and torch.equal(one.choice, same.choice)
    assert 0.01 < float((one.choice != again.choice).float().mean()) < 0.4
    better = feedback.utility(one.better) > feedback.utility(one.worse)
    assert 0.8 < float(better.float().mean()) < 1


def test_a_learnt_reward_predicts_clicks_and_has_a_unit(rewards):
    points = toy.DATA.sample(1000, torch.Generator().manual_seed(1))
    test = feedback.clicks(points, 1000, 7)
    for reward in rewards:
        assert ch11.predictions(reward, test)[1].mean() > 0.65
    compared = feedback.clicks(toy.DATA.sample(1000, torch.Generator().manual_seed(0)), 400, 0)
    mu, _ = rewards.trained(torch.cat([compared.first, compared.second]))
    assert float(mu.mean()) == pytest.approx(0, abs=1e-4) and float(mu.std()) == pytest.approx(1, abs=1e-4)
    assert "normalized" in ch11.scores({"mine": rewards.trained}, test, feedback.clicks(points, 1000, 7, again=1))


def test_coverage_is_one_for_a_fifth_each_and_less_for_what_is_missing_or_far():
    assert feedback.coverage(toy.DATA.means) == pytest.approx(1)
    assert feedback.coverage(toy.DATA.means[:1].expand(5, 2)) == pytest.approx(0.2)
    assert feedback.coverage(toy.DATA.means + 5) == 0


@pytest.mark.parametrize("name", feedback.TABLE)
def test_every_setting_of_feedback_trains_and_repeats(name, generator, rewards):
    setting = feedback.TABLE[name]
    run, again = (feedback.feedback(generator, setting, rewards, updates=10, noises=50) for _ in range(2))
    assert [s.step for s in run.seen] == [0, 10]
    assert torch.equal(run.seen[1].points, again.seen[1].points)
    assert not torch.equal(run.seen[0].points, run.seen[1].points)


def test_a_reward_alone_rises_where_nothing_else_is_asked_for(generator, rewards):
    run = feedback.feedback(generator, feedback.TABLE["reward alone"], rewards, updates=40, noises=100)
    assert run.seen[-1].trained.mean() > run.seen[0].trained.mean() + 0.3


def test_a_hinge_asks_nothing_of_points_above_the_threshold(generator, rewards, monkeypatch):
    monkeypatch.setattr(feedback, "threshold", lambda reward: -1e6)
    run = feedback.feedback(generator, feedback.TABLE["hinge"], rewards, updates=10, noises=50)
    assert torch.equal(run.seen[0].points, run.seen[1].points)


def test_best_of_4_chooses_by_the_reward(generator, rewards):
    four = feedback.best_of(generator, rewards.trained, 4, noises=200)
    one = feedback.best_of(generator, rewards.trained, 1, noises=800)
    mu = rewards.trained(one)[0].view(4, 200).max(0).values
    assert torch.allclose(rewards.trained(four)[0], mu)


def _run(held, trained):
    noise = 0.1 * np.random.default_rng(0).standard_normal(100)
    at = lambda k: dict(trained=trained[k] + noise, held_out=held[k] + noise, same=noise)
    seen = [
        feedback.Seen(10 * k, **at(k), utility=0.0, near=0.0, coverage=0.0, points=torch.zeros(1, 2))
        for k in range(len(held))
    ]
    return feedback.Run(toy.Net(), seen)


def test_the_rule_stops_a_hacked_run_and_keeps_the_best_check_before():
    hacked = _run([0.0, 0.5, 0.1, -1.0, 9.0], [0.0, 1.0, 2.0, 3.0, 4.0])
    assert hacked.stop == 30 and hacked.kept.step == 10
    good = _run([0.0, 0.5, 0.6, 0.7], [0.0, 1.0, 2.0, 3.0])
    assert good.stop is None and good.kept.step == 30
    signs = [text.get_text().strip() for text in ch11.watched_figure({"hacked": hacked, "good": good}).axes[0].texts]
    assert signs == ["✗ stop", "✓ keep"]


def test_the_stored_table_of_feedback_has_every_setting_three_seeds_and_intervals():
    record = toy.stored(feedback.RESULT)
    wanted = {feedback.BEFORE, feedback.BEST, feedback.STOPPED, *feedback.TABLE}
    assert {row["name"] for row in record["rows"]} == wanted
    assert all(sorted(r["seed"] for r in record["rows"] if r["name"] == name) == [0, 1, 2] for name in wanted)
    assert feedback.table(record).count("(") == 2 * (len(wanted) - 1)  # an interval each
    got = feedback.against_before(record, "reward alone", "utility")
    assert got["low"] < got["value"] < got["high"]


def test_a_result_that_is_not_there_names_the_command_that_makes_it(tmp_path):
    said = evidence.numbers("reward", "accuracy", folder=tmp_path, made_by="`hb eval reward`")
    assert said == "reward.json is not there yet; `hb eval reward` makes it."


def test_the_closing_figure_has_a_sign_where_an_interval_leaves_zero():
    rows = [
        dict(name=name, seed=s, trained=v + s / 100, utility=v, coverage=-v + s / 100, stop=None)
        for name, v in ((feedback.BEFORE, 0.0), ("x", 1.0))
        for s in range(3)
    ]
    axes = ch11.closing_figure(dict(rows=rows)).axes
    assert [ax.texts[0].get_text() for ax in axes] == ["✓", "✓", "✗"]
