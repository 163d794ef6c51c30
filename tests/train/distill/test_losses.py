"""The formulas of the recipe against closed forms: where each loss pulls, and where it stops pulling."""

import math

import numpy as np
import pytest
import torch

from hb.exact import FiniteData, GaussianMixture
from hb.flow import shift_time, time_grid, x0_from
from hb.losses import (
    absolute_loss,
    approximate_r1,
    consistency_loss,
    coupled_fixed_point,
    distribution_matching_loss,
    hinge_discriminator_loss,
    hinge_generator_loss,
    log_rho,
    matching_direction,
    renoised,
    velocity_loss,
)
from hb.train.distill import dmdo
from hb.train.distill.dmdo import DistributionMatching, MatchingSettings, Rollout
from tests.train.distill.conftest import bare, distribution, nothing_read

WIDE = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def some(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=WIDE)


# ---- distribution matching ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [True, False])
def test_the_slope_of_distribution_matching_is_its_direction_a_sample(weighted):
    x0, real, fake = some(5, 4, 3).requires_grad_(), some(5, 4, 3, seed=1), some(5, 4, 3, seed=2)
    (slope,) = torch.autograd.grad(distribution_matching_loss(x0, real, fake, weighted), x0)
    assert torch.allclose(slope, matching_direction(x0, real, fake, weighted).detach() / 5, atol=1e-12)


def test_scores_get_no_gradient_from_the_student():
    x0, real, fake = (some(3, 2, 2, seed=i).requires_grad_() for i in range(3))
    distribution_matching_loss(x0, real, fake).backward()
    assert real.grad is None and fake.grad is None and x0.grad.any()


def test_the_direction_does_not_care_how_large_a_picture_is():
    """Weighted, each sample alone: one scaled by 1000 is pulled as hard, and leaves its neighbour in peace."""
    x0, real, fake = (some(2, 4, 3, seed=i) for i in range(3))
    scale = torch.tensor([1.0, 1000.0], dtype=WIDE).reshape(2, 1, 1)
    again = matching_direction(scale * x0, scale * real, scale * fake)
    assert torch.allclose(again, matching_direction(x0, real, fake), atol=1e-12)


def test_a_sample_where_the_real_score_wants_it_is_refused_in_words():
    x0, fake = some(2, 3, 1), some(2, 3, 1, seed=1)
    with pytest.raises(ValueError, match="exactly at the real score"):
        matching_direction(x0, torch.cat([x0[:1], fake[1:]]), fake)


def mixture(weights=(0.3, 0.7)):
    means = torch.tensor([[1.5, 0.0], [-1.0, 0.5]], dtype=WIDE)
    return GaussianMixture(means, torch.tensor([0.3, 0.5], dtype=WIDE), torch.tensor(weights, dtype=WIDE))


def seen(teacher, y, t):
    """The data that a perfect score sees behind y."""
    return x0_from(y, teacher.velocity(y, t), t)


def test_with_fresh_noise_the_direction_is_the_slope_of_the_divergence():
    """t^2 / (1 - t)^2 times the gradient in x0 of log q_t(y) - log p_t(y), the densities written out."""

    def log_density(distribution, y, t):
        var = ((1 - t)[:, None] * distribution.std) ** 2 + t[:, None] ** 2
        far = (y[:, None] - (1 - t)[:, None, None] * distribution.means).square().sum(-1)
        return torch.logsumexp(distribution.weights.log() - far / (2 * var) - var.log(), 1)  # 2-D; constants left out

    p, q = mixture(), mixture((0.8, 0.2))
    x0, t = some(64, 2).requires_grad_(), torch.linspace(0.05, 0.95, 64, dtype=WIDE)
    y = renoised(x0, some(64, 2, seed=1), some(64, 2, seed=2), t, "fresh")
    (slope,) = torch.autograd.grad((log_density(q, y, t) - log_density(p, y, t)).sum(), x0)
    direction = matching_direction(x0, seen(p, y, t), seen(q, y, t), weighted=False)
    assert torch.allclose(direction, (t / (1 - t)).square()[:, None] * slope, atol=1e-9)


