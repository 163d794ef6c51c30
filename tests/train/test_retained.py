"""Learning without forgetting: an earlier model is the target where little is said, the data elsewhere."""

from dataclasses import replace

import pytest
import torch

from hb.data.batches import pick
from hb.data.records import unpack
from hb.models.autoencoder import Autoencoder
from hb.models.checkpoint import save_model
from hb.train.retained import Retained, says_little
from hb.train.teacher import TeacherSettings, train_teacher
from hb.world.benchmark import complex_set, scene_set
from hb.world.language import parse
from tests.conftest import tiny_config
from tests.train.conftest import SIZES, module


def with_retained(text, earlier_seed, monkeypatch, little):
    """A training that retains another model, and for which these prompts of a batch say little."""
    training = module(text)
    torch.nn.init.normal_(training.model.latent.output.weight, std=0.1)
    training.settings = replace(training.settings, drop_text=0.0, drop_pictures=0.0, drop_view=0.0)
    earlier = module(text, seed=earlier_seed).model
    torch.nn.init.normal_(earlier.latent.output.weight, std=0.1, generator=torch.Generator().manual_seed(earlier_seed))
    if earlier_seed == 0:
        earlier.load_state_dict(training.model.state_dict())
    training.__dict__["retained"] = Retained(earlier)
    monkeypatch.setattr(Retained, "prompts", lambda self, records: torch.tensor(little))
    return training


def kept_targets(training) -> list:
    """Filled with the targets of each loss that is computed."""
    targets, original = [], training.retained.targets
    training.retained.targets = lambda *given: targets.append(original(*given)) or targets[-1]
    return targets


@pytest.mark.parametrize("task", ["draw", "edit"])
def test_a_model_that_retains_itself_has_nothing_to_learn(pool, text, monkeypatch, task):
    training = with_retained(text, 0, monkeypatch, [True] * SIZES.draw)
    loss = getattr(training, f"{task}_loss")
    assert loss(pick(pool, SIZES, 0, 0), torch.Generator().manual_seed(3))[0].item() < 1e-9


def test_rows_that_say_much_keep_the_data_as_target(pool, text, monkeypatch):
    """The targets of a mixed batch are put together from the data's and those of the earlier model."""
    batch, losses = pick(pool, SIZES, 0, 0), {}
    for name, little in dict(all=[True] * 3, mixed=[True, False, False], none=[False] * 3).items():
        training = with_retained(text, 5, monkeypatch, little)
        targets = kept_targets(training)
        losses[name] = training.draw_loss(batch, torch.Generator().manual_seed(3))[0].item()
        losses[name, "target"] = targets[0]
    mixed, all_, none = (losses[name, "target"] for name in ("mixed", "all", "none"))
    assert torch.allclose(mixed[0], all_[0], atol=1e-5) and torch.equal(mixed[1:], none[1:])
    assert (all_[1:] - none[1:]).abs().max() > 0.1
    training.__dict__["retained"] = None
    assert losses["none"] == training.draw_loss(batch, torch.Generator().manual_seed(3))[0].item()


def test_the_earlier_model_reads_the_same_prompts(pool, text, monkeypatch):
    """Against one picture at a time, read by the earlier model alone."""
    training = with_retained(text, 5, monkeypatch, [True] * 3)
    batch, seen = pick(pool, SIZES, 0, 0), []
    original = training.retained.targets
    training.retained.targets = lambda data, rows, splits: seen.append((splits, original(data, rows, splits))) or data
    training.draw_loss(batch, torch.Generator().manual_seed(3))
    [(splits, targets)] = seen
    earlier = training.retained.model
    for b in range(3):
        ids = batch["draw_ids"][b, 1 : batch["draw_length"][b] - 1].tolist()
        _, context = earlier.read_text(earlier.empty(1), [ids])
        for k, split in enumerate(splits[1:]):
            v = earlier.velocity(split.tokens[b : b + 1], split.t[b : b + 1], context)
            assert torch.allclose(v[0], targets[b, k], atol=1e-5)


def test_scene_eval_says_little_and_complex_prompts_do_not():
    assert sum(says_little(case.request) for case in scene_set()) == 590
    cells = {}
    for case in complex_set():
        cells.setdefault(case.task, []).append(says_little(case.request))
    assert all(cells["1 full"]) and all(cells["1 half"])
    assert not any(sum((cells[f"{n} {level}"] for n in (3, 4) for level in ("half", "full")), cells["2 full"]))


@pytest.mark.parametrize(
    ("prompt", "little"),
    [
        ("four red stars", True),
        ("a small striped red star at the top left on a black background", True),
        ("a red star and a blue circle", True),
        ("a small red star and a large blue circle", False),
        ("a star, a circle and a moon", False),
    ],
)
def test_what_says_little(prompt, little):
    assert says_little(parse(prompt)) == little


def test_pictures_of_ones_own_are_trained_on_the_data(pool):
    assert not says_little(object()) and says_little(parse("a star"))
    records = pick(pool, SIZES, 0, 0)["draw_record"]
    asked = Retained(torch.nn.Identity()).prompts(records)
    assert asked.tolist() == [says_little(unpack(row)) for row in records]


def test_another_autoencoder_is_refused(pool, text, tmp_path, monkeypatch):
    monkeypatch.setattr("hb.train.teacher.pool_for", lambda *_, **__: pool)
    config = tiny_config(text.vocab_size)
    earlier = module(text, seed=3).model
    save_model(earlier, tmp_path / "earlier", text)
    other = Autoencoder(config.autoencoder)
    for p in other.parameters():
        torch.nn.init.normal_(p, std=0.1)
    with pytest.raises(ValueError, match="another autoencoder"):
        train_teacher(
            tmp_path / "run",
            config,
            other,
            text,
            steps=1,
            sizes=SIZES,
            retain=tmp_path / "earlier",
            settings=TeacherSettings(learns="drawing"),
            precision="f32",
            bar=False,
        )
