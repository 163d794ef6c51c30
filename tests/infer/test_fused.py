"""The fused text path is the plain one: same numbers, same words, whatever is kept and dropped."""

import pytest
import torch

from hb.infer.fused import FastText, TextRun, decode_fast, stacked
from hb.infer.speculative.tree import hide
from hb.infer.text import decode
from hb.models.bagel import Bagel
from hb.models.config import DecoderConfig
from hb.models.distribution import TokenDistribution
from hb.models.initialize import initialize
from hb.models.kv_cache import KVCache
from tests.conftest import tiny_config


def shaken(heads: int, kv_heads: int) -> Bagel:
    """A small random model whose norms and biases are not at their start, where mistakes would hide."""
    config = tiny_config(97)
    llm = DecoderConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=48,
        vocab_size=97,
        rope_theta=1e4,
    )
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Bagel(type(config)(**vars(config) | dict(llm=llm)), (90, 91, 92, 93))
    initialize(model, generator)
    with torch.no_grad():
        for p in [p for part in model.understanding_branch()[:3] for p in part.parameters()]:
            p.add_(0.2 * torch.randn(p.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="module", params=[(4, 4), (4, 2)], ids=["all heads", "grouped heads"])
def model(request):
    return shaken(*request.param)


def read(model, rows: list[list[int]]) -> KVCache:
    with torch.no_grad():
        return model.read_text(model.empty(len(rows)), rows)[1]


@torch.no_grad()
def fresh_logits(model, context: KVCache, row: int, ids: list[int]):
    """Logits after `ids` behind one row of the context, by the plain path from nothing."""
    hidden, _ = model.read_ids(context.select(torch.tensor([row])), torch.tensor([ids]))
    return model.logits(hidden)[0]


@torch.no_grad()
def test_a_pass_has_the_logits_of_the_plain_path(model):
    context = read(model, [[5, 6, 7], [8]])  # rows of different length: columns are hidden
    ids = torch.tensor([[11, 12, 13], [14, 15, 16]])
    fast = FastText(model)
    states: list[torch.Tensor] = []
    got = fast.logits(TextRun(fast, context, 8).read(ids, hidden_states=states))
    hidden, _ = model.read_ids(context, ids, hidden_states=(plain := []))
    assert torch.allclose(got, model.logits(hidden), atol=1e-4)
    assert len(states) == len(plain) == 4
    assert torch.allclose(stacked(states, 2), torch.stack(plain, 2), atol=1e-4)


@torch.no_grad()
def test_a_tree_in_one_pass_is_each_path_alone(model):
    context = read(model, [[5, 6, 7], [8]])
    parents = [0, 0, 0, 1, 2, 2, 4]
    depth = [0, 1, 1, 2, 2, 2, 3]
    tokens = torch.tensor([[20, 21, 22, 23, 24, 25, 26], [30, 31, 32, 33, 34, 35, 36]])
    seen = torch.eye(7, dtype=torch.bool)
    for i in range(1, 7):
        seen[i] |= seen[parents[i]]
    fast = FastText(model)
    run = TextRun(fast, context, 8)
    logits = fast.logits(run.read(tokens, torch.tensor([depth]), hide(seen)[None].expand(2, -1, -1)))
    for row in range(2):
        for node in range(7):
            path = [i for i in range(7) if seen[node, i]]
            alone = fresh_logits(model, context, row, tokens[row, path].tolist())
            assert torch.allclose(logits[row, node], alone[-1], atol=1e-4)


@torch.no_grad()
def test_keeping_a_path_and_dropping_the_rest_is_a_fresh_prefill(model):
    """Row 0 keeps three nodes of a tree, row 1 one; what follows sees just those."""
    context = read(model, [[5, 6, 7], [8]])
    fast = FastText(model)
    run = TextRun(fast, context, 16)
    tokens = torch.tensor([[20, 21, 22, 23, 24], [30, 31, 32, 33, 34]])
    depth, seen = torch.tensor([[0, 1, 1, 2, 2]]), torch.eye(5, dtype=torch.bool)
    for i, parent in ((1, 0), (2, 0), (3, 2), (4, 1)):
        seen[i] |= seen[parent]
    for _ in range(2):  # twice: hidden columns of the first round stay hidden
        run.read(tokens, depth, hide(seen)[None].expand(2, -1, -1))
        run.keep(torch.tensor([[0, 2, 3], [0, 0, 0]]), torch.tensor([3, 1]))
    logits = fast.logits(run.read(torch.tensor([[40], [41]])))
    for row, path in ((0, [20, 22, 23, 20, 22, 23, 40]), (1, [30, 30, 41])):
        assert torch.allclose(logits[row, 0], fresh_logits(model, context, row, path)[-1], atol=1e-4)


def test_words_are_those_of_the_reference(model):
    context = read(model, [[5, 6, 7], [8], [9, 10]])
    fast = FastText(model)
    distributions = (
        TokenDistribution(),
        TokenDistribution(repetition_penalty=1.4),
        TokenDistribution(temperature=1.0),
        TokenDistribution(temperature=0.8, top_k=9, top_p=0.9),
    )
    for distribution in distributions:
        generator = lambda: torch.Generator().manual_seed(3)
        wanted = decode(model, context, max_tokens=12, distribution=distribution, generator=generator())
        rows, passes = decode_fast(fast, context, max_tokens=12, distribution=distribution, generator=generator())
        assert rows == wanted.tokens and passes == wanted.passes
