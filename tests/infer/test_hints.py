"""Words that are a picture are read in the model's spelling; words on their way get a hint that leads there."""

import re

import pytest

from hb.infer.hints import DRAW, EDIT, EMPTY, LONGEST, Hint, understood
from hb.world import benchmark as bench
from hb.world.language import parse, parse_edit, say, say_edit


@pytest.mark.parametrize("text", ["A BIG red circle.", "please draw two hearts", "a red circle left of a blue star"])
def test_a_prompt_is_read_in_the_spelling_of_training(text):
    assert understood(DRAW, text) == say(parse(text))


def test_every_instruction_of_the_set_is_read():
    for case in bench.edit_set()[::10]:
        assert understood(EDIT, case.edit.instruction) == say_edit(parse_edit(case.edit.instruction))


@pytest.mark.parametrize(
    ("verb", "text", "part"),
    [
        (DRAW, "a re", "'re' can become 'red'"),
        (DRAW, "a red", "go on, for instance 'a red circle'"),
        (DRAW, "two", "'two circles'"),
        (DRAW, "a red circle left o", "'of'"),
        (DRAW, "a blurple circle", "did you mean 'purple'?"),
        (DRAW, "a star and no stars", "contradict"),
        (DRAW, "5 circles", "at most 4"),
        (EDIT, "mak", "'make'"),
        (EDIT, "make the star", "'make the star green'"),
        (EDIT, "make the background bl", "'black'"),
        (EDIT, "sing", "sing"),
        (DRAW, "  ", EMPTY[DRAW]),
        (EDIT, "", EMPTY[EDIT]),
    ],
)
def test_a_hint_says_how_to_go_on_or_what_is_wrong(verb, text, part):
    hint = understood(verb, text)
    assert isinstance(hint, Hint) and part in hint.text and len(hint.text) <= LONGEST + 30


@pytest.mark.parametrize(
    ("verb", "sentence"),
    [
        (DRAW, "two large red circles and a blue star on a navy background"),
        (DRAW, "a picture of three small striped hearts at the top left"),
        (DRAW, "a moon, a ring to the left of something red"),
        (EDIT, "move the red star to the top left"),
        (EDIT, "change the color of the star to green"),
        (EDIT, "change the size of the small star to large"),
        (EDIT, "put a red circle into the picture"),
        (EDIT, "replace the star on the left with a circle"),
        (EDIT, "take away the star"),
        (EDIT, "make the background black"),
    ],
)
def test_no_beginning_of_a_good_sentence_is_called_wrong(verb, sentence):
    """What a hint proposes for it can be read."""
    assert isinstance(understood(verb, sentence), str)
    for end in range(1, len(sentence)):
        said = understood(verb, sentence[:end])
        if isinstance(said, Hint):
            assert said.text.startswith("go on, for instance") or "can become" in said.text, sentence[:end]
            for example in re.findall("go on, for instance '(.*)'", said.text):
                assert isinstance(understood(verb, example), str)
