"""Frozen evaluation sets: prompts, edits, chains of edits, questions and scenes to describe; and the true
distributions.

The files in `data/eval` are written by `write_sets` from seeds that begin with 2 (training seeds begin with 1), so
that everyone measures on the same ones. Nothing may be tuned on them.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.random import Generator

from hb.files import write
from hb.world.contradictions import CLASHES, CLASHES_PER_KIND, make_contradictory
from hb.world.language.choices import CHOOSING, sample_choice
from hb.world.language.descriptions import DESCRIBE_REQUEST
from hb.world.language.edits import GROUPS, Edit, sample_chain, sample_edit
from hb.world.language.prompts import SIX_TASKS, TASKS, sample_complex, sample_request, say
from hb.world.language.questions import QUESTION_KINDS, Question, ask
from hb.world.language.words import NUMBERS
from hb.world.scene import (
    BACKGROUNDS,
    COLORS,
    MAX_THINGS,
    PLACES,
    SHAPES,
    SIZES,
    TEXTURES,
    Request,
    Scene,
    Thing,
    Wish,
    sample_scenes,
)

FOLDER = Path(__file__).parents[2] / "data" / "eval"

PROMPTS_PER_TASK = 100
EDITS_PER_GROUP = 60
CHAINS, TURNS = 40, 5
QUESTIONS_PER_KIND = 48
DESCRIPTIONS = 100
COMPLEX_PROMPTS = 40
CHOICES_PER_GROUP = 30
# how likely a complex prompt says each color, size, texture, place and the background
SAID = {"half": 0.5, "full": 1.0}
DIGITS = 6  # of places, turns and shades in the files

ANSWERS = {
    "count": NUMBERS, "color": COLORS, "shape": SHAPES, "size": SIZES, "texture": TEXTURES, "place": PLACES,
    "background": BACKGROUNDS, **dict.fromkeys(("exists", "relation", "more", "same"), ("yes", "no")),
}  # fmt: skip


@dataclass(frozen=True)
class SceneCase:
    """A prompt, and the request that it means."""

    task: str
    prompt: str
    request: Request


@dataclass(frozen=True)
class EditCase:
    """A scene, what is to be done to it, and one right outcome (see `Edit` for thing and free)."""

    source: Scene
    edit: Edit


@dataclass(frozen=True)
class ChainCase:
    """A scene and edits of it, one after another."""

    source: Scene
    edits: tuple[Edit, ...]


@dataclass(frozen=True)
class QuestionCase:
    """A scene, a question about it and the right answer."""

    scene: Scene
    question: Question


@dataclass(frozen=True)
class ClashCase:
    """A prompt and the two of its phrases that cannot both be true, or none: a look-alike that is consistent."""

    kind: str
    prompt: str
    clash: tuple[str, ...]


# --- reading -------------------------------------------------------------------------------------------------------


def scene_set(folder: Path | str = FOLDER) -> list[SceneCase]:
    """PROMPTS_PER_TASK distinct prompts of each of GenEval's six tasks."""
    return _read(folder, "scene.jsonl", _scene_case, len(SIX_TASKS) * PROMPTS_PER_TASK)


def complex_set(folder: Path | str = FOLDER) -> list[SceneCase]:
    """COMPLEX_PROMPTS distinct prompts of each cell: one to four things, and half or all of what can be said about
    them. The task of a case is its cell, "4 full"."""
    return _read(folder, "complex.jsonl", _scene_case, MAX_THINGS * len(SAID) * COMPLEX_PROMPTS)


def edit_set(folder: Path | str = FOLDER) -> list[EditCase]:
    """EDITS_PER_GROUP single edits of each group."""
    return _read(folder, "edit.jsonl", _edit_case, len(GROUPS) * EDITS_PER_GROUP)


def edit_complex_set(folder: Path | str = FOLDER) -> list[EditCase]:
    """CHOICES_PER_GROUP edits of each group that can pick one of several alike things, in scenes of three and four
    things."""
    return _read(folder, "edit_complex.jsonl", _edit_case, len(CHOOSING) * CHOICES_PER_GROUP)


def edit_chains(folder: Path | str = FOLDER) -> list[ChainCase]:
    """CHAINS chains of TURNS edits."""
    return _read(folder, "edit_chains.jsonl", _chain_case, CHAINS)


def contradictory_set(folder: Path | str = FOLDER) -> list[ClashCase]:
    """CLASHES_PER_KIND contradictory prompts of each kind, each followed by a look-alike that is consistent."""
    return _read(folder, "contradictory.jsonl", _clash_case, 2 * len(CLASHES) * CLASHES_PER_KIND)


