"""Numbers: of every type, given or not, finite or not, within what was trained or not, and counted right."""

import copy
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch

from hb.infer.image import noise
from hb.infer.text import decode
from hb.models.distribution import TokenDistribution
from hb.models.hf_generation import AnswerModel

# ---- given? ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda m, p: m.draw("a star", steps=0, student="six"), "steps is a whole number from 1 on, got 0"),
        (lambda m, p: m.draw("a star", steps=0), "steps is a whole number from 1 on, got 0"),
        (lambda m, p: m.draw("a star", nfe=0, student="six"), "nfe is a whole number from 1 on, got 0"),
        (lambda m, p: m.edit(p, "remove the star", nfe=0), "nfe is a whole number from 1 on, got 0"),
        (lambda m, p: m.draw("a star", size=(0, 64)), "size is a whole number from 1 on, got 0"),
        (lambda m, p: m.ask(p, "what?", max_tokens=0), "max_tokens is a whole number from 1 on, got 0"),
        (lambda m, p: m.ask(p, "what?", top_k=0, temperature=1.0), "top_k keeps at least 1"),
        (lambda m, p: m.draw("a star", nfe=0.5), "nfe is a whole number, got 0.5"),
        (lambda m, p: m.draw("a star", text_scale="much"), "text_scale is a number, got 'much'"),
        (lambda m, p: m.draw("a star", seed=2**64), "a seed has at most 64 bits"),
        (lambda m, p: m.draw("a star", seed="3"), "a seed is a whole number, got '3'"),
    ],
)
def test_nought_is_a_number_and_not_nothing(model, picture, call, words):
    """Red where `steps or ...` took 0 for "not given": 6 evaluations, 50."""
    with pytest.raises(ValueError, match=words):
        call(model, picture)


# ---- types ----------------------------------------------------------------------------------------------------------

THREE = [3, np.int64(3), np.uint8(3), torch.tensor(3), np.array(3)]


@pytest.mark.parametrize("three", THREE, ids=lambda n: type(n).__name__)
def test_a_number_is_a_number_whatever_its_type(model, picture, three):
    """Red with TypeError and "must be a float"."""
    draw = lambda n: model.draw("a star", steps=n, seed=n, text_scale=n, student="six").pixels
    ask = lambda n: model.ask(
        picture, "what?", max_tokens=n, top_k=n, repetition_penalty=n, temperature=n, seed=n, speculate=False
    )
    assert torch.equal(draw(three), draw(3))
    assert (ask(three).texts, ask(three).seed) == (ask(3).texts, 3)


@pytest.mark.parametrize(
    "scale", [2, np.float32(2), np.float64(2), torch.tensor(2.0), torch.tensor([2.0]), Fraction(4, 2)]
)
def test_a_scale_is_a_scale_whatever_its_type(model, picture, scale):
    edit = lambda s: model.edit(picture, "remove the star", steps=1, text_scale=s, image_scale=s, student="six").pixels
    assert torch.equal(edit(scale), edit(2.0))


@pytest.mark.parametrize("seeds", [(7, 8), range(7, 9), np.array([7, 8]), torch.tensor([7, 8]), np.uint64(7)], ids=str)
def test_seeds_come_in_every_kind_of_list(model, seeds):
    assert model.draw(["a star"] * 2, steps=1, seed=seeds).seeds == (7, 8)


@pytest.mark.parametrize("seed", [2**32 + 3, 2**63, 2**64 - 1, -1, -(2**63)])
def test_seeds_have_64_bits_that_all_count(model, picture, seed):
    """Red with an overflow where noise is drawn between steps, and because PyTorch's CPU generator drops the upper 32
    bits: 2**32 + 3 was 3."""
    model.students["six"] = type(model.students["six"])(
        **model.students["six"].to_dict() | dict(sampler="multistep"), weights=model.students["six"].weights
    )
    drawn = model.draw(["a star"] * 2, nfe=6, seed=seed)
    assert torch.isfinite(drawn.latent).all() and not torch.equal(drawn.latent[0], drawn.latent[1])
    assert model.edit(picture, "remove the star", nfe=6, seed=seed).nfe == 6
    assert model.ask(picture, "what?", temperature=1.0, max_tokens=2, seed=seed).seed == seed
    assert not torch.equal(noise(1, 4, 2, seed), noise(1, 4, 2, seed % 2**32))


