"""What is saved is what is loaded, no more and no less; what is large is read when it is used."""

import json
import shutil

import pytest
import torch

import hb
from hb.infer import artifacts
from hb.infer.artifacts import DraftCheckpoint, PixelDecoderCheckpoint, Student
from hb.models.checkpoint import CheckpointError


def test_what_is_no_longer_held_does_not_come_back(whole, tmp_path):
    """Red while save_pretrained only added."""
    whole.save_pretrained(tmp_path)
    (tmp_path / "students" / "notes.txt").write_text("mine")
    again = hb.load(tmp_path)
    again.students, again.draft, again.pixel_decoder = {}, None, None
    again.save_pretrained(tmp_path)
    bare = hb.load(tmp_path)
    assert not bare.students and bare.draft is None and bare.pixel_decoder is None
    assert (tmp_path / "students" / "notes.txt").read_text() == "mine"  # what is not ours stays


def test_renamed_students_keep_their_own_weights(model, tmp_path):
    """Two names swapped and saved in place: each file is read before it is overwritten."""
    model.students["other"] = Student(
        **model.students["six"].to_dict() | dict(default=False),
        weights={k: v + 1 for k, v in model.students["six"].weights.items()},
    )
    before = {name: student.fingerprint() for name, student in model.students.items()}
    model.save_pretrained(tmp_path)
    again = hb.load(tmp_path)
    again.students = dict(six=again.students["other"], other=again.students["six"])
    again.save_pretrained(tmp_path)
    after = {name: student.fingerprint() for name, student in hb.load(tmp_path).students.items()}
    assert after == dict(six=before["other"], other=before["six"])


def test_students_draft_and_decoder_are_read_when_they_are_used(whole, tmp_path, monkeypatch):
    """Red while from_pretrained read every file."""
    whole.save_pretrained(tmp_path)
    read, really = [], artifacts.read_weights
    monkeypatch.setattr(artifacts, "read_weights", lambda path: read.append(path.name) or really(path))
    model = hb.load(tmp_path)
    assert model.students["six"].steps == 6 and not read
    model.draw("a star", nfe=6), model.draw("a star", nfe=6)
    assert sorted(read) == ["pixel_decoder.safetensors", "student.safetensors"]


def test_files_and_keys_of_earlier_versions_are_read(whole, tmp_path):
    """tiny_decoder.*, "eyes", "renoise"."""
    whole.save_pretrained(tmp_path)
    for end in ("json", "safetensors"):
        old = tmp_path / "decoder" / f"tiny_decoder.{end}"
        (tmp_path / "decoder" / f"pixel_decoder.{end}").rename(old)
    config = tmp_path / "students" / "six" / "student.json"
    values = json.loads(config.read_text())
    del values["reads_vision"]
    config.write_text(json.dumps(values | dict(eyes=False, sampler="renoise")))
    again = hb.load(tmp_path)
    assert (again.students["six"].reads_vision, again.students["six"].sampler) == (False, "multistep")
    assert again.pixel_decoder.fingerprint() == whole.pixel_decoder.fingerprint()
    again.save_pretrained(tmp_path)
    assert sorted(p.name for p in (tmp_path / "decoder").iterdir()) == [
        "pixel_decoder.json",
        "pixel_decoder.safetensors",
    ]
    assert "eyes" not in json.loads(config.read_text())


@pytest.mark.parametrize("kind", [Student, DraftCheckpoint, PixelDecoderCheckpoint])
def test_every_kind_says_what_is_wrong_with_its_folder(whole, tmp_path, kind):
    held = {Student: whole.students["six"], DraftCheckpoint: whole.draft, PixelDecoderCheckpoint: whole.pixel_decoder}
    held[kind].save(tmp_path, None)
    again = kind.load(tmp_path, lazily=True)
    assert again.to_dict() == kind.load(tmp_path).to_dict() == held[kind].to_dict()
    assert again.fingerprint() == held[kind].fingerprint()
    weights, config = (tmp_path / f"{kind.FILE}.{end}" for end in ("safetensors", "json"))
    weights.write_bytes(weights.read_bytes()[:300])
    with pytest.raises(CheckpointError, match="truncated"):
        kind.load(tmp_path)
    with pytest.raises(CheckpointError, match="truncated"):
        len(kind.load(tmp_path, lazily=True).weights)
    for damage in ("{", "[]", "{}"):
        config.write_text(damage)
        with pytest.raises(CheckpointError, match="is damaged"):
            kind.load(tmp_path)


def test_a_tilde_is_ones_home(model, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    model.save_pretrained("~/mine")
    assert (tmp_path / "mine" / "ema.safetensors").exists()
    assert hb.load("~/mine").students.keys() == {"six"}


# ---- the hub --------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tiny_folder, tmp_path):
    """A prepared cache, as huggingface_hub lays it out."""
    repo = tmp_path / "cache" / "models--owner--name"
    shutil.copytree(tiny_folder, repo / "snapshots" / "a1b2c3")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("a1b2c3")
    return tmp_path / "cache"


def test_a_hub_name_loads_from_the_cache(hub):
    model = hb.load("owner/name", cache_dir=hub, local_files_only=True)
    assert model.draw("a star", steps=1).nfe == 2 and model.name == "name"


def test_a_local_folder_of_that_name_wins(hub, model, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path / "owner" / "name")
    monkeypatch.chdir(tmp_path)
    assert hb.load("owner/name", cache_dir=hub).students


def test_a_hub_name_that_is_not_there_gets_a_sentence(hub):
    with pytest.raises(CheckpointError, match="no folder owner/other.*hub"):
        hb.load("owner/other", cache_dir=hub, local_files_only=True)


def test_what_is_uploaded_is_what_is_held(model, monkeypatch, tmp_path):
    import huggingface_hub

    seen = {}

    class Api:
        def __init__(self, token=None):
            seen["token"] = token

        def create_repo(self, repo_id, private=None, exist_ok=False):
            return type("Url", (), dict(repo_id=f"me/{repo_id}"))

        def upload_folder(self, *, repo_id, folder_path, **options):
            shutil.copytree(folder_path, tmp_path / "uploaded")
            seen.update(options, repo_id=repo_id)
            return "address"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert model.push_to_hub("tiny", token="t", dtype=torch.float16, revision="v1") == "address"
    assert (seen["repo_id"], seen["token"], seen["revision"]) == ("me/tiny", "t", "v1")
    assert "students/*" in seen["delete_patterns"]  # those that were there before, and are held no more
    assert hb.load(tmp_path / "uploaded").draw("a star", nfe=6).student == "six"
