"""One place says how a token is chosen: the words mean what they mean in `transformers`, and bad ones are refused."""

import numpy as np
import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from hb.models.distribution import GREEDY, TokenDistribution


@pytest.fixture
def logits():
    return torch.randn(3, 20, generator=torch.Generator().manual_seed(0)) * 2


def test_temperature_zero_is_the_largest_logit_and_one_is_softmax(logits):
    assert (
        GREEDY(logits, [[]] * 3).argmax(-1).tolist() == GREEDY.likeliest(logits, [[]] * 3) == logits.argmax(-1).tolist()
    )
    assert GREEDY(logits, [[]] * 3).max(-1).values.tolist() == [1.0, 1.0, 1.0]
    assert torch.allclose(TokenDistribution(1.0)(logits, [[]] * 3), logits.softmax(-1))


def test_all_processors_together_are_those_of_transformers(logits):
    before = [[1, 2], [3, 3], [4, 19]]
    distribution = TokenDistribution(temperature=0.7, top_k=8, top_p=0.9, repetition_penalty=1.3)
    ids = torch.tensor(before)
    wanted = RepetitionPenaltyLogitsProcessor(1.3)(ids, logits)
    wanted = TopPLogitsWarper(0.9)(ids, TopKLogitsWarper(8)(ids, TemperatureLogitsWarper(0.7)(ids, wanted)))
    assert torch.allclose(distribution(logits, before), wanted.softmax(-1))


def test_a_law_with_memory_reads_rows_of_any_length(logits):
    distribution = TokenDistribution(repetition_penalty=1.5)
    together = distribution.processed(logits, [[], [5], [1, 2, 3]])
    for i, row in enumerate([[], [5], [1, 2, 3]]):
        assert torch.equal(together[i], distribution.processed(logits[i : i + 1], [row])[0])
    assert torch.equal(together[0], logits[0]) and not torch.equal(together[2], logits[2])


@pytest.mark.parametrize(
    "values, words",
    [
        (dict(temperature=-1.0), "negative"),
        (dict(top_k=0), "at least 1"),
        (dict(top_p=0.0), "in \\(0, 1\\]"),
        (dict(top_p=1.2), "in \\(0, 1\\]"),
        (dict(repetition_penalty=0.0), "positive"),
    ],
)
def test_what_makes_no_law_is_refused(values, words):
    with pytest.raises(ValueError, match=words):
        TokenDistribution(**values)


@pytest.mark.parametrize("two", [2, np.int64(2), np.uint8(2), torch.tensor(2)], ids=lambda n: type(n).__name__)
def test_numbers_of_any_type_are_numbers(two):
    """Red: `transformers` takes a penalty of 2 for none, and NumPy's 2 for no k."""
    logits = torch.randn(3, 9, generator=torch.Generator().manual_seed(0))
    options = dict(temperature=two, top_k=two, repetition_penalty=two)
    of = lambda options: TokenDistribution(**options)(logits, [[1, 2], [3], []])
    assert torch.equal(of(options), of(dict(temperature=2.0, top_k=2, repetition_penalty=2.0)))


@pytest.mark.parametrize("name", ["temperature", "top_p", "repetition_penalty"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1])
def test_numbers_that_are_none_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        TokenDistribution(**{name: value})
