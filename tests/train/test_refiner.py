"""A latent refiner before the pixel decoder: the identity at first, then mixtures become one field; the decoder behind
it stays as it is."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hb.cli.main import main
from hb.cli.starting import load_autoencoder
from hb.data.fields import FIELD, LOOKS, random_scenes, statistics, thing_field, with_other_looks
from hb.infer.artifacts import PixelDecoderCheckpoint, fingerprint
from hb.infer.pipeline import SHIPPED, Model
from hb.models.checkpoint import CheckpointError
from hb.models.pixel_decoder import LatentRefiner, PixelDecoder, PixelDecoderConfig
from hb.train import refiner
from hb.train.refiner import RefinerTraining, check_latents_are_fields, mixed_fields, train_refiner
from hb.train.resuming import BY_NAME, BY_ROLE
from hb.train.trainer import provenance
from tests.train.conftest import Trip

CONFIG = PixelDecoderConfig(len(FIELD), (8, 8, 8, 8))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A refiner of one layer for decoders that have none."""
    assert refiner.REFINER == (96, 3)
    monkeypatch.setattr(refiner, "REFINER", (24, 1))


@pytest.fixture(scope="module")
def decoder():
    torch.manual_seed(0)
    weights = {k: v.detach() for k, v in PixelDecoder(CONFIG).state_dict().items()}
    return PixelDecoderCheckpoint(dict(z_channels=len(FIELD), widths=[8, 8, 8, 8]), "of nobody", {}, weights)


def test_an_untrained_refiner_changes_nothing(decoder):
    torch.manual_seed(0)
    refined = PixelDecoder(replace(CONFIG, refiner=(24, 1))).eval()
    refined.load_state_dict(refined.state_dict() | decoder.weights)
    plain = PixelDecoder(CONFIG).eval()
    plain.load_state_dict(decoder.weights)
    z = torch.randn(2, len(FIELD), 6, 8, generator=generator())
    with torch.no_grad():
        assert torch.equal(refined(z), plain(z))


def test_every_place_attends_to_every_other_and_has_a_position():
    torch.manual_seed(0)
    refiner = LatentRefiner(3, 24, 1).eval()
    torch.nn.init.normal_(refiner.say.weight)
    z = torch.randn(1, 3, 8, 8, generator=generator())
    other = z.clone()
    other[..., 7, 7] += 1
    with torch.no_grad():
        assert ((refiner(z) - refiner(other)).abs().amax(1) > 0).all()
        flat = refiner(torch.ones(1, 3, 8, 8))[0].flatten(1)  # the same everywhere
    assert torch.pdist(flat.T).min() > 1e-3


def test_other_looks_are_in_the_same_places():
    scenes = random_scenes(400, 0, 1)
    before = {name: getattr(scenes, name).copy() for name in (*LOOKS, "background", "x", "y")}
    other = with_other_looks(scenes, np.random.default_rng(0), 0.5)
    assert all(np.array_equal(getattr(scenes, name), value) for name, value in before.items())  # the caller's stay
    assert np.array_equal(scenes.shape >= 0, other.shape >= 0)
    assert np.array_equal(scenes.x, other.x) and np.array_equal(scenes.y, other.y)
    there = scenes.shape >= 0
    for name in LOOKS:
        ours, theirs = getattr(scenes, name), getattr(other, name)
        assert np.array_equal(ours[~there], theirs[~there])
        assert 0.15 < (ours != theirs)[there].mean() < 0.6, name
    assert 0.3 < (scenes.background != other.background).mean() < 0.5


def test_mixed_fields_are_mostly_the_first():
    sure, one, two = torch.zeros(500, 1, 8, 8), torch.ones(500, 1, 8, 8), torch.ones(500, 1, 8, 8)
    share = mixed_fields(torch.stack([sure, one, two]), generator(), most=0.4).mean((1, 2, 3))
    assert share.min() > -0.1 and share.max() < 0.6 and share.mean() == pytest.approx(0.2, abs=0.02)
    assert torch.equal(mixed_fields(torch.stack([one, sure, sure]), generator(), most=0.0), one)
    same = torch.randn(5, 2, 8, 8, generator=generator())
    assert torch.allclose(mixed_fields(torch.stack([same, same, same]), generator(1)), same)
    apart = mixed_fields(torch.stack([sure, one, -two]), generator())  # both others have a say
    assert apart.mean((1, 2, 3)).std() > 0.02 and apart.mean().abs() < 0.02


def test_it_learns_the_likeliest_field():
    torch.manual_seed(0)
    training = RefinerTraining(LatentRefiner(len(FIELD), 48, 2), total=40, noise=0.2)
    optimizer = training.configure_optimizers()[0][0]
    for group in optimizer.param_groups:
        group["lr"] = 0.02 if group["kind"] == "muon" else 0.005
    middle, spread = statistics(0)
    unit = lambda scenes: (thing_field(scenes, 8) - middle) / spread

    scenes, rng = random_scenes(32, 0, 1), np.random.default_rng(0)
    fields = torch.stack([unit(scenes), unit(with_other_looks(scenes, rng)), unit(with_other_looks(scenes, rng))])
    z = mixed_fields(fields, generator())
    z = z + 0.5 * torch.randn(z.shape, generator=generator())
    losses = []
    for _ in range(24):
        loss = (training.refiner(z) - fields[0]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0], losses


