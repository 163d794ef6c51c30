"""What an update changes, what the updates of a step share, when a run gives up."""

import dataclasses
import math
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from hb.flow import interpolate, shift_time
from hb.guidance import OFF
from hb.infer.artifacts import Student, fingerprint
from hb.infer.image import sample_student
from hb.infer.pipeline import Model, Sampling
from hb.infer.processor import Processor
from hb.models.bagel import Bagel
from hb.models.conditioning import StudentModel
from hb.models.critics import Discriminator
from hb.models.vision import patchify
from hb.seeding import seeded_generator
from hb.train.distill import cfg
from hb.train.distill.adp import OneStep
from hb.train.distill.batch import pick_batch, read_batch
from hb.train.distill.cfg import CFGDistillation
from hb.train.distill.dmdo import DistributionMatching, MatchingSettings, Rollout, roll_out
from hb.train.distill.segments import Segments
from hb.train.distill.stage import Diverged, Stage, Update
from hb.train.distill.tscd import SegmentedConsistency
from hb.train.optim import adam, warmup_constant_decay
from hb.train.trainer import StepData, fit
from tests.train.distill.conftest import (
    GUIDANCE,
    bare,
    batch_of,
    changed,
    nothing_read,
    shake,
    stage_batch_of,
    weights_of,
)


def made(name, teacher, **options) -> Stage:
    student = shake(StudentModel(teacher))
    options = dict(guidance=GUIDANCE, total=100) | options
    if name == "cfg":
        return CFGDistillation(teacher, student, **options)
    if name == "tscd":
        return SegmentedConsistency(teacher, student, **dict(mse=0.5) | options)
    if name == "lcm":
        one = Segments(1, 8, to_edge=True)
        return SegmentedConsistency(teacher, student, segments=one, adversarial=0.0, mse=1.0, **options)
    if name == "adp":
        return OneStep(teacher, student, **dict(pairing="relativistic", true=0.5, r1=0.1, r2=0.1) | options)
    if name == "dmdo-adversarial":
        options |= dict(adversarial=1.0)
    return DistributionMatching(teacher, student, **dict(real=shake(StudentModel(teacher), seed=1)) | options)


STAGES = ["cfg", "tscd", "lcm", "dmdo", "dmdo-adversarial", "adp"]


def played(stage, pool, folder, steps, save_every=500, **sizes):
    """Plays the stage so many steps; the trainer that did."""
    sizes = sizes or dict(draw=1, edit=2)
    data = StepData(lambda step, rank: pick_batch(pool, sizes, 0, step, rank), steps)
    return fit(stage, data, folder, ema=None, clip=None, bar=False, accelerator="cpu", save_every=save_every)


def everything(stage) -> dict:
    """All weights of all branches and heads, and the teacher's."""
    return weights_of(stage) | {f"teacher.{name}": p for name, p in weights_of(stage.teacher).items()}


class Diary:
    """What each update changed, in order: (step, update, parts of the stage, rate over the usual one)."""

    def __init__(self, stage):
        self.lines, self.step, self.stage, self.move, self.share = [], -1, stage, stage.take_step, stage.shared_state
        stage.take_step, stage.shared_state = self.write, self.count

    def count(self, *args):
        self.step += 1
        return self.share(*args)

    def write(self, update, optimizer, *args, **options):
        before = everything(self.stage)
        self.move(update, optimizer, *args, **options)
        parts = {name.split(".")[0] for name in changed(before, everything(self.stage))}
        usual = self.stage.rates[self.stage.made.index(update)]
        rates = {round(g["lr"] / rate, 9) for g, rate in zip(optimizer.optimizer.param_groups, usual, strict=True)}
        self.lines.append((self.step, update.name, parts, rates))
        assert not any(p.grad is not None for p in [*self.stage.parameters(), *self.stage.teacher.parameters()])


# ---- updates ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STAGES)
def test_a_update_changes_its_own_weights_and_no_others(name, teacher, pool, tmp_path):
    stage, before = made(name, teacher), fingerprint(teacher)
    diary = Diary(stage)
    trainer = played(stage, pool, tmp_path, steps=2)
    before_it = {
        "tscd": ["discriminator"],
        "adp": ["discriminator"],
        "dmdo": ["fake"] * 3,
        "dmdo-adversarial": ["discriminator"] + ["fake"] * 3,
    }
    updates = before_it.get(name, []) + ["student"]
    assert [(step, update) for step, update, _, _ in diary.lines] == [
        (step, update) for step in (0, 1) for update in updates
    ]
    assert all(parts == {update} for _, update, parts, _ in diary.lines)
    assert trainer.global_step == 2  # steps of the stage, however many updates
    assert fingerprint(teacher) == before and not any(p.grad is not None for p in teacher.parameters())


