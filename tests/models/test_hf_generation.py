"""`transformers.generate()` on our text path says what ours says, with assisted generation too."""

import pytest
import torch

from hb.infer.text import decode
from hb.models.hf_generation import AnswerModel


@pytest.fixture(scope="module")
def context(tiny):
    with torch.no_grad():
        pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(4)) * 2 - 1
        return tiny.read_for_asking(pixels, ["describe the picture"]).context


@pytest.mark.parametrize("options", [{}, dict(prompt_lookup_num_tokens=4)], ids=["plain", "assisted"])
def test_generate_says_what_decode_says(tiny, context, options):
    wanted = decode(tiny.bagel, context, max_tokens=20).tokens[0]
    assert AnswerModel(tiny.bagel).say(context, max_new_tokens=20, do_sample=False, **options) == wanted


def test_several_rows_are_refused(tiny, context):
    with pytest.raises(ValueError, match="one row"):
        AnswerModel(tiny.bagel).say(context.select(torch.tensor([0, 0])))
