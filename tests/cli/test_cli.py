"""The command line: everything explains itself, mistakes get a sentence, numbers can be read by machines."""

import inspect
import json
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from hb.cli import output, report, runs, train, use
from hb.cli.demo import SCENE, questions
from hb.cli.main import command, main, parse
from hb.data.batches import pick
from hb.eval.cache import identity
from hb.eval.protocol import RESULTS
from hb.infer.pipeline import load
from hb.models.vision import VisionTower
from hb.world import benchmark as bench
from hb.world.cases import what_is_free
from hb.world.language import LanguageError, parse_edit
from hb.world.render import render, to_uint8
from tests.conftest import TOKENIZER, tiny_config


def all_commands(command, name="hb"):
    yield name, command
    for verb, sub in getattr(command, "commands", {}).items():
        if not sub.hidden:
            yield from all_commands(sub, f"{name} {verb}")


COMMANDS = dict(all_commands(command()))
VERBS = {name: verb for name, verb in COMMANDS.items() if not hasattr(verb, "commands")}


def in_one_line(words: str) -> str:
    return " ".join(words.split())


@pytest.fixture
def hb(tmp_path, monkeypatch, capsys):
    """Run a command line in an empty folder; gives status, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        status = main([str(word) for word in argv])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


@pytest.fixture
def picture(tmp_path) -> Path:
    """The demo's scene as a file."""
    path = tmp_path / "given.png"
    Image.fromarray(to_uint8(render([SCENE], 64))[0].numpy()).save(path)
    return path


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
        (["draw", "a star", "--out", "star.xyz"], "I can write .png"),
        (["draw", "a star", "--device", "gpu"], "no device called 'gpu'"),
        (["edit", "nowhere.png", "make the star green"], "no picture nowhere.png"),
        (["edit", "given.png", "make the star green and happy"], "'happy'"),
        (["edit", "given.png", "make the moon green"], "I see no moon in this picture"),
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


def test_the_demo_asks_all_tasks_and_knows_the_truth(hb, tiny_folder):
    status, said, _ = hb("demo", "--model", tiny_folder, "--out", "here", "--json")
    record = json.loads(said)
    assert status == 0 and record == json.loads(Path("here/demo.json").read_text())
    assert [row["nfe"] for row in record["rows"]] == [100] * 8 + [132] * 3 + [None] * 5
    assert record["asked"] == 16 and not any(row["right"] for row in record["rows"][:8])
    assert Image.open("here/demo.png").width > 800
    assert [q.answer for q in questions()] == ["one", "blue", "top left", "yes"] and SCENE.has_room()


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


# ---- measuring ------------------------------------------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch):
    """One case of each kind instead of the whole sets."""
    for name, kind in (("scene_set", lambda c: c.task), ("question_set", lambda c: c.question.kind)):
        cases = list({kind(case): case for case in getattr(bench, name)()}.values())
        monkeypatch.setattr(bench, name, lambda cases=cases: cases)
    for name, n in (("edit_chains", 2), ("description_set", 4)):
        cases = getattr(bench, name)()[:n]
        monkeypatch.setattr(bench, name, lambda cases=cases: cases)


def kept(name: str) -> Path:
    """The result of this name; behind it stands the digest of its key."""
    (file,) = Path("out/results").glob(f"{name}-????????.json")
    return file


@pytest.mark.parametrize(
    ("argv", "file", "headline"),
    [
        ("eval scene --limit 1 --pictures 2 --steps 1", "tiny_scene_steps1_limit1_pictures2", "SceneEval, 2 NFE"),
        ("eval scene --steps-ablation", "tiny_scene_steps_ablation", "lost from 50 guided to 6 unguided steps"),
        (
            "eval complex --limit 1 --pictures 2 --steps 1",
            "tiny_complex_steps1_limit1_pictures2",
            "complex prompts, 2 NFE",
        ),
        (
            "eval edit --complex --limit 1 --steps 1",
            "tiny_edit_complex_steps1_limit1",
            "EditEval O (0 to 10), one of several alike things, 3 NFE",
        ),
        (
            "eval coverage --ambiguous --pictures 3 --nfe 2",
            "tiny_coverage_ambiguous_nfe2_pictures3",
            "coverage, ambiguous prompts, 2 NFE",
        ),
        ("eval edit --limit 1 --steps 1 --seed 3", "tiny_edit_steps1_limit1_seed3", "EditEval O (0 to 10), 3 NFE"),
        ("eval edit --chains --steps 1", "tiny_edit_chains_steps1", "turn 5: drift"),
        ("eval understand", "tiny_understand", "answers"),
        ("eval coverage --pictures 3 --nfe 2", "tiny_coverage_nfe2_pictures3", "coverage, 2 NFE"),
        ("eval autoencoder --n 4", "tiny_autoencoder_n4", "autoencoder: read exactly and clean"),
        ("bench speed --batches 1 --repeats 1", "tiny_speed_batches1_repeats1", "draw, 1 at once, 100 NFE"),
    ],
)
def test_measurements_are_kept_with_where_they_came_from(hb, few, tiny_folder, argv, file, headline):
    status, said, _ = hb(*argv.split(), "--model", tiny_folder, "--json")
    record = json.loads(said)
    assert status == 0 and record == json.loads(kept(file).read_text())
    assert {"command", "commit", "machine", "torch", "date", "seed", "model"} <= record.keys()
    assert record["command"].startswith(f"hb {argv} --model")
    assert not list(RESULTS.glob("tiny*")), "a trial went among the published results"
    assert record["model"]["identity"] == identity(load(tiny_folder))
    assert headline in [number["what"] for number in record["numbers"] if number["headline"]]
    assert "rows" not in record["result"] or "bench" in argv or "--steps-ablation" in argv
    if "--steps-ablation" in argv or "eval complex" in argv:
        assert Image.open(kept(file).with_suffix(".png")).width > 600


