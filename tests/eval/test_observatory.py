"""What is watched while a reward trains a model: each figure in limit cases, and the rule that ends a hacked run."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hb.eval.observatory import (
    PROMPTS,
    Look,
    Observatory,
    OpenShare,
    coverage_lite,
    divergence,
    entropy,
    look,
    open_shares,
    should_stop,
    spectrum_slope,
)
from hb.infer.pipeline import Model
from hb.models.rewards import RewardConfig, RewardModel
from hb.world.judge.reading import read
from hb.world.language import parse
from hb.world.render import render
from hb.world.scene import COLORS, sample_scenes


def rendered(prompts, seed=0):
    return render(sample_scenes([parse(p) for p in prompts], np.random.default_rng(seed)), 64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- figures --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def true():
    prompts = [p for p in ("a circle", "a star and a ring") for _ in range(60)]
    pictures = rendered(prompts)
    return pictures, [parse(p) for p in prompts]


def test_true_scenes_have_full_marks(true):
    seen = look(*true, dict(mine=np.zeros(120)))
    assert seen.right == 1.0 and seen.clean > 0.99 and seen.coverage > 0.8
    assert all(found["value"] < 3 * found["floor"] for found in seen.divergence.values())
    assert min(seen.entropy.values()) > 0.85
    assert -4 < seen.slope < -1.5


def test_a_collapse_is_seen_in_every_figure_but_the_judges(true):
    pictures, requests = true
    one = torch.stack([pictures[0]] * 60 + [pictures[60]] * 60)
    before, after = (look(p, requests, dict(mine=np.zeros(120))) for p in (pictures, one))
    assert after.right == 1.0 and after.coverage < 0.5 * before.coverage
    for attribute in ("color", "size", "place", "background"):
        assert after.divergence[attribute]["value"] > 5 * after.divergence[attribute]["floor"]
        assert after.entropy[attribute] == 0.0


def test_only_what_a_prompt_leaves_open_counts():
    request = parse("a large red circle on a white background")
    shares = open_shares(read(rendered(["a large red circle on a white background"] * 4)), [request] * 4)
    assert {share.attribute for share in shares} == {"place"}


def test_pictures_of_something_else_are_left_out_of_distributions():
    readings = read(rendered(["two stars"] * 3 + ["a star"] * 2))
    shares = open_shares(readings, [parse("a star")] * 5)
    assert all(len(share.seen) == 2 for share in shares) and len(shares) == 4


def some_share(values, attribute="color"):
    return OpenShare(attribute, values, dict.fromkeys(COLORS, 1 / 8))


def test_divergence_is_kl_with_its_floor():
    skewed = ["red"] * 6 + ["blue"] * 2
    got = divergence([some_share(skewed)])["color"]
    assert got["value"] == pytest.approx(0.75 * np.log(0.75 * 8) + 0.25 * np.log(0.25 * 8))
    assert got["floor"] == pytest.approx(7 / 16)
    rng = np.random.default_rng(0)
    drawn = [some_share(rng.choice(COLORS, 100).tolist()) for _ in range(200)]
    got = divergence(drawn)["color"]
    assert got["value"] == pytest.approx(got["floor"], rel=0.1)


def test_a_prompt_without_a_usable_picture_counts_as_a_collapse():
    assert divergence([some_share([])])["color"]["value"] == pytest.approx(np.log(8))
    assert divergence([some_share(["red"] * 50)])["color"]["value"] == pytest.approx(np.log(8))
    assert coverage_lite([some_share([])]) == 0.0 and np.isnan(coverage_lite([]))


def test_entropy_is_a_share_of_the_worlds():
    assert entropy([some_share(list(COLORS))])["color"] == pytest.approx(1.0)
    assert entropy([some_share(list(COLORS[:4]))])["color"] == pytest.approx(2 / 3)


def test_the_slope_of_a_spectrum_is_its_exponent():
    """Noise shaped to power f^-a has slope -a; white noise has 0."""
    white = torch.randn(24, 1, 64, 64, generator=generator(), dtype=torch.float64).expand(-1, 3, -1, -1)
    assert spectrum_slope(white) == pytest.approx(0.0, abs=0.2)
    f = torch.fft.fftfreq(64, dtype=torch.float64) * 64
    shape = torch.hypot(f[:, None], f).clamp_min(1) ** -1.0
    shaped = torch.fft.ifft2(torch.fft.fft2(white) * shape).real
    assert spectrum_slope(shaped) == pytest.approx(-2.0, abs=0.3)


def test_dither_flattens_the_spectrum(true):
    pictures = true[0][:16]
    board = (torch.arange(64)[:, None] + torch.arange(64)) % 2 * 0.2 - 0.1
    assert spectrum_slope((pictures + board).clamp(0, 1)) > spectrum_slope(pictures) + 0.02
    noise = torch.randn(pictures.shape, generator=generator())
    slopes = [spectrum_slope(pictures + scale * noise) for scale in (0.0, 0.05, 0.1, 0.3)]
    assert slopes == sorted(slopes) and abs(spectrum_slope(noise)) < 0.1  # white noise is flat
    assert np.isnan(spectrum_slope(torch.ones(2, 3, 64, 64)))


# ---- the rule -------------------------------------------------------------------------------------------------------


def looks(trained, held, n=64, spread=0.1, seed=0):
    """Checks with these means; pictures differ much, and their changes little."""
    rng, out = np.random.default_rng(seed), []
    base = rng.standard_normal(n) * 5
    for step, (a, b) in enumerate(zip(trained, held)):
        move = lambda mean: base + mean + spread * rng.standard_normal(n)
        out.append(Look(step, dict(trained=move(a), other=move(b)), 1.0, 1.0, 1.0, {}, {}, -2.0))
    return out


def test_a_healthy_run_goes_on():
    assert not should_stop(looks([0, 1, 2, 3, 4], [0, 1, 2, 3, 4]))


def test_a_hacked_run_stops_at_the_second_check_that_has_fallen():
    seen = looks([0, 1, 2, 3, 4], [0, 1, 2, 1.5, 1.0])
    assert [should_stop(seen[: k + 1]) for k in range(5)] == [False, False, False, False, True]


def test_one_bad_check_is_no_reason():
    assert not should_stop(looks([0, 1, 2, 3, 4], [0, 1, 2, 1.5, 2.5]))
    assert not should_stop(looks([0, 1, 2, 3, 4, 5], [0, 1, 2, 1.5, 2.5, 1.9]))


def test_where_the_trained_reward_falls_too_nothing_is_hacked():
    """Both fall: the run diverges, or the rate is too large, but it does not win reward by cheating."""
    assert not should_stop(looks([0, 1, 2, 1.5, 1.0], [0, 1, 2, 1.5, 1.0]))


def test_a_slow_fall_counts_from_the_best_check():
    held = [0, 1, 2, *(2 - 0.02 * k for k in range(1, 8))]
    seen = looks(range(10), held, spread=0.1)
    assert should_stop(seen) and not should_stop(seen[:4])


def test_noise_alone_is_no_fall():
    stopped = [should_stop(looks(range(6), np.zeros(6), spread=1.0, seed=seed)) for seed in range(40)]
    assert sum(stopped) < 14  # the best of several checks is best by chance, too


def test_pictures_are_paired():
    """They differ by 5, and their mean's own error would be 0.6; a fall of 0.3 is clear all the same."""
    assert should_stop(looks([0, 1, 2, 3], [0.0, 0.0, -0.3, -0.3]))


