"""What the workshop's tests share: a teacher of their own, a pool of a few examples, and stages without a model."""

import lightning as L
import pytest
import torch

from hb.data.pool import make_pool
from hb.guidance import Guidance
from hb.infer.pipeline import Model
from hb.models.kv_cache import KVCache
from hb.train.distill.batch import StageBatch, pick_batch, read_batch
from hb.train.distill.stage import Stage

GUIDANCE = dict(
    draw=Guidance(text_scale=4.0, renorm="global"),
    edit=Guidance(text_scale=3.0, image_scale=2.0, interval=(0.4, 1.0), renorm="text_channel"),
)


@pytest.fixture(scope="session")
def model(tiny_folder):
    """The tiny model again, apart from the one that other tests share. Its velocities are not all zero, as there."""
    model = Model.from_pretrained(tiny_folder)
    with torch.no_grad():
        model.bagel.latent.output.weight.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    return model


@pytest.fixture(scope="session")
def teacher(model):
    """Not to be changed: a test here holds the workshop to that."""
    return model.bagel.requires_grad_(False)


@pytest.fixture(scope="session")
def pool(model):
    def encode(pictures):  # any fixed function of the picture will do, if its values have the variance of noise
        small = torch.nn.functional.avg_pool2d(pictures, 8).repeat(1, 2, 1, 1)[:, :4]
        return torch.nn.functional.layer_norm(small, small.shape[1:])

    return make_pool(encode, model.text, side=64, prompts=4, scenes=4, bar=False)


def batch_of(pool, task, n=2, step=0):
    return pick_batch(pool, {task: n}, seed=0, step=step)


def stage_batch_of(teacher, pool, task, n=2, seed=0, **options) -> StageBatch:
    return read_batch(teacher, batch_of(pool, task, n), GUIDANCE, torch.Generator().manual_seed(seed), **options)


def shake(branch, std=0.05, seed=0):
    """Every weight elsewhere, so that nothing is zero or a copy by chance."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in branch.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * std)
    return branch


def bare(stage_class, **parts) -> Stage:
    """A stage without models: its formulas alone, with any functions in the place of networks."""
    stage = stage_class.__new__(stage_class)
    L.LightningModule.__init__(stage)
    stage.facts = {}
    for name, part in parts.items():
        setattr(stage, name, part)
    return stage


def nothing_read(latent) -> StageBatch:
    """A batch whose context is empty, for those functions."""
    n = len(latent)
    empty = KVCache.with_room(0, n, 1, 0, 1, latent)
    return StageBatch("draw", empty, empty, empty, None, latent, torch.ones(n), None)


def distribution(exact):
    """A velocity of `hb.exact`, or any v(x, t) on points [B, D], called as a network is."""
    velocity = getattr(exact, "velocity", exact)
    return lambda x, t, context, **scales: velocity(x.flatten(1), t).reshape(x.shape)


def changed(before: dict, after: dict) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def weights_of(module) -> dict:
    return {name: p.detach().clone() for name, p in module.named_parameters()}
