"""A stage that is interrupted goes on as if nothing had been, and what it leaves opens beside its own teacher alone."""

import copy
import json
import signal
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from hb.cli.distill import reward_of
from hb.cli.main import main, parse
from hb.data.pool import Pool
from hb.flow import time_grid
from hb.infer.artifacts import STUDENT, RewardCheckpoint, Student, fingerprint
from hb.infer.pipeline import Model
from hb.models import mot
from hb.models.checkpoint import CheckpointError
from hb.models.conditioning import StudentModel, extra_layers_of
from hb.models.names import is_generation, to_released
from hb.models.rewards import RewardConfig, RewardModel
from hb.train.distill.adp import OneStep
from hb.train.distill.recipe import _plain, branch_of, mean_of, pictures_of, run_stage, with_new_guidance_embedding
from hb.train.distill.specs import CHAINS, SIX_NFE, STAGES
from hb.train.distill.stage import Diverged, Stage
from hb.train.distill.tscd import SegmentedConsistency
from tests.train.distill.conftest import GUIDANCE, stage_batch_of

STEPS = 4


def run(name, folder, teacher, pool, students, steps=STEPS, luck=0, begin=None, **changes) -> Student:
    """A stage as the recipe has it, but small. luck: what PyTorch's own generator stand at when it begins."""
    spec = replace(STAGES[name], **dict(prompts=1, edits=2, lr=20 * STAGES[name].lr) | changes)
    with torch.random.fork_rng():
        torch.manual_seed(luck)
        return run_stage(
            name,
            folder,
            teacher,
            pool,
            guidance=GUIDANCE,
            students=students,
            spec=spec,
            steps=steps,
            begin=begin,
            bar=False,
            accelerator="cpu",
            save_every=2,
            reward=brightness,
        )


def brightness(pictures, batch):
    """A reward without a model, and its threshold."""
    return pictures.flatten(1).mean(1), 0.0


@pytest.fixture(scope="module")
def students(teacher, pool, tmp_path_factory) -> dict[str, Student]:
    """The recipe in one go."""
    done = {}
    for name in SIX_NFE:
        done[name] = run(name, tmp_path_factory.mktemp(name), teacher, pool, done)
    return done


def test_sheets_are_painted_by_the_tiny_decoder_where_there_is_one(teacher, pool, tmp_path):
    blue = torch.nn.Module()
    blue.forward = lambda z: torch.tensor([-1.0, -1.0, 1.0])[:, None, None].expand(
        len(z), 3, 8 * z.size(2), 8 * z.size(3)
    )
    tiny = SimpleNamespace(open=lambda bagel: blue if bagel is teacher else None)
    spec = replace(STAGES["cfg"], prompts=1, edits=1, lr=0.1)
    run_stage(
        "cfg",
        tmp_path,
        teacher,
        pool,
        guidance=GUIDANCE,
        students={},
        spec=spec,
        steps=1,
        tiny=tiny,
        bar=False,
        accelerator="cpu",
    )
    sheet = np.array(Image.open(tmp_path / "sheet-000001.png"))
    assert {tuple(p) for p in sheet.reshape(-1, 3).tolist()} <= {(0, 0, 255), (255, 255, 255)} and (
        sheet == [0, 0, 255]
    ).all(2).any()


@pytest.mark.parametrize("precision, dtype", [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)])
@pytest.mark.parametrize("name", ["cfg", "lcm"])
def test_muon_works_in_the_precision_of_the_run(teacher, pool, students, tmp_path, monkeypatch, name, precision, dtype):
    used = {}
    updates = STAGES[name].make.updates
    monkeypatch.setattr(STAGES[name].make, "updates", lambda stage: used.setdefault("updates", updates(stage)))
    spec = replace(STAGES[name], prompts=1, edits=1)
    before = dict(cfg=students["cfg"]) if spec.after else {}
    run_stage(
        name,
        tmp_path,
        teacher,
        pool,
        guidance=GUIDANCE,
        students=before,
        spec=spec,
        steps=1,
        bar=False,
        accelerator="cpu",
        precision=precision,
    )
    (muon,) = [update.optimizer for update in used["updates"] if update.name == "student"]
    assert muon.dtype == dtype