def test_all_that_a_update_may_change_is_changed(teacher, pool, tmp_path):
    """Backbone and heads of the discriminator, and the whole student, both embedders of scales included."""
    stage = made("tscd", teacher)
    before = everything(stage)
    played(stage, pool, tmp_path, steps=2, edit=2)
    still = set(before) - changed(before, everything(stage))
    mine = {n for n in still if n.startswith(("student.", "discriminator."))}
    # softmax does not change with a constant added to all keys; what comes after the layer that is read serves nothing;
    # and a constant added to real and fake logits alike changes no hinge loss within its bounds
    idle = ("k_proj.bias", "backbone.latent.output", "backbone.expert.norm.", "last.bias")
    assert not [n for n in mine if not any(i in n for i in idle)]
    assert any(n.startswith("student.") for n in before) and all(n in still for n in before if n.startswith("stepper."))


class Game(Stage):
    """A stage whose losses are squares: what its updates are, the test says."""

    watched, limit = "odd", 3.0

    def __init__(self, teacher, updates=("rare", "steady"), odd=(), nan=(), steep=(), **options):
        options = dict(guidance=GUIDANCE, total=100) | options
        super().__init__(teacher, shake(StudentModel(teacher)), **options)
        self.rare = shake(StudentModel(teacher), seed=1)
        self.asked, self.odd, self.nan, self.steep = updates, odd, nan, steep
        self.grounds, self.draws = [], []

    def updates(self):
        every = dict(
            rare=Update("rare", self.rare, self.square_of(self.rare), adam(self.rare, 1e-3), every=2, repeats=3),
            steady=Update("steady", self.student, self.square_of(self.student), adam(self.student, 1e-3)),
            twice=Update("twice", self.student, self.square_of(self.student), adam(self.student, 1e-3), repeats=2),
            late=Update("late", self.student, self.square_of(self.student), adam(self.student, 1e-3), start=2),
        )
        return [every[name] for name in self.asked]

    def shared_state(self, batch, generator):
        self.facts["odd"] = 5.25 if self.global_step in self.odd else 1.0
        return super().shared_state(batch, generator)

    def square_of(self, branch):
        def loss(ground, generator):
            self.grounds.append(ground)
            self.draws.append(torch.rand((), generator=generator).item())
            size = sum(p.square().sum() for p in branch.parameters())
            if self.global_step in self.steep:
                size = size + (0 * size).sqrt()  # 0, but of no slope
            return size * (math.nan if self.global_step in self.nan else 1.0)

        return loss


def test_every_and_repeats_are_as_they_say(teacher, pool, tmp_path):
    """Every second step three times, on new draws and the same ground; a step counts once."""
    stage = Game(teacher)
    diary = Diary(stage)
    trainer = played(stage, pool, tmp_path, steps=4)
    assert Counter((step, update) for step, update, _, _ in diary.lines) == {
        (0, "rare"): 3,
        (0, "steady"): 1,
        (1, "steady"): 1,
        (2, "rare"): 3,
        (2, "steady"): 1,
        (3, "steady"): 1,
    }
    assert trainer.global_step == 4 and len(set(stage.draws)) == 10
    assert len({id(ground) for ground in stage.grounds}) == 4


def test_the_rate_follows_the_schedule_however_often_a_update_is_due(teacher, pool, tmp_path):
    stage = Game(teacher, total=6, decay=0.5)
    diary = Diary(stage)
    played(stage, pool, tmp_path, steps=6)
    for step, _, _, rates in diary.lines:
        assert [*rates] == pytest.approx([warmup_constant_decay(step, total=6, warmup=20, decay=0.5)])


def test_the_average_follows_the_student_once_a_step(teacher, pool, tmp_path):
    stage = Game(teacher, updates=("steady",), average=0.75)
    seen = [weights_of(stage.average)]
    follow = stage.average.follow

    def spy(other, decay):
        follow(other, decay)
        seen.append(weights_of(other))

    stage.average.follow = spy
    played(stage, pool, tmp_path, steps=2)
    began, first, second = seen
    for name, p in stage.average.named_parameters():
        assert torch.allclose(p, 0.75 * (0.75 * began[name] + 0.25 * first[name]) + 0.25 * second[name], atol=1e-6)
    assert all(torch.equal(p, second[name]) for name, p in stage.student.named_parameters())


