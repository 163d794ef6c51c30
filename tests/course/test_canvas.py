"""The canvas without a browser: messages in, messages out, in the order that they were sent."""

import io
import json

import pytest
import torch
from PIL import Image

from hb.course.canvas import Canvas
from hb.course.canvas.canvas import HERE, WORLD
from hb.infer.hints import Hint
from hb.pictures import to_image
from hb.world.render import render
from hb.world.scene import COLORS, Scene, Thing
from tests.infer.conftest import with_students

LONG = 60
SCENE = Scene((Thing("star", "red", "large", 0.2, 0.2), Thing("circle", "blue", "small", 0.8, 0.8)), "white")


class Browser:
    """The other end: sends what the script would, keeps what it is sent."""

    def __init__(self, canvas: Canvas):
        self.canvas, self.got, self.seq = canvas, [], 0
        canvas.send = lambda content, buffers=None: self.got.append((json.loads(json.dumps(content)), buffers))

    def __call__(self, kind: str, data: bytes | None = None, wait: bool = True, **values) -> list[dict]:
        """The answers to one message."""
        self.seq += 1
        self.canvas._received(self.canvas, dict(type=kind, seq=self.seq) | values, [memoryview(data)] if data else [])
        assert not wait or self.canvas._worker.wait(LONG)
        return self.answers(self.seq)

    def answers(self, seq: int) -> list[dict]:
        return [content for content, _ in self.got if content["seq"] == seq]

    def kinds(self, *args, **kwargs) -> list[str]:
        return [content["type"] for content in self(*args, **kwargs)]


@pytest.fixture(scope="module")
def model(tiny_folder):
    return with_students(tiny_folder)


@pytest.fixture
def browser(model):
    canvas = Canvas(model)
    yield Browser(canvas)
    canvas.close()
    assert canvas._worker.close(LONG)


def png(scene=SCENE) -> bytes:
    out = io.BytesIO()
    to_image(render([scene], 64)[0] * 2 - 1).save(out, "png")
    return out.getvalue()


def test_a_key_gives_a_picture_then_what_is_in_it(browser):
    picture, look = browser("text", verb="draw", text="a red circle")
    assert picture["type"] == "picture" and picture["said"] == "a red circle" and picture["nfe"] == 1
    assert look["type"] == "look" and set(look) >= {"things", "drift", "note", "words"}
    (_, (data,)) = next(entry for entry in browser.got if entry[0]["type"] == "picture")
    assert data == browser.canvas.picture.tobytes() and len(data) == 3 * 64 * 64


def test_words_on_their_way_give_a_hint_and_keep_the_picture(browser):
    browser("text", verb="draw", text="a red circle")
    shown = browser.canvas.picture
    (hint,) = browser("text", verb="draw", text="a re")
    assert hint["type"] == "hint" and "'red'" in hint["text"] and browser.canvas.picture is shown


def test_keys_that_wait_give_way_to_the_newest(browser, monkeypatch):
    """The accepted picture is that of the words before it, however fast they were typed."""
    texts = ["a circle", "a star", "a ring", "a moon"]
    monkeypatch.setattr(browser.canvas.session, "_typed", typed := Typed(browser.canvas.session._typed))
    first = browser.seq + 1
    browser("text", verb="draw", text=texts[0], wait=False)
    assert typed.started.acquire(timeout=LONG)
    for text in texts[1:]:
        browser("text", verb="draw", text=text, wait=False)
    browser("accept", wait=False)
    typed.go.set()
    assert browser.canvas._worker.wait(LONG)
    assert typed.texts == ["a circle", "a moon"] and browser.canvas._worker.dropped == 2
    assert browser.canvas.session.history.current.said == "a moon"
    assert [m["type"] for m in browser.answers(first)][0] == "picture" and not browser.answers(first + 1)
    assert "look" not in [m["type"] for m in browser.answers(first)]  # the judge is not asked while somebody waits


class Typed:
    """`LiveSession._typed`, the first call of which waits."""

    def __init__(self, typed):
        import threading

        self.typed, self.texts = typed, []
        self.started, self.go = threading.Semaphore(0), threading.Event()

    def __call__(self, verb, text, before):
        self.texts.append(text)
        self.started.release()
        assert self.go.wait(LONG)
        return self.typed(verb, text, before)


def test_a_gesture_becomes_words_and_a_turn(browser):
    answers = browser("open", png())
    assert [a["type"] for a in answers] == ["picture", "look", "state"]
    things = answers[1]["things"]
    assert [thing["words"] for thing in things] == [
        "large plain red star at the top left", "small plain blue circle at the bottom right",
    ]  # fmt: skip
    assert "white background" in answers[1]["words"]
    gesture = dict(kind="move", thing=0, words=things[0]["words"], x=0.9, y=0.1)
    told, picture, *_, state = browser("gesture", gesture=gesture)
    assert told == dict(type="instruction", seq=browser.seq, text="move the star to the top right")
    assert picture["said"] == told["text"] and picture["verb"] == "edit"
    assert state["position"] == 1 and len(state["turns"]) == 1 and browser.canvas.session.pending is not None


def test_a_gesture_on_a_picture_that_has_changed_is_refused(browser):
    browser("open", png())
    (hint,) = browser("gesture", gesture=dict(kind="remove", thing=0, words="large green star at the top left"))
    assert hint["wrong"] and "changed" in hint["text"]
    for gesture in (dict(kind="remove", thing=9, words="x"), dict(kind="remove", thing="0", words="x"), dict(kind="?")):
        (hint,) = browser("gesture", gesture=gesture)
        assert hint["type"] == "hint" and hint["wrong"]


