"""Intervals and tests of the evaluations: pure functions of numbers, each with its paper. All intervals are 95% ones.

| what is measured | function | method |
|---|---|---|
| a share of n independent cases | `Share` | Wilson (1927) |
| a share whose cases come in clusters (pictures of one prompt) | `clustered_share` | Wilson, with the effective n |
| an unweighted mean of shares (tasks) | `mean_of_shares` | MOVER: Zou and Donner (2008) |
| a difference of two shares on the same cases | `paired_difference` | Tango (1998), with the effective n |
| a mean of bounded numbers (O, drift, coverage) | `mean_interval` | BCa bootstrap: Efron (1987) |
| a ratio of two such means on the same cases | `ratio` | BCa bootstrap |
| a mean over few seeds | `t_interval` | Student (1908) |
| verdicts that flipped | `flips`, `mcnemar` | McNemar (1947), exact; in clusters Durkalski et al. (2003) |

An estimate is a dict of value, low, high, n; `note` says it where low and high are a bound and not an interval.
None has zero width.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import DegenerateDataWarning, binomtest, bootstrap, chi2, norm, t

Z = float(norm.ppf(0.975))
RESAMPLES = 4000


def estimate(value: float, low: float, high: float, n: int, note: str = "") -> dict:
    """An estimate as results store it."""
    rounded = dict(value=round(float(value), 4), low=round(float(low), 4), high=round(float(high), 4), n=int(n))
    return rounded | (dict(note=note) if note else {})


# ---- shares ---------------------------------------------------------------------------------------------------------


def wilson(share: float, n: float) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share of n cases; n may be an effective number, which is no integer.

    (p + z²/2n ± z sqrt(p (1 - p) / n + z²/4n²)) / (1 + z²/n)
    """
    if not n:
        return float("nan"), float("nan")
    middle = share + Z**2 / (2 * n)
    half = Z * np.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return max(0.0, float((middle - half) / (1 + Z**2 / n))), min(1.0, float((middle + half) / (1 + Z**2 / n)))


@dataclass(frozen=True)
class Share:
    """k of n cases. effective: the number of independent cases that tell as much, where cases come in clusters."""

    k: int
    n: int
    effective: float | None = None

    @property
    def value(self) -> float:
        return self.k / self.n if self.n else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.value, self.n if self.effective is None else self.effective)

    def to_dict(self) -> dict:
        return estimate(self.value, *self.interval, self.n)


def clustered_share(right: Sequence[float], of: Sequence[float]) -> Share:
    """The share of right cases over clusters, `right` of `of` in each, for Wilson's interval with the effective n.

    n_eff = p (1 - p) / V, where V is the variance of the ratio sum(right) / sum(of) between clusters (linearized;
    Cochran 1977, section 3.12). The interval of a clustered share with it: Korn and Graubard (1998), Wilson's there
    in the comparison of Franco et al. (2019). n_eff never exceeds n. At a share of 0 or 1 the data say nothing
    about V, and n_eff is the number of clusters.
    """
    right, of = np.asarray(right, float), np.asarray(of, float)
    k, n, clusters = int(right.sum()), int(of.sum()), int((of > 0).sum())
    if k in (0, n) or clusters < 2:
        return Share(k, n, clusters)
    residual = right - k / n * of
    variance = clusters / (clusters - 1) * (residual**2).sum() / n**2
    return Share(k, n, min(n, k / n * (1 - k / n) / variance) if variance > 0 else n)


def mean_of_shares(shares: Sequence[Share]) -> dict:
    """The unweighted mean of independent shares, by the method of variance estimates recovery (MOVER; Zou and
    Donner 2008, eq. 3 with weights 1/K): mean ± sqrt(sum((distance of each share to the end of its own interval)²))
    / K.

    The distances are one-sided, so 24 of 24 in every task gives a low end below 1 and a high end of 1.
    """
    values, ends = np.array([s.value for s in shares]), np.array([s.interval for s in shares])
    below, above = (float(np.sqrt(((values - ends[:, side]) ** 2).sum()) / len(values)) for side in (0, 1))
    return estimate(values.mean(), values.mean() - below, values.mean() + above, sum(s.n for s in shares))


