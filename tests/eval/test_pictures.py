"""The evaluations know a perfect model from a useless one, and their intervals cover."""

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from hb.eval import pictures as evaluate
from hb.flow import time_grid
from hb.infer.pipeline import Answers, Pictures
from hb.models.vision import patchify, table_rows
from hb.world import benchmark as bench
from hb.world.language import CHOOSING, describe, others_instead, parse, parse_edit
from hb.world.render import render
from hb.world.scene import Scene, Thing, sample_scenes


class Oracle:
    """Answers every request as the world itself would; `wrong` spoils it in one way. Stands in for an engine.Model."""

    def __init__(self, tiny, wrong=""):
        self.bagel, self.sampling, self.text, self.wrong = tiny.bagel, tiny.sampling, tiny.text, wrong
        self.drawn = 0
        self.edits = {c.edit.instruction: c for c in bench.edit_set()}
        self.scenes, self.students, self.tiny = {}, {}, None

    def settle(self, verb, **options):
        return None, time_grid(50, 3.0), getattr(self.sampling, verb)

    def record(self, pixels, prompts):
        return Pictures(pixels, tuple(prompts), 100, 50, {"denoise": 0.1}, tuple(range(len(prompts))))

    def draw(self, prompts, seed=0, **_):
        self.drawn += len(prompts)
        rng = np.random.default_rng(seed if isinstance(seed, int) else seed[0])
        requests = [parse(p) for p in prompts]
        if self.wrong == "collapsed":  # always the same picture for the same prompt
            scenes = [sample_scenes([r], np.random.default_rng(0)).scene(0) for r in requests]
        else:
            scenes = sample_scenes(requests, rng).to_list()
        pictures = render(scenes)
        return self.record(torch.flip(pictures, [1]) if self.wrong == "colors" else pictures, prompts)

    def edit(self, pictures, instructions, seed=0, **_):
        cases = [self.edits[i] for i in instructions]
        made = [c.source if self.wrong == "lazy" else c.edit.target for c in cases]
        return self.record(render(made), instructions)

    def ask(self, pictures, questions, **_):
        known, answers = truths()
        questions = [questions] * len(pictures) if isinstance(questions, str) else questions
        said = []
        for picture, question in zip(pictures, questions):
            seen = key(picture)
            told = answers.get((seen, question)) or describe(known[seen], np.random.default_rng(0))
            said.append("green" if self.wrong == "mumbling" else told)
        return Answers(tuple(said), tuple(questions), 3, 3, {"decode text": 0.1})


@cache
def truths() -> tuple[dict, dict]:
    """The scene of every picture to be described; the answer to every picture and question."""
    scenes, cases = bench.description_set(), bench.question_set()
    known = {key(p): s for p, s in zip(render(scenes), scenes)}
    asked = render([c.scene for c in cases])
    return known, {(key(p), c.question.text): c.question.answer for p, c in zip(asked, cases)}


def key(picture):
    """A picture's fingerprint that does not mind the last bits of a float."""
    return hash((picture * 23).round().to(torch.uint8).numpy().tobytes())


def few(cases, step):
    return cases[::step]


def test_a_perfect_model_draws_right_and_wrong_colors_are_wrong(tiny):
    cases = few(bench.scene_set(), 12)
    score = evaluate.scene_eval(Oracle(tiny), pictures=1, cases=cases, bar=False)
    assert score.overall["value"] >= 0.97 and set(score.tasks) == {c.task for c in cases} and score.nfe == 100
    spoiled = evaluate.scene_eval(Oracle(tiny, "colors"), pictures=1, cases=cases, bar=False)
    assert spoiled.tasks["colors"].value < 0.2


def test_a_perfect_edit_scores_ten_and_a_lazy_one_fails(tiny):
    cases = few(bench.edit_set(), 20)
    seen = {c.edit.instruction: c for c in cases}
    cases = list(seen.values())
    oracle, lazy = Oracle(tiny), Oracle(tiny, "lazy")
    oracle.edits, lazy.edits = seen, seen
    perfect = evaluate.edit_eval(oracle, cases=cases, bar=False)
    assert perfect["O"]["value"] >= 9.8 and perfect["drift"]["value"] < 1e-3
    unchanged = evaluate.edit_eval(lazy, cases=cases, bar=False)
    assert unchanged["O"]["value"] < 6 and unchanged["drift"]["value"] < 1e-6


