"""The canvas in a real Chromium: hands and keys do what they should, in Voila and in JupyterLab.

Run with `pytest -m browser`; without Chromium or Playwright these tests are skipped, and say so.
"""

import io
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from hb.cli.browser import browser_page, served
from tests.browser.canvas_page import CELLS, DRAWN, WAIT, Page, browser_or_skip

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def voila():
    browser_or_skip()
    with served("voila", CELLS) as address, browser_page(has_touch=True, accept_downloads=True) as page:
        yield Page(page, address)
        assert page.errors == []


@pytest.fixture
def canvas(voila, request):
    voila.begin()
    yield voila
    if folder := os.environ.get("HB_SCREENSHOTS"):  # to look at
        voila.page.screenshot(path=Path(folder) / f"{request.node.name}.png")


def test_the_picture_changes_as_one_types(canvas):
    before = canvas.pixels()
    canvas.type("draw", "a green moon")
    canvas.wait(shown="a green moon")
    assert canvas.pixels() != before
    shown = canvas.pixels()
    canvas.box.press_sequentially(" and a re")
    canvas.page.wait_for_function(
        "() => document.querySelector('.hb-hint').textContent.includes(\"'red'\")", timeout=WAIT
    )
    assert canvas.pixels() == shown and canvas.of("shown") == "a green moon"
    canvas.box.press_sequentially("d star")
    canvas.wait(shown="a green moon and a red star")


def test_the_time_from_key_to_picture_is_measured(canvas):
    canvas.type("draw", "a pink heart and a moon")
    canvas.wait(shown="a pink heart and a moon")
    canvas.page.wait_for_timeout(500)
    measured = json.loads(canvas.of("latencies"))
    assert measured and all(0 < ms < WAIT for ms in measured)
    assert f"({len(measured)} key" in canvas.page.locator(".hb-speed").inner_text()
    assert "p95" in canvas.page.locator(".hb-speed").inner_text()


def test_enter_keeps_the_picture_and_an_instruction_changes_it(canvas):
    canvas.box.press_sequentially("make the star green")
    canvas.wait(shown="make the star green")
    canvas.box.press("Enter")
    canvas.wait(turns=2, position=2)  # what had been undone is gone
    canvas.page.wait_for_function(
        "() => /^0\\.\\d+$/.test(document.querySelector('.hb-drift').textContent)", timeout=WAIT
    )
    last = canvas.page.locator(".hb-strip li button").last
    assert "make the star green, drift 0." in last.get_attribute("aria-label")
    assert canvas.box.input_value() == ""


def test_a_click_selects_and_a_color_recolors(canvas):
    canvas.thing("star").click()
    assert canvas.thing("star").get_attribute("aria-pressed") == "true"
    assert "star" in canvas.page.locator(".hb-about").inner_text()
    canvas.page.locator('[data-word="purple"]').click()
    canvas.wait(shown="make the star purple")
    assert canvas.box.input_value() == "make the star purple"


def test_shape_size_remove_and_background(canvas):
    for press, said in (
        ('[data-shape="heart"]', "replace the circle with a heart"),
        ('[data-act="remove"]', "remove the circle"),
    ):
        canvas.begin()
        canvas.thing("circle").click()
        canvas.page.locator(press).click()
        canvas.wait(shown=said)
    canvas.begin()
    canvas.page.locator('.hb-canvas [data-word="black"]').click()
    canvas.wait(shown="change the background to black")


def test_dragging_moves(canvas):
    canvas.page.mouse.move(*canvas.middle(canvas.thing("star")))
    canvas.page.mouse.down()
    canvas.page.mouse.move(*canvas.corner(), steps=5)
    assert canvas.page.locator(".hb-marked").get_attribute("data-place") == "bottom right"
    canvas.page.mouse.up()
    canvas.wait(shown="move the star to the bottom right")


def test_a_finger_taps_and_drags(canvas):
    canvas.page.touchscreen.tap(*canvas.middle(canvas.thing("circle")))
    assert canvas.thing("circle").get_attribute("aria-pressed") == "true"
    finger = canvas.page.context.new_cdp_session(canvas.page)
    at = lambda kind, x, y: finger.send(
        "Input.dispatchTouchEvent", dict(type=kind, touchPoints=[] if kind == "touchEnd" else [dict(x=x, y=y)])
    )
    (x, y), (to_x, to_y) = canvas.middle(canvas.thing("circle")), canvas.corner()
    at("touchStart", x, y)
    for share in (0.3, 0.6, 1.0):
        at("touchMove", x + share * (to_x - x), y + share * (to_y - y))
    at("touchEnd", to_x, to_y)
    canvas.wait(shown="move the circle to the bottom right")


