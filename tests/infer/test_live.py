"""What is drawn at every key is what `draw` and `edit` make of the same words and noise, whatever was typed before."""

import itertools

import numpy as np
import pytest
import torch

from hb.infer.fused_student import PictureRun, PlainRun, common_length
from hb.infer.hints import Hint
from hb.infer.live import LiveSession, Stopped, live_student
from hb.infer.pipeline import Model
from hb.infer.processor import Processor
from hb.infer.turns import Turn
from hb.pictures import to_tensor
from tests.infer.conftest import student_of, with_students

STUDENTS = ["one-nfe", "deep", "six", "multistep"]
TYPED = (  # going on, deleting, another word in the middle, all gone, the same again, longer than there is room for
    "a red circle",
    "a red circle and",
    "a red circle and a blue star",
    "a red circle and a star",
    "a green circle and a star",
    "a green circle",
    "",
    "a circle",
    "a red circle " * 40,
    "a red circle",
)


@pytest.fixture
def latents(live_model, monkeypatch):
    """Every latent that is decoded, in order."""
    seen = []
    decode = live_model.decode_pictures
    monkeypatch.setattr(live_model, "decode_pictures", lambda x, grid=None: seen.append(x.clone()) or decode(x, grid))
    return seen


def same(a, b) -> bool:
    return torch.allclose(a, b, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "is_small"), [*((name, True) for name in STUDENTS), ("one-nfe", False)], ids=[*STUDENTS, "plain"]
)
def test_every_key_draws_what_draw_draws(live_model, latents, monkeypatch, name, is_small):
    monkeypatch.setattr(live_model, "is_small", lambda: is_small)
    session = LiveSession(live_model, student=name, seed=5, raw=True)
    assert isinstance(session._denoiser, torch.nn.Module) is not is_small
    for text in TYPED:
        latents.clear()
        turn = session.draw(text)
        if not text:
            assert isinstance(turn, Hint) and not latents
            continue
        wanted = live_model.draw(text, student=name, seed=5, warn=False)
        assert same(latents[0].cpu(), wanted.latent), text
        assert turn.nfe == wanted.nfe == live_model.students[name].steps
        assert np.abs(np.asarray(turn.image).astype(int) - np.asarray(wanted.image)).max() <= 1


@pytest.mark.parametrize("name", STUDENTS)
def test_every_key_edits_what_edit_edits(live_model, latents, picture, name):
    session = LiveSession(live_model, student=name, seed=3, raw=True)
    session.open(picture)
    seed = 4  # of the second turn
    for text in ("make it", "make it green", "make the star green", "add", "", "make it green"):
        latents.clear()
        turn = session.edit(text)
        if not text:
            assert isinstance(turn, Hint)
            continue
        wanted = live_model.edit(picture, text, student=name, seed=seed)
        assert same(latents[0], wanted.latent), text
    source = session.accept()
    latents.clear()
    session.edit("make it red")
    assert same(latents[0], live_model.edit(source.image, "make it red", student=name, seed=seed + 1).latent)


def test_a_grid_that_the_student_was_not_made_for(live_model, latents):
    LiveSession(live_model, student="six", nfe=2, raw=True).draw("a circle")
    assert same(latents[-1], live_model.draw("a circle", student="six", steps=2, warn=False).latent)


