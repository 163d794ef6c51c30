"""Sentences of every kind, from which the tokenizer learns the world's words."""

from __future__ import annotations

from collections.abc import Iterator

from numpy.random import Generator

from hb.world.language.descriptions import DESCRIBE_REQUESTS, describe
from hb.world.language.edits import sample_edit
from hb.world.language.prompts import TASKS, sample_request, say
from hb.world.language.questions import ask
from hb.world.scene import sample_scenes


def corpus(rng: Generator, n: int) -> Iterator[str]:
    """Prompt, description, question, answer and edit of `n` scenes, tasks in turn, after the requests to describe."""
    yield from DESCRIBE_REQUESTS
    requests = [sample_request(TASKS[i % len(TASKS)], rng) for i in range(n)]
    for request, scene in zip(requests, sample_scenes(requests, rng).to_list()):
        question = ask(scene, rng)
        yield say(request, rng)
        yield describe(scene, rng)
        yield question.text
        yield question.answer
        yield sample_edit(scene, rng).instruction
