"""Channels that say what is where: the field is exact and moves with the things; widening changes nothing by itself."""

from dataclasses import replace

import pytest
import torch

from hb.model.autoencoder import Autoencoder, AutoencoderConfig
from hb.model.bagel import Bagel, initialise
from hb.model.sequence import ImageSplit, TextSplit
from hb.pretrain import AutoencoderTraining, train_autoencoder, with_channels
from hb.semantic import FAR, FIELD, NOISE, WidenedEncoder, random_scenes, thing_field, train_widened, widened
from hb.world.render import render
from hb.world.scene import RADII, SHAPES, Scene, Scenes, Thing
from tests.conftest import tiny_config

SMALL = AutoencoderConfig(ch=8, ch_mult=(1, 1, 1, 1), num_res_blocks=1, z_channels=4, norm_groups=2, scale_factor=0.7,
                          shift_factor=0.1)  # fmt: skip


def field_of(*things, rows=8):
    return thing_field(Scenes.from_list([Scene(things)]), rows)[0]


def centre(square):
    return (square + 0.5) / 8


def test_a_card_is_exact_where_the_thing_is():
    card = field_of(Thing("square", "red", "large", centre(3), centre(4)))[:, 4, 3]
    axis = SHAPES.index("square") // 2
    shape = torch.zeros(4)
    shape[axis] = 1.0 if SHAPES.index("square") % 2 == 0 else -1.0
    assert torch.allclose(card, torch.cat([torch.tensor([1.0, 0.0, 0.0, 1.0]), shape]), atol=1e-6)


def test_every_shape_has_a_card_of_its_own():
    cards = torch.stack([field_of(Thing(s, "red", "small", 0.5, 0.5))[4:, 4, 4] for s in SHAPES])
    apart = torch.cdist(cards, cards) / cards.norm(dim=1).mean()
    assert apart[~torch.eye(8, dtype=torch.bool)].min() > 1.4  # the square root of 2


def test_the_way_to_the_centre_is_in_radii_and_points_there():
    field = field_of(Thing("ring", "blue", "large", centre(3), centre(3)))
    assert field[FIELD.index("dx"), 3, 2] > 0 > field[FIELD.index("dx"), 3, 4]  # from the left the centre is to the right
    assert field[FIELD.index("dy"), 2, 3] > 0 > field[FIELD.index("dy"), 4, 3]
    steps = 1 / 8 / RADII[1]
    assert field[FIELD.index("dx"), 3, 2] / field[0, 3, 2] == pytest.approx(steps, rel=1e-5)


def test_the_field_moves_with_the_thing_and_ends():
    here, there = (field_of(Thing("moon", "pink", "small", centre(c) + 0.01, 0.4)) for c in (2, 5))
    assert torch.allclose(here[:, :, :5], there[:, :, 3:], atol=1e-6)
    thing = Thing("star", "red", "large", 0.3, 0.6)
    field = field_of(thing)
    for row in range(8):
        for column in range(8):
            far = ((centre(column) - thing.x) ** 2 + (centre(row) - thing.y) ** 2) ** 0.5 / thing.radius
            assert (field[:, row, column].abs().sum() == 0) == (far >= FAR)


def test_the_field_has_no_jumps():
    places = torch.linspace(0.3, 0.4, 101)
    fields = torch.stack([field_of(Thing("star", "red", "large", float(x), 0.5)) for x in places])
    assert (fields.diff(dim=0)).abs().max() < 0.03  # a hundred steps of a thousandth: a jump would be one of them


def test_a_scene_is_the_sum_of_its_things():
    a, b = Thing("star", "red", "large", 0.25, 0.3), Thing("moon", "blue", "small", 0.6, 0.7)
    assert torch.allclose(field_of(a, b), field_of(a) + field_of(b), atol=1e-6)


def test_widening_changes_neither_latents_nor_pictures():
    before = Autoencoder(SMALL).eval()
    wide = widened(before).eval()
    pictures = torch.rand(2, 3, 64, 64) * 2 - 1
    (mean, logvar), (mean_before, logvar_before) = wide.moments(pictures), before.moments(pictures)
    assert torch.equal(mean[:, :4], mean_before) and torch.equal(logvar[:, :4], logvar_before)
    assert mean[:, 4:].abs().max() == 0 and (logvar[:, 4:] == NOISE).all()
    z = torch.randn(2, 4, 8, 8)
    # the decoder does not look at what it does not know
    assert torch.allclose(wide.decode(torch.cat([z, torch.randn(2, 8, 8, 8)], 1)), before.decode(z), atol=1e-6)


