"""The command line: everything explains itself, mistakes get a sentence, numbers can be read by machines."""

import inspect
import json
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hb.cli import demo, output, runs, use
from hb.cli.demo import SCENE, questions
from hb.cli.main import command, main, parse
from hb.world import benchmark as bench
from hb.world.cases import what_is_free
from hb.world.language import LanguageError, parse_edit
from hb.world.render import render


def all_commands(command, name="hb"):
    yield name, command
    for verb, sub in getattr(command, "commands", {}).items():
        if not sub.hidden:
            yield from all_commands(sub, f"{name} {verb}")


COMMANDS = dict(all_commands(command()))
VERBS = {name: verb for name, verb in COMMANDS.items() if not hasattr(verb, "commands")}


def in_one_line(words: str) -> str:
    return " ".join(words.split())


# ---- help -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_everything_has_help_with_examples_and_all_options(name, capsys):
    assert main([*name.split()[1:], "--help"]) == 0
    said, verb = capsys.readouterr().out, COMMANDS[name]
    assert in_one_line(verb.help.split("\n\n")[0]) in in_one_line(said)
    assert verb.epilog.startswith("examples:\n  hb ") and verb.epilog in said
    for param in VERBS[name].params if name in VERBS else ():
        assert param.help and (param.opts[-1] in said or not param.opts[-1].startswith("-"))


def test_h_is_help(capsys):
    assert main(["eval", "scene", "-h"]) == 0 and "SceneEval" in capsys.readouterr().out


def test_version_is_the_projects(capsys):
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"hb {project['version']}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_in_the_help_can_be_typed(name):
    for line in COMMANDS[name].epilog.splitlines()[1:]:
        for words in line.strip().split("      ")[0].split("&&"):
            assert parse(shlex.split(words)[1:])


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_is_there(name, monkeypatch):
    """What a verb's function imports exists: its implementation is found, and is not run."""
    source = inspect.getsource(inspect.unwrap(VERBS[name].callback))
    ((module, verb),) = re.findall(r"^    from (hb\.cli\.\w+) import (\w+)$", source, re.M)
    assert callable(getattr(import_module(module), verb)) and f"return {verb}(" in source


HEAVY = "torch numpy scipy matplotlib PIL transformers diffusers lightning tokenizers tqdm huggingface_hub".split()


@pytest.mark.parametrize("argv", [[], ["--help"], ["train", "teacher", "--help"], ["draw", "a star", "--steps", "six"]])
def test_help_imports_nothing_heavy(argv):
    code = f"""
import sys
from hb.cli.main import main
{f"main({argv})" if argv else ""}
print([m for m in {HEAVY} if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def cpu_seconds(*argv: str) -> float:
    """Seconds of the processor for a Python process, the least of three: others may be using the processor."""
    code = f"""
