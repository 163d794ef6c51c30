"""The recipe is a list of commands that can be typed; it skips what is there and stops where a part stops."""

import shlex
import subprocess
from pathlib import Path

import pytest

from hb.cli.main import main, parse
from hb.cli.recipe import parts
from hb.train.distill.specs import SIX_NFE


def printed(capsys) -> list[list[str]]:
    """The command lines in what was said."""
    return [shlex.split(line)[1:] for line in capsys.readouterr().out.splitlines() if line.startswith("    hb ")]


@pytest.mark.parametrize("preset", ["nano", "small"])
def test_every_command_can_be_typed(preset, capsys):
    assert (
        main(["recipe", "--dry-run", "--preset", preset, "--threads", "1", "--pool", "7", "--accelerator", "cpu"]) == 0
    )
    commands = printed(capsys)
    for words in commands:
        args = parse(words)
        assert args.steps >= 1 and (words[0] == "tune" or args.threads == 1 and args.accelerator == "cpu")
    asked = [words[1] for words in commands]
    assert asked == ["autoencoder", "vision", *["teacher"] * 3, "decoder", "refiner", "guidance", "draft", *SIX_NFE]
    assert all(("--pool" in words) == (words[1] in ("teacher", "draft", *SIX_NFE)) for words in commands)


def test_each_part_finds_what_the_ones_before_it_made():
    made = set()
    for part in parts(Path("f")):
        for option, value in zip(part.words, part.words[1:]):
            if option in ("--start-from", "--vision", "--autoencoder", "--model"):
                assert any(value in map(str, file.parents) for file in made), (part.words, option)
        made.add(part.makes)


def test_a_share_shortens_every_part(capsys):
    main(["recipe", "--dry-run"])
    whole = printed(capsys)
    main(["recipe", "--dry-run", "--share", "0.1"])
    steps = lambda words: int(words[words.index("--steps") + 1])
    assert [steps(w) for w in printed(capsys)] == [round(0.1 * steps(w)) for w in whole]


def test_what_is_there_is_not_made_again_and_a_part_that_stops_stops_all(capsys, monkeypatch, tmp_path):
    ran = []

    def run(words):
        ran.append(words[4])
        if words[4] == "teacher":
            return subprocess.CompletedProcess(words, 2)
        made = next(p.makes for p in parts(tmp_path) if list(p.words) == words[3 : 3 + len(p.words)])
        made.parent.mkdir(parents=True, exist_ok=True)
        made.touch()
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(subprocess, "run", run)
    assert main(["recipe", "--folder", str(tmp_path)]) == 2
    assert ran == ["autoencoder", "vision", "teacher"]
    assert "goes on from here" in capsys.readouterr().err
    ran.clear()
    assert main(["recipe", "--folder", str(tmp_path)]) == 2
    assert ran == ["teacher"]


def test_ctrl_c_in_a_part_is_ctrl_c(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(subprocess, "run", lambda words: subprocess.CompletedProcess(words, 130))
    assert main(["recipe", "--folder", str(tmp_path)]) == 130
    assert "nothing is lost" in capsys.readouterr().err


@pytest.mark.parametrize("words, said", [(["--preset", "huge"], "nano and small"), (["--share", "0"], "more than 0")])
def test_bad_input_gets_a_sentence(words, said, capsys):
    assert main(["recipe", *words]) == 2
    assert said in capsys.readouterr().err