def test_an_edit_of_the_right_thing_is_told_from_that_of_another(tiny):
    cases = few(bench.edit_complex_set(), 4)
    right, other = Oracle(tiny), Oracle(tiny)
    right.edits = {c.edit.instruction: c for c in cases}
    cases = list(right.edits.values())
    instead = {c.edit.instruction: others_instead(parse_edit(c.edit.instruction), c.source)[0] for c in cases}
    other.edits = {k: replace(c, edit=replace(c.edit, target=instead[k])) for k, c in right.edits.items()}
    perfect = evaluate.edit_eval(right, cases=cases, choices=True, bar=False)
    assert perfect["picked"]["right"]["value"] == 1.0 and perfect["O"]["value"] > 9.8
    assert {g: share["value"] for g, share in perfect["picked_right"].items()} == dict.fromkeys(CHOOSING, 1.0)
    mistaken = evaluate.edit_eval(other, cases=cases, choices=True, bar=False)
    assert mistaken["picked"]["other"]["value"] > 0.95 and mistaken["O"]["value"] < 3
    assert [words.split(",")[0] for g in mistaken["groups"] for words in mistaken["verdicts"][g]].count(
        "other"
    ) > 0.95 * len(cases)


def test_understanding_counts_right_answers(tiny):
    good = evaluate.understand_eval(Oracle(tiny), bar=False)
    assert good["answers"]["value"] == 1.0 and good["recall"]["value"] == good["precision"]["value"] == 1.0
    bad = evaluate.understand_eval(Oracle(tiny, "mumbling"), bar=False)
    assert bad["answers"]["value"] < 0.2 and bad["recall"]["value"] == 0.0


def test_coverage_of_the_true_law_is_near_one_and_of_a_collapsed_one_is_not(tiny):
    true = evaluate.coverage_eval(Oracle(tiny), pictures=50, bar=False)
    assert true["value"]["value"] > 0.93
    collapsed = evaluate.coverage_eval(Oracle(tiny, "collapsed"), pictures=50, bar=False)
    assert collapsed["value"]["value"] < 0.6
    away = true["frechet"]
    assert 0 < away["floor"] < away["highest"] and away["value"] < 1.5 * away["highest"]
    assert collapsed["frechet"]["value"] > 4 * away["highest"]


def test_open_shapes_of_the_true_law_are_covered_and_a_thing_that_is_always_a_circle_is_not(tiny):
    true = evaluate.coverage_eval(Oracle(tiny), pictures=100, prompts=evaluate.AMBIGUOUS_PROMPTS, bar=False)
    assert true["value"]["value"] > 0.93 and true["attributes"]["shape"] > 0.9 and true["readable"]["value"] > 0.97
    collapsed = evaluate.coverage_eval(
        Oracle(tiny, "collapsed"), pictures=50, prompts=evaluate.AMBIGUOUS_PROMPTS, bar=False
    )
    assert collapsed["attributes"]["shape"] < 0.4


def test_a_wish_that_several_things_fulfil_gets_one_that_leaves_the_others_something():
    request = parse("a red thing and a star")
    circle, star = Thing("circle", "red", "small", 0.2, 0.2), Thing("star", "red", "small", 0.7, 0.7)
    assert evaluate._in_order(request, [circle, star]) == evaluate._in_order(request, [star, circle]) == [circle, star]
    assert (
        evaluate._in_order(request, [circle, replace(circle, x=0.7)]) is None
        and evaluate._in_order(request, [star]) is None
    )
    rng = np.random.default_rng(0)
    first = [
        evaluate._in_order(request, [replace(star, x=x), replace(star, x=x + 0.3)])[0].x == x
        for x in rng.uniform(0.2, 0.5, 400)
    ]
    assert 0.4 < np.mean(first) < 0.6


def test_a_refusal_counts_only_if_it_quotes_both_phrases():
    cases = [
        bench.ClashCase("colors", "a red blue star", ("red", "blue")),
        bench.ClashCase("colors", "a red blue star", ("red", "green")),
        bench.ClashCase("colors", "a red star", ("red", "blue")),
        bench.ClashCase("colors", "a red star", ()),
        bench.ClashCase("words", "a dragon", ()),
    ]
    got = evaluate.contradictory_eval(cases)
    assert (got["refused"]["n"], got["mistaken"]["n"]) == (3, 2) and got["kinds"] == dict(colors=[1, 0], words=[0, 1])
    whole = evaluate.contradictory_eval()
    assert (whole["refused"]["value"], whole["mistaken"]["value"], whole["refused"]["n"], whole["mistaken"]["n"]) == (
        1.0,
        0.0,
        40,
        40,
    )


