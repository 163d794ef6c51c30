"""Drawing, editing, asking: what is counted is what was run, and a picture does not depend on its batch."""

import torch

from hb.infer.artifacts import PixelDecoderCheckpoint
from hb.infer.text import decode
from hb.models.pixel_decoder import PixelDecoder, PixelDecoderConfig


def test_a_hundred_evaluations_for_a_drawing_and_132_for_an_edit(tiny, picture):
    calls = []
    handle = tiny.bagel.latent.output.register_forward_hook(lambda m, i, o: calls.append(len(o)))
    try:
        drawn = tiny.draw("a red circle")
        assert drawn.nfe == 100 == sum(calls) and drawn.steps == 50
        calls.clear()
        edited = tiny.edit(picture, "make the circle green")
        assert edited.nfe == 132 == sum(calls)
    finally:
        handle.remove()


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


def test_a_decoder_without_its_refiner_decodes_latents_as_they_are():
    """The same picture as the whole decoder gives of latents that a refiner would leave alone, and its fingerprint is
    another, so that results are kept apart."""
    decoder = PixelDecoder(PixelDecoderConfig(4, refiner=(24, 1))).eval()
    z = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    whole = PixelDecoderCheckpoint(dict(z_channels=4, refiner=[24, 1]), "any", weights=decoder.state_dict())
    plain = whole.without_refiner()
    assert plain.fingerprint() != whole.fingerprint() and not any(n.startswith("settle.") for n in plain.weights)
    alone = PixelDecoder(PixelDecoderConfig(4))
    alone.load_state_dict(plain.weights)
    assert torch.allclose(alone.eval()(z), decoder(z))  # an untrained refiner is the identity
    torch.nn.init.ones_(decoder.settle.say.bias)
    assert not torch.allclose(alone(z), decoder(z))
