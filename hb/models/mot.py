"""Mixture of Transformers: two experts, one attention (bagel.md section 2).

An expert is one complete set of decoder weights. Text and what the vision tower sees go through the understanding
expert, latent tokens through the generation expert; only the attention itself is shared. Attention does not depend on
the order of tokens as long as positions and mask go with them. So tokens are sorted by expert, and no weight runs on a
token of the other expert.

Legend: B batch, n tokens of one expert, L tokens of all, P cached tokens, D width, d head size.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hb.models.attention import attend, training_mask
from hb.models.config import DecoderConfig
from hb.models.kv_cache import KVCache
from hb.models.layers import Mlp, RMSNorm, at_least_float32, rotary_angles, rotate
from hb.models.names import expert_name

KeysValues = tuple[Tensor, Tensor]  # of one layer: [B, K, tokens, d] each


class ExpertLayer(nn.Module):
    """One expert's part of a Qwen2 decoder layer: pre-norm attention projections with q and k normalized per head, and
    SwiGLU."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        width, d, eps = config.hidden_size, config.head_size, config.rms_norm_eps
        self.head_size = d
        self.attention_norm = RMSNorm(width, eps)
        self.q_proj = nn.Linear(width, config.num_attention_heads * d)
        self.k_proj = nn.Linear(width, config.num_key_value_heads * d)
        self.v_proj = nn.Linear(width, config.num_key_value_heads * d)
        self.o_proj = nn.Linear(config.num_attention_heads * d, width, bias=False)
        self.q_norm = RMSNorm(d, eps)
        self.k_norm = RMSNorm(d, eps)
        self.mlp_norm = RMSNorm(width, eps)
        self.mlp = Mlp(width, config.intermediate_size)

    def project(self, x: Float[Tensor, "B n D"]) -> tuple[Tensor, Tensor, Tensor]:
        """q [B, H, n, d], k and v [B, K, n, d] of hidden states; not yet rotated."""
        h = self.attention_norm(x)
        heads = lambda y: y.unflatten(-1, (-1, self.head_size)).transpose(1, 2)
        return self.q_norm(heads(self.q_proj(h))), self.k_norm(heads(self.k_proj(h))), heads(self.v_proj(h))

    def finish(self, x: Float[Tensor, "B n D"], attended: Float[Tensor, "B n Hd"]) -> Float[Tensor, "B n D"]:
        """The hidden states after attention's result and the MLP were added."""
        x = x + self.o_proj(attended)
        return x + self.mlp(self.mlp_norm(x))

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        for old in [name for name in state_dict if name.startswith(prefix)]:
            state_dict[prefix + expert_name(old[len(prefix) :])] = state_dict.pop(old)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, x: Float[Tensor, "B n D"], angles, mask: Tensor | None = None) -> Float[Tensor, "B n D"]:
        """The layer alone, without the other expert and without a cache."""
        return joint_layer((self,), (x,), angles, mask, None)[0][0]


def joint_layer(
    layers: Sequence[ExpertLayer], x: Sequence[Tensor], angles, mask: Tensor | None, past: KeysValues | None
) -> tuple[list[Tensor], KeysValues]:
    """One layer of all experts present: projections per expert, one attention over everything, the rest per expert.

    x     hidden states of each expert's tokens, in the order of `layers`
    past  keys and values of cached tokens, which all tokens here attend to as the mask allows

    Returns the new hidden states, and the keys and values of these tokens.
    """
    parts = [layer.project(tokens) for layer, tokens in zip(layers, x)]
    q, k, v = parts[0] if len(parts) == 1 else (torch.cat(p, dim=2) for p in zip(*parts))
    # under autocast the norms answer in float32: what is cached and compared must have one type
    q, k = rotate(q, *angles).to(v.dtype), rotate(k, *angles).to(v.dtype)
    keys, values = (k, v) if past is None else (torch.cat(p, dim=2) for p in zip(past, (k, v)))
    out = attend(q, keys, values, mask).transpose(1, 2).flatten(2)
    attended = out.split([tokens.size(1) for tokens in x], dim=1)
    return [layer.finish(tokens, part) for layer, tokens, part in zip(layers, x, attended)], (k, v)