def test_a_run_that_diverges_ends_in_a_sentence(tiny_folder, tmp_path, monkeypatch, capsys):
    trip(monkeypatch, 1, diverge)
    argv = [
        "distill",
        "cfg",
        "--model",
        tiny_folder,
        "--folder",
        tmp_path,
        "--pool",
        2,
        "--steps",
        3,
        "--prompts",
        1,
        "--edits",
        1,
    ]
    assert main([*map(str, argv), "--accelerator", "cpu", "--json"]) == 2
    said = capsys.readouterr().err
    assert "hb: the spread is 7" in said and "Traceback" not in said


def test_after_a_divergence_one_goes_on_with_a_smaller_rate_as_it_says(tiny_folder, tmp_path, monkeypatch, capsys):
    argv = [
        "distill",
        "cfg",
        "--model",
        tiny_folder,
        "--folder",
        tmp_path,
        "--pool",
        2,
        "--steps",
        3,
        "--prompts",
        1,
        "--edits",
        1,
    ]
    argv = [*map(str, argv), "--accelerator", "cpu", "--json"]
    with monkeypatch.context() as patch:
        trip(patch, 1, ctrl_c)
        assert main([*argv, "--lr", "0.1"]) == 130
    assert main([*argv, "--lr", "0.01"]) == 0
    assert json.loads(capsys.readouterr().out)["cfg"]["provenance"]["settings"]["lr"] == 0.01
    assert main([*argv, "--lr", "0.01", "--seed", "1"]) == 2 and "seed 0, not 1" in capsys.readouterr().err


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_saves_well_before_its_end(name, teacher, pool, students, tmp_path, monkeypatch):
    met = {}
    monkeypatch.setattr("hb.train.distill.recipe.fit", lambda *_, **options: met.update(options) or power_cut())
    with pytest.raises(RuntimeError, match="power cut"):
        earlier = {n: replace(students["cfg"], reads_vision=spec.vision) for n, spec in STAGES.items()}
        run_stage(name, tmp_path, teacher, pool, guidance=GUIDANCE, students=earlier, reward=brightness)
    assert 3 * met["save_every"] <= STAGES[name].steps


def diverge():
    raise Diverged("the spread is 7")


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def trip(monkeypatch, at, cut):
    """Something happens in step `at`: cut() is called."""
    step_of = Stage.training_step

    def training_step(self, batch, batch_idx):
        if self.global_step == at:
            cut()
        return step_of(self, batch, batch_idx)

    monkeypatch.setattr(Stage, "training_step", training_step)


def power_cut():
    raise RuntimeError("power cut")


def ctrl_c():
    signal.raise_signal(signal.SIGINT)


CTRL_C, POWER_CUT = (ctrl_c, KeyboardInterrupt), (power_cut, RuntimeError)


@pytest.mark.parametrize("name, cut", [("cfg", CTRL_C), ("tscd", CTRL_C), ("dmdo", CTRL_C), ("dmdo", POWER_CUT)])
def test_a_stage_cut_off_ends_with_the_same_student(name, cut, teacher, pool, students, tmp_path, monkeypatch):
    """Ctrl-C ends after its step and saves; a power cut falls back to the last checkpoint."""
    (interrupt, error), at = cut, 2 if cut is CTRL_C else 3
    before = {n: students[n] for n in SIX_NFE[: SIX_NFE.index(name)]}
    with monkeypatch.context() as patch:
        trip(patch, at, interrupt)
        with pytest.raises(error):
            run(name, tmp_path, teacher, pool, before)
    assert not (tmp_path / f"sheet-{STEPS:06}.png").exists()
    resumed = run(name, tmp_path, teacher, pool, before)
    assert same(resumed.weights, students[name].weights) and resumed.to_dict() == students[name].to_dict()
    assert (tmp_path / f"sheet-{STEPS:06}.png").exists()
    start = branch_of(teacher, before.get(STAGES[name].after)).released_weights()
    assert not same(start, resumed.weights)  # it was trained at all


