"""A batch of samples as a list of splits, and which token attends to which (bagel.md section 3).

All samples of a batch share one plan, so a batch is a few dense tensors; a sample that lacks a split (dropped for
guidance, or shorter text) has it hidden by the mask. BAGEL packs samples of different plans end to end instead: the
same rule, but on two CPU cores dense and short is faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

MODES = {"text": "causal", "vit": "full", "vae": "full", "noise": "noise"}


@dataclass(frozen=True)
class TextSplit:
    """Token ids with their markers, padded at the end to one length. length 0: the text is dropped."""

    ids: Int[Tensor, "B n"]
    length: Int[Tensor, "B"]
    kind = "text"

    @property
    def present(self) -> Bool[Tensor, "B n"]:
        return torch.arange(self.ids.size(1), device=self.ids.device) < self.length[:, None]

    @property
    def advance(self) -> Int[Tensor, "B"]:
        return self.length


@dataclass(frozen=True)
class ImageSplit:
    """A picture: patch vectors ("vit"), clean latent tokens ("vae") or noised ones at times t ("noise").

    keep False hides the picture from all other tokens; it still consumes its position, as in BAGEL's training.
    grid: rows and columns of its tokens; None: a square.
    """

    kind: str
    tokens: Float[Tensor, "B n values"]
    keep: Bool[Tensor, "B"]
    t: Float[Tensor, "B"] | None = None
    grid: tuple[int, int] | None = None

    @property
    def present(self) -> Bool[Tensor, "B n2"]:
        return self.keep[:, None].expand(-1, self.tokens.size(1) + 2)

    @property
    def advance(self) -> Int[Tensor, "B"]:
        return torch.full_like(self.keep, 0 if self.kind == "noise" else 1, dtype=torch.long)


Split = TextSplit | ImageSplit


def may_attend(lengths: Sequence[int], modes: Sequence[str]) -> Bool[Tensor, "L L"]:
    """The attention rule: entry (i, j) says whether query i attends to key j.

    Allowed if j's split is earlier, or it is the same split and (the mode is full or noise, or j <= i); but a noise
    split's keys are visible only inside that split.
    """
    unknown = set(modes) - {"causal", "full", "noise"}
    if unknown:
        raise ValueError(f"unknown attention mode {sorted(unknown)}; use causal, full or noise")
    split = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    causal = torch.tensor([m == "causal" for m in modes])[split]
    noise = torch.tensor([m == "noise" for m in modes])[split]
    place = torch.arange(len(split))
    earlier = split[None, :] < split[:, None]
    same = split[None, :] == split[:, None]
    inside = same & (~causal[:, None] | (place[None, :] <= place[:, None]))
    return inside | (earlier & ~noise[None, :])


@lru_cache(maxsize=64)
def _rule(lengths: tuple[int, ...], modes: tuple[str, ...], device: torch.device) -> Bool[Tensor, "L L"]:
    """`may_attend`, made once for each plan: in training every step asks for the same few."""
    return may_attend(lengths, modes).to(device)


def positions(splits: Sequence[Split]) -> Int[Tensor, "B L"]:
    """RoPE positions: text counts up, a picture's tokens share one, a noised picture does not move the next."""
    parts, start = [], None
    for split in splits:
        present = split.present
        start = torch.zeros_like(split.advance) if start is None else start
        if split.kind == "text":
            parts.append(start[:, None] + torch.arange(present.size(1), device=present.device))
        else:
            parts.append(start[:, None].expand_as(present))
        start = start + split.advance
    return torch.cat(parts, dim=1)


def attention_mask(splits: Sequence[Split]) -> Bool[Tensor, "B 1 L L"]:
    """The rule for a batch: keys of absent tokens are hidden. An absent token sees itself, so no row is empty."""
    present = torch.cat([s.present for s in splits], dim=1)
    rule = _rule(tuple(s.present.size(1) for s in splits), tuple(MODES[s.kind] for s in splits), present.device)
    mask = rule & present[:, None, :]
    mask |= torch.eye(mask.size(1), dtype=torch.bool, device=mask.device)
    return mask[:, None]
