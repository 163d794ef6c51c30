"""Attention over all tokens of a sequence, whichever expert they belong to.

Legend: B batch, L queries, P keys, H query heads, K key-value heads, d head size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from hb.models.layers import at_least_float32


def attend(
    q: Float[Tensor, "B H L d"], k: Float[Tensor, "B K P d"], v: Float[Tensor, "B K P d"], mask: Tensor | None
) -> Float[Tensor, "B H L d"]:
    """softmax(q k' / sqrt(d)) v. Each key-value head serves H / K consecutive query heads.

    mask  None: every query attends to every key; bool: True where it may attend; float: added to the scores, and the
          formula is written out (see `training_mask`)
    """
    grouped = q.size(1) // k.size(1)
    if mask is None or mask.dtype == torch.bool:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped > 1)
    if grouped > 1:
        k, v = k.repeat_interleave(grouped, 1), v.repeat_interleave(grouped, 1)
    # the factor on q, the mask in place: each pass over the scores that is saved is 3% of a training step on a CPU
    scores = ((q * q.size(-1) ** -0.5) @ k.mT).to(mask.dtype).add_(mask)
    return scores.softmax(-1).to(v.dtype) @ v


def training_mask(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """The mask in the form that is fastest for `attend`: a float one for training on a CPU, else as it is.

    PyTorch's fused kernel with a mask takes three times as long there, forwards and backwards, at a hundred tokens.
    """
    if mask is None or like.device.type != "cpu" or not torch.is_grad_enabled():
        return mask
    zeros = torch.zeros(mask.shape, dtype=at_least_float32(like.dtype))
    return zeros.masked_fill(~mask, float("-inf"))
