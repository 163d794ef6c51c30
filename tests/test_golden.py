"""The public BAGEL's numbers on a tiny random model, reproduced through the public loading path (bagel.md)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hb.flow import released_grid
from hb.guidance import combine
from hb.model.checkpoint import load_model
from hb.model.sequence import may_attend
from hb.model.vision import patchify, table_rows
from hb.preprocess import resized

HERE = Path(__file__).parent / "golden"
CASES, NUMBERS = load_file(HERE / "cases.safetensors"), json.loads((HERE / "cases.json").read_text())
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def model():
    return load_model(HERE)[0]


def case(name):
    return {k.removeprefix(name + "/"): v for k, v in CASES.items() if k.startswith(name + "/")}


def close(ours, golden):
    assert ours.shape == golden.shape, f"shape {list(ours.shape)} instead of {list(golden.shape)}"
    worst = (ours.double() - golden.double()).abs().max().item()
    assert worst <= TOLERANCE, f"largest error {worst:.2e}"


def same_cache(context, golden):
    cache = context.to_dict()
    close(cache["keys"][:, 0], golden["keys"])
    close(cache["values"][:, 0], golden["values"])


def text_then(model, *names):
    """Read the texts of these cases one after another; the last one's hidden states and context."""
    context = model.empty(1)
    for name in names:
        hidden, context = model.read_text(context, [case(name)["ids"].tolist()])
    return hidden, context


@torch.no_grad()
@pytest.mark.parametrize("names", [("text_prefill",), ("text_prefill", "text_append")])
def test_text_is_read_as_the_public_model_reads_it(model, names):
    golden, expected = case(names[-1]), NUMBERS[names[-1]]
    hidden, context = text_then(model, *names)
    close(hidden[0], golden["hidden"])
    close(model.logits(hidden)[0], golden["logits"])
    same_cache(context, golden)
    assert (context.length, int(context.position)) == (expected["kv_len"], expected["rope_next"])


@torch.no_grad()
def test_greedy_decoding_feeds_the_same_tokens(model):
    golden = case("text_decode")
    _, context = text_then(model, "text_prefill", "text_append")
    assert int(context.position) == NUMBERS["text_decode"]["first_position"]
    fed = golden["fed_tokens"].flatten()
    token = fed[:1]
    for i in range(len(fed)):
        assert token.item() == fed[i].item()
        hidden, context = model.read_ids(context, token[None])
        logits = model.logits(hidden)[0, -1]
        close(logits, golden["step_logits"].reshape(len(fed), -1)[i])
        token = logits.argmax(-1, keepdim=True)


@torch.no_grad()
def test_a_picture_is_seen_as_the_public_model_sees_it(model):
    golden, expected = case("vit_prefill"), NUMBERS["vit_prefill"]
    picture = golden["image"][None]
    patch = model.config.vision.patch_size
    rows, columns = picture.shape[-2] // patch, picture.shape[-1] // patch
    patches = patchify(picture, patch)
    close(patches[0], golden["vit_tokens"])
    places = table_rows(rows, columns, model.config.vision.side)
    assert places.tolist() == golden["vit_position_ids"].tolist()
    tower = model.vit_model(patches, places)
    close(tower[0], golden["vit_out"])
    close(model.connector(tower)[0], golden["connector_out"])
    _, context = model.read_text(model.empty(1), [golden["head_ids"].tolist()])
    hidden, context = model.see(context, picture)
    close(hidden[0], golden["hidden"])
    same_cache(context, golden)
    assert (context.length, int(context.position)) == (expected["kv_len"], expected["rope_next"])


@torch.no_grad()
@pytest.mark.parametrize("t", ["1.0", "0.7", "0.2"])
def test_velocities_and_all_guidance_forms(model, t):
    golden, velocities = case("t2i"), case(f"t2i/t{t}")
    height, width = NUMBERS["t2i"]["size"]
    grid = model.latent_grid(height, width)
    _, full = model.read_text(model.empty(1), [golden["prompt_ids"].tolist()])
    empty = model.empty(1)
    assert int(full.position) == golden["rope_of_query"].flatten()[0].item()
    assert int(empty.position) == golden["rope_of_text_dropped"].flatten()[0].item()
    assert table_rows(*grid, model.config.latent_side).tolist() == golden["latent_position_ids"].tolist()
    x, time = golden["x_t"][None], torch.tensor([float(t)])
    v = model.velocity(x, time, full, grid)
    no_text = model.velocity(x, time, empty, grid)
    close(v[0], velocities["v_cond"])
    close(no_text[0], velocities["v_text_dropped"])
    close(v[0], velocities["v_img_dropped"])
    guided = [name for name in velocities if name.startswith("v_guided.")]
    assert guided
    for name in guided:
        text, image, renorm, least = parse_guided(name)
        ours = combine(v, no_text, v, text_scale=text, image_scale=image, renorm=renorm, renorm_min=least)
        close(ours[0], velocities[name])


def parse_guided(name):
    """v_guided.text4.0.img1.5.global.min0.0 -> (4.0, 1.5, "global", 0.0)"""
    rest = name.removeprefix("v_guided.text")
    text, rest = rest.split(".img")
    for renorm in ("text_channel", "channel", "global"):
        if f".{renorm}.min" in rest:
            image, least = rest.split(f".{renorm}.min")
            return float(text), float(image), renorm, float(least)
    raise AssertionError(f"cannot read the case {name}")


@torch.no_grad()
def test_the_autoencoder_is_fluxs(model):
    golden = case("vae")
    batched = golden["encode_in"] if golden["encode_in"].ndim == 4 else golden["encode_in"][None]
    mean, logvar = model.autoencoder.moments(batched)
    close(mean.reshape(golden["vae_mean"].shape), golden["vae_mean"])
    close(logvar.reshape(golden["vae_logvar"].shape), golden["vae_logvar"])
    config = model.config.autoencoder
    sampled = mean + (0.5 * logvar).exp() * golden["vae_eps"].reshape(mean.shape)
    close((config.scale_factor * (sampled - config.shift_factor)).reshape(golden["vae_latent"].shape), golden["vae_latent"])
    decode_in = golden["decode_in"] if golden["decode_in"].ndim == 4 else golden["decode_in"][None]
    close(model.autoencoder.decode(decode_in).reshape(golden["decode_out"].shape), golden["decode_out"])


def test_attention_rule():
    lens, modes = NUMBERS["mask"]["lens"], NUMBERS["mask"]["modes"]
    assert (may_attend(lens, modes).int() == CASES["mask/may_attend"].int()).all()


def test_step_and_guided_step_counts():
    for name, counts in NUMBERS["schedule"]["counts"].items():
        number, shift = name.removeprefix("num").split("_shift")
        grid = released_grid(int(number), float(shift))
        assert len(grid) - 1 == counts["steps"]
        for low in ("0.0", "0.4"):
            assert int((grid[:-1] > float(low)).sum()) == counts[f"guided_steps_above_{low}"]


def test_resize_rules():
    for (most, least, stride), (w, h), wanted in NUMBERS["resize"]["table_max_min_stride__in_wh__out_wh"]:
        assert list(resized(w, h, most=most, least=least, stride=stride)) == wanted
