"""No figure is another run's: one key of everything that changes one, one file for each key, and rows that are safe."""

import ast
import os
import shlex
from copy import deepcopy
from dataclasses import replace
from multiprocessing import get_context

import pytest
import torch

from hb.cli.main import parse
from hb.eval import cache
from hb.eval.cache import Progress, digest, identity, key_of, result_key, result_name, source_version
from hb.eval.scene import scene_eval
from hb.files import read_rows
from hb.infer.pipeline import Model
from hb.world import benchmark as bench
from tests.eval.oracle import Oracle

# ---- rows -----------------------------------------------------------------------------------------------------------


def test_an_interrupted_evaluation_goes_on_where_it_was(tiny, tmp_path):
    cases = bench.scene_set()[::10]

    class Tripping(Oracle):
        def draw(self, prompts, **options):
            if self.drawn >= 50:
                raise KeyboardInterrupt
            return super().draw(prompts, **options)

    with pytest.raises(KeyboardInterrupt):
        scene_eval(Tripping(tiny), pictures=1, cases=cases, keep=tmp_path, bar=False)
    (file,) = tmp_path.glob("scene-*.jsonl")
    file.write_text(file.read_text() + '{"i": 51, "task"')  # the line that was being written
    again = Oracle(tiny)
    score = scene_eval(again, pictures=1, cases=cases, keep=tmp_path, bar=False)
    assert again.drawn == len(cases) - 50 and len(score.rows) == len(cases)
    finished = Oracle(tiny)  # the first row after the torn one is kept like any other
    assert scene_eval(finished, pictures=1, cases=cases, keep=tmp_path, bar=False).overall == score.overall
    assert not finished.drawn


def test_results_of_other_weights_are_never_taken(tiny, tmp_path):
    other = deepcopy(tiny.bagel)
    with torch.no_grad():
        other.mot.understanding.norm.weight.add_(1.0)
    twin = type("Twin", (), dict(bagel=other))
    assert identity(tiny) != identity(twin) and identity(tiny) == identity(tiny)


def _keep(folder, start: int) -> None:
    for i in range(start, start + 60):
        Progress(folder, dict(what="scene")).keep([dict(i=i, text="x" * 3000)])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_two_processes_share_a_folder_and_no_row_is_lost(tmp_path):
    fork = get_context("fork")  # a fresh interpreter would import everything first
    both = [fork.Process(target=_keep, args=(tmp_path, start)) for start in (0, 1000)]
    [p.start() for p in both], [p.join() for p in both]
    assert all(p.exitcode == 0 for p in both)
    (file,) = tmp_path.glob("*.jsonl")
    assert sorted(row["i"] for row in read_rows(file)) == [*range(60), *range(1000, 1060)]


def test_what_another_process_made_meanwhile_is_not_made_again(tmp_path):
    key, made = dict(what="scene"), []
    mine, other = Progress(tmp_path, key), Progress(tmp_path, key)

    def work(numbers):
        made.extend(numbers)
        if numbers[0] == 0:
            other.keep(dict(i=i, by="other") for i in (2, 3))
        return [dict(by="me") for _ in numbers]

    rows = mine.run(5, 2, work, "", bar=False)
    assert made == [0, 1, 4] and [r["by"] for r in rows] == ["me", "me", "other", "other", "me"]


# ---- keys -----------------------------------------------------------------------------------------------------------


def key(model, **changes) -> dict:
    usual = dict(options=dict(steps=2), cases=["a star"], pictures=1, seed=0)
    return key_of(model, changes.pop("what", "scene"), changes.pop("verb", "draw"), **usual | changes)


