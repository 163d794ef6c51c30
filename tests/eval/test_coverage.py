"""Coverage tells the world's distribution from a collapsed one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from hb.eval.coverage import (
    AMBIGUOUS_PROMPTS,
    COVERAGE_PROMPTS,
    coverage_eval,
    coverage_share,
    features_of,
    frechet,
    in_order,
    overlap,
)
from hb.models.vision import patchify, table_rows
from hb.world.language import parse
from hb.world.render import render
from hb.world.scene import Thing, sample_scenes
from tests.eval.oracle import Oracle


def test_coverage_of_the_true_distribution_is_near_one_and_of_a_collapsed_one_is_not(tiny):
    small = dict(pictures=40, prompts=COVERAGE_PROMPTS[1:5:3], bar=False)
    true = coverage_eval(Oracle(tiny), **small)
    assert true["value"]["value"] > 0.93
    collapsed = coverage_eval(Oracle(tiny, "collapsed"), **small)
    assert collapsed["value"]["value"] < 0.6
    away = true["frechet"]
    assert 0 < away["floor"] < away["highest"] and away["value"] < 1.5 * away["highest"]
    assert collapsed["frechet"]["value"] > 4 * away["highest"]


def test_open_shapes_of_the_true_distribution_are_covered_and_a_thing_that_is_always_a_circle_is_not(tiny):
    true = coverage_eval(Oracle(tiny), pictures=80, prompts=AMBIGUOUS_PROMPTS[::2], bar=False)
    assert true["value"]["value"] > 0.93 and true["attributes"]["shape"] > 0.9 and true["readable"]["value"] > 0.97
    collapsed = coverage_eval(Oracle(tiny, "collapsed"), pictures=20, prompts=AMBIGUOUS_PROMPTS[::2], bar=False)
    assert collapsed["attributes"]["shape"] < 0.4


def test_a_wish_that_several_things_fulfil_gets_one_that_leaves_the_others_something():
    request = parse("a red thing and a star")
    circle, star = Thing("circle", "red", "small", 0.2, 0.2), Thing("star", "red", "small", 0.7, 0.7)
    assert in_order(request, [circle, star]) == in_order(request, [star, circle]) == [circle, star]
    assert in_order(request, [circle, replace(circle, x=0.7)]) is None and in_order(request, [star]) is None
    places = np.random.default_rng(0).uniform(0.2, 0.5, 400)
    first = [in_order(request, [replace(star, x=x), replace(star, x=x + 0.3)])[0].x == x for x in places]
    assert 0.4 < np.mean(first) < 0.6


def gaussian(n: int, mean: np.ndarray, root: np.ndarray, seed: int) -> np.ndarray:
    """n points whose mean and covariance are exactly these, root root' being the covariance."""
    x = np.random.default_rng(seed).normal(size=(n, len(mean)))
    x -= x.mean(0)
    return x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T @ root.T + mean


def test_frechets_distance_of_two_gaussians_is_the_closed_form():
    rng = np.random.default_rng(0)
    means, widths = rng.normal(size=(2, 5)), rng.random((2, 5)) + 0.2
    alike = [gaussian(40 + 9 * k, m, np.diag(w), k) for k, (m, w) in enumerate(zip(means, widths))]  # axes in common
    assert frechet(*alike) == pytest.approx(((means[0] - means[1]) ** 2).sum() + ((widths[0] - widths[1]) ** 2).sum())
    roots = rng.normal(size=(2, 5, 5))
    turned = [gaussian(40 + 9 * k, m, r, k) for k, (m, r) in enumerate(zip(means, roots))]
    a, b = (r @ r.T for r in roots)
    wanted = ((means[0] - means[1]) ** 2).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert frechet(*turned) == pytest.approx(wanted)
    assert frechet(turned[0], turned[0]) == pytest.approx(0, abs=1e-9)


def test_features_are_the_towers_averaged_over_places(tiny):
    pictures = render(sample_scenes([parse("a star")] * 3, np.random.default_rng(0)))
    with torch.no_grad():
        seen = tiny.bagel.vit_model(patchify(pictures * 2 - 1, 8), table_rows(8, 8, 8))
    assert np.allclose(features_of(tiny, pictures), seen.mean(1), atol=1e-5)


def test_overlap_is_one_minus_total_variation():
    distribution = dict(a=0.5, b=0.5)
    assert overlap(["a", "b"], distribution) == 1.0
    assert overlap(["a", "a"], distribution) == 0.5
    assert overlap(["c", "c"], distribution) == pytest.approx(0.5)


def test_a_share_of_coverage_is_paired_by_prompt_and_attribute():
    parts = lambda *scores: dict(parts=[dict(score=s, ceiling=0.9) for s in scores])
    share = coverage_share(parts(0.45, 0.9, 0.72), parts(0.9, 0.9, 0.9))
    assert share["value"] == round((0.5 + 1 + 0.8) / 3, 4) and share["low"] < share["value"] < share["high"]
    assert coverage_share(parts(0.9, 0.8), parts(0.9, 0.8))["note"] == "2 pairs, no differences"
