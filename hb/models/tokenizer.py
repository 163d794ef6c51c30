"""Words to token numbers and back: a byte-level BPE tokenizer, ours or Qwen2's, with the markers BAGEL needs.

Byte-level BPE: Sennrich et al. 2016 (arXiv 1508.07909) on bytes, as in GPT-2. Any text survives the round trip.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from hb.files import aside, write

START, END = "<|im_start|>", "<|im_end|>"  # of a text
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"  # of a picture
PAD = "<|endoftext|>"
SPECIALS = (PAD, START, END, VISION_START, VISION_END)


def train_tokenizer(corpus: Iterable[str], vocab_size: int = 1024) -> Tokenizer:
    """A tokenizer in which frequent words are one token, at the start of a text and within it alike.

    vocab_size   at most: merging stops when every word of the corpus is one token
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


class Text:
    """Token numbers of texts, and the numbers of the markers: start, end, vision_start, vision_end, pad."""

    def __init__(self, tokenizer: Tokenizer):
        """Markers come from the tokenizer; those it lacks are added at the end, as BAGEL's code does."""
        known = tokenizer.get_vocab(with_added_tokens=True)
        tokenizer.add_special_tokens(
            [AddedToken(t, special=True, normalized=False) for t in SPECIALS if t not in known]
        )
        tokenizer.encode_special_tokens = True  # a user who types "<|im_end|>" gets letters, not the marker
        self.tokenizer = tokenizer
        self.start, self.end = tokenizer.token_to_id(START), tokenizer.token_to_id(END)
        self.vision_start, self.vision_end = tokenizer.token_to_id(VISION_START), tokenizer.token_to_id(VISION_END)
        self.pad = tokenizer.token_to_id(PAD)

    def __reduce__(self):
        """Copies and pickles go through the constructor: tokenizers' own state forgets `encode_special_tokens`."""
        return _from_json, (self.tokenizer.to_str(),)

    @property
    def vocab_size(self) -> int:
        """One more than the largest token number: the least number of rows of an embedding."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def fingerprint(self) -> str:
        """Of all that decides which numbers a text has."""
        return sha256(self.tokenizer.to_str().encode()).hexdigest()[:16]

    def encode(self, text: str) -> list[int]:
        """Token numbers of a text, without markers around it."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each, several times faster."""
        return [found.ids for found in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these tokens, markers left out, without the leading space that every first word has."""
        return self.tokenizer.decode([int(i) for i in ids], skip_special_tokens=True).removeprefix(" ")

    def token(self, number: int) -> str:
        """One token as a reader should see it: " red", "<|im_end|>"."""
        if not 0 <= number < self.vocab_size:
            raise ValueError(f"token numbers go from 0 to {self.vocab_size - 1}, got {number}")
        return self.tokenizer.decode([number], skip_special_tokens=False)

    @staticmethod
    def load(folder: str | Path) -> Text:
        """From a folder with a `tokenizer.json`: ours, or a released Qwen2 or BAGEL folder.

        Raises FileNotFoundError or ValueError saying what is wrong with the folder.
        """
        file = Path(folder) / "tokenizer.json"
        if not file.is_file():
            raise FileNotFoundError(_what_is_missing(Path(folder)))
        try:
            return Text(Tokenizer.from_file(str(file)))
        except Exception as error:  # `tokenizers` raises bare Exception
            raise ValueError(f"{file} is not a tokenizer ({error}); it may be truncated: fetch it again") from error

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` and a `tokenizer_config.json` that `transformers` reads."""
        folder = Path(folder)
        with aside(folder / "tokenizer.json") as part:
            self.tokenizer.save(str(part))
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": PAD,
            "bos_token": START,
            "eos_token": END,
            "extra_special_tokens": [VISION_START, VISION_END],
            "clean_up_tokenization_spaces": False,
        }
        write(folder / "tokenizer_config.json", (json.dumps(config, indent=2) + "\n").encode())


def _from_json(text: str) -> Text:
    return Text(Tokenizer.from_str(text))


def _what_is_missing(folder: Path) -> str:
    if not folder.is_dir():
        return f"there is no folder {folder}; a tokenizer is a folder with a tokenizer.json in it"
    if (folder / "vocab.json").is_file():
        return (
            f"{folder} holds vocab.json but no tokenizer.json; make one with "
            "transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
    held = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    return f"{folder} has no tokenizer.json (it holds {held}); point to the folder of a tokenizer or a whole model"
