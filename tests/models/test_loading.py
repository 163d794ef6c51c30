"""Weights go from the file to their place: shards, damaged indices, and how much memory that takes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hb.infer.pipeline import Model
from hb.models.checkpoint import WEIGHTS, CheckpointError, load_model

MEASURE = """
import os, sys, torch, hb
import hb.infer.pipeline
from hb.models.checkpoint import load_model

def anonymous() -> int:
    fields = dict(line.split(":") for line in open("/proc/self/status") if ":" in line)
    return int(fields["RssAnon"].split()[0]) * 1024

import threading, time
before, peak, done = anonymous(), [0], threading.Event()
def watch():
    while not done.is_set():
        peak[0] = max(peak[0], anonymous()); time.sleep(0.005)
thread = threading.Thread(target=watch); thread.start()
model, _ = load_model(sys.argv[1], dtype=getattr(torch, sys.argv[2]))
done.set(); thread.join()
size = sum(os.path.getsize(os.path.join(sys.argv[1], name)) for name in ("ema.safetensors", "ae.safetensors"))
print((max(peak[0], anonymous()) - before) / size)
"""


def sharded(folder: Path, into: Path) -> Path:
    """The same model with its weights in three shards and an index."""
    Model.from_pretrained(folder).save_pretrained(into)
    weights = load_file(into / WEIGHTS)
    (into / WEIGHTS).unlink()
    index = {}
    for number in range(3):
        part = dict(list(sorted(weights.items()))[number::3])
        name = f"model-{number + 1:05}-of-00003.safetensors"
        save_file(part, into / name)
        index |= dict.fromkeys(part, name)
    (into / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return into


def test_shards_with_an_index_are_the_whole_file(tiny_folder, tmp_path):
    whole, _ = load_model(tiny_folder)
    parts, _ = load_model(sharded(tiny_folder, tmp_path / "sharded"))
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True))


def test_a_save_into_a_folder_of_shards_leaves_none_of_them(tiny_folder, tmp_path):
    """Red while the index and its shards stayed beside the new file, twice the size and of other weights."""
    folder = sharded(tiny_folder, tmp_path / "sharded")
    (folder / "notes.safetensors").write_bytes(b"mine")
    model = Model.from_pretrained(folder)
    with torch.no_grad():
        model.bagel.lm_head.weight.add_(1.0)
    model.save_pretrained(folder)
    names = {path.name for path in folder.glob("*.safetensors*")}
    assert names == {WEIGHTS, "ae.safetensors", "notes.safetensors"}  # what is not in the index is not ours
    assert torch.equal(Model.from_pretrained(folder).bagel.lm_head.weight, model.bagel.lm_head.weight)


def test_a_missing_shard_or_a_damaged_index_is_named(tiny_folder, tmp_path):
    folder = sharded(tiny_folder, tmp_path / "sharded")
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match="lists model-00002-of-00003.safetensors, which .* does not hold"):
        load_model(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is not an index of shards"):
        load_model(folder)


def test_a_few_missing_vision_weights_are_not_the_whole_side(tiny_folder, tmp_path):
    folder = tmp_path / "m"
    Model.from_pretrained(tiny_folder).save_pretrained(folder)
    weights = load_file(folder / WEIGHTS)
    for name in [name for name in weights if name.startswith("vit_model.")][:5]:
        del weights[name]
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(CheckpointError) as error:
        load_model(folder)
    assert "lacks" in str(error.value) and "whole vision side" not in str(error.value)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads anonymous memory from /proc")
def test_memory_of_loading_a_billion_parameters_is_their_file(tmp_path):
    """Peak anonymous memory above that after importing hb, over the size of the file."""
    from hb.models.autoencoder import Autoencoder, AutoencoderConfig
    from hb.models.bagel import Bagel
    from hb.models.checkpoint import save_model
    from hb.models.config import BagelConfig, DecoderConfig, VisionConfig

    config = BagelConfig(
        llm=DecoderConfig(hidden_size=1536, num_hidden_layers=14, num_attention_heads=12, num_key_value_heads=2,
                          intermediate_size=4608, vocab_size=32000),
        vision=VisionConfig(hidden_size=768, num_hidden_layers=4, num_attention_heads=12, intermediate_size=3072),
        autoencoder=AutoencoderConfig(ch=32),
    )  # fmt: skip
    with torch.device("meta"):
        model = Bagel(config, (1, 2, 3, 4), Autoencoder(config.autoencoder))
    model = model.to_empty(device="cpu").to(torch.bfloat16)
    with torch.no_grad():  # what lay in memory before may be NaN, which is not saved
        for tensor in (*model.parameters(), *model.autoencoder.parameters()):
            tensor.normal_()
    count = sum(p.numel() for p in model.parameters())
    save_model(model, tmp_path)
    del model
    (tmp_path / "token_ids.json").write_text(
        json.dumps(dict(bos_token_id=1, eos_token_id=2, start_of_image=3, end_of_image=4))
    )
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path), "bfloat16"], capture_output=True, text=True, cwd=root, check=True
    )
    print(f"{count / 1e9:.2f} billion parameters; peak of anonymous memory over the file: {float(run.stdout):.3f}")
    assert count > 0.9e9 and float(run.stdout) <= 1.15


def test_loading_imports_neither_a_compiler_nor_transformers(tiny_folder):
    """Each takes longer to import than PyTorch. Seen red: parameters initialized on "meta" import the first."""
    heavy = ("torch._dynamo", "transformers", "diffusers", "lightning", "matplotlib")
    code = f"import sys, hb; hb.load(sys.argv[1]); print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code, str(tiny_folder)], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