@pytest.mark.parametrize("name", ["one-nfe", "deep"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_in_other_types_it_is_so_to_rounding(tiny_folder, dtype, name):
    model, tolerance = with_students(tiny_folder, dtype), {torch.float32: 1e-4, torch.bfloat16: 0.1}[dtype]
    session = LiveSession(model, student=name, raw=True)
    for text in TYPED[:4]:
        mine, wanted = session.draw(text), model.draw(text, nfe=None, student=name, warn=False)
        difference = (mine.pixels - wanted.pixels[0]).abs()
        assert float(difference.mean()) < tolerance + 1 / 255, text


def test_only_what_is_new_is_read(live_model, monkeypatch):
    kept, read = [], []
    follow, velocity = PictureRun.type, PictureRun.velocity
    monkeypatch.setattr(PictureRun, "type", lambda run, ids: kept.append(follow(run, ids)) or kept[-1])
    monkeypatch.setattr(
        PictureRun, "velocity", lambda run, *a, **k: read.append(len(run._new)) or velocity(run, *a, **k)
    )
    session, rows = LiveSession(live_model, raw=True), []
    start, end = live_model.bagel.markers[:2]
    for text in ("a re", *filter(str.strip, TYPED)):
        session.draw(text)
        rows.append([start, *live_model.text.encode(text), end])
    for before, after, same, new in zip([[], *rows], rows, kept, read):
        assert same == next((i for i, (a, b) in enumerate(zip(before, after)) if a != b), min(len(before), len(after)))
        assert new == len(after) - same
    assert sum(read) < sum(map(len, rows))


def test_a_picture_to_be_edited_is_read_once(live_model, monkeypatch, picture):
    calls = []
    read_source = Model.read_source
    monkeypatch.setattr(Model, "read_source", lambda model, *a: calls.append(1) or read_source(model, *a))
    session = LiveSession(live_model)
    session.open(picture)
    for text in ("make the star green", "make the star blue", "remove the star", "make the star green"):
        session.edit(text)
    assert len(calls) == 1
    session.accept()
    session.read_ahead()
    assert len(calls) == 2
    session.edit("make the star red")
    assert len(calls) == 2


def test_the_noise_stays_while_typing_and_is_another_in_the_next_turn(live_model):
    session = LiveSession(live_model, seed=7)
    seeds = [session.draw(text).seed for text in ("a circle", "a red circle", "a circle")]
    session.accept()
    assert seeds == [7, 7, 7] and session.draw("a star").seed == 8


def test_words_that_cannot_be_read_yet_keep_the_last_picture(live_model):
    session = LiveSession(live_model)
    shown = session.draw("a red circle")
    for text in ("a re", "", "a red circle left of", "blurple", "a star and no stars"):
        hint = session.draw(text)
        assert isinstance(hint, Hint) and 0 < len(hint.text) < 130 and session.shown is shown
    assert isinstance(LiveSession(live_model).edit("make the star green"), Hint)  # there is no picture yet


def test_the_same_words_cost_nothing(live_model, monkeypatch):
    session = LiveSession(live_model)
    first = session.draw("a big red circle")
    monkeypatch.setattr(Processor, "encode", None)
    again = session.draw("A large  red circle")
    assert again.said == first.said == "a large red circle" and again.image is first.image
    assert again.text == "A large  red circle"


def test_seconds_by_part(live_model):
    turn = LiveSession(live_model).draw("a circle")
    assert set(turn.seconds) == {"prefill", "denoise", "decode picture"} and min(turn.seconds.values()) > 0


def test_which_student_draws(live_model, tiny):
    assert live_student(live_model.students) == "one-nfe" and LiveSession(live_model).nfe == 1
    others = {name: s for name, s in live_model.students.items() if name != "one-nfe"}
    assert live_student(others) == "six"
    with pytest.raises(ValueError, match="no student to draw live with.*hb distill"):
        LiveSession(tiny)
    for slow in ("teacher", "multistep+six"):
        with pytest.raises(ValueError, match="too slow"):
            LiveSession(live_model, student=slow)
    with pytest.raises(ValueError, match="no student called 'sixx'"):
        LiveSession(live_model, student="sixx")


# ---- turns ----------------------------------------------------------------------------------------------------------


def test_undo_and_redo_walk_over_the_turns(live_model):
    session = LiveSession(live_model)
    assert not session.undo() and not session.redo() and session.accept() is None and session.shown is None
    drawn = session.draw("a red circle")
    edited = session.edit("make the circle green")  # a drawing that is shown is accepted first
    assert session.history.current is drawn and edited.before is drawn
    assert session.undo() and session.shown is drawn
    assert session.redo() and session.shown is edited
    assert session.undo() and session.undo() and session.shown is None and not session.undo()
    assert session.redo() and session.shown is drawn
    other = session.edit("make the circle blue")  # what had been undone is gone
    session.accept()
    assert session.history.turns == [drawn, other] and not session.redo()
    assert session.go_to(1) and session.shown is drawn and not session.go_to(3)


def test_compare_is_the_same_request_by_others(live_model):
    session = LiveSession(live_model, seed=2)
    session.draw("a red circle")
    session.edit("make the circle green")
    others = (dict(nfe=6), dict(student="teacher", steps=2))
    steps = list(session.compare(others))
    made = {which: turn for which, _, turn in steps if turn is not None}
    source = session.history.current
    for which, how in enumerate(others):
        wanted = live_model.edit(source.image, "make the circle green", seed=3, **how)
        assert torch.equal(made[which].pixels, to_tensor(wanted.image) / 2 + 0.5)
        assert made[which].nfe == wanted.nfe and made[which].student == wanted.student
    assert [which for which, *_ in steps] == sorted(which for which, *_ in steps)
    done = [share for which, share, _ in steps if which == 0]
    assert done == sorted(done) and len(done) == 7 and done[-1] == 1.0


def test_a_comparison_gives_way(live_model):
    session = LiveSession(live_model)
    with pytest.raises(ValueError, match="nothing|no request"):
        list(session.compare())
    session.draw("a red circle")
    asked = itertools.count()
    with pytest.raises(Stopped):
        list(session.compare(is_overdue=lambda: next(asked) == 3))
    assert next(asked) == 4


def test_a_history_of_other_pictures_is_refused(live_model, picture):
    from hb.infer.turns import History

    with pytest.raises(ValueError, match="64x64"):
        LiveSession(live_model).restore(History([Turn("open", "", "", picture.resize((32, 32)))]))


def test_common_length():
    assert common_length([1, 2, 3], [1, 2, 4]) == 2 and common_length([], [1]) == 0 and common_length([1], [1, 2]) == 1


def test_a_run_makes_room_and_forgets_old_buffers(live_model):
    """As many lengths of new words as one types, and a text longer than the cache was made for."""
    run = PictureRun(live_model.fast_student("one-nfe"), live_model.bagel.empty(1))
    plain = PlainRun(live_model.open_student("one-nfe"), live_model.bagel.empty(1))
    x, t = (
        torch.randn(1, 16, live_model.bagel.config.latent_width, dtype=torch.float64),
        torch.ones(1, dtype=torch.float64),
    )
    with torch.no_grad():
        for n in (1, 30, 2, 90, 3, 200, 4, 5, 6, 7, 8, 0):
            ids = [5 + (i * n) % 50 for i in range(n)]
            assert run.type(ids) == plain.type(ids)
            assert same(run.velocity(x, t, text_scale=t * 2), plain.velocity(x, t, text_scale=t * 2)), n
            assert len(run._buffers) <= 6


def test_students_of_the_fixture_differ(live_model):
    assert student_of(live_model).fingerprint() != student_of(live_model, 1).fingerprint()
