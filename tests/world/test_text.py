"""The tokenizer: one token per word of the world, and nothing lost of any other text."""

import re
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from hb.models.tokenizer import SPECIALS, Text, train_tokenizer
from hb.world.language.corpus import corpus

FOLDER = Path(__file__).parents[2] / "data" / "tokenizer"


@pytest.fixture(scope="module")
def text():
    return Text.load(FOLDER)


def test_every_world_word_is_one_token_wherever_it_stands(text):
    words = {word for line in corpus(np.random.default_rng(5), 2000) for word in re.findall(r"\w+|\S", line)}
    for word in sorted(words):
        if word in ",.?":
            assert len(text.encode("red" + word)) == 2
            continue
        assert len(text.encode(word)) == 1, word
        assert text.encode(f"draw {word}, {word}")[1::2] == text.encode(word) * 2, word


def test_any_text_survives_the_round_trip(text):
    lines = ["a red circle, and a star.", "", "12 x 7?", "Ünïcödé 漢字 🙂", "two  spaces\tand\nlines", "don't"]
    lines += list(corpus(np.random.default_rng(6), 50))
    assert [text.decode(text.encode(line)) for line in lines] == lines
    assert text.encode_many(lines) == [text.encode(line) for line in lines]


def test_markers_are_named_and_left_out_of_the_text(text):
    markers = [text.pad, text.start, text.end, text.vision_start, text.vision_end]
    assert len(set(markers)) == 5 and [text.token(marker) for marker in markers] == list(SPECIALS)
    assert text.decode([text.start, *text.encode("a red star"), text.end, text.pad]) == "a red star"
    assert max(markers) < text.vocab_size


def test_a_user_cannot_type_a_marker(text):
    line = "a star<|im_end|>"
    assert text.end not in text.encode(line) and text.decode(text.encode(line)) == line


def test_saved_and_loaded_it_is_the_same(text, tmp_path):
    text.save(tmp_path / "copy")
    copy = Text.load(tmp_path / "copy")
    assert copy.encode("a red circle left of a star?") == text.encode("a red circle left of a star?")
    assert (copy.vocab_size, copy.start, copy.end, copy.pad) == (text.vocab_size, text.start, text.end, text.pad)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "copy" / file).read_bytes() == (FOLDER / file).read_bytes()


def test_the_shipped_tokenizer_is_what_training_gives(tmp_path):
    Text(train_tokenizer(corpus(np.random.default_rng([3, 0]), 4000))).save(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (FOLDER / "tokenizer.json").read_bytes()


def test_transformers_reads_our_folder(text):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(FOLDER)
    assert theirs("a red circle, left of a star").input_ids == text.encode("a red circle, left of a star")
    assert (theirs.pad_token_id, theirs.bos_token_id, theirs.eos_token_id) == (text.pad, text.start, text.end)


def test_a_qwen2_folder_is_read_as_transformers_reads_it(tmp_path):
    transformers = pytest.importorskip("transformers")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet()) + ["st", "ar", "star", "Ġstar"]
    merges = [("s", "t"), ("a", "r"), ("st", "ar"), ("Ġ", "star")]
    theirs = transformers.Qwen2Tokenizer(vocab={token: i for i, token in enumerate(alphabet)}, merges=merges)
    theirs.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    theirs.save_pretrained(tmp_path)
    text = Text.load(tmp_path)
    for line in ("star star, 12 stars", "Ünïcödé 漢字"):
        assert (
            text.encode(line) == theirs(line, add_special_tokens=False).input_ids
            and text.decode(text.encode(line)) == line
        )
    assert (text.start, text.end) == tuple(theirs.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"]))
    assert len({text.pad, text.start, text.end, text.vision_start, text.vision_end}) == 5
    assert text.vocab_size == len(theirs) + 2  # its markers of a picture were missing


def test_markers_a_tokenizer_lacks_are_added_behind_its_own(tmp_path):
    bare = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "<|im_end|>": 2}, merges=[]))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    text = Text(bare)
    assert text.end == 2
    assert sorted([text.pad, text.start, text.vision_start, text.vision_end]) == [3, 4, 5, 6] and text.vocab_size == 7


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        Text.load(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="it holds config.json"):
        Text.load(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="save_pretrained"):
        Text.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "mod')
    with pytest.raises(ValueError, match="is not a tokenizer"):
        Text.load(tmp_path)


def test_a_token_number_outside_the_vocabulary_is_refused(text):
    with pytest.raises(ValueError, match="go from 0 to"):
        text.token(text.vocab_size)
