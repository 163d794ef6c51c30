"""Seconds are measured side by side, and say on what machine."""

import json
from types import SimpleNamespace

from hb.eval import speed as module
from hb.eval.speed import interleaved, speed
from hb.machine import machine


def test_speed_reports_every_part(tiny):
    rows = speed(tiny, batches=(1,), repeats=1)
    assert {r["task"] for r in rows} == {"draw", "edit", "ask"}
    assert all(r["rate"] > 0 and r["seconds"] for r in rows) and json.dumps(rows)
    assert {r["machine"] for r in rows} == {machine()}


def test_jobs_take_turns_after_one_warm_up_and_every_second_round_is_backwards(monkeypatch):
    called, ticks = [], iter(range(1000))
    monkeypatch.setattr(module, "clock", lambda: next(ticks))
    jobs = {name: lambda name=name: called.append(name) or name for name in "ab"}
    runs = interleaved(jobs, 2)
    assert "".join(called) == "ab" + "ab" + "ba"
    assert runs == {"a": [(1, "a"), (1, "a")], "b": [(1, "b"), (1, "b")]}


def test_a_median_is_no_mean():
    assert module.median([1.0, 2.0, 30.0]) == 2.0


def test_one_picture_a_call_is_counted_call_by_call(monkeypatch):
    """Three calls of two seconds each: half a picture a second, whatever the seeds."""
    ticks, seeds = [0.0], []

    class Slow:
        def draw(self, prompt, *, seed, student, warn):
            assert student == "one" and not warn
            ticks[0] += 2.0
            seeds.append(seed)
            return SimpleNamespace(nfe=1, seconds={})

    monkeypatch.setattr(module, "clock", lambda: ticks[0])
    row = module.one_at_a_time(Slow(), "one", repeats=2, calls=3)
    assert (row["rate"], row["low"], row["high"], row["nfe"], row["batch"]) == (0.5, 0.5, 0.5, 1, 1)
    assert seeds == [0, 1, 2] * 3  # a warm-up and two repeats
