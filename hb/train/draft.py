"""Training a draft model: the target answers, the draft learns to predict the answers, several guesses deep.

EAGLE-3's training-time test with Hyper-Bagel's bridge, start and loss. Answers are the target's own, half of them
greedy and half drawn at temperature 1, so the draft learns the text it will meet.

Differs from the papers: Muon instead of AdamW at 5e-5, since the run is minutes, not days.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from hb.files import alone_in, write_tensors
from hb.infer.artifacts import DraftCheckpoint, understanding_fingerprint
from hb.infer.fused import FastText, decode_fast
from hb.infer.speculative.decode import Prefill, read_picture_and_text
from hb.infer.speculative.draft import Draft, DraftConfig, draft_loss, open_draft
from hb.infer.speculative.plan import Plan
from hb.models.bagel import Bagel, pad_ids
from hb.models.distribution import GREEDY, TokenDistribution
from hb.models.tokenizer import Text
from hb.pictures import from_uint8
from hb.seeding import TRAINING
from hb.train.optim import Training, muon, refuse_not_finite, scheduled, warm_then_cosine
from hb.train.trainer import StepData, fit, least_over_processes, mean_over_processes
from hb.world.language import DESCRIBE_REQUESTS, ask
from hb.world.render import render, to_uint8
from hb.world.scene import sample_any

DESCRIBED = 0.7  # share of the pool that are descriptions: short answers give a draft little to learn


@dataclass(frozen=True)
class Answered:
    """Pictures, questions and what the target answered, sorted by length."""

    picture: Tensor  # uint8 [N, side, side, 3]
    ids: Tensor  # int16 [N, T]: question and answer with their markers, padded with the end marker
    question: Tensor  # int16 [N]: tokens of the question, markers included
    length: Tensor  # int16 [N]: tokens of both

    def save(self, path: Path) -> None:
        write_tensors(path, {f.name: getattr(self, f.name) for f in fields(self)})

    @staticmethod
    def load(path: Path) -> Answered:
        return Answered(**load_file(path))

    def batch(self, size: int, seed: int, step: int, rank: int = 0) -> dict[str, Tensor]:
        """Rows of similar length, so that little is padding."""
        rng = np.random.default_rng([TRAINING, seed, 17, step, rank])
        at = int(rng.integers(0, max(1, len(self.length) - size + 1)))
        rows = slice(at, at + size)
        most = int(self.length[rows].max())
        return dict(
            picture=self.picture[rows],
            ids=self.ids[rows, :most].int(),
            question=self.question[rows].long(),
            length=self.length[rows].long(),
        )


@torch.no_grad()
def answered(
    model: Bagel, text: Text, *, n: int, side: int, seed: int = 0, batch: int = 64, bar: bool = True
) -> Answered:
    """Ask the target about n random scenes; it answers greedily and at temperature 1, turn about."""
    rng = np.random.default_rng([TRAINING, seed, 16])
    fast, generator = FastText(model), torch.Generator().manual_seed(seed)
    parts = []
    for at in tqdm(range(0, n, batch), desc="the target answers", disable=not bar, leave=False):
        size = min(batch, n - at)
        scenes = sample_any(size, rng)
        pictures = render(scenes, side)
        # one kind of question a batch: no short answer waits for a description
        describes = rng.random() < DESCRIBED
        asked = [
            DESCRIBE_REQUESTS[rng.integers(len(DESCRIBE_REQUESTS))] if describes else ask(s, rng).text
            for s in scenes.to_list()
        ]
        asked = [text.encode(q) for q in asked]
        context = read_picture_and_text(model, pictures * 2 - 1, asked).context
        distribution = GREEDY if (at // batch) % 2 else TokenDistribution(temperature=1.0)
        answers, _ = decode_fast(fast, context, distribution=distribution, generator=generator)
        for i, (q, a) in enumerate(zip(asked, answers)):
            parts.append((to_uint8(pictures[i]), [text.start, *q, text.end, text.start, *a, text.end], len(q) + 2))
    parts.sort(key=lambda part: len(part[1]))
    ids, length = pad_ids([p[1] for p in parts], text.end)
    return Answered(
        torch.stack([p[0] for p in parts]),
        ids.to(torch.int16),
        torch.tensor([p[2] for p in parts], dtype=torch.int16),
        length.to(torch.int16),
    )


@torch.no_grad()
def tuning_reads(model: Bagel, text: Text, side: int, n: int, *, describe: bool = True, seed: int = 1) -> list[Prefill]:
    """Random scenes with a question each, read one by one: what tuning looks at instead of the evaluation sets."""
    rng, out = np.random.default_rng([TRAINING, seed, 18]), []
    for scene in sample_any(n, rng).to_list():
        question = DESCRIBE_REQUESTS[0] if describe else ask(scene, rng).text
        out.append(read_picture_and_text(model, render([scene], side) * 2 - 1, [text.encode(question)]))
    return out


def vocabulary_of(pool: Answered) -> tuple[int, ...]:
    """The draft vocabulary: token numbers in the answers, in order."""
    position = torch.arange(pool.ids.size(1))
    answer = (position >= pool.question[:, None].long()) & (position < pool.length[:, None].long())
    return tuple(sorted(set(pool.ids[answer].tolist())))


class DraftTraining(Training):
    """The draft learns the target's next tokens, up to `depth` guesses ahead; the target stays as it is."""

    def __init__(
        self, draft: Draft, target: Bagel, *, total: int, lr: float = 0.01, depth: int = 7, ce_weight: float = 0.1
    ):
        super().__init__()
        self.draft = draft
        self.__dict__["target"] = target.eval()  # not a sub-module: it is not trained, nor saved
        self.total, self.lr, self.depth, self.ce_weight = total, lr, depth, ce_weight

    def on_fit_start(self):
        self.target.to(self.device)

    @torch.no_grad()
    def read(self, batch: dict[str, Tensor]) -> tuple[list[Tensor], Tensor, Tensor, Tensor, Tensor]:
        """Hidden states, positions, real tokens, target logits on the draft vocabulary, and which tokens come before an
        answer's."""
        target, ids, length = self.target, batch["ids"], batch["length"]
        pixels = from_uint8(batch["picture"])
        of_picture: list[Tensor] = []
        of_text: list[Tensor] = []
        _, context = target.see(target.empty(len(ids)), pixels, of_picture)
        hidden, _ = target.read_ids(context, ids, length, of_text)
        states = [torch.cat(part, 1) for part in zip(of_picture, of_text)]
        index = torch.arange(ids.size(1), device=ids.device)
        pictured = context.length
        before = lambda values, fill: F.pad(values, (pictured, 0), value=fill)
        positions = before((context.position[:, None] + index).expand(len(ids), -1), 0)
        present = before(index < length[:, None], True)
        answer = before((index >= batch["question"][:, None]) & (index + 1 < length[:, None]), False)
        logits = hidden @ target.lm_head.weight[self.draft.vocabulary].T
        return states, positions, present, F.pad(logits, (0, 0, pictured, 0)), answer

    def training_step(self, batch, batch_idx):
        states, positions, present, target, answer = self.read(batch)
        window = int(least_over_processes(answer.long().argmax(1).min())) - 1
        output = self.draft(states, positions, present, steps=self.depth, window=window)
        # a guess's mean is over the tokens of all processes, or those of one with few answers would count for more
        counts = [answer[:, window + 1 + j : window + 1 + j + o.size(1)].sum() for j, o in enumerate(output)]
        counts = mean_over_processes(F.pad(torch.stack(counts).float(), (0, self.depth - len(counts))))
        output = [o for o, n in zip(output, counts.tolist()) if n > 0]
        loss, hits = draft_loss(output, target, answer, window=window, ce_weight=self.ce_weight, counts=counts)
        self.log_dict(dict(loss=loss, first=hits[0], last=hits[-1]), prog_bar=True)
        return loss

    def configure_optimizers(self):
        optimizer = muon(self.draft, self.lr, roles=self.roles)
        # RMSNorm at exactly zero input has a slope of a thousand: begin slowly (method.md 4.3.3)
        return scheduled(optimizer, lambda i: warm_then_cosine(i, self.total))


