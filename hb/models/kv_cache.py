"""A prefix already read: what travels together between one call of the model and the next."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

Cache = tuple[tuple[Tensor, Tensor], ...]  # per layer: keys and values [B, K, P, d], after norm and rotation


@dataclass(frozen=True)
class Context:
    """Keys and values of P cached tokens for each of B rows, and where each row's next token stands.

    Rows may have read different lengths: `visible` says which cached entries are real. A context is never changed;
    reading more makes a new one, so several may share a prefix, and gradients flow through it where training needs
    them.
    """

    cache: Cache
    visible: Bool[Tensor, "B P"]
    position: Int[Tensor, "B"]

    @property
    def batch(self) -> int:
        return len(self.position)

    @cached_property
    def whole(self) -> bool:
        """Is there no padding? Asked by every call of the denoiser, and on a GPU the answer makes the processor
        wait."""
        return bool(self.visible.all())

    @property
    def length(self) -> int:
        """Cached entries, padding included."""
        return self.visible.size(1)

    def select(self, rows: Tensor) -> Context:
        """The given rows, in the given order; a row may appear several times."""
        cache = tuple((k[rows], v[rows]) for k, v in self.cache)
        return Context(cache, self.visible[rows], self.position[rows])

    def crop(self, length: int) -> Context:
        """Forget all but the first `length` cached entries. Positions are the caller's to set: see `at`."""
        cache = tuple((k[:, :, :length], v[:, :, :length]) for k, v in self.cache)
        return Context(cache, self.visible[:, :length], self.position)

    def at(self, position: Tensor) -> Context:
        """The same prefix, the next token standing elsewhere."""
        return Context(self.cache, self.visible, position)

    def to_dict(self) -> dict[str, Tensor]:
        """Keys and values as [layer, B, token, K, d], the order of the golden numbers."""
        keys = torch.stack([k for k, _ in self.cache]).transpose(2, 3)
        values = torch.stack([v for _, v in self.cache]).transpose(2, 3)
        return {"keys": keys, "values": values}


def stack(contexts: list[Context]) -> Context:
    """One context with the rows of all, shorter ones padded at the end: several branches then cost one call."""
    longest = max(c.length for c in contexts)

    def pad(tensor: Tensor, dim: int) -> Tensor:
        missing = longest - tensor.size(dim)
        if not missing:
            return tensor
        shape = list(tensor.shape)
        shape[dim] = missing
        return torch.cat([tensor, tensor.new_zeros(shape)], dim=dim)

    layers = len(contexts[0].cache)
    cache = tuple(
        (torch.cat([pad(c.cache[i][0], 2) for c in contexts]), torch.cat([pad(c.cache[i][1], 2) for c in contexts]))
        for i in range(layers)
    )
    return Context(cache, torch.cat([pad(c.visible, 1) for c in contexts]), torch.cat([c.position for c in contexts]))
