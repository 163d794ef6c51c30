"""The released file's names of weights, and ours. No other file has both; elsewhere a part of a model is a
module.

The released BAGEL file keeps the two experts of a layer in one module and marks the generation expert by a suffix.
"""

from __future__ import annotations

import re

from torch import Tensor, nn

_PARTS = (  # released name -> ours; the released file marks the generation expert by a suffix
    (r"^language_model\.model\.layers\.(\d+)\.self_attn\.(\w+?)(_moe_gen)?\.", r"mot.{}.layers.\1.\2."),
    (r"^language_model\.model\.layers\.(\d+)\.mlp(_moe_gen)?\.", r"mot.{}.layers.\1.mlp."),
    (r"^language_model\.model\.layers\.(\d+)\.input_layernorm(_moe_gen)?\.", r"mot.{}.layers.\1.attention_norm."),
    (r"^language_model\.model\.layers\.(\d+)\.post_attention_layernorm(_moe_gen)?\.", r"mot.{}.layers.\1.mlp_norm."),
    (r"^language_model\.model\.norm(_moe_gen)?\.", r"mot.{}.norm."),
    (r"^language_model\.model\.embed_tokens\.", "embed_tokens."),
    (r"^language_model\.lm_head\.", "lm_head."),
    (r"^vae2llm\.", "latent.input."),
    (r"^llm2vae\.", "latent.output."),
    (r"^time_embedder\.", "latent.time."),
    (r"^text_scale_embedder\.", "latent.guidance.text."),
    (r"^image_scale_embedder\.", "latent.guidance.image."),
)
_BACK = (
    (r"^mot\.(\w+)\.layers\.(\d+)\.mlp\.", r"language_model.model.layers.\2.mlp{}."),
    (r"^mot\.(\w+)\.layers\.(\d+)\.attention_norm\.", r"language_model.model.layers.\2.input_layernorm{}."),
    (r"^mot\.(\w+)\.layers\.(\d+)\.mlp_norm\.", r"language_model.model.layers.\2.post_attention_layernorm{}."),
    (r"^mot\.(\w+)\.layers\.(\d+)\.(\w+)\.", r"language_model.model.layers.\2.self_attn.\3{}."),
    (r"^mot\.(\w+)\.norm\.", r"language_model.model.norm{}."),
    (r"^embed_tokens\.", "language_model.model.embed_tokens."),
    (r"^lm_head\.", "language_model.lm_head."),
    (r"^latent\.input\.", "vae2llm."),
    (r"^latent\.output\.", "llm2vae."),
    (r"^latent\.time\.", "time_embedder."),
    (r"^latent\.guidance\.text\.", "text_scale_embedder."),
    (r"^latent\.guidance\.image\.", "image_scale_embedder."),
)


def from_released(name: str) -> str:
    """Our name of a weight that the released file calls so. Names that both have are given back."""
    for pattern, ours in _PARTS:
        if match := re.match(pattern, name):
            expert = "generation" if "_moe_gen" in match.group() else "understanding"
            return match.expand(ours.replace("{}", expert)) + name[match.end() :]
    return name


def to_released(name: str) -> str:
    """The released name of a weight of ours."""
    for pattern, theirs in _BACK:
        if match := re.match(pattern, name):
            suffix = "_moe_gen" if name.startswith("mot.generation.") else ""
            return match.expand(theirs.replace("{}", suffix)) + name[match.end() :]
    return name


def released_weights(module: nn.Module) -> dict[str, Tensor]:
    """A module's weights under their released names: of a `Bagel`, or of a student's branch."""
    return {to_released(name): value for name, value in module.state_dict().items()}


def accept_released(module: nn.Module, state_dict: dict[str, Tensor], prefix: str) -> None:
    """Rename what a state dict holds of `module` under released names: runs of version 0.1 are resumed so."""
    own = {prefix + name for name in module.state_dict()}
    for old in [name for name in state_dict if name.startswith(prefix) and name not in own]:
        state_dict[prefix + from_released(old[len(prefix) :])] = state_dict.pop(old)


def expert_name(name: str) -> str:
    """Our name of a weight of one expert's layer that version 0.1 named as the released file does: drafts have
    these."""
    name = name.replace("self_attn.", "").replace("post_attention_layernorm.", "mlp_norm.")
    return name.replace("input_layernorm.", "attention_norm.")


def is_generation(name: str) -> bool:
    """Does a weight of this name of ours belong to the generation branch?"""
    return name.startswith(("mot.generation.", "latent."))


# ---- the autoencoder's former names ---------------------------------------------------------------------------------

_DIFFUSERS = (
    (r"\bdown\.(\d+)\.block\.", r"down_blocks.\1.resnets."),
    (r"\bdown\.(\d+)\.downsample\.", r"down_blocks.\1.downsamplers.0."),
    (r"\bup\.(\d+)\.block\.", r"up_blocks.\1.resnets."),
    (r"\bup\.(\d+)\.upsample\.", r"up_blocks.\1.upsamplers.0."),
    (r"\bmid\.block_1\.", "mid_block.resnets.0."),
    (r"\bmid\.block_2\.", "mid_block.resnets.1."),
    (r"\bmid\.attn_1\.norm\.", "mid_block.attentions.0.group_norm."),
    (r"\bmid\.attn_1\.proj_out\.", "mid_block.attentions.0.to_out.0."),
    (r"\bmid\.attn_1\.([qkv])\.", r"mid_block.attentions.0.to_\1."),
    (r"\bnin_shortcut\.", "conv_shortcut."),
    (r"\bnorm_out\.", "conv_norm_out."),
)


def diffusers_name(name: str, levels: int = 0) -> str:
    """What `diffusers` calls a weight of FLUX's autoencoder. Version 0.1 kept its modules: runs and fingerprints of
    encoders have these names. levels: of the decoder, which diffusers numbers from the coarsest."""
    for pattern, theirs in _DIFFUSERS:
        name = re.sub(pattern, theirs, name)
    return re.sub(r"\bup_blocks\.(\d+)", lambda m: f"up_blocks.{levels - 1 - int(m[1])}", name)


def accept_diffusers(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, levels: int) -> None:
    """Rename what a state dict holds of an autoencoder under diffusers' names; linear layers become 1x1
    convolutions."""
    for name, value in module.state_dict().items():
        old = prefix + diffusers_name(name, levels)
        if old in state_dict:
            state_dict[prefix + name] = state_dict.pop(old).reshape(value.shape)
