"""Each loss of the teacher is what it says, and only what is to be learned changes."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from hb.data.batches import BatchSizes, pick
from hb.data.pool import make_pool
from hb.models.autoencoder import Autoencoder
from hb.models.bagel import Bagel
from hb.models.checkpoint import load_model, save_model
from hb.models.names import is_generation
from hb.train.teacher import TeacherSettings, answer_weights, answering_modules, begin_from, train_teacher
from tests.conftest import tiny_config
from tests.train.conftest import SIZES, examples, module


def test_an_answer_weighs_as_the_root_of_its_length():
    wanted = torch.tensor([[0, 1, 1, 0, 1, 1, 1, 1, 0, 1], [1, 1, 1, 1, 1, 1, 1, 1, 1, 0]]).bool()
    h, third = 0.5**0.5, 1 / 3
    want = [[0, h, h, 0, 0.5, 0.5, 0.5, 0.5, 0, 1], [third] * 9 + [0]]
    assert torch.allclose(answer_weights(wanted), torch.tensor(want))


def test_drawing_loss_is_the_plain_mean_square_of_velocities(pool, text):
    """Against one picture at a time, without the trick of several noise splits behind one prompt."""
    training = module(text)
    torch.nn.init.normal_(training.model.latent.output.weight, std=0.1)
    training.settings = replace(training.settings, drop_text=0.0)
    batch = pick(pool, SIZES, 0, 0)
    fast, _ = training.draw_loss(batch, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    torch.rand(3, generator=generator)
    latent, grid = training._latent(batch["draw_latent"])
    noised, target = training._noised(latent, grid, generator)
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
        settings=TeacherSettings(learns=learns, lr=0.1),
        precision="f32",
        bar=False,
        accelerator="cpu",
    )
    old, new = load_model(tmp_path / "begun")[0].state_dict(), done.state_dict()
    ours = [k for k in old if not k.startswith("autoencoder") and "embed" not in k and "vit" not in k]
    moved = {k for k in ours if not torch.equal(old[k], new[k])}
    wanted = {k for k in ours if is_generation(k) == (learns == "drawing")}
    if learns == "answers":
        answering = {id(p) for part in answering_modules(done) for p in part.parameters()}
        wanted = {k for k in wanted if id(done.get_parameter(k)) in answering}
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
    flat = (
        bagel.latent.output.weight.detach().clone()
    )  # an untrained model's last layer is zero, and would draw noise whatever it read
    make = lambda: (tiny.draw("two red stars", steps=3).latent, tiny.edit(picture, "remove the star", steps=2).latent)
    say = lambda: bagel.logits(bagel.read_text(bagel.empty(1), [tiny.text.encode("is there a star?")])[0])
    answering = {id(p) for part in answering_modules(bagel) for p in part.parameters()}
    kept = {name: p.detach().clone() for name, p in bagel.named_parameters() if id(p) in answering}
    try:
        torch.nn.init.normal_(bagel.latent.output.weight, 0, 0.2)
        pictures, said = make(), say()
        with torch.no_grad():
            for name in kept:
                bagel.get_parameter(name).mul_(1.5).add_(0.01)
        assert all(torch.equal(one, other) for one, other in zip(pictures, make()))
        assert not torch.allclose(said, say(), atol=1e-3)
    finally:
        bagel.load_state_dict(kept | {"latent.output.weight": flat}, strict=False)


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
    into = [(model.latent.input(x) - model.latent.input.bias) for model, x in ((new, values), (old, flat))]
    assert torch.allclose(into[0], into[1] / 2, atol=1e-5)
    state = torch.randn(1, large.llm.hidden_size)
    assert torch.allclose(new.latent.output(state), old.latent.output(state).unflatten(-1, (4, -1)).mean(-2), atol=1e-5)
    kept = [
        n for n in old.state_dict() if not n.startswith(("latent.input.weight", "latent.output", "latent_pos_embed"))
    ]
    assert all(torch.equal(new.state_dict()[n], old.state_dict()[n]) for n in kept)


def test_pictures_that_are_not_square_train_as_they_are_sampled(text):
    """Losses of wide pictures against `velocity` with their grid; half as high, they are no square of tokens."""
    training = module(text)
    torch.nn.init.normal_(training.model.latent.output.weight, std=0.1)
    training.settings = replace(training.settings, drop_text=0.0)
    wide = make_pool(
        lambda p: torch.nn.functional.avg_pool2d(p, 8).repeat(1, 2, 1, 1)[:, :4, :4],
        text, side=64, prompts=3, scenes=3, bar=False,
    )  # fmt: skip
    wide = replace(wide, scene_picture=wide.scene_picture[:, :32])
    batch = pick(wide, SIZES, 0, 0)
    loss, _ = training.draw_loss(batch, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    torch.rand(3, generator=generator)
    latent, grid = training._latent(batch["draw_latent"])
    assert grid == (2, 4) and latent.size(2) == 8
    noised, target = training._noised(latent, grid, generator)
    ids = batch["draw_ids"][0, 1 : batch["draw_length"][0] - 1].tolist()
    _, context = training.model.read_text(training.model.empty(1), [ids])
    full = training.model([training._text(batch["draw_ids"], batch["draw_length"]), *noised])[1]
    alone = training.model.velocity(noised[0].tokens[:1], noised[0].t[:1], context, grid)
    assert torch.allclose(full[:1], alone, atol=1e-5) and loss.isfinite()
    assert training.edit_loss(batch, generator)[0].isfinite()
