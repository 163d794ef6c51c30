"""The evaluations know a perfect model from a useless one, and their intervals cover."""

import json
from functools import cache

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from hb.eval import pictures as evaluate
from hb.flow import time_grid
from hb.infer.pipeline import Answers, Pictures
from hb.infer.plan import SamplingPlan
from hb.models.vision import patchify, table_rows
from hb.world import benchmark as bench
from hb.world.language import describe, parse
from hb.world.render import render
from hb.world.scene import Scene, sample_scenes


class Oracle:
    """Answers every request as the world itself would; `wrong` spoils it in one way. Stands in for an engine.Model."""

    def __init__(self, tiny, wrong=""):
        self.bagel, self.sampling, self.text, self.wrong = tiny.bagel, tiny.sampling, tiny.text, wrong
        self.drawn = 0
        self.edits = {c.edit.instruction: c for c in bench.edit_set()}
        self.scenes, self.students, self.pixel_decoder = {}, {}, None

    def plan(self, verb, **options):
        return SamplingPlan(time_grid(50, 3.0), getattr(self.sampling, verb))

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
        other.mot.understanding.norm.weight.add_(1.0)
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
