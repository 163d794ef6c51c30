"""A command line in an empty folder, and a picture to give it."""

from pathlib import Path

import pytest
from PIL import Image

from hb.cli.demo import SCENE
from hb.cli.main import main
from hb.world.render import render, to_uint8


@pytest.fixture
def hb(tmp_path, monkeypatch, capsys):
    """Run a command line in an empty folder; gives status, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        status = main([str(word) for word in argv])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


@pytest.fixture
def picture(tmp_path) -> Path:
    """The demo's scene as a file."""
    path = tmp_path / "given.png"
    Image.fromarray(to_uint8(render([SCENE], 64))[0].numpy()).save(path)
    return path