def train_draft(
    folder: Path,
    model: Bagel,
    text: Text,
    config: DraftConfig = DraftConfig(),
    *,
    steps: int,
    batch: int = 16,
    pool: int = 6000,
    lr: float = 0.01,
    ce_weight: float = 0.1,
    depth: int = 7,
    seed: int = 0,
    own_vocabulary: bool = True,
    plan: Plan = Plan(),
    start_from: DraftCheckpoint | None = None,
    answers: Path | None = None,
    **trainer,
) -> DraftCheckpoint:
    """Train a draft for `model` in `folder` (resumes there). own_vocabulary: it guesses only tokens of the target's
    answers.

    start_from: a draft to go on from; its kind, layers and vocabulary are then those of the new one. answers: file of
    the pool, where several runs share one (default: in the folder).
    """
    refuse_not_finite(learning_rate=lr, ce_weight=ce_weight)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = Path(answers or folder / "answers.safetensors")
    with alone_in(path.parent):
        if not path.exists():
            side, bar = model.config.picture_side, trainer.get("bar", True)
            answered(model, text, n=pool, side=side, seed=seed, bar=bar).save(path)
    data = Answered.load(path)
    if start_from is not None:
        config = DraftConfig.of(start_from.config)
    elif own_vocabulary:
        config = DraftConfig(**asdict(config) | dict(vocabulary=vocabulary_of(data)))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        draft = Draft(model.config.llm, config)
    draft.initialize(model)
    if start_from is not None:
        draft.load_state_dict(open_draft(start_from, model).state_dict())
    module = DraftTraining(draft, model, total=steps, lr=lr, depth=depth, ce_weight=ce_weight)
    source = StepData(lambda step, rank: data.batch(batch, seed, step, rank), steps)
    fit(module, source, folder, ema=None, clip=0.5, **trainer)
    return DraftCheckpoint(asdict(config), {"0": asdict(plan)}, understanding_fingerprint(model), draft.state_dict())
