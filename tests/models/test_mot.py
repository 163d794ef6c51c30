"""Each expert is an ordinary module; the two together are one attention."""

import copy
import os

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from hb.models.config import DecoderConfig
from hb.models.mot import Expert, MixtureOfTransformers, run_experts

CONFIG = DecoderConfig(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
    vocab_size=64, rope_theta=1e4,
)  # fmt: skip


def some(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(scope="module")
def expert() -> Expert:
    torch.manual_seed(0)
    return Expert(CONFIG).double()


@pytest.fixture(scope="module")
def both() -> MixtureOfTransformers:
    torch.manual_seed(1)
    return MixtureOfTransformers(CONFIG).double()


AT = torch.arange(5)[None].expand(2, -1)


def causal(n: int):
    return torch.ones(n, n, dtype=torch.bool).tril()[None, None].expand(2, 1, n, n)


def test_a_copy_of_an_expert_is_apart_and_equal(expert):
    twin = copy.deepcopy(expert)
    x = some(2, 5, 32)
    assert torch.equal(twin(x, AT), expert(x, AT))
    with torch.no_grad():
        twin.norm.weight.mul_(2)
    assert not torch.equal(twin(x, AT), expert(x, AT))


def test_an_expert_comes_back_from_its_state(expert):
    other = Expert(CONFIG).double()
    assert not torch.equal(other(some(2, 5, 32), AT), expert(some(2, 5, 32), AT))
    other.load_state_dict(expert.state_dict())
    assert torch.equal(other(some(2, 5, 32), AT), expert(some(2, 5, 32), AT))


@pytest.mark.slow
def test_an_expert_compiles(expert):
    x, mask = some(2, 5, 32), causal(5)
    compiled = torch.compile(expert, dynamic=False)
    with torch.no_grad():
        assert torch.allclose(compiled(x, AT, mask), expert(x, AT, mask), atol=1e-9)


def test_an_expert_runs_under_ddp(expert, tmp_path):
    """One process: the wrapping, the hooks and the gradients. Two processes are in the tests marked dist."""
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        alone = copy.deepcopy(expert)
        wrapped = DistributedDataParallel(copy.deepcopy(expert))
        for model in (alone, wrapped):
            model(some(2, 5, 32), AT).square().sum().backward()
        for p, q in zip(alone.parameters(), wrapped.module.parameters()):
            assert torch.allclose(p.grad, q.grad, atol=1e-12)
    finally:
        dist.destroy_process_group()


def test_one_expert_of_two_alone_is_that_expert(both):
    """Without generation tokens the mixture is the understanding expert, and the other way round."""
    x, nothing = some(2, 5, 32), torch.zeros(2, 0, 32, dtype=torch.float64)
    (und, gen), _ = both(x, nothing, AT, causal(5))
    assert torch.equal(und, both.understanding(x, AT, causal(5))) and gen.shape == nothing.shape
    (und, gen), _ = both(nothing, x, AT, causal(5))
    assert torch.equal(gen, both.generation(x, AT, causal(5)))


def test_two_experts_with_the_same_weights_are_one_transformer(both):
    """Sorting tokens by expert changes nothing but the order, as positions and mask go along."""
    x, order = some(2, 5, 32), torch.tensor([0, 2, 4, 1, 3])
    mask = causal(5)
    expected = both.understanding(x, AT, mask)
    sorted_mask = mask[:, :, order][:, :, :, order]
    (und, gen), _ = run_experts(
        (both.understanding, copy.deepcopy(both.understanding)),
        (x[:, order[:3]], x[:, order[3:]]),
        AT[:, order],
        sorted_mask,
    )
    assert torch.allclose(torch.cat([und, gen], 1), expected[:, order], atol=1e-12)


def test_hidden_states_are_those_of_each_layer(both):
    states = []
    x = some(2, 5, 32)
    (out, _), _ = both(x, x[:, :0], AT, None, hidden_states=(states, None))
    assert len(states) == CONFIG.num_hidden_layers + 1 and torch.equal(states[0], x)
    assert torch.equal(both.understanding.norm(states[-1]), out)
