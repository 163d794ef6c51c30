"""Formulas of preferences against closed forms: where each loss pulls, how hard, and where it stops."""

import math

import pytest
import torch
from scipy.special import log_ndtr
from torch.func import grad

from hb.preference_losses import (
    bradley_terry_loss,
    diffusion_dpo_loss,
    preference_probability,
    ranking_loss,
    reward_feedback_loss,
    standardized_difference,
)

WIDE = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def some(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=WIDE)


def test_a_preference_is_the_share_of_draws_in_which_it_is_ahead():
    mu, other = torch.tensor(0.7, dtype=WIDE), torch.tensor(0.2, dtype=WIDE)
    log_sigma, other_log_sigma = torch.tensor(0.5, dtype=WIDE).log(), torch.tensor(1.5, dtype=WIDE).log()
    p = preference_probability(mu, log_sigma, other, other_log_sigma)
    n = 400_000
    first = mu + 0.5 * torch.randn(n, generator=generator(), dtype=WIDE)
    second = other + 1.5 * torch.randn(n, generator=generator(1), dtype=WIDE)
    assert float(p) == pytest.approx(float((first > second).double().mean()), abs=3e-3)


def test_either_picture_is_preferred():
    mu, log_sigma, other, other_log_sigma = (some(50, seed=k) for k in range(4))
    both = preference_probability(mu, log_sigma, other, other_log_sigma)
    assert torch.allclose(
        both + preference_probability(other, other_log_sigma, mu, log_sigma), torch.ones(50, dtype=WIDE)
    )


def test_the_ranking_loss_is_minus_the_log_of_that_probability():
    mu, log_sigma, worse, worse_log_sigma = (some(20, seed=k) for k in range(4))
    p = preference_probability(mu, log_sigma, worse, worse_log_sigma)
    assert float(ranking_loss(mu, log_sigma, worse, worse_log_sigma)) == pytest.approx(float(-p.log().mean()), rel=1e-9)


def test_the_ranking_loss_stays_finite_where_the_probability_underflows():
    mu = torch.tensor([-40.0, 40.0], dtype=WIDE, requires_grad=True)
    zero = torch.zeros(2, dtype=WIDE)
    loss = ranking_loss(mu, zero - 3, zero, zero - 3)
    loss.backward()
    z = 40 * math.exp(3) / math.sqrt(2)
    assert float(loss.detach()) == pytest.approx(-0.5 * (float(log_ndtr(-z)) + float(log_ndtr(z))), rel=1e-9)
    assert bool(mu.grad.isfinite().all()) and mu.grad[0] < -100


@pytest.mark.parametrize("log_sigma", [-400.0, 0.0, 400.0])
def test_no_sigma_overflows(log_sigma):
    """exp(2 * 400) is no number of any type here."""
    sigma = torch.full((1,), log_sigma, dtype=WIDE)
    z = standardized_difference(
        torch.full((1,), math.exp(log_sigma), dtype=WIDE), sigma, torch.zeros(1, dtype=WIDE), sigma
    )
    assert float(z) == pytest.approx(math.sqrt(0.5))


@pytest.mark.parametrize("log_sigma", [-1.0, 0.0, 0.7])
def test_with_known_sigma_the_optimum_predicts_the_true_probability(log_sigma):
    """Clicks are 80% for the first: it is least where Phi((mu_1 - mu_2) / sqrt(2) sigma) is 0.8, for any sigma."""
    difference = torch.zeros(1, dtype=WIDE)
    sigma = torch.full((1,), log_sigma, dtype=WIDE)
    loss = lambda d: 0.8 * ranking_loss(d, sigma, 0 * d, sigma) + 0.2 * ranking_loss(0 * d, sigma, d, sigma)
    for _ in range(100):
        difference = difference - 0.5 * math.exp(2 * log_sigma) * grad(loss)(difference)
    p = preference_probability(difference, sigma, torch.zeros(1, dtype=WIDE), sigma)
    assert float(p) == pytest.approx(0.8, abs=1e-6)