def test_contradictions_are_counted_refused_and_drawn_raw(hb, tiny_folder):
    status, said, _ = hb("eval", "contradictory", "--results", "out/results")
    words = in_one_line(said)
    assert status == 0 and "40 of 40 contradictory prompts are refused" in words and "0 of 40 consistent ones" in words
    assert "NOT MET" not in said and json.loads(Path("out/results/contradictory.json").read_text())["model"] is None
    draw = ["draw", "two stars and only one star", "--steps", 1, "--n", 1, "--model", tiny_folder]
    status, _, err = hb(*draw)
    assert status == 2 and "'two stars'" in err and "'only one star'" in err
    assert hb(*draw, "--raw")[0] == 0 and Path("out/draw.png").exists()


def test_two_sets_of_edits_are_not_one(hb, tiny_folder):
    status, _, err = hb("eval", "edit", "--chains", "--complex", "--model", tiny_folder)
    assert status == 2 and "choose one" in err


def test_the_judge_is_judged_and_targets_missed_are_said(hb, few, tiny_folder):
    status, said, _ = hb("eval", "judge", "--n", 2)
    assert status == 0 and "accepted (should be): clean" in said and kept("judge_n2")
    status, said, _ = hb("eval", "edit", "--limit", 1, "--model", tiny_folder, "--steps", 1)
    assert "target" in said and "95% interval" in said
    status, said, _ = hb("eval", "scene", "--model", tiny_folder)
    assert status == 0 and "NOT MET: SceneEval, 100 NFE is 0.000, the target is at least 0.95" in said


def test_guidance_is_tuned_on_other_cases_and_the_best_is_kept(hb, tiny_folder, tmp_path, monkeypatch):
    """A model that draws and edits best at one pair of scales; all else of its settings stays."""
    folder = tmp_path / "mine"
    copytree(tiny_folder, folder)
    asked = set()

    def scene(model, *, cases, text_scale, **_):
        asked.update(case.prompt for case in cases)
        return SimpleNamespace(overall=dict(value=1 / text_scale, low=0.0, high=1.0))

    def edit(model, *, cases, text_scale, image_scale, **_):
        asked.update(case.edit.instruction + str(case.source) for case in cases)
        return dict(O=dict(value=10 - abs(text_scale - 3) - abs(image_scale - 1.5), low=0.0, high=10.0))

    monkeypatch.setattr("hb.eval.scene.scene_eval", scene)
    monkeypatch.setattr("hb.eval.edit.edit_eval", edit)
    before = load(folder).sampling
    status, said, _ = hb("tune", "guidance", "--model", folder, "--text", 2, 3, "--image", 1.2, 1.5, "--n", 12)
    after = load(folder).sampling
    assert status == 0 and "guided by 2 now, editing by 3 (text) and 1.5 (picture)" in said
    assert after == replace(
        before, draw=replace(before.draw, text_scale=2.0), edit=replace(before.edit, text_scale=3.0, image_scale=1.5)
    )
    measured = {c.prompt for c in bench.scene_set()} | {c.edit.instruction + str(c.source) for c in bench.edit_set()}
    assert len(asked) > 20 and not asked & measured
    assert hb("tune", "guidance", "--model", folder, "--text", 1)[0] == 2


