"""Two ways into the model, one set of numbers; and what each kind of token may touch."""

import pytest
import torch

from hb.models.attention import attend, training_mask
from hb.models.bagel import Bagel
from hb.models.config import AutoencoderConfig, BagelConfig, DecoderConfig, VisionConfig
from hb.models.initialize import initialize
from hb.models.kv_cache import stack
from hb.models.names import is_generation
from hb.models.sequence import ImageSplit, TextSplit, may_attend, positions
from hb.models.vision import patchify, unpatchify

CONFIG = BagelConfig(
    llm=DecoderConfig(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
                      intermediate_size=48, vocab_size=40, rope_theta=1e4),
    vision=VisionConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, patch_size=8,
                        image_size=32),
    autoencoder=AutoencoderConfig(ch=8, ch_mult=(1, 1, 1), num_res_blocks=1, z_channels=4, norm_groups=2),
    latent_side=4, picture_side=32,
)  # fmt: skip
MARKERS = (1, 2, 3, 4)


@pytest.fixture(scope="module")
def model():
    model = Bagel(CONFIG, MARKERS)
    initialize(model, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # zero output layers would hide every mistake before them
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=generator) * 0.1)
    return model.double().eval()


@pytest.fixture
def scene(model):
    """A batch of two: pictures, their latents, two texts of unlike length, noisy tokens and times."""
    generator = torch.Generator().manual_seed(2)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    texts = [[10, 11, 12, 13], [20, 21]]
    return dict(
        picture=draw(2, 3, 32, 32).clamp(-1, 1),
        latent=draw(2, 16, 16),
        x=draw(2, 16, 16),
        texts=texts,
        t=torch.tensor([0.8, 0.3], dtype=torch.float64),
    )


def text_split(texts):
    rows = [[MARKERS[0], *t, MARKERS[1]] for t in texts]
    longest = max(map(len, rows))
    ids = torch.tensor([r + [MARKERS[1]] * (longest - len(r)) for r in rows])
    return TextSplit(ids, torch.tensor([len(r) for r in rows]))


def whole(model, scene, keep=(True, True), text=None):
    """Edit sequence in one pass: latent, view, text, noise. Velocities."""
    keep = torch.tensor(keep)
    patches = patchify(scene["picture"], 8)
    noise = ImageSplit("noise", scene["x"], torch.ones(2, dtype=torch.bool), scene["t"])
    splits = [
        ImageSplit("vae", scene["latent"], keep),
        ImageSplit("vit", patches, keep),
        text or text_split(scene["texts"]),
        noise,
    ]
    return model(splits)


def grown(model, scene):
    context = model.read_latent(model.empty(len(scene["texts"])), scene["latent"])
    _, context = model.see(context, scene["picture"])
    hidden, context = model.read_text(context, scene["texts"])
    return hidden, context


@torch.no_grad()
def test_reading_step_by_step_is_the_whole_sequence(model, scene):
    out = whole(model, scene)
    hidden, context = grown(model, scene)
    velocity = model.velocity(scene["x"], scene["t"], context)
    assert torch.allclose(velocity, out[3], atol=1e-9)
    assert torch.allclose(hidden[0], out[2][0], atol=1e-9)
    assert torch.allclose(hidden[1, :4], out[2][1, :4], atol=1e-9)


@torch.no_grad()
def test_a_row_does_not_depend_on_its_batch(model, scene):
    _, both = grown(model, scene)
    for row in range(2):
        alone = {k: v[row : row + 1] for k, v in scene.items()}
        _, context = grown(model, alone)
        one = model.velocity(alone["x"], alone["t"], context)
        assert torch.allclose(one, model.velocity(scene["x"], scene["t"], both)[row : row + 1], atol=1e-9)


@torch.no_grad()
def test_stacked_branches_equal_each_branch_alone(model, scene):
    _, full = grown(model, scene)
    empty = model.empty(2)
    together = model.velocity(scene["x"].repeat(2, 1, 1), scene["t"].repeat(2), stack([full, empty]))
    assert torch.allclose(together[:2], model.velocity(scene["x"], scene["t"], full), atol=1e-9)
    assert torch.allclose(together[2:], model.velocity(scene["x"], scene["t"], empty), atol=1e-9)


@torch.no_grad()
def test_dropped_pictures_leave_only_their_positions(model, scene):
    """In training the image-dropped prompt starts at 2, in the sampler at 0: relative positions make them equal,
    up to the float32 of the rotary angles."""
    dropped = whole(model, scene, keep=(False, False))[3]
    _, context = model.read_text(model.empty(2), scene["texts"])
    assert torch.allclose(dropped, model.velocity(scene["x"], scene["t"], context), atol=1e-5)


@torch.no_grad()
def test_a_dropped_text_is_as_if_never_said(model, scene):
    text = text_split(scene["texts"])
    silent = TextSplit(text.ids, torch.zeros_like(text.length))
    context = model.read_latent(model.empty(2), scene["latent"])
    _, context = model.see(context, scene["picture"])
    assert torch.allclose(
        whole(model, scene, text=silent)[3], model.velocity(scene["x"], scene["t"], context), atol=1e-9
    )


