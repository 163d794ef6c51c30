"""Drawing and editing at every key: what does not change from key to key is kept.

    session = LiveSession(hb.load("nano"))
    session.draw("a red circle")            # a Turn; "a re" gives a Hint and keeps the last picture
    session.draw("a red circle and a star")
    session.accept()                        # the picture is the source of the next instruction
    session.edit("make the star green")
    session.look().drift                    # how far the rest of the picture has changed

One evaluation is so little that all around it counts. The picture to be edited is read once, its latent and, for
students that read them, its vision features; of the text only tokens behind the first new one are read, in the pass
that evaluates the picture (`hb.infer.fused_student`); the noise stays the same until a picture is accepted. Pictures
are those of `Model.draw` and `Model.edit` from the same noise, to rounding.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from hb.infer.artifacts import Student
from hb.infer.fused_student import PictureRun, PlainRun
from hb.infer.hints import DRAW, EDIT, Hint, understood
from hb.infer.image import Contexts, Meter, noise, sample_student
from hb.infer.pipeline import Model, Pictures
from hb.infer.plan import SamplingPlan
from hb.infer.processor import seed_of
from hb.infer.records import Clock
from hb.infer.turns import OPEN, History, Turn, retold
from hb.pictures import to_image
from hb.world.judge.reading import Reading
from hb.world.language import LanguageError, find, parse_edit

ONE_STEP = "one-nfe"  # the student that serves one evaluation, where a model has it
NO_PICTURE = Hint("there is no picture to change yet; draw one first")


class Stopped(Exception):
    """A comparison was left because something newer waits."""


@dataclass(frozen=True)
class Look:
    """What the judge finds in the picture that is shown.

    reading  None where the judge does not read pictures of this size
    drift    see `Turn.drift`
    note     what is known to go wrong with such words, in a sentence; "" if nothing is
    """

    reading: Reading | None
    drift: float | None
    note: str = ""


def live_student(students: Mapping[str, Student]) -> str:
    """The student that draws live: the one-step student, else the default one. Raises ValueError if there is none."""
    if ONE_STEP in students:
        return ONE_STEP
    name = next((name for name, student in students.items() if student.default), None)
    if name is None:
        raise ValueError(
            "this model has no student to draw live with; make one (hb distill six-nfe), or name one of "
            f"{', '.join(students) or 'none'}"
        )
    return name


class LiveSession:
    """One person's pictures: `draw` and `edit` at every key, `accept` when a picture is to stay.

    Several threads may call it; they take turns.
    """

    def __init__(
        self, model: Model, *, student: str | None = None, nfe: int | None = None, seed: int = 0, raw: bool = False
    ):
        """
        student  by name; None: the one-step student where the model has one, else its default student
        nfe      evaluations of a picture; None: what the student was made for. Another number is taken all the same
        seed     of the noise of the first turn; turn k has seed + k
        raw      pass words on as they are. False: in the tiny world's spelling, and a hint where they cannot be read
        """
        self.model, self.student = model, live_student(model.students) if student is None else student
        if self.student not in model.students:
            model.student_for(self.student)  # raises with the names that there are
            raise ValueError(f"{self.student} is too slow to draw at every key; name one student, and see `compare`")
        made = model.students[self.student]
        self.nfe = made.steps if nfe is None else nfe
        spent = dict(nfe=self.nfe) if self.nfe == made.steps or made.any_steps else dict(steps=self.nfe)
        self._plans = {verb: model.plan(verb, student=self.student, **spent) for verb in (DRAW, EDIT)}
        self.raw = raw or model.bagel.config.picture_side is None
        self.seed, self.history, self.pending = seed_of(seed), History(), None
        self._lock = threading.RLock()
        self._noise: tuple[int, Tensor] | None = None
        self._runs: dict[str, tuple[tuple, PictureRun | PlainRun]] = {}
        with torch.no_grad():  # opened here: what is made in inference mode could not be trained on
            self._denoiser = model.fast_student(self.student) if model.is_small() else model.open_student(self.student)
            self._side = model.processor.side
            shape = model.bagel.latent_grid(self._side, self._side)
            empty = torch.zeros(1, shape[0] * shape[1], model.bagel.config.latent_width, device=model.bagel.device)
            model.decode_pictures(empty, shape)  # the first time is slow: not at the first key

    # ---- at every key ------------------------------------------------------------------------------------------------

    def draw(self, text: str) -> Turn | Hint:
        """The picture of a prompt, shown but not accepted yet."""
        with self._lock:
            return self._typed(DRAW, text, None)

    def edit(self, text: str) -> Turn | Hint:
        """The current picture changed as an instruction says. A drawing that is shown is accepted first."""
        with self._lock:
            if self.pending is not None and self.pending.verb == DRAW:
                self.accept()
            return self._typed(EDIT, text, self.history.current)

    def _typed(self, verb: str, text: str, before: Turn | None) -> Turn | Hint:
        if verb == EDIT and before is None:
            return NO_PICTURE
        said = understood(verb, text) if not self.raw or not text.strip() else text
        if isinstance(said, Hint):
            return said
        last, seed = self.pending, self._next_seed()
        same = last is not None and (last.verb, last.said, last.seed, last.before) == (verb, said, seed, before)
        self.pending = retold(last, text) if same else self._made(verb, text, said, seed, before)
        return self.pending

    def _next_seed(self) -> int:
        return seed_of(self.seed + self.history.position)

    def _made(self, verb: str, text: str, said: str, seed: int, before: Turn | None) -> Turn:
        """A turn that is new: the one pass, and what is around it."""
        clock, meter, plan = Clock(self.model.bagel.device), Meter(), self._plans[verb]
        size = before.image.size[::-1] if before else (self._side,) * 2
        shape = self.model.bagel.latent_grid(*size)
        with torch.inference_mode():
            with clock("prefill"):
                run = self._run(verb, before, seed, shape)
                (ids,) = self.model.processor.encode([said])
                start, end = self.model.bagel.markers[:2]
                run.type([start, *ids, end])
            with clock("denoise"):
                x = self._sampled(run, plan, seed, shape, meter, picture=before is not None)
            with clock("decode picture"):
                pixels = self.model.decode_pictures(x, shape)
        image = Pictures(pixels, (said,), meter.rows, plan.steps, clock.seconds, (seed,)).image
        return Turn(verb, text, said, image, seed, before, meter.rows, self.student, clock.seconds)

    def _run(self, verb: str, before: Turn | None, seed: int, shape: tuple[int, int]) -> PictureRun | PlainRun:
        """What has been read of earlier keys. A new source, or another seed of its latent, begins anew."""
        key = () if before is None else (before, seed)
        if self._runs.get(verb, (None,))[0] != key:
            if before is None:
                prefix = self.model.bagel.empty(1)
            else:
                prefix = self.model.read_source(before.pixels[None] * 2 - 1, [seed], self._plans[verb], shape)
            make = PictureRun if self.model.is_small() else PlainRun
            self._runs[verb] = key, make(self._denoiser, prefix)
        return self._runs[verb][1]

    def read_ahead(self) -> None:
        """Read the current picture as the source of the next instruction, before its first key is pressed."""
        with self._lock:
            before = self.history.current
            if before is not None:
                shape = self.model.bagel.latent_grid(*before.image.size[::-1])
                with torch.inference_mode():
                    self._run(EDIT, before, self._next_seed(), shape)

    def _sampled(self, run, plan: SamplingPlan, seed: int, shape: tuple[int, int], meter: Meter, picture: bool):
        """Latent tokens [1, n, values] from this turn's noise."""
        key = seed, shape
        if self._noise is None or self._noise[0] != key:
            self._noise = key, noise(1, shape[0] * shape[1], self.model.bagel.config.latent_width, seed)
        how = dict(picture=picture, sampler=plan.sampler, seeds=[seed])
        steps = sample_student(run, run.context, self._noise[1], plan.grid, plan.guidance, meter, shape, **how)
        *_, (_, x) = steps
        return x

    # ---- turns -------------------------------------------------------------------------------------------------------

    @property
    def shown(self) -> Turn | None:
        """The picture in front of the person: the one being typed, else the current turn's."""
        return self.pending or self.history.current

    def accept(self) -> Turn | None:
        """The shown picture becomes the current turn, from which the next instruction goes on. None: nothing new is
        shown."""
        with self._lock:
            turn, self.pending = self.pending, None
            if turn is not None:
                self.history.push(turn)
            return turn

    def open(self, picture: Image.Image | Tensor | Pictures) -> Turn:
        """A picture from elsewhere as the next turn."""
        with self._lock:
            (pixels,) = self.model.processor.pictures(picture)[:1]
            self.pending = Turn(OPEN, "", "", to_image(pixels), self._next_seed())
            return self.accept()

    def undo(self) -> bool:
        """One turn back; a picture that is being typed goes first, and `redo` brings it back. False: nothing is left
        to be undone."""
        with self._lock:
            self.accept()
            return self.history.go_to(self.history.position - 1)

    def redo(self) -> bool:
        """One turn forward again. False: there is none, or something new is shown."""
        with self._lock:
            return self.pending is None and self.history.go_to(self.history.position + 1)

    def go_to(self, position: int) -> bool:
        """To any turn, counted from 1."""
        with self._lock:
            self.accept()
            return self.history.go_to(position)

    def restore(self, history: History) -> None:
        """Go on with a history that was saved. Raises ValueError if its pictures do not fit this model."""
        side = self.model.bagel.config.picture_side
        wrong = next((t for t in history.turns if side and t.image.size != (side, side)), None)
        if wrong is not None:
            raise ValueError(f"this model draws {side}x{side} pictures; the history has one of {wrong.image.size}")
        with self._lock:
            self.history, self.pending = history, None

    # ---- on demand ---------------------------------------------------------------------------------------------------

    def look(self) -> Look | None:
        """What the judge finds in the shown picture. It takes longer than drawing it, so it is not done at every
        key."""
        turn = self.shown
        return turn and Look(turn.reading, turn.drift, "" if self.raw else self._note(turn))

    def _note(self, turn: Turn) -> str:
        if turn.verb == DRAW:
            return "; ".join(self.model.limits_of([turn.said], self._plans[DRAW]).values())
        if turn.verb == EDIT and turn.before.reading is not None and turn.before.reading.scene is not None:
            of = parse_edit(turn.said).of
            try:
                if of is not None:
                    find(of, turn.before.reading.scene)
            except LanguageError as error:
                return str(error)
        return ""

    def compare(
        self,
        others: Sequence[dict] = (dict(nfe=6), dict(student="teacher")),
        is_overdue: Callable[[], bool] = lambda: False,
    ) -> Iterator[tuple[int, float, Turn | None]]:
        """The request that is shown, by others from the same noise: for each of them (which, share done, None) after
        every step, and (which, 1.0, its turn) at the end.

        others      what `Model.draw` and `Model.edit` take: nfe, steps, student
        is_overdue  asked after each step. Raises Stopped where it says yes
        """
        turn = self.shown
        if turn is None or turn.verb == OPEN:
            raise ValueError("there is no request to compare yet; draw or edit something first")
        for which, how in enumerate(others):
            yield from ((which, *step) for step in self._by_another(turn, is_overdue, **how))

    @torch.no_grad()
    def _by_another(self, turn: Turn, is_overdue, **how) -> Iterator[tuple[float, Turn | None]]:
        """By the plain path, as `Model.draw` and `Model.edit` do."""
        model, plan = self.model, self.model.plan(turn.verb, **how)
        clock, meter, seeds = Clock(model.bagel.device), Meter(), [turn.seed]
        shape, edited = model.bagel.latent_grid(*turn.image.size[::-1]), turn.before is not None
        with clock("prefill"):
            ids = model.processor.encode([turn.said])
            if edited:
                source = turn.before.pixels[None] * 2 - 1
                contexts = model.read_for_editing(source, ids, seeds, plan, shape)
            else:
                _, full = model.bagel.read_text(model.bagel.empty(1), ids)
                contexts = Contexts(full, no_text=model.bagel.empty(1), no_image=full)
        with clock("denoise"):
            steps = model.denoising(contexts, plan, shape, seeds, meter, edited)
            for number, (_, latest) in enumerate(steps, 1):
                x = latest
                if is_overdue():
                    raise Stopped
                yield min(number / plan.steps, 0.99), None
        with clock("decode picture"):
            pixels = model.decode_pictures(x, shape)
        image = Pictures(pixels, (turn.said,), meter.rows, plan.steps, clock.seconds, (turn.seed,)).image
        made = Turn(
            turn.verb, turn.text, turn.said, image, turn.seed, turn.before, meter.rows, plan.student, clock.seconds
        )
        yield 1.0, made
