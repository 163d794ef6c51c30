"""Sheets show what users would get, and a run ends with the same weights whether it is watched or not."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hb.infer.pipeline import Model
from hb.train.autoencoder import AutoencoderTraining, random_pictures
from hb.train.sheets import CHANGED, CHANGES, DRAWN, AutoencoderSheet, TeacherSheet
from hb.train.trainer import StepData, fit
from hb.world.language import parse, parse_edit
from hb.world.render import render
from tests.conftest import tiny_config
from tests.train.conftest import Trip, module, run


@pytest.fixture
def opinionated(text):
    """An untrained model that draws something else for every prompt, and whose latents carry no noise."""
    model = module(text).model
    with torch.no_grad():
        torch.nn.init.normal_(model.latent.output.weight, 0, 0.3)
        model.autoencoder.encoder.conv_out.bias[model.config.autoencoder.z_channels :] = -40.0
    return model


def test_a_teacher_shows_what_its_users_would_get(opinionated, text, tmp_path):
    sheet = TeacherSheet(tmp_path, text).draw(SimpleNamespace(model=opinionated))
    user, given = Model(opinionated, text), render([CHANGED] * len(CHANGES), 64)
    drawn, edited = user.draw(DRAWN, steps=12).pixels, user.edit(given, CHANGES, steps=12).pixels
    wanted = torch.cat([torch.cat(list(row), -1) for row in (drawn, torch.cat([given[:1], edited]))], -2)
    assert (
        torch.tensor(np.array(sheet)).movedim(-1, 0) - wanted * 255
    ).abs().max() <= 1.01  # bytes are cut off, not rounded
    assert all(map(parse, DRAWN)) and all(map(parse_edit, CHANGES))


def test_an_autoencoder_shows_originals_over_what_it_makes_of_them(text, tmp_path):
    pale = torch.nn.Module()
    pale.moments = lambda pictures: (pictures * 0.5, None)
    pale.decoder = lambda z: z
    sheet = np.array(AutoencoderSheet(tmp_path, 64).draw(SimpleNamespace(autoencoder=pale, device="cpu"))) / 127.5 - 1
    assert sheet.shape == (128, 8 * 64, 3) and len(np.unique(sheet[:64])) > 20
    assert np.abs(sheet[:64] * 0.5 - sheet[64:]).max() < 0.02


def train_something(what, text, pool, folder, sheets):
    """Weights after a run, and where PyTorch's own generator stand then."""
    torch.manual_seed(0)
    if what == "teacher":
        return run(text, pool, folder, sheets), torch.rand(1)
    config = tiny_config(text.vocab_size).autoencoder
    training = AutoencoderTraining(config, total=4, lr=0.01)
    fit(
        training,
        StepData(lambda step, rank: random_pictures(2, 64, 0, step, rank), 4),
        folder,
        ema=None,
        save_every=2,
        bar=False,
        callbacks=sheets,
        accelerator="cpu",
    )
    return training.state_dict(), torch.rand(1)


@pytest.mark.parametrize("what", ["teacher", "autoencoder"])
def test_a_run_does_not_notice_that_it_is_watched(what, text, pool, tmp_path):
    """Steps on sheets, and a power cut on top: the same weights, and the same generator, as nobody watching."""
    at, shown = (5, (3, 6, 8)) if what == "teacher" else (3, (1, 2, 3, 4))
    sheet = (
        TeacherSheet(tmp_path / "seen", text, every=3)
        if what == "teacher"
        else AutoencoderSheet(tmp_path / "seen", 64, every=1),
    )
    unseen, generator = train_something(what, text, pool, tmp_path / "unseen", ())
    with pytest.raises(RuntimeError, match="power cut"):
        train_something(what, text, pool, tmp_path / "seen", (*sheet, Trip(at)))
    seen, same_dice = train_something(what, text, pool, tmp_path / "seen", sheet)
    assert all(torch.equal(unseen[k], seen[k]) for k in unseen) and torch.equal(generator, same_dice)
    assert {f.name for f in (tmp_path / "seen").glob("sheet-*")} == {f"sheet-{step:06}.png" for step in shown}
    assert not list((tmp_path / "unseen").glob("sheet-*"))
