"""The newest request wins, nothing that must happen is lost, errors become sentences, and closing ends the thread."""

import threading
import time

import pytest

from hb.infer.newest import NewestFirst, sentence

LONG = 20  # seconds that nothing here should need


class Slow:
    """Work that goes on until it is let go, one request at a time."""

    def __init__(self):
        self.done, self.failures, self.started = [], [], threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.worker = NewestFirst(self.work, lambda request, words: self.failures.append((request, words)))

    def work(self, request):
        self.started.release()
        assert self.go.acquire(timeout=LONG)
        if isinstance(request, Exception):
            raise request
        self.done.append(request)

    def let_all_go(self):
        for _ in range(20):
            self.go.release()
        assert self.worker.wait(LONG)


@pytest.fixture
def slow():
    slow = Slow()
    yield slow
    for _ in range(20):
        slow.go.release()
    assert slow.worker.close(LONG)


def test_what_was_typed_meanwhile_is_dropped_but_for_the_last(slow):
    slow.worker.submit("a")
    assert slow.started.acquire(timeout=LONG) and not slow.worker.is_overdue()
    for text in ("a r", "a re", "a red"):
        slow.worker.submit(text)
    assert slow.worker.is_overdue() and not slow.worker.wait(0.01)
    slow.let_all_go()
    assert slow.done == ["a", "a red"] and slow.worker.dropped == 2 and not slow.worker.is_overdue()


def test_what_may_not_be_dropped_keeps_its_order(slow):
    slow.worker.submit("a")
    assert slow.started.acquire(timeout=LONG)
    slow.worker.submit("b")
    slow.worker.submit("accept", may_be_dropped=False)
    slow.worker.submit("c")
    slow.worker.submit("d")
    slow.worker.submit("undo", may_be_dropped=False)
    slow.worker.submit("undo", may_be_dropped=False)
    slow.let_all_go()
    assert slow.done == ["a", "b", "accept", "d", "undo", "undo"]


def test_an_error_is_a_sentence_and_the_next_request_is_worked_on(slow):
    for request in (ValueError("no  such\nword"), KeyError("x"), "b"):
        slow.worker.submit(request, may_be_dropped=False)
    slow.let_all_go()
    assert slow.done == ["b"] and [words for _, words in slow.failures] == ["no such word", "KeyError: 'x'"]


def test_an_error_while_telling_does_not_end_the_thread():
    told, done = [], []

    def failed(request, words):
        told.append(words)
        raise RuntimeError("nobody is there")

    def work(request):
        if request == "bad":
            raise ValueError("bad")
        done.append(request)

    worker = NewestFirst(work, failed)
    for request in ("bad", "good"):
        worker.submit(request, may_be_dropped=False)
    assert worker.wait(LONG) and worker.close(LONG) and told == ["bad"] and done == ["good"]


def test_closing_lets_the_work_end_and_forgets_the_rest(slow):
    slow.worker.submit("a")
    assert slow.started.acquire(timeout=LONG)
    slow.worker.submit("b")
    assert not slow.worker.close(timeout_s=0.01) and slow.worker.is_overdue()  # it is asked to stop early
    slow.go.release()
    assert slow.worker.close(LONG) and slow.done == ["a"]
    with pytest.raises(RuntimeError, match="closed"):
        slow.worker.submit("c")


def test_submitting_does_not_wait_for_the_work(slow):
    began = time.monotonic()
    for number in range(1000):
        slow.worker.submit(number)
    assert time.monotonic() - began < LONG / 4
    slow.let_all_go()
    assert slow.done[-1] == 999 and len(slow.done) <= 2


def test_a_sentence_of_an_error_without_words():
    assert sentence(RuntimeError()) == "RuntimeError" and sentence(ValueError("so")) == "so"


def test_a_pause_ends_when_somebody_comes():
    paused = []

    def work(request):
        paused.append((request, worker.is_quiet(0.0 if request == "last" else LONG)))

    worker = NewestFirst(work, None)
    began = time.monotonic()
    worker.submit("first")
    worker.submit("last", may_be_dropped=False)
    assert worker.wait(LONG) and time.monotonic() - began < LONG / 2 and worker.close(LONG)
    assert paused == [("first", False), ("last", True)]
