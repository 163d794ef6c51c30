"""A reward model: a head on frozen features, differentiable in pixels, found by name and nobody else's."""

from dataclasses import asdict, replace

import pytest
import torch

from hb.infer.artifacts import RewardCheckpoint, understanding_fingerprint
from hb.infer.pipeline import Model
from hb.models.checkpoint import CheckpointError
from hb.models.rewards import FEATURES, RewardCondition, RewardConfig, RewardHead, RewardModel
from hb.models.vision import patchify
from hb.preference_losses import preference_probability

SIZES = dict(inner=16, heads=2)
FORMS = pytest.mark.parametrize("form", [{}, dict(attention=True)], ids=str)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(n, side=64, seed=0):
    return torch.rand(n, 3, side, side, generator=generator(seed)) * 2 - 1


def reward_of(model, features="vision", seed=0, **form):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return RewardModel(RewardConfig.of(model.bagel, features, **SIZES, **form), model.bagel).eval()


def asked(reward, model, texts=("a red star", "two circles"), source=None):
    rows = [[model.text.start, *ids, model.text.end] for ids in model.text.encode_many(texts)]
    length = torch.tensor([len(row) for row in rows])
    ids = torch.tensor([row + [model.text.end] * (int(length.max()) - len(row)) for row in rows])
    return reward.condition(model.bagel, ids, length, source)


def artifact(model, reward, **more):
    values = dict(config=asdict(reward.config), reads=RewardCheckpoint.stamp(model.bagel), thresholds=dict(draw=0.5))
    return RewardCheckpoint(**values | more, weights=dict(reward.head.state_dict()))


@pytest.mark.parametrize("features", FEATURES)
def test_a_reward_is_a_mean_and_a_log_sigma_of_each_picture(tiny, features):
    reward = reward_of(tiny, features)
    mu, log_sigma = reward(pictures(2), asked(reward, tiny))
    assert mu.shape == log_sigma.shape == (2,) and bool(mu.isfinite().all() and log_sigma.isfinite().all())


@FORMS
@pytest.mark.parametrize("features", FEATURES)
def test_gradients_flow_to_the_pixels_and_no_weight_of_the_model_gets_any(tiny, features, form):
    reward = reward_of(tiny, features, **form).requires_grad_(False)
    seen = pictures(2).requires_grad_()
    reward(seen, asked(reward, tiny))[0].sum().backward()
    assert bool((seen.grad.flatten(1).abs().sum(1) > 0).all())
    seen.grad = None
    reward(seen, asked(reward, tiny))[1].sum().backward()
    assert bool((seen.grad.flatten(1).abs().sum(1) > 0).all())
    assert not [p for p in reward.parameters() if p.grad is not None]


@FORMS
def test_the_slope_in_pixels_is_that_of_finite_differences(tiny_folder, form):
    """In float64, against a step along a random direction."""
    model = Model.from_pretrained(tiny_folder, dtype=torch.float64)
    reward = reward_of(model, **form).double()
    condition = asked(reward, model)
    condition = RewardCondition(condition.text.double(), condition.present)
    seen, way = pictures(2).double().requires_grad_(), pictures(2, seed=1).double()
    (slope,) = torch.autograd.grad(reward(seen, condition)[0].sum(), seen)
    step = 1e-5
    ahead, behind = (reward(seen + sign * step * way, condition)[0].sum() for sign in (1, -1))
    assert float((slope * way).sum().detach()) == pytest.approx(float((ahead - behind).detach() / (2 * step)), rel=1e-5)


def test_vision_features_are_the_encoders_without_the_connector(tiny):
    reward, seen, tower = reward_of(tiny), pictures(2), tiny.bagel.vit_model
    expected = tower(patchify(seen, 8), tiny.bagel.vit_pos_embed.rows_of(8, 8))
    assert torch.equal(reward.features(seen).flatten(1, 2), expected) and reward.features(seen).shape[1:3] == (8, 8)


def test_latent_features_are_what_the_autoencoder_encodes(tiny):
    reward, seen = reward_of(tiny, "latents"), pictures(2)
    expected = tiny.bagel.autoencoder.encode(seen, sample=False)
    assert torch.allclose(reward.features(seen).movedim(-1, 1), expected, atol=1e-6)


