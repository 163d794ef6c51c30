"""JupyterLab takes keys for itself; the canvas must get them all the same. Run with `pytest -m browser`."""

import pytest

from hb.cli.browser import browser_page, served
from tests.browser.canvas_page import CELLS, DRAWN, Page, browser_or_skip

pytestmark = pytest.mark.browser


def test_in_jupyterlab_keys_reach_the_canvas():
    browser_or_skip()
    with served("lab", CELLS) as address, browser_page() as page:
        canvas = Page(page, address)
        canvas.begin()
        canvas.thing("circle").focus()
        page.keyboard.press("ArrowDown")  # Lab would move to another cell
        canvas.wait(shown="move the circle to the bottom left")
        page.keyboard.press("Control+z")
        canvas.wait(shown=DRAWN)
        assert page.errors == []