def question_set(folder: Path | str = FOLDER) -> list[QuestionCase]:
    """QUESTIONS_PER_KIND questions of each kind; within a kind, each answer about equally often."""
    return [case for case in _understanding(folder) if case.question.kind != "describe"]


def description_set(folder: Path | str = FOLDER) -> list[Scene]:
    """DESCRIPTIONS scenes to describe, as many with one thing as with two, three or four."""
    return [case.scene for case in _understanding(folder) if case.question.kind == "describe"]


def _understanding(folder: Path | str) -> list[QuestionCase]:
    return _read(folder, "understand.jsonl", _question_case, len(QUESTION_KINDS) * QUESTIONS_PER_KIND + DESCRIPTIONS)


def _read(folder: Path | str, file: str, build: Callable[[dict], object], expected: int) -> list:
    """One record per line.

    Raises FileNotFoundError or ValueError that names the file, the line and the way out.
    """
    path = Path(folder) / file
    again = f"rebuild it with hb.world.benchmark.write_sets({str(folder)!r})"
    if not path.is_file():
        raise FileNotFoundError(f"there is no evaluation set {path}; {again}")
    cases = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            cases.append(build(json.loads(line)))
        except (ValueError, KeyError, TypeError) as error:  # json's and unicode's errors are ValueErrors
            raise ValueError(f"{path}, line {number}, is damaged ({error!r}); {again}") from error
    if len(cases) != expected:
        raise ValueError(f"{path} holds {len(cases)} records instead of {expected}; {again}")
    return cases


def _scene(record: dict) -> Scene:
    return Scene(tuple(Thing(**thing) for thing in record["things"]), record["background"])


def _edit(record: dict) -> Edit:
    return Edit(
        record["group"], record["instruction"], _scene(record["target"]), record["thing"], tuple(record["free"])
    )


def _scene_case(record: dict) -> SceneCase:
    wishes = tuple(Wish(**wish) for wish in record["wishes"])
    return SceneCase(record["task"], record["prompt"], Request(wishes, record["relation"], record["background"]))


def _edit_case(record: dict) -> EditCase:
    return EditCase(_scene(record["source"]), _edit(record))


def _chain_case(record: dict) -> ChainCase:
    return ChainCase(_scene(record["source"]), tuple(_edit(edit) for edit in record["edits"]))


def _clash_case(record: dict) -> ClashCase:
    return ClashCase(record["kind"], record["prompt"], tuple(record["clash"]))


def _question_case(record: dict) -> QuestionCase:
    return QuestionCase(_scene(record["scene"]), Question(record["kind"], record["text"], record["answer"]))


# --- writing -------------------------------------------------------------------------------------------------------


def write_sets(folder: Path | str = FOLDER) -> dict[str, str]:
    """Write all sets, always the same bytes; returns the sha256 of each file."""
    folder, hashes = Path(folder), {}
    for seed, (file, records) in enumerate(_MAKERS.items()):
        lines = [json.dumps(record, separators=(",", ":")) for record in records(np.random.default_rng([2, seed]))]
        data = ("\n".join(lines) + "\n").encode()
        write(folder / file, data)
        hashes[file] = hashlib.sha256(data).hexdigest()
    return hashes


