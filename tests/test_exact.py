"""The perfect teachers say what they promise."""

import pytest
import torch

from hb.exact import FiniteData, GaussianMixture
from hb.flow import euler, interpolate, time_grid, velocity_of


def _dice(seed=0):
    return torch.Generator().manual_seed(seed)


def _walk(teacher, x, steps):
    *_, (_, end) = euler(teacher.velocity, x, time_grid(steps))
    return end


def test_one_point_is_reached_in_one_step():
    point = torch.tensor([[2.0, -1.0]])
    eps = torch.randn(5, 2, generator=_dice())
    assert torch.allclose(_walk(FiniteData(point), eps, 1), point.expand(5, -1), atol=1e-6)


def test_one_step_lands_on_the_mean_of_all_data():
    points = torch.randn(7, 3, generator=_dice())
    eps = torch.randn(4, 3, generator=_dice(1))
    assert torch.allclose(_walk(FiniteData(points), eps, 1), points.mean(0).expand(4, -1), atol=1e-5)


def test_many_steps_land_on_the_data():
    points = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.5]])
    x = _walk(FiniteData(points), torch.randn(64, 2, generator=_dice()), 200)
    nearest, which = torch.cdist(x, points).min(1)
    assert nearest.max() < 1e-3 and len(which.unique()) == 3


@pytest.mark.parametrize("t", [0.2, 0.5, 0.9])
def test_velocity_is_the_expectation_over_all_pairs(t):
    """v(x, t) = E[eps - x0 | x_t = x], here by weighing 400,000 pairs with a narrow window around x."""
    points = torch.tensor([[1.0], [-1.0], [0.3]])
    teacher = FiniteData(points, torch.tensor([0.5, 0.3, 0.2]))
    x0 = teacher.sample(400_000, _dice())
    eps = torch.randn(x0.shape, generator=_dice(1))
    x_t = interpolate(x0, eps, torch.tensor(t))
    x = torch.tensor([[0.25]])
    near = (x_t - x).abs()[:, 0] < 0.01
    assert torch.allclose(velocity_of(x0, eps)[near].mean(0), teacher.velocity(x, t)[0], atol=0.06)


def test_blobs_without_width_are_points():
    points = torch.randn(5, 2, generator=_dice())
    weights = torch.tensor([0.1, 0.3, 0.2, 0.2, 0.2])
    x = torch.randn(9, 2, generator=_dice(1))
    for t in (0.3, 0.7, 1.0):
        blobs = GaussianMixture(points, torch.zeros(5), weights)
        assert torch.allclose(blobs.velocity(x, t), FiniteData(points, weights).velocity(x, t), atol=1e-4)


def test_limits_of_a_mixture():
    """At t = 1 x is the noise: v = x - E[x0]. At t = 0 x is the data, the noise unknown: v = -x."""
    means = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    mixture = GaussianMixture(means, torch.tensor([0.3, 0.6]), torch.tensor([1.0, 3.0]))
    x = torch.randn(6, 2, generator=_dice())
    assert torch.allclose(mixture.velocity(x, 1.0), x - torch.tensor([0.5, 0.75]), atol=1e-5)
    assert torch.allclose(mixture.velocity(x, 0.0), -x, atol=1e-5)


def test_many_steps_keep_the_law_of_a_mixture():
    means = torch.tensor([[1.5, 0.0], [-1.5, 0.0]])
    mixture = GaussianMixture(means, torch.tensor([0.3, 0.3]), torch.tensor([0.7, 0.3]))
    x = _walk(mixture, torch.randn(4000, 2, generator=_dice()), 100)
    assert abs((x[:, 0] > 0).float().mean() - 0.7) < 0.03
    assert abs(x[x[:, 0] > 0].std(0) - 0.3).max() < 0.03


def test_times_of_each_row_and_pictures_are_welcome():
    pictures = torch.randn(3, 2, 4, 4, generator=_dice())
    teacher = FiniteData(pictures)
    x, t = torch.randn(2, 2, 4, 4, generator=_dice(1)), torch.tensor([0.9, 0.4])
    both = teacher.velocity(x, t)
    assert both.shape == x.shape
    assert torch.allclose(both[1:], teacher.velocity(x[1:], 0.4), atol=1e-5)


def test_a_finite_data_set_has_no_velocity_at_zero():
    with pytest.raises(ValueError, match="not including, 0"):
        FiniteData(torch.zeros(1, 2)).velocity(torch.zeros(1, 2), 0.0)
