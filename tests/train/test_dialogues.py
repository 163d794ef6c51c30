"""Question-answer dialogues: answers carry the loss, and half of them must be seen to be known."""

import numpy as np

from hb.data.dialogues import conversation, write_dialogues
from hb.data.tokens import DIALOGUE_TOKENS
from hb.world.language import DESCRIBE_REQUESTS
from hb.world.scene import sample_any


def test_answers_carry_the_loss_and_questions_do_not(text):
    """Every marked place's next token is an answer's word or end; the first marked one follows <|im_start|>."""
    talks = write_dialogues(text, 64, 20, 0, 0)
    for ids, length, mask in zip(*(talks["dialogue_" + name].tolist() for name in ("ids", "length", "answer"))):
        turns = 0
        for i in range(length):
            if ids[i] == text.start:
                turns += 1
                assert mask[i] == (turns % 2 == 0)  # even turns are answers
            if ids[i] == text.end:
                assert not mask[i]
        assert not any(mask[length:]) and turns % 2 == 0


def test_half_of_the_conversations_are_questions_alone_so_that_answers_must_be_seen(text):
    """A description answers all that is asked after it; one that is asked for comes first, as it does in use."""
    rng = np.random.default_rng(0)
    requests = {tuple(text.encode(request)) for request in DESCRIBE_REQUESTS}
    described, questions = [], []
    for scene in sample_any(300, rng).to_list():
        ids, _ = conversation(scene, text, rng)
        turns = [tuple(ids[a + 1 : b]) for a, b in zip(where(ids, text.start), where(ids, text.end))][::2]
        assert not requests & set(turns[1:]) and len(ids) <= DIALOGUE_TOKENS
        described.append(turns[0] in requests)
        questions.append(len(turns) - described[-1])
    assert 0.42 < np.mean(described) < 0.58
    assert np.mean([n for n, d in zip(questions, described) if not d]) > 6


def where(ids: list[int], token: int) -> list[int]:
    return [i for i, found in enumerate(ids) if found == token]
