"""Damaged and foreign model folders, a package without its data, and devices that are not there."""

import json
import shutil

import pytest
import torch

import hb
from hb.infer import folders
from hb.infer.folders import checked_device
from hb.models.checkpoint import CheckpointError


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "model")


def test_settings_that_are_half_there_are_read(folder):
    """Red with KeyError: 'draw'."""
    (folder / "sampling.json").write_text(json.dumps(dict(steps=10, draw=dict(text_scale=3))))
    sampling = hb.load(folder).sampling
    assert (sampling.steps, sampling.draw.text_scale, sampling.draw.renorm) == (10, 3.0, "global")
    assert (sampling.shift, sampling.edit) == (3.0, hb.infer.plan.Sampling().edit)


@pytest.mark.parametrize(
    "text, words",
    [
        ("{", "damaged"),
        ("[1]", "damaged"),
        ('{"steps": "ten"}', "steps is a whole number, got 'ten'"),
        ('{"steps": 0}', "from 1 on"),
        ('{"step": 10}', "it holds 'step'"),
        ('{"draw": {"text_scale": NaN}}', "text_scale must be finite"),
        ('{"draw": {"scale": 3}}', "scale"),
        ('{"edit": {"interval": 0.4}}', "damaged"),
    ],
)
def test_settings_that_make_no_sense_are_named(folder, text, words):
    (folder / "sampling.json").write_text(text)
    with pytest.raises(CheckpointError, match="sampling.json is damaged") as error:
        hb.load(folder)
    assert words in str(error.value)


def test_a_package_without_its_data_says_how_to_get_them(tmp_path, monkeypatch):
    """Red while a wheel installed elsewhere said to train overnight."""
    monkeypatch.setattr(folders, "SHIPPED", tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"installed without them.*pip install -e \."):
        hb.load("nano")


# ---- devices, with a faked backend ----------------------------------------------------------------------------------


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_a_device_that_is_there_is_taken(two_gpus, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for name in ("cpu", "cuda", "cuda:1", "mps", torch.device("cuda", 1)):
        assert checked_device(name) == torch.device(name)


@pytest.mark.parametrize(
    "name, words",
    [
        ("cuda:2", r"no cuda:2: this PyTorch sees 2"),
        ("gpu", "no device called 'gpu'"),
        ("meta", "does not run on 'meta'"),
    ],
)
def test_a_device_that_is_not_there_gets_a_sentence(two_gpus, name, words):
    with pytest.raises(ValueError, match=words):
        checked_device(name)


@pytest.mark.parametrize("name, words", [("cuda", "sees no CUDA device"), ("mps", "sees no Apple GPU")])
def test_a_backend_that_pytorch_lacks_gets_a_sentence(tiny_folder, monkeypatch, name, words):
    """Red for "mps", which failed in the middle of loading."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=words):
        hb.load(tiny_folder, device=name)
