"""A model that knows its guidance begins as its teacher; guidance at many scales at once is guidance at each."""

import copy
from dataclasses import replace

import pytest
import torch

from hb.guidance import RENORMS, Guidance, combine, combine_each
from hb.infer.artifacts import Student, fingerprint
from hb.infer.image import Contexts, guided_velocity
from hb.models.conditioning import StudentModel, extra_layers_of
from hb.models.critics import Discriminator
from hb.models.names import is_generation, to_released
from hb.train.distill.recipe import branch_of
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
        said = StudentModel(teacher).velocity(x, t, batch.full, text_scale=text, image_scale=image)
        assert torch.equal(said, teacher.velocity(x, t, batch.full)) and said.abs().mean() > 0.01


def test_each_picture_feels_its_own_scales_once_trained(teacher, pool):
    """A batch with scales of their own against one at a time; a scale that is left out is not a scale of 1."""
    batch = stage_batch_of(teacher, pool, "edit", deployed=0.0)
    branch = shake(StudentModel(teacher), 0.3)
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
    student, heard = StudentModel(teacher), {}
    guidance = student.latent.guidance
    guidance.text.register_forward_pre_hook(lambda _, value: heard.update(text=value[0].tolist()))
    guidance.image.register_forward_pre_hook(lambda _, value: heard.update(image=value[0].tolist()))
    batch = stage_batch_of(teacher, pool, "edit")
    x, ramp = batch.latent, torch.linspace(0, 1, batch.size)
    student.velocity(x, torch.ones(len(x)), batch.full, text_scale=1 + 4 * ramp, image_scale=1 + 1.5 * ramp)
    assert heard["text"] == pytest.approx(ramp.tolist(), abs=1e-6)
    assert heard["image"] == pytest.approx(ramp.tolist(), abs=1e-6)


def test_it_has_a_generation_branch_of_its_own_and_reads_with_its_teachers(teacher):
    student = StudentModel(teacher)
    mine, theirs = student.released_weights(), {to_released(n): p for n, p in teacher.named_parameters()}
    draws = {to_released(n) for n, _ in teacher.named_parameters() if is_generation(n)}
    assert draws == {n for n in mine if "scale_embedder" not in n} and len(draws) < len(theirs)
    assert all(torch.equal(mine[n], theirs[n]) and mine[n].data_ptr() != theirs[n].data_ptr() for n in draws)
    assert student.base is teacher and not any(p is q for p in student.parameters() for q in teacher.parameters())


def test_a_copy_has_its_own_weights_and_the_same_teacher(teacher, pool):
    student = shake(StudentModel(teacher))
    twin = copy.deepcopy(student)
    assert twin.base is teacher and twin.state_dict().keys() == student.state_dict().keys()
    assert not any(p is q for p, q in zip(student.parameters(), twin.parameters()))
    batch = stage_batch_of(teacher, pool, "draw", n=1)
    with torch.no_grad():
        velocity = lambda model: model(batch.latent, torch.ones(batch.size), batch.full, **batch.scales)
        assert torch.equal(velocity(student), velocity(twin))


def test_weights_of_version_01_are_accepted(teacher):
    """There a branch kept its weights under released names, with "/" for "."."""
    student, old = StudentModel(teacher), shake(StudentModel(teacher))
    student.load_state_dict({n.replace(".", "/"): p for n, p in old.released_weights().items()})
    assert all(torch.equal(p, q) for p, q in zip(student.parameters(), old.parameters()))


def test_made_from_a_student_it_is_that_student_and_then_goes_its_own_way(teacher, pool):
    batch = stage_batch_of(teacher, pool, "draw", n=1)
    first = shake(StudentModel(teacher))
    second = StudentModel(first)
    say = lambda branch: branch(batch.latent, torch.ones(batch.size), batch.full, **batch.scales)
    with torch.no_grad():
        before = say(first)
        assert torch.equal(before, say(second))
        shake(second, seed=1)
        assert torch.equal(before, say(first)) and not torch.equal(before, say(second))
    assert first.base is second.base is teacher


def test_its_parameters_learn_and_its_teachers_do_not(teacher, pool):
    student = StudentModel(teacher)
    batch = stage_batch_of(teacher, pool, "draw", n=1)
    student(batch.latent, torch.ones(batch.size), batch.full, **batch.scales).square().sum().backward()
    assert all(p.requires_grad for p in student.parameters()) and not any(p.requires_grad for p in teacher.parameters())
    assert sum(float(p.grad.abs().sum()) for p in student.parameters() if p.grad is not None) > 0
    assert not any(p.requires_grad for p in StudentModel(teacher, trainable=False).parameters())


def test_follow_is_the_exponential_moving_average(teacher):
    slow, fast = StudentModel(teacher, trainable=False), shake(StudentModel(teacher))
    began, there = weights_of(slow), weights_of(fast)
    for _ in range(3):
        slow.follow(fast, 0.9)
    for name, p in slow.named_parameters():
        assert torch.allclose(p, 0.9**3 * began[name] + (1 - 0.9**3) * there[name], atol=1e-6)
    assert all(torch.equal(p, there[name]) for name, p in fast.named_parameters())


def test_a_copied_branch_says_the_same_and_stays_apart(teacher):
    slow, fast = StudentModel(teacher, trainable=False), shake(StudentModel(teacher))
    slow.copy_from(fast)
    kept = weights_of(fast)
    assert all(torch.equal(p, kept[name]) for name, p in slow.named_parameters())
    shake(fast, seed=5)
    assert all(torch.equal(p, kept[name]) for name, p in slow.named_parameters())


