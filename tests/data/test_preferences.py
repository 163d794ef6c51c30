"""Comparisons as files: every row is checked by itself, nothing is lost, and a pool is what was clicked."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hb.data.preference_pool import (
    PreferencePool,
    from_clicks,
    joined,
    make_preferences,
    pairs_of,
    some_edits,
    some_requests,
)
from hb.data.preferences import (
    Preference,
    PreferenceFile,
    load_picture,
    now,
    parse_line,
    read_preferences,
    save_picture,
    write_preferences,
)
from hb.models.tokenizer import Text
from hb.world.annotator import Annotator, annotators, merits
from hb.world.judge.reading import read
from hb.world.language import parse
from hb.world.render import render, to_uint8
from hb.world.scene import sample_scenes
from tests.conftest import TOKENIZER

ROW = Preference("a red star", ("a.png", "b.png"), 1, "me", "2026-11-09T14:30:00+00:00")
EDIT = replace(ROW, text="make the star green", source="c.png", choice=None)


@pytest.fixture(scope="module")
def text():
    return Text.load(TOKENIZER)


@pytest.fixture
def pictures(tmp_path):
    """Three pictures beside each other, by name."""
    made = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    made = (made * 255).round() / 255
    for name, picture in zip("abc", made):
        save_picture(picture, tmp_path / f"{name}.png")
    return dict(zip(("a.png", "b.png", "c.png"), made))


# ---- lines ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [ROW, EDIT, replace(ROW, choice=0, text="zwei Kreise, größer")])
def test_a_row_survives_its_line(row):
    assert parse_line(json.dumps(row.to_dict()).encode()) == row


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(choice=2), "must be 0, 1 or null"),
        (dict(choice=True), "must be 0, 1 or null"),
        (dict(choice="1"), "must be 0, 1 or null"),
        (dict(pictures=["a.png"]), "two different pictures"),
        (dict(pictures=["a.png", "a.png"]), "two different pictures"),
        (dict(pictures="a.png"), "must be a list of two names"),
        (dict(pictures=["a.png", 3]), "two different pictures"),
        (dict(prompt="  "), "must be a text"),
        (dict(annotator=None), "must be a text"),
        (dict(time="yesterday"), "must be as 2026"),
        (dict(time=None), "must be a text"),
        (dict(prompt=None), "must be a text"),
        (dict(instruction="make it red"), "it is not"),
    ],
)
def test_each_mistake_in_a_row_has_its_words(change, words):
    with pytest.raises(ValueError, match=words):
        parse_line(json.dumps(ROW.to_dict() | change).encode())


@pytest.mark.parametrize("missing", ["prompt", "pictures", "choice", "annotator", "time"])
def test_what_a_row_lacks_is_named(missing):
    values = ROW.to_dict()
    del values[missing]
    with pytest.raises(ValueError, match=f"it lacks .*{missing}"):
        parse_line(json.dumps(values).encode())


@pytest.mark.parametrize(
    ("line", "words"), [(b"{", "no JSON"), (b"[1]", "it is not"), (b"7", "it is not"), (b"\xff\xfe", "UTF-8")]
)
def test_what_is_no_row_is_said(line, words):
    with pytest.raises(ValueError, match=words):
        parse_line(line)


# ---- a file that grows ----------------------------------------------------------------------------------------------


def test_clicks_are_on_the_disk_at_once_and_a_new_session_goes_on(tmp_path):
    first = PreferenceFile(tmp_path / "new" / "clicks.jsonl")
    first.append(ROW)
    assert PreferenceFile(first.path).rows == [ROW]
    first.append(EDIT)
    second = PreferenceFile(first.path)
    second.append(replace(ROW, choice=0))
    assert PreferenceFile(first.path).rows == [ROW, EDIT, replace(ROW, choice=0)]


def test_bad_lines_stay_in_the_file_and_each_gets_a_sentence(tmp_path):
    path = tmp_path / "clicks.jsonl"
    lines = [
        json.dumps(ROW.to_dict()),
        "not JSON",
        "",
        json.dumps(ROW.to_dict() | dict(choice=5)),
        json.dumps(EDIT.to_dict()),
    ]
    path.write_text("\n".join(lines))  # no end of the last line: it is a row all the same
    file = PreferenceFile(path)
    assert file.rows == [ROW, EDIT] and file.lines == [1, 5]
    assert [said.partition(":")[0] for said in file.left_out] == ["clicks.jsonl, line 2", "clicks.jsonl, line 4"]
    file.append(ROW)
    assert path.read_text() == "\n".join([*lines, lines[0]]) + "\n"
    assert file.undo() == ROW and path.read_text() == "\n".join(lines) + "\n"
    assert file.undo() == EDIT and "not JSON" in path.read_text() and '"choice": 5' in path.read_text()


def test_half_a_row_of_a_killed_process_costs_no_other(tmp_path):
    path = tmp_path / "clicks.jsonl"
    path.write_bytes(json.dumps(ROW.to_dict()).encode() + b'\n{"prompt": "a bl')
    file = PreferenceFile(path)
    file.append(EDIT)
    again = PreferenceFile(path)
    assert again.rows == [ROW, EDIT] and len(again.left_out) == 1 and "line 2" in again.left_out[0]


def test_undo_takes_the_last_row_alone_and_never_anothers(tmp_path):
    file = PreferenceFile(tmp_path / "clicks.jsonl")
    assert file.undo() is None
    file.append(ROW)
    PreferenceFile(file.path).append(replace(ROW, annotator="you"))
    assert file.undo() == ROW
    assert [row.annotator for row in PreferenceFile(file.path).rows] == ["you"]
    other = PreferenceFile(file.path)
    other.path.write_text(json.dumps(EDIT.to_dict()) + "\n")
    with pytest.raises(ValueError, match="another program has changed"):
        other.undo()


def test_now_is_a_time_that_a_row_takes():
    assert replace(ROW, time=now()).time.endswith("+00:00")


# ---- pictures of a file ---------------------------------------------------------------------------------------------


def test_rows_come_with_their_pictures(tmp_path, pictures):
    write_preferences(tmp_path / "clicks.jsonl", [ROW, EDIT])
    got = read_preferences(tmp_path / "clicks.jsonl", size=(64, 64))
    assert got.rows == (ROW, EDIT) and got.left_out == () and got.annotators == ["me"]
    assert all(torch.allclose(got.shown[name], picture, atol=1e-6) for name, picture in pictures.items())
    assert str(got) == "2 comparisons, 1 of them decided, by 1 annotators"


def test_rows_without_usable_pictures_get_a_sentence_each(tmp_path, pictures):
    save_picture(torch.zeros(3, 32, 64), tmp_path / "wide.png")
    (tmp_path / "words.png").write_text("no picture")
    rows = [replace(ROW, pictures=("a.png", other)) for other in ("none.png", "words.png", "wide.png", "b.png")]
    write_preferences(tmp_path / "clicks.jsonl", rows)
    got = read_preferences(tmp_path / "clicks.jsonl")
    assert got.rows == (rows[-1],) and set(got.shown) == {"a.png", "b.png"}
    expected = ["there is no file none.png", "words.png cannot be read", "wide.png is 64 x 32 pixels"]
    assert len(got.left_out) == 3 and all(words in said for words, said in zip(expected, got.left_out))
    with pytest.raises(ValueError, match="there is no .*nowhere"):
        read_preferences(tmp_path / "nowhere.jsonl")


def test_a_picture_may_be_a_stored_row_or_latent(tmp_path, pictures):
    stored = torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8)
    save_file(dict(picture=stored), tmp_path / "pool.safetensors")
    save_file(dict(latent=torch.arange(8.0).reshape(2, 4)), tmp_path / "latents.safetensors")
    assert torch.equal(to_uint8(load_picture("pool.safetensors#3", tmp_path)), stored[3])
    decode = lambda z: z.mean() * torch.ones(len(z), 3, 2, 2)
    assert load_picture("latents.safetensors#1", tmp_path, decode)[0, 0, 0] == 5.5
    for name, words in {
        "pool.safetensors#4": "no such row",
        "pool.safetensors#x": "no such row",
        "latents.safetensors#0": "only a model",
        "nowhere.safetensors#0": "no file",
        "a.png#0": "cannot be read",
    }.items():
        with pytest.raises(ValueError, match=words):
            load_picture(name, tmp_path)


def test_an_exported_folder_stands_alone(tmp_path, pictures):
    write_preferences(tmp_path / "clicks.jsonl", [ROW, EDIT])
    got = read_preferences(tmp_path / "clicks.jsonl")
    again = read_preferences(got.export(tmp_path / "elsewhere"))
    assert [r.choice for r in again.rows] == [1, None] and again.rows[1].source
    for before, after in zip(got.rows, again.rows):
        assert replace(after, pictures=before.pictures, source=before.source) == before
        assert torch.equal(again.shown[after.pictures[0]], got.shown[before.pictures[0]])
    assert len(list((tmp_path / "elsewhere").glob("*.png"))) == 3


# ---- pools ----------------------------------------------------------------------------------------------------------


def draw_right(texts, seeds, before):
    """A perfect model: a scene of the prompt."""
    return render(sample_scenes([parse(t) for t in texts], np.random.default_rng(seeds[0])), 64)


def unchanged(texts, seeds, before):
    """A model that does nothing."""
    return before


def made(text, seed=0, **how):
    asked = some_requests(10, np.random.default_rng(seed))
    how = dict(side=64, seed=seed, bar=False) | how
    return make_preferences([draw_right] * 3, asked, text, annotators(2), **how), asked


def test_a_pool_compares_all_pairs_of_each_request_and_no_others(text):
    pool, asked = made(text)
    assert len(pool.picture) == 30 and len(pool) == 30 and pool.task == "draw" and pool.sources() is None
    assert all(pool.asked(row) == request for row, request in enumerate(asked))
    assert torch.equal(pool.request[pool.pair[:, 0]], pool.request[pool.pair[:, 1]])
    assert len({tuple(sorted(pair)) for pair in pool.pair.tolist()}) == len(pool)
    assert bool((pool.better != pool.worse).all())
    chosen = pool.pair[torch.arange(len(pool)), pool.choice]
    assert torch.equal(chosen, pool.better)


def test_merits_of_a_pool_are_those_of_its_pictures(text):
    pool, asked = made(text)
    for picture in (0, 11, 29):
        shown, number = pool.picture[picture].movedim(-1, 0).float() / 255, int(pool.request[picture])
        assert pool.merits[picture].tolist() == pytest.approx(merits(read(shown), asked[number]))
        assert pool.pixels(slice(picture, picture + 1))[0] == pytest.approx(shown * 2 - 1, abs=1e-6)


def test_without_noise_the_pool_prefers_the_larger_utility(text):
    pool, _ = made(text)
    sure = Annotator(noise=0.0, careless=0.0)
    clicks = pool.clicked([sure])
    utility = torch.from_numpy(sure.utilities(pool.merits.double().numpy()))
    assert bool((utility[clicks.better] >= utility[clicks.worse]).all())


def test_clicks_depend_on_the_seed_and_the_people_alone(text):
    pool, _ = made(text)
    people = annotators(2)
    assert torch.equal(pool.clicked(people, 3).choice, pool.clicked(people, 3).choice)
    assert not torch.equal(pool.clicked(people, 3).choice, pool.clicked(people, 4).choice)
    assert set(pool.clicked(people, 3).annotator.tolist()) == {0, 1}


def test_an_edit_that_was_not_done_loses(text):
    cases = some_edits(8, np.random.default_rng(0))
    targets = render([case.edit.target for case in cases], 64)
    done = lambda texts, seeds, before: targets
    pool = make_preferences([done, unchanged], cases, text, [Annotator(noise=0.0, careless=0.0)], side=64, bar=False)
    assert (
        pool.task == "edit" and len(pool.source) == 8 and pool.asked(3).source.background == cases[3].source.background
    )
    assert pool.sources().shape == (8, 3, 64, 64)
    assert pool.merits[:8, 0].min() == 1.0 and pool.merits[8:, 0].max() < 1.0


def test_a_stopped_making_goes_on_and_gives_the_same_pool(text, tmp_path, monkeypatch):
    monkeypatch.setattr("hb.data.preference_pool.CHUNK", 4)
    whole, asked = made(text)
    calls = []

    def stopping(texts, seeds, before):
        calls.append(len(texts))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return draw_right(texts, seeds, before)

    how = dict(side=64, bar=False, folder=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        make_preferences([stopping] * 3, asked, text, annotators(2), **how)
    calls[:] = [0] * 10
    again = make_preferences([stopping] * 3, asked, text, annotators(2), **how)
    assert calls[10:] == [4, 4, 4, 2, 2, 2]  # the first part was there
    for name, array in vars(whole).items():
        assert torch.equal(array, getattr(again, name)), name


def test_a_pool_survives_its_file(text, tmp_path):
    pool, _ = made(text)
    pool.save(tmp_path / "pool.safetensors", dict(model="abc"))
    again = PreferencePool.load(tmp_path / "pool.safetensors")
    assert all(torch.equal(array, getattr(again, name)) for name, array in vars(pool).items())
    assert PreferencePool.made_of(tmp_path / "pool.safetensors") == dict(model="abc")


def test_joined_pools_keep_what_belongs_together(text):
    one, asked = made(text)
    two, more = made(text, seed=1)
    both = joined([one, two])
    assert len(both) == len(one) + len(two) and both.asked(13) == more[3]
    rows = slice(len(one), None)
    assert torch.equal(both.picture[both.better[rows]], two.picture[two.better])
    assert torch.equal(both.ids[both.request[both.better[rows]]][:, :8], two.ids[two.request[two.better]][:, :8])
    assert torch.equal(both.length[10:], two.length)


def test_pairs_are_within_a_request():
    assert pairs_of(torch.tensor([0, 1, 0, 1, 0])).tolist() == [[0, 2], [0, 4], [2, 4], [1, 3]]
    assert pairs_of(torch.tensor([0, 1])).shape == (0, 2)


def test_a_persons_clicks_become_a_pool_of_each_task(tmp_path, pictures, text):
    rows = [ROW, replace(ROW, choice=None), replace(ROW, choice=0, annotator="you"), replace(EDIT, choice=0), EDIT]
    write_preferences(tmp_path / "clicks.jsonl", rows)
    clicks = read_preferences(tmp_path / "clicks.jsonl")
    pools = from_clicks(clicks, text)
    draw, edit = pools["draw"], pools["edit"]
    assert (len(draw), len(edit)) == (2, 1) and draw.annotator.tolist() == [0, 1]
    assert torch.equal(draw.picture[draw.better[0]], to_uint8(pictures["b.png"]))
    assert torch.equal(draw.picture[draw.better[1]], to_uint8(pictures["a.png"]))
    assert torch.equal(edit.source[0], to_uint8(pictures["c.png"])) and edit.task == "edit"
    assert text.decode(edit.ids[0, : edit.length[0]]) == "make the star green"
    assert draw.asked(0).text == "a red star" and edit.asked(0).instruction == "make the star green"
    with pytest.raises(ValueError, match="a person's own"):
        draw.clicked(annotators(1))


def test_nothing_decided_is_nothing_to_learn_from(tmp_path, pictures, text):
    write_preferences(tmp_path / "clicks.jsonl", [EDIT])
    with pytest.raises(ValueError, match="nothing to learn from"):
        from_clicks(read_preferences(tmp_path / "clicks.jsonl"), text)


def test_requests_have_room_and_are_of_all_kinds():
    asked = some_requests(64, np.random.default_rng(0))
    sample_scenes(asked, np.random.default_rng(1))
    assert len(asked) == 64 and {len(r.wishes) for r in asked} == {1, 2, 3, 4}
    assert any(r.relation for r in asked) and len(set(asked)) > 50