def test_without_held_out_rewards_nothing_is_stopped():
    seen = [replace(one, rewards=dict(trained=one.trained)) for one in looks([0, 1, 2, 3], [0, -1, -2, -3])]
    assert not should_stop(seen)


def test_the_first_checks_never_stop():
    assert not should_stop([]) and not should_stop(looks([0, 1], [0, -5]))


def test_several_held_out_rewards_count_by_their_mean():
    one = looks([0, 1, 2, 3], [0, 0, -1, -1])
    up = [replace(seen, rewards=seen.rewards | dict(third=-seen.held_out)) for seen in one]
    assert should_stop(one) and not should_stop(up)


# ---- online ---------------------------------------------------------------------------------------------------------


def test_an_observatory_looks_with_the_same_prompts_and_noises(tiny):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        rewards = {
            name: RewardModel(RewardConfig.of(tiny.bagel, name, inner=16, heads=2), tiny.bagel).eval()
            for name in ("vision", "latents")
        }
    watch, asked = Observatory(tiny, rewards, pictures=2), []

    def draw(prompts, seeds):
        asked.append((tuple(prompts), tuple(seeds)))
        return rendered(prompts)

    first, second = watch.check(draw), watch.check(draw, step=10)
    assert asked[0] == asked[1] and len(asked[0][0]) == 2 * len(PROMPTS) and len(set(asked[0][1])) == 2 * len(PROMPTS)
    assert (first.step, second.step) == (0, 10) and first.right == 1.0 and not watch.stop
    assert np.array_equal(first.trained, second.trained)
    assert np.array_equal(first.held_out, first.rewards["latents"])
    numbers = second.to_dict()
    assert {"reward vision", "reward latents", "right", "coverage", "slope", "divergence color"} <= numbers.keys()
    assert all(isinstance(value, float) for value in numbers.values())


def test_prompts_of_the_observatory_leave_something_open():
    assert all(open_shares([], []) == [] for _ in range(1))
    for prompt in PROMPTS:
        assert open_shares(read(rendered([prompt])), [parse(prompt)]), prompt


def test_a_reward_of_a_picture_does_not_depend_on_its_batch(tiny):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        reward = RewardModel(RewardConfig.of(tiny.bagel, "vision", inner=16, heads=2), tiny.bagel).eval()
    watch = Observatory(Model(tiny.bagel, tiny.text), dict(vision=reward), prompts=PROMPTS[:2], pictures=2)
    pictures = rendered(watch.prompts)
    together = watch.scores(pictures)["vision"]
    alone = Observatory(tiny, dict(vision=reward), prompts=PROMPTS[1:2], pictures=2).scores(pictures[2:])["vision"]
    assert together[2:] == pytest.approx(alone, abs=1e-4)