def test_the_knobs_begin_silent_and_with_features_that_tell_scales_apart(teacher):
    model = StudentModel(teacher)
    for embedder in (model.latent.guidance.text, model.latent.guidance.image):
        first, time = embedder.mlp[0], teacher.latent.time.mlp[0]
        assert (
            torch.equal(first.weight, time.weight)
            and torch.equal(first.bias, time.bias)
            and first.weight is not time.weight
        )
        assert not embedder(torch.tensor([0.0, 1.0])).any()


def test_the_knobs_move_at_a_rate_of_their_own(teacher):
    branch = StudentModel(teacher)
    before = {n: p.detach().clone() for n, p in branch.named_parameters()}
    optimizer = muon(branch, 0.01)
    for p in branch.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    moved = {n: float((p.detach() - before[n]).abs().mean()) for n, p in branch.named_parameters()}
    vectors = [n for n, p in before.items() if p.ndim < 2 and "guidance" not in n]
    assert [n for n in moved if "guidance" in n] and all(
        abs(moved[n] - 0.03) < 1e-4 for n in moved if "guidance" in n
    )  # Adam's first step
    assert vectors and all(abs(moved[n] - 0.001) < 1e-4 for n in vectors)
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(moved)


# ---- extra layers ---------------------------------------------------------------------------------------------------


def student_of(teacher) -> Student:
    weights = {name: p.detach() for name, p in shake(StudentModel(teacher)).released_weights().items()}
    return Student("regression", 1, 3.0, fingerprint(teacher), weights=weights)


def asked(teacher, pool, seed=3):
    batch = stage_batch_of(teacher, pool, "draw")
    t = torch.linspace(0.3, 1.0, batch.size)
    return some(*batch.latent.shape, seed=seed), t, batch.student_context, batch.grid, batch.scales


def deepened(student: Student, teacher, count: int) -> Student:
    return replace(student, weights=branch_of(teacher, student, extra_layers=count).released_weights())


@pytest.mark.parametrize("count", [1, 3])  # the tiny model has two layers
def test_extra_layers_change_nothing_at_first(teacher, pool, count):
    before = student_of(teacher)
    after = deepened(before, teacher, count)
    x, t, context, grid, scales = asked(teacher, pool)
    plain, deep = (student.open(teacher) for student in (before, after))
    assert extra_layers_of(before.weights) == 0 and extra_layers_of(after.weights) == count == len(deep.expert.extra)
    assert torch.equal(plain(x, t, context, grid, **scales), deep(x, t, context, grid, **scales))
    assert len(StudentModel(deep).expert.extra) == count  # a copy has them too
    for asked_for, had in ((count, count), (count + 1, count + 1), (0, count)):  # none that is there is added again
        assert extra_layers_of(deepened(after, teacher, asked_for).weights) == had
    assert len(branch_of(teacher, None, extra_layers=count).expert.extra) == count


def test_extra_layers_are_a_transformer_over_the_latent_tokens_alone(teacher, pool):
    deep = shake(deepened(student_of(teacher), teacher, 2).open(teacher), seed=1)
    x, t, context, grid, scales = asked(teacher, pool)
    states: list[torch.Tensor] = []
    got = deep(x, t, context, grid, hidden_states=states, **scales)
    assert len(states) == teacher.config.llm.num_hidden_layers + 1
    hidden = states[-1]
    for layer in deep.expert.extra:
        q, k, v = layer.project(hidden)  # all tokens have one position, so angles cancel
        k, v = (h.repeat_interleave(q.size(1) // h.size(1), 1) for h in (k, v))
        weights = (q @ k.mT / q.size(-1) ** 0.5).softmax(-1)
        hidden = layer.finish(hidden, (weights @ v).transpose(1, 2).flatten(2))
    assert torch.allclose(got, deep.latent.output(deep.expert.norm(hidden)), atol=1e-5)


def test_extra_layers_are_kept_and_trained(teacher, pool, tmp_path):
    after = deepened(student_of(teacher), teacher, 1)
    after.save(tmp_path / "deep")
    branch = Student.load(tmp_path / "deep").open(teacher).train().requires_grad_(True)
    kept = {name: p.detach().clone() for name, p in branch.released_weights().items()}
    assert all(torch.allclose(p, after.weights[name], atol=1e-3) for name, p in kept.items())  # files are float16
    optimizer = muon(branch, 0.01)
    x, t, context, grid, scales = asked(teacher, pool)
    for _ in range(3):  # in the first step the two products that end in zero move, then all
        optimizer.zero_grad()
        branch(x, t, context, grid, **scales).square().mean().backward()
        optimizer.step()
    extra = {name: p for name, p in branch.released_weights().items() if ".extra." in name}
    assert extra and not [name for name, p in extra.items() if torch.equal(p, kept[name])]


def test_a_critic_runs_no_layer_that_no_head_is_on(teacher, pool):
    student = deepened(student_of(teacher), teacher, 2).open(teacher)
    critics = []
    for start in (student, student_of(teacher).open(teacher)):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            critics.append(Discriminator(StudentModel(start), every=1))
    x, t, context, grid, scales = asked(teacher, pool)
    one, other = (critic(x, t, context, grid=grid, **scales) for critic in critics)
    assert torch.equal(one, other) and not critics[0].backbone.expert.extra
    assert len(student.expert.extra) == 2  # its own are as they were