def test_a_step_counts_once_whoever_moves_in_it_and_nobody_moves_before_his_time(teacher, pool, tmp_path):
    stage = Game(teacher, updates=("twice", "rare", "late"))
    diary = Diary(stage)
    trainer = played(stage, pool, tmp_path, steps=4)
    assert Counter((step, update) for step, update, _, _ in diary.lines) == {
        (0, "twice"): 2,
        (0, "rare"): 3,
        (1, "twice"): 2,
        (2, "twice"): 2,
        (2, "rare"): 3,
        (2, "late"): 1,
        (3, "twice"): 2,
        (3, "late"): 1,
    }
    assert trainer.global_step == 4


@pytest.mark.parametrize("updates", [("rare",), ("late",), ("rare", "late")])
def test_a_stage_in_which_a_step_may_have_no_update_is_refused(teacher, updates):
    with pytest.raises(ValueError, match="must be due in every step, from the first"):
        Game(teacher, updates=updates).configure_optimizers()


def test_the_adversary_of_stage_3_sees_real_and_made_pictures_noised_alike(teacher, pool):
    said = []

    def judge(x, t, context, **scales):
        said.append((x, t))
        return 0.01 * x.mean((1, 2))[:, None]  # within the hinge's bounds

    stage = made("dmdo-adversarial", teacher, r1=0.0)
    del stage.discriminator
    stage.discriminator = judge
    rollout = stage.shared_state(stage_batch_of(teacher, pool, "edit"), seeded_generator(0))
    loss = stage.discriminator_loss(rollout, seeded_generator(1))
    (real, t), (fake, again) = said
    apart = (1 - t).reshape(-1, 1, 1) * (rollout.batch.latent - rollout.x0)
    assert torch.equal(t, again) and bool((t < 0.9).all()) and torch.allclose(real - fake, apart, atol=1e-5)
    assert torch.allclose(loss, 2 - 0.01 * (real - fake).mean(), atol=1e-5)
    stage.settings = dataclasses.replace(stage.settings, adversarial=3.0)
    with_it = stage.student_loss(rollout, seeded_generator(2))
    (x, _) = said[-1]
    stage.settings = dataclasses.replace(stage.settings, adversarial=0.0)
    assert x.requires_grad and len(said) == 3
    assert (
        torch.allclose(with_it - stage.student_loss(rollout, seeded_generator(2)), -3 * 0.01 * x.mean(), atol=1e-4)
        and len(said) == 3
    )


def test_the_fake_score_moves_alone_as_long_as_it_is_told(teacher, pool, tmp_path):
    stage = made("dmdo", teacher, fake_warmup=2, fake_updates=1)
    diary = Diary(stage)
    played(stage, pool, tmp_path, steps=3)
    assert [(step, update) for step, update, _, _ in diary.lines] == [
        (0, "fake"),
        (1, "fake"),
        (2, "fake"),
        (2, "student"),
    ]


def test_the_same_step_is_given_the_same_draws(teacher, pool, tmp_path):
    first, again = Game(teacher), Game(teacher)
    played(first, pool, tmp_path / "a", steps=1)
    played(again, pool, tmp_path / "b", steps=1)
    assert first.draws == again.draws
    other = Game(teacher, seed=1)
    played(other, pool, tmp_path / "c", steps=1)
    assert not set(first.draws) & set(other.draws)


# ---- giving up ------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_ends_the_run_in_words_and_moves_nothing(teacher, pool, tmp_path):
    stage = Game(teacher, nan=(2,))
    diary = Diary(stage)
    with pytest.raises(Diverged, match="diverged at step 2: the rare's loss is nan. Go on from the last checkpoint"):
        played(stage, pool, tmp_path, steps=4)
    assert {step for step, *_ in diary.lines} == {0, 1}
    assert all(p.isfinite().all() for p in stage.parameters())


