"""A picture of noise; and the tiny model with students, whose velocities are not all zero."""

import numpy as np
import pytest
import torch
from PIL import Image

from hb.infer.artifacts import Student, fingerprint
from hb.infer.pipeline import Model
from hb.models.conditioning import StudentModel


@pytest.fixture
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def student_of(model: Model, seed: int = 0, extra_layers: int = 0, **settings) -> Student:
    """The teacher's own weights, all shaken a little: nothing is zero or a copy by chance."""
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: p.detach() + 0.05 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
        for name, p in StudentModel(model.bagel, extra_layers=extra_layers).released_weights().items()
    }
    usual = dict(stage="adp", steps=1, shift=3.0, teacher=fingerprint(model.bagel))
    return Student(**usual | settings, weights=weights)


def with_students(folder, dtype: torch.dtype = torch.float32) -> Model:
    model = Model.from_pretrained(folder)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.bagel.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    model.students = {
        "one-nfe": student_of(model, reads_vision=False),
        "deep": student_of(model, 3, extra_layers=2, reads_vision=False),
        "six": student_of(model, 1, steps=6, default=True),
        "multistep": student_of(model, 2, steps=3, sampler="multistep"),
    }
    model.bagel.to(dtype)
    return model


@pytest.fixture(scope="session")
def live_model(tiny_folder) -> Model:
    """In float64, where equal means equal. Not to be changed: tests share it."""
    return with_students(tiny_folder, torch.float64)
