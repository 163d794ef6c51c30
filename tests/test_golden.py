"""The public BAGEL's numbers on a tiny random model, all of them, reproduced through the public loading path
(bagel.md)."""

import json
from collections.abc import Mapping
from pathlib import Path
from shutil import copytree

import pytest
import torch
from safetensors.torch import load_file

from hb.flow import released_grid
from hb.guidance import combine
from hb.models.checkpoint import load_model
from hb.models.sequence import may_attend
from hb.models.vision import patchify, sincos_table, table_rows
from hb.pictures import resized

HERE = Path(__file__).parent / "golden"
TOLERANCE = 1e-4


class Golden(Mapping):
    """The values whose names begin with `prefix`, and a memory of which were looked at: the last test asks for it."""

    looked_at: set[str] = set()

    def __init__(self, values: dict, prefix: str = ""):
        self.kept, self.prefix = values, prefix

    def __getitem__(self, name):
        self.looked_at.add(self.prefix + name)
        return self.kept[self.prefix + name]

    def __iter__(self):
        return (name.removeprefix(self.prefix) for name in self.kept if name.startswith(self.prefix))

    def __len__(self):
        return len(list(iter(self)))


TENSORS = load_file(HERE / "cases.safetensors")
NUMBERS = Golden(json.loads((HERE / "cases.json").read_text()))


@pytest.fixture(scope="module")
def model():
    return load_model(HERE)[0]


def case(name):
    return Golden(TENSORS, name + "/")


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
    assert (golden["rope_of_query"] == int(full.position)).all()
    assert (golden["rope_of_text_dropped"] == int(empty.position)).all()
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
    close(
        (config.scale_factor * (sampled - config.shift_factor)).reshape(golden["vae_latent"].shape),
        golden["vae_latent"],
    )
    decode_in = golden["decode_in"] if golden["decode_in"].ndim == 4 else golden["decode_in"][None]
    close(model.autoencoder.decode(decode_in).reshape(golden["decode_out"].shape), golden["decode_out"])


def test_attention_rule():
    lens, modes = NUMBERS["mask"]["lens"], NUMBERS["mask"]["modes"]
    assert (may_attend(lens, modes).int() == case("mask")["may_attend"].int()).all()


@torch.no_grad()
def test_times_are_embedded_as_the_public_model_embeds_them(model):
    golden = case("small")
    close(model.latent.time.sinusoid(golden["time_in"]), golden["time_sinusoid"])
    close(model.latent.time(golden["time_in"]), golden["time_out"])


@pytest.mark.parametrize("name", ["latent_pos_embed", "vit_pos_embed"])
def test_a_table_of_places_is_the_files_and_the_one_we_would_make(model, name):
    golden = case("small")[name]
    close(getattr(model, name).pos_embed, golden)
    made = sincos_table(model.config.latent_side, golden.shape[1])
    close(made.bfloat16().float(), golden)  # the released file holds it in bfloat16


def test_a_patch_is_read_row_by_row_with_colors_innermost(model):
    golden = case("small")
    close(patchify(golden["patchify_in"][None], model.config.vision.patch_size)[0], golden["patchify_out"])


@pytest.mark.parametrize(("name", "rows", "columns", "side"), [("3x5_of_8", 3, 5, 8), ("6x2_of_70", 6, 2, 70)])
def test_a_small_picture_takes_the_corner_of_the_table_or_is_stretched_over_it(name, rows, columns, side):
    golden = case("small")
    assert table_rows(rows, columns, side).tolist() == golden[f"ids_extrapolate_{name}"].tolist()
    assert table_rows(rows, columns, side, stretched=True).tolist() == golden[f"ids_interpolate_{name}"].tolist()


def test_a_model_that_asks_for_stretched_places_has_them_in_its_tower_and_both_tables(model, tmp_path):
    folder = copytree(HERE, tmp_path / "stretched")
    settings = json.loads((folder / "bagel_config.json").read_text())
    (folder / "bagel_config.json").write_text(json.dumps(settings | {"interpolate_pos": True}))
    stretched = load_model(folder)[0]
    patches, (rows, columns), side = (
        torch.randn(1, 6, 3 * model.config.vision.patch_size**2),
        (2, 3),
        model.config.vision.side,
    )
    spread = table_rows(rows, columns, side, stretched=True)
    features = stretched.connector(stretched.vit_model(patches, spread)) + stretched.vit_pos_embed.pos_embed[spread]
    close(stretched.embed_patches(patches, rows, columns), features)
    assert not torch.allclose(model.embed_patches(patches, rows, columns), features, atol=1e-3)
    latent, t, side = torch.randn(1, 6, model.config.latent_width), torch.zeros(1), model.config.latent_side
    moved = stretched.embed_latent(latent, t, rows, columns) - model.embed_latent(latent, t, rows, columns)
    table = model.latent_pos_embed.pos_embed
    close(moved[0], table[table_rows(rows, columns, side, stretched=True)] - table[table_rows(rows, columns, side)])
    stretched.config.save(tmp_path / "again")
    assert type(model.config).load(tmp_path / "again").interpolate_pos  # saved and read back


def test_grids_and_step_and_guided_step_counts():
    golden, listed = case("schedule"), NUMBERS["schedule"]["counts"]
    assert golden.keys() == listed.keys()
    for name, counts in listed.items():
        number, shift = name.removeprefix("num").split("_shift")
        grid = released_grid(int(number), float(shift))
        close(grid, golden[name])
        assert len(grid) - 1 == counts["steps"]
        for low in ("0.0", "0.4"):
            assert int((grid[:-1] > float(low)).sum()) == counts[f"guided_steps_above_{low}"]


def test_resize_rules():
    for (most, least, stride), (w, h), wanted in NUMBERS["resize"]["table_max_min_stride__in_wh__out_wh"]:
        assert list(resized(w, h, most=most, least=least, stride=stride)) == wanted


def test_nothing_in_the_golden_files_goes_unread(request):
    """Stands last: what was added to the files and to no test above is named here."""
    asked_for = {item.originalname for item in request.session.items if item.path == request.path}
    if request.config.option.keyword or {name for name in globals() if name.startswith("test_")} - asked_for:
        pytest.skip("only some of this file's tests were asked for")
    unread = (TENSORS.keys() | NUMBERS.keys()) - Golden.looked_at
    assert not unread, f"no test reads {', '.join(sorted(unread))}"