@pytest.mark.parametrize(("what", "verb"), [("scene", "draw"), ("edit --chains", "edit")])
def test_a_stopped_measurement_goes_on(hb, few, tiny_folder, monkeypatch, what, verb):
    argv = ["eval", *what.split(), "--steps", 1, "--model", tiny_folder, "--json"]
    first = json.loads(hb(*argv)[1])
    monkeypatch.setattr(f"hb.infer.pipeline.Model.{verb}", None)  # what is kept need not be drawn again
    assert json.loads(hb(*argv)[1])["result"] == first["result"]


# ---- the report -----------------------------------------------------------------------------------------------------


def test_the_report_fills_its_block_and_nothing_else(tmp_path):
    number = dict(what="SceneEval", value=0.96, low=0.95, high=0.97, unit="", target=0.95, met=True, headline=True)
    record = dict(
        numbers=[number, number | dict(headline=False)],
        key="abc",
        command="hb eval scene",
        machine="2 cores",
        commit="abc",
        date="2026-01-01",
    )
    output.write_json(tmp_path / "scene_nfe100.json", record)
    table = report.results_table(tmp_path)
    document = "before\n<!-- results -->\nold\n<!-- /results -->\nafter\n"
    once = report.with_block(document, "results", table)
    assert once == report.with_block(once, "results", table)
    assert once.startswith("before\n") and once.endswith("\nafter\n") and "old" not in once
    assert once.count("| SceneEval | 0.960 | 0.950 to 0.970 | at least 0.95: met | `hb eval scene` |") == 1
    with pytest.raises(ValueError, match="no block"):
        report.with_block("nothing here", "results", table)


def test_the_readme_tells_the_truth_about_python(tiny, monkeypatch):
    monkeypatch.setattr("hb.infer.pipeline.load", lambda name: tiny)
    code = (report.ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]
    exec(compile(code, "README.md", "exec"), {})


def test_commands_in_the_readme_can_be_typed():
    text = (report.ROOT / "README.md").read_text()
    blocks = [line for block in text.split("```bash\n")[1:] for line in block.split("```")[0].splitlines()]
    quoted = re.findall(r"`(hb [^`]+)`", text)
    commands = [c.split("#")[0].strip() for line in (*blocks, *quoted) for c in line.split("&&")]
    commands = [c for c in commands if c.startswith("hb ")]
    assert len(commands) > 8
    for words in commands:
        assert parse(shlex.split(words)[1:])


# ---- training -------------------------------------------------------------------------------------------------------


def test_the_tokenizer_comes_out_the_same(hb):
    assert hb("train", "tokenizer", "--out", "again")[0] == 0
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert Path("again", name).read_bytes() == (TOKENIZER / name).read_bytes()


@pytest.fixture
def tiny_preset(monkeypatch):
    monkeypatch.setitem(train.PRESETS, "tiny", tiny_config(1024))
    monkeypatch.setitem(train.USUAL, ("autoencoder", "tiny"), train.Usual(2, 4, 0.008))
    monkeypatch.setitem(train.USUAL, ("teacher", "tiny"), train.Usual(4, 3, 0.02))


@pytest.mark.parametrize(
    ("option", "branch"), [("--edits", "understanding"), ("--edits", "answers"), ("--dialogues", "drawing")]
)
def test_examples_of_a_branch_that_rests_are_refused(hb, tiny_preset, tiny_folder, option, branch):
    status, _, said = hb(
        "train", "teacher", "--preset", "tiny", "--start-from", tiny_folder, "--learns", branch, option, 2
    )
    assert status == 2 and f"{option} is for what --learns {branch} does not train" in said


def test_answers_alone_bring_no_other_eyes_and_no_other_latents(hb, tiny_preset, tiny_folder, tmp_path):
    alone = ("train", "teacher", "--preset", "tiny", "--start-from", tiny_folder, "--learns", "answers")
    tower = VisionTower(train.PRESETS["tiny"].vision)
    save_file(tower.state_dict(), tmp_path / train.VISION)
    for option, other in (("--autoencoder", "nano"), ("--vision", tmp_path)):
        status, _, said = hb(*alone, option, other)
        assert status == 2 and f"{option} brings another" in said
    status, _, said = hb(*alone, "--autoencoder", tiny_folder)
    assert (
        "brings another" not in said and "another size" in said
    )  # its own may be named; what is wrong is "tiny" itself


@pytest.mark.parametrize(
    ("mix", "why"),
    [(["counting"], "TASK=SHARE"), (["counting=many"], "TASK=SHARE"), (["dancing=0.5"], "no task 'dancing'"),
     (["two=nan"], "0 or more"), (["two=0.1", "two=0.2"], "a task twice"),
     (["two=0.5", "--learns", "answers"], "draws none"), (["two=-1"], "0 or more"),
     (["two=0.7", "counting=0.7"], "1 or less together")],
)  # fmt: skip
def test_shares_that_are_none_are_refused(hb, tiny_preset, tiny_folder, mix, why):
    status, _, said = hb("train", "teacher", "--preset", "tiny", "--start-from", tiny_folder, "--mix", *mix)
    assert status == 2 and why in said