def test_undo_redo_and_any_turn(browser):
    assert browser.kinds("undo") == ["hint"] == browser.kinds("redo")
    browser("open", png())
    browser("text", verb="edit", text="make the star green")
    state = browser("accept")[-1]
    assert state["position"] == 2 and [t["said"] for t in state["turns"]] == ["", "make the star green"]
    assert browser("undo")[-1]["position"] == 1 and browser("redo")[-1]["position"] == 2
    assert browser("go_to", position=1)[-1]["position"] == 1
    assert browser.kinds("go_to", position=7) == ["hint"] == browser.kinds("go_to", position="x")
    browser("undo")
    assert browser.kinds("undo") == ["hint"]


def test_pictures_of_turns_are_sent_once_and_again_to_a_new_view(browser):
    browser("open", png())
    new = lambda answers: answers[-1]["new"]
    browser("text", verb="edit", text="make the star green")
    assert new(browser("accept")) == [1] and new(browser("undo")) == []
    assert new(browser("hello")) == [0, 1]
    (state, pictures) = browser.got[-1]
    assert len(pictures) == len(state["sizes"]) == 2


def test_other_noise_for_the_same_words(browser):
    browser("text", verb="draw", text="a red circle")
    before = browser.canvas.picture.tobytes()
    assert browser("reseed")[0]["said"] == "a red circle" and browser.canvas.picture.tobytes() != before


def test_a_history_is_saved_and_opened_again(browser, model):
    browser("open", png())
    browser("text", verb="edit", text="make the star green")
    browser("accept")
    (saved,) = browser("history")
    other = Browser(Canvas(model))
    answers = other("open", saved["text"].encode())
    assert answers[-1]["position"] == 2 and other.canvas.picture.tobytes() == browser.canvas.picture.tobytes()
    for data in (b"{", b"not a picture", png()[:200], b'{"format": "x"}'):
        (hint,) = other("open", data)
        assert hint["wrong"] and len(hint["text"]) > 20
    assert other.canvas.picture.tobytes() == browser.canvas.picture.tobytes()
    other.canvas.close()


def test_the_same_request_by_others(browser):
    (hint,) = browser("compare", who="6")
    assert "no request" in hint["text"]
    browser("text", verb="draw", text="a red circle")
    for who, nfe in (("1", 1), ("6", 6)):
        answers = browser("compare", who=who)
        assert [a["share"] for a in answers] == sorted(a["share"] for a in answers) and answers[-1]["nfe"] == nfe
        made = browser.canvas.session.model.students[answers[-1]["student"]].steps
        assert answers[-1]["made_for"] == made and answers[-1]["seconds"] > 0 and "nfe" not in answers[0]
    assert browser.got[-1][1][0] == model_bytes(browser)
    assert browser("compare", who="me")[0]["wrong"]


def model_bytes(browser) -> bytes:
    session = browser.canvas.session
    return session.model.draw("a red circle", nfe=6, seed=session.pending.seed, warn=False).image.tobytes()


def test_a_comparison_gives_way_to_a_key(browser, monkeypatch):
    browser("text", verb="draw", text="a red circle")
    worker, tell = browser.canvas._worker, browser.canvas._tell

    def tell_and_type(request, kind, *args, **values):
        tell(request, kind, *args, **values)
        if kind == "other" and values["share"] and not worker.is_overdue():
            worker.submit(dict(type="text", seq=99, verb="draw", text="a star", bytes=b""))

    monkeypatch.setattr(browser.canvas, "_tell", tell_and_type)
    answers = browser("compare", who="teacher")
    assert answers[-1].get("stopped") and len(answers) < 10
    assert browser.canvas.picture is browser.canvas.session.pending.image and browser.answers(99)[0]["said"] == "a star"


def test_comparisons_do_not_stop_each_other(browser):
    browser("text", verb="draw", text="a red circle")
    first = browser.seq + 1
    browser("compare", who="6", wait=False)
    browser("compare", who="1")
    ends = [browser.answers(number)[-1] for number in (first, first + 1)]
    assert [end.get("nfe") for end in ends] == [6, 1] and not any("stopped" in end for end in ends)


def test_what_nobody_knows_gets_a_sentence(browser):
    (hint,) = browser("sing")
    assert hint["wrong"] and "reload" in hint["text"]
    assert isinstance(browser.canvas.session.draw(""), Hint)


def test_script_and_style_come_with_the_package():
    """Both are data of the package, fetch nothing, and use the names that the kernel speaks of."""
    import tomllib

    project = tomllib.loads((HERE.parents[2] / "pyproject.toml").read_text())
    held = project["tool"]["setuptools"]["package-data"]["hb.course.canvas"]
    assert all(any(path.match(pattern) for pattern in held) for path in (HERE / "canvas.js", HERE / "canvas.css"))
    script = (HERE / "canvas.js").read_text()
    assert "://" not in script and "import " not in script and "://" not in (HERE / "canvas.css").read_text()
    assert set(WORLD["colors"]) == set(COLORS) and WORLD["colors"]["red"].startswith("#")
    for kind in Canvas.ACTIONS:
        assert f'"{kind}"' in script, f"no button asks for {kind}"


def test_a_picture_in_inference_mode_is_an_ordinary_one_afterwards(browser):
    browser("text", verb="draw", text="a red circle")
    pixels = browser.canvas.session.shown.pixels
    assert (
        not pixels.is_inference() and torch.isfinite(pixels).all() and isinstance(browser.canvas.picture, Image.Image)
    )