def test_small_seeds_draw_what_they_drew():
    wanted = torch.randn(1, 4, 2, generator=torch.Generator().manual_seed(11))
    assert torch.equal(noise(1, 4, 2, 11), wanted)


# ---- finite ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("nan"), torch.tensor(float("nan"))], ids=str)
@pytest.mark.parametrize("student", ["teacher", "six"])
def test_what_is_not_finite_gets_a_sentence(model, picture, value, student):
    """Red while a NaN scale drew a NaN picture."""
    for call in (
        lambda: model.draw("a star", steps=1, text_scale=value, student=student),
        lambda: model.edit(picture, "remove the star", steps=1, image_scale=value, student=student),
        lambda: model.ask(picture, "what?", temperature=value),
        lambda: model.ask(picture, "what?", repetition_penalty=value),
    ):
        with pytest.raises(ValueError, match="must be finite"):
            call()
    with pytest.raises(ValueError, match=r"floats in \[0, 1\]"):
        model.edit(picture.clone().index_fill_(0, torch.tensor(0), float(value)), "remove the star")


# ---- far outside of training ----------------------------------------------------------------------------------------


def test_one_is_off_for_everybody(model, picture):
    """Red for students, which took 0 as an input they had never met."""
    for student in ("teacher", "six"):
        draw = lambda s, who=student: model.draw("a star", steps=2, text_scale=s, student=who).latent
        assert torch.equal(draw(0), draw(1)) and torch.equal(draw(-3), draw(1))
    edit = lambda s: model.edit(picture, "remove the star", steps=2, image_scale=s, student="six").latent
    assert torch.equal(edit(0), edit(1))


def test_a_scale_beyond_training_is_held_and_said(model, picture):
    with pytest.warns(UserWarning, match="trained with text_scale 1 to 5: 10 is held at 5"):
        beyond = model.draw("a star", student="six", text_scale=10).latent
    with pytest.warns(UserWarning, match="trained with image_scale 1 to 2.5: 4 is held at 2.5"):
        model.edit(picture, "remove the star", student="six", image_scale=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(beyond, model.draw("a star", student="six", text_scale=5).latent)
        model.draw("a star", steps=1, text_scale=10)  # the teacher extrapolates as it is asked to


# ---- metered --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 2, 3, 40])
@pytest.mark.parametrize("speculate", [True, False])
def test_plain_decoding_gives_one_token_a_pass(whole, picture, most, speculate):
    """Red at a limit of 1: two tokens in one pass."""
    answer = whole.ask(picture, "describe the picture", max_tokens=most, speculate=speculate)
    assert answer.tokens <= most and answer.acceptance_length >= 1.0
    if not speculate:
        assert answer.acceptance_length == 1.0 and answer.tokens == answer.passes


# ---- one meaning in two places --------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [1, 1.5, 5.0])
def test_a_repetition_penalty_means_the_same_in_generate_and_in_ask(tiny, picture, penalty):
    asked = tiny.ask(picture, "describe the picture", max_tokens=30, repetition_penalty=penalty)
    context = tiny.read_for_asking(picture[None] * 2 - 1, ["describe the picture"]).context
    say = AnswerModel(tiny.bagel).say
    options = dict(max_new_tokens=30, do_sample=False)
    said = say(context, repetition_penalty=penalty, **options)
    assert tiny.text.decode(said) == asked.text
    assert penalty == 1 or said != say(context, **options)


def test_the_context_is_not_counted_as_repeated(tiny, picture):
    """A model whose likeliest first token is its end marker says nothing. Red while `generate()` counted the context,
    which it holds as end markers: answers did not end."""
    context = tiny.read_for_asking(picture[None] * 2 - 1, ["describe the picture"]).context
    first = decode(tiny.bagel, context, max_tokens=1).tokens[0][0]
    silent = copy.deepcopy(tiny.bagel)
    silent.markers = (silent.markers[0], first, *silent.markers[2:])
    distribution = TokenDistribution(repetition_penalty=5.0)
    wanted = decode(silent, context, max_tokens=6, distribution=distribution).tokens[0]
    said = AnswerModel(silent).say(context, repetition_penalty=5.0, max_new_tokens=6, do_sample=False)
    assert said == wanted == []
