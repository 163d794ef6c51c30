"""What the tests of training share: a pool of a few examples, and a teacher's training on it."""

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from hb.data.batches import BatchSizes, pick
from hb.data.dialogues import write_dialogues
from hb.data.pool import make_pool
from hb.models.bagel import Bagel
from hb.models.initialize import initialize
from hb.models.tokenizer import Text
from hb.train.teacher import TeacherTraining
from hb.train.trainer import StepData, fit
from tests.conftest import TOKENIZER, tiny_config

SIZES = BatchSizes(draw=3, edit=2, dialogue=2)


@pytest.fixture(scope="session")
def text():
    return Text.load(TOKENIZER)


def tiny_pool(text):
    def encode(pictures):  # any fixed function of the picture will do
        return torch.nn.functional.avg_pool2d(pictures, 8).repeat(1, 2, 1, 1)[:, :4]

    return make_pool(encode, text, side=64, prompts=12, scenes=10, bar=False)


@pytest.fixture(scope="session")
def pool(text):
    return tiny_pool(text)


def module(text, seed=0) -> TeacherTraining:
    config = tiny_config(text.vocab_size)
    model = Bagel(config, (text.start, text.end, text.vision_start, text.vision_end))
    initialize(model, torch.Generator().manual_seed(seed))
    return TeacherTraining(model, total=8, seed=seed)


def examples(pool, text, step=0, rank=0):
    return pick(pool, SIZES, 0, step, rank) | write_dialogues(text, 64, SIZES.dialogue, 0, step, rank)


class Trip(Callback):
    """Stops the run like a power cut: an error in the middle of a step, no chance to save."""

    def __init__(self, at):
        self.at = at

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.at:
            raise RuntimeError("power cut")


def run(text, pool, folder, callbacks=()):
    training = module(text)
    data = StepData(lambda step, rank: examples(pool, text, step, rank), 8)
    fit(training, data, folder, ema=0.9, save_every=2, bar=False, callbacks=callbacks, accelerator="cpu")
    return training.state_dict()