def gaussian(n: int, mean: np.ndarray, root: np.ndarray, seed: int) -> np.ndarray:
    """n points whose mean and covariance are exactly these, root root' being the covariance."""
    x = np.random.default_rng(seed).normal(size=(n, len(mean)))
    x -= x.mean(0)
    return x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T @ root.T + mean


def test_frechets_distance_of_two_gaussians_is_the_closed_form():
    rng = np.random.default_rng(0)
    means, widths = rng.normal(size=(2, 5)), rng.random((2, 5)) + 0.2
    alike = [gaussian(40 + 9 * k, m, np.diag(w), k) for k, (m, w) in enumerate(zip(means, widths))]  # axes in common
    assert evaluate.frechet(*alike) == pytest.approx(
        ((means[0] - means[1]) ** 2).sum() + ((widths[0] - widths[1]) ** 2).sum()
    )
    roots = rng.normal(size=(2, 5, 5))
    turned = [gaussian(40 + 9 * k, m, r, k) for k, (m, r) in enumerate(zip(means, roots))]
    a, b = (r @ r.T for r in roots)
    wanted = ((means[0] - means[1]) ** 2).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert evaluate.frechet(*turned) == pytest.approx(wanted)
    assert evaluate.frechet(turned[0], turned[0]) == pytest.approx(0, abs=1e-9)


def test_features_are_the_towers_averaged_over_places(tiny):
    pictures = render(sample_scenes([parse("a star")] * 3, np.random.default_rng(0)))
    with torch.no_grad():
        seen = tiny.bagel.vit_model(patchify(pictures * 2 - 1, 8), table_rows(8, 8, 8))
    assert np.allclose(evaluate.features_of(tiny, pictures), seen.mean(1), atol=1e-5)


def test_an_interrupted_evaluation_goes_on_where_it_was(tiny, tmp_path):
    cases = few(bench.scene_set(), 10)

    class Tripping(Oracle):
        def draw(self, prompts, **options):
            if self.drawn >= 50:
                raise KeyboardInterrupt
            return super().draw(prompts, **options)

    with pytest.raises(KeyboardInterrupt):
        evaluate.scene_eval(Tripping(tiny), pictures=1, cases=cases, keep=tmp_path, bar=False)
    (file,) = tmp_path.glob("scene-*.jsonl")
    file.write_text(file.read_text() + '{"i": 51, "task"')  # the line that was being written
    again = Oracle(tiny)
    score = evaluate.scene_eval(again, pictures=1, cases=cases, keep=tmp_path, bar=False)
    assert again.drawn == len(cases) - 50 and len(score.rows) == len(cases)
    finished = Oracle(tiny)  # the first row after the torn one is kept like any other
    assert evaluate.scene_eval(finished, pictures=1, cases=cases, keep=tmp_path, bar=False).overall == score.overall
    assert not finished.drawn


def test_results_of_other_weights_are_never_taken(tiny, tmp_path):
    from copy import deepcopy

    other = deepcopy(tiny.bagel)
    with torch.no_grad():
        other.language_model.model.norm.weight.add_(1.0)
    twin = type("Twin", (), dict(bagel=other))
    assert evaluate.identity(tiny) != evaluate.identity(twin) and evaluate.identity(tiny) == evaluate.identity(tiny)


def test_wilson_interval_is_the_textbook_one():
    low, high = evaluate.Share(8, 10).interval
    assert low == pytest.approx(0.4902, abs=1e-3) and high == pytest.approx(0.9433, abs=1e-3)


def test_bootstrap_is_centred_and_shrinks():
    rng = np.random.default_rng(0)
    value, low, high = evaluate.bootstrap([rng.random(100), rng.random(100)])
    assert low < value < high and abs(value - 0.5) < 0.06
    _, low4, high4 = evaluate.bootstrap([rng.random(1600), rng.random(1600)])
    assert (high4 - low4) < 0.4 * (high - low)


def test_wilson_of_a_share_that_is_a_count_is_the_textbook_one():
    for k, n in ((0, 40), (3, 40), (40, 40)):
        assert evaluate.wilson(k / n, n) == pytest.approx(evaluate.Share(k, n).interval, abs=1e-6)


