"""Layers written out equal those of the libraries that they are written after."""

import pytest
import torch

from hb.models.autoencoder import Autoencoder, AutoencoderConfig
from hb.models.config import VisionConfig
from hb.models.names import diffusers_name, from_released, to_released
from hb.models.vision import VisionTower

CONFIG = AutoencoderConfig(
    ch=8, ch_mult=(1, 2, 4), num_res_blocks=2, z_channels=4, scale_factor=0.5, shift_factor=0.1, norm_groups=4
)


def theirs(config: AutoencoderConfig, mine: Autoencoder):
    """diffusers' encoder and decoder with the same weights."""
    vae = pytest.importorskip("diffusers.models.autoencoders.vae")
    widths = tuple(config.ch * m for m in config.ch_mult)
    common = dict(block_out_channels=widths, layers_per_block=config.num_res_blocks, norm_num_groups=config.norm_groups)
    levels = len(widths)
    encoder = vae.Encoder(3, config.z_channels, ("DownEncoderBlock2D",) * levels, double_z=True, **common)
    decoder = vae.Decoder(config.z_channels, 3, ("UpDecoderBlock2D",) * levels, **common)
    for module, part in ((encoder, mine.encoder), (decoder, mine.decoder)):
        like = module.state_dict()
        module.load_state_dict(
            {(new := diffusers_name(n, levels)): v.reshape(like[new].shape) for n, v in part.state_dict().items()}
        )
    return encoder, decoder


def test_the_autoencoder_is_diffusers(tmp_path):
    torch.manual_seed(0)
    mine = Autoencoder(CONFIG)
    encoder, decoder = theirs(CONFIG, mine)
    pictures, z = torch.randn(2, 3, 32, 48), torch.randn(2, 4, 8, 12)
    with torch.no_grad():
        assert torch.allclose(mine.encoder(pictures), encoder(pictures), atol=1e-5)
        assert torch.allclose(mine.decoder(z), decoder(z), atol=1e-5)


def test_an_autoencoder_kept_by_version_01_is_accepted():
    """Half-finished runs hold diffusers' names, in which the middle attention has linear layers."""
    torch.manual_seed(0)
    mine, again = Autoencoder(CONFIG), Autoencoder(CONFIG)
    encoder, decoder = theirs(CONFIG, mine)
    old = {
        f"{part}.{n}": v for part, m in (("encoder", encoder), ("decoder", decoder)) for n, v in m.state_dict().items()
    }
    again.load_state_dict(old)
    assert all(torch.equal(v, again.state_dict()[n]) for n, v in mine.state_dict().items())


def test_the_vision_encoder_is_siglips():
    siglip = pytest.importorskip("transformers.models.siglip.modeling_siglip")
    config = VisionConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, patch_size=8, image_size=64
    )
    torch.manual_seed(0)
    mine = VisionTower(config).vision_model
    their_config = siglip.SiglipVisionConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        layer_norm_eps=config.layer_norm_eps,
    )
    their_config._attn_implementation = "sdpa"
    encoder = siglip.SiglipEncoder(their_config)
    encoder.load_state_dict(mine.encoder.state_dict())
    x = torch.randn(2, 9, 32)
    with torch.no_grad():
        assert torch.allclose(mine.encoder(x), encoder(inputs_embeds=x).last_hidden_state, atol=1e-5)


@pytest.mark.parametrize(
    ("released", "ours"),
    [
        ("language_model.model.layers.3.self_attn.q_proj_moe_gen.weight", "mot.generation.layers.3.q_proj.weight"),
        ("language_model.model.layers.3.self_attn.q_norm.weight", "mot.understanding.layers.3.q_norm.weight"),
        ("language_model.model.layers.0.mlp_moe_gen.up_proj.weight", "mot.generation.layers.0.mlp.up_proj.weight"),
        ("language_model.model.layers.0.input_layernorm.weight", "mot.understanding.layers.0.attention_norm.weight"),
        (
            "language_model.model.layers.0.post_attention_layernorm_moe_gen.weight",
            "mot.generation.layers.0.mlp_norm.weight",
        ),
        ("language_model.model.norm_moe_gen.weight", "mot.generation.norm.weight"),
        ("language_model.model.embed_tokens.weight", "embed_tokens.weight"),
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("llm2vae.bias", "latent.output.bias"),
        ("time_embedder.mlp.0.weight", "latent.time.mlp.0.weight"),
        ("image_scale_embedder.mlp.2.bias", "latent.guidance.image.mlp.2.bias"),
        (
            "vit_model.vision_model.encoder.layers.0.mlp.fc1.bias",
            "vit_model.vision_model.encoder.layers.0.mlp.fc1.bias",
        ),
        ("connector.fc2.bias", "connector.fc2.bias"),
    ],
)
def test_names_there_and_back(released, ours):
    assert from_released(released) == ours and to_released(ours) == released
