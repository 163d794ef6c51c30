"""Two processes train as one does on the global batch: the same losses and weights, for the teacher, the draft and
every kind of stage.

The two processes draw their own noise. In the one process each draw is put together of theirs: `BothRanks`.

All is in float64. In float32 sums in another order differ in the seventh digit, three steps of Adam and of an adversary
make 2e-5 of that, and a real difference of that size could not be told from it.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.overrides import TorchFunctionMode

from hb.data.batches import pick
from hb.data.dialogues import write_dialogues
from hb.data.pool import make_pool
from hb.guidance import Guidance
from hb.infer.artifacts import understanding_fingerprint
from hb.infer.pipeline import Model
from hb.infer.speculative.draft import Draft, DraftConfig
from hb.models.conditioning import StudentModel
from hb.models.tokenizer import Text
from hb.seeding import seeded_generator
from hb.train.distill.batch import pick_batch
from hb.train.distill.cfg import CFGDistillation
from hb.train.distill.dmdo import DistributionMatching
from hb.train.distill.tscd import SegmentedConsistency
from hb.train.draft import Answered, DraftTraining
from hb.train.teacher import TeacherTraining
from hb.train.trainer import StepData, fit
from tests.train.conftest import SIZES

ROOT = Path(__file__).resolve().parents[2]
STEPS = 3
TRAININGS = ("teacher", "draft", "cfg", "tscd", "dmdo")
GUIDANCE = dict(
    draw=Guidance(text_scale=4.0, renorm="global"),
    edit=Guidance(text_scale=3.0, image_scale=2.0, interval=(0.4, 1.0), renorm="text_channel"),
)


# ---- one process that draws what two would --------------------------------------------------------------------------


class BothGenerators(torch.Generator):
    """The generators of both processes for one step."""

    def of(self, *seed: int):
        self.each = [seeded_generator(*seed, rank) for rank in (0, 1)]
        return self


class BothRanks(TorchFunctionMode):
    """Random tensors [n, ...] from `BothGenerators`: the first half from one generator, the second from the other."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        both = kwargs.get("generator")
        if not isinstance(both, BothGenerators):
            return function(*args, **kwargs)
        *limits, shape = args
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        assert shape[0] % 2 == 0, "a draw that is not one of each picture cannot be put together"
        half = (shape[0] // 2, *shape[1:])
        return torch.cat([function(*limits, half, **kwargs | dict(generator=one)) for one in both.each])


def joined(one, two):
    """Two batches behind each other; texts are padded to one length."""
    if not isinstance(one, torch.Tensor):
        assert one == two
        return one
    longest = max(one.size(1), two.size(1)) if one.ndim == 2 else 0
    pad = lambda t: torch.nn.functional.pad(t, (0, longest - t.size(1)), value=2) if t.ndim == 2 else t
    return torch.cat([pad(one), pad(two)])


# ---- the trainings --------------------------------------------------------------------------------------------------


class Losses(Callback):
    def __init__(self):
        self.rows = []

    def on_train_batch_end(self, trainer, *_):
        self.rows.append({k: float(v) for k, v in trainer.callback_metrics.items()})


def training(name: str, model: Model):
    """A module and the batches of a rank."""
    bagel, text = model.bagel, model.text
    if name == "draft":
        torch.manual_seed(0)
        draft = Draft(bagel.config.llm, DraftConfig(layers=1))
        draft.initialize(bagel)
        answers = some_answers(text)
        return DraftTraining(draft, bagel, total=8), lambda step, rank: answers.batch(2, 0, step, rank)
    encode = lambda p: torch.nn.functional.layer_norm(
        torch.nn.functional.avg_pool2d(p, 8).repeat(1, 2, 1, 1)[:, :4], (4, 8, 8)
    )
    pool = make_pool(encode, text, side=64, prompts=6, scenes=6, bar=False)
    if name == "teacher":
        batch = lambda step, rank: (
            pick(pool, SIZES, 0, step, rank) | write_dialogues(text, 64, SIZES.dialogue, 0, step, rank)
        )
        return TeacherTraining(bagel, total=8), batch
    bagel.requires_grad_(False)
    torch.manual_seed(0)
    student, common = StudentModel(bagel), dict(guidance=GUIDANCE, total=100)
    stage = dict(
        cfg=lambda: CFGDistillation(bagel, student, **common),
        tscd=lambda: SegmentedConsistency(bagel, student, mse=0.5, **common),
        dmdo=lambda: DistributionMatching(
            bagel, student, adversarial=1.0, renoise_fake="fresh", renoise_student="fresh", fake_updates=2, **common
        ),
    )[name]()
    return stage, lambda step, rank: pick_batch(pool, dict(draw=1, edit=2), 0, step, rank)


def some_answers(text: Text) -> Answered:
    """Pictures, questions and answers of many lengths: the processes have different numbers of tokens."""
    generator = torch.Generator().manual_seed(0)
    n, question, length = 12, torch.randint(4, 9, (12,), generator=generator), torch.arange(12) + 12
    ids = torch.randint(5, text.vocab_size, (n, 24), generator=generator)
    picture = torch.randint(0, 256, (n, 64, 64, 3), generator=generator).byte()
    return Answered(picture, ids.short(), question.short(), length.short())


def train(name: str, folder: Path, processes: int) -> None:
    """What a process of the test does; the first writes losses and weights."""
    model = Model.from_pretrained(folder / "model")
    with torch.no_grad():
        model.bagel.latent.output.weight.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    model.bagel.double()
    module, of_rank = training(name, model)
    make, mode = of_rank, None
    if processes == 1:
        one_batch = lambda a, b: {key: joined(a[key], b[key]) for key in a}
        make = lambda step, rank: one_batch(of_rank(step, 0), of_rank(step, 1))
        both = lambda seed, step, rank: BothGenerators().of(seed, step)
        import hb.train.distill.stage
        import hb.train.teacher

        hb.train.distill.stage.seeded_generator = hb.train.teacher.seeded_generator = both
        mode = BothRanks()
    losses = Losses()
    options = dict(devices=processes, strategy="ddp" if processes > 1 else "auto", accelerator="cpu", bar=False)
    options |= dict(precision="64-true")
    from contextlib import nullcontext

    clip = None if name in ("cfg", "tscd", "dmdo") else 1.0
    with mode or nullcontext():
        trainer = fit(
            module, StepData(make, STEPS), folder / f"{processes}", ema=None, clip=clip, callbacks=(losses,), **options
        )
    end = dict(losses=losses.rows, weights={k: v.detach() for k, v in module.named_parameters()})
    torch.save(end, folder / f"end-{processes}-{trainer.global_rank}")


def started(name: str, folder: Path, processes: int) -> list[dict]:
    """The ends of all processes of a run."""
    call = "from pathlib import Path; import torch; torch.set_num_threads(1); from tests.train.test_dist import train; "
    script = folder / f"run{processes}.py"
    script.write_text(f"if __name__ == '__main__':\n    {call}train({name!r}, Path({str(folder)!r}), {processes})\n")
    environment = os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=500, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"end-{processes}-{rank}", weights_only=True) for rank in range(processes)]


@pytest.mark.dist
@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_train_as_one_with_the_global_batch(name, tiny, tmp_path):
    tiny.save_pretrained(tmp_path / "model")
    (one,) = started(name, tmp_path, 1)
    first, second = started(name, tmp_path, 2)
    assert len(one["losses"]) == len(first["losses"]) == STEPS
    assert all(torch.equal(w, second["weights"][k]) for k, w in first["weights"].items())  # the processes agree
    own = {k for k in one["losses"][0] if k not in UNEVEN}
    for alone, a, b in zip(one["losses"], first["losses"], second["losses"]):
        assert {k: (a[k] + b[k]) / 2 for k in own} == pytest.approx({k: alone[k] for k in own}, abs=1e-5, rel=1e-5)
    far = {k: float((w - first["weights"][k]).abs().max()) for k, w in one["weights"].items()}
    assert max(far.values()) < 1e-5, sorted(far.items(), key=lambda item: -item[1])[:5]
    assert understanding_fingerprint(tiny.bagel)  # the model that was saved is the session's own, unchanged


# ratios and shares of a batch: their mean over the processes is not that of the global batch
UNEVEN = ("spread", "log_rho", "log_rho_last", "told_apart", "first", "last")
