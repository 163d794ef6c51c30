"""Things made on demand and kept: fused weights, opened students, pixel decoders."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

from torch import Tensor

T = TypeVar("T")


class Cache:
    """One thing for each name, made anew when what it is made of is another. Several threads may ask at the same time.
    A copy is empty."""

    def __init__(self):
        self._lock, self._kept = threading.RLock(), {}

    def get(self, name: str, source, make: Callable[[], T], same: Callable = operator.is_) -> T:
        with self._lock:
            if name not in self._kept or not same(self._kept[name][0], source):
                self._kept[name] = (source, make())
            return self._kept[name][1]

    def __reduce__(self):
        return Cache, ()


def version_of(parameters: Iterable[Tensor]) -> list[tuple]:
    """What changes when weights do."""
    count = lambda p: 0 if p.is_inference() else p._version  # weights made in inference mode cannot change
    return [(id(p), count(p), p.device, p.dtype) for p in parameters]