@torch.no_grad()
def test_noise_splits_do_not_see_each_other(model, scene):
    text, keep = text_split(scene["texts"]), torch.ones(2, dtype=torch.bool)
    one = ImageSplit("noise", scene["x"], keep, scene["t"])
    other = ImageSplit("noise", scene["x"] * 3, keep, scene["t"] * 0.5)
    alone = model([text, one])[1]
    assert torch.allclose(model([text, one, other])[1], alone, atol=1e-9)
    assert torch.allclose(model([text, other, one])[2], alone, atol=1e-9)


@torch.no_grad()
def test_decoding_token_by_token_is_reading_at_once(model, scene):
    _, context = grown(model, scene)
    ids = torch.tensor([[1, 30, 31, 32], [1, 33, 34, 35]])
    at_once, _ = model.read_ids(context, ids)
    for i in range(4):
        hidden, context = model.read_ids(context, ids[:, i : i + 1])
        assert torch.allclose(hidden[:, 0], at_once[:, i], atol=1e-9)


def test_gradients_flow_through_a_cached_context(model, scene):
    latent = scene["latent"].clone().requires_grad_()
    context = model.read_latent(model.empty(2), latent)
    model.velocity(scene["x"], scene["t"], context).square().sum().backward()
    assert latent.grad.abs().sum() > 0


def test_each_kind_of_token_uses_its_own_expert(model, scene):
    """A sampler step on an empty context runs understanding weights on the two markers alone."""
    model.zero_grad()
    hidden, _ = model.read_text(model.empty(2), scene["texts"])
    hidden.square().sum().backward()
    touched = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert touched and not any(is_generation(n) for n in touched)
    model.zero_grad()
    x = scene["x"].clone()
    model.velocity(x, scene["t"], model.empty(2)).square().sum().backward()
    used = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any(n.startswith("mot.generation.layers.0.mlp") for n in used)
    assert "mot.understanding.layers.0.k_proj.weight" in used
    model.zero_grad()


def test_positions_of_an_edit():
    text = TextSplit(torch.zeros(1, 3, dtype=torch.long), torch.tensor([3]))
    keep = torch.ones(1, dtype=torch.bool)
    image = lambda kind: ImageSplit(kind, torch.zeros(1, 1, 4), keep)
    got = positions([image("vae"), image("vit"), text, image("noise"), image("vae"), image("vit")])
    assert got[0].tolist() == [0] * 3 + [1] * 3 + [2, 3, 4] + [5] * 3 + [5] * 3 + [6] * 3


def test_the_attention_rule_names_unknown_modes():
    with pytest.raises(ValueError, match="casual"):
        may_attend([2], ["casual"])


def test_patches_come_back_as_pictures():
    pictures = torch.randn(2, 3, 24, 16)
    assert torch.equal(unpatchify(patchify(pictures, 8), 8, 3, 2), pictures)
    assert patchify(pictures, 8)[0, 1, :3].tolist() == pictures[0, :, 0, 8].tolist()  # row, column, channel


def test_text_splits_hide_their_padding(model, scene):
    """What stands in the padding changes nothing."""
    text = text_split(scene["texts"])
    other = TextSplit(torch.where(text.present, text.ids, 7), text.length)
    with torch.no_grad():
        assert torch.allclose(whole(model, scene)[3], whole(model, scene, text=other)[3], atol=1e-12)


def test_attention_for_training_is_the_fused_one():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, 7, 8, generator=generator, dtype=torch.float64) for heads in (4, 2, 2))
    mask = torch.rand(2, 1, 7, 7, generator=generator) > 0.4
    mask |= torch.eye(7, dtype=torch.bool)
    float_mask = training_mask(mask, q)
    assert float_mask.dtype == torch.float64  # gradients are on: this is the training path
    assert torch.allclose(attend(q, k, v, float_mask), attend(q, k, v, mask), atol=1e-12)
    with torch.no_grad():
        assert training_mask(mask, q) is mask


def test_a_fresh_model_does_not_drown_its_words():
    """At the start, what the layers add to a word is of the word's own size at most."""
    fresh, trace = Bagel(CONFIG, MARKERS), []
    initialize(fresh, torch.Generator().manual_seed(0))
    ids = torch.arange(5, 35)[None]
    fresh.read_ids(fresh.empty(1), ids, hidden_states=trace)
    size = [float(state.square().mean().sqrt()) for state in trace]
    assert 0.8 < size[0] < 1.2 and size[-1] < 2 * size[0]


def test_a_fresh_tower_knows_its_neighbours():
    fresh = Bagel(CONFIG, MARKERS)
    initialize(fresh, torch.Generator().manual_seed(0))
    places = fresh.vit_model.vision_model.embeddings.position_embedding.weight.detach()
    here, beside, below, far = places[0], places[1], places[CONFIG.vision.side], places[-1]
    assert (here - beside).norm() == pytest.approx(float((here - below).norm()), rel=1e-5)
    assert (here - beside).norm() < 0.8 * (here - far).norm()
