"""Training goes on after an interruption as if there had been none; each loss is what it says; optimizers as
defined."""

import subprocess
import sys
from copy import deepcopy
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image

from hb.data.batches import BatchSizes, pick
from hb.data.dialogues import conversation, write_dialogues
from hb.data.mixes import DRAW_MIX, mixed
from hb.data.pool import Pool, make_pool
from hb.data.tokens import DIALOGUE_TOKENS
from hb.infer.pipeline import Model
from hb.models.autoencoder import Autoencoder, AutoencoderConfig
from hb.models.bagel import Bagel
from hb.models.checkpoint import load_model, save_model
from hb.models.initialize import initialize
from hb.models.names import is_generation
from hb.seeding import seeded_generator
from hb.train.optim import MuonAdamW, orthogonalize, split_parameters
from hb.train.sheets import CHANGED, CHANGES, DRAWN, AutoencoderSheet, TeacherSheet
from hb.train.teacher import (
    AutoencoderTraining,
    TeacherTraining,
    begin_from,
    is_answering,
    pool_for,
    provenance,
    random_pictures,
    shared_out,
    train_teacher,
    warmup_constant_decay,
)
from hb.train.trainer import StepData, fit
from hb.world.language import DESCRIBE_REQUESTS, parse, parse_edit
from hb.world.render import render
from hb.world.scene import sample_any
from tests.conftest import TOKENIZER, tiny_config

SIZES = BatchSizes(draw=3, edit=2, dialogue=2)


@pytest.fixture(scope="module")
def text():
    from hb.models.tokenizer import Text

    return Text.load(TOKENIZER)


@pytest.fixture(scope="module")
def pool(text):
    def encode(pictures):  # any fixed function of the picture will do
        return torch.nn.functional.avg_pool2d(pictures, 8).repeat(1, 2, 1, 1)[:, :4]

    return make_pool(encode, text, side=64, prompts=12, scenes=10, bar=False)


def module(text, seed=0):
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


def test_a_run_that_was_cut_off_ends_with_the_same_weights(text, pool, tmp_path):
    straight = run(text, pool, tmp_path / "straight")
    with pytest.raises(RuntimeError, match="power cut"):
        run(text, pool, tmp_path / "cut", (Trip(5),))
    resumed = run(text, pool, tmp_path / "cut")
    assert all(torch.equal(straight[k], resumed[k]) for k in straight)


@pytest.fixture
def opinionated(text):
    """An untrained model that draws something else for every prompt, and whose latents carry no noise."""
    model = module(text).model
    with torch.no_grad():
        torch.nn.init.normal_(model.latent.output.weight, 0, 0.3)
        model.autoencoder.encoder.conv_out.bias[model.config.autoencoder.z_channels :] = -40.0
    return model


def test_a_teacher_shows_what_its_users_would_get(opinionated, text, tmp_path):
    sheet = TeacherSheet(tmp_path, text).draw(SimpleNamespace(model=opinionated))
    user, given = Model(opinionated, text), render([CHANGED] * len(CHANGES), 64)
    drawn, edited = user.draw(DRAWN, steps=12).pixels, user.edit(given, CHANGES, steps=12).pixels
    wanted = torch.cat([torch.cat(list(row), -1) for row in (drawn, torch.cat([given[:1], edited]))], -2)
    assert (
        torch.tensor(np.array(sheet)).movedim(-1, 0) - wanted * 255
    ).abs().max() <= 1.01  # bytes are cut off, not rounded
    assert all(map(parse, DRAWN)) and all(map(parse_edit, CHANGES))


def test_an_autoencoder_shows_originals_over_what_it_makes_of_them(text, tmp_path):
    pale = torch.nn.Module()
    pale.moments = lambda pictures: (pictures * 0.5, None)
    pale.decoder = lambda z: z
    sheet = np.array(AutoencoderSheet(tmp_path, 64).draw(SimpleNamespace(autoencoder=pale, device="cpu"))) / 127.5 - 1
    assert sheet.shape == (128, 8 * 64, 3) and len(np.unique(sheet[:64])) > 20
    assert np.abs(sheet[:64] * 0.5 - sheet[64:]).max() < 0.02