def other_cases(n: int, seed: int = 0) -> tuple[list[SceneCase], list[EditCase]]:
    """About n prompts and n edits like those of the evaluation sets and none of them, all tasks and groups alike, from
    seeds of training: on these settings may be tuned. The same n and seed give the same ones. Never more than 100
    prompts a task, less those of the evaluation: for more, take several seeds."""
    prompts, edits = (
        list(_MAKERS[file](np.random.default_rng([1, seed, 29]))) for file in ("scene.jsonl", "edit.jsonl")
    )
    measured = {case.prompt for case in scene_set()}
    tasks = [
        [_scene_case(r) for r in prompts if r["task"] == task and r["prompt"] not in measured] for task in SIX_TASKS
    ]
    chosen = [case for cases in tasks for case in cases[: max(1, round(n / len(tasks)))]]
    return chosen, [_edit_case(record) for record in edits[:: max(1, len(edits) // n)]]


def other_complex(n: int, seed: int = 0) -> list[SceneCase]:
    """About n prompts like the complex ones and none of them, all cells alike; see `other_cases`."""
    measured = {case.prompt for case in complex_set()}
    records = list(_MAKERS["complex.jsonl"](np.random.default_rng([1, seed, 37])))
    cells: dict[str, list[SceneCase]] = {}
    for record in records:
        case = _scene_case(record)
        if case.prompt not in measured:
            cells.setdefault(case.task, []).append(case)
    return [case for cases in cells.values() for case in cases[: max(1, round(n / len(cells)))]]


def _rounded(scene: Scene) -> Scene:
    """The scene with numbers as the files hold them."""
    things = [
        replace(thing, **{key: round(getattr(thing, key), DIGITS) for key in ("x", "y", "turn", "shade")})
        for thing in scene.things
    ]
    return Scene(tuple(things), scene.background)


def _some_scenes(rng: Generator) -> Iterator[Scene]:
    """Scenes of all tasks in turn, without end."""
    while True:
        requests = [sample_request(TASKS[k % len(TASKS)], rng) for k in range(20 * len(TASKS))]
        yield from map(_rounded, sample_scenes(requests, rng).to_list())


def _make_scenes(rng: Generator) -> Iterator[dict]:
    for task in SIX_TASKS:
        seen: set[str] = set()
        while len(seen) < PROMPTS_PER_TASK:
            request = sample_request(task, rng)
            prompt = say(request, rng)
            if prompt not in seen:
                seen.add(prompt)
                yield {"task": task, "prompt": prompt, **asdict(request)}


def _make_complex(rng: Generator) -> Iterator[dict]:
    seen: set[str] = set()
    for count in range(1, MAX_THINGS + 1):
        for level, share in SAID.items():
            made = 0
            while made < COMPLEX_PROMPTS:
                request = sample_complex(count, share, rng)
                if say(request) not in seen:
                    made += 1
                    seen.add(say(request))
                    yield {"task": f"{count} {level}", "prompt": say(request, rng), **asdict(request)}


def _rounded_edit(edit: Edit) -> Edit:
    return replace(edit, target=_rounded(edit.target))


def _make_edits(rng: Generator) -> Iterator[dict]:
    scenes = _some_scenes(rng)
    for group in GROUPS:
        made = 0
        while made < EDITS_PER_GROUP:
            source = next(scenes)
            edit = sample_edit(source, rng, group)
            if edit:
                made += 1
                yield {"source": asdict(source), **asdict(_rounded_edit(edit))}


def _make_chains(rng: Generator) -> Iterator[dict]:
    scenes = _some_scenes(rng)
    for _ in range(CHAINS):
        source = next(scenes)
        edits = [asdict(_rounded_edit(edit)) for edit in sample_chain(source, rng, TURNS)]
        yield {"source": asdict(source), "edits": edits}


def _make_understanding(rng: Generator) -> Iterator[dict]:
    scenes = _some_scenes(rng)
    for kind in QUESTION_KINDS:
        most = -(-QUESTIONS_PER_KIND // len(ANSWERS[kind]))
        given: Counter[str] = Counter()
        while given.total() < QUESTIONS_PER_KIND:
            scene = next(scenes)
            question = ask(scene, rng, kind)
            if question and given[question.answer] < most:
                given[question.answer] += 1
                yield {**asdict(question), "scene": asdict(scene)}
    for k in range(DESCRIPTIONS):
        scene = next(scene for scene in scenes if len(scene.things) == 1 + k % MAX_THINGS)
        yield {"kind": "describe", "text": DESCRIBE_REQUEST, "answer": "", "scene": asdict(scene)}


NAMED_BY = (("size",), ("texture",), ("color",), ("place",), ("size", "color"), ("size", "texture"))


def _make_choices(rng: Generator) -> Iterator[dict]:
    """In turn three and four things; two of them are of one shape, or three where two attributes are to be needed."""
    for group in CHOOSING:
        for k in range(CHOICES_PER_GROUP):
            said = NAMED_BY[k // 2 % len(NAMED_BY)]
            scenes = _scenes_with_alike(1 + len(said), 3 + k % 2, rng)
            source, edit = next((s, edit) for s in scenes if (edit := sample_choice(s, rng, group, said)))
            yield {"source": asdict(source), **asdict(_rounded_edit(edit))}


def _scenes_with_alike(alike: int, count: int, rng: Generator) -> Iterator[Scene]:
    """Scenes of `count` things, so many of one shape and each other one of its own, without end."""
    while True:
        orders = [rng.permutation(SHAPES).tolist() for _ in range(16)]
        requests = [Request(tuple(map(Wish, (order[:1] * alike + order[1:])[:count]))) for order in orders]
        yield from map(_rounded, sample_scenes(requests, rng).to_list())


# the seed of a file is its position: new ones go to the end, so that the others stay as they are
_MAKERS: dict[str, Callable[[Generator], Iterator[dict]]] = {
    "scene.jsonl": _make_scenes,
    "edit.jsonl": _make_edits,
    "edit_chains.jsonl": _make_chains,
    "understand.jsonl": _make_understanding,
    "complex.jsonl": _make_complex,
    "edit_complex.jsonl": _make_choices,
    "contradictory.jsonl": make_contradictory,
}
