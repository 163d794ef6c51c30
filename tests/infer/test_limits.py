"""A model says what it is known to draw wrong: once, with the figure, and only of its own weights."""

import json
import warnings

import numpy as np
import pytest

from hb.cli.main import main
from hb.eval.cache import identity
from hb.infer import limits, pipeline
from hb.infer.pipeline import load
from hb.world import benchmark as bench
from hb.world.language import parse

MUCH = "a large plain red star at the top left and a small striped blue circle at the bottom right on a navy background"
HALF = "a red star, a blue circle at the left and a small striped moon"
LITTLE = "a star, a circle and a moon"


@pytest.fixture
def stored(tiny, tiny_folder, tmp_path, monkeypatch):
    """Puts results of complex prompts where a model looks for them; gives how many parameters and which weights are the
    tiny model's."""
    monkeypatch.setattr(limits, "RESULTS", tmp_path)
    monkeypatch.setattr(pipeline, "_WARNED", set())
    parameters = sum(p.numel() for p in tiny.bagel.parameters())

    def store(name="complex_nfe100", weights=None, nfe=100, model="tiny", **cells):
        cells = {f"{cell[1]} {cell[2:]}": dict(right=dict(value=value)) for cell, value in cells.items()}
        model = dict(name=model, identity=weights or identity(tiny), parameters=parameters)
        (tmp_path / f"{model['name']}_{name}.json").write_text(
            json.dumps(dict(name=name, model=model, student=None, result=dict(cells=cells, nfe=nfe)))
        )

    return store


def said(call) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(w.message) for w in caught if issubclass(w.category, limits.DrawingWarning)]


def test_a_weak_cell_is_warned_of_once_with_its_figure(stored, tiny_folder):
    stored(c2full=0.21, c3half=0.4, c1full=0.99)
    model = load(tiny_folder)
    words = "of prompts that say everything about 2 things this model draws 0.21 right (hb eval complex, 100 NFE)"
    assert said(lambda: model.draw([MUCH, MUCH], steps=1)) == [words]
    assert said(lambda: (model.draw(MUCH, steps=1), load(tiny_folder).draw(MUCH, steps=1))) == []
    assert said(lambda: model.draw([MUCH, HALF], steps=1)) == [
        "of prompts that say about half of what can be said about 3 things this model draws 0.40 right "
        "(hb eval complex, 100 NFE)"
    ]


@pytest.mark.parametrize("prompt", [LITTLE, "a large plain red star at the top left on a navy background", "a dragon"])
def test_other_prompts_bring_no_warning(stored, tiny, prompt):
    stored(c2full=0.21, c3half=0.4, c1full=0.5)
    assert said(lambda: tiny.draw(prompt, steps=1)) == []


def test_nothing_is_said_of_weights_that_were_not_measured_nor_where_it_is_off(stored, tiny_folder):
    model = load(tiny_folder)
    assert said(lambda: model.draw(MUCH, steps=1)) == []
    limits.measured.cache_clear()
    stored(c2full=0.21, weights="somebody else's")
    assert said(lambda: model.draw(MUCH, steps=1)) == []
    limits.measured.cache_clear()
    stored(c2full=0.21)
    assert said(lambda: model.draw(MUCH, steps=1, warn=False)) == []
    next(model.bagel.parameters()).detach().mul_(1.5)  # trained since: other weights
    assert said(lambda: model.draw(MUCH, steps=1)) == []
    assert len(said(lambda: load(tiny_folder).draw(MUCH, steps=1))) == 1


def test_of_several_results_the_nearest_in_cost_counts(stored, tiny):
    stored("complex_nfe100", c2full=0.9)
    stored("complex_steps6", nfe=12, c2full=0.1)
    stored("edit_complex_nfe132", nfe=2, c2full=0.0)
    assert said(lambda: tiny.draw(MUCH, nfe=100)) == []
    assert said(lambda: tiny.draw(MUCH, steps=1))[0].endswith("draws 0.10 right (hb eval complex, 12 NFE)")


def test_another_model_that_is_better_there_is_named(stored, tiny):
    stored(c2full=0.21, c3half=0.4)
    stored(weights="another's", model="next", c2full=0.9, c3half=0.49)
    stored(weights="a third's", model="other", c2full=0.8, c3half=0.3)
    everything, half = said(lambda: tiny.draw([MUCH, HALF], steps=1))
    assert everything.endswith("draws 0.21 right (hb eval complex, 100 NFE); next draws 0.90")
    assert half.endswith("draws 0.40 right (hb eval complex, 100 NFE)")  # none is right half of the time


def test_the_command_line_warns_in_one_sentence_and_can_be_quiet(stored, tiny_folder, tmp_path, monkeypatch, capsys):
    stored(c2full=0.21)
    monkeypatch.chdir(tmp_path)
    draw = ["draw", MUCH, "--steps", "1", "--n", "1", "--model", str(tiny_folder)]
    assert main([*draw, "--quiet"]) == 0 and not capsys.readouterr().err
    assert main(draw) == 0
    assert capsys.readouterr().err == (
        "hb: of prompts that say everything about 2 things this model draws 0.21 right (hb eval complex, 100 NFE)\n"
    )


def test_prompts_lie_in_the_cell_they_were_sampled_for_or_next_to_it():
    cases = bench.complex_set()
    found = [limits.cell_of(case.request) for case in cases]
    assert all(mine == case.task for mine, case in zip(found, cases) if case.task.endswith("full"))
    assert all(mine is None or mine[0] == case.task[0] for mine, case in zip(found, cases))
    assert np.mean([mine == case.task for mine, case in zip(found, cases) if case.task.endswith("half")]) > 0.8
    assert limits.cell_of(parse(LITTLE)) is None and limits.cells_of(["a dragon", MUCH]) == {"2 full"}
