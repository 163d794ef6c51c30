"""Chapter 12: what a key costs, what is kept, who waits how long, what one noise and many turns do."""

import itertools

import numpy as np
import pytest
import torch

from hb.course import queues
from hb.course.canvas import Canvas
from hb.course.chapters import ch12
from hb.infer.live import LiveSession
from hb.world.render import render
from hb.world.scene import Scene, Thing
from tests.infer.conftest import with_students

SCENE = Scene((Thing("star", "red", "large", 0.2, 0.2), Thing("circle", "blue", "small", 0.8, 0.8)), "white")


@pytest.fixture(scope="module")
def model(tiny_folder):
    return with_students(tiny_folder)


@pytest.fixture
def session(model):
    return LiveSession(model)


# ---- typing and its cost ---------------------------------------------------------------------------------------------


def test_a_sentence_draws_when_it_can_be_read_and_not_for_every_key():
    assert ch12.pictures_of("a red circle and a moon") == ["a red circle", "a red circle and a moon"]
    assert ch12.pictures_of("make the star green", "edit") == ["make the star green"]
    assert ch12.pictures_of("a re") == []


def test_typed_pictures_have_their_words_and_hints_have_none(session):
    figure = ch12.typed_figure(session, ["a red circle", "a re", "a red circle and a moon"])
    assert [ax.get_xlabel() for ax in figure.axes] == ["a red circle", "a red circle and a\nmoon"]


def test_the_canvas_draws_with_the_student_that_is_served_live(model):
    canvas = ch12.live_canvas(model)
    assert isinstance(canvas, Canvas) and canvas.session.student == "one-nfe"
    canvas.close()


def test_a_message_arrives_as_it_was_sent():
    content = bytes(range(256)) * 48
    job = ch12.loopback(content)
    assert job() == content and job() == content


def test_bars_are_stacked_and_end_at_their_sums():
    figure = ch12.budget_figure({"one": {"a": 1.0, "b": 2.0}, "two": {"b": 4.0, "c": 8.0}})
    bars = {
        (round(bar.get_y() + bar.get_height() / 2), c.get_label()): (bar.get_x(), bar.get_width())
        for c in figure.axes[0].containers
        for bar in c
    }
    colors = [c.patches[0].get_facecolor() for c in figure.axes[0].containers]
    assert len(set(colors)) == 3
    assert bars[0, "a"] == (0, 1) and bars[0, "b"] == (1, 2) and bars[1, "b"] == (0, 4) and bars[1, "c"] == (4, 8)
    assert [text.get_text() for text in figure.axes[0].texts] == ["3 ms", "12 ms"]


# ---- what is kept ----------------------------------------------------------------------------------------------------


def test_keys_before_a_change_stay_to_the_bit_and_those_behind_it_stay_in_the_first_layer_only(tiny):
    changes = ch12.key_value_changes(tiny.bagel, [1, 7, 8, 9, 2], [1, 7, 11, 9, 2])
    assert changes.shape == (2, 5)
    assert (changes[:, :2] == 0).all() and (changes[0, 3:] == 0).all()
    assert (changes[:, 2] > 0).all() and (changes[1, 3:] > 0).all()
    zeros = [text for text in ch12.changes_figure(changes, list("abcde")).axes[0].texts if text.get_text() == "0"]
    assert len(zeros) == int((changes == 0).sum())


# ---- queues ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", [0.5, 1.0, 2.5, 7.0])
def test_the_simulation_works_on_what_the_librarys_worker_works_on(service):
    rng = np.random.default_rng(int(10 * service))
    arrivals = np.cumsum(rng.uniform(0.1, 3.0, 12)).tolist()
    assert queues.by_the_library(arrivals, service) == queues.newest_wins(arrivals, service)


def test_a_request_at_the_very_end_of_a_job_is_treated_alike_by_both():
    arrivals = [0.0, 1.0, 2.0, 4.0, 5.0]
    assert queues.by_the_library(arrivals, 2.0) == queues.newest_wins(arrivals, 2.0)


