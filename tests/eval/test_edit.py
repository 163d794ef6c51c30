"""EditEval tells a perfect edit from none; drift is measured where nothing was to change; pairs are paired."""

import json
from dataclasses import replace

import numpy as np
import pytest

from hb.eval.edit import edit_eval, edit_flips, edit_ratios
from hb.world import benchmark as bench
from hb.world.judge.edits import touched
from hb.world.judge.reading import read
from hb.world.language import CHOOSING, others_instead, parse, parse_edit
from hb.world.render import render
from hb.world.scene import Scene, sample_scenes
from tests.eval.oracle import Oracle


def test_a_perfect_edit_scores_ten_and_a_lazy_one_fails(tiny):
    cases = bench.edit_set()[::20]
    seen = {c.edit.instruction: c for c in cases}
    cases = list(seen.values())
    oracle, lazy = Oracle(tiny), Oracle(tiny, "lazy")
    oracle.edits, lazy.edits = seen, seen
    perfect = edit_eval(oracle, cases=cases, bar=False)
    assert perfect["O"]["value"] >= 9.8 and perfect["drift"]["value"] < 1e-3
    unchanged = edit_eval(lazy, cases=cases, bar=False)
    assert unchanged["O"]["value"] < 6 and unchanged["drift"]["value"] < 1e-6


def test_an_edit_of_the_right_thing_is_told_from_that_of_another(tiny):
    cases = {c.edit.instruction: c for c in bench.edit_complex_set()[::6]}
    right, other = Oracle(tiny), Oracle(tiny)
    instead = {words: others_instead(parse_edit(words), c.source)[0] for words, c in cases.items()}
    right.edits = cases
    other.edits = {words: replace(c, edit=replace(c.edit, target=instead[words])) for words, c in cases.items()}
    perfect = edit_eval(right, cases=list(cases.values()), choices=True, bar=False)
    assert perfect["picked"]["right"]["value"] == 1.0 and perfect["O"]["value"] > 9.8
    assert {g: share["value"] for g, share in perfect["picked_right"].items()} == dict.fromkeys(CHOOSING, 1.0)
    mistaken = edit_eval(other, cases=list(cases.values()), choices=True, bar=False)
    assert mistaken["picked"]["other"]["value"] > 0.9 and mistaken["O"]["value"] < 3
    words = [words.split(",")[0] for told in mistaken["outcomes"].values() for words in told]
    assert words.count("other") > 0.9 * len(cases)


def test_the_edited_region_follows_where_an_added_thing_was_put(tiny):
    case = next(c for c in bench.edit_set() if c.edit.group == "add")
    moved = sample_scenes([parse("a red circle")], np.random.default_rng(3)).scene(0).things[0]
    picture = render([Scene((moved,), case.source.background)])[0]
    region = touched(Scene((), case.source.background), case.edit.target, read(picture), 64)
    changed = (picture - render([Scene((), case.source.background)])[0]).abs().amax(0) > 0.01
    assert region[changed].all() and not region.all()


def result(**groups) -> dict:
    return dict(edits={g: dict(O=o, drift=[0.01] * len(o), right=[int(v > 6) for v in o]) for g, o in groups.items()})


def test_edits_are_paired_by_group():
    ours, theirs = result(add=[5.0, 7.0], move=[8.0]), result(add=[6.0, 6.0], move=[10.0])
    ratios = edit_ratios(ours, theirs)
    assert ratios["O"]["value"] == round((6 + 8) / (6 + 10), 4) and ratios["drift"]["value"] == 1.0
    table = edit_flips(ours, theirs)["overall"]
    assert [table[cell] for cell in ("both", "only_ours", "only_theirs", "neither")] == [1, 1, 0, 1]
    with pytest.raises(ValueError, match="same edits"):
        edit_ratios(ours, result(add=[6.0], move=[10.0, 9.0]))
    with pytest.raises(ValueError, match="before every edit"):
        edit_ratios(ours, dict(O={}))


def test_every_edits_figures_are_in_the_result(tiny):
    cases = list({c.edit.group: c for c in bench.edit_set()}.values())
    oracle = Oracle(tiny)
    oracle.edits = {c.edit.instruction: c for c in cases}
    got = edit_eval(oracle, cases=cases, bar=False)
    stored = json.loads(json.dumps({k: v for k, v in got.items() if k != "rows"}))
    assert edit_flips(stored, got)["overall"]["both"] == len(cases)
    assert stored["edits"]["add"]["O"] == [10.0] and stored["edits"]["add"]["drift"][0] < 1e-3
    assert set(stored["edits"]) == {c.edit.group for c in cases} and stored["edits"]["add"]["right"] == [1]
