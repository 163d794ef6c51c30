"""A model with everything that a folder can hold, small and untrained."""

import copy

import pytest
import torch

from hb.infer.artifacts import DraftCheckpoint, PixelDecoderCheckpoint, Student, fingerprint, understanding_fingerprint
from hb.infer.pipeline import Model
from hb.infer.speculative.draft import DraftConfig
from hb.models.conditioning import StudentModel
from hb.models.pixel_decoder import PixelDecoder, PixelDecoderConfig
from tests.infer.speculative.test_draft import shaken


def student_of(model: Model, **settings) -> Student:
    """A student that has only begun: the teacher's own weights, guidance embeddings that respond to their scale."""
    generator = torch.Generator().manual_seed(0)
    weights = {
        n: p.detach() + 0.02 * torch.randn(p.shape, generator=generator)
        for n, p in StudentModel(model.bagel).released_weights().items()
    }
    usual = dict(stage="cfg", steps=6, shift=3.0, teacher=fingerprint(model.bagel), any_steps=True, default=True)
    return Student(**usual | settings, weights=weights)


def draft_of(model: Model) -> DraftCheckpoint:
    weights = shaken(model, DraftConfig(layers=1)).state_dict()
    plans = {"0": dict(depth=3, budget=3, start_after=0)}
    config = dict(layers=1, zero_init=False)
    return DraftCheckpoint(config, plans, understanding_fingerprint(model.bagel), weights)


def pixel_decoder_of(model: Model) -> PixelDecoderCheckpoint:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = PixelDecoder(PixelDecoderConfig(4, (8, 8, 8, 8))).state_dict()
    config = dict(z_channels=4, widths=[8, 8, 8, 8])
    return PixelDecoderCheckpoint(config, fingerprint(model.bagel.autoencoder.encoder), {}, weights)


@pytest.fixture(scope="session")
def original(tiny_folder) -> Model:
    """Its last layer does not start at zero, so that it draws something. Tests get copies."""
    model = Model.from_pretrained(tiny_folder)
    with torch.no_grad():
        model.bagel.latent.output.weight.normal_(0, 0.2, generator=torch.Generator().manual_seed(1))
    model.students = dict(six=student_of(model))
    model.draft, model.pixel_decoder = draft_of(model), pixel_decoder_of(model)
    return model


@pytest.fixture
def whole(original) -> Model:
    """Not shared: a test may change it."""
    return copy.deepcopy(original)


@pytest.fixture
def model(whole) -> Model:
    """Without a draft and a pixel decoder."""
    whole.draft = whole.pixel_decoder = None
    return whole


@pytest.fixture
def picture() -> torch.Tensor:
    return torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
