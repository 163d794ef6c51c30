"""Numbers that are infinite or none: a sentence, and what was there before is kept."""

import pytest

from hb.cli.main import main

BAD = ("nan", "inf")


@pytest.mark.parametrize("rate", BAD)
@pytest.mark.parametrize(
    "command",
    [
        "train autoencoder --folder {folder}",
        "train autoencoder --semantic --folder {folder}",
        "train eyes --folder {folder}",
        "train teacher --folder {folder}",
        "train draft --model {model} --folder {folder}",
        "train decoder --model {model} --folder {folder}",
        "distill cfg --model {model} --folder {folder}",
        "distill dmdo --model {model} --folder {folder}",
    ],
)
def test_a_rate_that_is_no_finite_number_is_refused_before_anything_is_made(
    command, rate, tiny_folder, tmp_path, capsys
):
    folder = tmp_path / "run"
    (folder / "autoencoder").mkdir(parents=True)
    old = folder / "autoencoder" / "ae.safetensors"
    old.write_bytes(b"old")
    if command.startswith("train teacher"):
        command += f" --start-from {tiny_folder}"
    words = command.format(folder=folder, model=tiny_folder).split()
    assert main([*words, "--lr", rate, "--accelerator", "cpu"]) == 2
    assert f"'--lr': {rate} is not a finite number" in capsys.readouterr().err
    assert old.read_bytes() == b"old" and [f for f in folder.rglob("*") if f.is_file()] == [old]


def test_a_run_whose_weights_became_nan_keeps_the_old_file(tmp_path, capsys, monkeypatch):
    """The rate is finite and far too large; the guard in the writer is the last one."""
    folder = tmp_path / "autoencoder"
    folder.mkdir()
    (folder / "ae.safetensors").write_bytes(b"old")
    words = ["train", "autoencoder", "--folder", str(tmp_path), "--steps", "3", "--batch", "2", "--accelerator", "cpu"]
    assert main([*words, "--json", "--lr", "1e30"]) == 2
    assert "not finite" in capsys.readouterr().err
    assert (folder / "ae.safetensors").read_bytes() == b"old" and not (folder / "last.ckpt").exists()