def test_a_slope_that_is_no_number_ends_the_run_before_the_step_and_the_last_checkpoint_is_good(
    teacher, pool, tmp_path
):
    """The loss itself is a number. What is gone on from is from before, and leads where a run without the accident
    does."""
    stage = Game(teacher, steep=(5,))
    with pytest.raises(
        Diverged, match="diverged at step 5: the steady's gradient is nan. Go on from the last checkpoint"
    ):
        played(stage, pool, tmp_path / "lost", steps=7, save_every=2)
    assert all(p.isfinite().all() for p in stage.parameters())
    kept = torch.load(tmp_path / "lost" / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 4 and all(p.isfinite().all() for p in kept["state_dict"].values())
    ends = [Game(teacher), Game(teacher)]
    for end, folder in zip(ends, ("lost", "won")):
        played(end, pool, tmp_path / folder, steps=7, save_every=2)
    assert not changed(weights_of(ends[0]), weights_of(ends[1])) and changed(weights_of(ends[0]), weights_of(stage))


def test_a_watched_number_above_its_limit_ends_the_run_in_words(teacher, pool, tmp_path):
    with pytest.raises(Diverged, match="diverged at step 1: odd is 5.25, above 3. Go on from the last checkpoint"):
        played(Game(teacher, odd=(1,)), pool, tmp_path, steps=4)


def test_the_step_that_is_named_is_the_one_that_diverged_whichever_update_it_was(teacher, pool, tmp_path):
    stage = made("tscd", teacher)
    stage.student_loss = lambda pair, generator: pair.fake.sum() * math.nan
    with pytest.raises(Diverged, match="diverged at step 0: the student's loss is nan"):
        played(stage, pool, tmp_path, steps=1)


@pytest.mark.parametrize("name, watched", [("tscd", "apart"), ("dmdo", "spread")])
def test_stages_watch_what_would_run_away(name, watched, teacher, pool, tmp_path):
    stage = made(name, teacher)
    with torch.no_grad():
        stage.student.latent.output.weight.mul_(1000)
    with pytest.raises(Diverged, match=f"at step 0: {watched} is .*, above {stage.limit:g}"):
        played(stage, pool, tmp_path, steps=1)


def test_a_watched_number_that_is_none_is_too_large():
    stage = bare(DistributionMatching)
    stage.facts["spread"] = math.nan
    with pytest.raises(Diverged, match="spread is nan"):
        stage._check("student", torch.zeros(()), 7)


# ---- what the updates share ----------------------------------------------------------------------------------------


class Rows(Processor):
    """Gives the token ids it was told, whatever the texts."""

    def encode(self, texts):
        return self.rows


class Read(Exception):
    """Ends a call once all is read; carries the contexts."""


class Reader(Model):
    """Reads as `draw` and `edit` do, and gives the contexts instead of pictures."""

    @property
    def processor(self):
        processor = Rows(self.bagel.config, self.text)
        processor.rows = self.rows
        return processor

    def _denoise(self, contexts, *args, **options):
        raise Read(contexts)

    def contexts(self, verb, *args, **options):
        with pytest.raises(Read) as read:
            getattr(self, verb)(*args, **options)
        return read.value.args[0]


def texts_of(batch, task):
    return [ids[1 : length - 1] for ids, length in zip(batch[f"{task}_ids"].tolist(), batch[f"{task}_length"].tolist())]


def same_reading(mine, theirs):
    """Keys and values of what is visible, and where the next token stands."""
    if not (torch.equal(mine.visible, theirs.visible) and torch.equal(mine.position, theirs.position)):
        return False
    shown = mine.visible[None, :, :, None, None]
    return all(
        torch.allclose(a * shown, theirs.to_dict()[name] * shown, atol=1e-4) for name, a in mine.to_dict().items()
    )


def test_an_edit_is_read_as_the_engine_reads_it(model, teacher, pool, monkeypatch):
    """Latent, then what the eyes see, then words; without words; and words alone."""
    picked = batch_of(pool, "edit", n=4)
    latents = patchify(picked["scene_latent"].float(), teacher.config.latent_patch)
    monkeypatch.setattr(Bagel, "encode", lambda *_: latents)
    reader = Reader(model.bagel, model.text, Sampling(**GUIDANCE))
    reader.rows = texts_of(picked, "edit")
    wanted = reader.contexts("edit", picked["scene_picture"].movedim(-1, 1).float() / 255, ["-"] * 4)
    batch = read_batch(teacher, picked, GUIDANCE, torch.Generator(), copies=3)
    rows = torch.arange(4).repeat_interleave(3)
    for part in ("full", "no_text", "no_image"):
        assert same_reading(getattr(batch, part), getattr(wanted, part).select(rows))
    assert batch.student_context is batch.full
    reader.students = dict(blind=Student("dmdo", 6, 3.0, "", reads_vision=False))
    wanted = reader.contexts("edit", picked["scene_picture"].movedim(-1, 1).float() / 255, ["-"] * 4, student="blind")
    blind = read_batch(teacher, picked, GUIDANCE, torch.Generator(), copies=3, vision=False)
    assert same_reading(blind.student_context, wanted.full.select(rows)) and same_reading(blind.full, batch.full)
    assert len({len(row) for row in reader.rows}) > 1  # or rows of one length would prove little
    latent = patchify(picked["edit_latent"].float(), teacher.config.latent_patch)
    assert torch.equal(batch.latent, latent[rows]) and batch.size == 12


def test_a_prompt_is_read_as_the_engine_reads_it_and_once_for_its_four_pictures(model, teacher, pool):
    picked = batch_of(pool, "draw", n=4)
    reader = Reader(model.bagel, model.text, Sampling(**GUIDANCE))
    reader.rows = texts_of(picked, "draw")
    wanted = reader.contexts("draw", ["-"] * 4)
    batch = read_batch(teacher, picked, GUIDANCE, torch.Generator())
    rows = torch.arange(4).repeat_interleave(4)
    assert same_reading(batch.full, wanted.full.select(rows))
    assert same_reading(batch.no_text, wanted.no_text.select(rows))
    assert batch.no_image is None and batch.image_scale is None and len({len(row) for row in reader.rows}) > 1
    for row, (prompt, copy) in enumerate((i, c) for i in range(4) for c in range(4)):
        alone = patchify(picked["draw_latent"][prompt, copy][None].float(), teacher.config.latent_patch)
        assert torch.equal(batch.latent[row], alone[0])


@pytest.mark.parametrize("task", ["draw", "edit"])
def test_texts_padded_to_the_pools_length_say_the_same(task, teacher, pool):
    short, padded = (stage_batch_of(teacher, pool, task, n=1, padded=padded) for padded in (False, True))
    width = getattr(pool, f"{task}_ids").size(1)
    assert (
        padded.full.visible.size(1) - short.full.visible.size(1)
        == width - int(batch_of(pool, task, 1)[f"{task}_length"])
        > 0
    )
    said = [teacher.velocity(short.latent, torch.full((short.size,), 0.7), r.full) for r in (short, padded)]
    assert torch.allclose(*said, atol=1e-5)


@pytest.mark.parametrize("name", ["cfg", "tscd", "dmdo"])
def test_contexts_are_read_by_the_original_weights(name, teacher, pool, tmp_path):
    """However far all that trains has gone, a step uses what the untouched teacher read."""
    before = read_batch(teacher, batch_of(pool, "edit"), GUIDANCE, seeded_generator(0, 0, 0))
    stage, met = made(name, teacher), []
    shake(stage, 0.02, seed=7)
    play = stage.shared_state
    stage.shared_state = lambda batch, generator: met.append(batch) or play(batch, generator)
    played(stage, pool, tmp_path, steps=1, edit=2)
    flat = lambda batch: [x for c in (batch.full, batch.no_text, batch.no_image) for x in c.to_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(flat(before), flat(met[0]), strict=True))
    assert not any(x.requires_grad for x in flat(met[0]))


@pytest.mark.parametrize("name", ["cfg", "tscd", "dmdo"])
def test_a_student_without_eyes_reads_latent_and_words_and_its_judges_all(name, teacher, pool, tmp_path):
    stage, read = made(name, teacher, vision=False), {}
    for part, module in stage.named_modules():
        if isinstance(module, StudentModel):
            module.register_forward_pre_hook(
                lambda _, args, part=part: read.setdefault(part, set()).add(args[2].length)
            )
    played(stage, pool, tmp_path, steps=1, edit=2)
    batch = pick_batch(pool, dict(edit=2), 0, 0)
    latent, words = teacher.config.latent_side**2 + 2, int(batch["edit_length"].max())  # each picture has two markers
    seen = (64 // teacher.config.vision.patch_size) ** 2 + 2
    for part, lengths in read.items():
        assert lengths == {latent + words + seen * (part not in ("student", "average", "stepper"))}, part
    assert len(read) == dict(cfg=1, tscd=4, dmdo=3)[name]


def test_half_of_the_scales_are_those_to_be_served_and_the_others_of_the_whole_range(teacher, pool):
    served = dict(edit=dataclasses.replace(GUIDANCE["edit"], text_scale=6.0, image_scale=3.0))  # outside the range
    batch = batch_of(pool, "edit", n=120)
    read = lambda deployed: read_batch(teacher, batch, served, torch.Generator().manual_seed(0), deployed=deployed)
    half, all_served, none = read(0.5), read(1.0), read(0.0)
    for part, used, low, high in (("text_scale", 6.0, 1.0, 5.0), ("image_scale", 3.0, 1.0, 2.5)):
        share = (getattr(half, part) == used).float().mean()
        assert abs(share - 0.5) < 0.12 and bool((getattr(all_served, part) == used).all())
        drawn = getattr(none, part)
        assert low <= drawn.min() < low + 0.1 * (high - low) and high - 0.1 * (high - low) < drawn.max() <= high
        assert len(drawn.unique()) > 200  # two noises of one edit have scales of their own
    assert not torch.equal(half.text_scale == 6.0, half.image_scale == 3.0)


def test_rows_of_a_step_are_always_the_same_and_both_tasks_come(pool):
    sizes = dict(draw=2, edit=3)
    batches = [pick_batch(pool, sizes, 0, step) for step in range(20)]
    again = pick_batch(pool, sizes, 0, 7)
    assert all(torch.equal(v, again[k]) for k, v in batches[7].items() if k != "task")
    for parity in (0, 1):  # moves made every other step meet both
        assert {b["task"] for b in batches[parity::2]} == {"draw", "edit"}
    assert all(len(b[f"{b['task']}_ids"]) == sizes[b["task"]] for b in batches)
    assert {pick_batch(pool, dict(edit=1, draw=0), 0, step)["task"] for step in range(9)} == {"edit"}
    edits = [pick_batch(pool, sizes, 0, step, editing=0.25)["task"] == "edit" for step in range(200)]
    assert 35 <= sum(edits) <= 65
    with pytest.raises(ValueError, match="at least one size above 0"):
        pick_batch(pool, dict(draw=0), 0, 0)


# ---- stage 1 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["draw", "edit"])
def test_without_guidance_an_untrained_student_has_nothing_to_learn(task, teacher, pool):
    off = dict(draw=OFF, edit=OFF)
    stage = CFGDistillation(teacher, StudentModel(teacher), guidance=off, total=1)
    read = lambda deployed: read_batch(teacher, batch_of(pool, task), off, seeded_generator(0), deployed=deployed)
    assert stage.student_loss(read(1.0), seeded_generator(1)) < 1e-11  # 0 but for two ways to write out attention
    assert stage.student_loss(read(0.0), seeded_generator(1)) > 1e-4


def test_stage_one_stands_at_noised_real_latents_at_shifted_times(teacher, pool, monkeypatch):
    stage, seen = made("cfg", teacher, shift=3.0), {}
    forward = stage.student.forward
    stage.student.forward = lambda x, t, *args, **options: seen.update(x=x, t=t) or forward(x, t, *args, **options)
    monkeypatch.setattr(cfg, "uniform", lambda n, generator, like: torch.linspace(0, 1, n))
    batch = stage_batch_of(teacher, pool, "edit")
    stage.student_loss(batch, seeded_generator(4))
    assert torch.allclose(seen["t"], shift_time(torch.linspace(0, 1, batch.size), 3.0))
    noise = torch.randn(batch.latent.shape, generator=seeded_generator(4))
    assert torch.allclose(seen["x"], interpolate(batch.latent, noise, seen["t"]))


# ---- stage 2 --------------------------------------------------------------------------------------------------------


def test_gradients_of_a_discriminator_reach_its_input_its_backbone_and_its_heads(teacher, pool):
    judge = Discriminator(shake(StudentModel(teacher), seed=2))
    batch = stage_batch_of(teacher, pool, "edit")
    x = batch.latent.clone().requires_grad_()
    logits = judge(x, torch.full((batch.size,), 0.4), batch.full, **batch.scales)
    assert logits.shape == (batch.size, len(judge.heads)) and len(logits.unique()) == batch.size
    logits.sum().backward()
    assert x.grad.abs().amax((1, 2)).min() > 0
    assert all(p.grad is not None and p.grad.any() for p in judge.heads.parameters())
    assert any(p.grad is not None and p.grad.any() for p in judge.backbone.parameters())


def test_each_sample_is_judged_alone(teacher, pool):
    judge = Discriminator(shake(StudentModel(teacher), seed=2))
    batch = stage_batch_of(teacher, pool, "edit", deployed=0.0)
    t = torch.linspace(0.1, 0.9, batch.size)
    with torch.no_grad():
        together = judge(batch.latent, t, batch.full, **batch.scales)
        for i in range(batch.size):
            row = torch.tensor([i])
            scales = {name: value[row] for name, value in batch.scales.items()}
            alone = judge(batch.latent[row], t[row], batch.full.select(row), **scales)
            assert torch.allclose(together[i], alone[0], atol=1e-4)


@pytest.mark.parametrize("depth, layers", [(2, (2,)), (4, (4,)), (8, (4, 8)), (10, (4, 8))])
def test_heads_stand_on_every_fourth_layer_and_at_least_on_the_last(teacher, depth, layers):
    branch = StudentModel(teacher)
    llm = dataclasses.replace(teacher.config.llm, num_hidden_layers=depth)
    branch._base = SimpleNamespace(module=SimpleNamespace(config=dataclasses.replace(teacher.config, llm=llm)))
    assert Discriminator(branch).layers == layers and len(Discriminator(branch).heads) == len(layers)


def test_an_adversary_judges_both_jumps_where_they_end_and_the_student_wants_to_please_it(teacher, pool):
    """With a judge that says ten times the mean of what it sees: who is called real, at which time, and both losses."""
    said = []

    def judge(x, t, context, **scales):
        said.append((x, t, scales))
        return 10 * x.mean((1, 2))[:, None]

    stage = made("tscd", teacher, r1=0.0, mse=0.0)
    pair = stage.shared_state(stage_batch_of(teacher, pool, "edit"), seeded_generator(0))
    pair = dataclasses.replace(pair, real=pair.real + 0.5)  # or they would be too close to tell
    del stage.discriminator
    stage.discriminator = judge
    real, fake = (10 * x.mean((1, 2)) for x in (pair.real, pair.fake))
    wanted = (1 - real).clamp_min(0).mean() + (1 + fake).clamp_min(0).mean()
    assert torch.allclose(stage.discriminator_loss(pair, seeded_generator(1)), wanted)
    assert not any(x.requires_grad for x, _, _ in said)  # the discriminator's update asks nothing of the student
    assert torch.allclose(stage.student_loss(pair, seeded_generator(1)), -fake.mean())
    assert len(said) == 3 and all(torch.equal(t, pair.end) for _, t, _ in said)
    assert all(torch.equal(scales["text_scale"], pair.batch.text_scale) for *_, scales in said)
    stage.mse = 2.0
    both = -fake.mean() + 2 * (pair.fake - pair.real).square().mean()
    assert torch.allclose(stage.student_loss(pair, seeded_generator(1)), both)


def test_without_an_adversary_there_is_no_discriminator(teacher):
    stage = made("lcm", teacher)
    assert stage.discriminator is None and [update.name for update in stage.updates()] == ["student"]


# ---- stage 3 --------------------------------------------------------------------------------------------------------


class Listener:
    """Notes each call of a branch: what it looked at, when, and whether gradients were kept."""

    def __init__(self, branch):
        self.calls, self.forward = [], branch.forward
        branch.forward = self.hear

    def hear(self, x, t, *args, **options):
        self.calls.append((x, t, torch.is_grad_enabled()))
        return self.forward(x, t, *args, **options)


@pytest.mark.parametrize("sampler", ["euler", "multistep"])
def test_the_students_update_makes_one_pass_with_gradient_from_a_stored_state(sampler, teacher, pool):
    stage = made("dmdo", teacher, sampler=sampler)
    student, real, fake = (Listener(branch) for branch in (stage.student, stage.real, stage.fake))
    rollout = stage.shared_state(stage_batch_of(teacher, pool, "edit", n=4), seeded_generator(0))
    assert len(student.calls) == 6 and not any(kept for *_, kept in student.calls)
    assert len(rollout.states) == 7 and not any(state.requires_grad for state in rollout.states)
    met = set()
    for draw in range(8):
        for listener in (student, real, fake):
            listener.calls.clear()
        loss = stage.student_loss(rollout, seeded_generator(1, draw))
        [(x, t, kept)] = student.calls
        assert kept and [k for *_, k in real.calls + fake.calls] == [False, False]
        for row in range(len(x)):
            j = stage.grid.tolist().index(t[row].item())
            assert torch.equal(x[row], rollout.states[j][row])
            met.add(j)
        assert torch.equal(real.calls[0][0], fake.calls[0][0])  # both scores look at the same sample
        assert loss.requires_grad
    assert met == set(range(6))  # never the picture itself


@pytest.mark.parametrize("sampler", ["euler", "multistep"])
def test_scored_at_its_ends_the_student_goes_on_with_gradient_to_where_the_stored_trajectory_went(
    sampler, teacher, pool, monkeypatch
):
    stage = made("dmdo", teacher, sampler=sampler, sample_student="end")
    rollout = stage.shared_state(stage_batch_of(teacher, pool, "edit", n=4), seeded_generator(0))
    student, ends, met = Listener(stage.student), [], set()
    monkeypatch.setattr("hb.train.distill.dmdo.distribution_matching_loss", lambda x0, *_: ends.append(x0) or x0.sum())
    for draw in range(12):
        student.calls.clear()
        stage.student_loss(rollout, seeded_generator(1, draw))
        left = len(student.calls)
        assert all(kept for *_, kept in student.calls) and torch.equal(student.calls[0][0], rollout.states[6 - left])
        if sampler == "euler":  # the same weights walk the same way
            assert torch.allclose(ends[-1], rollout.x0, atol=1e-5)
        met.add(left)
    assert met == set(range(1, 7)) and all(end.requires_grad for end in ends)
    stage.student_loss(
        rollout, seeded_generator(1, 0)
    )  # gradient reaches the first of several steps, not the last alone
    stage.continue_rollout(rollout, 3, seeded_generator(2)).sum().backward()
    longer = [p.grad.clone() for p in stage.student.parameters() if p.grad is not None]
    stage.student.zero_grad()
    stage.continue_rollout(rollout, 5, seeded_generator(2)).sum().backward()
    assert not all(
        torch.allclose(a, p.grad) for a, p in zip(longer, (p for p in stage.student.parameters() if p.grad is not None))
    )


@pytest.mark.parametrize("task", ["draw", "edit"])
def test_the_real_score_can_be_the_guided_teacher_and_the_fake_then_begins_as_the_teacher(task, teacher, pool):
    stage = made("dmdo", teacher, real=None)
    batch, t = stage_batch_of(teacher, pool, task, deployed=1.0), torch.tensor([0.3, 0.9]).repeat(4)
    t = t[: batch.size]
    assert torch.equal(stage.real_velocity(batch.latent, t, batch), stage.guided(teacher, batch.latent, t, batch))
    assert torch.allclose(
        stage.fake(batch.latent, t, batch.full, **batch.scales), teacher.velocity(batch.latent, t, batch.full)
    )
    assert not torch.allclose(
        stage.real_velocity(batch.latent, t, batch), teacher.velocity(batch.latent, t, batch.full)
    )


def test_the_sample_of_an_update_is_a_guess_or_an_end(teacher):
    for wrong in (dict(sample_student="walk"), dict(sample_fake="walk")):
        with pytest.raises(ValueError, match="is 'end' or 'guess', not 'walk'"):
            made("dmdo", teacher, **wrong)


def test_the_fakes_update_looks_at_the_stored_walk_anew_and_not_at_the_student(teacher, pool, tmp_path):
    stage = made("dmdo", teacher)
    student, fake = Listener(stage.student), Listener(stage.fake)
    played(stage, pool, tmp_path, steps=1)
    assert len(student.calls) == 6 + 1 and [kept for *_, kept in fake.calls] == [True, True, True, False]
    times = [t for _, t, _ in fake.calls[:3]]
    assert not torch.equal(times[0], times[1]) and not torch.equal(times[1], times[2])


@pytest.mark.parametrize("task", ["draw", "edit"])
@pytest.mark.parametrize("sampler", ["euler", "multistep"])
def test_a_student_is_trained_on_the_walk_it_will_be_sampled_with(task, sampler, teacher, pool, monkeypatch):
    """`shared_state` against `hb.infer.image.sample_student`, state by state, with the same noises."""
    stage = made("dmdo", teacher, sampler=sampler)
    batch = stage_batch_of(teacher, pool, task, deployed=1.0)
    rollout = stage.shared_state(batch, seeded_generator(3))
    again = seeded_generator(3)
    noises = [torch.randn(batch.latent.shape, generator=again) for _ in range(6)]
    monkeypatch.setattr("hb.infer.image.noise", lambda *_: noises.pop(0))
    z = noises.pop(0)
    walk = sample_student(
        stage.student,
        batch.full,
        z,
        stage.grid,
        GUIDANCE[task],
        picture=task == "edit",
        sampler=sampler,
        seeds=[0] * batch.size,
    )
    states = [z, *(x for _, x in walk)]
    assert torch.equal(rollout.z, z) and len(states) == len(rollout.states)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(states, rollout.states))
    assert (rollout.x0 - rollout.z).abs().mean() > 0.1
    # a walk ends in its last guess, either way
    assert len(rollout.guesses) == 6 and torch.allclose(rollout.guesses[-1], rollout.x0, atol=1e-5)
    assert torch.equal(rollout.guess(torch.arange(batch.size) % 6)[1], rollout.guesses[1][1])
    assert not any(guess.requires_grad for guess in rollout.guesses)


def test_a_state_is_found_by_each_samples_own_step():
    states = tuple(torch.full((3, 2, 1), float(j)) + torch.arange(3.0).reshape(3, 1, 1) / 10 for j in range(5))
    x, t = Rollout(nothing_read(states[0]), torch.linspace(1, 0, 5), states).at(torch.tensor([3, 0, 1]))
    assert torch.allclose(x[:, 0, 0], torch.tensor([3.0, 0.1, 1.2])) and t.tolist() == [0.25, 1.0, 0.75]


def test_a_walk_keeps_every_state_and_no_gradient():
    k = torch.tensor(0.5, requires_grad=True)
    states = roll_out(lambda x, t: k * x, torch.ones(1, 1, 1), torch.tensor([1.0, 0.5, 0.0]))
    assert [s.item() for s in states] == [1.0, 0.75, 0.5625] and not any(s.requires_grad for s in states)


def test_times_of_stage_three_fill_their_range_after_the_shift():
    stage = bare(DistributionMatching, settings=MatchingSettings(times=(0.1, 0.9), shift=3.0))
    t = stage.draw_times(4000, seeded_generator(0), torch.zeros(1))
    low, middle, high = (shift_time(torch.tensor(u), 3.0) for u in (0.1, 0.5, 0.9))
    assert low <= t.min() < low + 0.01 and high - 0.01 < t.max() <= high and abs(t.median() - middle) < 0.02
