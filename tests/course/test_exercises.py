"""Every check passes a right answer, refuses plausible wrong ones with a hint, and says so when nothing was tried."""

import inspect

import pytest
import torch

from hb.course import exercises
from hb.course.chapters.ch03 import rope_positions
from hb.flow import time_grid
from hb.losses import matching_direction
from hb.world.annotator import Annotator
from tests.course.answers import RIGHT, _above, _kept, _look, _refl, _wanted
from tests.course.wrong_answers import WRONG


def _stub_like(right):
    """The stub a notebook shows: `...`, or a function with the right arguments that returns it."""
    if not callable(right):
        return ...
    names = list(inspect.signature(right).parameters)
    return eval(f"lambda {', '.join(n for n in names if n != 'other')}: ...")


def test_every_exercise_is_tested():
    assert set(exercises.CHECKS) == set(RIGHT) == set(WRONG)
    assert all(len(wrong) >= 2 for wrong in WRONG.values())


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_passes(name, capsys):
    exercises.check(name, RIGHT[name])
    assert capsys.readouterr().out == f"✓ {name}\n"


@pytest.mark.parametrize("name, i", [(name, i) for name, wrong in WRONG.items() for i in range(len(wrong))])
def test_a_wrong_answer_gets_a_hint(name, i, capsys):
    exercises.check(name, WRONG[name][i])
    said = capsys.readouterr().out
    assert said.startswith(f"✗ {name} ") and len(said) > 25


@pytest.mark.parametrize("name", RIGHT)
def test_a_stub_is_not_tried_yet(name, capsys):
    exercises.check(name, _stub_like(RIGHT[name]))
    assert capsys.readouterr().out == f"· {name} not tried yet\n"


@pytest.mark.parametrize("name", RIGHT)
def test_a_check_never_raises(name, capsys):
    def broken(*_):
        raise RuntimeError("oops")

    for answer in (broken, "a string", [], object(), lambda: 1, None):
        exercises.check(name, answer)
    exercises.check("99.9", 1)
    assert "there is no exercise" in capsys.readouterr().out


def test_a_forgotten_return_is_not_a_stub(capsys):
    for name, right in RIGHT.items():
        if callable(right):
            exercises.check(name, lambda *arguments: None)
            assert "`return`" in capsys.readouterr().out, name


@pytest.mark.parametrize(
    "name, answer", [("2.2", lambda x, v, t: x - t * v), ("8.1", lambda x_t, x_s, t, s: (x_s - x_t) / (s - t))]
)
def test_an_answer_for_one_time_is_told_the_shape_of_many(name, answer, capsys):
    exercises.check(name, answer)
    assert "t[:, None]" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name, answer, hint",
    [
        ("2.4", lambda n, shift: time_grid(6, shift), "6 steps"),
        ("3.2", lambda n, k: rope_positions(["noise" if i == "vit" else i for i in k], n), "ViT"),
        ("3.4", lambda n, k: _look(n, k, vit="causal"), "ViT"),
        ("9.3", lambda t, grid: (grid >= t[:, None]).sum(1) - 1, "not >="),
        ("11.4", lambda generator, reward, z, threshold: _refl(generator(z), reward, threshold, blind=True), "no_grad"),
        ("11.4", lambda generator, reward, z, threshold: (threshold - reward(generator(z)).mean()).relu(), "bad one"),
    ],
)
def test_answers_that_were_once_accepted_are_refused(name, answer, hint, capsys):
    exercises.check(name, answer)
    assert hint in capsys.readouterr().out


def test_hints_name_the_mistake(capsys):
    exercises.check("2.3", lambda x, v, t, s: x + (t - s) * v)
    assert "negative" in capsys.readouterr().out
    exercises.check("3.1", WRONG["3.1"][0])
    assert "LayerNorm" in capsys.readouterr().out
    exercises.check("4.4", lambda a, b: a * b)
    assert "a - 1" in capsys.readouterr().out
    exercises.check("5.1", lambda p, q: (p * q).sum())
    assert "independent" in capsys.readouterr().out
    exercises.check("5.3", lambda alpha, g: (1 - alpha**g) / (1 - alpha))
    assert "g - 1" in capsys.readouterr().out
    exercises.check("6.1", lambda parents: _above(parents, first=0))
    assert "-1" in capsys.readouterr().out
    exercises.check("6.3", lambda tokens, cost, reach, extra: reach > extra)
    assert "plain step" in capsys.readouterr().out
    exercises.check("7.1", lambda v, n, s, t, low: _wanted(v, n, s, t > -1))
    assert "interval" in capsys.readouterr().out
    exercises.check("8.2", lambda n, fine, k: n // (fine // k) * (fine // k))
    assert "upper boundary" in capsys.readouterr().out
    exercises.check("9.1", WRONG["9.1"][0])
    assert "against" in capsys.readouterr().out
    exercises.check("9.2", lambda s, t: s)
    assert "fresh" in capsys.readouterr().out
    exercises.check("11.1", WRONG["11.1"][1])
    assert "both" in capsys.readouterr().out
    exercises.check("11.3", 0.1)
    assert "learnt" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name, answer",
    [
        ("2.2", lambda x, v, t: x - t.view(-1, 1) * v),
        ("2.4", lambda n, shift: [shift * (1 - i / n) / (1 + (shift - 1) * (1 - i / n)) for i in range(n + 1)]),
        ("5.1", lambda p, q: (q * (p / q).clamp(max=1)).sum()),
        ("5.1", lambda p, q: sum(min(a, b) for a, b in zip(p.tolist(), q.tolist()))),
        ("8.1", lambda x_t, x_s, t, s: (x_t - x_s) / (t - s).unsqueeze(-1)),
        ("9.1", matching_direction),
        ("9.2", lambda s, t: _kept(s, t) * t / (1 - _kept(s, t) * (1 - t))),
        (
            "11.1",
            lambda ahead, noise, careless: torch.from_numpy(
                Annotator(noise=noise, careless=careless).preference(ahead.double().numpy(), 0.0)
            ),
        ),
        ("11.2", lambda m, s, a, beta: torch.tensor([m + a * s * s / beta, s])),
        ("9.3", lambda t, grid: torch.searchsorted(-grid, -t) - 1),
        ("9.3", lambda t, grid: [max(j for j, g in enumerate(grid) if g > time) for time in t]),
    ],
)
def test_other_right_answers_pass_too(name, answer, capsys):
    exercises.check(name, answer)
    assert capsys.readouterr().out == f"✓ {name}\n"