# ---- paired shares --------------------------------------------------------------------------------------------------


def tango(gained: float, lost: float, n: float) -> tuple[float, float]:
    """Tango's score interval (1998, eq. 8) of a difference of paired shares: of n pairs the share `gained` is right
    on our side only, `lost` on theirs only.

    The ends are where the difference d misses a hypothesis delta by z standard errors, under the likeliest q =
    P(lost) that has this delta: Var = (2 q + delta (1 - delta)) / n. With no pair that differs they are ± z² / (n +
    z²), Wilson's bound.
    """
    difference = gained - lost

    def misses(delta: float, sign: float) -> float:
        b = (2 - difference) * delta - gained - lost
        q = (np.sqrt(max(b * b + 8 * lost * delta * (1 - delta), 0.0)) - b) / 4
        return sign * (difference - delta) - Z * np.sqrt(max(2 * q + delta * (1 - delta), 0.0) / n)

    tiny = 1e-12
    low = brentq(misses, -1, difference - tiny, args=(1.0,)) if difference > tiny - 1 else -1.0
    high = brentq(misses, difference + tiny, 1, args=(-1.0,)) if difference < 1 - tiny else 1.0
    return float(low), float(high)


def paired_difference(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> dict:
    """The mean over tasks of ours minus theirs, verdicts [prompts, pictures] of each task on the same prompts and
    noise.

    Tango's interval with the effective number of pairs: as many independent pairs as have the cluster-robust
    variance of the difference, prompts being the clusters (Liang and Zeger 1986, with m / (m - 1)), never more than
    there are pictures.
    """
    ours, theirs = [np.asarray(a, float) for a in ours], [np.asarray(b, float) for b in theirs]
    gained = float(np.mean([(a > b).mean() for a, b in zip(ours, theirs, strict=True)]))
    lost = float(np.mean([(a < b).mean() for a, b in zip(ours, theirs, strict=True)]))
    prompts = [(a - b).mean(1) for a, b in zip(ours, theirs)]
    variance = sum(d.var(ddof=1) / len(d) for d in prompts if len(d) > 1) / len(prompts) ** 2
    pairs, effective = sum(a.size for a in ours), sum(map(len, prompts))
    if variance > 0:
        effective = min(pairs, (gained + lost - (gained - lost) ** 2) / variance)
    note = "" if gained or lost else f"{pairs} pairs, no differences"
    return estimate(gained - lost, *tango(gained, lost, effective), pairs, note)


def mcnemar(gained: int, lost: int) -> float:
    """Exact p-value of McNemar's test (1947): under equal quality a flip is as likely a gain as a loss."""
    return float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0


def clustered_mcnemar(differences: Sequence[float]) -> float:
    """p-value where flips come in clusters: (sum d)² / sum d² is chi-square with one degree of freedom, d being
    gains minus losses of each cluster (Durkalski et al. 2003, eq. 4)."""
    d = np.asarray(differences, float)
    return float(chi2.sf(d.sum() ** 2 / (d**2).sum(), 1)) if d.any() else 1.0


def flips(ours: np.ndarray, theirs: np.ndarray) -> dict:
    """The 2 x 2 table of verdicts [prompts, pictures] of two models on the same prompts and noise, with McNemar's
    p-value: exact where there is one picture of a prompt, else clustered by prompt."""
    a, b = np.asarray(ours, bool), np.asarray(theirs, bool)
    table = dict(both=a & b, only_ours=a & ~b, only_theirs=~a & b, neither=~a & ~b)
    table = {name: int(cell.sum()) for name, cell in table.items()}
    one = a.shape[1] == 1
    p = mcnemar(table["only_ours"], table["only_theirs"]) if one else clustered_mcnemar((a * 1 - b).sum(1))
    return table | dict(p_value=round(p, 5), test="exact" if one else "clustered by prompt")


# ---- means and ratios -----------------------------------------------------------------------------------------------


def bca(sizes: Sequence[int], statistic: Callable[..., np.ndarray], seed: int = 0) -> tuple[float, float] | None:
    """BCa interval (Efron 1987; `scipy.stats.bootstrap`) of statistic(indices), one array [..., size] of members
    for each group, whose members are drawn again with replacement. Indices keep what is paired together.

    None: every set that was drawn gives the same figure. Where the correction of bias is infinite (all of them lie
    on one side), the percentile interval of the same sets stands in.
    """
    drawn = [g for g, size in enumerate(sizes) if size > 1]
    if not drawn:
        return None

    def of_drawn(*indices, axis=-1):
        every = [np.zeros((1,) * np.ndim(indices[0]), int)] * len(sizes)
        for g, index in zip(drawn, indices):
            every[g] = index
        return statistic(every)

    options = dict(vectorized=True, n_resamples=RESAMPLES, rng=np.random.default_rng([2, seed]))
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", DegenerateDataWarning)
        got = bootstrap([np.arange(sizes[g]) for g in drawn], of_drawn, method="BCa", **options)
    ends, sets = got.confidence_interval, got.bootstrap_distribution
    if np.ptp(sets) < 1e-12:
        return None
    if not np.isfinite([ends.low, ends.high]).all():
        ends = np.quantile(sets, (0.025, 0.975))
    return float(ends[0]), float(ends[1])


def mean_interval(groups: Sequence[np.ndarray], bounds: tuple[float, float], best: float | None = None) -> dict:
    """The mean of the groups' means of numbers within `bounds`, with its BCa interval. best: the better bound, the
    upper one unless it is said.

    Where the members of each group are all equal, the share of other values is at most w, Wilson's bound for none
    of n; they lie within the bounds, so the mean lies within value - w (value - lower bound) and value + w (upper
    bound - value).
    """
    groups = [np.asarray(g, float) for g in groups]
    value, n = float(np.mean([g.mean() for g in groups])), sum(map(len, groups))
    ends = bca([len(g) for g in groups], lambda at: sum(g[i].mean(-1) for g, i in zip(groups, at)) / len(groups))
    if ends is not None:
        return estimate(value, *ends, n)
    share, best = wilson(0.0, n)[1], bounds[1] if best is None else best
    note = f"{n}, no failures" if value == best else f"{n}, all equal"
    return estimate(value, value - share * (value - bounds[0]), value + share * (bounds[1] - value), n, note)


def ratio(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> dict:
    """Mean of the groups' means of `ours` over that of `theirs`, with the BCa interval of pairs drawn together.

    Where all pairs are alike: value (1 ± w), with w Wilson's bound for the share of pairs that are not, none of n
    being seen. Raises ValueError where theirs is 0: a share of nothing means nothing.
    """
    ours, theirs = [np.asarray(a, float) for a in ours], [np.asarray(b, float) for b in theirs]
    if [len(a) for a in ours] != [len(b) for b in theirs]:
        raise ValueError("the two were not measured on the same cases, so they cannot be paired")
    mean = lambda groups, at: sum(g[i].mean(-1) for g, i in zip(groups, at))
    whole, n = [np.arange(len(a)) for a in ours], sum(map(len, ours))
    if mean(theirs, whole) == 0:
        raise ValueError("the teacher's own figure is 0, so there is nothing to be a share of; train it further first")
    value = float(mean(ours, whole) / mean(theirs, whole))
    ends = bca([len(a) for a in ours], lambda at: mean(ours, at) / np.maximum(mean(theirs, at), 1e-12))
    if ends is not None:
        return estimate(value, *ends, n)
    share = wilson(0.0, n)[1]
    note = f"{n} pairs, no differences" if value == 1 else f"{n} pairs, all alike"
    return estimate(value, value * (1 - share), value * (1 + share), n, note)


def t_interval(values: Sequence[float]) -> dict:
    """The mean of a few independent runs with Student's interval (1908); without an interval if there is one run."""
    values = np.asarray(values, float)
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return estimate(values.mean(), values.mean() - half, values.mean() + half, len(values))
