"""The frozen sets are frozen, right, and balanced; the true distributions are true."""

import hashlib
from collections import Counter
from dataclasses import replace
from shutil import copytree

import numpy as np
import pytest

from hb.world import benchmark as bench
from hb.world.distributions import true_distribution, unsaid
from hb.world.language import CHOOSING, GROUPS, QUESTION_KINDS, LanguageError, find, parse, parse_edit, say
from hb.world.language.prompts import SIX_TASKS
from hb.world.scene import COLORS, PLACES, Request, Wish, holds, place_of, sample_scenes

FILES = (
    "scene.jsonl",
    "edit.jsonl",
    "edit_chains.jsonl",
    "understand.jsonl",
    "complex.jsonl",
    "edit_complex.jsonl",
    "contradictory.jsonl",
)
FIRST = dict(
    scene="be3363ec60a3add1", edit="a51ceb0c37f9d153", edit_chains="698ab37ddc00e325", understand="9094c564bccd8d8b"
)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder of sets as the code writes them, and their hashes."""
    folder = tmp_path_factory.mktemp("sets")
    return folder, bench.write_sets(folder)


def test_the_committed_sets_are_what_the_code_writes(written):
    folder, hashes = written
    assert set(hashes) == set(FILES)
    for file in FILES:
        assert hashlib.sha256((bench.FOLDER / file).read_bytes()).hexdigest() == hashes[file], file
        assert hashlib.sha256((folder / file).read_bytes()).hexdigest() == hashes[file], file


def test_a_new_set_leaves_those_before_it_as_they_were():
    assert {
        name: hashlib.sha256((bench.FOLDER / f"{name}.jsonl").read_bytes()).hexdigest()[:16] for name in FIRST
    } == FIRST


def test_prompts_are_distinct_and_mean_their_requests():
    cases = bench.scene_set()
    assert Counter(case.task for case in cases) == dict.fromkeys(SIX_TASKS, 100)
    assert len({(case.task, case.prompt) for case in cases}) == 600
    for case in cases:
        asked = parse(case.prompt)
        assert Counter(asked.wishes) == Counter(case.request.wishes)
        assert (asked.relation, asked.background) == (case.request.relation, case.request.background)
        assert not case.request.relation or asked.wishes[:2] == case.request.wishes[:2]


def test_complex_prompts_are_distinct_have_room_and_say_half_or_all():
    cases = bench.complex_set()
    assert Counter(case.task for case in cases) == {
        f"{n} {level}": 40 for n in (1, 2, 3, 4) for level in ("half", "full")
    }
    assert len({say(case.request) for case in cases}) == len({case.prompt for case in cases}) == 320
    sample_scenes([case.request for case in cases], np.random.default_rng(0), tries=100_000)  # else: no room
    said = {"half": [], "full": []}
    for case in cases:
        count, level = case.task.split()
        asked = parse(case.prompt)
        assert Counter(asked.wishes) == Counter(case.request.wishes) and len(asked.wishes) == int(count)
        assert asked.background == case.request.background and asked.relation is None
        assert all(wish.shape for wish in asked.wishes)
        values = [value for wish in asked.wishes for name, value in vars(wish).items() if name != "shape"] + [
            asked.background
        ]
        said[level] += [value is not None for value in values]
    assert all(said["full"]) and abs(np.mean(said["half"]) - 0.5) < 0.05


def test_edits_have_room_and_change_only_what_they_say():
    cases = bench.edit_set()
    assert Counter(case.edit.group for case in cases) == dict.fromkeys(GROUPS, 60)
    for case in cases:
        assert case.source.has_room() and case.edit.target.has_room()
        assert_only_said(case.source, case.edit)


def test_edits_that_choose_name_one_of_several_alike_things_and_say_no_more_than_they_need():
    cases = bench.edit_complex_set()
    assert Counter(case.edit.group for case in cases) == dict.fromkeys(CHOOSING, 30)
    assert Counter(len(case.source.things) for case in cases) == {3: 60, 4: 60}
    said = Counter()
    for case in cases:
        of, change = parse_edit(case.edit.instruction).of, parse_edit(case.edit.instruction).change
        assert case.source.has_room() and case.edit.target.has_room()
        assert_only_said(case.source, case.edit)
        alike = [thing for thing in case.source.things if thing.shape == of.shape]
        meant = case.source.things[find(of, case.source)]
        assert len(alike) >= 2 and meant in alike
        known = [side for side in ("size", "texture", "color", "place") if getattr(of, side)]
        for left_out in known:  # a shorter name is another's too
            with pytest.raises(LanguageError, match="there are (two|three|four) things like that"):
                find(replace(of, **{left_out: None}), case.source)
        said[tuple(known)] += 1
        for name, value in vars(change or Wish()).items():
            assert value is None or value not in {getattr(thing, name) for thing in alike}
    assert min(said.values()) >= 16 and {len(known) for known in said} == {1, 2} and len(said) == 6


def test_every_contradiction_has_a_look_alike_that_can_be_drawn():
    cases = bench.contradictory_set()
    assert len({case.prompt for case in cases}) == len(cases) == 80 and set(
        Counter(case.kind for case in cases).values()
    ) == {8}
    for clashing, alike in zip(cases[::2], cases[1::2]):
        assert clashing.kind == alike.kind and len(clashing.clash) == 2 and not alike.clash
        assert all(words in clashing.prompt for words in clashing.clash)
        with pytest.raises(LanguageError):
            parse(clashing.prompt)
    requests = [parse(case.prompt) for case in cases[1::2]]
    assert len(sample_scenes(requests, np.random.default_rng(0), tries=100_000)) == 40
    assert all(parse(say(request)) == request for request in requests)


def test_chains_go_on_from_scene_to_scene():
    chains = bench.edit_chains()
    assert [len(chain.edits) for chain in chains] == [5] * 40
    for chain in chains:
        scene = chain.source
        for edit in chain.edits:
            assert edit.target.has_room()
            assert_only_said(scene, edit)
            scene = edit.target


def assert_only_said(source, edit):
    kept = [thing for thing in source.things if thing in edit.target.things]
    lost = {"remove": 1, "add": 0, "background": 0}.get(edit.group, 1)
    assert len(kept) == len(source.things) - lost, edit
    assert (source.background != edit.target.background) == (edit.group == "background")
    command = parse_edit(edit.instruction)
    assert command.group == edit.group
    if edit.thing is not None:
        thing = edit.target.things[edit.thing]
        assert all(getattr(thing, key) == value for key, value in vars(command.change).items() if value is not None)


def test_questions_are_balanced():
    kinds = Counter(case.question.kind for case in bench.question_set())
    assert kinds == dict.fromkeys(QUESTION_KINDS, 48) and kinds.total() >= 520 and len(kinds) >= 10
    answers = Counter((case.question.kind, case.question.answer) for case in bench.question_set())
    for kind, values in bench.ANSWERS.items():
        counts = [answers[kind, value] for value in values]
        assert min(counts) > 0 and max(counts) <= -(-48 // len(values)), kind


def test_described_scenes_hold_one_to_four_things_alike():
    assert Counter(len(scene.things) for scene in bench.description_set()) == {1: 25, 2: 25, 3: 25, 4: 25}


@pytest.mark.parametrize(
    "load",
    [
        bench.scene_set,
        bench.edit_set,
        bench.edit_chains,
        bench.question_set,
        bench.complex_set,
        bench.edit_complex_set,
        bench.contradictory_set,
    ],
)
def test_a_missing_or_damaged_file_says_how_to_rebuild_it(load, written, tmp_path):
    with pytest.raises(FileNotFoundError, match="write_sets"):
        load(tmp_path)
    copytree(written[0], tmp_path, dirs_exist_ok=True)
    load(tmp_path)
    for file in FILES:
        data = (tmp_path / file).read_bytes()
        (tmp_path / file).write_bytes(data[:-20])
    with pytest.raises(ValueError, match=r"line \d+, is damaged.*write_sets"):
        load(tmp_path)
    for file in FILES:
        data = (tmp_path / file).read_bytes()
        (tmp_path / file).write_bytes(data[: data.rindex(b"\n") + 1])
    with pytest.raises(ValueError, match="records instead of"):
        load(tmp_path)


def test_a_line_with_an_unknown_thing_is_damaged(written, tmp_path):
    copytree(written[0], tmp_path, dirs_exist_ok=True)
    data = (tmp_path / "edit.jsonl").read_text().replace('"circle"', '"banana"', 1)
    (tmp_path / "edit.jsonl").write_text(data)
    with pytest.raises(ValueError, match="banana"):
        bench.edit_set(tmp_path)


REQUEST = Request((Wish("circle"), Wish("star", color="red", place="top left")), "right of", None)


def test_true_laws_are_the_laws_of_the_sampler():
    request = Request((Wish("circle"), Wish("star", color="red")), "right of")
    scenes = sample_scenes([request] * 8000, np.random.default_rng(11)).to_list()
    assert all(holds("right of", *(c for t in s.things for c in (t.x, t.y))) for s in scenes[:50])
    for attribute, thing in unsaid(request):
        distribution = true_distribution(request, attribute, thing)
        assert sum(distribution.values()) == pytest.approx(1.0)
        drawn = Counter(
            s.background if attribute == "background" else getattr(s.things[thing], attribute) for s in scenes
        )
        assert 0.5 * sum(abs(distribution[value] - drawn[value] / 8000) for value in distribution) < 0.03, (
            attribute,
            thing,
        )


def test_what_is_said_has_no_choice():
    assert true_distribution(REQUEST, "color", 1) == {color: float(color == "red") for color in COLORS}
    assert true_distribution(REQUEST, "place", 1) == {place: float(place == "top left") for place in PLACES}
    assert ("color", 1) not in unsaid(REQUEST) and ("color", 0) in unsaid(REQUEST)
    assert ("background", 0) in unsaid(REQUEST) and ("background", 0) not in unsaid(replace(REQUEST, background="navy"))


def test_the_place_law_knows_the_relation():
    distribution = true_distribution(Request((Wish("circle"), Wish("star")), "above"), "place", 1)
    assert distribution[place_of(0.5, 0.9)] > 10 * distribution[place_of(0.5, 0.1)]
    assert distribution == true_distribution(
        Request((Wish("circle"), Wish("star")), "above"), "place", 1
    )  # same seed, same distribution


def test_a_law_of_nothing_is_refused():
    with pytest.raises(ValueError, match="choose from shape"):
        true_distribution(REQUEST, "taste")
    with pytest.raises(ValueError, match="things 0 to 1"):
        true_distribution(REQUEST, "color", 2)
