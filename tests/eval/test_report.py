"""Results of before version 0.2.0 are read under today's rules: intervals are computed again, or marked."""

import json

import pytest

from hb.cli.report import results_table
from hb.eval.protocol import RESULTS
from hb.eval.report import STORED, renewed
from hb.eval.stats import Share, mean_of_shares, t_interval

OLD = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
OLD = {name: record for name, record in OLD.items() if "numbers" in record and "key" not in record}


@pytest.mark.parametrize("name", OLD)
def test_every_stored_interval_has_a_width_and_is_computed_again_or_marked(name):
    record = renewed(OLD[name])
    assert len(record["numbers"]) == len(OLD[name]["numbers"])
    for before, now in zip(OLD[name]["numbers"], record["numbers"]):
        assert "upper end" not in now["what"]
        if now["low"] is not None and now.get("note") != STORED and name != "speed":
            assert now["low"] < now["high"], now["what"]
        if before["low"] is None:
            assert now["low"] is None


def number(what, value=0.5, low=0.4, high=0.6, **more):
    return dict(what=what, value=value, low=low, high=high, n=9, unit="", target=None, met=None, headline=True) | more


def test_one_picture_a_prompt_is_all_that_a_mean_of_tasks_needs():
    row = dict(tasks=dict(single=dict(value=1.0, n=24), two=dict(value=0.5, n=24)))
    record = dict(name="scene_steps_ablation", numbers=[number("50 steps"), number("ahead")], result=dict(rows=[row]))
    first, second = renewed(record)["numbers"]
    wanted = mean_of_shares([Share(24, 24), Share(12, 24)])
    assert (first["low"], first["high"], first["note"]) == (wanted["low"], wanted["high"], "")
    assert second["note"] == STORED and second["low"] == 0.4


def test_seeds_are_few_and_shares_have_lower_ends():
    rows = [dict(variant="a", tau=t, alpha=0.5 + t / 100) for t in (7.0, 8.0, 9.0)]
    record = dict(name="draft_ablation", numbers=[number("a: tau, chain of 10")], result=dict(rows=rows))
    assert renewed(record)["numbers"][0]["low"] == t_interval([7.0, 8.0, 9.0])["low"]
    share = number("O, share of teacher: upper end of the interval", 1.01, 0.993, 1.01, target=1.0, met=True)
    (now,) = renewed(dict(name="edit_dmdo_nfe6", numbers=[share], result={}))["numbers"]
    assert (now["what"], now["value"], now["target"]) == ("O, share of teacher: lower end of the interval", 0.993, 0.98)
    assert now["met"] and now["note"] == STORED


def test_coverage_is_computed_from_its_parts():
    parts = [dict(score=s, ceiling=0.9) for s in (0.45, 0.9, 0.8, 0.72)]
    numbers = [number("coverage, six, 6 NFE"), number("coverage, share of teacher at 100 NFE")]
    result = dict(parts=parts, against=dict(parts=parts))
    value, share = renewed(dict(name="coverage_six", numbers=numbers, result=result))["numbers"]
    assert value["value"] == round((0.5 + 1 + 0.8 / 0.9 + 0.8) / 4, 4) and value["low"] < value["value"] < value["high"]
    assert share["value"] == 1 and share["note"] == "4 pairs, no differences"


def test_results_of_today_are_left_alone():
    record = dict(key="abc", name="scene_nfe100", numbers=[number("SceneEval")], result={})
    assert renewed(record) == record


def test_the_table_says_what_the_mark_means():
    table = results_table(RESULTS, lambda name: ("", {}))
    assert ("(†)" in table) == ("† a percentile bootstrap" in table)
