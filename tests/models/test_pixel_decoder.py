"""A tiny decoder reads the same latents, costs little, travels as a parcel, and is refused by another encoder's
model."""

import copy
import json
from dataclasses import asdict

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hb.infer.artifacts import PIXEL_DECODER_CONFIG, PixelDecoderCheckpoint, fingerprint, understanding_fingerprint
from hb.infer.pipeline import Model
from hb.models import pixel_decoder
from hb.models.autoencoder import Autoencoder
from hb.models.checkpoint import CheckpointError
from hb.models.config import PRESETS
from hb.models.pixel_decoder import PixelDecoder, PixelDecoderConfig
from hb.train.autoencoder import train_pixel_decoder
from tests.conftest import tiny_config


@pytest.fixture
def model(tiny_folder):
    return Model.from_pretrained(tiny_folder)


@pytest.fixture
def painter(model):
    torch.manual_seed(0)
    config = PixelDecoderConfig(4, (8, 8, 8, 8))
    weights = {k: v.detach() for k, v in PixelDecoder(config).state_dict().items()}
    return PixelDecoderCheckpoint(
        dict(z_channels=4, widths=[8, 8, 8, 8]), fingerprint(model.bagel.autoencoder.encoder), {}, weights
    )


def operations(module, *inputs):
    with FlopCounterMode(display=False) as count, torch.no_grad():
        module(*inputs)
    return count.get_total_flops()


def test_it_costs_less_and_gives_the_same_size():
    config = PRESETS["nano"].autoencoder
    z = torch.zeros(1, config.z_channels, 8, 8)
    tiny, full = PixelDecoder(PixelDecoderConfig(config.z_channels)), Autoencoder(config).decoder
    assert tiny(z).shape == full(z).shape == (1, 3, 64, 64)
    assert 1.7 * operations(tiny, z) < operations(full, z)


def test_each_place_draws_its_own_neighbourhood():
    """A change of one latent place changes pixels around that place only: no norm or attention carries it further."""
    torch.manual_seed(0)
    decoder = PixelDecoder(PixelDecoderConfig(4))
    for block in decoder.modules():
        if isinstance(block, torch.nn.Conv2d):
            torch.nn.init.normal_(block.weight, std=0.1)
    z = torch.randn(1, 4, 20, 20)
    other = z.clone()
    other[0, :, 4, 4] += 1
    changed = (decoder(z) - decoder(other)).abs().amax((0, 1)) > 0
    assert changed[32:40, 32:40].any() and not changed[112:].any() and not changed[:, 112:].any()


def test_decoding_by_rows_decodes_the_same(monkeypatch):
    torch.manual_seed(0)
    decoder = PixelDecoder(PixelDecoderConfig(4, (8, 8, 8, 16))).eval()
    z = torch.randn(3, 4, 5, 5)
    monkeypatch.setattr(pixel_decoder, "ROWS", 512)  # of 4,800
    assert torch.allclose(decoder(z), decoder.train()(z), atol=1e-6)


def test_quick_decoding_is_nearly_the_same_and_refines_as_before(monkeypatch):
    torch.manual_seed(0)
    decoder = PixelDecoder(PixelDecoderConfig(4, (8, 8, 8, 16), refiner=(24, 1))).eval()
    torch.nn.init.normal_(decoder.settle.say.weight)
    z = torch.randn(3, 4, 5, 5)
    with torch.no_grad():
        exact, refined = decoder(z), decoder.settle(z)
        monkeypatch.setattr(pixel_decoder, "FAST_BF16", False)
        assert torch.equal(decoder.quick()(z), exact)
        monkeypatch.setattr(pixel_decoder, "FAST_BF16", True)
        quick = decoder.quick()(z)
        assert torch.equal(decoder.settle(z), refined)
    assert quick.dtype == z.dtype and 0 < (quick - exact).abs().max() < 0.03 * exact.abs().max()


def test_draw_and_edit_paint_with_it_and_the_latents_stay(model, painter):
    before = model.draw("a red circle", steps=1, seed=3)
    model.pixel_decoder = painter
    after = model.draw("a red circle", steps=1, seed=3)
    assert torch.equal(before.latent, after.latent) and not torch.allclose(before.pixels, after.pixels)
    wanted = painter.open(model.bagel)
    config = model.bagel.config.autoencoder
    from hb.models.vision import unpatchify

    raw = unpatchify(after.latent, 2, 4, 4) / config.scale_factor + config.shift_factor
    assert torch.allclose(after.pixels, (wanted(raw) / 2 + 0.5).clamp(0, 1), atol=1e-6)
    edited = model.edit(before, "make the circle blue", steps=1)
    model.pixel_decoder = None
    assert not torch.allclose(edited.pixels, model.edit(before, "make the circle blue", steps=1).pixels)


def test_a_model_keeps_it(model, painter, tmp_path):
    model.pixel_decoder = painter
    model.save_pretrained(tmp_path / "m")
    again = Model.from_pretrained(tmp_path / "m")
    assert again.pixel_decoder == painter and all(
        torch.equal(v, again.pixel_decoder.weights[k]) for k, v in painter.weights.items()
    )


