"""The newest request wins: a worker thread in which typed requests take each other's place."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class NewestFirst(Generic[T]):
    """Work in a thread of its own, one request at a time.

    A request that `may_be_dropped` waits in one slot: the next one of this kind takes its place. Others (accepting a
    picture, undoing) are never dropped and keep their order: what was typed before them is worked on before them.

    work     does one request. It may ask `is_overdue()` between steps and stop early
    failed   gets a request and a sentence, where `work` raised; the thread goes on
    """

    def __init__(self, work: Callable[[T], None], failed: Callable[[T, str], None], name: str = "hb live"):
        self.dropped = 0
        self._work, self._failed = work, failed
        self._waiting: deque[tuple[T, bool]] = deque()
        self._changed, self._busy, self._closed = threading.Condition(), False, False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, request: T, *, may_be_dropped: bool = True) -> None:
        """Hand a request over; returns at once. Raises RuntimeError after `close`."""
        with self._changed:
            if self._closed:
                raise RuntimeError("this worker is closed; make another one")
            if may_be_dropped and self._waiting and self._waiting[-1][1]:
                self._waiting.pop()
                self.dropped += 1
            self._waiting.append((request, may_be_dropped))
            self._changed.notify_all()

    def is_overdue(self, by: Callable[[T], bool] = lambda request: True) -> bool:
        """Is somebody waiting for what is being worked on to end? by: which of the requests that wait count."""
        with self._changed:
            return self._closed or any(by(request) for request, _ in self._waiting)

    def is_quiet(self, seconds: float) -> bool:
        """For `work`: wait so long for another request; False, at once, when there is one. True: time for what can
        wait."""
        with self._changed:
            return not self._changed.wait_for(self.is_overdue, seconds)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Until nothing waits and nothing is being worked on; False if that took longer than the timeout."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._busy, timeout_s)

    def close(self, timeout_s: float | None = None) -> bool:
        """Forget what waits, let what is being worked on end, and end the thread. False if it has not ended yet."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                (request, _), self._busy = self._waiting.popleft(), True
            try:
                self._work(request)
            except Exception as error:
                self._tell(request, error)
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _tell(self, request: T, error: Exception) -> None:
        try:
            self._failed(request, sentence(error))
        except Exception:  # nobody is left to be told; the next request may have somebody
            return


def sentence(error: BaseException) -> str:
    """What went wrong, on one line. A ValueError is how hb refuses what it was given: its words are enough."""
    words = " ".join(str(error).split())
    if isinstance(error, ValueError) and words:
        return words
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
