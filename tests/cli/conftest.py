"""A picture to give to a command line."""

from pathlib import Path

import pytest
from PIL import Image

from hb.cli.demo import SCENE
from hb.world.render import render, to_uint8


@pytest.fixture
def picture(tmp_path) -> Path:
    """The demo's scene as a file."""
    path = tmp_path / "given.png"
    Image.fromarray(to_uint8(render([SCENE], 64))[0].numpy()).save(path)
    return path
