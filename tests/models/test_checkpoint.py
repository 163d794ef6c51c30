"""Loading says what is wrong, and never half-loads."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import hb.infer.pipeline
from hb.models.checkpoint import CheckpointError, load_model, save_model


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "model")


def change(folder, name, edit):
    weights = load_file(folder / name)
    edit(weights)
    save_file(weights, folder / name)


def test_what_is_saved_is_what_is_loaded(tiny, tmp_path):
    save_model(tiny.bagel, tmp_path, tiny.text)
    back, text = load_model(tmp_path)
    ours, theirs = tiny.bagel.state_dict(), back.state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    picture = torch.zeros(1, 3, 64, 64)
    assert torch.equal(tiny.bagel.encode(picture, sample=False), back.encode(picture, sample=False))
    assert text.encode("a red circle") == tiny.text.encode("a red circle")
    assert back.config == tiny.bagel.config


def test_the_file_carries_the_released_names(tiny_folder):
    names = set(load_file(tiny_folder / "ema.safetensors"))
    for name in (
        "language_model.model.layers.0.self_attn.q_proj_moe_gen.weight",
        "time_embedder.mlp.0.weight",
        "vit_model.vision_model.encoder.layers.0.mlp.fc1.bias",
        "latent_pos_embed.pos_embed",
        "connector.fc2.bias",
    ):
        assert name in names
    assert "decoder.up.3.upsample.conv.weight" in set(load_file(tiny_folder / "ae.safetensors"))


def test_a_missing_weight_is_named(folder):
    change(folder, "ema.safetensors", lambda w: w.pop("llm2vae.bias"))
    with pytest.raises(CheckpointError, match="lacks llm2vae.bias"):
        load_model(folder)


def test_a_model_without_its_vision_side_is_recognised(folder):
    change(folder, "ema.safetensors", lambda w: [w.pop(k) for k in list(w) if k.startswith(("vit_", "connector."))])
    with pytest.raises(CheckpointError, match="trained without understanding"):
        load_model(folder)


def test_an_unknown_weight_is_named(folder):
    change(folder, "ae.safetensors", lambda w: w.update({"decoder.extra": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match="holds decoder.extra"):
        load_model(folder)


def test_a_wrong_shape_is_named_with_both_shapes(folder):
    change(folder, "ema.safetensors", lambda w: w.update({"vae2llm.bias": torch.zeros(7)}))
    with pytest.raises(CheckpointError, match=r"vae2llm.bias has shape \[7\] where the config asks for \[32\]"):
        load_model(folder)


@pytest.mark.parametrize("name", ["ema.safetensors", "ae.safetensors"])
def test_a_truncated_file_is_called_truncated(folder, name):
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="truncated"):
        load_model(folder)


@pytest.mark.parametrize("name", ["ema.safetensors", "llm_config.json", "tokenizer.json"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises((CheckpointError, FileNotFoundError), match=name):
        load_model(folder)


def test_a_config_that_disagrees_is_caught(folder):
    path = folder / "vae_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"downsample": 16}))
    with pytest.raises(ValueError, match="downsample 16"):
        load_model(folder)


def test_broken_json_is_called_so(folder):
    (folder / "vit_config.json").write_text("{")
    with pytest.raises(ValueError, match="vit_config.json is not readable JSON"):
        load_model(folder)


def test_unknown_names_and_absent_devices_get_a_sentence(tiny_folder):
    with pytest.raises(CheckpointError, match="no model called 'nanoo'"):
        hb.load("nanoo")
    with pytest.raises(CheckpointError, match="29 GB"):
        hb.load("bagel-7b")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="CUDA was asked for"):
            hb.load(tiny_folder, device="cuda")


def test_the_released_size_has_the_released_parameter_count():
    """bagel.md section 1: 14,607,260,128 with the generation parts; built without memory."""
    from hb.models.bagel import Bagel
    from hb.models.config import BagelConfig

    with torch.device("meta"):
        model = Bagel(BagelConfig(), (0, 1, 2, 3))
    assert sum(p.numel() for p in model.parameters()) == 14_607_260_128
    assert len(model.state_dict()) == 1223
    assert len(model.autoencoder.state_dict()) == 244
    assert sum(p.numel() for p in model.autoencoder.parameters()) == 83_819_683
