"""A relay of two students: the first step is the first one's, the others are the second one's."""

import numpy as np
import pytest
import torch

from hb.flow import jump, time_grid
from hb.infer.image import noise
from hb.infer.pipeline import Model
from hb.infer.relay import relays
from tests.infer.conftest import student_of

TEXTS = ["a red circle", "a star"]


@pytest.fixture(scope="module")
def model(live_model) -> Model:
    """Two students that serve, and others that do not."""
    students = {
        "one": student_of(live_model, 3, reads_vision=False, default=True),
        "four": student_of(live_model, 4, steps=4, reads_vision=False, default=True),
        "other": student_of(live_model, 5, steps=5, reads_vision=False),
        "reads": student_of(live_model, 6, steps=6),
        "multistep": student_of(live_model, 7, steps=3, reads_vision=False, sampler="multistep"),
    }
    return Model(live_model.bagel, live_model.text, live_model.sampling, "relays", students=students)


def by_hand(model: Model, nfe: int, prompts=TEXTS, seed=0) -> torch.Tensor:
    """`nfe` steps on the second student's grid, of which the first is a jump over those that are left out."""
    one, four = model.open_student("one"), model.open_student("four")
    whole = time_grid(4, 3.0)
    boundaries = [whole[0], *whole[5 - nfe :]]
    with torch.no_grad():
        _, context = model.bagel.read_text(model.bagel.empty(len(prompts)), model.processor.encode(prompts))
        x = noise(len(prompts), 16, model.bagel.config.latent_width, seed).to(torch.float64)
        scales = dict(text_scale=torch.full((len(x),), model.sampling.draw.text_scale).double())
        for k, (t, s) in enumerate(zip(boundaries, boundaries[1:])):
            v = (four if k else one).velocity(x, t.double().expand(len(x)), context, (4, 4), image_scale=None, **scales)
            x = jump(x, v, t, s)
    return x


@pytest.mark.parametrize("nfe", [2, 3, 4])
def test_the_first_step_is_the_first_students(model, nfe):
    drawn = model.draw(TEXTS, student="one+four", nfe=nfe, warn=False)
    assert drawn.nfe == nfe and drawn.student == "one+four"
    assert torch.allclose(drawn.latent, by_hand(model, nfe), atol=1e-6)


def test_with_the_same_student_twice_it_is_that_students_own_trajectory(live_model):
    one = student_of(live_model, 8, steps=4, reads_vision=False)
    model = Model(live_model.bagel, live_model.text, live_model.sampling, "same", students=dict(one=one))
    relay, alone = (model.draw(TEXTS, student=name, nfe=4, warn=False) for name in ("one+one", "one"))
    assert torch.allclose(relay.latent, alone.latent, atol=1e-9)


def test_a_number_of_evaluations_between_two_students_is_served_by_both(model, picture):
    assert relays(model.students) == ["one+four"]
    reading = student_of(model, 6, steps=6, default=True)  # through the vision encoder, which "one" does not
    assert relays(model.students | dict(reads=reading)) == ["one+four"]
    assert [model.student_for(None, nfe) for nfe in (1, 2, 3, 4, 5)] == ["one", "one+four", "one+four", "four", None]
    edited = model.edit(picture, "make it red", nfe=2)
    assert edited.nfe == 2 and edited.student == "one+four"
    assert model.draw("a star", student="one+other", warn=False).nfe == 5  # without a number: the most it serves


def test_its_identity_is_of_both(model):
    whole, own = model.student("one+four"), [model.students[name].fingerprint() for name in ("one", "four")]
    assert whole.fingerprint() == "+".join(own)
    assert model.student("one+four") is whole and model.student("one") is model.students["one"]
    old = model.students["one"]
    try:
        model.students["one"] = student_of(model, 9, reads_vision=False)
        assert model.student("one+four").fingerprint() != whole.fingerprint()
        again = model.draw(TEXTS, student="one+four", nfe=2, warn=False).latent
    finally:
        model.students["one"] = old
    assert not np.allclose(again, model.draw(TEXTS, student="one+four", nfe=2, warn=False).latent)


@pytest.mark.parametrize(
    ("student", "nfe", "words"),
    [
        ("one+four", 1, "2 to 4 evaluations, not 1"),
        ("one+four", 5, "2 to 4 evaluations, not 5"),
        ("one+five", 2, "no student called 'five'"),
        ("+four", 2, "no student called ''"),
        ("four+one", 2, "several steps"),
        ("one+multistep", 2, "Euler's method"),
        ("one+reads", 2, "the other does not"),
    ],
)
def test_what_cannot_be_is_refused(model, student, nfe, words):
    with pytest.raises(ValueError, match=words):
        model.draw("a star", student=student, nfe=nfe)