def test_another_encoders_model_refuses_it(model, painter):
    with torch.no_grad():
        model.bagel.autoencoder.encoder.conv_in.weight.add_(0.1)
    model.pixel_decoder = painter
    with pytest.raises(CheckpointError, match="another encoder.*hb train decoder"):
        model.draw("a red circle", steps=1)


def test_damage_is_named(painter, tmp_path):
    painter.save(tmp_path)
    (tmp_path / PIXEL_DECODER_CONFIG).write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        PixelDecoderCheckpoint.load(tmp_path)
    (tmp_path / PIXEL_DECODER_CONFIG).unlink()
    with pytest.raises(CheckpointError, match="hb train decoder"):
        PixelDecoderCheckpoint.load(tmp_path)


def test_a_decoder_trained_in_float32_fits_the_files_written_in_float16():
    """Training holds float32 weights, a folder float16: one encoder for a person, two for a digest of exact bits."""
    encoder = Autoencoder(tiny_config(600).autoencoder).encoder
    stored = copy.deepcopy(encoder).half().float()
    assert any(not torch.equal(a, b) for a, b in zip(encoder.parameters(), stored.parameters(), strict=True))
    assert fingerprint(encoder) == fingerprint(stored) == fingerprint(copy.deepcopy(encoder).half())
    with torch.no_grad():
        stored.conv_out.bias[0] += 1e-2
    assert fingerprint(encoder) != fingerprint(stored)


def test_a_reading_fingerprint_minds_the_understanding_branch_alone(model):
    """A draft stays true while drawing is trained, and is another model's once reading has moved."""
    bagel = model.bagel
    whole, reading = fingerprint(bagel), understanding_fingerprint(bagel)
    with torch.no_grad():
        bagel.latent.output.weight += 0.1
        bagel.mot.generation.layers[0].mlp.up_proj.weight += 0.1
    assert fingerprint(bagel) != whole and understanding_fingerprint(bagel) == reading
    with torch.no_grad():
        bagel.mot.understanding.layers[0].mlp.up_proj.weight += 0.1
    assert understanding_fingerprint(bagel) != reading


def test_an_older_kind_of_pixel_decoder_says_so(model, painter):
    from dataclasses import replace

    model.pixel_decoder = replace(painter, config=painter.config | dict(widths=[8, 8, 8]))
    with pytest.raises(CheckpointError, match="older kind.*hb train decoder"):
        model.draw("a red circle", steps=1)


def test_training_leaves_the_autoencoder_alone_and_lowers_the_error(tmp_path):
    torch.manual_seed(0)
    autoencoder = Autoencoder(tiny_config(600).autoencoder)
    with torch.no_grad():
        autoencoder.encoder.conv_out.weight.mul_(20)  # untrained, it says nearly nothing
    old = {k: v.clone() for k, v in autoencoder.state_dict().items()}
    run = dict(side=64, batch=4, lr=0.01, bar=False, precision="f32", accelerator="cpu")
    short = train_pixel_decoder(tmp_path / "a", autoencoder, steps=1, **run)
    longer = train_pixel_decoder(tmp_path / "b", autoencoder, steps=20, **run)
    assert all(torch.equal(v, old[k]) for k, v in autoencoder.state_dict().items())
    assert short.encoder == longer.encoder == fingerprint(autoencoder.encoder)
    from hb.models.bagel import Bagel
    from hb.train.autoencoder import random_pictures

    bagel = Bagel(tiny_config(600), (1, 2, 3, 4), autoencoder)
    pictures = random_pictures(8, 64, 5, 0)
    latent = bagel.encode(pictures, torch.Generator().manual_seed(0))
    error = [float((bagel.decode(latent, decoder=p.open(bagel)) - pictures).abs().mean()) for p in (short, longer)]
    assert error[1] < 0.8 * error[0]


def test_going_on_behind_a_refiner_leaves_it_as_it_is_and_moves_the_rest(tmp_path):
    torch.manual_seed(0)
    autoencoder = Autoencoder(tiny_config(600).autoencoder)
    config = PixelDecoderConfig(autoencoder.config.z_channels, (8, 8, 8, 8), refiner=(24, 1))
    old = {k: v.detach().clone() for k, v in PixelDecoder(config).state_dict().items()}
    written = json.loads(json.dumps(asdict(config)))  # as a file has it: lists
    start = PixelDecoderCheckpoint(written, fingerprint(autoencoder.encoder), {}, old)
    run = dict(side=64, steps=2, batch=2, lr=0.01, bar=False, precision="f32", accelerator="cpu")
    done = train_pixel_decoder(tmp_path, autoencoder, start_from=start, **run)
    assert json.loads(json.dumps(done.config)) == written
    same = {k for k, v in done.weights.items() if torch.equal(v, old[k])}
    assert same == {k for k in old if k.startswith("settle.")}
