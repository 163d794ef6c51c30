"""What all tests share: no network, one thread, and a tiny model that nobody has trained."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
import torch

from hb.infer.pipeline import Model
from hb.models.autoencoder import Autoencoder, AutoencoderConfig
from hb.models.bagel import Bagel
from hb.models.config import BagelConfig, DecoderConfig, VisionConfig
from hb.models.initialize import initialize
from hb.models.tokenizer import Text

torch.set_num_threads(1)
TOKENIZER = Path(__file__).resolve().parents[1] / "data" / "tokenizer"


def tiny_config(vocab_size: int) -> BagelConfig:
    """Two layers of width 32 on pictures of 64 x 64: everything a real model has, and nothing it knows."""
    return BagelConfig(
        llm=DecoderConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            intermediate_size=64,
            vocab_size=vocab_size,
            rope_theta=1e4,
        ),
        vision=VisionConfig(
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
            patch_size=8,
            image_size=64,
        ),
        autoencoder=AutoencoderConfig(
            ch=8,
            ch_mult=(1, 1, 1, 1),
            num_res_blocks=1,
            z_channels=4,
            scale_factor=1.0,
            shift_factor=0.0,
            norm_groups=2,
        ),
        latent_side=4,
        picture_side=64,
    )


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """A model folder in the released form; its random weights are always the same."""
    text = Text.load(TOKENIZER)
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # the autoencoder's weights come from PyTorch's own generator
        config = tiny_config(text.vocab_size)
        bagel = Bagel(
            config, (text.start, text.end, text.vision_start, text.vision_end), Autoencoder(config.autoencoder)
        )
    initialize(bagel, generator)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    Model(bagel, text, name="tiny").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder) -> Model:
    """The model of `tiny_folder`. Not to be changed: tests share it."""
    return Model.from_pretrained(tiny_folder)


@pytest.fixture
def hb(tmp_path, monkeypatch, capsys):
    """Run a command line in an empty folder; gives status, output and errors."""
    from hb.cli.main import main  # not every test needs the command line

    monkeypatch.chdir(tmp_path)

    def run(*argv):
        status = main([str(word) for word in argv])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run
