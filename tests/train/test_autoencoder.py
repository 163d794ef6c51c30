"""An autoencoder learns to give pictures back; a decoder alone leaves the encoder as it is."""

from dataclasses import replace

import torch
from PIL import Image

from hb.models.autoencoder import Autoencoder, AutoencoderConfig
from hb.seeding import seeded_generator
from hb.train.autoencoder import AutoencoderTraining, random_pictures, train_autoencoder
from tests.conftest import tiny_config


def test_the_autoencoder_learns_and_keeps_its_latents_informative():
    torch.manual_seed(0)
    config = AutoencoderConfig(ch=8, ch_mult=(1, 1, 1, 1), num_res_blocks=1, z_channels=4, norm_groups=2)
    training = AutoencoderTraining(config, total=30, lr=0.02)
    optimizer = training.configure_optimizers()[0][0]
    pictures = random_pictures(4, 64, 0, 0)
    first = None
    for i in range(24):
        pixel, edge, divergence, _ = training.losses(
            pictures, torch.randn(4, 4, 8, 8, generator=seeded_generator(0, i))
        )
        first = pixel.item() if first is None else first
        optimizer.zero_grad()
        (pixel + edge).backward()
        for group in optimizer.param_groups:
            group["lr"] = 0.01
        optimizer.step()
    assert pixel.item() < 0.7 * first


def test_decoder_only_leaves_the_encoder_alone(tmp_path):

    config = tiny_config(600)
    before = Autoencoder(replace(config.autoencoder, scale_factor=0.7))
    old = {k: v.clone() for k, v in before.state_dict().items()}
    after = train_autoencoder(
        tmp_path,
        config,
        steps=2,
        batch=2,
        lr=0.01,
        start_from=before,
        decoder_only=True,
        bar=False,
        precision="f32",
        accelerator="cpu",
    )
    changed = {k.split(".")[0] for k, v in after.state_dict().items() if not torch.equal(v, old[k])}
    assert changed == {"decoder"} and after.config.scale_factor == 0.7
    assert Image.open(tmp_path / "sheet-000002.png").size == (8 * 64, 2 * 64)
