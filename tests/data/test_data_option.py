"""`--data FOLDER` trains every part on pictures of one's own, says what it leaves out, and knows another folder."""

import json
from pathlib import Path

import pytest
from PIL import Image

from hb.cli import train
from hb.cli.main import main
from hb.data.pool import Pool
from hb.data.records import Caption
from tests.conftest import tiny_config


@pytest.fixture
def hb(tmp_path, monkeypatch, capsys):
    """Run a command line in a folder that holds own/: four pictures, two captions and one bad, one edit."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(train.PRESETS, "tiny", tiny_config(1024))
    monkeypatch.setitem(train.USUAL, ("autoencoder", "tiny"), train.Usual(2, 4, 0.008))
    monkeypatch.setitem(train.USUAL, ("teacher", "tiny"), train.Usual(2, 3, 0.02))
    Path("own").mkdir()
    for color in ("red", "blue", "green", "gray"):
        Image.new("RGB", (50, 30), color).save(f"own/{color}.png")
    rows = [dict(image=f"{color}.png", text=f"a {color} wall") for color in ("red", "pink", "blue")]
    Path("own/captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    edit = dict(image="green.png", instruction="make it gray", edited="gray.png")
    Path("own/edits.jsonl").write_text(json.dumps(edit))

    def run(*argv):
        status = main([str(word) for word in argv])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


HOW = ("--accelerator", "cpu", "--precision", "f32", "--json", "--data", "own")


def test_every_stage_trains_on_a_folder(hb):
    run = ("--preset", "tiny", "--folder", "mine", *HOW)
    status, _, said = hb("train", "autoencoder", *run)
    bad = "captions.jsonl, line 2: there is no file pink.png."
    assert status == 0 and "own: 4 pictures, 2 captions, 1 edits; 1 rows are left out" in said and bad in said
    assert Path("mine/autoencoder/left_out.txt").read_text() == bad + "\n"
    sheet = Image.open("mine/autoencoder/sheet-000002.png").convert("RGB")
    assert sheet.getpixel((2, 2)) == (255, 255, 255)  # the padding of a wide picture: no scene of the tiny world

    assert hb("train", "teacher", *run)[0] == 0
    pool = Pool.load(Path("mine/teacher/pool.safetensors"))
    assert [pool.request(i) for i in range(2)] == [Caption(f"{c}.png", f"a {c} wall") for c in ("red", "blue")]
    assert pool.edits == 1 and Image.open("mine/teacher/sheet-000002.png").height == 3 * 64  # drawn, given, edited
    assert json.loads(Path("mine/model/provenance.json").read_text())["settings"]["data"] == "own"

    model = ("--model", "mine/model", *HOW, "--steps", 1)
    for stage in ("cfg", "tscd", "dmdo"):
        status, _, said = hb("distill", stage, *model, "--folder", "students", "--prompts", 1, "--edits", 1)
        assert status == 0, said
    assert Pool.load(Path("students/pool-own.safetensors")).prompts == 2
    assert hb("train", "decoder", *model, "--folder", "decoder", "--batch", 2)[0] == 0


def test_another_folder_is_another_run_and_makes_another_pool(hb):
    run = ("train", "autoencoder", "--preset", "tiny", "--folder", "mine", *HOW[:-2])
    assert hb(*run, "--data", "own")[0] == 0
    status, _, said = hb(*run)
    assert status == 2 and "holds a run with data own, not None" in said


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("autoencoder", "--semantic", "--data", "own"), "leave out one of --semantic and --data"),
        (("autoencoder", "--data", "nowhere"), "there is no nowhere; --data takes a folder of pictures"),
        (("teacher", "--start-from", "nano", "--data", "own", "--mix", "two=0.5"), "--mix is of the tiny world's"),
    ],
)
def test_what_does_not_go_together_has_a_sentence(hb, words, why):
    status, _, said = hb("train", *words, "--folder", "mine")
    assert status == 2 and why in said
