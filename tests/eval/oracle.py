"""A model that is right by construction, and wrong in one chosen way."""

from functools import cache

import numpy as np
import torch

from hb.flow import time_grid
from hb.infer.pipeline import Answers, Pictures
from hb.infer.plan import SamplingPlan
from hb.world import benchmark as bench
from hb.world.language import describe, parse
from hb.world.render import render
from hb.world.scene import sample_scenes


class Oracle:
    """Answers every request as the world itself would; `wrong` spoils it in one way. Stands in for a Model."""

    def __init__(self, tiny, wrong=""):
        self.bagel, self.sampling, self.text, self.wrong = tiny.bagel, tiny.sampling, tiny.text, wrong
        self.drawn = 0
        self.edits = {c.edit.instruction: c for c in bench.edit_set()}
        self.scenes, self.students, self.pixel_decoder, self.draft = {}, {}, None, None

    def plan(self, verb, **options):
        return SamplingPlan(time_grid(50, 3.0), getattr(self.sampling, verb))

    def record(self, pixels, prompts):
        return Pictures(pixels, tuple(prompts), 100, 50, {"denoise": 0.1}, tuple(range(len(prompts))))

    def draw(self, prompts, seed=0, **_):
        self.drawn += len(prompts)
        rng = np.random.default_rng(seed if isinstance(seed, int) else seed[0])
        requests = [parse(p) for p in prompts]
        if self.wrong == "collapsed":  # always the same picture for the same prompt
            scenes = [sample_scenes([r], np.random.default_rng(0)).scene(0) for r in requests]
        else:
            scenes = sample_scenes(requests, rng).to_list()
        pictures = render(scenes)
        return self.record(torch.flip(pictures, [1]) if self.wrong == "colors" else pictures, prompts)

    def edit(self, pictures, instructions, seed=0, **_):
        cases = [self.edits[i] for i in instructions]
        made = [c.source if self.wrong == "lazy" else c.edit.target for c in cases]
        return self.record(render(made), instructions)

    def ask(self, pictures, questions, **_):
        known, answers = truths()
        questions = [questions] * len(pictures) if isinstance(questions, str) else questions
        said = []
        for picture, question in zip(pictures, questions):
            seen = key(picture)
            told = answers.get((seen, question)) or describe(known[seen], np.random.default_rng(0))
            said.append("green" if self.wrong == "mumbling" else told)
        return Answers(tuple(said), tuple(questions), 3, 3, {"decode text": 0.1})


@cache
def truths() -> tuple[dict, dict]:
    """The scene of every picture to be described; the answer to every picture and question."""
    scenes, cases = bench.description_set(), bench.question_set()
    known = {key(p): s for p, s in zip(render(scenes), scenes)}
    asked = render([c.scene for c in cases])
    return known, {(key(p), c.question.text): c.question.answer for p, c in zip(asked, cases)}


def key(picture):
    """A picture's fingerprint without the last bits of a float."""
    return hash((picture * 23).round().to(torch.uint8).numpy().tobytes())
