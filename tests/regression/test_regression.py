"""What the library computes is what it computed before: latents, answers, and one step of every training stage.

Three models are pinned (see `today.py`): `tiny` and `golden`, whose weights are stored with the tests and last, and the
shipped `nano`. Where nano's weights are not those of its fixture the tests fail and name the command that makes the
fixture anew.

What may differ on another processor, or after products are written in another order, and how it is compared:

    latents      float32 sums in another order. Unit variance; every value within 1e-4
    pixels       by the autoencoder's own decoder: float32, within 1e-4. By the pixel decoder: bfloat16 where the
                 processor multiplies it by itself, float32 elsewhere; within 0.004 of 1 in the mean
    answers      equal. A token could flip only where the two best logits are closer than rounding
    passes       of a speculative answer: within one in twenty, since two guesses of a draft that are equally likely may
                 change places and no answer with them
    losses       of a training step: within 1e-4, absolute and relative added
    gradients    their norm before clipping: within 1e-4 of it
    changes      of the weights by a step: within 1e-3 of it. Adam's first step is the sign of the gradient, and where
                 that is all rounding, so is its sign

A deliberate change that these figures must show (another rule for the optimizer, other training data, other rounding of
pixels) comes with a new fixture in the same commit, and the message says so.

`pytest tests/regression` takes the unit suite's part of it; with `-m "slow or not slow"` everything.
"""

import json
from functools import cache

import pytest
import torch
from safetensors.torch import load_file

from tests.regression.make_fixture import FIXTURE, PARTS, Figure, figures, weights_of

COMMAND = "python -m tests.regression.make_fixture"
FIGURES = [figure for part in PARTS for figure in figures(part)]


@cache
def stored(part: str) -> dict:
    """The fixture of a part, by `KIND/WHAT/NAME`. Fails if it belongs to other weights."""
    facts = json.loads((FIXTURE / f"{part}.json").read_text())
    return facts["figures"] | load_file(FIXTURE / f"{part}.safetensors") | dict(weights=facts["weights"])


def fixture_of(part: str) -> dict:
    kept, found = stored(part), weights_of(part)
    if kept["weights"] != found:
        pytest.fail(
            f"the fixture of {part} is of other weights (fingerprint {kept['weights']}, these have {found}); "
            f"if they were replaced on purpose, make it anew in the same commit: {COMMAND} {part}",
            pytrace=False,
        )
    return kept


# ---- comparisons ----------------------------------------------------------------------------------------------------


def near(now, before, *, absolute: float = 0.0, relative: float = 0.0) -> None:
    """Every value within `absolute` + `relative` times its size before."""
    now, before = (torch.as_tensor(values).double() for values in (now, before))
    assert now.shape == before.shape, f"shape {list(now.shape)} instead of {list(before.shape)}"
    worst = (now - before).abs() - relative * before.abs()
    assert bool(now.isfinite().all()), "not finite"
    assert worst.max() <= absolute, f"largest difference {(now - before).abs().max():.2e}, {now} instead of {before}"


def same_latents(now: dict, before: dict) -> None:
    near(now["latent"], before["latent"], absolute=1e-4)


def same_pixels(now: dict, before: dict) -> None:
    for name in ("latent", "refined", "own"):
        near(now[name], before[name], absolute=1e-4)
    assert (now["fast"].float() - before["fast"].float()).abs().mean() < 0.004


def same_answers(now: dict, before: dict) -> None:
    for name in now.keys() - {"passes"}:
        assert now[name] == before[name]
    if "passes" in now:
        assert abs(sum(now["passes"]) - sum(before["passes"])) <= 0.05 * sum(before["passes"])


def same_data(now: dict, before: dict) -> None:
    assert now.keys() == before.keys()
    for name, values in now.items():
        if isinstance(values[0], float):
            near(values, before[name], absolute=1e-4, relative=1e-4)
        else:
            assert values == before[name], name


def same_step(now: dict, before: dict) -> None:
    assert len(now["loss"]) == len(before["loss"]), "another number of optimizer steps"
    near(now["loss"], before["loss"], absolute=1e-4, relative=1e-4)
    near(now["gradient"], before["gradient"], absolute=1e-6, relative=1e-4)
    near(now["change"], before["change"], relative=1e-3)


SAME = dict(
    drawing=same_latents, edit=same_latents, pixels=same_pixels, answers=same_answers, data=same_data, step=same_step
)


# ---- tests ----------------------------------------------------------------------------------------------------------


def marked(figure: Figure):
    return pytest.param(figure, id=f"{figure.part}-{figure.name}", marks=[pytest.mark.slow] if figure.slow else [])


@pytest.mark.parametrize("figure", [marked(figure) for figure in FIGURES])
def test_it_is_what_it_was(figure):
    kept = fixture_of(figure.part)
    now = figure.make()
    before = {name: kept[f"{figure.name}/{name}"] for name in now}
    SAME[figure.kind](now, before)


@pytest.mark.parametrize("part", ["nano", "tiny"])
@pytest.mark.parametrize("drafted", ["chain", "tree"])
def test_the_pinned_greedy_answers_are_those_of_plain_decoding_in_fewer_passes(part, drafted):
    """A fixture that was made from a wrong library would pin the fault."""
    kept = fixture_of(part)
    plain, fast = (
        {name: kept[f"answers/{kind}/{name}"] for name in ("texts", "passes")} for kind in ("plain", drafted)
    )
    assert fast["texts"] == plain["texts"] and sum(fast["passes"]) < sum(plain["passes"])


@pytest.mark.parametrize("part", PARTS)
def test_the_fixture_holds_what_is_tested_and_nothing_else(part):
    kept = {name.rsplit("/", 1)[0] for name in stored(part) if "/" in name}
    assert kept == {figure.name for figure in FIGURES if figure.part == part}
    assert sum(file.stat().st_size for file in FIXTURE.iterdir()) < 2e6