def test_a_beginning_of_another_size_is_refused_in_words(hb, tiny_preset, tiny_folder):
    status, _, said = hb(
        "train", "teacher", "--preset", "tiny", "--start-from", tiny_folder, "--autoencoder", tiny_folder
    )
    assert status == 2 and "another size" in said


def test_a_shipped_model_is_known_by_its_name_as_a_beginning_and_as_an_autoencoder(hb, tiny_preset):
    both = ("--start-from", "nano", "--autoencoder", "nano")
    status, _, said = hb("train", "teacher", "--preset", "tiny", *both)
    assert status == 2 and "another size" in said  # both were found, and nano is not what "tiny" says


def test_shares_reach_the_pool(hb, tiny_preset, tiny_folder, monkeypatch):
    def made(*_, mix, **__):
        raise ValueError(f"counting {mix['counting']}, rich {mix['rich']}")

    monkeypatch.setattr("hb.train.pools.make_pool", made)
    monkeypatch.setitem(train.PRESETS, "tiny", load(tiny_folder).bagel.config)
    status, _, said = hb(
        "train",
        "teacher",
        "--preset",
        "tiny",
        "--start-from",
        tiny_folder,
        "--autoencoder",
        tiny_folder,
        "--mix",
        "counting=0.5",
        "rich=0.25",
    )
    assert status == 2 and "counting 0.5, rich 0.25" in said


def test_training_from_nothing_to_a_model(hb, tiny_preset):
    run = ("--preset", "tiny", "--folder", "mine", "--accelerator", "cpu", "--precision", "f32", "--json")
    status, said, _ = hb("train", "autoencoder", *run)
    assert status == 0 and json.loads(said)["settings"]["batch"] == 4
    teacher = ("train", "teacher", *run, "--pool", 6)

    status, said, _ = hb(*teacher, "--minutes", 0)  # time is over after one step: a model is there all the same
    assert status == 0 and json.loads(said)["settings"]["pool"] == 6
    early = Path("mine/model/ema.safetensors").read_bytes()
    status, said, _ = hb(*teacher)
    record = json.loads(said)
    assert status == 0 and record["steps"] == 4 and Path("mine/model/ema.safetensors").read_bytes() != early
    assert json.loads(Path("mine/model/provenance.json").read_text())["command"].startswith("hb train teacher")

    weights = Path("mine/model/ema.safetensors").read_bytes()
    assert hb(*teacher)[0] == 0 and Path("mine/model/ema.safetensors").read_bytes() == weights  # finished is finished
    status, _, complaint = hb(*teacher, "--lr", 0.5)
    assert status == 2 and "holds a run with lr 0.02, not 0.5" in complaint
    assert hb("draw", "a star", "--model", "mine/model", "--steps", 1, "--n", 1)[0] == 0

    assert (
        hb(
            "train",
            "teacher",
            *run,
            "--folder",
            "more",
            "--start-from",
            "mine/model",
            "--pool",
            4,
            "--steps",
            1,
            "--dialogues",
            2,
        )[0]
        == 0
    )
    assert json.loads(Path("more/model/provenance.json").read_text())["sizes"] == dict(draw=3, edit=1, dialogue=2)
    assert Path("more/model/ae.safetensors").read_bytes() == Path("mine/model/ae.safetensors").read_bytes()


def test_ctrl_c_ends_after_a_whole_step_and_nothing_is_lost(hb, tiny_preset, monkeypatch):
    run = ("--preset", "tiny", "--accelerator", "cpu", "--precision", "f32", "--json")
    assert hb("train", "autoencoder", *run, "--folder", "whole")[0] == 0
    teacher = ("train", "teacher", *run, "--pool", 6, "--autoencoder", "whole/autoencoder")
    assert hb(*teacher, "--folder", "whole")[0] == 0

    def impatient(pool, sizes, seed, step, rank=0):
        if step == 1:
            signal.raise_signal(signal.SIGINT)
        return pick(pool, sizes, seed, step, rank)

    with monkeypatch.context() as patch:
        patch.setattr("hb.train.teacher.pick", impatient)
        status, _, complaint = hb(*teacher, "--folder", "cut")
    assert status == 130 and "goes on" in complaint and not Path("cut/model").exists()
    steps = torch.load("cut/teacher/last.ckpt", weights_only=True)["global_step"]
    assert 0 < steps < 4
    assert hb(*teacher, "--folder", "cut")[0] == 0
    assert Path("cut/model/ema.safetensors").read_bytes() == Path("whole/model/ema.safetensors").read_bytes()
