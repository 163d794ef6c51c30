"""From scenes to batches: a pool of encoded examples, and the batch of every step.

Training reads from a pool made once: pictures are rendered, encoded to latents and described, then kept as small
integer and half-precision arrays. The batch of step i is a function of (seed, rank, i), so a killed run resumes
exactly.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from hb.files import aside
from hb.world.language import (
    DESCRIBE_REQUESTS,
    DRAWN_TASKS,
    QUESTION_KINDS,
    TASKS,
    ask,
    describe,
    sample_edit,
    sample_request,
    say,
)
from hb.world.render import render, to_uint8
from hb.world.scene import Scenes, any_requests, sample_any, sample_scenes

TRAINING = 1  # first key of every training seed; evaluation sets use 2
# many rich prompts, though no task of SceneEval asks for them: what they say need not be guessed, so they teach faster.
# Counting is learnt last: with 8% of the prompts it stood at 0.45 where all else was at 0.8 to 1
DRAW_MIX = dict(
    single=0.03, two=0.12, counting=0.26, colors=0.03, position=0.10, attribution=0.14, rich=0.32, complex=0.0
)
SKEW = 0.5  # rich prompts say two thirds of what there is to say, not half
# what follows a description can be read in it instead of seen: when all conversations had one, nano described pictures
# (0.71 of their things right) long before it could answer whether there was a circle (0.52, a coin's share)
DESCRIBED = 0.5
# how often a kind of question is asked, 1 for those not named: what takes two things to answer is learnt last (after
# 7,300 steps with all kinds alike: same 0.60, relation 0.73, count 0.75 right, all else 0.97)
ASKED = dict(same=6.0, count=4.0, relation=2.0, more=2.0)
ASK_MIX = np.array([ASKED.get(kind, 1.0) for kind in QUESTION_KINDS])
ASK_MIX /= ASK_MIX.sum()
PICTURES_A_PROMPT = 4  # different pictures of one prompt share its text in training: the distribution is multi-modal
# text budgets, markers included. A prompt that says everything about four things has up to 50 tokens; until November
# 2026 the budget was 24, so that the teacher had never seen one that says everything about three
DRAW_TOKENS, EDIT_TOKENS, DIALOGUE_TOKENS = 52, 14, 112

assert set(DRAW_MIX) == set(DRAWN_TASKS)


def mixed(shares: Mapping[str, float]) -> dict[str, float]:
    """DRAW_MIX with these shares for the tasks that are named; the others part what is left as they do in DRAW_MIX."""
    unknown = [task for task in shares if task not in DRAW_MIX]
    if unknown:
        raise ValueError(f"no task {unknown[0]!r}; prompts are of {', '.join(DRAW_MIX)}")
    others = {task: share for task, share in DRAW_MIX.items() if task not in shares}
    left = round(1 - sum(shares.values()), 9)  # 0.1, 0.2 and 0.7 are 1 to a person
    if not all(0 <= share <= 1 for share in shares.values()) or left < 0 or not others:
        raise ValueError(
            "shares are 0 or more, and 1 or less together, and one task at least is left to take the rest; "
            f"got {' '.join(f'{task}={share:g}' for task, share in shares.items())}"
        )
    return dict(shares) | {task: left * share / sum(others.values()) for task, share in others.items()}


class Tokenizer(Protocol):
    """What a pool needs of a tokenizer: the ids of the two markers, and the ids of a text."""

    start: int
    end: int

    def encode(self, text: str) -> list[int]: ...


@dataclass(frozen=True)
class Pool:
    """Examples as arrays. Token ids are padded with `Text.end`; lengths count the two markers.

    draw_*    prompts and PICTURES_A_PROMPT latents each
    scene_*   pictures with an edit (instruction, latent before and after)

    Conversations are not in it: they are written anew for every step (`write_dialogues`), which costs next to nothing.
    """

    draw_ids: Tensor  # int16 [N, DRAW_TOKENS]
    draw_length: Tensor  # int16 [N]
    draw_latent: Tensor  # half [N, PICTURES_A_PROMPT, C, h, w]
    scene_picture: Tensor  # uint8 [M, side, side, 3]
    scene_latent: Tensor  # half [M, C, h, w]
    edit_ids: Tensor  # int16 [M, EDIT_TOKENS]
    edit_length: Tensor  # int16 [M]
    edit_latent: Tensor  # half [M, C, h, w]
    # what a schooled eye sees in the pictures to be drawn, one feature for each latent token; without such an eye,
    # empty
    draw_seen: Tensor  # half [N, PICTURES_A_PROMPT, tokens, width]
    edit_seen: Tensor  # half [M, tokens, width]

    def save(self, path: Path, made_of: dict | None = None) -> None:
        """made_of: what another pool must share to be the same one, ready for JSON; the file keeps it."""
        with aside(path) as part:
            arrays = {f.name: getattr(self, f.name).contiguous() for f in fields(self)}
            save_file(arrays, part, {"made_of": json.dumps(made_of)})

    @staticmethod
    def made_of(path: Path) -> dict | None:
        """What `save` was told; None if nothing."""
        with safe_open(path, framework="pt") as f:
            return json.loads((f.metadata() or {}).get("made_of", "null"))

    @staticmethod
    def load(path: Path) -> Pool:
        stored = load_file(path)
        missing = {f.name for f in fields(Pool)} - stored.keys()
        if missing:
            raise ValueError(
                f"{path} is a pool of an older kind (it lacks {', '.join(sorted(missing))}); delete it, and it is made anew"
            )
        return Pool(**stored)

    def to(self, device: str | torch.device) -> Pool:
        """The same pool there. What `pick` takes of a pool comes to lie where the pool does."""
        return Pool(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def rows(self, names: Sequence[str], rows: Tensor) -> dict[str, Tensor]:
        """These rows of the arrays of these names."""
        rows = rows.to(self.draw_ids.device)
        return {name: getattr(self, name)[rows] for name in names}

    def latent_statistics(self) -> tuple[float, float]:
        """Mean and standard deviation over all latent values."""
        sample = self.draw_latent.flatten(0, 1).float()
        return float(sample.mean()), float(sample.std())


def make_pool(
    encode: Callable[[Tensor], Tensor],
    text: Tokenizer,
    *,
    side: int,
    prompts: int,
    scenes: int,
    seed: int = 0,
    bar: bool = True,
    see: Callable[[Tensor], Tensor] | None = None,
    workers: int = 0,
    mix: Mapping[str, float] = DRAW_MIX,
) -> Pool:
    """Draw a pool. encode: pictures [n, 3, side, side] in [0, 1] -> latents [n, C, h, w]; see: pictures -> features;
    workers: processes that write prompts and render (the pool is the same with any number of them); mix: shares of the
    tasks among the prompts, 1 together (see `mixed`)."""
    see = see or (lambda pictures: pictures.new_zeros(len(pictures), 0, 0))
    chunk, merged = 1000, {}
    jobs = [("draw", i, min(chunk, prompts - i)) for i in range(0, prompts, chunk)]
    jobs += [("scene", i, min(chunk, scenes - i)) for i in range(0, scenes, chunk)]
    written = DataLoader(_Written(jobs, text, side, seed, mix), batch_size=None, num_workers=workers)
    for part in tqdm(written, desc="making the pool", unit="k", disable=not bar):
        for name, tensor in _encoded(part, encode, see).items():
            merged.setdefault(name, []).append(tensor)
    return Pool(**{name: torch.cat(tensors) for name, tensors in merged.items()})


@dataclass(frozen=True)
class _Written(Dataset):
    """Parts of a pool before they are encoded, each from a seed of its own."""

    jobs: list[tuple[str, int, int]]
    text: Tokenizer
    side: int
    seed: int
    mix: Mapping[str, float]

    def __len__(self):
        return len(self.jobs)

    def __getitem__(self, i):
        kind, start, n = self.jobs[i]
        rng = np.random.default_rng([TRAINING, self.seed, kind == "scene", start])
        return (
            _draw_part(self.text, self.side, n, rng, self.mix)
            if kind == "draw"
            else _scene_part(self.text, self.side, n, rng)
        )


def _encoded(part: dict[str, Tensor], encode, see) -> dict[str, Tensor]:
    if "drawn" in part:
        pictures = part.pop("drawn")
        by_prompt = lambda values: values.half().unflatten(0, (-1, PICTURES_A_PROMPT))
        return part | dict(draw_latent=by_prompt(encode(pictures)), draw_seen=by_prompt(see(pictures)))
    pictures, targets = part.pop("before"), part.pop("after")
    return part | dict(
        scene_latent=encode(pictures).half(), edit_latent=encode(targets).half(), edit_seen=see(targets).half()
    )


def _draw_part(text, side, n, rng, mix):
    names, distribution = list(mix), list(mix.values())
    requests, ids = [], []
    while len(ids) < n:
        request = sample_request(names[rng.choice(len(names), p=distribution)], rng, SKEW)
        row = text.encode(say(request, rng))
        if len(row) + 2 <= DRAW_TOKENS:  # the few longer ones are left out: short sequences train faster
            requests.append(request)
            ids.append(row)
    scenes = sample_scenes([r for r in requests for _ in range(PICTURES_A_PROMPT)], rng)
    padded, length = _pad([[text.start, *row, text.end] for row in ids], DRAW_TOKENS, text.end)
    return dict(draw_ids=padded, draw_length=length, drawn=render(scenes, side))


def _scene_part(text, side, n, rng):
    scenes = sample_any(n, rng)
    pictures = render(scenes, side)
    listed = scenes.to_list()
    edits = [_some_edit(scene, rng) for scene in listed]
    targets = render(Scenes.from_list([e.target for e in edits]), side)
    edit_ids, edit_length = _pad(
        [[text.start, *text.encode(e.instruction), text.end] for e in edits], EDIT_TOKENS, text.end
    )
    return dict(
        scene_picture=to_uint8(pictures), edit_ids=edit_ids, edit_length=edit_length, before=pictures, after=targets
    )


def _some_edit(scene, rng):
    while True:
        edit = sample_edit(scene, rng)
        if edit is not None:
            return edit


def conversation(scene, text: Tokenizer, rng) -> tuple[list[int], list[bool]]:
    """Token ids of several question-answer turns about a scene, within DIALOGUE_TOKENS; one in two begins with a
    description.

    The mask marks places whose *next* token belongs to an answer (its words and <|im_end|>): those carry loss.
    """
    turns = [(q.text, q.answer) for q in (_some_question(scene, rng) for _ in range(12))]
    if rng.random() < DESCRIBED:
        request = DESCRIBE_REQUESTS[rng.integers(len(DESCRIBE_REQUESTS))]
        turns.insert(0, (request, describe(scene, rng)))
    ids: list[int] = []
    mask: list[bool] = []
    for question, answer in turns:
        asked = [text.start, *text.encode(question), text.end]
        said = [text.start, *text.encode(answer), text.end]
        if len(ids) + len(asked) + len(said) > DIALOGUE_TOKENS:
            continue
        ids += asked + said
        mask += [False] * len(asked) + [True] * (len(said) - 1) + [False]
    return ids, mask


def _some_question(scene, rng):
    while True:
        question = ask(scene, rng, QUESTION_KINDS[rng.choice(len(ASK_MIX), p=ASK_MIX)])
        if question:
            return question


def write_dialogues(text: Tokenizer, side: int, n: int, seed: int, step: int, rank: int = 0) -> dict[str, Tensor]:
    """n pictures and conversations about them, for step `step`. Every second scene is one that a prompt could ask for.

    Left to chance alone, three hearts in one picture are so rare that counting them is not learnt.

    dialogue_picture: uint8 [n, side, side, 3]; dialogue_ids: int16 [n, DIALOGUE_TOKENS]; dialogue_length: int16 [n];
    dialogue_answer: bool [n, DIALOGUE_TOKENS], is the *next* token part of an answer?
    """
    rng = np.random.default_rng([TRAINING, seed, 13, step, rank])
    anything = any_requests(n - n // 2, rng)
    asked_for = [sample_request(task, rng) for task in rng.choice(TASKS, n // 2)]
    scenes = sample_scenes(anything + asked_for, rng)
    talks = [conversation(scene, text, rng) for scene in scenes.to_list()]
    ids, length = _pad([ids for ids, _ in talks], DIALOGUE_TOKENS, text.end)
    answer = torch.zeros(ids.shape, dtype=torch.bool)
    for i, (_, mask) in enumerate(talks):
        answer[i, : len(mask)] = torch.tensor(mask)
    return dict(
        dialogue_picture=to_uint8(render(scenes, side)),
        dialogue_ids=ids,
        dialogue_length=length,
        dialogue_answer=answer,
    )


def _pad(rows, width, fill):
    ids = torch.full((len(rows), width), fill, dtype=torch.int16)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.int16)
    return ids, torch.tensor([len(r) for r in rows], dtype=torch.int16)


@dataclass(frozen=True)
class BatchSizes:
    """Examples in one step: prompts (times PICTURES_A_PROMPT pictures), edits, and talks, which come from no pool."""

    draw: int = 32
    edit: int = 16
    talk: int = 16


def pick(pool: Pool, sizes: BatchSizes, seed: int, step: int, rank: int = 0) -> dict[str, Tensor]:
    """The drawings and edits of the pool that step `step` trains on, as plain tensors."""
    rng = np.random.default_rng([TRAINING, seed, 7, step, rank])
    draw = torch.from_numpy(rng.integers(0, len(pool.draw_ids), sizes.draw))
    edit = torch.from_numpy(rng.integers(0, len(pool.scene_latent), sizes.edit))
    names = dict(
        draw=("draw_ids", "draw_length", "draw_latent", "draw_seen"),
        edit=("edit_ids", "edit_length", "edit_latent", "edit_seen", "scene_latent", "scene_picture"),
    )
    return pool.rows(names["draw"], draw) | pool.rows(names["edit"], edit)
