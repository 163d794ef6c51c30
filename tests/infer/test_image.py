"""Guided velocities, and the meter that counts them."""

import pytest
import torch

from hb.guidance import Guidance
from hb.infer.image import Contexts, Meter, guided_velocity, metered


def test_branches_together_are_branches_alone(tiny):
    """Guided velocity in one call equals the formula over three separate calls."""
    bagel = tiny.bagel
    _, full = bagel.read_text(bagel.empty(1), [tiny.text.encode("a circle")])
    _, no_image = bagel.read_text(bagel.empty(1), [tiny.text.encode("a star")])
    contexts = Contexts(full, bagel.empty(1), no_image)
    guidance = Guidance(3.0, 1.5, renorm_min=1.0)
    x, t = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor(0.7)
    with torch.no_grad():
        together = guided_velocity(metered(bagel, Meter()), contexts, guidance)(x, t)
        v, vt, vi = (bagel.velocity(x, t[None], c) for c in (full, bagel.empty(1), no_image))
    g = vt + 3.0 * (v - vt)
    assert torch.allclose(together, vi + 1.5 * (g - vi), atol=1e-5)


def test_a_call_that_is_not_counted_is_noticed(tiny, monkeypatch):
    """Break the meter on purpose: the record must not be written."""

    def forgetful(model, meter):
        count = metered(model, meter)

        def velocity(x, t, context, grid=None):
            if float(t[0]) < 0.1:
                return model.velocity(x, t, context, grid)
            return count(x, t, context, grid)

        return velocity

    monkeypatch.setattr("hb.infer.image.metered", forgetful)
    with pytest.raises(AssertionError, match="metered"):
        tiny.draw("a circle")
