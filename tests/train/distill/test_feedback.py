"""DRaFT and Diffusion-DPO against slow references, and their limit cases."""

import math

import pytest
import torch

from hb.flow import euler
from hb.losses import consistency_loss
from hb.models.conditioning import StudentModel
from hb.seeding import noise_like, seeded_generator
from hb.train.distill.adp import prompts_of
from hb.train.distill.dmdo import DistributionMatching, student_velocity
from hb.train.distill.feedback import DiffusionDpo, DpoSettings, Draft, DraftSettings
from tests.train.distill.conftest import GUIDANCE, shake, stage_batch_of


def brightness(pictures, batch):
    return pictures.flatten(1).mean(1), 5.0


def made(make, teacher, **options):
    torch.manual_seed(0)
    student = shake(StudentModel(teacher))
    return make(teacher, student, guidance=GUIDANCE, total=10, reward_model=brightness, **options)


@pytest.mark.parametrize("last", [1, 2, 6, 9])
def test_draft_is_the_gradient_through_the_last_steps(teacher, pool, last):
    """Against the whole trajectory, detached before its last K steps."""
    stage, batch = made(Draft, teacher, last=last), stage_batch_of(teacher, pool, "draw")
    loss = stage.student_loss(batch, seeded_generator(4))
    x = noise_like(batch.latent, seeded_generator(4))
    for k in range(6):
        t = stage.grid[k]
        v = stage.student(x, t.expand(len(x)), batch.student_context, grid=batch.grid, **batch.scales)
        x = x + (stage.grid[k + 1] - t) * v
        x = x.detach() if k < 6 - last else x
    wanted = -brightness(stage.pictures(x, batch), batch)[0].mean()
    assert torch.allclose(loss, wanted, atol=1e-6)
    params = stage.updates()[0].params
    ours, theirs = (torch.autograd.grad(value, params, allow_unused=True) for value in (loss, wanted))
    for a, b in zip(ours, theirs):
        assert (a is None) == (b is None) and (a is None or torch.allclose(a, b, atol=1e-6))


def test_drafts_hinge_and_distance_are_switches(teacher, pool):
    batch = stage_batch_of(teacher, pool, "draw")
    plain = made(Draft, teacher).student_loss(batch, seeded_generator(4)).item()
    hinged = made(Draft, teacher, hinge=True).student_loss(batch, seeded_generator(4)).item()
    assert hinged == pytest.approx(5.0 + plain, abs=1e-5)  # all pictures lie below the threshold
    stage = made(Draft, teacher, keep=2.0, last=6)
    assert stage.student_loss(batch, seeded_generator(4)).item() == pytest.approx(plain, abs=1e-4)  # it is the source
    shake(stage.student, seed=7)
    ends = []
    for branch in (stage.student, stage.source):
        z = noise_like(batch.latent, seeded_generator(4))
        *_, (_, end) = euler(student_velocity(branch, batch), z, stage.grid)
        ends.append(end)
    wanted = 2 * consistency_loss(*ends) - brightness(stage.pictures(ends[0], batch), batch)[0].mean()
    assert stage.student_loss(batch, seeded_generator(4)).item() == pytest.approx(wanted.item(), rel=1e-4)


@pytest.mark.parametrize("task", ["draw", "edit"])
def test_pairs_are_the_best_and_the_worst_of_each_prompt(teacher, pool, task):
    stage, batch = made(DiffusionDpo, teacher), stage_batch_of(teacher, pool, task)
    pairs = stage.shared_state(batch, seeded_generator(4))
    *_, (_, end) = euler(
        student_velocity(stage.source, batch), noise_like(batch.latent, seeded_generator(4)), stage.grid
    )
    worth = brightness(stage.pictures(end, batch), batch)[0]
    for prompt, rows in enumerate(prompts_of(batch)):
        ranked = sorted(rows.tolist(), key=lambda row: float(worth[row]))
        assert torch.allclose(pairs.better[prompt], end[ranked[-1]], atol=1e-6)
        assert torch.allclose(pairs.worse[prompt], end[ranked[0]], atol=1e-6)
    assert pairs.batch.size == int(batch.rows.max()) + 1 == len(pairs.better)
    one = pairs.batch.student_context
    rows = prompts_of(batch)[:, 0]
    assert torch.equal(one.kv, batch.student_context.select(rows).kv)


def test_dpo_begins_at_log_two_and_falls_where_the_better_is_fitted_better(teacher, pool):
    stage, batch = made(DiffusionDpo, teacher, beta=10.0), stage_batch_of(teacher, pool, "draw")
    pairs = stage.shared_state(batch, seeded_generator(4))
    loss = stage.student_loss(pairs, seeded_generator(1))
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
    params = stage.updates()[0].params
    slopes = torch.autograd.grad(loss, params, allow_unused=True)
    norm = sum(float(s.square().sum()) for s in slopes if s is not None) ** 0.5
    with torch.no_grad():
        for p, s in zip(params, slopes):
            if s is not None:
                p.sub_(s, alpha=0.02 / norm)
    assert stage.student_loss(pairs, seeded_generator(1)).item() < math.log(2) - 1e-5
    assert 0.0 <= stage.facts["ahead"] <= 1.0


def test_distribution_matching_counts_the_rewards_hinge(teacher, pool):
    """The same step with and without it: the difference is the hinge of the student's pictures."""
    losses = {}
    for weight in (0.0, 3.0):
        stage = made(DistributionMatching, teacher, steps=1, reward=weight, sample_student="end")
        rollout = stage.shared_state(stage_batch_of(teacher, pool, "draw"), seeded_generator(0))
        losses[weight] = stage.student_loss(rollout, seeded_generator(0)).item()
    assert losses[3.0] - losses[0.0] == pytest.approx(3 * (5.0 - stage.facts["reward"]), rel=1e-4)


@pytest.mark.parametrize("make", [Draft, DiffusionDpo])
def test_without_a_reward_nothing_is_trained(teacher, make):
    with pytest.raises(ValueError, match="hb train reward"):
        make(teacher, StudentModel(teacher), guidance=GUIDANCE, total=10)


@pytest.mark.parametrize(
    ("settings", "wrong", "words"),
    [
        (DraftSettings, dict(last=0), "1 or more"),
        (DraftSettings, dict(keep=math.nan), "finite"),
        (DpoSettings, dict(beta=0.0), "above 0"),
        (DpoSettings, dict(lr=math.inf), "finite"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, wrong, words):
    with pytest.raises(ValueError, match=words):
        settings(**wrong)