def test_the_field_is_learnt_in_units_of_the_latents_and_the_rest_is_kept():
    torch.manual_seed(0)
    before = Autoencoder(SMALL)
    training = WidenedEncoder(before, total=60, lr=0.02)
    scenes = random_scenes(16, 0, 5)
    pictures, field = render(scenes, 64) * 2 - 1, thing_field(scenes, 8)
    wanted = training.wanted(thing_field(random_scenes(2000, 0, 9), 8))
    unit = (wanted - SMALL.shift_factor) * SMALL.scale_factor  # as `encode` scales what a model will see
    assert unit.mean((0, 2, 3)).abs().max() < 0.05 and (unit.std((0, 2, 3)) - 1).abs().max() < 0.05
    new, kept = training.losses(pictures, field)
    assert kept < 1e-9 and 0.8 < new < 1.3
    decoder = {k: v.clone() for k, v in training.autoencoder.decoder.state_dict().items()}
    optimizer = training.configure_optimizers()[0][0]
    for group in optimizer.param_groups:
        group["lr"] = 0.02 if group["kind"] == "muon" else 0.01
    for _ in range(40):
        new, kept = training.losses(pictures, field)
        optimizer.zero_grad()
        (new + 10 * kept).backward()
        optimizer.step()
    assert new < 0.7 and kept < 0.05
    assert all(torch.equal(v, decoder[k]) for k, v in training.autoencoder.decoder.state_dict().items())


def test_a_run_gives_an_autoencoder_of_more_channels(tmp_path):
    done = train_widened(tmp_path, Autoencoder(SMALL), side=64, steps=2, batch=2, bar=False, accelerator="cpu")
    assert done.config == replace(SMALL, z_channels=4 + len(FIELD))
    assert done.encode(torch.zeros(1, 3, 64, 64), torch.Generator().manual_seed(0)).shape == (1, 12, 8, 8)


def test_the_decoder_alone_learns_from_noisy_latents():
    training = AutoencoderTraining(SMALL, total=2, decoder_only=True, noise=0.5)
    seen = []
    training.autoencoder.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    pictures, eps = torch.zeros(3, 3, 64, 64), torch.ones(3, 4, 8, 8)
    training.losses(pictures, eps)
    mean, logvar = training.autoencoder.moments(pictures)
    more = (seen[0] - mean - (0.5 * logvar).exp())[:, 0, 0, 0] * SMALL.scale_factor
    assert torch.allclose(more, torch.tensor([0.0, 0.25, 0.5]), atol=1e-5)  # in latents of unit variance


def test_noise_without_decoder_only_is_refused(tmp_path):
    with pytest.raises(ValueError, match="trained alone"):
        train_autoencoder(tmp_path, tiny_config(600), steps=1, start_from=Autoencoder(SMALL), noise=0.3)


def test_a_model_of_fewer_channels_goes_on_with_more():
    config = tiny_config(600)
    wider = replace(config, autoencoder=replace(config.autoencoder, z_channels=config.autoencoder.z_channels + 3))
    markers, dice = (1, 2, 3, 4), torch.Generator().manual_seed(0)
    before, after = Bagel(config, markers), Bagel(wider, markers)
    initialise(before, dice)
    torch.nn.init.normal_(before.llm2vae.weight, generator=dice)
    torch.nn.init.normal_(before.llm2vae.bias, generator=dice)
    after.load_state_dict(with_channels(before.state_dict(), config, wider))
    old, new = config.autoencoder.z_channels, wider.autoencoder.z_channels
    latent = torch.randn(2, 16, 4, new)  # tokens, squares of a token, channels
    keep, t = torch.ones(2, dtype=torch.bool), torch.tensor([0.3, 0.8])
    text = TextSplit(torch.tensor([[1, 7, 2], [1, 9, 2]]), torch.tensor([3, 3]))
    said = [
        model([text, ImageSplit("noise", tokens.flatten(2), keep, t)])[1].unflatten(-1, (4, -1))
        for model, tokens in ((before, latent[..., :old]), (after, latent))
    ]
    assert torch.allclose(said[1][..., :old], said[0], atol=1e-5) and said[0].abs().max() > 0.1
    assert said[1][..., old:].abs().max() == 0
    with pytest.raises(ValueError, match="reads latents of"):
        with_channels(after.state_dict(), wider, config)
