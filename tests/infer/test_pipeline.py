"""Drawing, editing, asking: what is counted is what was run, a picture does not depend on its batch, bad input
talks."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

import hb.infer.pipeline
from hb.guidance import Guidance
from hb.infer.image import Contexts, Meter, guided_velocity, metered
from hb.infer.text import decode
from hb.pictures import to_image, to_rgb


@pytest.fixture
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def test_a_hundred_evaluations_for_a_drawing_and_132_for_an_edit(tiny, picture):
    calls = []
    handle = tiny.bagel.llm2vae.register_forward_hook(lambda m, i, o: calls.append(len(o)))
    try:
        drawn = tiny.draw("a red circle")
        assert drawn.nfe == 100 == sum(calls) and drawn.steps == 50
        calls.clear()
        edited = tiny.edit(picture, "make the circle green")
        assert edited.nfe == 132 == sum(calls)
    finally:
        handle.remove()


def test_the_published_grid_costs_98_and_131(tiny, picture):
    assert tiny.draw("a circle", released_steps=True).nfe == 98
    assert tiny.edit(picture, "remove the star", released_steps=True).nfe == 131
    interval = dataclasses.replace(tiny.sampling, draw=Guidance(4.0, interval=(0.4, 1.0)))
    assert tiny.draw("a circle", released_steps=True, sampling=interval).nfe == 90
    always = dataclasses.replace(tiny.sampling, edit=Guidance(4.0, 2.0, renorm="text_channel"))
    assert tiny.edit(picture, "remove the star", released_steps=True, sampling=always).nfe == 147


def test_a_call_that_is_not_counted_is_noticed(tiny, monkeypatch):
    """Break the meter on purpose: the record must not be written."""

    def forgetful(model, meter):
        count = metered(model, meter)

        def velocity(x, t, context, grid=None):
            if float(t[0]) < 0.1:
                return model.velocity(x, t, context, grid)
            return count(x, t, context, grid)

        return velocity

    monkeypatch.setattr("hb.infer.image.metered", forgetful)
    with pytest.raises(AssertionError, match="metered"):
        tiny.draw("a circle")


def test_a_picture_depends_on_its_seed_and_not_on_its_batch(tiny):
    both = tiny.draw(["a circle", "a large blue star"], steps=3, seed=[5, 9])
    alone = tiny.draw("a large blue star", steps=3, seed=9)
    assert torch.allclose(both.pixels[1], alone.pixels[0], atol=1e-5)
    assert not torch.allclose(both.pixels[0], tiny.draw("a circle", steps=3, seed=6).pixels[0], atol=1e-5)


def test_an_edit_depends_on_its_seed_and_not_on_its_batch(tiny, picture):
    other = picture.rotate(90)
    both = tiny.edit([picture, other], ["remove the star", "make the circle red"], steps=2, seed=[1, 2])
    alone = tiny.edit(other, "make the circle red", steps=2, seed=2)
    assert torch.allclose(both.pixels[1], alone.pixels[0], atol=1e-5)


def test_branches_together_are_branches_alone(tiny):
    """Guided velocity in one call equals the formula over three separate calls."""
    bagel = tiny.bagel
    _, full = bagel.read_text(bagel.empty(1), [tiny.text.encode("a circle")])
    _, no_image = bagel.read_text(bagel.empty(1), [tiny.text.encode("a star")])
    contexts = Contexts(full, bagel.empty(1), no_image)
    guidance = Guidance(3.0, 1.5, renorm_min=1.0)
    x, t = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor(0.7)
    with torch.no_grad():
        together = guided_velocity(metered(bagel, Meter()), contexts, guidance)(x, t)
        v, vt, vi = (bagel.velocity(x, t[None], c) for c in (full, bagel.empty(1), no_image))
    g = vt + 3.0 * (v - vt)
    assert torch.allclose(together, vi + 1.5 * (g - vi), atol=1e-5)


def test_asking_one_by_one_gives_the_same_words(tiny, picture):
    other = picture.rotate(90)
    both = tiny.ask([picture, other], ["what color is the star?", "describe the picture"], max_tokens=6)
    for i, (p, q) in enumerate(((picture, "what color is the star?"), (other, "describe the picture"))):
        assert tiny.ask(p, q, max_tokens=6).text == both.texts[i]


def test_decoding_stops_row_by_row(tiny):
    """The end marker ends its own row only."""
    bagel = tiny.bagel
    _, context = bagel.read_text(bagel.empty(2), [tiny.text.encode("a circle"), tiny.text.encode("two stars")])
    done = decode(bagel, context, max_tokens=5)
    for row in range(2):
        alone = decode(bagel, context.select(torch.tensor([row])), max_tokens=5)
        assert done.tokens[row] == alone.tokens[0]
    assert done.passes <= 5


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda m, p: m.draw(""), "empty prompt"),
        (lambda m, p: m.draw([]), "give a prompt"),
        (lambda m, p: m.draw("a circle", nfe=7), "nearest are"),
        (lambda m, p: m.draw("a circle", nfe=6, steps=3), "not both"),
        (lambda m, p: m.draw("a circle", size=(60, 64)), "multiples of"),
        (lambda m, p: m.draw(["a circle", "a star"], seed=[1]), "2 pictures need 2 seeds"),
        (lambda m, p: m.edit("picture.png", "remove the star"), "PIL images"),
        (lambda m, p: m.edit([p, p], ["a", "b", "c"]), "2 pictures but 3 instructions"),
        (lambda m, p: m.edit(torch.zeros(3, 32, 32), "remove the star"), "64x64"),
        (lambda m, p: m.edit(torch.zeros(4, 64, 64), "remove the star"), r"\[B, 3, H, W\]"),
        (lambda m, p: m.ask(torch.full((3, 64, 64), 200.0), "what?"), "divide bytes by 255"),
        (lambda m, p: m.ask(p, "  "), "empty question"),
        (lambda m, p: m.ask(p, "what?", temperature=-1.0), "negative"),
    ],
)
def test_bad_input_gets_a_sentence(tiny, picture, call, words):
    with pytest.raises(ValueError, match=words):
        call(tiny, picture)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "L", "P", "1", "CMYK", "I;16"])
def test_pictures_of_any_mode_are_read(tiny, picture, mode):
    gray = picture.convert("L")
    given = Image.fromarray(np.asarray(gray, dtype=np.uint16) * 257) if mode == "I;16" else picture.convert(mode)
    assert isinstance(tiny.ask(given, "what?", max_tokens=2).text, str)


def test_transparency_becomes_white():
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert to_rgb(clear).getpixel((0, 0)) == (255, 255, 255)


def test_pictures_of_another_size_are_resized(tiny):
    assert tiny.edit(Image.new("RGB", (100, 80), "white"), "remove the star", steps=1).pixels.shape[-2:] == (64, 64)


def test_truncation_to_bytes_is_the_published_one():
    assert to_image(torch.full((3, 1, 1), 0.999), truncate=True).getpixel((0, 0)) == (254, 254, 254)
    assert to_image(torch.full((3, 1, 1), 2.0), truncate=True).getpixel((0, 0)) == (255, 255, 255)


def test_records_are_ready_for_json_and_for_jupyter(tiny, picture):
    import json

    drawn = tiny.draw(["a circle"] * 3, steps=1, seed=7)
    kept = json.loads(json.dumps(drawn.to_dict()))
    assert kept["nfe"] == drawn.nfe and kept["seeds"] == [7, 8, 9]
    again = lambda seed: tiny.ask(picture, "what is there?", temperature=1.0, max_tokens=12, seed=seed)
    kept = json.loads(json.dumps(again(7).to_dict()))
    assert kept["seed"] == 7 and again(kept["seed"]).texts == tuple(kept["texts"]) != again(8).texts
    assert drawn._repr_png_()[:4] == b"\x89PNG" and len(drawn.images) == 3
    assert set(drawn.seconds) == {"prefill", "denoise", "decode picture"}


def test_sampling_settings_survive_the_folder(tiny, tmp_path):
    ours = hb.infer.pipeline.Sampling(draw=Guidance(3.0), steps=20, shift=2.0)
    ours.save(tmp_path)
    assert hb.infer.pipeline.Sampling.load(tmp_path) == ours
