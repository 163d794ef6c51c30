"""The straight path, its grids, guidance, and the count of function evaluations."""

import pytest
import torch

from hb.flow import eps_from, euler, interpolate, jump, released_grid, shift_time, time_grid, velocity_of, x0_from
from hb.guidance import Guidance, combine

DRAW = Guidance(text_scale=4.0)
EDIT = Guidance(text_scale=4.0, image_scale=2.0, interval=(0.4, 1.0), renorm="text_channel")


def pair(seed=0, shape=(3, 5, 4)):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))


def test_velocity_gives_back_data_and_noise():
    x0, eps = pair()
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    x, v = interpolate(x0, eps, t), velocity_of(x0, eps)
    assert torch.allclose(x0_from(x, v, t), x0) and torch.allclose(eps_from(x, v, t), eps)


def test_one_step_is_exact_on_straight_paths():
    x0, eps = pair()
    *_, (s, x) = euler(lambda x, t: eps - x0, eps, time_grid(1))
    assert s == 0 and torch.allclose(x, x0)


def test_jumps_compose_where_the_velocity_is_constant():
    x0, eps = pair()
    t, m, s = torch.tensor(0.9), torch.tensor(0.6), torch.tensor(0.2)
    v = eps - x0
    assert torch.allclose(jump(jump(x0, v, t, m), v, m, s), jump(x0, v, t, s))


@pytest.mark.parametrize("steps", [1, 6, 50])
def test_a_grid_makes_exactly_its_steps(steps):
    calls = []
    x0, _ = pair()
    states = list(euler(lambda x, t: calls.append(float(t)) or x * 0, x0, time_grid(steps, 3.0)))
    assert len(calls) == len(states) == steps and calls[0] == 1.0 and states[-1][0] == 0.0


def test_shift_keeps_the_ends_and_its_inverse_undoes_it():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    assert shift_time(t, 3.0)[0] == 0 and shift_time(t, 3.0)[-1] == 1
    assert torch.allclose(shift_time(shift_time(t, 3.0), 1 / 3.0), t)
    assert torch.equal(shift_time(t, 1.0), t)


def test_six_steps_at_shift_three_stand_where_the_paper_has_them():
    wanted = [1, 0.9375, 6 / 7, 0.75, 0.6, 0.375, 0]
    assert torch.allclose(time_grid(6, 3.0), torch.tensor(wanted))


@pytest.mark.parametrize(
    "guidance, grid, nfe",
    [
        (DRAW, time_grid(50, 3.0), 100), (EDIT, time_grid(50, 3.0), 132),
        (DRAW, released_grid(50, 3.0), 98), (EDIT, released_grid(50, 3.0), 131),
        (Guidance(4.0, interval=(0.4, 1.0)), released_grid(50, 3.0), 90),
        (Guidance(4.0, 2.0), released_grid(50, 3.0), 147),
        (Guidance(4.0, interval=(0.4, 1.0)), released_grid(25, 3.0), 44),
        (EDIT, released_grid(25, 3.0), 64), (Guidance(1.0), time_grid(6, 3.0), 6),
    ],
)  # fmt: skip
def test_the_ledger(guidance, grid, nfe):
    assert guidance.evaluations(grid) == nfe


def test_grids_and_guidance_refuse_nonsense_with_a_sentence():
    with pytest.raises(ValueError, match="at least one step"):
        time_grid(0)
    with pytest.raises(ValueError, match="fall within"):
        list(euler(lambda x, t: x, torch.zeros(1), torch.tensor([0.0, 1.0])))
    with pytest.raises(ValueError, match="unknown renorm"):
        Guidance(renorm="local")


def test_scale_one_is_no_guidance_at_all():
    v, other = pair()
    assert combine(v, other, other, text_scale=1.0, image_scale=3.0) is v


def test_picture_guidance_on_text_to_image_multiplies_the_text_scale():
    """Its image-dropped branch is the condition itself: the text scale becomes 1 + b (a - 1) (bagel.md section 7)."""
    v, no_text = pair()
    both = combine(v, no_text, v, text_scale=4.0, image_scale=1.5, renorm_min=1.0)
    one = combine(v, no_text, None, text_scale=1 + 1.5 * 3.0, image_scale=1.0, renorm_min=1.0)
    assert torch.allclose(both, one)


@pytest.mark.parametrize("renorm", ["global", "channel", "text_channel"])
def test_renorm_only_shrinks_and_each_picture_alone(renorm):
    v, no_text = pair()
    options = dict(text_scale=4.0, image_scale=1.0, renorm=renorm)
    out = combine(v, no_text, None, **options)
    raw = combine(v, no_text, None, text_scale=4.0, image_scale=1.0, renorm_min=1.0)
    dims = (-2, -1) if renorm == "global" else (-1,)
    assert (out.norm(dim=dims) <= torch.minimum(v.norm(dim=dims), raw.norm(dim=dims)) + 1e-6).all()
    for i in range(len(v)):
        assert torch.allclose(combine(v[i : i + 1], no_text[i : i + 1], None, **options), out[i : i + 1])