def test_matching_rests_when_the_laws_agree_and_not_when_a_mode_is_missing():
    real, t = mixture(), torch.full((200,), 0.6, dtype=WIDE)
    x0 = (real.means[1] + real.std[1] * some(200, 2)).requires_grad_()  # the student has the right mode only half right

    def pull(fake):
        y = renoised(x0, x0, some(200, 2, seed=3), t, "fresh").detach()
        loss = distribution_matching_loss(x0, seen(real, y, t), seen(fake, y, t), weighted=False)
        return -torch.autograd.grad(loss, x0)[0].sum(0)

    same_law_said_otherwise = GaussianMixture(
        real.means[[0, 1, 0]], real.std[[0, 1, 0]], torch.tensor([0.1, 0.7, 0.2], dtype=WIDE)
    )
    assert pull(same_law_said_otherwise).norm() < 1e-12
    one_mode = mixture((0.0, 1.0))
    towards = real.means[0] - real.means[1]
    assert pull(one_mode) @ towards > 0.1  # samples are sent to the mode that is missing


# method.md 5.3.4: a* / s where literal DMDO ends, for U(0.02, 0.98) and the same shifted by 3
TABLE = [
    (shift, s, share)
    for shift, row in ((1.0, (0.30, 0.43, 0.59, 0.80)), (3.0, (0.16, 0.24, 0.35, 0.49)))
    for s, share in zip((0.25, 0.5, 1.0, 2.0), row)
]
SHARES = (torch.arange(400, dtype=WIDE) + 0.5) / 400  # midpoints, in the place of a uniform number


@pytest.mark.parametrize("shift, s, share", TABLE)
def test_the_table_of_coupled_fixed_points_is_that_of_the_design(shift, s, share):
    t = shift_time(0.02 + 0.96 * SHARES, shift)
    assert abs(coupled_fixed_point(s, t) / s - share) < 0.0051


def slope_of_stage_three(a, s, way, shift, monkeypatch, scored="guess"):
    """dL/da of DMDO's own student turn on data N(0, s^2): student x0 = a z in one step, perfect scores, noise and times
    summed out: z and fresh noise are +1 or -1, which is enough for second moments."""
    pairs = torch.cartesian_prod(SHARES, torch.tensor([-1.0, 1.0], dtype=WIDE), torch.tensor([-1.0, 1.0], dtype=WIDE))
    share, z, fresh = (column.reshape(-1, 1, 1) for column in pairs.T)
    monkeypatch.setattr(dmdo, "uniform", lambda n, generator, like: share.flatten())
    monkeypatch.setattr(dmdo, "noise_like", lambda x, generator: fresh)
    a = torch.tensor(a, dtype=WIDE, requires_grad=True)
    still = a.detach()
    blob = lambda std: distribution(
        GaussianMixture(torch.zeros(1, 1, dtype=WIDE), torch.as_tensor(std, dtype=WIDE).reshape(1))
    )
    # y = ((1 - t) a + t) z: back to z, and so to x0
    sees_through = lambda y, t: (1 - still) * y / ((1 - t) * still + t)[:, None]
    fake = distribution(sees_through) if way == "coupled" else blob(still)
    stage = bare(
        DistributionMatching,
        student=distribution(lambda x, t: (1 - a) * x),
        real=blob(s),
        fake=fake,
        settings=MatchingSettings(shift=shift, renoise_student=way, weighted=False, sample_student=scored),
        grid=time_grid(1),
    )
    rollout = Rollout(nothing_read(z), stage.grid, (z, still * z))
    slope = torch.autograd.grad(stage.student_loss(rollout, generator()), a)[0].item()
    return slope, stage.facts["log_rho"]


