"""Words of an earlier release are read for one more: verbs, options, folders of runs, and facts in run.json.

Seen red: without `renamed=` of a verb its old option is "No such option"; with `OLD_FACTS` empty the half-finished run
is "a run with vision None".
"""

import json
from types import SimpleNamespace

import pytest
from safetensors.torch import save_file

from hb.cli import recipe, runs, train
from hb.cli.distill import _as_noted
from hb.cli.main import command, main, parse
from hb.models.vision import VisionTower
from hb.train.distill.recipe import STAGES
from tests.cli.test_cli import COMMANDS
from tests.conftest import tiny_config

RENAMED = "--eyes --no-eyes --talks --ladder --new-knobs --judged --learns --fake-times".split()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("train eyes --steps 5", "train vision --steps 5"),
        ("train settler --noise 0.3", "train refiner --noise 0.3"),
        ("train teacher --eyes runs/eyes", "train teacher --vision runs/eyes"),
        ("train teacher --eyes=runs/eyes", "train teacher --vision=runs/eyes"),
        ("train teacher --talks 4 --edits 2", "train teacher --dialogues 4 --edits 2"),
        ("eval scene --ladder", "eval scene --steps-ablation"),
        ("distill cfg --start-from a --new-knobs", "distill cfg --start-from a --new-guidance-embedding"),
        ("distill dmdo --eyes", "distill dmdo --vision"),
        ("distill dmdo --no-eyes", "distill dmdo --no-vision"),
        ("distill dmdo --judged end --learns guess", "distill dmdo --sample-student end --sample-fake guess"),
        ("distill dmdo --fake-times 5", "distill dmdo --fake-updates 5"),
        ("draw star --dtype f16", "draw star --dtype fp16"),
    ],
)
def test_old_words_mean_the_new_ones(old, new, capsys):
    assert parse(old.split()) == parse(new.split())
    noted = capsys.readouterr().err
    assert noted.count("one more release") == sum(word.partition("=")[0] in RENAMED for word in old.split())
    assert vars(parse(new.split())) and "release" not in capsys.readouterr().err


def test_every_renamed_word_is_tested():
    """No verb renames an option that the list above does not have."""
    renamed = {old for verb in COMMANDS.values() for old in getattr(verb.callback, "renamed", {})}
    hidden = {
        name for group in COMMANDS.values() for name, verb in getattr(group, "commands", {}).items() if verb.hidden
    }
    assert renamed == set(RENAMED) and hidden == {"eyes", "settler"}


def test_old_words_are_not_in_the_help(capsys):
    for name in ("hb train", "hb train teacher", "hb eval scene", "hb distill"):
        main([*name.split()[1:], "--help"])
        said = capsys.readouterr().out
        assert not any(old in said for old in (" eyes ", "settler", *getattr(COMMANDS[name].callback, "renamed", {})))


def test_several_values_after_one_option_and_the_option_again():
    assert parse("bench ask --temperatures 0 0.5 --n 3".split()).temperatures == [0.0, 0.5]
    assert parse("bench ask --temperatures=0 --temperatures 0.5 -1".split()).temperatures == [0.0, 0.5, -1.0]
    assert parse("train teacher --mix counting=0.5 two=0.1 --steps 3".split()).mix == ["counting=0.5", "two=0.1"]
    assert tuple(parse("bench speed".split()).batches) == (1, 16)


def test_what_follows_two_dashes_is_left_alone():
    assert list(parse(["draw", "--n", "1", "--", "--eyes", "-x"]).prompts) == ["--eyes", "-x"]


def test_the_command_is_recorded_as_it_was_typed(monkeypatch):
    kept = []
    monkeypatch.setattr("hb.cli.train.teacher", lambda args: kept.append(args))
    assert main(["train", "teacher", "--eyes", "my eyes", "--talks", "2"]) == 0
    (args,) = kept
    assert args.command == "hb train teacher --eyes 'my eyes' --talks 2"
    assert args.vision == "my eyes" and args.dialogues == 2 and args.logger == "csv" and args.mix == []
    assert command() is command()


def test_a_run_in_a_folder_of_the_old_name_goes_on_there(tmp_path):
    assert runs.place(tmp_path, "vision") == tmp_path / "vision"
    (tmp_path / "eyes").mkdir()
    assert runs.place(tmp_path, "vision") == tmp_path / "eyes"
    (tmp_path / "vision").mkdir()
    assert runs.place(tmp_path, "vision") == tmp_path / "vision"


def test_a_half_finished_run_with_old_facts_goes_on_and_another_does_not(tmp_path):
    args = SimpleNamespace(preset="nano", seed=0, fresh=False)
    old = dict(steps=4, eyes="abc", talks=3, new_knobs=None, painter="d", preset="nano", seed=0)
    (tmp_path / "run.json").write_text(json.dumps(old))
    new = dict(steps=9, vision="abc", dialogues=3, new_guidance_embedding=None, decoder="d")
    runs.claim(tmp_path, args, new, ())
    assert json.loads((tmp_path / "run.json").read_text()) == new | dict(preset="nano", seed=0)
    with pytest.raises(ValueError, match="a run with dialogues 3, not 4"):
        runs.claim(tmp_path, args, new | dict(dialogues=4), ())


def test_a_distillation_begun_with_old_words_is_the_same_run():
    """The options of stage 3 as runs begun before 0.2 noted them, in run.json as one string."""
    noted = "{'renoise_fake': 'fresh', 'renoise_student': 'fresh', 'judged': 'end', 'adversarial': 10.0, 'alone': 30, "
    assert _as_noted(STAGES["dmdo"].options).startswith(noted)
    assert "'sampler': 'renoise', 'learns': 'guess', 'fake_times': 5" in _as_noted(STAGES["dmd2"].options)


def test_a_vision_encoder_of_an_earlier_release_is_found(tmp_path):
    config = tiny_config(64)
    tower = VisionTower(config.vision)
    save_file(tower.state_dict(), tmp_path / "eyes.safetensors")
    loaded = train.load_vision(tmp_path, config)
    assert all((a == b).all() for a, b in zip(loaded.state_dict().values(), tower.state_dict().values()))
    with pytest.raises(ValueError, match="hb train vision"):
        train.load_vision(tmp_path / "nowhere", config)


def test_a_recipe_begun_with_an_earlier_release_makes_nothing_twice(tmp_path):
    for part in recipe.parts(tmp_path):
        old = str(part.makes).replace("/vision/vision.", "/eyes/eyes.").replace("/checkpoint/", "/parcel/")
        file = tmp_path / old
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert all(part.makes.exists() for part in recipe.parts(tmp_path))
    words = [word for part in recipe.parts(tmp_path) for word in part.words]
    assert str(tmp_path / "eyes") in words and str(tmp_path / "decoder" / "parcel") in words
