"""A Gaussian belief about a linear utility: exact after one click, right after many, and never surer than it may be."""

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from hb.bayes import LinearUtility

WIDE = torch.float64


def some(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=WIDE)


@pytest.mark.parametrize(("mean", "d", "noise"), [(0.0, 1.0, 1.0), (0.5, -2.0, 0.3), (-1.0, 0.7, 2.0)])
def test_after_one_click_mean_and_variance_are_the_posteriors(mean, d, noise):
    """One weight, and the posterior prior(w) Phi(w d / (sqrt(2) noise)) integrated by numbers."""
    prior = LinearUtility(torch.tensor([mean], dtype=WIDE), torch.tensor([[1.7]], dtype=WIDE), noise)
    got = prior.updated(torch.tensor([d]), torch.zeros(1))
    density = lambda w: norm.pdf(w, mean, np.sqrt(1.7)) * norm.cdf(w * d / (np.sqrt(2) * noise))
    moment = lambda k: quad(lambda w: w**k * density(w), -15, 15)[0]
    expected = moment(1) / moment(0)
    assert float(got.mean) == pytest.approx(expected, abs=1e-8)
    assert float(got.covariance) == pytest.approx(moment(2) / moment(0) - expected**2, abs=1e-8)


def test_a_clicks_probability_is_that_of_the_evidence():
    prior = LinearUtility(torch.tensor([0.4], dtype=WIDE), torch.tensor([[0.8]], dtype=WIDE), 0.5)
    x, other = torch.tensor([[1.5]], dtype=WIDE), torch.tensor([[0.2]], dtype=WIDE)
    density = lambda w: norm.pdf(w, 0.4, np.sqrt(0.8)) * norm.cdf(w * 1.3 / (np.sqrt(2) * 0.5))
    assert float(prior.preference(x, other)) == pytest.approx(quad(density, -15, 15)[0], abs=1e-8)


def test_clicks_move_mu_and_shrink_sigma_but_only_where_pictures_differ():
    belief = LinearUtility.unknown(3)
    better, worse = torch.tensor([1.0, 0.0, 5.0]), torch.tensor([0.0, 0.0, 5.0])
    after = belief.after(better.expand(10, -1), worse.expand(10, -1))
    (mu, sigma), (before, wide) = after.predict(torch.eye(3)), belief.predict(torch.eye(3))
    assert mu[0] > 1 and sigma[0] < 0.8 * wide[0]
    assert torch.equal(mu[1:], before[1:]) and torch.equal(sigma[1:], wide[1:])


def test_sigma_never_grows_and_the_covariance_stays_one():
    belief = LinearUtility.unknown(4, noise=0.2)
    for k in range(60):
        after = belief.updated(some(4, seed=2 * k), some(4, seed=2 * k + 1))
        assert torch.linalg.eigvalsh(belief.covariance - after.covariance).min() > -1e-10
        assert torch.linalg.eigvalsh(after.covariance).min() > 0
        belief = after


def test_many_clicks_find_the_direction_of_the_true_utility():
    true = torch.tensor([1.0, -2.0, 0.5], dtype=WIDE)
    x, other = some(600, 3), some(600, 3, seed=1)
    noise = some(600, 2, seed=2)
    first = (x - other) @ true + 1.0 * (noise[:, 0] - noise[:, 1]) > 0
    better, worse = torch.where(first[:, None], x, other), torch.where(first[:, None], other, x)
    belief = LinearUtility.unknown(3, scale=3.0, noise=1.0).after(better, worse)
    assert torch.cosine_similarity(belief.mean, true, dim=0) > 0.99
    deviation = belief.covariance.diagonal().sqrt()
    assert bool(((belief.mean - true).abs() < 4 * deviation).all()) and float(deviation.max()) < 0.25
