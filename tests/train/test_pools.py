"""A pool is made once, by one process, says what it was made of, and is the same whoever makes it."""

import time
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import fields, replace

import pytest
import torch

from hb.data.mixes import DRAW_MIX, mixed
from hb.data.pool import Pool, make_pool
from hb.train import pools
from hb.train.pools import pool_for
from hb.world.language import parse
from tests.train.conftest import examples


def same(one: Pool, other: Pool) -> bool:
    return all(torch.equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(Pool))


def test_a_pool_comes_back_from_disk_as_it_was(pool, tmp_path):
    pool.save(tmp_path / "pool.safetensors")
    back = Pool.load(tmp_path / "pool.safetensors")
    assert torch.equal(back.draw_ids, pool.draw_ids) and torch.equal(back.scene_picture, pool.scene_picture)


@pytest.fixture
def pooled(tiny, tmp_path):
    """The pool of a file there, made if need be; the autoencoder's first weights and scale can be told to be others."""

    def make(encoder=1.0, scale=1.0, **changes):
        autoencoder = deepcopy(tiny.bagel.autoencoder)
        autoencoder.encoder.conv_in.weight.data *= encoder
        autoencoder.config = replace(autoencoder.config, scale_factor=scale)
        options = dict(side=64, prompts=2, scenes=2, precision="f32") | changes
        return pool_for(autoencoder, tiny.text, tmp_path / "deep" / "pool.safetensors", **options)

    return make


@pytest.mark.parametrize(
    "other",
    [
        dict(seed=1),
        dict(prompts=3),
        dict(scenes=3),
        dict(mix=mixed(dict(counting=0.9))),
        dict(encoder=0.5),
        dict(scale=0.5),
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_pool_made_of_something_else_is_made_anew_and_says_so(other, pooled, monkeypatch, capsys):
    first = pooled()
    assert "made anew" not in capsys.readouterr().err
    second = pooled(**other)
    assert not same(second, first) and f"pool.safetensors was made with {next(iter(other))} " in capsys.readouterr().err
    monkeypatch.setattr("hb.train.pools.make_pool", None)
    assert same(pooled(**other), second)  # a run that goes on finds its own


def test_a_pool_from_before_pools_said_what_they_are_is_made_anew(pooled, tmp_path, capsys):
    first = pooled()
    replace(first, draw_latent=first.draw_latent + 1).save(tmp_path / "deep" / "pool.safetensors")
    assert same(pooled(), first) and "does not say what it was made of: it is made anew" in capsys.readouterr().err


def test_a_pool_is_the_same_however_many_write_it(text, monkeypatch):
    monkeypatch.setattr("hb.data.pool.CHUNK", 5)
    encode = lambda pictures: pictures[:, :, ::8, ::8]
    one, two = (make_pool(encode, text, side=64, prompts=13, scenes=4, bar=False, workers=n) for n in (0, 2))
    assert all(torch.equal(getattr(one, f.name), getattr(two, f.name)) for f in fields(Pool))


def test_shares_of_tasks_are_as_asked_and_the_others_keep_their_proportions(text):
    assert mixed({}) == DRAW_MIX
    mix = mixed(dict(counting=0.5, rich=0.0))
    assert mix["counting"] == 0.5 and mix["rich"] == 0 and sum(mix.values()) == pytest.approx(1)
    assert mix["two"] / mix["position"] == pytest.approx(DRAW_MIX["two"] / DRAW_MIX["position"])
    assert mixed(dict(single=0.1, two=0.2, counting=0.7))["rich"] == 0
    pool = make_pool(
        lambda p: p[:, :, ::8, ::8], text, side=64, prompts=30, scenes=1, bar=False, mix=mixed(dict(counting=1.0))
    )
    prompts = [text.decode(ids[:n]) for ids, n in zip(pool.draw_ids, pool.draw_length)]
    assert all(len(r.wishes) > 1 and len(set(r.wishes)) == 1 for r in map(parse, prompts)), prompts


def test_the_batch_of_a_step_is_always_the_same(pool, text):
    a, b = examples(pool, text, 5), examples(pool, text, 5)
    assert all(torch.equal(a[k], b[k]) for k in a)
    for other in (examples(pool, text, 5, rank=1), examples(pool, text, 6)):
        assert all(not torch.equal(a[k], other[k]) for k in ("draw_latent", "dialogue_ids", "dialogue_picture"))


def test_a_pool_that_another_process_is_making_is_waited_for(pooled, tmp_path, monkeypatch):
    """The second one to ask does not make it again."""
    made, make = [], pools.make_pool
    slow = lambda *args, **options: made.append(1) or time.sleep(0.2) or make(*args, **options)
    monkeypatch.setattr(pools, "make_pool", slow)
    with ThreadPoolExecutor(2) as both:
        one, two = both.map(lambda _: pooled(), range(2))
    assert made == [1] and same(one, two)
