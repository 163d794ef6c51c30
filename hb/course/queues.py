"""One worker and many requests: which are worked on, and how long each waits for a picture."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from queue import SimpleQueue

from hb.infer.newest import NewestFirst

WAIT_S = 60.0  # for a thread that has nothing to do but to answer


def newest_wins(arrivals: Sequence[float], service: float) -> list[tuple[int, float]]:
    """Which requests are worked on, and when each is done, where a free worker takes the newest and drops the others.

    arrivals   increasing times; one that falls on the end of a job has just missed it
    """
    done: list[tuple[int, float]] = []
    free, waiting = float("-inf"), None
    for number, at in [*enumerate(arrivals), (len(arrivals), float("inf"))]:
        if waiting is not None and free <= at:  # the worker became free before this one came
            free += service
            done.append((waiting, free))
            waiting = None
        if number == len(arrivals):
            break
        if free <= at:
            free = at + service
            done.append((number, free))
        else:
            waiting = number
    return done


def latencies(arrivals: Sequence[float], done: Sequence[tuple[int, float]]) -> list[float]:
    """For each request the time until there is a picture of it or of a newer one."""
    return [min(end for number, end in done if number >= i) - at for i, at in enumerate(arrivals)]


def by_the_library(arrivals: Sequence[float], service: float) -> list[tuple[int, float]]:
    """`newest_wins` by the worker of `hb.infer.newest`. Its thread is real; its clock is simulated.

    Raises RuntimeError if the worker does not answer.
    """
    begun, may_end, done = SimpleQueue(), threading.Semaphore(0), []

    def work(number: int) -> None:
        begun.put(number)
        may_end.acquire()

    worker = NewestFirst(work, lambda number, words: begun.put(words))
    now, end, waits = None, float("inf"), False

    def finish() -> None:
        nonlocal now, end, waits
        done.append((now, end))
        may_end.release()
        now, end, waits = (begun.get(timeout=WAIT_S), end + service, False) if waits else (None, float("inf"), False)
        if now is None and not worker.wait(WAIT_S):
            raise RuntimeError("the worker did not end its job")

    for number, at in enumerate(arrivals):
        while end <= at:
            finish()
        worker.submit(number)
        if now is None:
            now, end = begun.get(timeout=WAIT_S), at + service
        else:
            waits = True
    while now is not None:
        finish()
    worker.close(WAIT_S)
    return done