@pytest.mark.parametrize("shift, s, share", TABLE)
def test_literal_stage_three_ends_where_the_table_says(shift, s, share, monkeypatch):
    """Its slope is linear in a and vanishes at a*: below it a grows, above it shrinks, and so it does at s itself."""
    slope = lambda a: slope_of_stage_three(a, s, "coupled", shift, monkeypatch)[0]
    low, high = slope(0.0), slope(s)
    end = s * low / (low - high)
    assert abs(end / s - share) < 0.0051
    assert end == pytest.approx(coupled_fixed_point(s, shift_time(0.02 + 0.96 * SHARES, shift)), abs=1e-6)
    assert slope(0.9 * end) < 0 < slope(1.1 * end) and abs(slope(end)) < 1e-6
    assert high > 0  # the right student is made worse


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("s", [0.25, 0.5, 1.0, 2.0])
def test_with_fresh_noise_stage_three_ends_at_the_right_law(shift, s, monkeypatch):
    slope = lambda a: slope_of_stage_three(a, s, "fresh", shift, monkeypatch)[0]
    assert abs(slope(s)) < 1e-9
    assert all(slope(share * s) < 0 for share in (0.3, 0.9)) and all(slope(share * s) > 0 for share in (1.1, 3.0))
    # E[x0 | y] of N(0, s^2) is c y, and fresh noise leaves E[y z] = (1 - t) a
    t, a = shift_time(0.02 + 0.96 * SHARES, shift), 1.7 * s
    c = lambda std: (1 - t) * std**2 / ((1 - t) ** 2 * std**2 + t**2)
    assert slope(a) == pytest.approx(float(((c(a) - c(s)) * (1 - t) * a).mean()), rel=1e-6)


@pytest.mark.parametrize("way", ["coupled", "fresh"])
def test_a_trajectory_of_one_step_ends_in_its_guess_and_is_scored_alike(way, monkeypatch):
    ends, guesses = (slope_of_stage_three(0.7, 0.5, way, 3.0, monkeypatch, scored) for scored in ("end", "guess"))
    assert ends == pytest.approx(guesses, rel=1e-9)


def test_log_rho_falls_when_the_fake_score_sees_through_the_coupling(monkeypatch):
    coupled, fresh = (slope_of_stage_three(1.0, 1.0, way, 3.0, monkeypatch)[1] for way in ("coupled", "fresh"))
    assert coupled < -20 and abs(fresh) < 1e-9


def test_log_rho_is_zero_where_both_scores_are_as_far():
    x0, away = some(6, 3, 2), some(6, 3, 2, seed=1)
    assert log_rho(x0, x0 + away, x0 - away).abs() < 1e-6
    assert log_rho(x0, x0 + away, x0 + 0.5 * away).item() == pytest.approx(math.log(0.5))


# ---- noise again ----------------------------------------------------------------------------------------------------


def test_at_noise_a_coupled_sample_is_what_it_came_from_and_at_data_itself():
    x0, z, fresh = (some(4, 3, 2, seed=i) for i in range(3))
    at = lambda t, way: renoised(x0, z, fresh, torch.full((4,), t, dtype=WIDE), way)
    assert torch.equal(at(1.0, "coupled"), z) and torch.equal(at(1.0, "fresh"), fresh)
    assert torch.equal(at(0.0, "coupled"), x0) and torch.equal(at(0.0, "fresh"), x0)


def test_each_sample_is_noised_to_its_own_time():
    x0, z, fresh = (some(3, 4, 2, seed=i) for i in range(3))
    t = torch.tensor([0.1, 0.5, 0.9], dtype=WIDE)
    for way, noise in (("coupled", z), ("fresh", fresh)):
        together = renoised(x0, z, fresh, t, way)
        assert all(torch.allclose(together[i], (1 - t[i]) * x0[i] + t[i] * noise[i]) for i in range(3))


def test_mixed_noise_is_one_or_the_other_for_a_whole_sample():
    n = 400
    x0, z, fresh, t = some(n, 3, 2), some(n, 3, 2, seed=1), some(n, 3, 2, seed=2), torch.full((n,), 0.5, dtype=WIDE)
    coupled, new = renoised(x0, z, fresh, t, "coupled"), renoised(x0, z, fresh, t, "fresh")
    for share in (0.0, 0.25, 1.0):
        mixed = renoised(x0, z, fresh, t, "mixed", generator(), share)
        of_z, of_new = (mixed == coupled).all((1, 2)), (mixed == new).all((1, 2))
        assert bool((of_z ^ of_new).all())
        assert of_z.sum() == 0 if share == 0 else abs(of_z.double().mean() - share) < 0.08


def test_an_unknown_noising_is_refused_in_words():
    with pytest.raises(ValueError, match="'sideways'; choose from coupled, fresh, mixed"):
        renoised(some(1, 1, 1), some(1, 1, 1), some(1, 1, 1), torch.ones(1), "sideways")


