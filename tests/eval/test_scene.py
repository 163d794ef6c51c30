"""SceneEval tells a perfect model from a useless one; pairs are paired, and verdicts can be read back from a result."""

import json

import numpy as np
import pytest

from hb.eval import stats
from hb.eval.scene import SceneScore, _score, flips, scene_difference, scene_eval, scene_share, verdicts_of
from hb.world import benchmark as bench
from tests.eval.oracle import Oracle


def test_a_perfect_model_draws_right_and_wrong_colors_are_wrong(tiny):
    cases = bench.scene_set()[::12]
    score = scene_eval(Oracle(tiny), pictures=1, cases=cases, bar=False)
    assert score.overall["value"] >= 0.97 and set(score.tasks) == {c.task for c in cases} and score.nfe == 100
    spoiled = scene_eval(Oracle(tiny, "colors"), pictures=1, cases=cases, bar=False)
    assert spoiled.tasks["colors"].value < 0.2


def score(tasks: dict[str, list]) -> SceneScore:
    rows = [
        dict(task=task, case=case, right=right)
        for task, prompts in tasks.items()
        for case, pictures in enumerate(prompts)
        for right in pictures
    ]
    return SceneScore({}, {}, 6, 6, 0.1, rows)


def test_verdicts_are_stored_and_read_back():
    made = score(dict(single=[[1, 0], [1, 1]], two=[[0, 0]]))
    stored = json.loads(json.dumps(made.to_dict()))
    assert stored["verdicts"] == dict(single="10 11", two="00")
    for task, verdicts in verdicts_of(stored).items():
        assert np.array_equal(verdicts, made.matrix()[task])
    with pytest.raises(ValueError, match="before verdicts were stored"):
        verdicts_of(dict(overall={}))


def test_a_difference_is_the_same_from_scores_and_from_results():
    ours, theirs = score(dict(single=[[1], [1], [0]])), score(dict(single=[[1], [0], [0]]))
    difference = scene_difference(ours, theirs)
    assert difference == scene_difference(ours.to_dict(), theirs.to_dict())
    assert difference["overall"]["value"] == round(1 / 3, 4)


def test_flips_are_counted_by_task_and_overall():
    ours, theirs = score(dict(single=[[1], [1], [0]], two=[[0]])), score(dict(single=[[1], [0], [0]], two=[[1]]))
    table = flips(ours, theirs)
    cells = lambda row: [row[cell] for cell in ("both", "only_ours", "only_theirs", "neither")]
    assert cells(table["tasks"]["single"]) == [1, 1, 0, 1] and cells(table["tasks"]["two"]) == [0, 0, 1, 0]
    assert cells(table["overall"]) == [1, 1, 1, 1] and table["overall"]["p_value"] == stats.mcnemar(1, 1)
    with pytest.raises(ValueError, match="same prompts"):
        flips(ours, score(dict(single=[[1]])))


def test_pictures_of_one_prompt_are_a_cluster():
    """Right or wrong on all pictures of a prompt: as wide an interval as with one picture of each."""
    row = dict(task="single", nfe=6, steps=6, seconds=0.1)
    rows = lambda pictures: [row | dict(case=c, right=int(c % 3 > 0)) for c in range(60) for _ in range(pictures)]
    one, many = _score(rows(1)), _score(rows(5))
    assert (one.tasks["single"].n, many.tasks["single"].n) == (60, 300)
    assert np.ptp(many.tasks["single"].interval) == pytest.approx(np.ptp(one.tasks["single"].interval), rel=0.03)
    assert many.overall["value"] == one.overall["value"] == round(2 / 3, 4)


def test_a_share_gives_tasks_equal_weight_and_belongs_to_pairs():
    ours = score(dict(single=[[1], [1], [1], [1]], two=[[1], [0]]))
    theirs = score(dict(single=[[1], [1], [1], [1]], two=[[1], [1]]))
    assert scene_share(ours, theirs)["value"] == 0.75  # of all pictures it would be 5 of 6
    assert scene_share(ours.to_dict(), theirs.to_dict()) == scene_share(ours, theirs)
    same = scene_share(theirs, theirs)
    assert same["value"] == 1 and "no differences" in same["note"]
    with pytest.raises(ValueError, match="same prompts"):
        scene_share(ours, score(dict(single=[[1]])))
