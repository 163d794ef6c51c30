"""What a measurement is held against, and of which weights the report says it is."""

import json

import pytest

from hb.cli import output, report
from hb.cli.main import main
from hb.eval.scene import SceneScore
from hb.eval.stats import Share

GOT = dict(value=0.5, low=0.4, high=0.6, n=10)
MEASURED = {
    "scene.scene_eval": SceneScore(dict(counting=Share(5, 10)), GOT, 100, 50, 0.1, []),
    "edit.edit_eval": dict(O=GOT, SC=9.0, PQ=9.0, drift=GOT, groups=dict(add=dict(O=9.0, n=10)), nfe=132),
    "understand.understand_eval": dict(answers=GOT, kinds=dict(count=GOT), recall=GOT, precision=GOT, background=GOT),
    "coverage.coverage_eval": dict(
        value=GOT,
        attributes=dict(color=0.5),
        readable=GOT,
        nfe=100,
        frechet=dict(value=0.02, floor=0.01, highest=0.01, n=10),
    ),
    "autoencoder.reconstruction": dict(rendered=GOT, reconstructed=GOT, error=0.01),
}


@pytest.fixture
def targets(tiny_folder, tmp_path, monkeypatch, capsys):
    """Runs a command line whose measuring takes no time; gives what each of its numbers is held against."""
    monkeypatch.chdir(tmp_path)
    for name, result in MEASURED.items():
        monkeypatch.setattr(f"hb.eval.{name}", lambda *_, result=result, **__: result)

    def run(argv: str) -> dict:
        assert main([*argv.split(), "--model", str(tiny_folder), "--json"]) == 0
        numbers = json.loads(capsys.readouterr().out)["numbers"]
        return {n["what"]: n["target"] if n["at_most"] is None else ("at most", n["at_most"]) for n in numbers}

    return run


WANTED = {
    "scene": {"counting": 0.9, "SceneEval, 100 NFE": 0.95},
    "edit": {"drift": ("at most", 0.02), "EditEval O (0 to 10), 132 NFE": 9.0},
    "understand": {"answers": 0.97, "descriptions: recall": 0.95, "descriptions: precision": 0.95},
    "coverage": {"coverage, 100 NFE": 0.9},
    "autoencoder": {"autoencoder: read exactly and clean": 0.99},
}


@pytest.mark.parametrize("verb", WANTED)
def test_what_the_plan_asks_of_the_teacher_is_printed_beside_what_was_measured(verb, targets):
    assert {what: least for what, least in targets(f"eval {verb}").items() if least is not None} == WANTED[verb]


@pytest.mark.parametrize("argv", [
    "scene --limit 1", "scene --pictures 2", "scene --steps 6", "edit --limit 1", "edit --steps 6",
    "edit --text-scale 2", "coverage --pictures 3", "coverage --steps 6", "autoencoder --n 5",
])  # fmt: skip
def test_what_is_not_the_plans_measurement_is_held_against_nothing(argv, targets):
    assert not [what for what, least in targets(f"eval {argv}").items() if least is not None]


def test_the_report_says_which_results_are_of_other_weights_than_those_that_ship(tmp_path):
    ships = ("new", dict(dmdo="new too"))
    made = dict(machine="2 cores", commit="abc", date="2026-01-01", command="hb")
    whose = dict(  # identities of the model and of its student
        today=("new", None),
        taught=("new", "new too"),
        earlier=("old", None),
        retaught=("new", "old"),
        nobody=(None, None),
    )
    for name, (model, student) in whose.items():
        number = dict(what=name, value=1.0, low=None, high=None, unit="", target=None, met=None, headline=True)
        who = dict(
            model=model and dict(name="nano", identity=model), student=student and dict(name="dmdo", identity=student)
        )
        output.write_json(tmp_path / f"{name}.json", dict(numbers=[number], **made, **who))
    table = report.results_table(tmp_path, lambda name: ships if name == "nano" else ("", {}))
    said = {row.split("|")[1].strip() for row in table.splitlines()[2:] if row.startswith("|")}
    assert said == {"today", "taught", "earlier *(of an earlier nano)*", "retaught *(of an earlier dmdo)*", "nobody"}
    assert table.endswith(report.EARLIER)
    for name in ("earlier", "retaught"):
        (tmp_path / f"{name}.json").unlink()
    assert "earlier" not in report.results_table(tmp_path, lambda name: ships)


def test_what_ships_is_known_by_the_identities_that_its_results_bear(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("hb.eval.scene.scene_eval", lambda *_, **__: MEASURED["scene.scene_eval"])
    weights, students = report.shipped("nano")
    name = next(iter(students))
    assert main(["eval", "scene", "--student", name, "--results", str(tmp_path), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["model"]["identity"], record["student"]["identity"]) == (weights, students[name])
    assert report.shipped("nobody") == ("", {})


def test_the_front_page_has_one_row_for_each_figure():
    """Red while a figure by kinds had a row for each kind."""
    folder = report.ROOT / "data" / "results"
    labels = [row.split(" | ")[0].removeprefix("| ") for row in report.headlines(folder).splitlines()[2:]]
    assert labels == [label for file, _, label, _ in report.HEADLINES if (folder / f"{file}.json").exists()]
