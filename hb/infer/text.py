"""Words from a context, one token at a time: the reference that every speed-up must equal."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hb.models.bagel import Bagel
from hb.models.distribution import GREEDY, TokenDistribution
from hb.models.kv_cache import KVCache


@dataclass(frozen=True)
class Continuation:
    """Tokens of each row, end marker left out; how many passes of the target it took; the context afterwards."""

    tokens: list[list[int]]
    passes: int
    context: KVCache


@torch.no_grad()
def decode(
    model: Bagel,
    context: KVCache,
    *,
    max_tokens: int = 128,
    distribution: TokenDistribution = GREEDY,
    generator: torch.Generator | None = None,
) -> Continuation:
    """Answer each row of the context. Decoding starts by feeding <|im_start|> and stops at <|im_end|>, row by row.

    The published code watches row 0 alone; here each row stops for itself.
    """
    start, end = model.markers[:2]
    rows: list[list[int]] = [[] for _ in range(context.batch)]
    alive = torch.ones(context.batch, dtype=torch.bool)
    token = torch.full((context.batch, 1), start)
    passes = 0
    while alive.any() and passes < max_tokens:
        hidden, context = model.read_ids(context, token)
        passes += 1
        logits = model.logits(hidden[:, -1]).float().cpu()
        if distribution.is_greedy:
            token = torch.tensor(distribution.likeliest(logits, rows))[:, None]
        else:
            token = torch.multinomial(distribution(logits, rows), 1, generator=generator)
        alive &= token[:, 0] != end
        for i in alive.nonzero()[:, 0].tolist():
            rows[i].append(int(token[i, 0]))
    return Continuation(rows, passes, context)
