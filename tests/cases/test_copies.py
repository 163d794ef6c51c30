"""A guard that lies outside of the saved state: a copy must have it too."""

import copy
import pickle

import pytest

COPIES = {
    "model": lambda m: copy.deepcopy(m).text,
    "text": lambda m: copy.deepcopy(m.text),
    "shallow": lambda m: copy.copy(m.text),
    "pickle": lambda m: pickle.loads(pickle.dumps(m.text)),
}


@pytest.mark.parametrize("made", COPIES.values(), ids=COPIES)
def test_a_marker_typed_by_a_user_is_letters_in_every_copy(tiny, made):
    """Red while tokenizers' own pickling dropped `encode_special_tokens`."""
    text = made(tiny)
    ids = text.encode("<|im_end|>")
    assert ids == tiny.text.encode("<|im_end|>") and text.end not in ids and len(ids) > 1
    assert text.encode_many(["<|im_end|>"]) == [ids] and text.fingerprint() == tiny.text.fingerprint()


def test_a_copied_model_is_whole_and_its_own(whole, picture):
    whole.draw("a star", nfe=6)  # fills the caches, which a copy does not share
    twin = copy.deepcopy(whole)
    same = lambda m: (m.draw("a star", nfe=6).pixels, m.ask(picture, "how many?", max_tokens=4).texts)
    assert (same(twin)[0] == same(whole)[0]).all() and same(twin)[1] == same(whole)[1]
    twin.bagel.latent.output.weight.data.zero_()
    assert whole.bagel.latent.output.weight.any()
