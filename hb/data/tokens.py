"""What the data need of a tokenizer, and lists of token ids as one array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

# Text budgets of the tiny world, markers included. A prompt that says everything about four things has up to 50 tokens;
# until November 2026 the budget was 24, so that the teacher had never seen one that says everything about three
DRAW_TOKENS, EDIT_TOKENS, DIALOGUE_TOKENS = 52, 14, 112


class Tokenizer(Protocol):
    """The ids of the two markers, and the ids of a text."""

    start: int
    end: int

    def encode(self, text: str) -> list[int]: ...


def marked(text: Tokenizer, ids: Sequence[int]) -> list[int]:
    """Token ids of a text between its two markers."""
    return [text.start, *ids, text.end]


def pad(rows: Sequence[Sequence[int]], width: int, fill: int) -> tuple[Tensor, Tensor]:
    """Rows of ids as int32 [n, width], filled up at the end, and each row's true length, int32 [n]."""
    ids = torch.full((len(rows), width), fill, dtype=torch.int32)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.int32)
    return ids, torch.tensor([len(r) for r in rows], dtype=torch.int32)
