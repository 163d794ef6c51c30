"""A cache holds what was read, whichever way it is grown; and none of the ways changes another."""

import pytest
import torch

from hb.models.kv_cache import KVCache, stack


def kv(batch, n, seed=0):
    """New keys and values of two layers."""
    generator = torch.Generator().manual_seed(seed)
    return [tuple(torch.randn(batch, 2, n, 4, generator=generator) for _ in range(2)) for _ in range(2)]


def empty(batch):
    return KVCache.with_room(2, batch, 2, 0, 4, torch.zeros(()))


@pytest.fixture
def cache() -> KVCache:
    present = torch.tensor([[True, True, True], [True, False, False]])
    return empty(2).append(kv(2, 3), torch.tensor([3, 1]), present).append(kv(2, 1, 1), 1)


def test_what_was_appended_is_held_in_order(cache):
    for layer in range(2):
        for part in range(2):
            expected = torch.cat([kv(2, 3)[layer][part], kv(2, 1, 1)[layer][part]], 2)
            assert torch.equal(cache.layer(layer)[part], expected)
    assert cache.length == 4 and cache.position.tolist() == [4, 2]
    assert cache.visible.tolist() == [[True] * 4, [True, False, False, True]] and not cache.whole


def test_appending_leaves_the_shorter_cache_as_it_was(cache):
    before = cache.kv.clone()
    longer = cache.append(kv(2, 2, 5), 2)
    assert torch.equal(cache.kv, before) and cache.length == 4 and longer.length == 6


def test_a_reserved_cache_written_in_place_is_the_appended_one(cache):
    new = kv(2, 3, 7)
    appended = cache.append(new, 2, torch.tensor([[True, True, False], [True, True, False]]))
    private = cache.reserve(5)
    for (keys, values), (_, _, k, v) in zip(new, private.layers(3)):
        k.copy_(keys), v.copy_(values)
    private.keep(None, None, 2)
    private.position += 2
    assert private.length == 6 and torch.equal(private.position, appended.position)
    for layer in range(2):
        for mine, theirs in zip(private.layer(layer), appended.layer(layer)):
            assert torch.equal(mine, theirs[:, :, :6])
    assert torch.equal(private.visible, appended.visible[:, :6])
    assert cache.length == 4


def test_keep_takes_a_path_through_a_tree():
    private = empty(1).reserve(4)
    new = kv(1, 4, 3)
    for (keys, values), (_, _, k, v) in zip(new, private.layers(4)):
        k.copy_(keys), v.copy_(values)
    private.keep(torch.tensor([[0, 2]]), None, 2)
    assert torch.equal(private.layer(1)[0], new[1][0][:, :, [0, 2]])


def test_keep_hides_what_a_row_does_not_keep(cache):
    private = cache.reserve(3)
    private.keep(torch.tensor([[0, 1], [0, 0]]), torch.tensor([[True, True], [True, False]]), 2)
    assert private.visible[:, 4:].tolist() == [[True, True], [True, False]]


def test_rows_select_and_stack_and_crop(cache):
    rows = [cache.select(torch.tensor([i])) for i in (0, 1)]
    again = stack(rows)
    assert torch.equal(again.kv, cache.kv) and torch.equal(again.visible, cache.visible)
    assert torch.equal(again.position, cache.position)
    short = cache.crop(2)
    assert short.length == 2 and torch.equal(short.layer(0)[0], cache.layer(0)[0][:, :, :2])
    uneven = stack([cache, cache.crop(1)])
    assert uneven.visible[2:].tolist() == [[True, False, False, False]] * 2 and not uneven.whole


def test_the_mask_of_the_next_tokens_is_causal_and_hides_padding(cache):
    mask = cache.reserve(2).mask(2)
    seen = mask[:, 0] == 0
    assert seen[0].tolist() == [[True] * 5 + [False], [True] * 6]
    assert seen[1].tolist() == [[True, False, False, True, True, False], [True, False, False, True, True, True]]


def test_a_local_mask_of_another_type_is_converted():
    """A float32 mask in a float64 cache made trees silently wrong."""
    private = KVCache.with_room(1, 1, 1, 4, 2, torch.zeros((), dtype=torch.float64))
    local = torch.zeros(1, 2, 2).masked_fill(torch.tensor([[False, True], [False, False]]), -torch.inf)
    assert private.mask(2, local).dtype == torch.float64


def test_gradients_flow_through_a_prefix():
    keys = torch.randn(1, 2, 3, 4, requires_grad=True)
    grown = empty(1).append([(keys, keys), (keys, keys)], 3).append(kv(1, 1), 1)
    grown.kv.sum().backward()
    assert torch.equal(keys.grad, torch.full_like(keys, 4.0))


def test_room_is_made_where_it_is_missing(cache):
    private = cache.reserve(0)
    private.widen(9)
    assert private.room == 9 and torch.equal(private.layer(1)[1], cache.layer(1)[1])


def test_rewinding_in_place_is_cropping(cache):
    """The prefix stays; what is written behind it takes the place of what was there, padding included."""
    private = cache.reserve(4)
    private.rewind(1, 7)
    assert private.length == 1 and private.position.tolist() == [7, 7] and private.room == 8
    for layer in range(2):
        for mine, wanted in zip(private.layer(layer), cache.crop(1).layer(layer)):
            assert torch.equal(mine, wanted)
    private.keep(None, None, 2)
    assert private.whole and private.visible.all() and not cache.whole
    with pytest.raises(ValueError, match="holds 3 tokens"):
        private.rewind(4, 0)