# ---- the fake score -------------------------------------------------------------------------------------------------


class Spy:
    """Stands for a velocity and for `velocity_loss`: keeps what was looked at and what was wanted."""

    def __init__(self, monkeypatch):
        monkeypatch.setattr(dmdo, "velocity_loss", self.loss)

    def look(self, x, t, context, **scales):
        self.x, self.t = x, t
        return torch.zeros_like(x)

    def loss(self, said, wanted):
        self.wanted = wanted
        return velocity_loss(said, wanted)


@pytest.mark.parametrize("way", ["coupled", "fresh", "mixed"])
def test_the_fake_score_wants_the_noise_minus_the_data(way, monkeypatch):
    spy, x0, z = Spy(monkeypatch), some(50, 4, 3), some(50, 4, 3, seed=1)
    fresh = some(50, 4, 3, seed=2)
    monkeypatch.setattr(dmdo, "noise_like", lambda x, generator: fresh)
    stage = bare(DistributionMatching, fake=spy.look, settings=MatchingSettings(renoise_fake=way))
    stage.fake_loss(Rollout(nothing_read(x0), time_grid(1), (z, x0)), generator())
    of_z, of_fresh = (((spy.wanted - (noise - x0)).abs() < 1e-9).all((1, 2)) for noise in (z, fresh))
    assert of_z.all() if way == "coupled" else of_fresh.all() if way == "fresh" else (of_z ^ of_fresh).all()
    assert way != "mixed" or (of_z.any() and of_fresh.any())
    assert spy.t.min() > shift_time(torch.tensor(0.02), 3.0) and spy.t.max() < shift_time(torch.tensor(0.98), 3.0)


def test_the_fake_score_can_learn_what_each_step_saw(monkeypatch):
    """Steps are met equally often, each sample with its own noise."""
    spy, z, n = Spy(monkeypatch), some(3000, 1, 1), 3000
    fresh = some(n, 1, 1, seed=2)
    monkeypatch.setattr(dmdo, "noise_like", lambda x, generator: fresh)
    guesses = tuple(torch.full_like(z, float(k)) for k in range(3))
    own = MatchingSettings(sample_fake="guess", renoise_fake="fresh")
    stage = bare(DistributionMatching, fake=spy.look, settings=own)
    stage.fake_loss(Rollout(nothing_read(z), time_grid(3), (z, z, z, torch.full_like(z, 99.0)), guesses), generator())
    met = (fresh - spy.wanted).round().flatten()
    assert ((fresh - spy.wanted).flatten() - met).abs().max() < 1e-6 and set(met.tolist()) == {0.0, 1.0, 2.0}
    assert all(abs((met == k).double().mean() - 1 / 3) < 0.05 for k in range(3))


GAUSS = [torch.from_numpy(values) for values in np.polynomial.hermite_e.hermegauss(80)]
POINTS = torch.tensor([[-1.2], [0.3], [1.0]], dtype=WIDE)
TESTS = [lambda x: torch.ones_like(x), lambda x: x, lambda x: x.square(), lambda x: torch.sin(3 * x), torch.tanh]


