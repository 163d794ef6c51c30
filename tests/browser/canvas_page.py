"""A canvas on a page, and what one does with it."""

from __future__ import annotations

import pytest

from hb.cli.browser import START_S, NoBrowser, chromium, open_canvas

CELLS = ["import hb\nfrom hb.course.canvas import Canvas\nCanvas(hb.load('nano'), student='dmdo')"]
WAIT = 1000 * START_S  # milliseconds: on a core with much else to do, a picture has taken half a minute
DRAWN = "a red circle left of a blue star"


class Page:
    def __init__(self, page, address: str):
        self.page, self.root, self.box = page, page.locator(".hb-canvas"), page.locator(".hb-text")
        open_canvas(page, address)

    def of(self, name: str) -> str | None:
        return self.root.get_attribute(f"data-{name}")

    def wait(self, **values) -> None:
        """Until the canvas says all of this of itself."""
        said = "".join(f'[data-{name}="{value}"]' for name, value in values.items())
        self.page.wait_for_selector(f".hb-canvas{said}", timeout=WAIT)

    def type(self, verb: str, text: str) -> None:
        self.page.locator(f".hb-canvas input[value={verb}]").check()
        self.box.fill("")
        self.box.press_sequentially(text)

    def begin(self) -> None:
        """A canvas that shows DRAWN, accepted, as its first turn and from the same noise each time; its things can be
        clicked on."""
        if self.of("turns") == "0":
            self.type("draw", DRAWN)
            self.wait(shown=DRAWN)
            self.box.press("Enter")
            self.wait(turns=1)
        self.page.locator(".hb-strip li button").first.click()
        self.wait(shown=DRAWN, position=1)
        self.box.fill("")  # first: what is in the box would be read anew by the other verb
        self.page.locator(".hb-canvas input[value=edit]").check()
        self.wait(busy="false", shown=DRAWN)
        self.things()

    def things(self) -> list[str]:
        self.page.wait_for_selector(".hb-thing", timeout=WAIT)
        return [node.get_attribute("aria-label") for node in self.page.locator(".hb-thing").all()]

    def thing(self, word: str):
        return self.page.locator(f'.hb-thing[aria-label*="{word}"]').first

    def act(self, name: str):
        return self.page.locator(f'.hb-canvas [data-act="{name}"]')

    def pixels(self) -> list[int]:
        return self.page.evaluate(
            """() => { const c = document.querySelector('.hb-stage canvas');
                return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]; }"""
        )

    def middle(self, node) -> tuple[float, float]:
        box = node.bounding_box()
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def corner(self) -> tuple[float, float]:
        """A point in the bottom right ninth."""
        box = self.page.locator(".hb-stage").bounding_box()
        return box["x"] + 0.8 * box["width"], box["y"] + 0.8 * box["height"]


def browser_or_skip() -> None:
    try:
        chromium()
    except NoBrowser as error:
        pytest.skip(str(error))
