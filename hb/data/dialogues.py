"""Questions and answers about pictures of the tiny world, written anew for every step."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hb.data.tokens import DIALOGUE_TOKENS, Tokenizer, marked, pad
from hb.seeding import TRAINING
from hb.world.language import DESCRIBE_REQUESTS, QUESTION_KINDS, TASKS, ask, describe, sample_request
from hb.world.render import render, to_uint8
from hb.world.scene import any_requests, sample_scenes

# what follows a description can be read in it instead of seen: when all dialogues had one, nano described pictures
# (0.71 of their things right) long before it could answer whether there was a circle (0.52, a coin's share)
DESCRIBED = 0.5
# how often a kind of question is asked, 1 for those not named: what takes two things to answer is learnt last (after
# 7,300 steps with all kinds alike: same 0.60, relation 0.73, count 0.75 right, all else 0.97)
ASKED = dict(same=6.0, count=4.0, relation=2.0, more=2.0)
ASK_MIX = np.array([ASKED.get(kind, 1.0) for kind in QUESTION_KINDS])
ASK_MIX /= ASK_MIX.sum()


def write_dialogues(text: Tokenizer, side: int, n: int, seed: int, step: int, rank: int = 0) -> dict[str, Tensor]:
    """n pictures and dialogues about them, for step `step`. Every second scene is one that a prompt could ask for.

    Left to chance alone, three hearts in one picture are so rare that counting them is not learnt.

    dialogue_picture: uint8 [n, side, side, 3]; the rest as in `dialogue_arrays`.
    """
    rng = np.random.default_rng([TRAINING, seed, 13, step, rank])
    anything = any_requests(n - n // 2, rng)
    asked_for = [sample_request(task, rng) for task in rng.choice(TASKS, n // 2)]
    scenes = sample_scenes(anything + asked_for, rng)
    dialogues = [conversation(scene, text, rng) for scene in scenes.to_list()]
    return dict(dialogue_picture=to_uint8(render(scenes, side)), **dialogue_arrays(dialogues, text))


def dialogue_arrays(
    dialogues: list[tuple[list[int], list[bool]]], text: Tokenizer, width: int = DIALOGUE_TOKENS
) -> dict[str, Tensor]:
    """Dialogues, ids and masks as `in_turns` makes them, as arrays.

    dialogue_ids: int32 [n, width]; dialogue_length: int32 [n]; dialogue_answer: bool [n, width], is the *next* token
    part of an answer?
    """
    ids, length = pad([ids for ids, _ in dialogues], width, text.end)
    answer = torch.zeros(ids.shape, dtype=torch.bool)
    for i, (_, mask) in enumerate(dialogues):
        answer[i, : len(mask)] = torch.tensor(mask)
    return dict(dialogue_ids=ids, dialogue_length=length, dialogue_answer=answer)


def conversation(scene, text: Tokenizer, rng) -> tuple[list[int], list[bool]]:
    """Several question-answer turns about a scene, within DIALOGUE_TOKENS; one dialogue in two begins with a
    description."""
    turns = [(q.text, q.answer) for q in (_some_question(scene, rng) for _ in range(12))]
    if rng.random() < DESCRIBED:
        request = DESCRIBE_REQUESTS[rng.integers(len(DESCRIBE_REQUESTS))]
        turns.insert(0, (request, describe(scene, rng)))
    return in_turns([(text.encode(question), text.encode(answer)) for question, answer in turns], text)


def in_turns(turns: list[tuple[list[int], list[int]]], text: Tokenizer) -> tuple[list[int], list[bool]]:
    """Token ids of a dialogue, turns that do not fit into DIALOGUE_TOKENS left out, and its mask.

    The mask marks positions whose *next* token belongs to an answer (its words and <|im_end|>): those carry loss.
    """
    ids: list[int] = []
    mask: list[bool] = []
    for question, answer in turns:
        prompt, output = marked(text, question), marked(text, answer)
        if len(ids) + len(prompt) + len(output) > DIALOGUE_TOKENS:
            continue
        ids += prompt + output
        mask += [False] * len(prompt) + [True] * (len(output) - 1) + [False]
    return ids, mask


def _some_question(scene, rng):
    while True:
        question = ask(scene, rng, QUESTION_KINDS[rng.choice(len(ASK_MIX), p=ASK_MIX)])
        if question:
            return question