CHANGES = {
    "verb": dict(verb="edit"),
    "what": dict(what="coverage"),
    "grid": dict(options=dict(steps=3)),
    "guidance": dict(options=dict(steps=2, text_scale=1.5)),
    "cases": dict(cases=["a ring"]),
    "pictures": dict(pictures=2),
    "seed": dict(seed=1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_a_figure_changes_the_key(tiny, change):
    assert digest(key(tiny)) == digest(key(tiny))
    assert digest(key(tiny)) != digest(key(tiny, **CHANGES[change]))


def twin(of, **changes) -> Model:
    parts = dict(bagel=of.bagel, text=of.text, sampling=of.sampling, name=of.name)
    return Model(**parts | changes)


class Weights:
    """Stands in for a decoder or a draft: what a key asks of it."""

    def __init__(self, name, plans=None):
        self.name, self.plans = name, plans

    def fingerprint(self):
        return self.name


def test_weights_and_number_types_change_the_key(tiny):
    shaken = deepcopy(tiny.bagel)
    with torch.no_grad():
        shaken.mot.understanding.norm.weight.add_(1.0)
    rows = lambda model, verb="draw": digest(key(model, verb=verb))
    others = [
        twin(tiny, bagel=shaken),
        twin(tiny, bagel=deepcopy(tiny.bagel).double()),
        twin(tiny, pixel_decoder=Weights("a")),
    ]
    assert len({rows(model) for model in (tiny, *others, twin(tiny, pixel_decoder=Weights("b")))}) == 5
    drafts = [twin(tiny, draft=Weights(*draft)) for draft in (("a", {}), ("b", {}), ("a", {"0": dict(depth=3)}))]
    assert len({rows(model, "ask") for model in (tiny, *drafts)}) == 4
    assert len({rows(model) for model in (tiny, *drafts)}) == 1  # a draft draws nothing
    assert len({digest(result_key(model, "scene", {})) for model in (tiny, *others, *drafts)}) == 7
    stronger = replace(tiny.sampling, draw=replace(tiny.sampling.draw, text_scale=2.5))
    assert result_key(twin(tiny, sampling=stronger), "scene", {}) != result_key(tiny, "scene", {})


def test_on_another_device_it_is_another_key(tiny, monkeypatch):
    before = digest(key(tiny))
    monkeypatch.setattr(cache, "place", lambda model: dict(device="NVIDIA H100", dtype="float32"))
    assert digest(key(tiny)) != before


@pytest.mark.parametrize("version", ["JUDGE", "RENDERER", "FORM"])
def test_another_judge_or_renderer_is_another_key(tiny, monkeypatch, version):
    before = digest(key(tiny)), digest(result_key(tiny, "scene", {}))
    monkeypatch.setattr(cache, version, cache.FORM + 1 if version == "FORM" else ("benchmark.py",))
    assert digest(key(tiny)) != before[0] and digest(result_key(tiny, "scene", {})) != before[1]


def test_a_version_is_of_the_code_and_not_of_its_comments(tmp_path):
    def version(source):
        (tmp_path / "judge").mkdir(exist_ok=True)
        (tmp_path / "judge" / "judge.py").write_text(source)
        source_version.cache_clear()
        return source_version(("judge",), tmp_path)

    first = version("MARGIN = 0.04\n\ndef check(a):\n    return a > MARGIN\n")
    assert (
        version('"""New."""\nMARGIN = 0.04  # why\n\ndef check(a):\n    """Doc."""\n\n    return (a > MARGIN)\n')
        == first
    )
    assert version("MARGIN = 0.05\n\ndef check(a):\n    return a > MARGIN\n") != first
    source_version.cache_clear()


def test_all_of_the_judge_and_the_renderer_is_in_the_versions():
    """Files of the world that the judge or the renderer import are among those that the versions are made of."""
    known = {f.relative_to(cache.WORLD) for n in cache.JUDGE for f in (cache.WORLD / n).rglob("*.py")}
    known |= {(cache.WORLD / n).relative_to(cache.WORLD) for n in (*cache.JUDGE, *cache.RENDERER) if n.endswith(".py")}
    for file in known:
        for node in ast.walk(ast.parse((cache.WORLD / file).read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("hb.world."):
                inner = "/".join(node.module.split(".")[2:])
                assert {str(k) for k in known} & {f"{inner}.py", f"{inner}/__init__.py"}, (
                    f"{file} imports {node.module}"
                )


# ---- names of results -----------------------------------------------------------------------------------------------

OPTIONS = {
    "hb eval scene": [
        "--full-decoder", "--device cuda", "--dtype bf16", "--seed 3", "--limit 5", "--pictures 2", "--against cfg",
    ],
    "hb eval edit": ["--full-decoder", "--device cuda:1", "--dtype f16", "--seed 1", "--limit 2"],
    "hb eval understand": ["--dtype bf16", "--full-decoder"],
    "hb eval coverage": ["--pictures 50", "--dtype bf16"],
    "hb eval lossless": ["--draws 20", "--limit 3", "--draft runs/other", "--threads 2"],
    "hb eval autoencoder": ["--n 5", "--full-decoder"],
    "hb bench speed": ["--batches 1", "--batches 1 8", "--repeats 3", "--device cuda"],
    "hb bench ask": ["--temperatures 0", "--temperatures 0 0.5", "--rounds 1", "--eagle3 runs/e", "--n 3"],
    "hb bench draft-ablation": ["--steps 300", "--seeds 2", "--pool 50", "--n 4"],
    "hb tune tree": ["--temperatures 0 1", "--grid", "--n 2"],
    "hb tune guidance": ["--steps 10", "--text 2 3", "--image 1.5 2", "--n 12", "--seed 2"],
}  # fmt: skip


def name_of(command: str) -> str:
    words = shlex.split(command)[1:]
    verb = words[1].replace("-", "_")
    return result_name(f"tune_{verb}" if words[0] == "tune" else verb, vars(parse(words)))


@pytest.mark.parametrize("command, option", [(c, o) for c, options in OPTIONS.items() for o in options])
def test_every_option_that_is_not_as_usual_is_in_the_name(command, option):
    usual, other = name_of(command), name_of(f"{command} {option}")
    assert other.startswith(usual + "_") and other != usual
    assert all(letter.isalnum() or letter in "._-" for letter in other)
    assert len({name_of(f"{command} {o}") for o in OPTIONS[command]}) == len(OPTIONS[command])


@pytest.mark.parametrize("command", OPTIONS)
def test_what_is_as_usual_is_not_in_the_name(command):
    assert "_" not in name_of(command).removeprefix("tune_").removeprefix("draft_").removeprefix("tune_tree")


def test_names_are_readable():
    assert name_of("hb eval scene --dtype bf16 --limit 5 --seed 3") == "scene_bf16_limit5_seed3"
    assert name_of("hb bench ask --temperatures 0 0.5 --threads 1") == "ask_temperatures0-0.5"
    assert name_of("hb bench draft-ablation --steps 600") == "draft_ablation"


def test_options_that_change_no_figure_are_in_no_key(tiny):
    usual = result_key(tiny, "scene", dict(seed=0, json=False, results=None, command="hb eval scene"))
    assert usual == result_key(tiny, "scene", dict(seed=0, json=True, results="there", command="hb eval scene --json"))
    assert usual != result_key(tiny, "scene", dict(seed=1, json=False, results=None, command="hb eval scene"))
