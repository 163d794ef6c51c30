"""Pictures of one's own and what is said of them, as everything that trains takes it: batches, dialogues, a pool."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from hb.data.dialogues import dialogue_arrays, in_turns
from hb.data.pool import PICTURES_A_PROMPT, Pool, Produce, encoded_pool
from hb.data.records import Caption, Instruction, pack
from hb.data.tokens import DIALOGUE_TOKENS, Tokenizer, marked, pad
from hb.pictures import from_uint8
from hb.seeding import TRAINING
from hb.world.language import DESCRIBE_REQUESTS

MOST_TOKENS = 96  # of a text, markers included
EXPECTED = '{"image": ..., "text": ...} or {"image": ..., "instruction": ..., "edited": ...}'


@dataclass(frozen=True)
class OwnPictures:
    """Pictures of one size, and what is said of them; images are named relative to the folder.

    left_out, notes   one sentence each for a row that is not used, and for one that is used changed
    """

    pictures: Tensor  # uint8 [n, H, W, 3]
    names: tuple[str, ...]
    captions: tuple[Caption, ...]
    edits: tuple[Instruction, ...]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        counted = f"{len(self.names)} pictures, {len(self.captions)} captions, {len(self.edits)} edits"
        return counted + (f"; {len(self.left_out)} rows are left out" if self.left_out else "")

    def fingerprint(self) -> str:
        """Of all that training sees of them."""
        digest = hashlib.sha256(self.pictures.numpy().tobytes())
        digest.update(repr((tuple(self.pictures.shape), self.names, self.captions, self.edits)).encode())
        return digest.hexdigest()[:16]

    def pixels(self, names: Sequence[str]) -> Tensor:
        """These pictures, [n, 3, H, W] in [0, 1]."""
        at = {name: i for i, name in enumerate(self.names)}
        return self.pictures[[at[name] for name in names]].movedim(-1, 1).float() / 255

    def random_pictures(self, n: int, seed: int, step: int, rank: int = 0) -> Tensor:
        """n pictures for step `step` of an autoencoder's training, [n, 3, H, W] in [-1, 1]."""
        rows = np.random.default_rng([TRAINING, seed, step, rank]).integers(0, len(self.names), n)
        return from_uint8(self.pictures[torch.from_numpy(rows)])

    def pool(
        self,
        encode: Produce,
        text: Tokenizer,
        *,
        see: Produce | None = None,
        tokens: int = MOST_TOKENS,
        pictures_a_prompt: int = PICTURES_A_PROMPT,
    ) -> Pool:
        """The same kind of pool as the tiny world's (`make_pool` says what encode and see are).

        A prompt has as many pictures as its caption has; fewer than `pictures_a_prompt` are repeated, each time with
        other noise of the autoencoder's, and more make further rows of the same text.
        """
        if not self.captions and not self.edits:
            raise ValueError(
                "there is nothing to learn drawing from: no picture has a caption, and there are no edits; "
                f"write captions.jsonl or edits.jsonl, rows of {EXPECTED}. {' '.join(self.left_out[:3])}".rstrip()
            )
        ids = lambda texts: pad(*_rows_of(texts, text, tokens), text.end)
        return encoded_pool(self._parts(ids, pictures_a_prompt), encode, see)

    def _parts(self, ids: Callable, copies: int, chunk: int = 256) -> Iterator[dict[str, Tensor]]:
        prompts = list(_prompts(self.captions, copies))
        (draw_ids, draw_length), (edit_ids, edit_length) = (
            ids([text for text, _ in prompts]),
            ids([e.instruction for e in self.edits]),
        )
        for i in range(0, len(prompts), chunk):
            part = prompts[i : i + chunk]
            yield dict(
                draw_ids=draw_ids[i : i + chunk],
                draw_length=draw_length[i : i + chunk],
                draw_record=pack([Caption(images[0], text) for text, images in part]),
                drawn=self.pixels([image for _, images in part for image in images]),
            )
        for i in range(0, len(self.edits), chunk):
            part = self.edits[i : i + chunk]
            before, after = (self.pixels([getattr(e, side) for e in part]) for side in ("image", "edited"))
            yield dict(
                edit_ids=edit_ids[i : i + chunk],
                edit_length=edit_length[i : i + chunk],
                edit_record=pack(part),
                scene_picture=(before * 255).round().to(torch.uint8).movedim(1, -1),
                before=before,
                after=after,
            )

    def dialogues(self, text: Tokenizer, n: int, seed: int, step: int, rank: int = 0) -> dict[str, Tensor]:
        """n captioned pictures for step `step`, and a request to describe each with the caption as the answer; arrays
        as of `write_dialogues`."""
        if not self.captions:
            raise ValueError("there are no captions to learn describing from; write some, or give --learns drawing")
        rng = np.random.default_rng([TRAINING, seed, 13, step, rank])
        chosen = [self.captions[i] for i in rng.integers(0, len(self.captions), n)]
        asked = [DESCRIBE_REQUESTS[i] for i in rng.integers(0, len(DESCRIBE_REQUESTS), n)]
        dialogues = [_described(text.encode(a), text.encode(c.text), text) for a, c in zip(asked, chosen)]
        pictures = (self.pixels([c.image for c in chosen]) * 255).round().to(torch.uint8)
        return dict(dialogue_picture=pictures.movedim(1, -1), **dialogue_arrays(dialogues, text))

    def hold_back(self, n: int, seed: int = 0) -> tuple[OwnPictures, OwnPictures]:
        """Two parts without a picture in common, the second of n pictures. Pictures that edits lead to and from stay
        together, so fewer are held back where groups do not add up to n."""
        held: set[str] = set()
        groups = connected(self.names, self.edits)
        for i in np.random.default_rng([TRAINING, seed, 31]).permutation(len(groups)):
            if len(held) + len(groups[i]) <= n:
                held |= set(groups[i])
        return self._only(set(self.names) - held), self._only(held)

    def _only(self, names: set[str]) -> OwnPictures:
        rows = [i for i, name in enumerate(self.names) if name in names]
        return replace(
            self,
            pictures=self.pictures[rows],
            names=tuple(self.names[i] for i in rows),
            captions=tuple(c for c in self.captions if c.image in names),
            edits=tuple(e for e in self.edits if e.image in names),
        )