@FORMS
def test_padding_changes_nothing(tiny, form):
    reward = reward_of(tiny, **form)
    seen = pictures(1)
    alone = asked(reward, tiny, ["a star"])
    among = asked(reward, tiny, ["a star", "a large red star on a navy background"]).select(torch.tensor([0]))
    assert among.text.size(1) > alone.text.size(1)
    for one, other in zip(reward(seen, alone), reward(seen, among)):
        assert torch.allclose(one, other, atol=1e-5)


def test_without_attention_places_are_summed_up_and_with_it_they_meet(tiny):
    """Two halves of a picture changed at once are worth the sum of both changes only where no place meets another."""
    half = torch.zeros(1, 8, 8, 1)
    half[:, :4] = 1
    for attention in (False, True):
        reward = reward_of(tiny, attention=attention)
        features, other = (torch.randn(1, 8, 8, 32, generator=generator(seed)) for seed in (1, 2))
        alone, meant = torch.zeros(1, 1, 32), torch.ones(1, 1, dtype=torch.bool)
        pooled = lambda f, head=reward.head: head.at_places(head.picture(f).flatten(1, 2)).mean(1)
        changes = [pooled(torch.where(mask > 0, other, features)) for mask in (half, 1 - half, half + 1)]
        both = changes[0] + changes[1] - pooled(features)
        assert torch.allclose(both, changes[2], atol=1e-5) is not attention
        assert reward.head(features, RewardCondition(alone, meant))[0].isfinite()


def test_the_prompt_and_the_edited_picture_matter(tiny):
    reward, seen = reward_of(tiny), pictures(1).expand(2, -1, -1, -1)
    one, other = reward(seen, asked(reward, tiny))[0]
    assert abs(float(one - other)) > 1e-6
    before = pictures(2, seed=3)
    same = asked(reward, tiny, ["make the star green"] * 2, before)
    one, other = reward(seen, same)[0]
    assert abs(float(one - other)) > 1e-6 and same.source.shape == (2, 8, 8, 32)


def test_where_a_thing_is_matters(tiny):
    """Taste is about layout too: a picture and its mirror image differ, with latents as well, whose features do not say
    where they are."""
    for features in FEATURES:
        reward, seen = reward_of(tiny, features), pictures(1)
        condition = asked(reward, tiny, ["a star"])
        mirrored = reward.head(reward.features(seen).flip(2), condition)[0]
        assert abs(float(mirrored - reward(seen, condition)[0])) > 1e-7


@FORMS
def test_a_condition_can_be_repeated_for_several_pictures(tiny, form):
    reward = reward_of(tiny, **form)
    condition, seen = asked(reward, tiny, source=pictures(2, seed=5)), pictures(4)
    rows = torch.tensor([1, 0, 1, 1])
    mu = reward(seen, condition.select(rows))[0]
    for k, row in enumerate(rows.tolist()):
        assert torch.allclose(
            mu[k : k + 1], reward(seen[k : k + 1], condition.select(torch.tensor([row])))[0], atol=1e-5
        )


def test_a_condition_carries_no_gradient(tiny):
    condition = asked(reward_of(tiny), tiny, source=pictures(2).requires_grad_())
    assert not any(part.requires_grad for part in condition)


def test_another_size_of_picture_is_read_too(tiny):
    reward = reward_of(tiny, "latents")
    mu, _ = reward(torch.rand(1, 3, 32, 48), asked(reward, tiny, ["a star"]))
    assert bool(mu.isfinite().all())


def test_a_new_unit_leaves_every_preference_as_it_is(tiny):
    reward, condition = reward_of(tiny), asked(reward_of(tiny), tiny)
    rows = torch.tensor([0, 1] * 8)
    seen, condition = pictures(16), condition.select(rows)
    with torch.no_grad():
        before = reward(seen, condition)
        reward.rescale(before[0])
        after = reward(seen, condition)
        reward.rescale(after[0])  # once more changes nothing
    p = lambda mu, s: preference_probability(mu[:8], s[:8], mu[8:], s[8:])
    assert torch.allclose(p(*before), p(*after), atol=1e-5)
    assert float(after[0].mean()) == pytest.approx(0.0, abs=1e-5) and float(after[0].std()) == pytest.approx(
        1.0, abs=1e-4
    )
    assert torch.allclose(reward(seen, condition)[0], after[0], atol=1e-4)


@pytest.mark.parametrize("inner", [0, 40])
def test_a_head_of_a_width_that_cannot_be_is_refused_in_words(inner):
    with pytest.raises(ValueError, match=f"a multiple of 16 wide, not {inner}"):
        RewardConfig("vision", 8, 8, inner=inner)


