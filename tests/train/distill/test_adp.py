"""One step: losses against closed forms, what an update of ADP changes, and each road's own promise."""

import math

import pytest
import torch

from hb.exact import GaussianMixture, best_hinge_logits, best_relativistic_logits, gaussian_squared_mmd
from hb.losses import absolute_loss, approximate_r1, hinge_discriminator_loss, relativistic_loss, squared_mmd
from hb.models.conditioning import StudentModel
from hb.models.critics import Discriminator, LightDiscriminator, PixelDiscriminator, layers_at
from hb.seeding import seeded_generator
from hb.train.distill.adp import OdePairs, OneStep, prompts_of
from hb.train.distill.adp_settings import OneStepSettings
from hb.train.distill.dmdo import roll_out, student_velocity
from tests.train.distill.conftest import GUIDANCE, changed, shake, stage_batch_of, weights_of

LEFT, RIGHT = (GaussianMixture(torch.tensor([[m]]), torch.tensor([s])) for m, s in ((-0.5, 1.0), (0.7, 0.6)))
LINE = torch.linspace(-8, 8, 4001).double()[:, None]


def masses(mixture):
    """Probability of each point of LINE."""
    density = GaussianMixture(mixture.means.double(), mixture.std.double()).log_density(LINE).exp()
    return density / density.sum()


# ---- losses against closed forms -------------------------------------------------------------------------------------


def test_the_density_of_a_mixture_is_that_of_torch():
    mixture = GaussianMixture(
        torch.tensor([[-1.0, 0.0], [2.0, 1.0]]), torch.tensor([0.5, 1.5]), torch.tensor([1.0, 3.0])
    )
    parts = torch.distributions.MultivariateNormal(
        mixture.means, torch.stack([s**2 * torch.eye(2) for s in mixture.std])
    )
    theirs = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(torch.tensor([0.25, 0.75])), parts)
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(mixture.log_density(x), theirs.log_prob(x), atol=1e-5)


def test_the_best_hinge_discriminator_is_the_sign_and_its_loss_gives_the_total_variation():
    p, q = masses(RIGHT), masses(LEFT)
    d = best_hinge_logits(RIGHT, LEFT, LINE.float()).double()
    loss = lambda d: float((p * (1 - d).relu() + q * (1 + d).relu()).sum())
    assert loss(d) == pytest.approx(2 - float((p - q).abs().sum()), abs=1e-4)
    for other in (0.9 * d, d + 0.05, -d, torch.zeros_like(d)):
        assert loss(other) > loss(d)
    draws = (m.sample(20_000, torch.Generator().manual_seed(1)) for m in (RIGHT, LEFT))
    sampled = hinge_discriminator_loss(*(best_hinge_logits(RIGHT, LEFT, x) for x in draws))
    assert float(sampled) == pytest.approx(loss(d), abs=0.03)


