"""Complex prompts tell a perfect model from a useless one, mistakes are counted by kind, and refusals must quote."""

import json

import pytest

from hb.eval import stats
from hb.eval.complex import complex_difference, complex_eval, complex_summary, contradictory_eval
from hb.eval.scene import SceneScore, _score
from hb.world import benchmark as bench
from tests.eval.oracle import Oracle


def test_a_perfect_model_draws_complex_prompts_right_and_wrong_colors_are_named(tiny):
    cases = bench.complex_set()[::10]
    right = complex_summary(complex_eval(Oracle(tiny), pictures=2, cases=cases, bar=False))
    assert right["overall"]["value"] >= 0.97
    assert list(right["cells"]) == [f"{n} {said}" for n in range(1, 5) for said in ("half", "full")]
    spoiled = complex_eval(Oracle(tiny, "colors"), pictures=2, cases=cases, bar=False)
    got = complex_summary(spoiled)
    assert got["overall"]["value"] < 0.4 and got["kinds"]["color"] > 0.5 * len(cases)
    assert set(got["kinds"]) == set(right["kinds"])
    for cell, values in got["cells"].items():
        told, mine = got["outcomes"][cell], [r for r in spoiled.rows if r["task"] == cell]
        assert [not words for words in told] == [bool(r["right"]) for r in mine]
        assert all(values["kinds"][kind] == sum(kind in r["kinds"] for r in mine) for kind in values["kinds"])


def score(*prompts) -> SceneScore:
    """Of verdicts, a tuple for each prompt; what is wrong has a wrong color."""
    told = lambda right: dict(right=right, kinds=[] if right else ["color"], reasons=[] if right else ["why"])
    cost = dict(task="1 half", nfe=6, steps=6, seconds=0.1)
    return _score([cost | dict(case=case) | told(right) for case, verdicts in enumerate(prompts) for right in verdicts])


def test_the_best_of_several_is_right_where_any_is():
    got = complex_summary(score((1, 0), (0, 1), (0, 0)))
    assert got["best"]["value"] == round(2 / 3, 4) and got["overall"]["value"] == round(1 / 3, 4)
    assert got["kinds"]["color"] == 4 and (got["overall"]["n"], got["best"]["n"]) == (6, 3)
    assert (got["best"]["low"], got["best"]["high"]) == pytest.approx(stats.Share(2, 3).interval, abs=1e-4)
    assert got["verdicts"] == {"1 half": "10 01 00"} and got["outcomes"]["1 half"][:2] == ["", "color: why"]


def test_a_difference_is_paired_and_can_be_made_of_what_is_stored():
    ours, theirs = score((1, 1), (0, 1), (0, 0)), score((1, 0), (0, 1), (0, 0))
    difference = complex_difference(ours, theirs)
    stored = [json.loads(json.dumps(complex_summary(s))) for s in (ours, theirs)]
    assert difference == complex_difference(*stored)
    assert difference["overall"]["value"] == difference["cells"]["1 half"]["value"] == round(1 / 6, 4)
    assert difference["flips"]["overall"]["only_ours"] == 1 and difference["flips"]["overall"]["only_theirs"] == 0
    same = complex_difference(ours, ours)["overall"]
    assert same["value"] == 0 and same["low"] < 0 < same["high"]


def test_a_refusal_counts_only_if_it_quotes_both_phrases():
    cases = [
        bench.ClashCase("colors", "a red blue star", ("red", "blue")),
        bench.ClashCase("colors", "a red blue star", ("red", "green")),
        bench.ClashCase("colors", "a red star", ("red", "blue")),
        bench.ClashCase("colors", "a red star", ()),
        bench.ClashCase("words", "a dragon", ()),
    ]
    got = contradictory_eval(cases)
    assert (got["refused"]["n"], got["mistaken"]["n"]) == (3, 2) and got["kinds"] == dict(colors=[1, 0], words=[0, 1])


def test_every_contradiction_is_refused_and_no_look_alike_is():
    got = contradictory_eval()
    values = [(got[name]["value"], got[name]["n"]) for name in ("refused", "mistaken")]
    assert values == [(1.0, 40), (0.0, 40)]
