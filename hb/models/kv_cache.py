"""Keys and values of the tokens read so far: what goes from one call of the model to the next.

Legend: B rows, P tokens held, `room` tokens there is place for, K key-value heads, d head size, n new tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class KVCache:
    """Keys and values after norm and rotation, of all layers, for B rows; and the position of each row's next token.

    Two ways to use it. `append`, `select`, `crop` and `at` return a new cache and leave this one as it is: several may
    share a prefix, and gradients flow. `reserve` gives a private copy with room, for a loop that decodes: `layers`
    hands out places to write to, `keep` says which of the tokens written stay, `rewind` goes back.

    kv        [layers, 2, B, K, room, d]
    bias      [B, room], added to the scores: 0, or minus infinity for padding, which nobody may attend to
    position  [B]
    length    tokens held, padding included
    """

    def __init__(
        self,
        kv: Tensor,
        position: Int[Tensor, "B"],
        bias: Tensor | None = None,
        *,
        length: int | None = None,
        whole: bool | None = None,
    ):
        self.kv, self.position = kv, position
        self.length = kv.size(4) if length is None else length
        self.bias = kv.new_zeros(kv.size(2), kv.size(4)) if bias is None else bias
        self._whole = True if bias is None else whole
        self._causal: dict[int, Tensor] = {}

    @staticmethod
    def with_room(layers: int, batch: int, kv_heads: int, room: int, head_size: int, like: Tensor) -> KVCache:
        """An empty cache with room, of the type and on the device of `like`."""
        start = torch.zeros(batch, dtype=torch.long, device=like.device)
        return KVCache(like.new_zeros(layers, 2, batch, kv_heads, room, head_size), start, length=0)

    # ---- what it holds ----------------------------------------------------------------------------------------------

    @property
    def batch(self) -> int:
        return self.kv.size(2)

    @property
    def room(self) -> int:
        return self.kv.size(4)

    @property
    def visible(self) -> Bool[Tensor, "B P"]:
        """Which of the tokens held are real."""
        return self.bias[:, : self.length] == 0

    @property
    def whole(self) -> bool:
        """True if there is no padding. The answer is kept: on a GPU every look makes the processor wait."""
        if self._whole is None:
            self._whole = bool(self.visible.all())
        return self._whole

    def layer(self, number: int) -> tuple[Float[Tensor, "B K P d"], Float[Tensor, "B K P d"]]:
        """Keys and values of one layer."""
        keys, values = self.kv[number]
        return keys[:, :, : self.length], values[:, :, : self.length]

    def to_dict(self) -> dict[str, Tensor]:
        """Keys and values as [layer, B, token, K, d], the order of the golden numbers."""
        keys, values = self.kv[:, :, :, :, : self.length].transpose(3, 4).unbind(1)
        return {"keys": keys, "values": values}

    # ---- new caches from this one -----------------------------------------------------------------------------------

    def append(
        self,
        new: Sequence[tuple[Tensor, Tensor]],
        advance: Int[Tensor, "B"] | int,
        present: Bool[Tensor, "B n"] | None = None,
    ) -> KVCache:
        """This prefix and n more tokens, of which `new` has each layer's keys and values [B, K, n, d].

        advance  how far the next position moves
        present  which of the new tokens are real; None: all
        """
        added = torch.stack([torch.stack(kv) for kv in new])
        kv = torch.cat([self.kv[..., : self.length, :], added], dim=4)
        bias = self.bias.new_zeros(self.batch, added.size(4))
        if present is not None:
            bias = bias.masked_fill(~present, -math.inf)
        bias = torch.cat([self.bias[:, : self.length], bias], dim=1)
        return KVCache(kv, self.position + advance, bias, whole=self._whole if present is None else None)

    def select(self, rows: Tensor) -> KVCache:
        """The given rows, in the given order; a row may appear several times."""
        kv, bias = self.kv[:, :, rows, :, : self.length], self.bias[rows, : self.length]
        return KVCache(kv, self.position[rows], bias, whole=self._whole or None)

    def crop(self, length: int) -> KVCache:
        """Without all but the first `length` tokens. Positions are the caller's to set: see `at`."""
        return KVCache(self.kv[..., :length, :], self.position, self.bias[:, :length], whole=self._whole or None)

    def at(self, position: Int[Tensor, "B"]) -> KVCache:
        """The same prefix, the next token at another position."""
        return KVCache(self.kv, position, self.bias, length=self.length, whole=self._whole)

    def reserve(self, more: int) -> KVCache:
        """A private copy with room for so many tokens more, to be written in place."""
        copy = KVCache.with_room(
            self.kv.size(0), self.batch, self.kv.size(3), self.length + more, self.kv.size(5), self.kv
        )
        copy.kv[..., : self.length, :] = self.kv[..., : self.length, :]
        copy.bias[:, : self.length] = self.bias[:, : self.length]
        copy.length, copy.position, copy._whole = self.length, self.position.clone(), self.whole
        return copy

    # ---- writing in place -------------------------------------------------------------------------------------------

    def layers(self, n: int) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """For each layer keys and values that n new tokens attend to, and the places of their own among these.

        Views, made together: a slice costs as much as a small product.
        """
        seen, new = self.kv[..., : self.length + n, :], self.kv[..., self.length : self.length + n, :]
        return zip(*(part[:, i].unbind(0) for part in (seen, new) for i in (0, 1)))

    def mask(self, n: int, local: Float[Tensor, "B n m"] | None = None) -> Float[Tensor, "B 1 n P"] | None:
        """What is added to the scores of n new tokens: they attend to all tokens held, but of the last m columns, new
        ones included, to those that `local` allows (0 or minus infinity). local None: each to those before it. The mask
        is None where nothing is hidden."""
        if n == 1 and self.whole and local is None:
            return None
        own = self._before(n)[None] if local is None else local.to(self.bias.dtype)
        seen = self.length + n
        if self.whole:
            mask = own.new_zeros(len(own), n, seen)
        else:
            mask = self.bias[:, None, :seen].repeat(1, n, 1)
        mask[:, :, seen - own.size(2) :] = own
        return mask[:, None]

    def _before(self, n: int) -> Float[Tensor, "n n"]:
        if n not in self._causal:
            self._causal[n] = self.bias.new_full((n, n), -math.inf).triu(1)
        return self._causal[n]

    def keep(self, columns: Int[Tensor, "B a"] | None, present: Bool[Tensor, "B a"] | None, a: int) -> None:
        """Keep a of the tokens just written: those of these numbers, in this order (None: the first a).

        present: False where a row keeps fewer; its column becomes padding. Positions are the caller's to move.
        """
        at = self.length
        if columns is not None:
            index = (at + columns)[None, None, :, None, :, None].expand(
                *self.kv.shape[:2], -1, self.kv.size(3), -1, self.kv.size(5)
            )
            self.kv[..., at : at + a, :] = self.kv.gather(4, index)
        if present is not None and not bool(present.all()):
            self.bias[:, at : at + a].masked_fill_(~present, -math.inf)
            self._whole = False
        self.length = at + a

    def rewind(self, length: int, position: int) -> None:
        """Forget all but the first `length` tokens, in place; `position`: of the next token, in every row. What is
        forgotten is written over."""
        if not 0 <= length <= self.length:
            raise ValueError(f"this cache holds {self.length} tokens, so it cannot go back to {length}")
        if not self.whole:  # padding that is forgotten hides nothing
            self.bias[:, length:] = 0
            self._whole = None
        self.length = length
        self.position.fill_(position)

    def widen(self, room: int) -> None:
        """Make room for so many tokens in all."""
        if room > self.room:
            wider = self.reserve(room - self.length)
            self.kv, self.bias = wider.kv, wider.bias


def stack(caches: Sequence[KVCache]) -> KVCache:
    """One cache with the rows of all, shorter ones padded at the end: several branches then cost one call."""
    longest = max(c.length for c in caches)
    first = caches[0].kv
    kv = first.new_zeros(*first.shape[:2], sum(c.batch for c in caches), first.size(3), longest, first.size(5))
    bias, at = first.new_full((kv.size(2), longest), -math.inf), 0
    for c in caches:
        kv[:, :, at : at + c.batch, :, : c.length] = c.kv[..., : c.length, :]
        bias[at : at + c.batch, : c.length] = c.bias[:, : c.length]
        at += c.batch
    even = all(c.length == longest for c in caches) and all(c.whole for c in caches)
    return KVCache(kv, torch.cat([c.position for c in caches]), bias, whole=even or None)
