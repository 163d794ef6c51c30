"""Training a reward: it learns what was clicked and nothing else moves; a stopped run ends as one that was not."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from hb.data.preference_pool import make_preferences, some_edits, some_requests
from hb.data.preferences import Preference, read_preferences, save_picture, write_preferences
from hb.infer.artifacts import RewardCheckpoint, fingerprint
from hb.infer.pipeline import Model
from hb.models.rewards import RewardConfig, RewardModel
from hb.preference_losses import ranking_loss
from hb.seeding import TRAINING
from hb.train.reward import RewardTraining, accuracy, comparisons, encoded, rewards_of, threshold, train_reward
from hb.world.annotator import Annotator
from hb.world.language import parse
from hb.world.render import render
from hb.world.scene import Request, Wish, sample_scenes, scenes_that_fit
from tests.train.conftest import Trip

CONTRAST = Annotator(right=0.0, cleanliness=0.0, contrast=3.0, balance=0.0, noise=0.02, careless=0.0)


def draw_right(texts, seeds, before):
    return render(sample_scenes([parse(t) for t in texts], np.random.default_rng(seeds[0])), 64)


@pytest.fixture(scope="module")
def pool(tiny):
    """Scenes that are right; whoever clicks likes contrast."""
    asked = some_requests(20, np.random.default_rng(0))
    return make_preferences([draw_right] * 3, asked, tiny.text, [CONTRAST], side=64, bar=False)


@pytest.fixture(scope="module")
def edits(tiny):
    cases = some_edits(6, np.random.default_rng(0))
    done = lambda texts, seeds, before: render([case.edit.target for case in cases], 64)
    return make_preferences([done, lambda t, s, b: b], cases, tiny.text, [Annotator()], side=64, bar=False)


FORMS = pytest.mark.parametrize("form", [{}, dict(attention=True)], ids=str)


def reward_of(model, seed=0, **form):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return RewardModel(RewardConfig.of(model.bagel, "vision", inner=16, heads=2, **form), model.bagel)


def test_held_out_comparisons_are_of_requests_that_no_step_sees(tiny, pool):
    part = encoded(reward_of(tiny), pool, held=0.3)
    of = lambda rows: set(pool.request[pool.pair[rows, 0]].tolist())
    assert len(of(part.held)) == 6 and not of(part.held) & of(part.learnt)
    assert len(part.held) + len(part.learnt) == len(pool)
    digest = lambda features: {hash(row.numpy().tobytes()) for row in features}
    seen = digest(torch.cat([comparisons([part], 64, 0, step)["better"] for step in range(8)]))
    held = digest(part.features[torch.isin(pool.request, torch.tensor(sorted(of(part.held))))])
    assert not seen & held and len(seen) > 20


def test_a_batch_has_the_preferred_picture_first(tiny, pool):
    reward = reward_of(tiny)
    part = encoded(reward, pool, held=0.0)
    rows = torch.tensor([3, 0, 7])
    sides = part.sides(rows)
    with torch.no_grad():
        for side, pictures in (("better", pool.better[rows]), ("worse", pool.worse[rows])):
            assert torch.equal(sides[side], reward.features(pool.pixels(pictures)).half())


@FORMS
def test_the_head_gets_in_training_what_it_gets_of_pixels(tiny, pool, edits, form):
    """Stored features, by way of batches, against the whole reward on the pictures themselves."""
    reward = reward_of(tiny, **form).eval()
    training = RewardTraining(reward, total=1)
    for one in (pool, edits):
        part, rows = encoded(reward, one, held=0.0), torch.tensor([2, 0, 5])
        with torch.no_grad():
            sides = training.rewards(part.sides(rows))
            for (mu, _), shown in zip(sides, (one.better[rows], one.worse[rows])):
                asked = part.condition.select(one.request[shown])
                assert torch.allclose(mu, reward(one.pixels(shown), asked)[0], atol=3e-3)


def test_both_tasks_are_met_and_the_same_step_is_the_same_batch(tiny, pool, edits):
    reward = reward_of(tiny)
    parts = [encoded(reward, pool), encoded(reward, edits)]
    batches = [comparisons(parts, 2, 0, step) for step in range(60)]
    shares = np.mean(["source" in batch for batch in batches])
    assert 0 < shares < 0.4  # edits are 6 of 66 comparisons
    again = comparisons(parts, 2, 0, 7)
    assert all(torch.equal(value, batches[7][name]) for name, value in again.items())
    assert not torch.equal(comparisons(parts, 2, 1, 8)["better"], batches[8]["better"])


def brighter(pool):
    """The same requests, with gray pictures of which the brighter one is preferred."""
    level = torch.rand(len(pool.picture), generator=torch.Generator().manual_seed(0))
    gray = (level * 255).to(torch.uint8)[:, None, None, None].expand_as(pool.picture)
    return replace(pool, picture=gray, merits=level[:, None].expand(-1, 4).clone()).clicked([CONTRAST])


@pytest.mark.parametrize("loss", ["uncertain", "bradley-terry"])
def test_it_learns_a_taste(tiny, pool, loss):
    pool, reward = brighter(pool), reward_of(tiny)
    part = encoded(reward, pool, held=0.0)
    before = fingerprint(tiny.bagel)
    training = RewardTraining(reward, total=60, lr=1e-2, loss=loss)
    training.log_dict = lambda *a, **k: None
    (optimizer,), _ = training.configure_optimizers()
    first = accuracy(reward, part, part.learnt)
    for step in range(60):
        found = training.training_step(comparisons([part], 32, 0, step), step)
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
    last = accuracy(reward, part, part.learnt)
    assert last["right"] > 0.8 > first["right"] and last["n"] == len(pool)
    assert fingerprint(tiny.bagel) == before


def test_an_unknown_loss_is_refused(tiny):
    with pytest.raises(ValueError, match="there are uncertain, bradley-terry"):
        RewardTraining(reward_of(tiny), total=1, loss="hinge")


@FORMS
def test_accuracy_counts_what_the_head_says(tiny, pool, form):
    reward = reward_of(tiny, **form)
    part = encoded(reward, pool, held=0.0)
    mu, log_sigma = rewards_of(reward, part.features, part.of_pictures)
    got = accuracy(reward, part, part.learnt)
    assert got["right"] == pytest.approx(float((mu[pool.better] > mu[pool.worse]).double().mean()), abs=1e-3)


def train(folder, tiny, pool, edits=None, **how):
    pools = dict(draw=pool) | (dict(edit=edits) if edits is not None else {})
    return train_reward(folder, tiny.bagel, pools, steps=6, batch=8, bar=False, save_every=2, accelerator="cpu", **how)


@FORMS
def test_a_run_leaves_a_reward_with_unit_and_thresholds(tiny, pool, edits, tmp_path, form):
    done = train(tmp_path / "run", tiny, pool, edits, form=form)
    assert done.thresholds.keys() == {"draw", "edit"} and done.is_for(tiny.bagel)
    assert {task: held["n"] for task, held in done.provenance["held_out"].items()} == dict(draw=6, edit=1)
    done.save(tmp_path / "r")
    reward = RewardCheckpoint.load(tmp_path / "r").open(tiny.bagel)
    mu = []
    for one in (pool, edits):
        part = encoded(reward, one, held=0.0)
        mu.append(rewards_of(reward, part.features, part.of_pictures)[0])
    mu = torch.cat(mu)
    assert float(mu.mean()) == pytest.approx(0, abs=0.02) and float(mu.std()) == pytest.approx(1, abs=0.02)


@FORMS
def test_the_threshold_is_the_median_reward_of_rendered_scenes(tiny, edits, form):
    reward = reward_of(tiny, **form).eval()
    part = encoded(reward, edits, held=0.0)
    targets = render([edits.asked(row).edit.target for row in range(6)], 64) * 2 - 1
    with torch.no_grad():
        mu = reward(targets, part.condition)[0]
    assert threshold(reward, part) == pytest.approx(float(mu.median()), abs=1e-3)


def test_the_threshold_leaves_out_requests_without_room_and_keeps_the_others_conditions(tiny):
    full = Request((Wish(size="large", place="top left"),) * 3)
    asked = [parse("a red circle"), full, parse("three small blue stars")]
    empty = lambda texts, seeds, before: torch.zeros(len(texts), 3, 64, 64)
    pool = make_preferences([empty] * 2, asked, tiny.text, [Annotator()], side=64, bar=False)
    reward = reward_of(tiny).eval()
    part = encoded(reward, pool, held=0.0)
    scenes, kept = scenes_that_fit(asked, np.random.default_rng([TRAINING, 0, 59]))
    with torch.no_grad():
        mu = reward(render(scenes, 64) * 2 - 1, part.condition.select(torch.tensor(kept)))[0]
    assert kept == [0, 2] and threshold(reward, part) == pytest.approx(float(mu.median()), abs=1e-3)


def test_a_stopped_run_ends_as_one_that_was_not(tiny, pool, tmp_path):
    whole = train(tmp_path / "whole", tiny, pool)
    with pytest.raises(RuntimeError, match="power cut"):
        train(tmp_path / "cut", tiny, pool, callbacks=[Trip(5)])
    again = train(tmp_path / "cut", tiny, pool)
    assert all(torch.equal(value, again.weights[name]) for name, value in whole.weights.items())


# ---- the command ----------------------------------------------------------------------------------------------------


def test_hb_train_reward_makes_pictures_trains_and_installs(hb, tiny, tmp_path):
    tiny.save_pretrained(tmp_path / "m")
    few = ["--prompts", 3, "--edits", 2, "--rendered", 1, "--steps", 2, "--batch", 4, "--noise", 0.3]
    few += ["--width", 32, "--layers", 2]
    host = ["--accelerator", "cpu", "--precision", "f32"]
    status, said, complaint = hb("train", "reward", "--model", "m", *few, *host, "--install", "m", "--json")
    assert status == 0, complaint
    facts = json.loads(said)
    assert facts["pools"]["draw"] == dict(pictures=24, comparisons=36) and facts["settings"]["noise"] == 0.3
    model = Model.from_pretrained(tmp_path / "m")
    reward = model.rewards["vision"]
    assert reward.provenance["steps"] == 2 and reward.provenance["settings"]["annotators"] == 3
    assert (reward.config["inner"], reward.config["layers"], reward.config["attention"]) == (32, 2, True)
    status, _, complaint = hb("train", "reward", "--model", "m", "--width", 40)
    assert status == 2 and "a multiple of 16 wide, not 40" in complaint
    model.open_reward("vision")
    # the other features learn from the same pictures, which are not made again
    run = tmp_path / "runs" / "m" / "reward"
    before = {p: p.stat().st_mtime_ns for p in (run / "vision" / "pictures").rglob("*.safetensors")}
    more = ["--features", "latents", "--seed", 1, "--pictures", run / "vision" / "pictures", "--no-attention"]
    status, said, complaint = hb("train", "reward", "--model", "m", *few, *host, *more, "--install", "m")
    assert status == 0 and "hb eval reward" in said, complaint
    assert before == {p: p.stat().st_mtime_ns for p in (run / "vision" / "pictures").rglob("*.safetensors")}
    both = Model.from_pretrained(tmp_path / "m").rewards
    assert set(both) == {"vision", "latents"} and not both["latents"].config["attention"]
    # pictures of another model are not taken for this one's
    with torch.no_grad():
        model.bagel.latent.output.bias.add_(0.1)
    model.save_pretrained(tmp_path / "other")
    status, _, complaint = hb(
        "train", "reward", "--model", "other", *few, *host, "--pictures", run / "vision" / "pictures"
    )
    assert status == 2 and "pictures of another model" in complaint


def test_hb_train_reward_learns_from_a_persons_clicks(hb, tiny, tmp_path):
    tiny.save_pretrained(tmp_path / "m")
    for k in range(4):
        save_picture(torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(k)), tmp_path / "c" / f"{k}.png")
    rows = [
        Preference("a red star", (f"{k}.png", f"{(k + 1) % 4}.png"), k % 2, "me", "2026-11-09T14:30:00+00:00")
        for k in range(4)
    ]
    path = write_preferences(tmp_path / "c" / "clicks.jsonl", rows)
    path.write_text(path.read_text() + "broken\n")
    how = ["--steps", 2, "--batch", 4, "--accelerator", "cpu", "--precision", "f32", "--out", "r"]
    status, said, complaint = hb("train", "reward", "--model", "m", "--clicks", path, *how)
    assert status == 0 and "line 5: it is no JSON" in complaint and "4 comparisons, 4 of them decided" in complaint
    done = RewardCheckpoint.load(tmp_path / "r")
    assert done.thresholds.keys() == {"draw"} and len(read_preferences(path).rows) == 4
    assert asdict(RewardConfig(**done.config)) == done.config


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--prompts", 0, "--edits", 0], "leave nothing to compare"),
        (["--clicks", "nowhere.jsonl"], "there is no nowhere.jsonl"),
        (["--lr", "inf"], "not a finite number"),
    ],
)
def test_mistakes_get_one_sentence(hb, tiny_folder, argv, words):
    status, _, complaint = hb("train", "reward", "--model", tiny_folder, *argv)
    assert status == 2 and words in complaint and "Traceback" not in complaint


@FORMS
def test_a_batch_is_read_under_autocast_too(tiny, pool, edits, form):
    """`--precision auto` means bfloat16 on some processors."""
    training = RewardTraining(reward_of(tiny, **form), total=1)
    for one in (pool, edits):
        sides = encoded(reward_of(tiny, **form), one, held=0.0).sides(torch.tensor([2, 0]))
        with torch.autocast("cpu", torch.bfloat16):
            better, worse = training.rewards(sides)
            loss = ranking_loss(*better, *worse)
        exact = ranking_loss(*(x.double() for x in (*better, *worse)))
        assert loss.dtype == torch.float32 and float(loss) == pytest.approx(float(exact), rel=1e-5)
