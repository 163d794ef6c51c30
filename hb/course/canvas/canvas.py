"""The canvas as a widget: what the browser asks for, one request at a time, and what it is sent.

    import hb
    from hb.course.canvas import Canvas

    model = hb.load("nano")
    Canvas(model)             # type "a red circle left of a blue star", press Enter, then drag the star to a corner

and in a cell below it, once something has been drawn:

    canvas.picture            # the picture that is shown, as a PIL image
    canvas.session.history.save("history.json")

A key in the text box travels to the kernel with a number; the picture comes back with it, and the browser measures the
time between the two. All work is done in one thread of its own: a kernel that draws still takes messages, so that newer
words can take the place of those that wait.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import anywidget
import traitlets
from PIL import Image, UnidentifiedImageError

from hb.course.canvas.gestures import description, instruction
from hb.infer.hints import DRAW, EDIT, Hint
from hb.infer.live import LiveSession, Stopped, live_student
from hb.infer.newest import NewestFirst
from hb.infer.pipeline import Model
from hb.infer.turns import OPEN, History, Turn
from hb.world.language.words import PLACE_PHRASES, phrase
from hb.world.render import BACKGROUND_RGB, COLOR_RGB
from hb.world.scene import BACKGROUNDS, COLORS, PLACES, SHAPES, SIZES, Scene

HERE = Path(__file__).parent
PAUSE_S = (
    0.25  # without a key, before the judge reads the picture: it takes longer than a picture, and a key would wait
)
LARGEST_PIXELS = 64_000_000  # of a picture that is opened


def _hex(rgb: Sequence[float]) -> str:
    return "#" + "".join(f"{round(255 * float(value)):02x}" for value in rgb)


WORLD = dict(
    shapes=list(SHAPES),
    sizes=list(SIZES),
    places=list(PLACES),
    colors={name: _hex(rgb) for name, rgb in zip(COLORS, COLOR_RGB)},
    backgrounds={name: _hex(rgb) for name, rgb in zip(BACKGROUNDS, BACKGROUND_RGB)},
)


class Canvas(anywidget.AnyWidget):
    """Type and the picture changes; click, drag or press keys on its things; undo, compare, save.

    session   the `LiveSession` behind it. Only the worker's thread may use it while the canvas is shown
    """

    _esm = HERE / "canvas.js"
    _css = HERE / "canvas.css"
    world = traitlets.Dict(WORLD).tag(sync=True)  # the words that gestures choose from
    about = traitlets.Dict().tag(sync=True)  # model, student, NFE, side of a picture

    def __init__(self, model: Model, *, student: str | None = None, nfe: int | None = None, seed: int = 0):
        """student, nfe, seed: see `LiveSession`."""
        self.session = LiveSession(model, student=student, nfe=nfe, seed=seed)
        about = dict(model=model.name, student=self.session.student, nfe=self.session.nfe, side=model.processor.side)
        super().__init__(about=about)
        self._numbers: dict[Turn, int] = {}  # of turns whose pictures the browser has
        self._worker = NewestFirst(self._work, self._failed)
        self.on_msg(self._received)

    @property
    def picture(self) -> Image.Image | None:
        """The picture that is shown."""
        turn = self.session.shown
        return turn and turn.image

    def close(self) -> None:
        """End the worker's thread and take the canvas away."""
        self._worker.close(timeout_s=0)
        super().close()

    # ---- from the browser -------------------------------------------------------------------------------------------

    def _received(self, _, content: Mapping, buffers: Sequence) -> None:
        """In the kernel's thread: hand over and return."""
        request = dict(content) if isinstance(content, Mapping) else {}
        request["bytes"] = bytes(buffers[0]) if buffers else b""
        self._worker.submit(request, may_be_dropped=request.get("type") == "text")

    def _work(self, request: dict) -> None:
        """In the worker's thread."""
        act = self.ACTIONS.get(request.get("type"))
        if act is None:
            raise ValueError(f"the canvas sent {request.get('type')!r}, which this hb does not know; reload the page")
        act(self, request)

    def _failed(self, request: dict, words: str) -> None:
        self._tell(request, "hint", text=words, wrong=True)

    def _text(self, request: dict) -> None:
        draw = self.session.draw if request.get("verb") == DRAW else self.session.edit
        position = self.session.history.position
        self._show(request, draw(str(request.get("text", ""))))
        if self.session.history.position != position:  # editing has accepted the drawing
            self._send_state(request)

    def _gesture(self, request: dict) -> None:
        """The shown picture is kept; the gesture becomes an instruction about it."""
        scene, gesture = self._scene(), request.get("gesture") or {}
        of, seen = gesture.get("thing"), [thing["words"] for thing in _things(scene)]
        if "words" in gesture and seen[of : of + 1] != [gesture["words"]]:
            raise ValueError("the picture has changed meanwhile; try again")
        words = instruction(scene, gesture)
        self.session.accept()
        self._tell(request, "instruction", text=words)
        self._show(request, self.session.edit(words))
        self._send_state(request)

    def _accept(self, request: dict) -> None:
        self.session.accept()
        self._send_state(request)
        self._read_ahead()

    def _undo(self, request: dict) -> None:
        self._moved(request, self.session.undo(), "there is nothing to undo")

    def _redo(self, request: dict) -> None:
        self._moved(request, self.session.redo(), "there is nothing to redo")

    def _go_to(self, request: dict) -> None:
        position = request.get("position")
        moved = type(position) is int and self.session.go_to(position)
        self._moved(request, moved, f"there is no turn number {position!r}")

    def _moved(self, request: dict, moved: bool, otherwise: str) -> None:
        if not moved:
            self._tell(request, "hint", text=otherwise)
            return
        self._send_shown(request)

    def _reseed(self, request: dict) -> None:
        """The same words from another noise."""
        self.session.seed += 1000  # turns count on in ones
        turn = self.session.pending
        if turn is not None and turn.verb != OPEN:
            draw = self.session.draw if turn.verb == DRAW else self.session.edit
            self._show(request, draw(turn.text))
        self._send_state(request)

    def _open(self, request: dict) -> None:
        """A history that was saved, or a picture."""
        data = request["bytes"]
        if data.lstrip()[:1] == b"{":
            self.session.restore(History.from_json(data.decode("utf-8", errors="replace")))
        else:
            self.session.open(_picture(data))
        self._send_shown(request)

    def _history(self, request: dict) -> None:
        self._tell(request, "history", text=self.session.history.to_json())

    def _hello(self, request: dict) -> None:
        """A new view: it has no pictures yet."""
        self._numbers.clear()
        self._send_shown(request)

    def _compare(self, request: dict) -> None:
        who = request.get("who")
        others = {
            "1": dict(student=live_student(self.session.model.students), steps=1),
            "6": dict(nfe=6),
            "teacher": dict(student="teacher"),
        }
        if who not in others:
            raise ValueError(f"no {who!r} to compare with; there are {', '.join(others)}")
        newer = lambda: self._worker.is_overdue(lambda waits: waits.get("type") != "compare")  # those can wait in turn
        try:
            for _, share, turn in self.session.compare([others[who]], newer):
                told = dict(who=who, share=share, said=self._said())
                if turn is None:
                    self._tell(request, "other", **told)
                    continue
                made = self.session.model.students.get(turn.student)
                told |= dict(nfe=turn.nfe, student=turn.student, made_for=made and made.steps)
                self._tell(request, "other", [turn.image.tobytes()], seconds=sum(turn.seconds.values()), **told)
        except Stopped:
            self._tell(request, "other", who=who, share=0.0, stopped=True)

    ACTIONS = dict(
        text=_text,
        gesture=_gesture,
        accept=_accept,
        undo=_undo,
        redo=_redo,
        go_to=_go_to,
        reseed=_reseed,
        open=_open,
        history=_history,
        hello=_hello,
        compare=_compare,
    )

    # ---- to the browser ---------------------------------------------------------------------------------------------

    def _tell(self, request: dict, kind: str, pictures: Sequence[bytes] = (), **values) -> None:
        """Every answer carries the number of the request."""
        self.send(dict(type=kind, seq=request.get("seq")) | values, list(pictures))

    def _show(self, request: dict, made: Turn | Hint) -> None:
        """The picture first; what the judge finds in it when nobody types."""
        if isinstance(made, Hint):
            self._tell(request, "hint", text=made.text)
            return
        self._send_picture(request, made)
        if self._worker.is_quiet(PAUSE_S if request.get("type") == "text" else 0):
            self._send_look(request)

    def _send_picture(self, request: dict, turn: Turn) -> None:
        told = dict(verb=turn.verb, said=turn.said, nfe=turn.nfe, student=turn.student, seconds=turn.seconds)
        width, height = turn.image.size
        self._tell(request, "picture", [turn.image.tobytes()], width=width, height=height, **told)

    def _send_look(self, request: dict) -> None:
        look, scene = self.session.look(), None
        if look is not None and look.reading is not None:
            scene = look.reading.scene
        if look is not None:
            words = description(scene) if scene else "the judge cannot read this picture"
            self._tell(request, "look", things=_things(scene), drift=look.drift, note=look.note, words=words)

    def _send_shown(self, request: dict) -> None:
        turn = self.session.shown
        if turn is None:
            self._tell(request, "nothing")
        else:
            self._send_picture(request, turn)
            self._send_look(request)
        self._send_state(request)
        self._read_ahead()

    def _read_ahead(self) -> None:
        """While nobody waits: the first key of an instruction is then as fast as the others."""
        if not self._worker.is_overdue():
            self.session.read_ahead()

    def _send_state(self, request: dict) -> None:
        """The turns, and pictures of those that the browser has not seen."""
        history, new, turns = self.session.history, [], []
        for turn in history.turns:
            if turn not in self._numbers:
                self._numbers[turn] = len(self._numbers)
                new.append(turn)
            turns.append(dict(id=self._numbers[turn], verb=turn.verb, said=turn.said, drift=turn.drift))
        told = dict(position=history.position, turns=turns, new=[self._numbers[turn] for turn in new])
        sizes = [turn.image.size for turn in new]
        self._tell(
            request, "state", [turn.image.tobytes() for turn in new], sizes=sizes, seed=self.session.seed, **told
        )

    def _scene(self) -> Scene:
        """What is in the shown picture. Raises ValueError where nobody can tell."""
        turn = self.session.shown
        if turn is None:
            raise ValueError("there is no picture to change yet; draw one first")
        if turn.reading is None or turn.reading.scene is None:
            raise ValueError("the judge cannot read this picture, so it cannot tell what was meant; use words")
        return turn.reading.scene

    def _said(self) -> str:
        turn = self.session.shown
        return turn.said if turn else ""


def _things(scene: Scene | None) -> list[dict]:
    """What can be clicked on: center and radius as shares of the side, and words for readers who do not see it."""
    return [
        dict(
            words=f"{phrase(thing, article='')} {PLACE_PHRASES[thing.place]}",
            radius=thing.radius,
            **{name: getattr(thing, name) for name in ("shape", "color", "size", "texture", "place", "x", "y")},
        )
        for thing in (scene.things if scene else ())
    ]


def _picture(data: bytes) -> Image.Image:
    """From a file that was chosen in the browser. Raises ValueError with what is wrong."""
    wrong = ValueError("this is neither a history that was saved here nor a picture that can be read")
    try:
        image = Image.open(io.BytesIO(data), formats=["png", "jpeg", "webp"])
    except (UnidentifiedImageError, OSError, SyntaxError):
        raise wrong from None
    if image.width * image.height > LARGEST_PIXELS:
        raise ValueError("the picture is too large to be opened; make it smaller first")
    try:
        image.load()
    except (OSError, SyntaxError, ValueError):
        raise wrong from None
    return image


__all__ = ["DRAW", "EDIT", "Canvas"]
