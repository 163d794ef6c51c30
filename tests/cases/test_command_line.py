"""What libraries raise becomes one sentence and status 2 on the command line; what is unexpected asks to be reported.

Seen red: without `check_device`, all devices that are not there; with the rules for OSError and ValueError alone, as at
commit e1da7db, 13 of the libraries' errors.
"""

import errno
import os
import struct
import zlib
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
from lightning.fabric.utilities.exceptions import MisconfigurationException
from PIL import Image, UnidentifiedImageError
from safetensors import SafetensorError

from hb.cli.errors import sentence
from hb.cli.main import main, parse
from tests.cli.test_cli import VERBS
from tests.cli.test_training import tiny_preset  # noqa: F401 (a fixture)


def one_sentence(outcome, *words: str, status: int = 2) -> None:
    """The command ended with this status, printed nothing, and complained in one line that has these words."""
    ended, said, complaint = outcome
    assert ended == status and not said
    assert complaint.startswith("hb: ") and complaint.count("\n") == 1 and "Traceback" not in complaint
    for word in words:
        assert word in complaint


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.fixture
def huge(tmp_path) -> Path:
    """A file of some bytes that says it holds 900 million pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0))
    path = tmp_path / "HUGE.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("verb", ["ask", "edit"])
def test_a_picture_that_is_too_large_to_open(hb, huge, tiny_folder, verb):  # noqa: F811
    one_sentence(hb(verb, huge, "remove the star", "--model", tiny_folder), "HUGE.png is too large", "make it smaller")


@pytest.mark.parametrize("device", ["mps", "cuda", "cuda:1"])
def test_a_device_that_is_not_there(hb, tiny_folder, device, monkeypatch):  # noqa: F811
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    one_sentence(hb("draw", "a star", "--device", device, "--model", tiny_folder), f"no {device[:4].strip(':')}")


def test_a_device_beyond_the_last(hb, tiny_folder, monkeypatch):  # noqa: F811
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    one_sentence(hb("draw", "a star", "--device", "cuda:2", "--model", tiny_folder), "the last one is cuda:1")


@pytest.mark.parametrize("kind", ["gpu", "cuda"])
def test_training_on_a_gpu_that_is_not_there(hb, tiny_preset, kind, monkeypatch):  # noqa: F811
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    one_sentence(hb("train", "autoencoder", "--preset", "tiny", "--accelerator", kind), "finds no GPU", "say cpu")


@pytest.mark.parametrize("option", [("--accelerator", "abacus"), ("--strategy", "magic")])
def test_settings_that_lightning_refuses(hb, tiny_preset, option):  # noqa: F811
    one_sentence(hb("train", "autoencoder", "--preset", "tiny", *option), f"{option[0][2:]}='{option[1]}'")


def test_a_folder_that_cannot_be_written_is_told_before_the_drawing(hb, tiny_folder, monkeypatch):  # noqa: F811
    monkeypatch.setattr("hb.infer.pipeline.Model.draw", None)
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    one_sentence(hb("draw", "a star", "--out", "a/b/star.png", "--model", tiny_folder), "nothing can be written in")


def test_a_name_that_is_a_folder(hb, tiny_folder):  # noqa: F811
    Path("star.png").mkdir()
    one_sentence(hb("draw", "a star", "--out", "star.png", "--model", tiny_folder), "star.png is a folder")


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "read-only file system")]
)
def test_a_file_that_cannot_be_finished_leaves_the_old_one(hb, tiny_folder, monkeypatch, number, words):  # noqa: F811
    Path("out").mkdir()
    Path("out/draw.png").write_bytes(b"an earlier picture")

    def fails(path, data):
        path.touch()
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "write_bytes", fails)
    one_sentence(hb("draw", "a star", "--n", 1, "--steps", 1, "--model", tiny_folder), words)
    assert [path.name for path in Path("out").iterdir()] == ["draw.png"]
    assert Path("out/draw.png").read_bytes() == b"an earlier picture"


LIBRARIES = [
    (MisconfigurationException("No supported gpu backend found!"), "no GPU"),
    (MisconfigurationException("`Trainer(devices=0)` value is not a valid input"), "Lightning refuses these settings"),
    (
        LocalEntryNotFoundError("Cannot find the requested files in the disk cache.\nSee more."),
        "Hugging Face Hub: Cannot",
    ),
    (OfflineModeIsEnabled("Cannot reach the Hub: offline mode is enabled."), "Hugging Face Hub"),
    (HFValidationError("Repo id must use alphanumeric chars"), "Repo id must use"),
    (SafetensorError("Error while deserializing header: incomplete metadata"), "safetensors file"),
    (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "the disk is full"),
    (UnidentifiedImageError("cannot identify image file 'a.png'"), "'a.png'"),
    (Image.DecompressionBombError("Image size (900000000 pixels) exceeds limit"), "too large to be opened safely"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."), "not enough memory"),
    (MemoryError(), "not enough memory"),
    (AssertionError("Torch not compiled with CUDA enabled"), "has no CUDA"),
    (RuntimeError("PyTorch is not linked with support for mps devices"), "has no MPS"),
    (
        RuntimeError("[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed writing file"),
        "disk is full",
    ),
    (RuntimeError("basic_ios::clear: iostream error"), "disk is full"),
    (PermissionError(errno.EACCES, "Permission denied", "a/b"), "a/b: permission denied"),
    (ModuleNotFoundError("No module named 'wandb'", name="wandb"), "wandb is not installed"),
    (ValueError("two\n  lines"), "two lines"),
]


@pytest.mark.parametrize(("error", "words"), LIBRARIES, ids=lambda value: type(value).__name__)
def test_errors_of_libraries_are_sentences(hb, tiny, monkeypatch, error, words):  # noqa: F811
    def fails(*_, **__):
        raise error

    monkeypatch.setattr("hb.cli.use.load", lambda *_, **__: tiny)
    monkeypatch.setattr("hb.infer.pipeline.Model.draw", fails)
    one_sentence(hb("draw", "a star"), words)
    monkeypatch.setenv("HB_TRACEBACK", "1")
    with pytest.raises(type(error)):
        hb("draw", "a star")


def test_an_error_that_nobody_expected_says_how_to_report_it(hb, tiny_folder, monkeypatch):  # noqa: F811
    def fails(*_, **__):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied\nand more")

    monkeypatch.setattr("hb.infer.pipeline.Model.draw", fails)
    words = ("RuntimeError: mat1 and mat2 shapes cannot be multiplied", "HB_TRACEBACK=1", "report")
    one_sentence(hb("draw", "a star", "--model", tiny_folder), *words, status=1)
    assert sentence(RuntimeError("anything else")) is None
    monkeypatch.setenv("HB_TRACEBACK", "1")
    with pytest.raises(RuntimeError, match="mat1"):
        hb("draw", "a star", "--model", tiny_folder)


def test_ctrl_c_before_a_verb_runs_is_130_too(monkeypatch):
    monkeypatch.setattr("hb.cli.verb.arguments", lambda values: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr("hb.cli.verbs.use.arguments", lambda values: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["draw", "a star"]) == 130


def with_device():
    return [name for name, verb in VERBS.items() if any(param.name == "device" for param in verb.params)]


@pytest.mark.parametrize("name", with_device())
def test_a_dtype_can_be_named_wherever_a_device_can(name):
    words = {"distill": ["cfg"], "draw": ["x"], "edit": ["x", "y"], "ask": ["x", "y"]}.get(name.split()[-1], [])
    words = [] if name.startswith(("hb eval", "hb bench")) else words
    for said, meant in dict(f32="f32", bf16="bf16", fp16="fp16", f64="f64", f16="fp16").items():
        assert parse([*name.split()[1:], *words, "--dtype", said]).dtype == meant