def test_pictures_that_repeat_each_other_make_no_interval_narrower():
    right = (np.random.default_rng(0).random((40, 1)) < 0.6).astype(float)
    once, four = evaluate.clustered(right), evaluate.clustered(right.repeat(4, 1))
    assert {**once, "n": 160} == four and once["low"] < once["value"] < once["high"]
    apart = evaluate.clustered_difference(right.repeat(4, 1), np.zeros((40, 4)))
    assert apart == four


def test_equal_values_have_an_interval_that_has_a_width():
    for value in (0.0, 1.0):
        got = evaluate.clustered(np.full((40, 4), value))
        assert (got["low"], got["high"]) == pytest.approx(evaluate.Share(int(40 * value), 40).interval, abs=1e-4)
    same = evaluate.clustered_difference(np.ones((40, 4)), np.ones((40, 4)))
    assert same["value"] == 0 and -0.1 < same["low"] < 0 < same["high"] < 0.1


def test_a_perfect_model_draws_complex_prompts_right_and_wrong_colors_are_named(tiny):
    cases = few(bench.complex_set(), 10)
    right = evaluate.complex_summary(evaluate.complex_eval(Oracle(tiny), pictures=2, cases=cases, bar=False))
    assert right["overall"]["value"] >= 0.97 and list(right["cells"]) == [
        f"{n} {said}" for n in range(1, 5) for said in ("half", "full")
    ]
    spoiled = evaluate.complex_eval(Oracle(tiny, "colors"), pictures=2, cases=cases, bar=False)
    got = evaluate.complex_summary(spoiled)
    assert got["overall"]["value"] < 0.4 and got["kinds"]["color"] > 0.5 * len(cases)
    assert got["kinds"]["missing"] <= sum(got["kinds"].values()) and set(got["kinds"]) == set(right["kinds"])
    for cell, values in got["cells"].items():
        told, mine = got["verdicts"][cell], [r for r in spoiled.rows if r["task"] == cell]
        assert [not words for words in told] == [bool(r["right"]) for r in mine]
        assert all(values["kinds"][kind] == sum(kind in r["kinds"] for r in mine) for kind in values["kinds"])
    with_itself = evaluate.complex_difference(spoiled, spoiled)
    assert with_itself["overall"]["value"] == 0 == with_itself["overall"]["low"]


def test_the_best_of_several_is_right_where_any_is():
    rows = [
        dict(task="1 half", case=case, right=int(right), kinds=[] if right else ["color"], reasons=[])
        for case, verdicts in enumerate(((1, 0), (0, 1), (0, 0)))
        for right in verdicts
    ]
    score = evaluate.SceneScore({}, {}, 6, 6, 0.1, rows)
    got = evaluate.complex_summary(score)
    assert (
        got["best"]["value"] == round(2 / 3, 4)
        and got["overall"]["value"] == round(1 / 3, 4)
        and got["kinds"]["color"] == 4
    )
    assert got["overall"]["n"] == 6 and got["best"]["n"] == 3


def test_overlap_is_one_minus_total_variation():
    distribution = dict(a=0.5, b=0.5)
    assert evaluate.overlap(["a", "b"], distribution) == 1.0
    assert evaluate.overlap(["a", "a"], distribution) == 0.5
    assert evaluate.overlap(["c", "c"], distribution) == pytest.approx(0.5)


def test_the_edited_region_follows_where_an_added_thing_was_put(tiny):
    from hb.world.judge.judge import read

    case = next(c for c in bench.edit_set() if c.edit.group == "add")
    moved = sample_scenes([parse("a red circle")], np.random.default_rng(3)).scene(0).things[0]
    picture = render([Scene((moved,), case.source.background)])[0]
    region = evaluate.touched(Scene((), case.source.background), case.edit.target, read(picture), 64)
    changed = (picture - render([Scene((), case.source.background)])[0]).abs().amax(0) > 0.01
    assert region[changed].all() and not region.all()


def test_speed_reports_every_part(tiny):
    rows = evaluate.speed(tiny, batches=(1,), repeats=1)
    assert {r["task"] for r in rows} == {"draw", "edit", "ask"}
    assert all(r["rate"] > 0 and r["seconds"] for r in rows) and json.dumps(rows)
