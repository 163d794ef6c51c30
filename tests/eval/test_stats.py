"""Intervals: equal to slow references, of the promised coverage, and never of zero width."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest, bootstrap

from hb.eval import stats
from hb.eval.stats import Share


@pytest.mark.parametrize("k, n", [(0, 50), (24, 24), (8, 10), (1, 1), (397, 400)])
def test_wilson_is_scipys(k, n):
    ends = binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert Share(k, n).interval == pytest.approx((ends.low, ends.high), abs=1e-12)
    assert np.ptp(Share(k, n).interval) > 0


def test_wilson_interval_is_the_textbook_one():
    assert Share(8, 10).interval == pytest.approx((0.4902, 0.9433), abs=1e-3)
    assert all(np.isnan(Share(0, 0).interval))


def test_a_cluster_counts_once_if_its_pictures_agree_and_as_many_as_they_are_if_not():
    prompts = np.arange(40) % 2
    agree = stats.clustered_share(prompts * 4, np.full(40, 4))
    assert (agree.k, agree.n) == (80, 160) and agree.effective == pytest.approx(40, rel=0.03)
    rng = np.random.default_rng(0)
    free = stats.clustered_share(rng.binomial(4, 0.7, 4000), np.full(4000, 4))
    assert free.effective == pytest.approx(16000, rel=0.06)
    assert stats.clustered_share(np.full(40, 4), np.full(40, 4)).effective == 40
    assert stats.clustered_share(np.full(40, 2), np.full(40, 4)).effective == 160  # never more than there are


def test_one_picture_a_prompt_is_no_cluster():
    right = np.arange(50) < 44
    assert stats.clustered_share(right, np.ones(50)).interval == pytest.approx(Share(44, 50).interval, abs=2e-3)


def test_a_mean_of_shares_adds_variances_and_has_a_width_everywhere():
    shares = [Share(k, 100) for k in (97, 90, 60, 55, 99, 100)]
    got, value = stats.mean_of_shares(shares), np.mean([s.value for s in shares])
    below = sum((s.value - s.interval[0]) ** 2 for s in shares) ** 0.5 / 6
    above = sum((s.interval[1] - s.value) ** 2 for s in shares) ** 0.5 / 6
    assert (got["value"], got["low"], got["high"]) == pytest.approx((value, value - below, value + above), abs=1e-4)
    perfect = stats.mean_of_shares([Share(24, 24)] * 6)
    assert perfect["low"] == pytest.approx(1 - (1 - Share(24, 24).interval[0]) / 6**0.5, abs=1e-4)
    assert perfect["high"] == 1.0
    useless = stats.mean_of_shares([Share(0, 50)] * 2)
    assert useless["low"] == 0 < useless["high"]
    one = stats.mean_of_shares([Share(8, 10)])
    assert (one["low"], one["high"]) == pytest.approx(Share(8, 10).interval, abs=1e-4)


def slow_tango(gained: int, lost: int, n: int) -> tuple[float, float]:
    """The hypotheses that the score test keeps, the nuisance parameter found by maximizing the likelihood itself."""
    kept = []
    for delta in np.linspace(-0.999, 0.999, 667):

        def unlikely(q, delta=delta):
            p = np.array([q + delta, q, 1 - 2 * q - delta]).clip(1e-300)
            return -(np.array([gained, lost, n - gained - lost]) * np.log(p)).sum()

        q = minimize_scalar(
            unlikely, bounds=(max(0, -delta), (1 - delta) / 2), method="bounded", options=dict(xatol=1e-10)
        ).x
        variance = n * (2 * q + delta * (1 - delta))
        if (gained - lost - n * delta) ** 2 <= stats.Z**2 * variance:
            kept.append(delta)
    return min(kept), max(kept)


@pytest.mark.parametrize("gained, lost, n", [(12, 4, 60), (0, 3, 40), (5, 5, 20)])
def test_tangos_interval_inverts_the_score_test(gained, lost, n):
    assert stats.tango(gained / n, lost / n, n) == pytest.approx(slow_tango(gained, lost, n), abs=4e-3)


def test_tangos_interval_without_differences_is_wilsons_bound():
    bound = stats.wilson(0.0, 600)[1]
    assert stats.tango(0.0, 0.0, 600) == pytest.approx((-bound, bound), abs=1e-9)
    low, high = stats.tango(1.0, 0.0, 20)
    assert 0.6 < low < 1 and high == 1.0
    assert stats.tango(0.0, 1.0, 20) == pytest.approx((-high, -low))


def test_a_paired_difference_says_when_nothing_differs_and_has_a_width_all_the_same():
    same = np.ones((100, 4))
    got = stats.paired_difference([same, same], [same, same])
    assert got["note"] == "800 pairs, no differences" and got["low"] == -got["high"] == round(
        -stats.wilson(0, 200)[1], 4
    )
    assert got["value"] == 0
    # one flip widens it, and says no more that there are none
    other = same.copy()
    other[0, 0] = 0
    worse = stats.paired_difference([other, same], [same, same])
    assert (
        "note" not in worse and worse["value"] == round(-1 / 800, 4) and worse["low"] < worse["value"] < worse["high"]
    )
    assert stats.paired_difference([same[:1]], [other[:1]])["low"] < 1  # one prompt


def test_pictures_that_flip_together_count_once():
    rng = np.random.default_rng(0)
    d = rng.choice([-1, 0, 1], p=[0.1, 0.8, 0.1], size=100)
    ours, theirs = (d > 0) * 1.0, (d < 0) * 1.0
    once = stats.paired_difference([ours[:, None]], [theirs[:, None]])
    again = stats.paired_difference([np.repeat(ours[:, None], 8, 1)], [np.repeat(theirs[:, None], 8, 1)])
    assert (again["low"], again["high"]) == pytest.approx((once["low"], once["high"]), abs=2e-3)


def test_paired_differences_cover():
    """400 experiments of 2 tasks, 40 prompts, 4 pictures that resemble each other; the truth is known."""
    rng, inside = np.random.default_rng(1), 0
    truth = 0.03
    for _ in range(400):
        parts = []
        for _ in range(2):
            easy = rng.beta(4, 0.5, (40, 1))
            theirs = rng.random((40, 4)) < easy
            gain = rng.random((40, 1)) < 0.08  # of all pictures of a prompt
            loss = ~gain & (rng.random((40, 1)) < 0.05 / 0.92)
            ours = np.where(gain, 1, np.where(loss, 0, theirs))
            parts.append((ours, np.where(gain, 0, np.where(loss, 1, theirs))))
        got = stats.paired_difference(*zip(*parts))
        inside += got["low"] <= truth <= got["high"]
    assert 0.92 <= inside / 400 <= 0.985


def test_mcnemar_is_the_exact_binomial_and_clusters_count():
    assert stats.mcnemar(1, 9) == pytest.approx(2 * sum((1, 10)) / 2**10)
    assert stats.mcnemar(0, 0) == 1.0
    assert stats.clustered_mcnemar([1] * 30 + [-1] * 10) == pytest.approx(
        0.0016, abs=2e-4
    )  # McNemar's chi-square, 400/40
    assert stats.clustered_mcnemar([4, -4, 4, 0]) == stats.clustered_mcnemar([1, -1, 1, 0])


def test_flips_are_a_table_of_two_models():
    ours, theirs = np.array([[1, 1], [0, 1], [0, 0]]), np.array([[1, 0], [0, 1], [1, 0]])
    table = stats.flips(ours, theirs)
    assert [table[k] for k in ("both", "only_ours", "only_theirs", "neither")] == [2, 1, 1, 2]
    assert table["p_value"] == 1.0 and table["test"] == "clustered by prompt"
    assert stats.flips(ours[:, :1], theirs[:, :1])["test"] == "exact"


def test_bca_is_scipys_on_the_values_themselves():
    values = np.random.default_rng(0).exponential(size=60)
    got = stats.mean_interval([values], (0, 100))
    wanted = bootstrap([values], np.mean, n_resamples=4000, method="BCa", rng=np.random.default_rng([2, 0]))
    assert got["low"] == round(wanted.confidence_interval.low, 4) and got["high"] == round(
        wanted.confidence_interval.high, 4
    )
    assert got["value"] - got["low"] < got["high"] - got["value"]  # skewed as the values are


def test_an_interval_shrinks_and_every_group_weighs_the_same():
    rng = np.random.default_rng(0)
    few = stats.mean_interval([rng.random(100), 1 + rng.random(50)], (0, 2))
    many = stats.mean_interval([rng.random(1600), 1 + rng.random(800)], (0, 2))
    assert few["low"] < few["value"] < few["high"] and abs(few["value"] - 1) < 0.1
    assert many["high"] - many["low"] < 0.4 * (few["high"] - few["low"])


def test_equal_values_give_a_bound_and_say_so():
    perfect = stats.mean_interval([np.full(60, 10.0)] * 7, (0, 10))
    share = stats.wilson(0, 420)[1]
    assert perfect == dict(value=10, low=round(10 * (1 - share), 4), high=10, n=420, note="420, no failures")
    still = stats.mean_interval([np.zeros(50)], (0, 1), best=0)
    assert still["low"] == 0 < still["high"] < 0.1 and still["note"] == "50, no failures"
    assert stats.mean_interval([np.zeros(50)], (0, 10))["note"] == "50, all equal"
    alone = stats.mean_interval([[3.0], [5.0]], (0, 10))  # nothing to draw again
    assert alone["low"] < 4 < alone["high"]


def test_a_group_of_one_is_a_constant():
    got = stats.mean_interval([np.array([1.0, 2.0, 4.0, 3.0]), np.array([8.0])], (0, 10))
    alone = stats.mean_interval([np.array([1.0, 2.0, 4.0, 3.0])], (0, 10))
    assert got["low"] == pytest.approx((alone["low"] + 8) / 2, abs=1e-3)


def test_a_share_is_a_ratio_of_means_with_an_interval():
    ours, theirs = [np.array([8.0, 10.0]), np.array([9.0])], [np.array([9.0, 9.0]), np.array([9.0])]
    share = stats.ratio(ours, theirs)
    assert share["value"] == 1.0 and share["low"] < 1 < share["high"]
    same = stats.ratio(theirs, theirs)
    assert same["low"] < same["value"] == 1 < same["high"] and same["note"] == "3 pairs, no differences"
    with pytest.raises(ValueError, match="nothing to be a share of"):
        stats.ratio(ours, [np.zeros(2), np.zeros(1)])
    with pytest.raises(ValueError, match="same cases"):
        stats.ratio(ours, [np.ones(3), np.ones(1)])


def test_a_ratio_of_pairs_is_narrower_than_that_of_strangers():
    rng = np.random.default_rng(0)
    theirs = rng.random(80) + 0.2
    ours = theirs * (1 + 0.02 * rng.normal(size=80))
    paired, apart = stats.ratio([ours], [theirs]), stats.ratio([ours], [rng.permutation(theirs)])
    assert paired["high"] - paired["low"] < 0.2 * (apart["high"] - apart["low"])


def test_three_seeds_are_few():
    got = stats.t_interval([1.0, 2.0, 3.0])
    assert got["high"] - 2 == pytest.approx(4.3027 / 3**0.5, abs=1e-3)
    assert np.isnan(stats.t_interval([1.0])["low"])
