"""Pictures as files and programs have them: every mode, EXIF, bytes that survive, sizes of their own."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from hb.infer.processor import Processor
from hb.models.config import BagelConfig
from hb.pictures import to_image, to_rgb, to_tensor

GRAY = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
GRAY[0, :2] = 0, 255


def deep(mode: str) -> Image.Image:
    """GRAY in more than 8 bits."""
    if mode == "I;16":
        return Image.fromarray(GRAY.astype(np.uint16) * 257)
    if mode == "I":
        return Image.fromarray(GRAY.astype(np.int32) * 257)
    if mode == "I, bytes":
        return Image.fromarray(GRAY.astype(np.int32))
    if mode == "F":
        return Image.fromarray(GRAY.astype(np.float32) / 255)
    if mode == "F, bytes":
        return Image.fromarray(GRAY.astype(np.float32))
    file = io.BytesIO()
    Image.fromarray(GRAY.astype(np.uint16) * 257).save(file, "png")
    return Image.open(file)


@pytest.mark.parametrize("mode", ["I;16", "I", "I, bytes", "F", "F, bytes", "a 16-bit PNG"])
def test_a_picture_of_more_bits_is_the_picture_in_eight(mode):
    """Red with Pillow's `convert`, which clips at 255: white, or black for floats."""
    assert (np.asarray(to_rgb(deep(mode))) == GRAY[..., None]).all()


@pytest.mark.parametrize("values", [[[-1.0, 0.5]], [[0.0, 300.0]], [[0.0, np.nan]], [[0.0, np.inf]]])
def test_values_that_are_no_brightness_get_a_sentence(tiny, values):
    with pytest.raises(ValueError, match="mode 'F' must hold values from 0 to 255"):
        tiny.ask(Image.fromarray(np.array(values, np.float32)), "what?")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_seen_as_every_viewer_shows_it(orientation):
    """Red without the EXIF tag: lying on its side."""
    lying = Image.fromarray(np.random.default_rng(1).integers(0, 256, (24, 48, 3), dtype=np.uint8))
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    lying.save(file, "png", exif=exif)
    photograph = Image.open(file)
    assert (np.asarray(to_rgb(photograph)) == np.asarray(ImageOps.exif_transpose(photograph))).all()
    assert to_rgb(photograph).size == ((48, 24) if orientation < 5 else (24, 48))
    (pixels,) = Processor(BagelConfig(), None).pictures(photograph)
    assert (pixels.shape[-1] > pixels.shape[-2]) == (orientation < 5)


def test_every_byte_survives_the_round_trip():
    """Fault 4. Red with truncation: 63 of 256 values lose a level."""
    values = np.arange(256, dtype=np.uint8)
    picture = Image.fromarray(np.stack([values.reshape(16, 16)] * 3, -1))
    assert (np.asarray(to_image(to_tensor(picture))) == np.asarray(picture)).all()
    seen = picture
    for _ in range(5):
        seen = to_image(to_tensor(seen))
    assert (np.asarray(seen) == np.asarray(picture)).all()


# ---- fault 2: sizes -------------------------------------------------------------------------------------------------


def test_a_pictures_size_does_not_depend_on_its_batch():
    """Red while the batch size stood for the pictures of one sample: 1024 became 112 among 16."""
    processor = Processor(BagelConfig(), None)
    picture = Image.new("RGB", (1024, 1024), "red")
    (alone,) = processor.pictures(picture)
    assert alone.shape == (3, 1024, 1024) and {p.shape for p in processor.pictures([picture] * 16)} == {alone.shape}


@pytest.fixture
def of_any_size(model, monkeypatch):
    """A model that takes sizes as they come, like the released one, and leaves them to its vision encoder."""
    model.bagel.config = replace(model.bagel.config, picture_side=None)
    monkeypatch.setattr(Processor, "for_vision", lambda self, pixels: pixels)
    return model


def test_different_sizes_in_one_call_come_back_in_order(of_any_size):
    """Red while they were refused."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(64, 64), (32, 48), (64, 64), (32, 48)]
    pictures = [torch.rand(3, *size, generator=generator) for size in sizes]
    edits = [f"make the circle {color}" for color in ("red", "blue", "green", "black")]
    done = of_any_size.edit(pictures, edits, steps=2, seed=5)
    assert [tuple(p.shape[-2:]) for p in done.pixels] == sizes == [i.size[::-1] for i in done.images]
    assert done.nfe == of_any_size.edit(pictures[0], edits[0], steps=2).nfe and done.sheet(2).size == (128, 128)
    answers = of_any_size.ask(pictures, "describe the picture", max_tokens=6, speculate=False)
    for i, picture in enumerate(pictures):
        alone = of_any_size.edit(picture, edits[i], steps=2, seed=5 + i)
        assert torch.allclose(done.pixels[i], alone.pixels[0], atol=1e-5)
        assert torch.allclose(done.latent[i], alone.latent[0], atol=1e-5)
        assert answers.texts[i] == of_any_size.ask(picture, "describe the picture", max_tokens=6).text
    again = of_any_size.edit(done, edits, steps=1)  # what an edit gives, an edit takes
    assert [p.shape for p in again.pixels] == [p.shape for p in done.pixels]


def test_one_picture_goes_with_several_instructions(model, picture):
    """Fault 9. Red while only one instruction went with several pictures."""
    edits = ["make the circle red", "remove the star"]
    both = model.edit(picture, edits, steps=1, seed=3)
    for i, edit in enumerate(edits):
        assert torch.allclose(both.pixels[i], model.edit(picture, edit, steps=1, seed=3 + i).pixels[0], atol=1e-5)