class Expert(nn.Module):
    """A stack of layers and a final norm: one expert of a Mixture of Transformers.

    extra   further layers before the norm, in which this expert's tokens attend to each other alone: of a student
            (`add_layers`)
    """

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(ExpertLayer(config) for _ in range(config.num_hidden_layers))
        self.extra = nn.ModuleList()
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    @torch.no_grad()
    def add_layers(self, count: int) -> None:
        """Extra layers, copies of the last ones, that begin as the identity: what they add to the hidden states is
        zero (block expansion: LLaMA Pro, arXiv 2401.02415)."""
        for i in range(-count, 0):
            new = copy.deepcopy(self.layers[i % len(self.layers)])
            new.o_proj.weight.zero_()
            new.mlp.down_proj.weight.zero_()
            self.extra.append(new)

    def forward(
        self, x: Float[Tensor, "B n D"], positions: Int[Tensor, "B n"], mask: Bool[Tensor, "B 1 n n"] | None = None
    ) -> Float[Tensor, "B n D"]:
        """The expert alone: an ordinary transformer."""
        (out,), _ = run_experts((self,), (x,), positions, mask)
        return out


class MixtureOfTransformers(nn.Module):
    """Two experts and the attention they share."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.understanding = Expert(config)
        self.generation = Expert(config)

    def forward(
        self, und: Tensor, gen: Tensor, positions: Tensor, mask: Tensor | None, past: KVCache | None = None, **options
    ) -> tuple[tuple[Tensor, Tensor], list[KeysValues]]:
        """Hidden states of understanding and generation tokens after the final norms, and each layer's new keys and
        values. positions and mask rows are in this order. See `run_experts`."""
        return run_experts((self.understanding, self.generation), (und, gen), positions, mask, past, **options)


def run_experts(
    experts: Sequence[Expert],
    x: Sequence[Tensor],
    positions: Int[Tensor, "B L"],
    mask: Bool[Tensor, "B 1 L PL"] | None,
    past: KVCache | None = None,
    hidden_states: Sequence[list[Tensor] | None] | None = None,
    compiled: bool = False,
) -> tuple[tuple[Tensor, ...], list[KeysValues]]:
    """All layers of some experts over their tokens [B, n, D]. An expert without tokens costs nothing.

    mask           None: every token attends to all; else bool, True where a query may attend to a key, cached keys
                   first
    hidden_states  for each expert a list or None. A list collects its tokens' input and their state after every layer,
                   before extra layers and the final norm: num_hidden_layers + 1 tensors, as `transformers` counts them
    compiled       run layers as one compiled graph (see `compiled_layer`)
    """
    config = experts[0].config
    angles = rotary_angles(positions, config.head_size, config.rope_theta, at_least_float32(x[0].dtype))
    mask = training_mask(mask, x[0])
    present = [i for i, tokens in enumerate(x) if tokens.size(1)]
    collect = [i for i in range(len(x)) if hidden_states is not None and hidden_states[i] is not None]
    states, new = list(x), []
    layer = compiled_layer() if compiled else joint_layer
    for i in collect:
        hidden_states[i].append(states[i])
    for number in range(config.num_hidden_layers):
        before = None if past is None or not past.length else past.layer(number)
        layers = tuple(experts[i].layers[number] for i in present)
        done, kv = layer(layers, tuple(states[i] for i in present), angles, mask, before)
        new.append(kv)
        for i, tokens in zip(present, done):
            states[i] = tokens
        for i in collect:
            hidden_states[i].append(states[i])
    for i in (i for i in present if experts[i].extra):
        begin = sum(tokens.size(1) for tokens in x[:i])
        own = tuple(angle[:, :, begin : begin + x[i].size(1)] for angle in angles)
        for extra in experts[i].extra:
            (states[i],), _ = layer((extra,), (states[i],), own, None, None)
    return tuple(expert.norm(tokens) if tokens.size(1) else tokens for expert, tokens in zip(experts, states)), new


_COMPILED = []


def compiled_layer():
    """`joint_layer` as a compiled graph, made once. One graph serves all layers of all networks of a size, since
    weights are its inputs; shapes must be few, each is compiled anew."""
    if not _COMPILED:
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
        _COMPILED.append(torch.compile(joint_layer, dynamic=False))
    return _COMPILED[0]