def test_the_best_relativistic_discriminator_is_the_log_ratio_up_to_a_constant():
    """Free logits on a grid, lowered by the loss itself over all pairs of points, weighted by their masses."""
    keep = slice(1600, 2500, 60)
    p, q = (masses(m)[keep] / masses(m)[keep].sum() for m in (RIGHT, LEFT))
    d = torch.zeros(len(p), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([d], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-14)
    of_pairs = torch.vmap(torch.vmap(relativistic_loss, (None, 0)), (0, None))  # [real, fake]

    def closure():
        optimizer.zero_grad()
        loss = (p[:, None] * q[None] * of_pairs(d, d)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    off = d.detach() - best_relativistic_logits(RIGHT, LEFT, LINE[keep].float()).double()
    assert float((off - off.mean()).abs().max()) < 0.01


def test_relativistic_loss_is_a_logistic_loss_of_the_difference():
    real, fake = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    wanted = -torch.sigmoid(real - fake).log().mean()
    assert torch.allclose(relativistic_loss(real, fake), wanted)
    assert torch.allclose(relativistic_loss(real, real), torch.tensor(math.log(2.0)))
    x = torch.linspace(-1, 1, 5)
    assert torch.allclose(
        best_relativistic_logits(RIGHT, LEFT, x[:, None]), RIGHT.log_density(x[:, None]) - LEFT.log_density(x[:, None])
    )


@pytest.mark.parametrize("scale", [0.01, 0.5])
def test_r1_of_a_linear_discriminator_is_the_square_of_its_slope(scale):
    slope = torch.tensor([3.0, -1.0, 2.0])
    x, n = torch.randn(2, 200_000, 3, generator=torch.Generator().manual_seed(0)).double()
    d = lambda x: x @ slope.double()
    assert float(approximate_r1(d(x), d(x + scale * n), scale)) == pytest.approx(14.0, rel=0.02)


def test_mmd_is_its_closed_form_on_gaussians_and_zero_for_one_distribution():
    generator = torch.Generator().manual_seed(0)
    draw = lambda sets, mean, std: mean + std * torch.randn(sets, 64, 6, generator=generator)
    mean = torch.full((6,), 0.4)
    got = squared_mmd(draw(400, 0.0, 1.0), draw(400, mean, 0.7), (0.8,))
    wanted = gaussian_squared_mmd(torch.zeros(6), 1.0, mean, 0.7, 0.8)
    assert float(got.mean()) == pytest.approx(wanted, abs=4 * float(got.std()) / 20)
    same = squared_mmd(draw(400, 0.0, 1.0), draw(400, 0.0, 1.0), (0.5, 1.0))
    assert abs(float(same.mean())) < 4 * float(same.std()) / 20 < wanted / 4
    with pytest.raises(ValueError, match="two samples of each"):
        squared_mmd(draw(1, 0.0, 1.0)[:, :1], draw(1, 0.0, 1.0), (1.0,))


# ---- discriminators --------------------------------------------------------------------------------------------------


def test_heads_stand_at_shares_of_the_depth(teacher):
    assert layers_at((0.5, 0.75, 1.0), 12) == (6, 9, 12) and layers_at((0.1, 0.2, 1.0), 2) == (1, 2)
    with pytest.raises(ValueError, match="shares of the network's depth"):
        layers_at((0.0,), 12)
    two = Discriminator(StudentModel(teacher), depths=(0.5, 1.0), kinds=2)
    assert two.layers == (1, 2) and len(two.heads) == 4


def test_the_pixel_discriminator_trains_its_heads_alone_and_passes_gradient_to_the_picture(teacher):
    critic, before = PixelDiscriminator(teacher, kinds=2), weights_of(teacher)
    pictures = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    logits = critic(pictures)
    assert logits.shape == (2, 2 * len(critic.layers))
    logits.sum().backward()
    assert float(pictures.grad.abs().sum()) > 0 and all(p.grad is not None for p in critic.parameters())
    assert {name.split(".")[0] for name, _ in critic.named_parameters()} == {"heads"}
    assert not changed(before, weights_of(teacher))


def test_the_light_discriminator_has_a_logit_for_each_place_and_each_depends_on_all_places():
    torch.manual_seed(0)
    critic = LightDiscriminator(16, side=8, kinds=2)
    x = torch.randn(3, 6 * 8, 16, generator=torch.Generator().manual_seed(0), requires_grad=True)
    t = torch.tensor([0.0, 0.3, 0.3])
    logits = critic(x, t, grid=(6, 8))
    assert logits.shape == (3, 2 * 48)
    (at,) = torch.autograd.grad(logits[0, 0], x, retain_graph=True)
    assert bool((at[0].abs().sum(-1) > 0).all()) and float(at[1:].abs().max()) == 0
    assert not torch.allclose(critic(x, t + 0.2, grid=(6, 8)), logits)
    moved = critic(x.roll(1, 1), t, grid=(6, 8))  # the same tokens in other places
    assert not torch.allclose(moved.roll(-1, 1), logits, atol=1e-3)
    # its second kind has weights of its own, for each place: the first 48 logits are of the first kind
    with torch.no_grad():
        critic.last.bias[1] += 1.0
    assert torch.allclose(critic(x, t, grid=(6, 8)) - logits, torch.tensor([0.0, 1.0]).repeat_interleave(48))


# ---- the stage -------------------------------------------------------------------------------------------------------


def one_step(teacher, **options) -> OneStep:
    source = shake(StudentModel(teacher), seed=1)
    options = dict(guidance=GUIDANCE, total=100, source=source) | options
    torch.manual_seed(0)
    return OneStep(teacher, shake(StudentModel(teacher)), **options)


@pytest.mark.parametrize("task", ["draw", "edit"])
def test_pairs_are_the_ends_of_the_sources_own_trajectories(teacher, pool, task):
    stage, batch = one_step(teacher, at_one=1.0), stage_batch_of(teacher, pool, task, vision=False)
    pairs = stage.shared_state(batch, seeded_generator(3))
    z = torch.randn(batch.latent.shape, generator=seeded_generator(3))
    *_, end = roll_out(student_velocity(stage.source, batch), z, stage.grid)
    assert torch.allclose(pairs.end, end, atol=1e-6) and not pairs.end.requires_grad
    one = torch.ones(batch.size)
    wanted = z - stage.student(z, one, batch.student_context, grid=batch.grid, **batch.scales)
    assert torch.allclose(pairs.fake, wanted, atol=1e-6) and pairs.fake.requires_grad


@pytest.mark.parametrize("task", ["draw", "edit"])
def test_a_source_that_goes_on_from_the_generators_own_prediction(teacher, pool, task):
    """At step k it begins where the prediction is mixed with its noise to the k-th time. A source that is the generator
    goes on from the first step as if it had made it, and step 0 is its own trajectory."""
    batch = stage_batch_of(teacher, pool, task, vision=False)
    stage = one_step(teacher, at_one=1.0, continued=(2,))
    pairs = stage.shared_state(batch, seeded_generator(3))
    z, t = pairs.z, stage.grid[2]
    x = (1 - t) * pairs.fake.detach() + t * z
    *_, wanted = roll_out(student_velocity(stage.source, batch), x, stage.grid[2:])
    assert torch.allclose(pairs.end, wanted, atol=1e-5) and not pairs.end.requires_grad
    same = one_step(teacher, at_one=1.0, continued=(1,), source=None)
    *_, wanted = roll_out(student_velocity(same.student, batch), z, same.grid)
    assert torch.allclose(same.shared_state(batch, seeded_generator(3)).end, wanted, atol=1e-5)
    fresh = one_step(teacher, at_one=1.0, continued=(2,), renoise="fresh")
    a, b = (fresh.end_of_pairs(batch, z, 2, seeded_generator(seed)) for seed in (5, 6))
    noise = torch.randn(z.shape, generator=seeded_generator(5))
    *_, wanted = roll_out(student_velocity(fresh.source, batch), x + t * (noise - z), fresh.grid[2:])
    assert torch.allclose(a, wanted, atol=1e-5) and not torch.allclose(a, b, atol=1e-3)
    several = one_step(teacher, at_one=1.0, continued=(0, 2))
    drawn = [several.shared_state(batch, seeded_generator(seed)) for seed in range(24)]
    ends = [[several.end_of_pairs(batch, p.z, k, seeded_generator(0)) for k in (0, 2)] for p in drawn]
    first = [torch.equal(p.end, plain) for p, (plain, _) in zip(drawn, ends)]
    assert all(torch.equal(p.end, both[not plain]) for p, both, plain in zip(drawn, ends, first))
    assert 3 < sum(first) < 21


def test_a_student_that_is_the_one_step_map_has_no_regression_loss(teacher, pool):
    """The source makes one step: its end is the student's own prediction where both have the same weights."""
    student = shake(StudentModel(teacher))
    options = dict(at_one=1.0, adversarial=0.0, regression=(1.0, 1.0), trajectory=(1, 3.0, "euler"))
    stage = OneStep(teacher, student, guidance=GUIDANCE, total=100, **options)
    pairs = stage.shared_state(stage_batch_of(teacher, pool, "draw"), seeded_generator(0))
    assert float(stage.student_loss(pairs, seeded_generator(0)).detach()) < 1e-6
    shake(stage.student, seed=5)
    pairs = stage.shared_state(stage_batch_of(teacher, pool, "draw"), seeded_generator(0))
    assert float(stage.student_loss(pairs, seeded_generator(0)).detach()) > 1e-4


def test_replay_is_the_loss_of_earlier_pairs_as_the_student_is_now(teacher, pool):
    """The first update of a step is on its own pairs, the others on any that were kept, predicted anew."""
    options = dict(at_one=1.0, adversarial=0.0, regression=(1.0, 1.0))
    stage = OneStep(teacher, shake(StudentModel(teacher)), guidance=GUIDANCE, total=100, replay=2, **options)
    plain = OneStep(teacher, StudentModel(stage.student), guidance=GUIDANCE, total=100, **options)
    batches = [stage_batch_of(teacher, pool, task, vision=False) for task in ("draw", "edit")]
    steps = [stage.shared_state(batch, seeded_generator(i)) for i, batch in enumerate(batches)]
    for i, pairs in enumerate(steps):
        loss = lambda of, pairs=pairs: of.student_loss(pairs, seeded_generator(0)).item()
        assert loss(stage) == pytest.approx(loss(plain), rel=1e-6), f"step {i}"
    shake(stage.student, seed=5)
    plain.student.load_state_dict(stage.student.state_dict())
    now = [plain.predicted(pairs.batch, pairs.z, pairs.end, seeded_generator(0)) for pairs in steps]
    wanted = {round(plain.student_loss(pairs, seeded_generator(0)).item(), 5) for pairs in now}
    drawn = {round(stage.student_loss(steps[-1], seeded_generator(seed)).item(), 5) for seed in range(12)}
    assert len(wanted) == 2 and drawn == wanted
    assert stage.updates()[0].repeats == 3 and plain.updates()[0].repeats == 1


def test_regression_by_value_is_the_absolute_loss_and_a_share_of_it_is_between(teacher, pool):
    batch = stage_batch_of(teacher, pool, "draw", vision=False)

    def loss(share):
        stage = one_step(teacher, at_one=1.0, adversarial=0.0, regression=(1.0, 1.0), by_value=share)
        pairs = stage.shared_state(batch, seeded_generator(0))
        return float(stage.student_loss(pairs, seeded_generator(0)).detach()), pairs

    (whole, _), (half, _), (value, pairs) = (loss(share) for share in (0.0, 0.5, 1.0))
    assert value == pytest.approx(float(absolute_loss(pairs.fake, pairs.end).detach()), rel=1e-6)
    assert half == pytest.approx((whole + value) / 2, rel=1e-5) and whole != pytest.approx(value, rel=0.01)


def test_times_are_one_in_the_asked_share_and_early_otherwise(teacher):
    stage = one_step(teacher, at_one=0.5, second=0.4)
    t = stage.draw_times(20_000, seeded_generator(0), torch.zeros(1))
    share = lambda at: float(at.float().mean())
    assert share(t == 1) == pytest.approx(0.5, abs=0.02) and share(t == stage.second_time) == pytest.approx(
        0.2, abs=0.02
    )
    rest = t[(t < 1) & (t != stage.second_time)]
    assert share(rest > 0.9) == pytest.approx(0.46, abs=0.03)  # P(1 - u^3 > 0.9) = 0.1^(1/3)


OPTIONS = dict(
    hinge=dict(),
    relativistic=dict(pairing="relativistic", true=0.5, r1=0.1, r2=0.1, regression=(1.0, 0.0)),
    latent=dict(pixel=0.0),
    pixel=dict(latent=0.0, true=0.5),
    light=dict(latent=0.0, pixel=0.0, light=1.0, pairing="relativistic", true=0.5, r1=0.1, r2=0.1),
)


@pytest.mark.parametrize("task", ["draw", "edit"])
@pytest.mark.parametrize("way", OPTIONS)
def test_each_update_has_gradients_for_its_own_network_alone(teacher, pool, task, way):
    stage = one_step(teacher, **OPTIONS[way])
    stage.__dict__["trainer"] = None
    stage._trainer = None
    pairs = stage.shared_state(stage_batch_of(teacher, pool, task, vision=False), seeded_generator(0))
    critics, student = stage.updates()
    for update in (critics, student):
        loss = update.loss(pairs, seeded_generator(1))
        grads = torch.autograd.grad(loss, update.params, allow_unused=True, retain_graph=True)
        assert any(g is not None and float(g.abs().max()) > 0 for g in grads)
        assert math.isfinite(float(loss.detach()))
    d = critics.loss(pairs, seeded_generator(1))
    reached = torch.autograd.grad(d, student.params, allow_unused=True)
    assert all(g is None for g in reached)  # the discriminator's loss does not train the generator
    told = {name: value for name, value in stage.facts.items() if name.startswith("apart_")}
    assert told and all(0 <= value <= 1 for value in told.values())


def test_the_two_kinds_of_real_samples_are_compared_by_heads_of_their_own(teacher, pool):
    """Other true latents change the losses of the second set of heads, and of no head of the first."""
    stage = one_step(teacher, pairing="relativistic", true=0.5, pixel=0.0)
    pairs = stage.shared_state(stage_batch_of(teacher, pool, "draw"), seeded_generator(0))
    loss = stage.discriminator_loss(pairs, seeded_generator(1))
    heads = stage.discriminator.latent.heads
    first, second = heads[: len(heads) // 2], heads[len(heads) // 2 :]
    grads = lambda loss, part: torch.cat(
        [g.flatten() for g in torch.autograd.grad(loss, list(part.parameters()), retain_graph=True)]
    )
    ours = grads(loss, first), grads(loss, second)
    pairs.batch.latent.add_(1.0)
    try:
        again = stage.discriminator_loss(pairs, seeded_generator(1))
        assert torch.allclose(grads(again, first), ours[0]) and not torch.allclose(grads(again, second), ours[1])
    finally:
        pairs.batch.latent.sub_(1.0)


def test_discriminators_far_ahead_are_left_as_they_are(teacher, pool):
    stage = one_step(teacher, freeze_above=0.9)
    pairs = stage.shared_state(stage_batch_of(teacher, pool, "draw"), seeded_generator(0))
    stage.ahead = 1.0
    assert float(stage.discriminator_loss(pairs, seeded_generator(1)).detach()) == 0.0
    stage.ahead = 0.5
    assert float(stage.discriminator_loss(pairs, seeded_generator(1)).detach()) != 0.0


def test_mmd_compares_within_prompts(teacher, pool):
    batch = stage_batch_of(teacher, pool, "draw")
    sets = prompts_of(batch)
    assert all(len(set(batch.rows[row].tolist())) == 1 for row in sets)
    stage = one_step(teacher, adversarial=0.0, mmd=1.0)
    pairs = stage.shared_state(batch, seeded_generator(0))
    loss = stage.student_loss(pairs, seeded_generator(0))
    assert loss.requires_grad and float(loss.detach()) == pytest.approx(stage.facts["mmd"], rel=1e-6)
    same = OdePairs(batch, pairs.z, pairs.end, batch.latent + 1e-3)
    assert float(stage.discrepancy(same)) < float(loss.detach())


def test_the_reward_counts_below_the_threshold_alone(teacher, pool):
    brightness = lambda threshold: lambda pictures, batch: (pictures.flatten(1).mean(1), threshold)
    options = dict(adversarial=0.0, mmd=0.0, regression=(1e-9, 1e-9))
    torch.manual_seed(0)
    make = lambda threshold: OneStep(
        teacher,
        shake(StudentModel(teacher)),
        source=shake(StudentModel(teacher), seed=1),
        guidance=GUIDANCE,
        total=10,
        reward_model=brightness(threshold),
        reward=1.0,
        **options,
    )
    for threshold, moves in ((5.0, True), (-5.0, False)):
        stage = make(threshold)
        pairs = stage.shared_state(stage_batch_of(teacher, pool, "draw"), seeded_generator(0))
        loss = stage.student_loss(pairs, seeded_generator(0))
        grads = torch.autograd.grad(loss, stage.updates()[0].params, allow_unused=True)
        assert any(float(g.abs().max()) > 1e-6 for g in grads if g is not None) is moves
        assert "reward" in stage.facts


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (dict(pairing="triplet"), "in 'relativistic' pairs"),
        (dict(true=1.5), "a share"),
        (dict(sigma=0.0), "finite difference"),
        (dict(adversarial=0.0), "nothing to learn from"),
        (dict(replay=-1), "0 or more"),
        (dict(replay=2), "with the latent or the pixel discriminator"),
        (dict(replay=2, light=1.0, pixel=0.0), "with the latent or the pixel discriminator"),
        (dict(replay=2, adversarial=0.0, mmd=1.0), "with mmd there is none"),
        (dict(r1=math.inf), "finite"),
        (dict(renoise="old"), "not 'old'"),
        (dict(continued=()), "at least one"),
        (dict(continued=(0, -1)), "0 and more"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        OneStepSettings(**wrong)


def test_whole_numbers_are_taken_for_shares_and_weights():
    """As the command line reads them: --set at_one=1 true=0."""
    assert OneStepSettings(at_one=1, true=0, by_value=1, second=0, clean=0, r1=0, reward=0) == OneStepSettings(
        at_one=1.0, by_value=1.0, clean=0.0
    )


def test_a_source_cannot_go_on_after_its_last_step(teacher):
    with pytest.raises(ValueError, match="from the first 5, not from step 6"):
        one_step(teacher, continued=(0, 6))
