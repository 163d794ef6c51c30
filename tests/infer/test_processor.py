"""What people have becomes what the model takes, or a sentence."""

import numpy as np
import pytest
import torch
from PIL import Image

from hb.pictures import to_image, to_rgb


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
