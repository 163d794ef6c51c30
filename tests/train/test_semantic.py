"""Latents that say what is where: the field is exact and moves with the things; encoder and decoder learn apart."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hb.data.fields import FAR, FIELD, random_scenes, thing_field
from hb.models.autoencoder import Autoencoder, AutoencoderConfig
from hb.models.bagel import Bagel
from hb.models.initialize import initialize
from hb.train.autoencoder import LOGVAR, AutoencoderTraining, SemanticAutoencoder, train_autoencoder, train_semantic
from hb.train.teacher import begin_from
from hb.world.render import BACKGROUND_RGB, COLOR_RGB, render
from hb.world.scene import MAX_TURN, RADII, SHAPES, Scene, Scenes, Thing
from tests.conftest import tiny_config

SMALL = AutoencoderConfig(
    ch=8, ch_mult=(1, 1, 1, 1), num_res_blocks=1, z_channels=4, norm_groups=2, scale_factor=0.7, shift_factor=0.1
)


def field_of(*things, rows=8, background="white"):
    return thing_field(Scenes.from_list([Scene(things, background)]), rows)[0]


def lines(*names):
    return [FIELD.index(name) for name in names]


BEHIND = lines("red behind", "green behind", "blue behind")


def cards_of(*things):
    """The field without the background, which is the same everywhere."""
    return np.delete(field_of(*things).numpy(), BEHIND, 0)


def center(square):
    return (square + 0.5) / 8


def test_a_card_is_exact_where_the_thing_is():
    thing = Thing("square", "red", "large", center(3), center(4), "striped", turn=-0.5 * MAX_TURN, shade=0.9)
    card = field_of(thing, background="navy")[:, 4, 3]
    axis = SHAPES.index("square") // 2
    shape = torch.zeros(4)
    shape[axis] = 1.0 if SHAPES.index("square") % 2 == 0 else -1.0
    color, behind = torch.tensor(COLOR_RGB[0]).float() * 0.9 * 2 - 1, torch.tensor(BACKGROUND_RGB[4]).float() * 2 - 1
    wanted = torch.cat([color, torch.tensor([1.0, -0.5]), behind, torch.tensor([1.0, 0.0, 0.0, 1.0]), shape])
    assert torch.allclose(card, wanted, atol=1e-6)


def test_the_background_is_everywhere_and_says_nothing_of_things():
    empty, full = (
        field_of(background="beige")[BEHIND],
        field_of(Thing("star", "red", "large", 0.3, 0.6), background="beige")[BEHIND],
    )
    assert torch.equal(empty, full) and (full == full[:, :1, :1]).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_turn_that_nobody_can_see_is_not_told(shape):
    turned = lambda texture: (
        field_of(Thing(shape, "red", "large", 0.5, 0.5, texture, turn=0.3))[FIELD.index("turn")].abs().max()
    )
    assert turned("striped") > 0.5
    assert (turned("plain") == 0) == (shape in ("circle", "ring"))


def test_every_shape_has_a_card_of_its_own():
    axes = lines("shape 0", "shape 1", "shape 2", "shape 3")
    cards = torch.stack([field_of(Thing(s, "red", "small", 0.5, 0.5))[axes, 4, 4] for s in SHAPES])
    apart = torch.cdist(cards, cards) / cards.norm(dim=1).mean()
    assert apart[~torch.eye(8, dtype=torch.bool)].min() > 1.4  # the square root of 2


def test_the_way_to_the_centre_is_in_radii_and_points_there():
    field = field_of(Thing("ring", "blue", "large", center(3), center(3)))
    assert (
        field[FIELD.index("dx"), 3, 2] > 0 > field[FIELD.index("dx"), 3, 4]
    )  # from the left the center is to the right
    assert field[FIELD.index("dy"), 2, 3] > 0 > field[FIELD.index("dy"), 4, 3]
    steps = 1 / 8 / RADII[1]
    assert field[FIELD.index("dx"), 3, 2] / field[FIELD.index("there"), 3, 2] == pytest.approx(steps, rel=1e-5)


def test_the_field_moves_with_the_thing_and_ends():
    here, there = (cards_of(Thing("moon", "pink", "small", center(c) + 0.01, 0.4)) for c in (2, 5))
    assert np.allclose(here[:, :, :5], there[:, :, 3:], atol=1e-6)
    thing = Thing("star", "red", "large", 0.3, 0.6)
    field = torch.as_tensor(cards_of(thing))
    for row in range(8):
        for column in range(8):
            far = ((center(column) - thing.x) ** 2 + (center(row) - thing.y) ** 2) ** 0.5 / thing.radius
            assert (field[:, row, column].abs().sum() == 0) == (far >= FAR)


def test_the_field_has_no_jumps():
    places = torch.linspace(0.3, 0.4, 101)
    fields = torch.stack([field_of(Thing("star", "red", "large", float(x), 0.5)) for x in places])
    assert (fields.diff(dim=0)).abs().max() < 0.03  # a hundred steps of a thousandth: a jump would be one of them


def test_a_scene_is_the_sum_of_its_things():
    a, b = Thing("star", "red", "large", 0.25, 0.3), Thing("moon", "blue", "small", 0.6, 0.7)
    assert np.allclose(cards_of(a, b), cards_of(a) + cards_of(b), atol=1e-6)


def parts(seed=0, n=8):
    scenes = random_scenes(n, 0, 5 + seed)
    return render(scenes, 64) * 2 - 1, thing_field(scenes, 8), torch.randn(n, len(FIELD), 8, 8)


def test_the_field_has_the_units_of_latents():
    training = SemanticAutoencoder(SMALL, total=1)
    unit = (thing_field(random_scenes(2000, 0, 9), 8) - training.middle) / training.spread
    assert unit.mean((0, 2, 3)).abs().max() < 0.06 and (unit.std((0, 2, 3)) - 1).abs().max() < 0.06
    config = training.autoencoder.config  # encode gives means as they are
    assert (config.z_channels, config.scale_factor, config.shift_factor) == (len(FIELD), 1.0, 0.0)
    assert (training.autoencoder.moments(torch.zeros(1, 3, 64, 64))[1] == LOGVAR).all()


def test_neither_half_has_a_say_in_the_other():
    training = SemanticAutoencoder(SMALL, total=1)
    wrong, pixel, edge = training.losses(*parts())
    touched = lambda: {
        n.split(".")[0] for n, p in training.autoencoder.named_parameters() if p.grad is not None and p.grad.any()
    }
    wrong.backward()
    assert touched() == {"encoder"}
    training.zero_grad(set_to_none=True)
    (pixel + edge).backward()
    assert touched() == {"decoder"}


def test_the_decoder_paints_from_noisy_fields():
    training = SemanticAutoencoder(SMALL, total=1, noise=0.5)
    seen = []
    training.autoencoder.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    pictures, field, eps = parts(n=3)
    training.losses(pictures, field, eps)
    more = (seen[0] - training.autoencoder.moments(pictures)[0]) / eps
    assert torch.allclose(more, torch.tensor([0.0, 0.25, 0.5])[:, None, None, None].expand_as(more), atol=1e-3)


def test_field_and_pictures_are_learnt():
    torch.manual_seed(0)
    training = SemanticAutoencoder(SMALL, total=60)
    optimizer = training.configure_optimizers()[0][0]
    for group in optimizer.param_groups:
        group["lr"] = 0.02 if group["kind"] == "muon" else 0.01
    before = [loss.item() for loss in training.losses(*parts())]
    for _ in range(16):
        optimizer.zero_grad()
        sum(training.losses(*parts())).backward()
        optimizer.step()
    after = [loss.item() for loss in training.losses(*parts())]
    assert after[0] < 0.7 * before[0] and after[1] < 0.7 * before[1]


def test_a_run_gives_an_autoencoder_of_fields_and_keeps_what_fits(tmp_path):
    start = Autoencoder(SMALL)
    kept = SemanticAutoencoder(SMALL, total=1, start=start).autoencoder.state_dict()
    same = lambda a, b: a.shape == b.shape and torch.equal(a, b)
    differ = {name for name, value in start.state_dict().items() if not same(value, kept[name])}
    assert differ == {"encoder.conv_out.weight", "encoder.conv_out.bias", "decoder.conv_in.weight"}
    done = train_semantic(tmp_path, SMALL, side=64, steps=2, batch=2, start_from=start, bar=False, accelerator="cpu")
    assert done.encode(torch.zeros(1, 3, 64, 64), torch.Generator().manual_seed(0)).shape == (1, 16, 8, 8)


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


@pytest.mark.parametrize("more", [0, 3])
def test_a_model_begins_from_one_for_other_latents(more):
    config, markers, generator = tiny_config(600), (1, 2, 3, 4), torch.Generator().manual_seed(0)
    other = replace(config, autoencoder=replace(config.autoencoder, z_channels=config.autoencoder.z_channels + more))
    before, after = Bagel(config, markers), Bagel(other, markers)
    initialize(before, generator)
    initialize(after, generator)
    fresh = {k: v.clone() for k, v in after.state_dict().items()}
    begin_from(after, before)
    latents = {"latent.input.weight", "latent.output.weight", "latent.output.bias"} if more else set()
    for name, value in after.state_dict().items():
        assert torch.equal(value, fresh[name] if name in latents else before.state_dict()[name]), name
