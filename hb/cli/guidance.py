"""`hb tune guidance`: how strongly a model is guided, looked for on prompts and edits that no evaluation holds."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import product

import hb.eval.edit
import hb.eval.scene
from hb.cli.results import ROWS, finish, of_interval
from hb.cli.use import folder_of, open_model
from hb.world import benchmark as bench


def tune_guidance(args) -> None:
    """Race the scales, write the best into the model's sampling.json."""
    model, began = open_model(args), time.monotonic()
    if min(*args.text, *args.image) <= 1:
        raise ValueError("a scale of 1 is no guidance, and costs fewer evaluations; give scales above 1")
    prompts, edits = bench.other_cases(args.n or 96, args.seed)
    run = dict(seed=args.seed, keep=ROWS, bar=not args.json, steps=args.steps)
    drawn = {
        s: hb.eval.scene.scene_eval(model, pictures=1, cases=prompts, text_scale=s, **run).overall for s in args.text
    }
    edited = {
        (s, i): hb.eval.edit.edit_eval(model, cases=edits, text_scale=s, image_scale=i, **run)["O"]
        for s, i in product(args.text, args.image)
    }
    best, (text, image) = (max(found, key=lambda key: found[key]["value"]) for found in (drawn, edited))
    lines = [of_interval(f"drawing, text scale {s:g}: right", got, headline=s == best) for s, got in drawn.items()]
    lines += [
        of_interval(f"editing, text {s:g}, picture {i:g}: O (0 to 10)", got, headline=(s, i) == (text, image))
        for (s, i), got in edited.items()
    ]
    now = model.sampling
    chosen = replace(
        now, draw=replace(now.draw, text_scale=best), edit=replace(now.edit, text_scale=text, image_scale=image)
    )
    chosen.save(folder_of(args.model))
    found = dict(draw=dict(text_scale=best), edit=dict(text_scale=text, image_scale=image))
    finish(
        args,
        "tune_guidance",
        model,
        lines,
        dict(chosen=found, steps=args.steps),
        began,
        notes=[
            f"Drawing is guided by {best:g} now, editing by {text:g} (text) and {image:g} (picture): sampling.json."
        ],
    )
