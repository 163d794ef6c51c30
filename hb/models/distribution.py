"""The distribution of the next token: temperature, top-k, top-p and repetition, in one place for target and draft
alike.

The processors are `transformers`', so that words mean what they mean elsewhere.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from transformers import LogitsProcessorList


@dataclass(frozen=True)
class TokenDistribution:
    """How a token is chosen from logits. Temperature 0 is greedy: the one-hot distribution of the likeliest token.

    temperature         divides the logits
    top_k, top_p        only the k likeliest tokens; only the likeliest that make up p together
    repetition_penalty  above 1, tokens of the answer so far become less likely (Keskar et al. 2019, arXiv 1909.05858).
                        Context is not counted: a question's words are often the answer's
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self):
        # `transformers` checks types: 2 is no penalty there, and NumPy's 5 is no k
        numbers = dict(temperature=float, top_k=operator.index, top_p=float, repetition_penalty=float)
        for name, number in numbers.items():
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, number(value))
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be finite and not negative, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k keeps at least 1 token, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is a share of probability in (0, 1], got {self.top_p}")
        if not 0 < self.repetition_penalty < math.inf:
            raise ValueError(f"repetition_penalty is finite and positive (1 is off), got {self.repetition_penalty}")

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0

    @property
    def has_memory(self) -> bool:
        """Does the distribution depend on the tokens before?"""
        return self.repetition_penalty != 1

    def processors(self) -> LogitsProcessorList:
        """What `transformers` would apply, in its order; temperature 0 has none for the temperature."""
        # here, because it takes longer to import than PyTorch, and neither drawing nor a greedy answer needs it
        from transformers import (
            LogitsProcessorList,
            RepetitionPenaltyLogitsProcessor,
            TemperatureLogitsWarper,
            TopKLogitsWarper,
            TopPLogitsWarper,
        )

        out = LogitsProcessorList()
        if self.has_memory:
            out.append(RepetitionPenaltyLogitsProcessor(self.repetition_penalty))
        if self.temperature not in (0, 1):
            out.append(TemperatureLogitsWarper(float(self.temperature)))
        if self.top_k is not None:
            out.append(TopKLogitsWarper(self.top_k))
        if self.top_p is not None and self.top_p < 1:
            out.append(TopPLogitsWarper(self.top_p))
        return out

    def processed(self, logits: Float[Tensor, "B V"], before: Sequence[Sequence[int]]) -> Float[Tensor, "B V"]:
        """Logits after the processors. before[b]: the tokens of row b's answer so far."""
        if self in UNPROCESSED:
            return logits
        processors = self.processors()
        if not self.has_memory:
            return processors(torch.zeros(len(logits), 0, dtype=torch.long), logits)
        rows = [
            processors(torch.tensor([list(tokens)], dtype=torch.long, device=row.device), row[None])
            for tokens, row in zip(before, logits)
        ]
        return torch.cat(rows)

    def __call__(self, logits: Float[Tensor, "B V"], before: Sequence[Sequence[int]]) -> Float[Tensor, "B V"]:
        """Probabilities of the next token."""
        scores = self.processed(logits, before)
        if self.is_greedy:
            return torch.nn.functional.one_hot(scores.argmax(-1), scores.size(-1)).to(scores.dtype)
        return scores.softmax(-1)

    def likeliest(self, logits: Float[Tensor, "B V"], before: Sequence[Sequence[int]]) -> list[int]:
        """The greedy choice in each row."""
        return (self.processed(logits, before) if self.has_memory else logits).argmax(-1).tolist()


GREEDY = TokenDistribution()
UNPROCESSED = (GREEDY, TokenDistribution(temperature=1.0))
