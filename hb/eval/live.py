"""From a key to its picture: sentences typed letter by letter, each key that changes the picture timed.

The kernel's side alone: from the words to the bytes that a browser is sent. `hb bench live --browser` types the same
sentences in a browser.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hb.eval.speed import timed
from hb.infer.live import LiveSession, Turn
from hb.infer.pipeline import Model
from hb.machine import machine

# a prompt and what is then typed about its picture; all is typed letter by letter, most keys give a hint
SENTENCES = (
    ("a red circle left of a blue star", "make the star green"),
    ("two small hearts and a moon", "remove the moon"),
    ("a large striped ring on a navy background", "change the background to white"),
    ("a cross above a pink square", "move the cross to the bottom"),
    ("three yellow triangles", "add a blue star"),
    ("an orange heart at the top left and a cyan ring", "make the heart larger"),
)
TARGETS_MS = dict(p50=60.0, p95=120.0)  # on cores with bfloat16 units, in the browser; twice that without


def live_speed(session: LiveSession, *, repeats: int = 5) -> list[dict]:
    """One row for each key that changed the picture: verb, text, milliseconds to the picture's bytes, and by part."""
    rows = []
    _typed(session, "draw", SENTENCES[0][0])  # warms up
    for _ in range(repeats):
        for prompt, instruction in SENTENCES:
            rows += _typed(session, "draw", prompt)
            session.accept()
            session.read_ahead()  # as the canvas does while nobody types
            rows += _typed(session, "edit", instruction)
    return rows


def _typed(session: LiveSession, verb: str, sentence: str) -> list[dict]:
    rows, draw = [], getattr(session, verb)
    for text in (sentence[:end] for end in range(1, len(sentence) + 1)):
        before = session.pending
        seconds, made = timed(lambda text=text: _bytes(draw(text)))
        if made is not None and (before is None or made.image is not before.image):
            parts = {part: round(1000 * spent, 3) for part, spent in made.seconds.items()}
            rows.append(dict(verb=verb, text=text, ms=round(1000 * seconds, 3), parts=parts, nfe=made.nfe))
    return rows


def _bytes(made) -> Turn | None:
    """The turn, its picture ready to be sent; None for a hint."""
    if not isinstance(made, Turn):
        return None
    made.image.tobytes()
    return made


def percentiles(values: Sequence[float]) -> dict:
    """p50, p95, range and number of these milliseconds."""
    ms = np.asarray(values, float)
    p50, p95, low, high = (round(float(value), 2) for value in np.percentile(ms, [50, 95, 0, 100]))
    return dict(p50=p50, p95=p95, low=low, high=high, n=len(ms))


def summary(rows: Sequence[dict], session: LiveSession) -> dict:
    """Of `live_speed`: percentiles over all keys and for each verb, and the median of each part."""
    of = {verb: [r for r in rows if r["verb"] == verb] for verb in ("draw", "edit")}
    parts = {
        verb: {part: round(float(np.median([r["parts"][part] for r in some])), 3) for part in some[0]["parts"]}
        for verb, some in of.items()
        if some
    }
    return dict(
        keys=percentiles([r["ms"] for r in rows]),
        verbs={verb: percentiles([r["ms"] for r in some]) for verb, some in of.items() if some},
        parts=parts,
        student=session.student,
        nfe=session.nfe,
        machine=machine(),
    )


def of_model(model: Model, *, student: str | None = None, nfe: int | None = None, repeats: int = 5) -> dict:
    """`summary` of a new session's `live_speed`, with its rows."""
    session = LiveSession(model, student=student, nfe=nfe)
    rows = live_speed(session, repeats=repeats)
    return summary(rows, session) | dict(rows=rows)