def test_nobody_waits_longer_than_two_jobs_and_the_last_request_is_answered():
    for service, between in itertools.product((0.5, 1.7, 30.0), (1.0, 2.3)):
        arrivals = [between * i for i in range(40)]
        done = queues.newest_wins(arrivals, service)
        assert done[-1][0] == 39 and max(queues.latencies(arrivals, done)) <= 2 * service + 1e-9
        starts, ends = [end - service for _, end in done], [end for _, end in done]
        assert all(start >= end - 1e-9 for start, end in zip(starts[1:], ends))


def test_latency_counts_until_a_newer_picture():
    assert queues.latencies([0.0, 1.0, 2.0], [(0, 5.0), (2, 10.0)]) == [5.0, 9.0, 8.0]


# ---- one noise -------------------------------------------------------------------------------------------------------


def test_distances_are_those_of_a_loop():
    a, b = torch.rand(2, 3, 4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    same, fresh = ch12.distances(a, b)
    far = lambda p, i, j: (a[p, i] - b[p, j]).square().mean()
    for p in range(3):
        pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
        assert torch.isclose(same[p], torch.stack([far(p, i, i) for i in range(4)]).mean(), atol=1e-5)
        assert torch.isclose(fresh[p], torch.stack([far(p, i, j) for i, j in pairs]).mean(), atol=1e-5)


def test_half_the_difference_of_the_distances_is_the_covariance():
    """What exercise 12.3 asks for, in a sample: exactly, for any pictures."""
    a = torch.rand(2, 5, 3, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    b = 0.5 * a + torch.rand(a.shape, generator=torch.Generator().manual_seed(2))
    same, fresh = ch12.distances(a, b)
    covariance = ((a - a.mean(1, keepdim=True)) * (b - b.mean(1, keepdim=True))).sum(1).mean((1, 2, 3)) / 4
    assert torch.allclose((fresh - same) / 2, covariance, atol=1e-8)


def test_neighbors_are_requests_that_follow_each_other():
    pairs = ch12.next_to_each_other(["a moon", "a red circle and a moon", "two hearts on a navy background"], 2)
    assert pairs == [("a red circle", "a red circle and a moon"), ("two hearts", "two hearts on a navy background")]


def test_a_thing_keeps_its_place_or_moves_or_is_not_there():
    star, circle = SCENE.things
    moved = Thing("star", "red", "large", 0.8, 0.2)
    assert ch12.place_is_kept([star], [circle, star]) is True
    assert ch12.place_is_kept([star], [circle, moved]) is False
    pictures = render([SCENE, Scene((moved, circle), "white"), Scene((circle,), "white")], 64)
    assert ch12.places_kept(pictures[:1].expand(3, -1, -1, -1), pictures) == [True, False, None]
    assert ch12.place_is_kept([star], [circle]) is None and ch12.place_is_kept([], [star]) is None


# ---- turns and others ------------------------------------------------------------------------------------------------


def test_every_turn_edits_the_one_before(session):
    turns = ch12.edited_in_turn(session, render([SCENE], 64)[0], ["make the star green", "remove the circle"])
    assert [turn.said for turn in turns] == ["make the star green", "remove the circle"]
    assert turns[1].before is turns[0] and turns[0].before is session.history.turns[0]
    with pytest.raises(ValueError, match="make the st"):
        ch12.edited_in_turn(session, render([SCENE], 64)[0], ["make the st"])


def test_round_trips_start_from_the_last_ones_bytes(model):
    pictures = render([SCENE], 64)
    way = ch12.round_trips(model, pictures, 3)
    assert way.shape == (3, 1, 3, 64, 64) and torch.allclose(way * 255, (way * 255).round(), atol=1e-4)
    assert torch.equal(way[1:], ch12.round_trips(model, way[0], 2))


def test_others_draw_the_same_request_and_are_judged(session):
    others = {"one": dict(student="one-nfe"), "six": dict(nfe=6)}
    made = ch12.by_others(session, ["a red circle", "a moon"], others)
    assert {name: [(turn.said, turn.nfe) for turn in turns] for name, turns in made.items()} == {
        "one": [("a red circle", 1), ("a moon", 1)],
        "six": [("a red circle", 6), ("a moon", 6)],
    }
    figure = ch12.by_others_figure(made)
    assert sum(text.get_text() in "✓✗" for ax in figure.axes for text in ax.texts) == 4