def _described(question: list[int], answer: list[int], text: Tokenizer) -> tuple[list[int], list[bool]]:
    room = DIALOGUE_TOKENS - len(question) - 4  # four markers
    return in_turns([(question, answer[:room])], text)


def _rows_of(texts: Sequence[str], text: Tokenizer, tokens: int) -> tuple[list[list[int]], int]:
    """Token ids of texts, cut to so many with their markers, and the longest length."""
    rows = [marked(text, text.encode(words)[: tokens - 2]) for words in texts]
    return rows, max(map(len, rows), default=2)


def _prompts(captions: Sequence[Caption], copies: int) -> Iterator[tuple[str, list[str]]]:
    """Each text with as many pictures as a row of a pool has."""
    by_text: dict[str, list[str]] = {}
    for caption in captions:
        by_text.setdefault(caption.text, []).append(caption.image)
    for text, images in by_text.items():
        for i in range(0, len(images), copies):
            part = images[i : i + copies]
            yield text, [part[k % len(part)] for k in range(copies)]


def connected(names: Sequence[str], edits: Sequence[Instruction]) -> list[list[str]]:
    """Pictures that edits connect, in the order of the first of each."""
    group = {name: [name] for name in names}
    for edit in edits:
        one, other = group[edit.image], group[edit.edited]
        if one is not other:
            one += other
            group |= dict.fromkeys(other, one)
    return list({id(g): g for g in group.values()}.values())