def train_something(what, text, pool, folder, sheets):
    """Weights after a run, and where PyTorch's own generator stand then."""
    torch.manual_seed(0)
    if what == "teacher":
        return run(text, pool, folder, sheets), torch.rand(1)
    config = tiny_config(text.vocab_size).autoencoder
    training = AutoencoderTraining(config, total=4, lr=0.01)
    fit(
        training,
        StepData(lambda step, rank: random_pictures(2, 64, 0, step, rank), 4),
        folder,
        ema=None,
        save_every=2,
        bar=False,
        callbacks=sheets,
        accelerator="cpu",
    )
    return training.state_dict(), torch.rand(1)


@pytest.mark.parametrize("what", ["teacher", "autoencoder"])
def test_a_run_does_not_notice_that_it_is_watched(what, text, pool, tmp_path):
    """Every step on a sheet, and a power cut on top: the same weights, and the same generator, as nobody watching."""
    at, last = (5, 8) if what == "teacher" else (3, 4)
    sheet = (
        TeacherSheet(tmp_path / "seen", text, every=1)
        if what == "teacher"
        else AutoencoderSheet(tmp_path / "seen", 64, every=1),
    )
    unseen, generator = train_something(what, text, pool, tmp_path / "unseen", ())
    with pytest.raises(RuntimeError, match="power cut"):
        train_something(what, text, pool, tmp_path / "seen", (*sheet, Trip(at)))
    seen, same_dice = train_something(what, text, pool, tmp_path / "seen", sheet)
    assert all(torch.equal(unseen[k], seen[k]) for k in unseen) and torch.equal(generator, same_dice)
    assert {f.name for f in (tmp_path / "seen").glob("sheet-*")} == {
        f"sheet-{step:06}.png" for step in range(1, last + 1)
    }
    assert not list((tmp_path / "unseen").glob("sheet-*"))


def test_the_batch_of_a_step_is_always_the_same(pool, text):
    a, b = examples(pool, text, 5), examples(pool, text, 5)
    assert all(torch.equal(a[k], b[k]) for k in a)
    for other in (examples(pool, text, 5, rank=1), examples(pool, text, 6)):
        assert all(not torch.equal(a[k], other[k]) for k in ("draw_latent", "dialogue_ids", "dialogue_picture"))


def test_a_pool_comes_back_from_disk_as_it_was(pool, tmp_path):
    pool.save(tmp_path / "pool.safetensors")
    back = Pool.load(tmp_path / "pool.safetensors")
    assert torch.equal(back.draw_ids, pool.draw_ids) and torch.equal(back.scene_picture, pool.scene_picture)


@pytest.fixture
def pooled(tiny, tmp_path):
    """The pool of a file there, made if need be; the autoencoder's first weights and scale can be told to be others."""

    def make(encoder=1.0, scale=1.0, **changes):
        autoencoder = deepcopy(tiny.bagel.autoencoder)
        autoencoder.encoder.conv_in.weight.data *= encoder
        autoencoder.config = replace(autoencoder.config, scale_factor=scale)
        options = dict(side=64, prompts=2, scenes=2, precision="f32") | changes
        return pool_for(autoencoder, tiny.text, tmp_path / "deep" / "pool.safetensors", **options)

    return make