import resource, subprocess, sys
subprocess.run([sys.executable, *{argv}], capture_output=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime)"""
    run = lambda: subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return min(float(run().stdout) for _ in range(3))


def test_help_is_instant():
    """Half a second, or, on a slow or busy machine, twice what Typer and rich alone take."""
    spent = cpu_seconds("-m", "hb", "--help")
    assert spent < 0.5 or spent < 2 * cpu_seconds("-c", "import typer.rich_utils")


def test_python_m_hb_is_hb():
    done = subprocess.run([sys.executable, "-m", "hb", "draw"], capture_output=True, text=True)
    assert done.returncode == 2 and "Usage: hb draw" in done.stderr and "PROMPT" in done.stderr


# ---- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["draw", "a red circel"], "did you mean 'circle'"),
        (["draw", "a red"], "no shape after 'a red'"),
        (["draw", "five stars"], "five"),
        (["draw", "a star", "--nfe", "7"], "nearest are"),
        (["draw", "a star", "--out", "star.xyz"], "pictures are written as .png"),
        (["draw", "a star", "--device", "gpu"], "no device called 'gpu'"),
        (["edit", "nowhere.png", "make the star green"], "no picture nowhere.png"),
        (["edit", "given.png", "make the star green and happy"], "'happy'"),
        (["edit", "given.png", "make the moon green"], "no moon in this picture"),
        (["edit", "broken.png", "make the star green"], "broken.png is"),
        (["edit", "words.png", "make the star green"], "not a picture"),
        (["ask", "given.png", "how many dogs are there?"], "'dogs'"),
        (["eval", "scene", "--steps-ablation", "--limit", "1"], "--limit does not go with --steps-ablation"),
        (["train", "teacher", "--preset", "huge"], "no preset 'huge'"),
        (["train", "teacher"], "no autoencoder in runs/nano/autoencoder"),
        (["train", "teacher", "--start-from", "nobody"], "no model to start from"),
        (["lab", "99_nothing.ipynb"], "no notebook 99_nothing.ipynb"),
    ],
)
def test_mistakes_get_one_sentence(hb, tiny_folder, picture, argv, words):
    picture.with_name("broken.png").write_bytes(picture.read_bytes()[:150])
    picture.with_name("words.png").write_text("I am no picture")
    model = [] if argv[0] in ("train", "lab") else ["--model", tiny_folder]
    status, said, complaint = hb(*argv, *model)
    assert status == 2 and not said
    assert words in complaint and "Traceback" not in complaint
    assert complaint.startswith("hb: ") and complaint.count("\n") == 1


def test_a_missing_shipped_model_says_what_to_do(hb, monkeypatch, tmp_path):
    monkeypatch.setattr(use, "SHIPPED", tmp_path)
    status, _, complaint = hb("demo")
    assert status == 2 and "hb train autoencoder" in complaint and "--model runs/nano/model" in complaint


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["draw", "a star", "--what"], "No such option: --what"),
        (["draw", "a star", "--n", "0"], "'--n': Input should be greater than or equal to 1"),
        (["draw", "a star", "--steps", "six"], "'--steps': Input should be a valid integer"),
        (["draw", "a star", "--nfe", "6", "--steps", "6"], "leave one of them out"),
        (["draw", "a star", "--text-scale", "nan"], "nan is not a finite number"),
        (["train", "autoencoder", "--lr", "inf"], "inf is not a finite number"),
        (["tune", "guidance", "--text", "2", "nan"], "nan is not a finite number"),
        (["draw", "a star", "--dtype", "int8"], "'--dtype'"),
        (["draw"], "Missing argument 'PROMPT'"),
        (["distill", "everything"], "'everything' is not one of 'six-nfe', 'cfg'"),
        (["train", "techer"], "Did you mean 'teacher'"),
        (["train"], "Missing command"),
        ([], "Missing command"),
    ],
)
def test_unknown_words_and_words_for_numbers_are_named(hb, argv, words):
    status, said, complaint = hb(*argv)
    assert status == 2 and not said and words in complaint and complaint.startswith("Usage: hb")
    assert complaint.splitlines()[-1].startswith("hb: ")


def test_an_interruption_is_a_sentence_and_130(hb, tiny_folder, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("hb.infer.pipeline.Model.draw", interrupted)
    status, _, complaint = hb("draw", "a star", "--model", tiny_folder)
    assert status == 130 and "stopped" in complaint and "Traceback" not in complaint
    assert not list(Path().rglob("*"))


def test_the_lab_opens_the_tour_and_hands_options_on(hb, monkeypatch):
    calls = []
    monkeypatch.setattr("hb.cli.lab.run", lambda command: calls.append(command[3:]) or 0)
    for argv in (["--port", "8899", "--no-browser"], ["--port", "8899", "01_tiny_world.ipynb"]):
        assert hb("lab", *argv)[0] == 0
    assert [Path(call[0]).name for call in calls] == ["00_tour.ipynb", "01_tiny_world.ipynb"]
    assert [call[1:] for call in calls] == [["--port", "8899", "--no-browser"], ["--port", "8899"]]
    monkeypatch.setattr("hb.cli.lab.find_spec", lambda name: None)
    status, _, complaint = hb("lab")
    assert status == 2 and "make setup" in complaint


# ---- files ----------------------------------------------------------------------------------------------------------


def test_a_folder_is_replaced_file_by_file(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_text("old")

    def fails(part):
        (part / "weights").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.replace_folder(folder, fails)
    assert (folder / "weights").read_text() == "old" and list(tmp_path.iterdir()) == [folder]
    runs.replace_folder(folder, lambda part: (part / "weights").write_text("new"))
    assert (folder / "weights").read_text() == "new" and list(tmp_path.iterdir()) == [folder]


def test_json_has_no_nan():
    assert json.loads(output.to_json({"a": float("nan"), "b": (1, [float("inf")])})) == {"a": None, "b": [1, [None]]}


# ---- using a model --------------------------------------------------------------------------------------------------


def test_draw_saves_pictures_and_meters(hb, tiny_folder):
    status, said, _ = hb(
        "draw",
        "2 big stars",
        "a Star",
        "--n",
        2,
        "--steps",
        2,
        "--json",
        "--seed",
        5,
        "--model",
        tiny_folder,
        "--out",
        "new/stars.png",
    )
    record = json.loads(said)
    assert status == 0 and record["nfe"] == 4 and record["seeds"] == [5, 6, 5, 6]
    assert record["prompts"] == ["two large stars"] * 2 + ["a star"] * 2
    assert len(record["verdicts"]) == 4 and not record["verdicts"][0]["right"] and record["verdicts"][0]["reasons"]
    sizes = [Image.open(file).size for file in record["files"]]
    assert sizes == [(256, 256), *[(64, 64)] * 4] and record["files"][1].endswith("stars-1.png")


def test_words_without_quotes_are_one_prompt(hb, tiny_folder):
    status, said, _ = hb("draw", "two", "Coloured", "circles", "--n", 1, "--steps", 1, "--model", tiny_folder)
    assert status == 0 and "read as: two circles" in said and "saved out/draw.png" in said
    assert Image.open("out/draw.png").size == (64, 64)


def test_raw_words_reach_the_model(hb, tiny_folder):
    status, said, _ = hb(
        "draw", "An elephant, please", "--raw", "--n", 1, "--steps", 1, "--json", "--model", tiny_folder
    )
    assert (
        status == 0
        and json.loads(said)["prompts"] == ["An elephant, please"]
        and json.loads(said)["verdicts"] == [None]
    )


def test_edit_and_ask(hb, tiny_folder, picture):
    status, said, _ = hb("edit", picture, "color the star green", "--steps", 2, "--json", "--model", tiny_folder)
    record = json.loads(said)
    assert status == 0 and record["prompts"] == ["make the star green"] and record["nfe"] > 2
    assert record["verdict"]["right"] is False and Image.open(record["files"][0]).size == (64, 64)
    asked = ("What COLOUR is the star", "Describe the picture.")
    status, said, _ = hb("ask", picture, *asked, "--max-tokens", 3, "--json", "--model", tiny_folder)
    record = json.loads(said)
    assert status == 0 and record["questions"] == ["what color is the star?", "describe the picture"]
    assert len(record["texts"]) == 2 and record["passes"] == 3


def test_pictures_of_other_sizes_and_kinds_are_taken(hb, tiny_folder, picture):
    Image.open(picture).resize((200, 100)).convert("P").save("wide.gif")
    Image.new("RGBA", (64, 64), (255, 0, 0, 0)).save("clear.png")
    for file in ("wide.gif", "clear.png"):
        assert hb("edit", file, "add a red circle", "--steps", 1, "--model", tiny_folder)[0] == 0


def test_the_demo_asks_all_tasks_and_knows_the_truth(hb, tiny_folder, monkeypatch):
    assert (demo.DRAW_NFE, demo.EDIT_NFE) == (100, 132)
    monkeypatch.setattr(demo, "DRAW_NFE", 4)
    monkeypatch.setattr(demo, "EDIT_NFE", 6)
    status, said, _ = hb("demo", "--model", tiny_folder, "--out", "here", "--json")
    record = json.loads(said)
    assert status == 0 and record == json.loads(Path("here/demo.json").read_text())
    assert [row["nfe"] for row in record["rows"]] == [4] * 8 + [6] * 3 + [None] * 5
    assert record["asked"] == 16 and not any(row["right"] for row in record["rows"][:8])
    assert Image.open("here/demo.png").width > 800
    assert [q.answer for q in questions()] == ["one", "blue", "top left", "yes"] and SCENE.has_room()


def test_the_demo_counts_over_seeds(hb, tiny_folder, monkeypatch):
    monkeypatch.setattr(demo, "DRAW_NFE", 4)
    monkeypatch.setattr(demo, "EDIT_NFE", 6)
    used = []
    monkeypatch.setattr(demo, "_asked", lambda model, seed: used.append(seed) or (_rows(seed), []))
    status, said, _ = hb("demo", "--seeds", 4, "--model", tiny_folder, "--out", "here", "--json")
    record = json.loads(said)
    assert status == 0 and used == [0, 1, 2, 3] and record == json.loads(Path("here/demo_seeds.json").read_text())
    assert record["mean"] == 1.25 and [row["value"] for row in record["rows"]] == [1.0, 0.25]
    assert hb("demo", "--seeds", 0, "--model", tiny_folder)[0] == 2


def _rows(seed):
    """Two rows; the second is right from seed 2 alone."""
    return [demo.Row("draw", asked, 4, 0.1, right, "") for asked, right in (("a star", True), ("a moon", seed == 2))]


# ---- judging edits --------------------------------------------------------------------------------------------------


def test_an_edit_is_judged_as_the_evaluation_judges_it():
    """What a command leaves open is what the drawn edit left open, on every case of the frozen set."""
    for case in bench.edit_set():
        edit = parse_edit(case.edit.instruction)
        free, place = what_is_free(case.edit)
        assert (use.left_open(edit), edit.change and edit.change.place) == (free, place), case.edit.instruction


def test_a_perfect_edit_is_right_and_none_is_wrong():
    rng = np.random.default_rng(0)
    cases = bench.edit_set()[::15]
    asked = [parse_edit(case.edit.instruction) for case in cases]
    done = [use.apply(edit, case.source, rng) for edit, case in zip(asked, cases)]
    for scenes, right in ((done, True), ([case.source for case in cases], False)):
        for reading, edit, case in zip(use.read(render(scenes, 64)), asked, cases):
            assert use.edit_verdict(reading, edit, case.source)["right"] == right, case.edit.instruction


def test_questions_of_the_evaluation_are_left_alone():
    for case in bench.question_set():
        assert use.plain_question(case.question.text) == case.question.text
    with pytest.raises(LanguageError, match="'elephant'"):
        use.plain_question("where is the elephant?")