@pytest.mark.parametrize("t", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("kind", ["points", "blobs"])
def test_with_fresh_noise_the_fake_score_learns_the_exact_velocity_of_the_student(kind, t, monkeypatch):
    """No function of x correlates with what is left, E[(wanted - v(x, t)) g(x)] = 0: so v is the expectation given x.

    Data and noise are summed out, by weights (the three points) and Gauss-Hermite (noise, and the width of a blob).
    """
    nodes, weights = GAUSS[0], GAUSS[1] / GAUSS[1].sum()
    chance = torch.tensor([0.5, 0.3, 0.2], dtype=WIDE)
    if kind == "points":
        student, data, of_data = FiniteData(POINTS, chance), POINTS[:, 0], chance
    else:
        std = torch.tensor([0.2, 0.5, 0.4], dtype=WIDE)
        student = GaussianMixture(POINTS, std, chance)
        data, of_data = (POINTS + std[:, None] * nodes).flatten(), (chance[:, None] * weights).flatten()
    x0, eps = torch.cartesian_prod(data, nodes).T
    chance_of = (of_data[:, None] * weights).flatten()
    spy = Spy(monkeypatch)
    monkeypatch.setattr(dmdo, "noise_like", lambda x, generator: eps.reshape(-1, 1, 1))
    own = MatchingSettings(renoise_fake="fresh", times=(t, t), shift=1.0)
    stage = bare(DistributionMatching, fake=spy.look, settings=own)
    latent = x0.reshape(-1, 1, 1)
    stage.fake_loss(Rollout(nothing_read(latent), time_grid(1), (torch.sign(latent), latent)), generator())
    x = spy.x[:, 0]
    left = spy.wanted[:, 0] - student.velocity(x, t)
    for g in TESTS:
        assert abs((chance_of[:, None] * left * g(x)).sum()) < 1e-5
    assert (chance_of[:, None] * left.square()).sum() > 0.05  # what is left is not nothing: data cannot be known from x


# ---- adversaries and consistency ------------------------------------------------------------------------------------


def test_hinge_losses_at_known_values():
    real, fake = torch.tensor([[2.0, 0.5], [-1.0, 1.0]]), torch.tensor([[-2.0, 0.5], [-1.0, 3.0]])
    assert hinge_discriminator_loss(real, fake).item() == pytest.approx((0 + 0.5 + 2 + 0) / 4 + (0 + 1.5 + 0 + 4) / 4)
    assert hinge_generator_loss(fake).item() == pytest.approx(-(-2 + 0.5 - 1 + 3) / 4)


def test_a_discriminator_without_an_opinion_pays_two_and_a_sure_one_nothing():
    assert hinge_discriminator_loss(torch.zeros(3, 2), torch.zeros(3, 2)) == 2
    sure = torch.full((3, 2), 1.5).requires_grad_()
    loss = hinge_discriminator_loss(sure, -sure)
    loss.backward()
    assert loss == 0 and not sure.grad.any()  # beyond the hinge there is nothing more to win


def test_steepness_costs_nothing_where_all_is_flat_and_the_square_of_the_slope_elsewhere():
    x, noise = some(6, 5), 0.01 * some(6, 5, seed=1)
    flat, steep = lambda x: torch.full((len(x), 3), 0.7), lambda x: 2.0 * x[:, :3]
    assert approximate_r1(flat(x), flat(x + noise)) == 0
    assert torch.allclose(approximate_r1(steep(x), steep(x + noise)), 4 * noise[:, :3].square().mean())


def test_consistency_without_a_constant_is_the_mean_square():
    fake, real = some(3, 4, 2), some(3, 4, 2, seed=1)
    assert consistency_loss(fake, real).item() == pytest.approx((fake - real).square().mean().item(), rel=1e-5)


def test_pseudo_huber_is_a_distance_far_away_and_a_parabola_nearby():
    fake, real = some(3, 4, 2), some(3, 4, 2, seed=1)
    square = (fake - real).square().sum((1, 2))
    assert consistency_loss(fake, real, 1e-4).item() == pytest.approx(square.sqrt().mean().item(), rel=1e-3)
    assert 200 * consistency_loss(fake, real, 100.0).item() == pytest.approx(square.mean().item(), rel=1e-2)
    assert consistency_loss(real, real, 0.5) == 0


def test_an_absolute_distance_is_least_at_the_likelier_of_two_ends_and_a_squared_one_between_them():
    ends, guesses = torch.tensor([[0.0], [0.0], [1.0]]), torch.linspace(-0.5, 1.5, 81)
    least = lambda loss: float(guesses[torch.stack([loss(g.expand(3, 1), ends) for g in guesses]).argmin()])
    assert least(absolute_loss) == pytest.approx(0, abs=1e-6) and least(consistency_loss) == pytest.approx(
        1 / 3, abs=0.02
    )
    fake, real = some(3, 4, 2), some(3, 4, 2, seed=1)
    assert absolute_loss(fake, real).item() == pytest.approx(8**0.5 * (fake - real).abs().mean().item(), rel=1e-5)


@pytest.mark.parametrize("c", [0.0, 0.3])
def test_no_gradient_reaches_the_target_of_consistency(c):
    fake, real = some(3, 4, 2).requires_grad_(), some(3, 4, 2, seed=1).requires_grad_()
    consistency_loss(fake, real, c).backward()
    assert real.grad is None and fake.grad.any()
