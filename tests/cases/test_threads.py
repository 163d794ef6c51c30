"""Fault 8: two threads that draw and ask give what one after the other gives."""

import copy
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import torch

from hb.infer.cache import Cache
from hb.infer.fused import Angles


def test_two_threads_make_a_thing_once():
    """Red without the lock: both see nothing there, and both make it."""
    cache, made, source = Cache(), [], object()

    def make():
        time.sleep(0.05)
        made.append(1)
        return object()

    with ThreadPoolExecutor(4) as pool:
        got = set(pool.map(lambda _: cache.get("a", source, make), range(4)))
    assert len(made) == len(got) == 1
    assert cache.get("a", object(), make) not in got and len(made) == 2  # another source
    assert copy.deepcopy(cache).get("a", source, make) not in got and len(made) == 3  # a copy begins empty


def test_a_thread_never_finds_new_cosines_beside_old_sines(tiny):
    """Whatever is set, another thread may look at that moment. Red while cos and sin were set one after the other."""
    like, positions, looked = torch.zeros(1), torch.arange(6)[None], []

    class Watched(Angles):
        def __setattr__(self, name, value):
            super().__setattr__(name, value)
            if "ready" in vars(self) and name != "ready":
                looked.append(self(positions, 6))

    angles = Watched(tiny.bagel.config.llm, like)
    angles.ready = True
    wanted = angles(positions, 6)
    assert looked and all(torch.equal(a, b) for seen in looked for a, b in zip(seen, wanted))


def test_threads_that_draw_and_ask_give_what_one_after_the_other_gives(whole, picture):
    jobs = [
        lambda m: m.draw("a star", nfe=6).pixels,
        lambda m: m.edit(picture, "remove the star", nfe=6).pixels,
        lambda m: m.ask(picture, "describe the picture", max_tokens=20).texts,
        lambda m: m.ask(picture, "how many?", max_tokens=20, speculate=False).texts,
    ]
    alone = [job(whole) for job in jobs]
    for _ in range(3):
        fresh, start = copy.deepcopy(whole), Barrier(len(jobs))

        def run(job, fresh=fresh, start=start):
            start.wait()
            return job(fresh)

        with ThreadPoolExecutor(len(jobs)) as pool:
            together = list(pool.map(run, jobs))
        assert all(torch.equal(a, b) for a, b in zip(alone[:2], together[:2])) and alone[2:] == together[2:]