def test_unknown_features_are_refused_in_words():
    with pytest.raises(ValueError, match="there are vision, latents"):
        RewardConfig("pixels", 3, 32)


def test_a_head_is_small():
    """Of nano: under 0.2 M parameters, 400 kB in float16."""
    assert sum(p.numel() for p in RewardHead(RewardConfig("vision", 128, 128)).parameters()) < 2e5


# ---- files ----------------------------------------------------------------------------------------------------------


def test_a_reward_is_found_by_name_in_a_model_folder(tiny, tmp_path):
    model = Model(tiny.bagel, tiny.text, tiny.sampling, rewards={})
    reward = reward_of(model)
    model.rewards["taste"] = artifact(model, reward)
    model.save_pretrained(tmp_path / "m")
    again = Model.from_pretrained(tmp_path / "m")
    assert list(again.rewards) == ["taste"] and again.rewards["taste"].thresholds == dict(draw=0.5)
    opened, seen = again.open_reward("taste"), pictures(2)
    assert again.open_reward("taste") is opened and not any(p.requires_grad for p in opened.parameters())
    for ours, theirs in zip(reward(seen, asked(reward, model)), opened(seen, asked(opened, again))):
        assert torch.allclose(ours, theirs, atol=1e-5)
    again.rewards.clear()
    again.save_pretrained(tmp_path / "m")
    assert not (tmp_path / "m" / "rewards" / "taste").exists()


def test_a_name_that_is_not_there_says_which_are(tiny):
    model = Model(tiny.bagel, tiny.text)
    with pytest.raises(ValueError, match="there is none; train one: hb train reward"):
        model.open_reward("taste")
    model.rewards["other"] = artifact(model, reward_of(model))
    with pytest.raises(ValueError, match="there are other"):
        model.open_reward("taste")


def test_weights_of_a_file_are_read_when_they_are_first_used(tiny, tmp_path):
    artifact(tiny, reward_of(tiny)).save(tmp_path / "r")
    lazy = RewardCheckpoint.load(tmp_path / "r", lazily=True)
    (tmp_path / "r" / "reward.safetensors").unlink()
    with pytest.raises(CheckpointError):
        lazy.open(tiny.bagel)


def test_a_reward_of_another_model_is_refused(tiny):
    with pytest.raises(CheckpointError, match="features of another model"):
        artifact(tiny, reward_of(tiny), reads="of nobody").open(tiny.bagel)


def test_a_reward_stays_true_while_drawing_is_trained_and_no_longer_when_reading_is(tiny_folder):
    model = Model.from_pretrained(tiny_folder)
    known = artifact(model, reward_of(model))
    with torch.no_grad():
        model.bagel.latent.output.weight.add_(0.1)
        assert known.is_for(model.bagel)
        model.bagel.vit_model.vision_model.post_layernorm.weight.add_(0.1)
    assert not known.is_for(model.bagel)
    assert known.reads.startswith(understanding_fingerprint(Model.from_pretrained(tiny_folder).bagel))


def test_the_encoder_of_latents_counts_too(tiny_folder):
    model = Model.from_pretrained(tiny_folder)
    known = artifact(model, reward_of(model))
    with torch.no_grad():
        next(model.bagel.autoencoder.encoder.parameters()).add_(0.1)
    assert not known.is_for(model.bagel)


def test_what_was_written_in_half_precision_has_one_fingerprint(tiny, tmp_path):
    made = artifact(tiny, reward_of(tiny))
    made.save(tmp_path / "r")
    assert RewardCheckpoint.load(tmp_path / "r").fingerprint() == made.fingerprint()
    other = replace(made, weights={k: v + 1e-2 for k, v in made.weights.items()})
    assert other.fingerprint() != made.fingerprint()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_reward_is_read_beside_a_model_of_any_type(tiny, tmp_path, dtype):
    model = Model(tiny.bagel, tiny.text, tiny.sampling, rewards=dict(taste=artifact(tiny, reward_of(tiny))))
    model.save_pretrained(tmp_path / "m")
    here, there = (Model.from_pretrained(tmp_path / "m", dtype=t) for t in (torch.float32, dtype))
    mu = {}
    for which in (here, there):
        reward = which.open_reward("taste")
        mu[which] = reward(pictures(2), asked(reward, which))[0].float()
    assert torch.allclose(mu[here], mu[there], atol=0.05)