def test_an_empty_spot_is_where_a_shape_is_added(canvas):
    canvas.page.mouse.click(*canvas.corner())
    canvas.page.locator('[data-word="cyan"]').click()
    canvas.page.locator('[data-shape="ring"]').click()
    canvas.wait(shown="add a cyan ring at the bottom right")


def test_the_keyboard_is_enough(canvas):
    page, label = canvas.page, "document.activeElement.getAttribute('aria-label')"
    canvas.box.focus()
    for _ in range(6):
        page.keyboard.press("Tab")
        if "circle" in (page.evaluate(label) or ""):
            break
    assert "circle" in page.evaluate(label)
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
    page.keyboard.press("ArrowDown")
    canvas.wait(shown="move the circle to the bottom left")
    page.keyboard.press("Control+z")
    canvas.wait(shown=DRAWN)
    canvas.things()
    page.wait_for_function("() => (document.activeElement.getAttribute('aria-label') || '').includes('circle')")
    canvas.thing("star").focus()
    page.keyboard.press("Delete")
    canvas.wait(shown="remove the star")


def test_undo_redo_and_a_turn_in_the_strip(canvas):
    canvas.box.press_sequentially("make the star green")
    canvas.wait(shown="make the star green")
    canvas.act("undo").click()
    canvas.wait(shown=DRAWN)
    canvas.act("redo").click()
    canvas.wait(shown="make the star green")
    number = int(canvas.of("position"))
    canvas.page.locator(".hb-strip li button").nth(number - 2).click()
    canvas.wait(shown=DRAWN, position=number - 1)
    assert canvas.page.locator(".hb-strip [aria-current=step]").count() == 1


def test_the_same_request_by_one_evaluation(canvas):
    panel = canvas.page.locator('.hb-other[data-who="1"]')
    panel.locator("button").click()
    panel.locator(':text("1 NFE by dmdo, made for 6")').wait_for(timeout=WAIT)
    canvas.page.wait_for_function("() => document.querySelector('.hb-other canvas').width === 64", timeout=WAIT)


def test_a_comparison_says_when_it_is_of_another_request(canvas):
    panel = canvas.page.locator('.hb-other[data-who="6"]')
    panel.locator("button").click()
    panel.locator(':text("6 NFE by dmdo:")').wait_for(timeout=WAIT)
    assert "hb-old" not in panel.get_attribute("class")
    canvas.type("draw", "a moon")
    canvas.wait(shown="a moon")
    assert "hb-old" in panel.get_attribute("class")


def test_a_sign_says_that_something_is_being_drawn(canvas):
    canvas.type("draw", "a green moon")
    busy = canvas.page.evaluate(
        """() => new Promise((done) => { const root = document.querySelector('.hb-canvas'), seen = [];
            new MutationObserver(() => { seen.push(root.dataset.busy); if (root.dataset.busy === 'false') done(seen); })
                .observe(root, { attributeFilter: ['data-busy'] });
            document.querySelector('.hb-canvas [data-act=reseed]').click(); })"""
    )
    assert busy[0] == "true" and busy[-1] == "false"


def test_picture_and_history_are_saved_and_opened_again(canvas, tmp_path):
    with canvas.page.expect_download() as download:
        canvas.act("save-picture").click()
    image = Image.open(io.BytesIO(Path(download.value.path()).read_bytes())).convert("RGB")
    assert image.size == (64, 64)
    shown = canvas.pixels()
    assert [*image.tobytes()] == [v for i, v in enumerate(shown) if i % 4 < 3]
    with canvas.page.expect_download() as download:
        canvas.act("save-history").click()
    history = tmp_path / "history.json"
    download.value.save_as(history)
    turns = len(json.loads(history.read_text())["turns"])
    canvas.type("draw", "a moon")
    canvas.wait(shown="a moon")
    canvas.page.locator(".hb-canvas input[type=file]").set_input_files(history)
    canvas.wait(shown=DRAWN, turns=turns)
    assert canvas.pixels() == shown
    (tmp_path / "wrong.json").write_text("{}")
    canvas.page.locator(".hb-canvas input[type=file]").set_input_files(tmp_path / "wrong.json")
    canvas.page.wait_for_selector(".hb-hint.hb-wrong", timeout=WAIT)


def test_everything_that_can_be_pressed_has_a_name(canvas):
    nameless = canvas.page.evaluate(
        """() => [...document.querySelectorAll('.hb-canvas button, .hb-canvas input')].filter(node =>
            !(node.getAttribute('aria-label') || node.textContent.trim() || node.closest('label')?.textContent.trim()))
            .map(node => node.outerHTML)"""
    )
    assert nameless == []


def test_a_narrow_page_shows_everything(canvas):
    canvas.page.set_viewport_size(dict(width=360, height=800))
    wide = canvas.page.evaluate("document.querySelector('.hb-canvas').scrollWidth > window.innerWidth")
    canvas.page.set_viewport_size(dict(width=1000, height=1100))
    assert not wide
