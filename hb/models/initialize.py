"""Fresh weights for a model that is trained from nothing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hb.models.bagel import Bagel


@torch.no_grad()
def initialize(model: Bagel, generator: torch.Generator) -> None:
    """Normal weights of standard deviation 1 / sqrt(inputs), output projections smaller by the depth, biases 0; token
    embeddings of deviation 1; the velocity's output layer 0 as in BAGEL; the vision tower's positions sines and cosines
    of short waves, so that neighbors begin alike.

    Differs from Qwen2, which begins everything at 0.02. Beside matrices that Muon updates, embeddings that small are
    drowned by the first layer: after 1,560 steps nano's had grown to 0.1 in hidden states of 70, and a token could
    hardly be told from another.
    """
    smaller = (2 * model.config.llm.num_hidden_layers) ** -0.5  # of what is added to the hidden states by each layer

    def draw(layer: nn.Linear | nn.Embedding, scale: float = 1.0, std: float | None = None) -> None:
        weight: Tensor = layer.weight
        weight.copy_(torch.randn(weight.shape, generator=generator) * ((std or weight.size(1) ** -0.5) * scale))
        if getattr(layer, "bias", None) is not None:
            layer.bias.zero_()

    draw(model.embed_tokens, std=1.0)
    for layers in zip(model.mot.understanding.layers, model.mot.generation.layers):
        for layer in layers:
            for projection in (layer.q_proj, layer.k_proj, layer.v_proj):
                draw(projection)
            draw(layer.o_proj, smaller)
        for layer in layers:
            draw(layer.mlp.gate_proj)
            draw(layer.mlp.up_proj)
            draw(layer.mlp.down_proj, smaller)
    draw(model.lm_head)
    tower = model.vit_model.vision_model
    draw(tower.embeddings.patch_embedding)
    draw(tower.embeddings.position_embedding)
    for layer in tower.encoder.layers:
        for projection in (layer.self_attn.k_proj, layer.self_attn.v_proj, layer.self_attn.q_proj):
            draw(projection)
        draw(layer.self_attn.out_proj, smaller)
        draw(layer.mlp.fc1)
        draw(layer.mlp.fc2)
    for layer in (
        model.connector.fc1,
        model.connector.fc2,
        model.latent.time.mlp[0],
        model.latent.time.mlp[2],
        model.latent.input,
    ):
        draw(layer)
    model.vit_model.begin_positions()
    model.latent.output.weight.zero_()
    model.latent.output.bias.zero_()
