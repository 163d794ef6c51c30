"""Simulated annotators: what a picture is worth, how often the better one is chosen, and how they differ."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import norm

from hb.world import benchmark as bench
from hb.world.annotator import Annotator, Merits, annotators, balance, contrast, merits
from hb.world.judge.judge import check
from hb.world.judge.reading import read
from hb.world.language import parse
from hb.world.render import render
from hb.world.scene import Scene, Thing

RED = Thing("circle", "red", "large", 0.5, 0.5)
WHITE_ON_BLACK = Scene((replace(RED, color="yellow"),), "black")
ON_THE_SIDE = Scene((replace(RED, x=0.2),), "white")


def picture(scene):
    return render([scene], 64)[0]


def test_a_right_clean_picture_has_both_merits_of_the_judge_in_full():
    found = merits(picture(Scene((RED,), "white")), parse("a red circle"))
    assert found.right == found.cleanliness == 1.0
    assert check(read(picture(Scene((RED,), "white"))), parse("a red circle")).right


def test_each_kind_of_mistake_costs():
    seen = picture(Scene((RED,), "white"))
    assert merits(seen, parse("a blue circle")).right == 1 / 2
    assert merits(seen, parse("a small blue circle")).right == 1 / 3
    assert merits(seen, parse("two circles")).right == 1 / 2


def test_noise_costs_cleanliness():
    seen = picture(Scene((RED,), "white"))
    dirty = (seen + 0.08 * torch.randn(seen.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    assert merits(dirty, parse("a red circle")).cleanliness < 0.5


def test_an_edit_has_the_lesser_of_what_was_done_and_what_was_kept():
    case = next(c for c in bench.edit_set() if c.edit.group == "recolor" and len(c.source.things) > 1)
    assert merits(picture(case.edit.target), case).right == 1.0
    assert merits(picture(case.source), case).right == 0.0  # all was kept, nothing done
    assert merits(picture(Scene((), case.source.background)), case).right == 0.0


def test_contrast_is_the_distance_of_colors():
    assert (
        contrast(WHITE_ON_BLACK.things, "black")
        > contrast([RED], "white")
        > contrast([replace(RED, color="blue")], "navy")
    )
    assert contrast([RED], None) == contrast([], "white") == 0.0
    both = [RED, replace(RED, color="pink")]
    assert contrast(both, "gray") == pytest.approx(np.mean([contrast([t], "gray") for t in both]))
    every = [contrast([replace(RED, color=c)], b) for c in ("yellow", "cyan") for b in ("black", "navy", "white")]
    assert max(every) <= 1.0


def test_balance_is_one_in_the_middle_and_weighs_by_area():
    assert balance([RED]) == 1.0 and balance(ON_THE_SIDE.things) == pytest.approx(0.4) and balance([]) == 0.0
    pair = [replace(RED, x=0.25), replace(RED, x=0.75)]
    assert balance(pair) == pytest.approx(1.0)
    assert balance([pair[0], replace(pair[1], size="small")]) < 1.0
    assert balance([replace(RED, x=1.0, y=1.0)]) == 0.0


def test_the_judge_does_not_measure_taste():
    """Both pictures are right and clean; whoever likes balance prefers the first, whoever likes contrast may not."""
    asked = parse("a circle")
    centered, aside = (
        picture(Scene((replace(RED, color="pink"),), "gray")),
        picture(Scene((replace(RED, x=0.2),), "white")),
    )
    assert check(read(centered), asked).right and check(read(aside), asked).right
    likes_balance, likes_contrast = Annotator(balance=3.0, contrast=0.0), Annotator(balance=0.0, contrast=3.0)
    assert likes_balance.utility(centered, asked) > likes_balance.utility(aside, asked)
    assert likes_contrast.utility(centered, asked) < likes_contrast.utility(aside, asked)


def test_utilities_of_merits_are_the_utilities_of_pictures():
    asked, seen = parse("a red circle"), picture(ON_THE_SIDE)
    annotator = annotators(1, 7)[0]
    assert annotator.utilities(np.array(merits(seen, asked))) == pytest.approx(annotator.utility(seen, asked))
    assert annotator.utilities(np.ones(len(Merits._fields))) == pytest.approx(annotator.weights.sum())


@pytest.mark.parametrize(("ahead", "noise", "careless"), [(0.2, 0.15, 0.05), (-0.5, 0.4, 0.0), (0.0, 0.2, 0.3)])
def test_clicks_come_as_often_as_the_probability_says(ahead, noise, careless):
    """And the probability is Thurstone's with the coin of the careless."""
    annotator = Annotator(noise=noise, careless=careless)
    p = annotator.preference(1.0 + ahead, 1.0)
    assert p == pytest.approx(careless / 2 + (1 - careless) * norm.cdf(ahead / (noise * 2**0.5)))
    n = 40_000
    clicks = annotator.choose(np.full(n, 1.0 + ahead), np.ones(n), np.random.default_rng(0))
    assert (clicks == 0).mean() == pytest.approx(p, abs=0.01)
    assert annotator.preference(1.0, 1.0 + ahead) == pytest.approx(1 - p)


def test_noise_is_met_by_each_utility_apart():
    """Two noises of one size: the same clicks as drawing both and comparing."""
    annotator, rng = Annotator(noise=0.3, careless=0.0), np.random.default_rng(0)
    n, ahead = 200_000, 0.25
    drawn = ahead + 0.3 * rng.standard_normal(n) > 0.3 * rng.standard_normal(n)
    assert annotator.preference(ahead, 0.0) == pytest.approx(drawn.mean(), abs=0.005)


def test_without_noise_the_better_one_always_wins():
    sure = Annotator(noise=0.0, careless=0.0)
    assert sure.preference(np.array([1.0, 0.0, 2.0]), np.array([0.5, 0.5, 2.0])).tolist() == [1.0, 0.0, 0.5]


def test_annotators_differ_and_other_seeds_are_others():
    a, again, b = annotators(4, 0), annotators(4, 0), annotators(4, 1)
    assert a == again and a[:2] == annotators(2, 0)
    weights = {tuple(p.weights) for p in (*a, *b)}
    assert len(weights) == 8 and len({p.name for p in (*a, *b)}) == 8
    assert all(p.noise == 0.3 for p in annotators(3, 0, noise=0.3))
    assert len({tuple(p.weights) for p in annotators(3, 0, spread=0.0)}) == 1


@pytest.mark.parametrize("wrong", [dict(noise=-0.1), dict(careless=1.5), dict(careless=-0.1)])
def test_impossible_annotators_are_refused_in_words(wrong):
    with pytest.raises(ValueError, match="noise is 0 or more"):
        Annotator(**wrong)
