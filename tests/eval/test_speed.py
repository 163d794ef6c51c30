"""Seconds are measured side by side, and say on what machine."""

import json

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
