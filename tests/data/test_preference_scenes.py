"""Requests that a picture has no room for are left out, whole."""

import numpy as np
import pytest

from hb.data.preference_pool import some_requests
from hb.data.preference_scenes import PICTURES, rendered_preferences
from hb.models.tokenizer import Text
from hb.world.language import parse
from hb.world.scene import Request, Wish, scenes_that_fit
from tests.conftest import TOKENIZER

FULL = Request((Wish(size="large", place="top left"),) * 3)


@pytest.fixture(scope="module")
def text():
    return Text.load(TOKENIZER)


def test_what_does_not_fit_is_left_out_with_all_its_copies():
    asked = [parse("a red circle"), FULL, parse("two blue squares")]
    scenes, kept = scenes_that_fit(asked, np.random.default_rng(0), copies=3)
    assert kept == [0, 2] and [len(scene.things) for scene in scenes.to_list()] == [1, 1, 1, 2, 2, 2]
    scenes, kept = scenes_that_fit([FULL], np.random.default_rng(0))
    assert kept == [] and scenes.to_list() == []


def test_a_pool_of_rendered_scenes_goes_on_without_them(text):
    asked = [parse("a red circle"), FULL, *some_requests(2, np.random.default_rng(1))]
    pool = rendered_preferences(asked, text, side=64)
    assert len(pool.ids) == 3 and len(pool.picture) == 3 * PICTURES
    assert pool.request.tolist() == [k for k in range(3) for _ in range(PICTURES)]
