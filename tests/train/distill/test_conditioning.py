"""A model that knows its guidance begins as its teacher; guidance at many scales at once is guidance at each."""

import pytest
import torch

from hb.guidance import RENORMS, Guidance, combine, combine_each
from hb.infer.image import Contexts, guided_velocity
from hb.models.conditioning import Branch, GuidedBagel, generation_weights, guided_branch, is_generation
from hb.train.distill.stage import Stage
from hb.train.optim import muon
from tests.train.distill.conftest import GUIDANCE, bare, shake, stage_batch_of, weights_of


def some(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- guidance, each picture at its own scales -----------------------------------------------------------------------

TIMES = torch.tensor([0.2, 0.4, 0.41, 0.7, 0.9, 0.95, 1.0], dtype=torch.float64)  # the interval is 0.4 < t <= 0.9
TEXT = torch.tensor([4.0, 3.0, 2.0, 5.0, 1.5, 4.0, 2.0])
IMAGE = torch.tensor([2.0, 1.0, 1.0, 2.5, 1.2, 2.0, 1.0])


@pytest.mark.parametrize("renorm_min", [0.0, 0.8, 1.0])
@pytest.mark.parametrize("with_image", [False, True])
@pytest.mark.parametrize("renorm", RENORMS)
def test_guidance_at_many_scales_is_guidance_at_each(renorm, with_image, renorm_min):
    v, no_text, no_image = (some(7, 4, 3, seed=i) for i in range(3))
    no_image = no_image if with_image else None
    each = combine_each(
        v,
        no_text,
        no_image,
        text_scale=TEXT,
        image_scale=IMAGE if with_image else None,
        guided=(TIMES > 0.4) & (TIMES <= 0.9),
        renorm=renorm,
        renorm_min=renorm_min,
    )
    for i in range(7):
        how = Guidance(float(TEXT[i]), float(IMAGE[i]), (0.4, 0.9), renorm, renorm_min)
        text, image = how.scales_at(float(TIMES[i]))
        row = slice(i, i + 1)
        alone = combine(
            v[row],
            no_text[row],
            no_image[row] if with_image else None,
            text_scale=text,
            image_scale=image,
            renorm=renorm,
            renorm_min=renorm_min,
        )
        assert torch.allclose(each[row], alone, atol=1e-5)
        outside = not 0.4 < TIMES[i] <= 0.9
        assert torch.equal(each[i], v[i]) if outside else not torch.allclose(each[i], v[i], atol=1e-2)


def test_a_text_scale_of_one_turns_off_picture_guidance_too():
    v, no_text, no_image = (some(2, 4, 3, seed=i) for i in range(3))
    each = combine_each(
        v,
        no_text,
        no_image,
        text_scale=torch.tensor([1.0, 1.5]),
        image_scale=torch.tensor([2.0, 2.0]),
        guided=torch.tensor([True, True]),
    )
    assert torch.equal(each[0], v[0]) and not torch.equal(each[1], v[1])


@pytest.mark.parametrize("task", ["draw", "edit"])
def test_what_stage_one_wants_is_what_the_sampler_does(teacher, pool, task):
    """`Stage.guided` against `guided_velocity`, a sample at a time, in and out of the interval."""
    batch = stage_batch_of(teacher, pool, task, deployed=0.0)
    t = torch.tensor([0.1, 0.39, 0.41, 0.6, 0.8, 0.9, 0.95, 1.0])[-batch.size :]
    t[0] = 0.2
    x = some(*batch.latent.shape)
    with torch.no_grad():
        wanted = bare(Stage, guidance=GUIDANCE).guided(teacher, x, t, batch)
        for i in range(batch.size):
            pick = lambda context: context and context.select(torch.tensor([i]))  # noqa: B023
            how = Guidance(
                float(batch.text_scale[i]),
                1.0 if task == "draw" else float(batch.image_scale[i]),
                GUIDANCE[task].interval,
                GUIDANCE[task].renorm,
            )
            contexts = Contexts(pick(batch.full), pick(batch.no_text), pick(batch.no_image))
            alone = guided_velocity(teacher.velocity, contexts, how)(x[i : i + 1], t[i])
            assert torch.allclose(wanted[i], alone[0], atol=1e-4)
    plain = teacher.velocity(x, t, batch.full)
    off = (wanted - plain).abs().amax((1, 2)) < 1e-4
    assert off.tolist() == [(task == "edit") and bool(t[i] <= 0.4) for i in range(len(t))]


# ---- the model that has scales as inputs ----------------------------------------------------------------------------


@pytest.mark.parametrize("scales", [(None, None), (1.0, None), (4.0, None), (5.0, 2.5), (1.7, 1.0)])
def test_untrained_it_is_the_teacher_bit_for_bit_at_any_scales(teacher, pool, scales):
    batch = stage_batch_of(teacher, pool, "edit")
    x, t = some(*batch.latent.shape), torch.linspace(0.1, 1.0, batch.size)
    text, image = (None if s is None else torch.full((len(x),), s) for s in scales)
    with torch.no_grad():
        said = GuidedBagel(teacher).velocity(x, t, batch.full, text_scale=text, image_scale=image)
        assert torch.equal(said, teacher.velocity(x, t, batch.full)) and said.abs().mean() > 0.01


def test_each_picture_feels_its_own_scales_once_trained(teacher, pool):
    """A batch with scales of their own against one at a time; a scale that is left out is not a scale of 1."""
    batch = stage_batch_of(teacher, pool, "edit", deployed=0.0)
    branch = shake(guided_branch(teacher), 0.3)
    x, t = some(*batch.latent.shape), torch.full((batch.size,), 0.7)
    with torch.no_grad():
        together = branch(x, t, batch.full, **batch.scales)
        for i in range(batch.size):
            row = torch.tensor([i])
            scales = {name: value[row] for name, value in batch.scales.items()}
            alone = branch(x[row], t[row], batch.full.select(row), **scales)
            assert torch.allclose(together[i], alone[0], atol=1e-4)
        full = lambda value: None if value is None else torch.full((len(x),), value)
        cells = [(full(text), full(image)) for text in (None, 1.0, 4.0) for image in (None, 1.0, 2.0)]
        said = [branch(x, t, batch.full, text_scale=text, image_scale=image) for text, image in cells]
    assert all(not torch.allclose(a, b, atol=1e-3) for i, a in enumerate(said) for b in said[:i])


def test_scales_go_in_as_a_share_of_their_range(teacher, pool):
    student, heard = GuidedBagel(teacher), {}
    student.text_scale_embedder.register_forward_pre_hook(lambda _, value: heard.update(text=value[0].tolist()))
    student.image_scale_embedder.register_forward_pre_hook(lambda _, value: heard.update(image=value[0].tolist()))
    batch = stage_batch_of(teacher, pool, "edit")
    x, ramp = batch.latent, torch.linspace(0, 1, batch.size)
    student.velocity(x, torch.ones(len(x)), batch.full, text_scale=1 + 4 * ramp, image_scale=1 + 1.5 * ramp)
    assert heard["text"] == pytest.approx(ramp.tolist(), abs=1e-6)
    assert heard["image"] == pytest.approx(ramp.tolist(), abs=1e-6)


def test_it_shares_what_reads_with_its_teacher_and_nothing_that_draws(teacher):
    theirs, mine = dict(teacher.named_parameters()), dict(GuidedBagel(teacher).named_parameters())
    assert set(theirs) == {n for n in mine if "scale_embedder" not in n}
    for name, p in theirs.items():
        assert (mine[name] is p) == (not is_generation(name))
        assert (mine[name].data_ptr() == p.data_ptr()) == (not is_generation(name))
    shared = {n for n in theirs if mine[n] is theirs[n]}
    draws = set(theirs) - shared
    assert draws == {
        n for n in theirs if "_moe_gen." in n or n.split(".")[0] in ("time_embedder", "vae2llm", "llm2vae")
    }
    assert GuidedBagel(teacher).autoencoder is teacher.autoencoder


def test_made_from_a_student_it_is_that_student_and_then_goes_its_own_way(teacher, pool):
    batch = stage_batch_of(teacher, pool, "draw", n=1)
    first = shake(guided_branch(teacher))
    second = guided_branch(first.model)
    say = lambda branch: branch(batch.latent, torch.ones(batch.size), batch.full, **batch.scales)
    with torch.no_grad():
        before = say(first)
        assert torch.equal(before, say(second))
        shake(second, seed=1)
        assert torch.equal(before, say(first)) and not torch.equal(before, say(second))
    reads = lambda model: [p for name, p in model.named_parameters() if not is_generation(name)]
    assert all(a is b is c for a, b, c in zip(*map(reads, (teacher, first.model, second.model)), strict=True))


def test_the_parameters_of_a_branch_are_the_models(teacher, pool):
    model = GuidedBagel(teacher)
    branch = Branch(model)
    mine = {name.replace("/", "."): p for name, p in branch.named_parameters()}
    of_model = generation_weights(model)
    assert mine.keys() == of_model.keys() and all(mine[name] is p for name, p in of_model.items())
    batch = stage_batch_of(teacher, pool, "draw", n=1)
    look = lambda: model.velocity(batch.latent, torch.ones(batch.size), batch.full).detach()
    before = look()
    shake(branch)
    assert not torch.equal(before, look())
    assert all(p.requires_grad for p in branch.parameters()) and not any(p.requires_grad for p in teacher.parameters())
    assert not any(p.requires_grad for p in guided_branch(teacher, trainable=False).parameters())


def test_follow_is_the_exponential_moving_average(teacher):
    slow, fast = guided_branch(teacher, trainable=False), shake(guided_branch(teacher))
    began, there = weights_of(slow), weights_of(fast)
    for _ in range(3):
        slow.follow(fast, 0.9)
    for name, p in slow.named_parameters():
        assert torch.allclose(p, 0.9**3 * began[name] + (1 - 0.9**3) * there[name], atol=1e-6)
    assert all(torch.equal(p, there[name]) for name, p in fast.named_parameters())


def test_a_copied_branch_says_the_same_and_stays_apart(teacher):
    slow, fast = guided_branch(teacher, trainable=False), shake(guided_branch(teacher))
    slow.copy_from(fast)
    kept = weights_of(fast)
    assert all(torch.equal(p, kept[name]) for name, p in slow.named_parameters())
    shake(fast, seed=5)
    assert all(torch.equal(p, kept[name]) for name, p in slow.named_parameters())


def test_the_knobs_begin_silent_and_with_features_that_tell_scales_apart(teacher):
    model = GuidedBagel(teacher)
    for embedder in (model.text_scale_embedder, model.image_scale_embedder):
        first, time = embedder.mlp[0], teacher.time_embedder.mlp[0]
        assert (
            torch.equal(first.weight, time.weight)
            and torch.equal(first.bias, time.bias)
            and first.weight is not time.weight
        )
        assert not embedder(torch.tensor([0.0, 1.0])).any()


def test_the_knobs_move_at_a_rate_of_their_own(teacher):
    branch = guided_branch(teacher)
    before = {n: p.detach().clone() for n, p in branch.named_parameters()}
    optimizer = muon(branch, 0.01)
    for p in branch.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    moved = {n: float((p.detach() - before[n]).abs().mean()) for n, p in branch.named_parameters()}
    vectors = [n for n, p in before.items() if p.ndim < 2 and "scale" not in n]
    assert [n for n in moved if "scale" in n] and all(
        abs(moved[n] - 0.03) < 1e-4 for n in moved if "scale" in n
    )  # Adam's first step
    assert vectors and all(abs(moved[n] - 0.001) < 1e-4 for n in vectors)
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(moved)