def test_a_stage_cut_off_before_its_half_ends_with_the_same_student(teacher, pool, students, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        trip(patch, 1, ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            run("cfg", tmp_path, teacher, pool, {})
    assert same(run("cfg", tmp_path, teacher, pool, {}).weights, students["cfg"].weights)


@pytest.mark.parametrize("name", ["cfg", "tscd"])
def test_a_seed_names_a_run(name, teacher, pool, students, tmp_path):
    """Whatever PyTorch's own generator were used for before."""
    one, other = (run(name, tmp_path / str(luck), teacher, pool, students, steps=1, luck=luck) for luck in (0, 1))
    assert same(one.weights, other.weights)


@pytest.mark.parametrize("sampler", ["euler", "multistep"])
def test_a_sheet_is_sampled_as_its_student_is(sampler, teacher, pool, students):
    batch, branch, grid = (
        stage_batch_of(teacher, pool, "draw", deployed=1.0),
        branch_of(teacher, students["cfg"]),
        time_grid(3, 3.0),
    )
    shown = pictures_of(teacher, branch, batch, grid, torch.Generator().manual_seed(5), sampler)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        x = torch.randn(batch.latent.shape, generator=generator)
        for t, then in zip(grid[:-1], grid[1:]):
            v = branch(x, t.expand(len(x)), batch.full, **batch.scales)
            noise = x + (1 - t) * v  # the end of the line on which x lies
            if sampler == "multistep" and then > 0:
                noise = torch.randn(x.shape, generator=generator)
            x = (1 - then) * (x - t * v) + then * noise
        assert torch.allclose(shown, teacher.decode(x).clamp(-1, 1), atol=1e-4)


def test_a_stage_gives_the_teacher_back_as_it_came(teacher, pool, tmp_path):
    mine = copy.deepcopy(teacher).requires_grad_(True)
    mine.vit_model.requires_grad_(False)
    before = {name: p.requires_grad for name, p in mine.named_parameters()}
    run("cfg", tmp_path, mine, pool, {}, steps=1)
    assert {name: p.requires_grad for name, p in mine.named_parameters()} == before and len(set(before.values())) == 2


def test_a_long_stage_compiles_all_its_networks_and_gives_the_teacher_back_as_it_came(
    teacher, pool, students, tmp_path, monkeypatch
):
    """What is ours of it: which networks are compiled, contexts of one length (padded), and the way back. The compiler
    is PyTorch's, and slow: layers run as they are written here."""
    met, forward = set(), mot.joint_layer
    monkeypatch.setattr(mot, "compiled_layer", lambda: forward)
    step = Stage.training_step

    def seen(stage, *args):
        networks = (stage.teacher, *(part for part in stage.modules() if isinstance(part, StudentModel)))
        met.update(id(network) for network in networks if network.compiled)
        return step(stage, *args)

    monkeypatch.setattr(Stage, "training_step", seen)
    monkeypatch.setattr("hb.train.distill.recipe.worth_compiling", lambda steps: steps > 1)
    run("dmdo", tmp_path / "short", teacher, pool, students, steps=1)
    assert not met
    left = run("dmdo", tmp_path / "long", teacher, pool, students, steps=2)
    assert len(met) == 5 and id(teacher) in met  # the student, its average, fake score, adversary
    assert not teacher.compiled
    monkeypatch.setattr("hb.train.distill.recipe.worth_compiling", lambda steps: False)
    plain = run("dmdo", tmp_path / "plain", teacher, pool, students, steps=2)
    assert all(torch.allclose(plain.weights[k], w, atol=1e-4) for k, w in left.weights.items())


def test_a_stage_that_is_finished_gives_its_student_again(teacher, pool, students, tmp_path):
    first = run("cfg", tmp_path, teacher, pool, {}, steps=2)
    assert same(run("cfg", tmp_path, teacher, pool, {}, steps=2).weights, first.weights)


def test_a_run_that_goes_on_with_a_smaller_rate_learns_at_that_rate(teacher, pool, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        trip(patch, 2, ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            run("cfg", tmp_path, teacher, pool, {}, lr=0.1)
    run("cfg", tmp_path, teacher, pool, {}, lr=0.001)
    rate = [json.loads(line)["lr"] for line in (tmp_path / "log.jsonl").read_text().splitlines()][-1]
    assert 0 < rate <= 0.001


@pytest.mark.parametrize(
    "name, there, missing",
    [("tscd", (), "cfg"), ("dmdo", ("cfg",), "tscd"), ("lcm", (), "cfg"), ("dmdo-literal", ("tscd",), "cfg")],
)
def test_a_stage_whose_beginning_is_missing_is_refused(name, there, missing, teacher, pool, students, tmp_path):
    begins = f"'{name}' begins with the student of '{missing}', which is not there; run it first: hb distill {missing}"
    with pytest.raises(ValueError, match=begins):
        run(name, tmp_path, teacher, pool, {n: students[n] for n in there})
    assert not any(tmp_path.iterdir())


def test_each_stage_begins_where_the_one_before_it_ended(teacher, pool, students, tmp_path, monkeypatch):
    """Before its first step: the student, its average, the two scores and the stepper."""
    met = {}
    monkeypatch.setattr(Stage, "training_step", lambda stage, *_: met.update(stage=stage) or power_cut())
    for name in (*SIX_NFE, "dmdo-literal"):
        with pytest.raises(RuntimeError, match="power cut"):
            run(name, tmp_path / name, teacher, pool, students)
        parts = dict(met["stage"].named_children())
        begins = dict(
            cfg={}, tscd=dict(student="cfg", average="cfg", stepper="cfg"), dmdo=dict(student="tscd", average="tscd")
        )
        begins = (begins | {"dmdo-literal": begins["dmdo"] | dict(real="cfg", fake="cfg")})[name]
        for part, parcel in begins.items():
            assert same(parts[part].released_weights(), students[parcel].weights)
        if name == "tscd":
            assert same(parts["discriminator"].backbone.released_weights(), students["cfg"].weights)
        # the fake score of the guided teacher begins as the teacher, and so does the adversary beside it
        of_teacher = dict(
            cfg=[parts["student"]], dmdo=[parts.get("fake"), getattr(parts.get("discriminator"), "backbone", None)]
        )
        for part in of_teacher.get(name, []):
            mine = part.released_weights()
            theirs = {to_released(n): p for n, p in teacher.named_parameters() if is_generation(n)}
            assert all(torch.equal(mine[n], p) and mine[n] is not p for n, p in theirs.items())
        trains = {n.split(".")[0] for n, p in met["stage"].named_parameters() if p.requires_grad}
        assert (
            trains
            == {
                "cfg": {"student"},
                "tscd": {"student", "discriminator"},
                "dmdo": {"student", "fake", "discriminator"},
                "dmdo-literal": {"student", "fake"},
            }[name]
        )


@pytest.mark.parametrize("name", ["cfg", "tscd"])
def test_a_stage_can_begin_with_another_student(name, teacher, pool, students, tmp_path, monkeypatch):
    """With itself, to be trained on, with one that the recipe has elsewhere, with that of an earlier teacher; what the
    recipe asks for need not be there."""
    met = {}
    monkeypatch.setattr(Stage, "training_step", lambda stage, *_: met.update(stage=stage) or power_cut())
    with pytest.raises(RuntimeError, match="power cut"):
        run(name, tmp_path, teacher, pool, {}, begin=replace(students["dmdo"], teacher="an earlier version"))
    assert same(met["stage"].student.released_weights(), students["dmdo"].weights)


@pytest.mark.parametrize("stage, said", [("six-nfe", "for one stage"), ("tscd", "student.json"), ("cfg", "lacks")])
def test_a_beginning_that_will_not_do_is_refused_in_words(stage, said, students, tiny_folder, tmp_path, capsys):
    folder, begin = tmp_path / "run", tmp_path / "begin"
    if stage == "cfg":  # another geometry's
        replace(students["cfg"], weights=dict(list(students["cfg"].weights.items())[1:])).save(begin)
    argv = ["distill", stage, "--model", tiny_folder, "--folder", folder, "--start-from", begin]
    assert main([*map(str, argv), "--accelerator", "cpu"]) == 2
    assert said in capsys.readouterr().err and not folder.exists()


def test_a_student_goes_on_from_the_command_line_and_again_where_it_was_put(students, tiny_folder, tmp_path):
    """Under its own name, over its own beginning; with a rate of nothing it stays what it was."""
    begin = tmp_path / "students" / "cfg"
    replace(students["cfg"], teacher="an earlier version").save(begin)
    argv = [
        "distill",
        "cfg",
        "--model",
        tiny_folder,
        "--folder",
        tmp_path,
        "--start-from",
        begin,
        "--pool",
        2,
        "--prompts",
        1,
        "--edits",
        1,
        "--no-eyes",
        "--accelerator",
        "cpu",
        "--json",
        "--lr",
        1e-9,
    ]
    for steps in (1, 2):
        assert main([*map(str, argv), "--steps", str(steps)]) == 0
    done = Student.load(begin)
    assert done.provenance["steps"] == 2 and not done.reads_vision and done.teacher != "an earlier version"
    assert all(
        torch.allclose(w.float(), students["cfg"].weights[k].half().float(), atol=1e-3) for k, w in done.weights.items()
    )


def test_extra_layers_are_asked_for_on_the_command_line(students, tiny_folder, tmp_path):
    students["cfg"].save(tmp_path / "begin")
    argv = ["distill", "cfg", "--model", tiny_folder, "--folder", tmp_path / "run", "--start-from", tmp_path / "begin"]
    argv += ["--pool", 2, "--prompts", 1, "--edits", 1, "--steps", 1, "--lr", 1e-9, "--accelerator", "cpu", "--json"]
    assert main([*map(str, argv), "--extra-layers", "2"]) == 0
    done = Student.load(tmp_path / "run" / "students" / "cfg")
    assert extra_layers_of(done.weights) == 2 and extra_layers_of(students["cfg"].weights) == 0


def test_a_mix_reaches_the_pool_and_another_mix_has_another(tiny_folder, tmp_path, monkeypatch, capsys):
    def made(*_, mix, **__):
        raise ValueError(f"counting {mix['counting']:.2f}, position {mix['position']:.2f}")

    (tmp_path / "pool.safetensors").touch()  # of another stage, with the usual mix
    monkeypatch.setattr("hb.train.pools.make_pool", made)
    argv = ["distill", "cfg", "--model", str(tiny_folder), "--folder", str(tmp_path), "--accelerator", "cpu", "--mix"]
    assert main([*argv, "counting=0.5", "position=0.25"]) == 2
    assert "counting 0.50, position 0.25" in capsys.readouterr().err
    assert main([*argv, "dancing=0.5"]) == 2
    assert "no task 'dancing'" in capsys.readouterr().err


def test_a_fresh_start_with_another_pool_trains_on_that_one(tiny_folder, tmp_path, capsys):
    argv = [
        "distill",
        "cfg",
        "--model",
        tiny_folder,
        "--folder",
        tmp_path,
        "--steps",
        1,
        "--prompts",
        1,
        "--edits",
        1,
        "--accelerator",
        "cpu",
        "--json",
        "--fresh",
        "--pool",
    ]
    for size in (2, 3):
        assert main([*map(str, argv), str(size)]) == 0
        assert len(Pool.load(tmp_path / "pool.safetensors").draw_ids) == size
    assert "pool.safetensors was made with prompts 2, not 3: it is made anew" in capsys.readouterr().err


def test_a_blind_student_is_no_real_score(teacher, pool, students, tmp_path):
    with pytest.raises(ValueError, match="hb distill cfg --vision"):
        run("dmdo-literal", tmp_path, teacher, pool, students | dict(cfg=replace(students["cfg"], reads_vision=False)))


def test_a_student_from_before_there_was_a_choice_of_eyes_has_them(students, tmp_path):
    students["dmdo"].save(tmp_path)
    values = json.loads((tmp_path / "student.json").read_text())
    assert values.pop("reads_vision") is False
    (tmp_path / "student.json").write_text(json.dumps(values))
    assert Student.load(tmp_path).reads_vision


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_that_is_listed_leaves_a_student_that_draws_at_its_cost(name, model, pool, students, tmp_path):
    before, teacher = fingerprint(model.bagel), model.bagel
    earlier = {n: replace(students["cfg"], reads_vision=spec.vision) for n, spec in STAGES.items()} | students
    parcel = students[name] if name in students else run(name, tmp_path, teacher, pool, earlier, steps=1)
    assert fingerprint(teacher) == before == parcel.teacher
    json.dumps(parcel.to_dict())
    spec = STAGES[name]
    assert (parcel.steps, parcel.sampler, parcel.any_steps, parcel.default, parcel.reads_vision) == (
        spec.evaluations,
        spec.sampler,
        spec.any_steps,
        spec.default,
        spec.vision,
    )
    assert extra_layers_of(parcel.weights) == spec.extra_layers
    nfe = 6 if spec.any_steps else spec.evaluations
    drawn = Model(teacher, model.text, students={name: parcel}).draw("a red circle", student=name, nfe=nfe)
    assert drawn.nfe == nfe and bool(drawn.pixels.isfinite().all())


def test_one_step_learns_from_pairs_of_the_student_it_names_and_refuses_one_that_reads_more(
    teacher, pool, students, tmp_path, monkeypatch
):
    seen, share = {}, OneStep.shared_state
    monkeypatch.setattr(OneStep, "shared_state", lambda self, *a: seen.setdefault("stage", self) and share(self, *a))
    earlier = dict(dmdo=students["dmdo"], regression=replace(students["tscd"], reads_vision=False))
    run("adp", tmp_path / "a", teacher, pool, earlier, steps=1)
    assert same(seen["stage"].source.released_weights(), students["dmdo"].weights)
    assert len(seen["stage"].grid) == 1 + students["dmdo"].steps
    with pytest.raises(ValueError, match="do not read pictures through the vision encoder"):
        run("adp", tmp_path / "b", teacher, pool, earlier | dict(dmdo=students["tscd"]), steps=1)
    with pytest.raises(ValueError, match="no reward model"):
        without = dict(guidance=GUIDANCE, students=earlier | dict(adp=earlier["regression"]), bar=False)
        run_stage("refl", tmp_path / "c", teacher, pool, steps=1, accelerator="cpu", **without)


def test_hyper_sd_halves_its_segments_and_the_first_student_makes_the_small_steps(
    teacher, pool, students, tmp_path, monkeypatch
):
    chain = CHAINS["hyper-sd"]
    assert chain == ("cfg", "hyper-sd-8", "hyper-sd-4", "hyper-sd-2", "hyper-sd-1")
    for before, name in zip(chain, chain[1:]):
        assert STAGES[name].after == before and STAGES[name].options["segments"].count == STAGES[name].evaluations
    weight = lambda kind: [STAGES[name].options[kind] for name in chain[1:]]
    assert weight("mse") == sorted(weight("mse"), reverse=True) and weight("adversarial") == sorted(
        weight("adversarial")
    )
    seen = {}
    share = SegmentedConsistency.shared_state
    monkeypatch.setattr(
        SegmentedConsistency, "shared_state", lambda self, *a: seen.setdefault("stage", self) and share(self, *a)
    )
    earlier = dict(cfg=students["cfg"], **{"hyper-sd-8": students["tscd"]})
    run("hyper-sd-4", tmp_path, teacher, pool, earlier, steps=1)
    steps = seen["stage"].stepper.released_weights()
    assert same(steps, students["cfg"].weights) and not same(steps, students["tscd"].weights)
    with pytest.raises(ValueError, match="begins with the student of 'cfg'"):
        run("hyper-sd-4", tmp_path / "other", teacher, pool, {"hyper-sd-8": students["tscd"]}, steps=1)


def test_a_mean_of_students_has_the_mean_of_their_weights_and_is_of_one_form(students):
    one = students["tscd"]
    other = replace(one, weights={name: value + 1.0 for name, value in one.weights.items()})
    mean = mean_of([one, other, other])
    assert mean.stage == one.stage and mean.weights.keys() == one.weights.keys()
    assert all(torch.allclose(mean.weights[n], v.float() + 2 / 3, atol=1e-6) for n, v in one.weights.items())
    assert same(mean_of([one]).weights, one.weights)
    for wrong in (replace(other, steps=one.steps + 1), replace(other, teacher="another")):
        with pytest.raises(ValueError, match="one teacher and one form"):
            mean_of([one, wrong])


def test_the_command_line_knows_every_stage_and_every_chain():
    for name in (*STAGES, *CHAINS):
        assert parse(["distill", name]).stage == name


def test_one_student_answers_to_six_evaluations_and_settings_are_plain():
    assert [name for name, spec in STAGES.items() if spec.default and spec.evaluations == 6] == ["dmdo"]
    assert all(spec.after in (None, *STAGES) for spec in STAGES.values())
    for spec in STAGES.values():
        kept = json.loads(json.dumps(_plain(asdict(spec))))
        assert kept["lr"] == spec.lr and "make" not in kept


def test_new_knobs_are_silent_and_all_else_is_as_it_was(teacher, pool, students):
    new = with_new_guidance_embedding(students["cfg"], teacher)
    others = {n for n in new.weights if "scale_embedder" not in n}
    assert new.weights.keys() == students["cfg"].weights.keys() and all(
        torch.equal(new.weights[n], students["cfg"].weights[n]) for n in others
    )
    batch = stage_batch_of(teacher, pool, "draw")
    x, t = batch.latent, torch.full((batch.size,), 0.6)
    said = lambda student, scale: student.open(teacher).velocity(x, t, batch.full, text_scale=torch.full_like(t, scale))
    with torch.no_grad():
        assert torch.equal(said(new, 1.0), said(new, 5.0)) and not torch.equal(
            said(students["cfg"], 1.0), said(students["cfg"], 5.0)
        )


def test_new_knobs_need_somebody_to_begin_with(tiny_folder, capsys):
    assert main(["distill", "cfg", "--model", str(tiny_folder), "--new-guidance-embedding"]) == 2
    assert "--new-guidance-embedding goes with --start-from" in capsys.readouterr().err


# ---- parcels --------------------------------------------------------------------------------------------------------


def test_a_student_survives_its_files_in_half_precision(teacher, pool, students, tmp_path):
    students["dmdo"].save(tmp_path)
    back = Student.load(tmp_path)
    assert replace(back, weights={}) == replace(students["dmdo"], weights={})
    assert same(back.weights, {k: v.half() for k, v in students["dmdo"].weights.items()})
    batch = stage_batch_of(teacher, pool, "edit")
    x, t = batch.latent, torch.full((batch.size,), 0.6)
    with torch.no_grad():
        said, again, plain = (
            parcel.open(teacher).velocity(x, t, batch.full, **batch.scales)
            for parcel in (students["dmdo"], back, students["cfg"])
        )
    assert (said - again).abs().max() < 0.02 * said.abs().max() and not torch.allclose(said, plain, atol=1e-3)


def test_an_opened_student_has_the_parcels_weights_beside_an_untouched_teacher(teacher, students):
    before = fingerprint(teacher)
    opened = students["tscd"].open(teacher)
    assert same(opened.released_weights(), students["tscd"].weights)
    assert opened.base is teacher
    assert fingerprint(teacher) == before
    with torch.no_grad():
        opened.latent.output.weight.zero_()
    assert students["tscd"].weights["llm2vae.weight"].any()  # copied, not lent


def test_another_teachers_student_is_refused_in_words(tiny, teacher, students):
    with pytest.raises(CheckpointError, match=f"made from another teacher .its fingerprint is {fingerprint(teacher)}"):
        students["cfg"].open(tiny.bagel)


def test_in_half_precision_a_teacher_is_taken_at_its_word(teacher, students):
    half = copy.deepcopy(teacher).half()
    opened = students["cfg"].open(half)
    assert opened.latent.output.weight.dtype == torch.float16
    assert torch.equal(opened.latent.output.weight, students["cfg"].weights["llm2vae.weight"].half())


def test_a_file_that_lacks_a_tensor_is_refused_in_words(teacher, students, tmp_path):
    students["cfg"].save(tmp_path)
    weights = load_file(tmp_path / STUDENT)
    del weights["text_scale_embedder.mlp.2.weight"]
    save_file(weights, tmp_path / STUDENT)
    with pytest.raises(CheckpointError, match="does not fit its config: it lacks text_scale_embedder.mlp.2.weight"):
        Student.load(tmp_path).open(teacher)


def test_a_tensor_of_another_shape_or_of_the_teachers_own_side_is_refused(teacher, students):
    weights = students["cfg"].weights
    wide = replace(students["cfg"], weights=weights | {"llm2vae.bias": torch.zeros(3)})
    with pytest.raises(CheckpointError, match=r"llm2vae.bias has shape \[3\]"):
        wide.open(teacher)
    reads = replace(students["cfg"], weights=weights | {"language_model.lm_head.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="language_model.lm_head.weight, which this model does not have"):
        reads.open(teacher)


def test_a_folder_without_a_student_or_with_a_damaged_one_is_named(students, tmp_path):
    with pytest.raises(CheckpointError, match="holds no student.json; make a student first: hb distill six-nfe"):
        Student.load(tmp_path)
    students["cfg"].save(tmp_path)
    (tmp_path / "student.json").write_text("{")
    with pytest.raises(CheckpointError, match="student.json is damaged"):
        Student.load(tmp_path)


def test_a_parcel_holds_the_average_and_not_the_student(teacher, pool, students, tmp_path, monkeypatch):
    met = {}
    follow = Stage.on_fit_start
    monkeypatch.setattr(Stage, "on_fit_start", lambda stage: met.update(stage=stage) or follow(stage))
    parcel = run("cfg", tmp_path, teacher, pool, {}, steps=3)
    stage = met["stage"]
    assert same(stage.average.released_weights(), parcel.weights)
    assert not same(stage.student.released_weights(), parcel.weights)
    assert parcel.steps == 50 and len(time_grid(parcel.steps)) == 51


@pytest.mark.parametrize("task", ["draw", "edit"])
def test_stage_5_gets_a_reward_for_each_picture_with_its_own_prompt(model, pool, task):
    """As `RewardModel` gives them one by one; gradient flows to the pictures and not to the reward."""
    reward = RewardModel(RewardConfig.of(model.bagel), model.bagel)
    torch.nn.init.normal_(reward.head.last.weight, generator=torch.Generator().manual_seed(0))
    made_for = dict(config=asdict(reward.config), reads=RewardCheckpoint.stamp(model.bagel))
    stored = RewardCheckpoint(**made_for, thresholds=dict(draw=1.5, edit=2.5), weights=dict(reward.head.state_dict()))
    beside = Model(model.bagel, model.text, rewards=dict(vision=stored))
    batch = stage_batch_of(model.bagel, pool, task)
    pictures = torch.rand(batch.size, 3, 64, 64, generator=torch.Generator().manual_seed(1)).mul(2).sub(1)
    pictures.requires_grad_()
    rewards, threshold = reward_of(beside, None)(pictures, batch)
    assert threshold == stored.thresholds[task] and rewards.shape == (batch.size,)
    for i, row in enumerate(batch.rows.tolist()):
        n = int(batch.source[f"{task}_length"][row])
        ids, source = batch.source[f"{task}_ids"][row : row + 1, :n].int(), None
        if task == "edit":
            source = batch.source["scene_picture"][row : row + 1].movedim(-1, 1).float() / 127.5 - 1
        alone, _ = reward(pictures[i : i + 1], reward.condition(model.bagel, ids, torch.tensor([n]), source))
        assert torch.allclose(alone, rewards[i : i + 1], atol=1e-4)
    rewards.sum().backward()
    assert float(pictures.grad.abs().sum()) > 0
    with pytest.raises(ValueError, match="hb train reward"):
        reward_of(Model(model.bagel, model.text), None)