def test_training_keeps_the_decoder_and_goes_on_from_a_refiner(decoder, tmp_path):
    run = dict(rows=8, batch=2, bar=False, accelerator="cpu")
    done = train_refiner(tmp_path / "a", decoder, steps=1, **run)
    assert done.config == decoder.config | dict(refiner=[24, 1])
    assert all(torch.equal(done.weights[name], value) for name, value in decoder.weights.items())
    begun = replace(done, config=decoder.config | dict(settler=[24, 1]))  # as version 0.1 wrote it
    more = train_refiner(tmp_path / "b", begun, steps=1, **run)
    assert more.config == done.config
    far = lambda a, b: max(
        (a.weights[n] - b.weights[n]).abs().max().item() for n in a.weights if n.startswith("settle.")
    )
    afresh = train_refiner(tmp_path / "c", decoder, steps=1, seed=5, **run)
    assert far(done, more) < 0.2 * far(done, afresh)  # one step away, and not begun again


@pytest.mark.parametrize("name", ["refiner", "settler"])  # "settler": files of version 0.1
def test_a_refined_decoder_travels(tiny_folder, tmp_path, name):
    model = Model.from_pretrained(tiny_folder)
    torch.manual_seed(0)
    decoder = PixelDecoder(PixelDecoderConfig(4, (8, 8, 8, 8), refiner=(24, 1)))
    torch.nn.init.normal_(decoder.settle.say.weight)
    weights = {k: v.detach() for k, v in decoder.state_dict().items()}
    config = {"z_channels": 4, "widths": [8, 8, 8, 8], name: [24, 1]}
    model.pixel_decoder = PixelDecoderCheckpoint(config, fingerprint(model.bagel.autoencoder.encoder), {}, weights)
    model.save_pretrained(tmp_path / "m")
    again = Model.from_pretrained(tmp_path / "m")
    one, two = (m.draw("a red circle", steps=1, seed=3).pixels for m in (model, again))
    assert torch.allclose(one, two, atol=1e-6)
    model.pixel_decoder = replace(model.pixel_decoder, weights={k: v for k, v in weights.items() if "say" not in k})
    with pytest.raises(CheckpointError, match="settle.say"):
        model.draw("a red circle", steps=1)


def test_only_fields_can_be_refined(tiny):
    with pytest.raises(ValueError, match="not fields.*--semantic"):
        check_latents_are_fields(tiny.bagel.autoencoder, 64)
    nano = load_autoencoder(SHIPPED / "nano")
    check_latents_are_fields(nano, 64)
    with torch.no_grad():
        nano.encoder.conv_out.weight[:16] = nano.encoder.conv_out.weight[:16].flip(
            0
        )  # as many channels that mean other things
    with pytest.raises(ValueError, match="not fields"):
        check_latents_are_fields(nano, 64)


def test_a_model_without_a_tiny_decoder_is_told_so(tiny_folder, tmp_path, capsys):
    assert main(["train", "settler", "--model", str(tiny_folder), "--folder", str(tmp_path / "run")]) == 2
    assert "hb train decoder" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_begun_under_the_old_names_and_the_old_rule_goes_on_as_it_began(decoder, tmp_path, monkeypatch):
    """Its checkpoint says "settler", and nothing says which rule found the matrices for Muon."""
    run = dict(rows=8, batch=2, steps=4, save_every=2, bar=False, accelerator="cpu")
    with monkeypatch.context() as patch:
        patch.setattr("hb.train.trainer.record_rule", lambda folder: BY_NAME)
        straight = train_refiner(tmp_path / "straight", decoder, **run)
        with pytest.raises(RuntimeError, match="power cut"):
            train_refiner(tmp_path / "old", decoder, callbacks=(Trip(3),), **run)
    kept = torch.load(tmp_path / "old" / "last.ckpt", weights_only=True)
    old = {name.replace("refiner.", "settler."): value for name, value in kept["state_dict"].items()}
    assert not old.keys() & kept["state_dict"].keys()
    torch.save(kept | dict(state_dict=old), tmp_path / "old" / "last.ckpt")
    done, new = (train_refiner(tmp_path / folder, decoder, **run) for folder in ("old", "new"))
    assert all(torch.equal(done.weights[name], value) for name, value in straight.weights.items())
    assert not all(torch.equal(new.weights[name], value) for name, value in straight.weights.items())
    assert provenance(tmp_path / "old", "")["optimizer_rule"] == BY_NAME
    assert provenance(tmp_path / "new", "")["optimizer_rule"] == BY_ROLE