def test_sigma_grows_where_clicks_contradict_the_reward_and_shrinks_where_they_agree():
    mu, zero = torch.tensor([1.0], dtype=WIDE), torch.zeros(1, dtype=WIDE)
    contradicted = grad(lambda s: ranking_loss(zero, s, mu, zero))(zero)
    agreed = grad(lambda s: ranking_loss(mu, s, zero, zero))(zero)
    assert contradicted < 0 < agreed


def test_only_the_ratio_of_mu_and_sigma_enters():
    mu, log_sigma, worse, worse_log_sigma = (some(20, seed=k) for k in range(4))
    scaled = ranking_loss(7 * mu, log_sigma + math.log(7), 7 * worse, worse_log_sigma + math.log(7))
    assert torch.allclose(scaled, ranking_loss(mu, log_sigma, worse, worse_log_sigma))


def test_averaged_log_sigmoids_would_never_learn_a_sigma():
    """What the public trainer of HPSv3 averages grows with sigma, whoever won: it is least at sigma = 0."""
    draws = torch.randn(20_000, generator=generator(), dtype=WIDE)
    for ahead in (-1.0, 0.5):
        values = [float(-torch.nn.functional.logsigmoid(ahead + s * draws).mean()) for s in (0.0, 0.5, 1.0, 2.0)]
        assert values == sorted(values)


def test_bradley_terrys_slope_is_one_minus_the_probability():
    mu, worse = some(30).requires_grad_(), some(30, seed=1)
    bradley_terry_loss(mu, worse).backward()
    assert torch.allclose(mu.grad, -(1 - torch.sigmoid(mu - worse).detach()) / 30)


def test_the_two_losses_agree_up_to_the_unit():
    """Phi(d / 1.702) and the logistic function of d differ by less than 0.01 (Haley 1952), which is sigma = 1.702 /
    sqrt(2)."""
    d = torch.linspace(-6, 6, 200, dtype=WIDE)
    sigma = torch.full_like(d, math.log(1.702 / math.sqrt(2)))
    assert float((preference_probability(d, sigma, 0 * d, sigma) - torch.sigmoid(d)).abs().max()) < 0.01


def test_feedback_pulls_below_the_threshold_alone():
    mu = torch.tensor([-1.0, 0.4, 0.6, 3.0], dtype=WIDE, requires_grad=True)
    loss = reward_feedback_loss(mu, 0.5)
    loss.backward()
    assert float(loss.detach()) == pytest.approx((1.5 + 0.1) / 4)
    assert mu.grad.tolist() == [-0.25, -0.25, 0.0, 0.0]


def test_at_the_reference_dpo_weighs_every_pair_by_half():
    """Slope of -log sigmoid(0) is 1/2, whatever the errors are: beta / 2 pulls the better's error down, the worse's
    up."""
    better, worse = some(8).square().requires_grad_(), some(8, seed=1).square().requires_grad_()
    loss = diffusion_dpo_loss(better, worse, better.detach(), worse.detach(), beta=3.0)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(math.log(2))
    assert torch.allclose(better.grad, torch.full((8,), 3.0 * 0.5 / 8, dtype=WIDE))
    assert torch.allclose(worse.grad, -better.grad)


def test_dpos_pull_fades_where_the_model_prefers_rightly_and_grows_where_it_does_not():
    reference = torch.ones(1, dtype=WIDE)

    def slope(better: float) -> float:
        return float(grad(lambda e: diffusion_dpo_loss(e, reference, reference, reference, 2.0))(better * reference))

    assert slope(1.0) == pytest.approx(1.0)
    assert 0 < slope(0.2) < slope(1.0) < slope(3.0) < 2.0


def test_dpo_learns_the_odds_of_the_preferences():
    """Of two pictures the first is chosen with 70%. With errors free, the loss is least where beta times the difference
    of what each error fell has those odds (Rafailov et al. 2023)."""
    fallen = torch.zeros(1, dtype=WIDE)
    zero, beta = torch.zeros(1, dtype=WIDE), 2.0
    loss = lambda d: (
        0.7 * diffusion_dpo_loss(-d, zero, zero, zero, beta) + 0.3 * diffusion_dpo_loss(zero, -d, zero, zero, beta)
    )
    for _ in range(300):
        fallen = fallen - 0.5 * grad(loss)(fallen)
    assert float(fallen) == pytest.approx(math.log(0.7 / 0.3) / beta, abs=1e-6)
