"""Notebook 00, the tour: one prompt from one noise, at other settings."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets as w
import torch

from hb import plots
from hb.course.exercises import call, exercise, expect, expect_number
from hb.course.widgets import as_seen, live, slider
from hb.infer.pipeline import Model, Pictures
from hb.world.judge.judge import check
from hb.world.judge.reading import read
from hb.world.language import parse

TEACHER = "teacher"


def compare_figure(
    model: Model,
    prompt: str,
    *,
    steps: Sequence[int] = (50, 12, 6, 2, 1),
    text_scales: Sequence[float] = (4.0, 1.0),
    seed: int = 0,
    title: str | None = None,
) -> plots.Chart:
    """One prompt from one noise: steps across, guidance down, framed by the judge's verdict."""
    request = parse(prompt)
    rows, right = {}, {}
    for scale in text_scales:
        drawn = [model.draw(prompt, steps=n, text_scale=scale, seed=seed, warn=False) for n in steps]
        seen = torch.cat([as_seen(d) for d in drawn])
        name = f"text scale {scale:g}" if scale > 1 else "unguided"
        rows[name], right[name] = seen, [check(r, request).right for r in read(seen)]
    return plots.strip(rows, [f"{n} steps" if n > 1 else "1 step" for n in steps], right=right, title=title)


def compare(model: Model, prompt: str = "a red circle left of a blue star", steps: int = 12) -> w.VBox:
    """Steps, guidance, seed and student: the picture asked for, beside what 50 steps make of the same noise.

    The reference costs most of the time, so each prompt and seed is drawn once.
    """
    references: dict[tuple[str, int], Pictures] = {}

    def draw(prompt, steps, text_scale, seed, student):
        request = parse(prompt)
        if (prompt, seed) not in references:
            references[prompt, seed] = model.draw(prompt, seed=seed, warn=False)
        reference = references[prompt, seed]
        who = {} if student == TEACHER else dict(student=student)
        drawn = model.draw(prompt, steps=steps, text_scale=text_scale, seed=seed, warn=False, **who)
        seen = torch.cat([as_seen(reference), as_seen(drawn)])
        verdicts = [check(r, request) for r in read(seen)]
        captions = [f"the preset: {reference.nfe:g} NFE", f"yours: {drawn.nfe:g} NFE"]
        chart = plots.sheet(seen, captions, [v.right for v in verdicts], columns=2, size=2.0)
        why = verdicts[1].reasons
        return chart, "The judge: " + ("✓ right." if not why else "✗ " + "; ".join(why[:3]) + ".")

    return live(
        draw,
        prompt=w.Text(value=prompt, description="prompt", continuous_update=False),
        steps=slider(w.IntSlider, steps, 1, 50, 1, "steps"),
        text_scale=slider(w.FloatSlider, 4.0, 1.0, 10.0, 0.5, "text scale"),
        seed=slider(w.IntSlider, 0, 0, 99, 1, "seed"),
        student=w.Dropdown(options=[TEACHER, *model.students], description="drawn by"),
    )


# ---- exercises -------------------------------------------------------------------------------------------------------


@exercise("0.1")
def _cost(answer):
    """cost(steps, branches): function evaluations of a picture."""
    for steps, branches in ((50, 2), (6, 1), (7, 3)):
        expect(
            call(answer, steps, branches),
            steps * branches,
            [
                (steps, "every step asks the network once for each branch"),
                (steps + branches, "every step pays for all its branches: multiply, do not add"),
                ((steps - 1) * branches, "50 steps are 50 evaluations of a branch; 50 boundaries would be 49 steps"),
            ],
            "how many forward passes does one step make, and how many steps are there?",
        )


@exercise("0.2")
def _speed_up(answer):
    """The NFE ratio of 132 evaluations to 6."""
    expect_number(
        answer,
        22.0,
        {
            6 / 132: "that is how much cost is left; a speed-up is the old cost over the new one",
            126.0: "a speed-up is a ratio, not a difference",
            100 / 6: "that is the ratio for drawing; editing starts from 132",
        },
        "the teacher's evaluations for an edit, over the student's",
    )