@pytest.mark.parametrize(
    "other",
    [
        dict(seed=1),
        dict(prompts=3),
        dict(scenes=3),
        dict(mix=mixed(dict(counting=0.9))),
        dict(encoder=0.5),
        dict(scale=0.5),
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_pool_made_of_something_else_is_made_anew_and_says_so(other, pooled, monkeypatch, capsys):
    first = pooled()
    assert "made anew" not in capsys.readouterr().err
    second = pooled(**other)
    assert not same(second, first) and f"pool.safetensors was made with {next(iter(other))} " in capsys.readouterr().err
    monkeypatch.setattr("hb.train.teacher.make_pool", None)
    assert same(pooled(**other), second)  # a run that goes on finds its own


def test_a_pool_from_before_pools_said_what_they_are_is_made_anew(pooled, tmp_path, capsys):
    first = pooled()
    replace(first, draw_latent=first.draw_latent + 1).save(tmp_path / "deep" / "pool.safetensors")
    assert same(pooled(), first) and "does not say what it was made of: it is made anew" in capsys.readouterr().err


def same(one: Pool, other: Pool) -> bool:
    return all(torch.equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(Pool))


def test_answers_carry_the_loss_and_questions_do_not(text):
    """Every marked place's next token is an answer's word or end; the first marked one follows <|im_start|>."""
    written = write_dialogues(text, 64, 20, 0, 0)
    for ids, length, mask in zip(*(written["dialogue_" + name].tolist() for name in ("ids", "length", "answer"))):
        turns = 0
        for i in range(length):
            if ids[i] == text.start:
                turns += 1
                assert mask[i] == (turns % 2 == 0)  # even turns are answers
            if ids[i] == text.end:
                assert not mask[i]
        assert not any(mask[length:]) and turns % 2 == 0


def test_half_of_the_conversations_are_questions_alone_so_that_answers_must_be_seen(text):
    """A description answers all that is asked after it; one that is asked for comes first, as it does in use."""
    rng = np.random.default_rng(0)
    requests = {tuple(text.encode(request)) for request in DESCRIBE_REQUESTS}
    described, questions = [], []
    for scene in sample_any(300, rng).to_list():
        ids, _ = conversation(scene, text, rng)
        turns = [tuple(ids[a + 1 : b]) for a, b in zip(where(ids, text.start), where(ids, text.end))][::2]
        assert not requests & set(turns[1:]) and len(ids) <= DIALOGUE_TOKENS
        described.append(turns[0] in requests)
        questions.append(len(turns) - described[-1])
    assert 0.42 < np.mean(described) < 0.58
    assert np.mean([n for n, d in zip(questions, described) if not d]) > 6


def test_an_answer_weighs_as_the_root_of_its_length():
    wanted = torch.tensor([[0, 1, 1, 0, 1, 1, 1, 1, 0, 1], [1, 1, 1, 1, 1, 1, 1, 1, 1, 0]]).bool()
    h, third = 0.5**0.5, 1 / 3
    want = [[0, h, h, 0, 0.5, 0.5, 0.5, 0.5, 0, 1], [third] * 9 + [0]]
    assert torch.allclose(shared_out(wanted), torch.tensor(want))


def where(ids: list[int], token: int) -> list[int]:
    return [i for i, found in enumerate(ids) if found == token]


def test_drawing_loss_is_the_plain_mean_square_of_velocities(pool, text):
    """Against one picture at a time, without the trick of several noise splits behind one prompt."""
    training = module(text)
    torch.nn.init.normal_(training.model.latent.output.weight, std=0.1)
    training.drop_text = 0.0
    batch = pick(pool, SIZES, 0, 0)
    fast, _ = training.draw_loss(batch, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    torch.rand(3, generator=generator)
    latent = training.tokens(batch["draw_latent"])
    noised, target = training._noised(latent, generator)
    losses = []
    for b in range(3):
        ids = batch["draw_ids"][b, 1 : batch["draw_length"][b] - 1].tolist()
        _, context = training.model.read_text(training.model.empty(1), [ids])
        for k, split in enumerate(noised):
            v = training.model.velocity(split.tokens[b : b + 1], split.t[b : b + 1], context)
            losses.append((v - target[b, k]).square().mean())
    assert torch.allclose(fast, torch.stack(losses).mean(), atol=1e-5)


def test_every_weight_learns(pool, text):
    training = module(text)
    torch.nn.init.normal_(training.model.latent.output.weight, std=0.1)
    batch, generator = examples(pool, text), torch.Generator().manual_seed(0)
    (
        training.draw_loss(batch, generator)[0]
        + training.edit_loss(batch, generator)[0]
        + training.dialogue_loss(batch)
    ).backward()
    idle = [n for n, p in training.model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    # softmax does not feel a constant added to all keys, so key biases have no slope worth the name
    assert not [n for n in idle if "k_proj" not in n]


@pytest.mark.parametrize(
    ("learns", "sizes"),
    [("understanding", BatchSizes(0, 0, 3)), ("answers", BatchSizes(0, 0, 3)), ("drawing", BatchSizes(3, 2, 0))],
)
def test_one_branch_learns_and_the_other_stays_to_the_last_bit(text, pool, tmp_path, monkeypatch, learns, sizes):
    monkeypatch.setattr("hb.train.teacher.pool_for", lambda *_, **__: pool)
    config, begun = tiny_config(text.vocab_size), module(text, seed=3).model
    save_model(begun, tmp_path / "begun", text)
    done = train_teacher(
        tmp_path / "run",
        config,
        Autoencoder(config.autoencoder),
        text,
        steps=4,
        sizes=sizes,
        start_from=tmp_path / "begun",
        settings=dict(learns=learns, lr=0.1),
        precision="f32",
        bar=False,
        accelerator="cpu",
    )
    old, new = load_model(tmp_path / "begun")[0].state_dict(), done.state_dict()
    ours = [k for k in old if not k.startswith("autoencoder") and "embed" not in k and "vit" not in k]
    moved = {k for k in ours if not torch.equal(old[k], new[k])}
    wanted = {k for k in ours if is_generation(k) == (learns == "drawing")}
    if learns == "answers":
        wanted = {k for k in wanted if is_answering(k, config.llm.num_hidden_layers)}
    assert not {k for k in ours if k not in wanted} & moved
    assert len(moved) > 0.9 * len(wanted)
    sheets = [Image.open(file).size for file in (tmp_path / "run").glob("sheet-000004.png")]
    assert sheets == (
        [(5 * 64, 2 * 64)] if learns == "drawing" else []
    )  # who does not learn to draw has nothing to show


def test_no_picture_reads_what_answering_learns(tiny):
    """No key or value knows of the last layer's own weights and of the head: drawings and edits stay to the last
    bit."""
    bagel, picture = tiny.bagel, torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    layers = bagel.config.llm.num_hidden_layers
    flat = (
        bagel.latent.output.weight.detach().clone()
    )  # an untrained model's last layer is zero, and would draw noise whatever it read
    make = lambda: (tiny.draw("two red stars", steps=3).latent, tiny.edit(picture, "remove the star", steps=2).latent)
    say = lambda: bagel.logits(bagel.read_text(bagel.empty(1), [tiny.text.encode("is there a star?")])[0])
    kept = {name: p.detach().clone() for name, p in bagel.named_parameters() if is_answering(name, layers)}
    try:
        torch.nn.init.normal_(bagel.latent.output.weight, 0, 0.2)
        pictures, said = make(), say()
        with torch.no_grad():
            for name in kept:
                bagel.get_parameter(name).mul_(1.5).add_(0.01)
        assert all(torch.equal(one, other) for one, other in zip(pictures, make()))
        assert not torch.allclose(said, say(), atol=1e-3)
    finally:
        bagel.load_state_dict(kept | {"llm2vae.weight": flat}, strict=False)


def test_orthogonalised_matrices_have_singular_values_near_one():
    stack = torch.randn(3, 24, 10, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(stack))
    assert values.min() > 0.6 and values.max() < 1.3
    u, _, vh = torch.linalg.svd(stack, full_matrices=False)
    assert (orthogonalize(stack) - u @ vh).abs().max() < 0.4
    assert torch.allclose(orthogonalize(stack.mT), orthogonalize(stack).mT, atol=1e-4)


def test_adamw_half_is_torchs():
    weights = [torch.nn.Parameter(torch.ones(4)) for _ in range(2)]
    ours = MuonAdamW([dict(params=[weights[0]], kind="adamw", lr=0.1, weight_decay=0.01)])
    theirs = torch.optim.AdamW([weights[1]], lr=0.1, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.01)
    for i in range(5):
        for w, o in zip(weights, (ours, theirs)):
            o.zero_grad()
            (w * torch.arange(1.0, 5.0) * (i - 2)).sum().backward()
            o.step()
    assert torch.allclose(*weights)


def test_every_parameter_has_exactly_one_optimiser(text):
    model = module(text).model
    groups = split_parameters(model, muon_lr=0.1, adamw_lr=0.1)
    listed = [id(p) for g in groups for p in g["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_schedule_warms_up_stays_and_ends_at_zero():
    factor = [warmup_constant_decay(i, total=1000, warmup=100, decay=0.3) for i in range(1001)]
    assert factor[0] == 0.01 and factor[99] == 1.0 == factor[700] and factor[1000] == 0.0
    assert all(a >= b for a, b in zip(factor[700:], factor[701:]))


def test_noise_of_a_step_depends_on_nothing_but_its_numbers():
    draw = lambda *key: torch.randn(4, generator=seeded_generator(*key))
    assert torch.equal(draw(1, 2, 3), draw(1, 2, 3))
    assert not torch.equal(draw(1, 2, 3), draw(1, 3, 2)) and not torch.equal(draw(1, 2), draw(2, 2))


def test_the_autoencoder_learns_and_keeps_its_latents_informative():
    torch.manual_seed(0)
    config = AutoencoderConfig(ch=8, ch_mult=(1, 1, 1, 1), num_res_blocks=1, z_channels=4, norm_groups=2)
    training = AutoencoderTraining(config, total=30, lr=0.02)
    optimizer = training.configure_optimizers()[0][0]
    pictures = random_pictures(8, 64, 0, 0)
    first = None
    for i in range(40):
        pixel, edge, divergence, _ = training.losses(
            pictures, torch.randn(8, 4, 8, 8, generator=seeded_generator(0, i))
        )
        first = pixel.item() if first is None else first
        optimizer.zero_grad()
        (pixel + edge).backward()
        for group in optimizer.param_groups:
            group["lr"] = 0.01
        optimizer.step()
    assert pixel.item() < 0.7 * first


def test_decoder_only_leaves_the_encoder_alone(tmp_path):
    from dataclasses import replace

    from hb.models.autoencoder import Autoencoder
    from hb.train.teacher import train_autoencoder

    config = tiny_config(600)
    before = Autoencoder(replace(config.autoencoder, scale_factor=0.7))
    old = {k: v.clone() for k, v in before.state_dict().items()}
    after = train_autoencoder(
        tmp_path,
        config,
        steps=2,
        batch=2,
        lr=0.01,
        start_from=before,
        decoder_only=True,
        bar=False,
        precision="f32",
        accelerator="cpu",
    )
    changed = {k.split(".")[0] for k, v in after.state_dict().items() if not torch.equal(v, old[k])}
    assert changed == {"decoder"} and after.config.scale_factor == 0.7
    assert Image.open(tmp_path / "sheet-000002.png").size == (8 * 64, 2 * 64)


SCRIPT = """
import sys, torch
sys.path.insert(0, {root!r})
torch.set_num_threads(1)
from tests.train.test_trainer import *
from hb.models.tokenizer import Text

def main():
    text = Text.load(TOKENIZER)
    encode = lambda p: torch.nn.functional.avg_pool2d(p, 8).repeat(1, 2, 1, 1)[:, :4]
    pool = make_pool(encode, text, side=64, prompts=12, scenes=10, bar=False)
    training = module(text)
    data = StepData(lambda step, rank: pick(pool, SIZES, 0, step, rank), {steps})
    callbacks = (Kill({kill}),) if {kill} else ()
    trainer = fit(training, data, {folder!r}, ema=0.9, save_every=2, bar=False, accelerator="cpu", callbacks=callbacks,
                  devices={devices}, strategy={strategy!r})
    torch.save({{k: v for k, v in training.state_dict().items()}}, {folder!r} + f"/end-{{trainer.global_rank}}")

class Kill(Callback):
    def __init__(self, at): self.at = at
    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.at:
            import os, signal; os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    main()
"""


def start(folder, *, kill=0, devices=1, strategy="auto", steps=8):
    folder.mkdir(exist_ok=True)
    root = str(Path(__file__).resolve().parents[2])
    script = folder / "run.py"
    script.write_text(
        SCRIPT.format(root=root, folder=str(folder), kill=kill, devices=devices, strategy=strategy, steps=steps)
    )
    return subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=500)


@pytest.mark.slow
def test_a_killed_process_resumes_to_the_same_weights(tmp_path):
    assert start(tmp_path / "straight").returncode == 0
    assert start(tmp_path / "cut", kill=5).returncode == -9
    assert start(tmp_path / "cut").returncode == 0
    a, b = (torch.load(tmp_path / run / "end-0", weights_only=True) for run in ("straight", "cut"))
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.slow
def test_two_processes_train_together_and_agree(tmp_path):
    done = start(tmp_path / "two", devices=2, strategy="ddp", steps=4)
    assert done.returncode == 0, done.stderr[-2000:]
    a, b = (torch.load(tmp_path / "two" / f"end-{rank}", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_run_writes_its_checkpoints_aside(text, pool, tmp_path, monkeypatch):
    rename, came = Path.replace, []
    monkeypatch.setattr(Path, "replace", lambda part, path: came.append(path.name) or rename(part, path))
    run(text, pool, tmp_path)
    assert came.count("last.ckpt") >= 4  # of 8 steps every second, and the end


def test_the_log_of_a_resumed_run_counts_each_step_once(text, pool, tmp_path):
    from hb.train.trainer import Log

    with pytest.raises(RuntimeError, match="power cut"):
        run(text, pool, tmp_path, (Trip(5), Log(tmp_path, every=1)))
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 5, "sec')  # the power went while this was written
    assert provenance(tmp_path, "hb train")["steps"] == 5
    run(text, pool, tmp_path, (Log(tmp_path, every=1),))
    import json

    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    steps = [r["step"] for r in rows]
    assert [s for s in steps if s < 8] == list(range(1, 8)) and [r["seconds"] for r in rows] == sorted(
        r["seconds"] for r in rows
    )


def test_a_pool_is_the_same_however_many_write_it(text):
    encode = lambda pictures: pictures[:, :, ::8, ::8]
    one, two = (make_pool(encode, text, side=64, prompts=1003, scenes=4, bar=False, workers=n) for n in (0, 2))
    assert all(torch.equal(getattr(one, f.name), getattr(two, f.name)) for f in fields(Pool))


def test_shares_of_tasks_are_as_asked_and_the_others_keep_their_proportions(text):
    assert mixed({}) == DRAW_MIX
    mix = mixed(dict(counting=0.5, rich=0.0))
    assert mix["counting"] == 0.5 and mix["rich"] == 0 and sum(mix.values()) == pytest.approx(1)
    assert mix["two"] / mix["position"] == pytest.approx(DRAW_MIX["two"] / DRAW_MIX["position"])
    assert mixed(dict(single=0.1, two=0.2, counting=0.7))["rich"] == 0
    pool = make_pool(
        lambda p: p[:, :, ::8, ::8], text, side=64, prompts=30, scenes=1, bar=False, mix=mixed(dict(counting=1.0))
    )
    prompts = [text.decode(ids[:n]) for ids, n in zip(pool.draw_ids, pool.draw_length)]
    assert all(len(r.wishes) > 1 and len(set(r.wishes)) == 1 for r in map(parse, prompts)), prompts


def test_a_trunk_begun_from_larger_tokens_says_the_same_of_a_flat_latent(text):
    """Four places of one value: each small token is told half of what the large one was, and answers what the large one
    did."""
    large = replace(tiny_config(text.vocab_size), latent_patch=2, latent_side=4)
    markers = (text.start, text.end, text.vision_start, text.vision_end)
    old, new = (Bagel(c, markers) for c in (large, replace(large, latent_patch=1, latent_side=8)))
    torch.nn.init.normal_(old.latent.output.weight)
    begin_from(new, old)
    values = torch.randn(1, 1, large.autoencoder.z_channels)
    flat = values.repeat(1, 1, 4)
    assert torch.allclose(
        new.latent.input(values) - new.latent.input.bias,
        (old.latent.input(flat) - old.latent.input.bias) / 2,
        atol=1e-5,
    )
    state = torch.randn(1, large.llm.hidden_size)
    assert torch.allclose(new.latent.output(state), old.latent.output(state).unflatten(-1, (4, -1)).mean(-2), atol=1e-5)
    kept = [n for n in old.state_dict() if not n.startswith(("vae2llm.weight", "llm2vae", "latent_pos_embed"))]
    assert all(torch.equal(new.state_dict()[n], old.state_dict()[n]) for n in kept)
