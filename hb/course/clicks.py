"""The preference clicker: two pictures side by side, and a click for the better one.

    clicker = PreferenceClicker("my_clicks", comparisons_of(model, ["a red star", "two circles"]))
    clicker                      # shows itself in a notebook; each click is written at once
    hb train reward --clicks my_clicks/preferences.jsonl

Everything that a hand does is a method too: `choose(0)`, `choose(1)`, `choose(None)`, `undo()`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import ipywidgets as w
import torch
from torch import Tensor

from hb import plots
from hb.bayes import LinearUtility
from hb.data.preferences import Preference, PreferenceFile, now, save_picture
from hb.pictures import to_image

if TYPE_CHECKING:  # heavy, and not every clicker is handed a model
    from hb.infer.pipeline import Model
    from hb.models.rewards import RewardModel

FILE = "preferences.jsonl"


@dataclass(frozen=True)
class Comparison:
    """Two pictures [3, H, W] in [0, 1] of one prompt, or of one instruction and the picture it was said of."""

    text: str
    pictures: tuple[Tensor, Tensor]
    source: Tensor | None = None


def comparisons_of(model: Model, prompts: Sequence[str], *, seed: int = 0, **draw) -> Iterator[Comparison]:
    """Two drawings of each prompt, drawn when they are needed. draw: what `Model.draw` takes (nfe, student, ...)."""
    for number, prompt in enumerate(prompts):
        first, second = model.draw([prompt] * 2, seed=seed + 2 * number, **draw).pixels
        yield Comparison(prompt, (first, second))


class PreferenceClicker(w.VBox):
    """Shows one comparison after another and writes what is clicked to `preferences.jsonl` in its folder, with the
    pictures beside it. A folder that holds clicks already is gone on with: comparisons are numbered, and those that
    have a click by this annotator are not asked again.

    comparisons   any iterable; the next one is taken when it is to be shown
    done          a comparison's place in the order, and the row it became, for each click of this session and earlier
    """

    def __init__(self, folder: str | Path, comparisons, *, annotator: str = "me", zoom: int = 4):
        self.folder, self.annotator, self.zoom = Path(folder), annotator, zoom
        self.file = PreferenceFile(self.folder / FILE)
        self.comparisons = iter(comparisons)
        self.seen: list[Comparison] = []  # taken from `comparisons` so far
        self.at = 0
        self.sides = tuple(w.Image(format="png") for _ in range(2))
        self.source, self.words, self.note = w.Image(format="png"), w.HTML(), w.HTML()
        named = dict(left="This one is better", none="Cannot decide", right="This one is better", undo="Undo")
        self.controls = {name: w.Button(description=text) for name, text in named.items()}
        for name, act in dict(left=0, none=None, right=1).items():
            self.controls[name].on_click(lambda _, choice=act: self.choose(choice))
        self.controls["undo"].on_click(lambda _: self.undo())
        columns = [
            w.VBox([self.sides[0], self.controls["left"]]),
            w.VBox([self.controls["none"], self.controls["undo"]]),
            w.VBox([self.sides[1], self.controls["right"]]),
        ]
        super().__init__([self.words, self.source, w.HBox(columns), self.note])
        self._clicked = {row.pictures: row for row in self.file.rows if row.annotator == annotator}
        self._show()

    # ---- what a hand does -------------------------------------------------------------------------------------------

    def choose(self, choice: int | None) -> None:
        """Write that the left (0) or the right (1) picture is better, or that neither is (None), and show the next."""
        if choice not in (0, 1, None):
            raise ValueError(f"a choice is 0 for the left picture, 1 for the right one, or None, got {choice!r}")
        shown = self.current
        if shown is None:
            return
        names = self._names(self.at)
        for name, picture in zip(names, (*shown.pictures, shown.source)):
            if picture is not None and not (self.folder / name).exists():
                save_picture(picture, self.folder / name)
        source = None if shown.source is None else names[2]
        row = Preference(shown.text, names[:2], choice, self.annotator, now(), source)
        self.file.append(row)
        self._clicked[row.pictures] = row
        self._show()

    def undo(self) -> None:
        """Take the last click back, out of the file too, and show its pictures again."""
        rows = self.file.rows
        if not rows or rows[-1].annotator != self.annotator:
            self.note.value = "There is no click of yours to take back."
            return
        row = self.file.undo()
        self._clicked.pop(row.pictures, None)
        self.at = 0
        self._show()

    # ---- what is shown ----------------------------------------------------------------------------------------------

    @property
    def current(self) -> Comparison | None:
        """What is shown now; None where all are done."""
        return self.seen[self.at] if self.at < len(self.seen) else None

    @property
    def preferences(self) -> list[Preference]:
        """This annotator's clicks."""
        return [row for row in self.file.rows if row.annotator == self.annotator]

    def _names(self, at: int) -> tuple[str, str, str]:
        return tuple(f"pictures/{at:05}-{side}.png" for side in ("left", "right", "source"))

    def _show(self) -> None:
        """The first comparison without a click."""
        self.at = 0
        while self._names(self.at)[:2] in self._clicked or self.at >= len(self.seen):
            if self.at >= len(self.seen):
                taken = next(self.comparisons, None)
                if taken is None:
                    break
                self.seen.append(taken)
                continue
            self.at += 1
        shown, count = self.current, len(self.preferences)
        decided = sum(row.choice is not None for row in self.preferences)
        self.note.value = f"{count} clicks, {decided} of them decided, in {escape(str(self.file.path))}"
        for name, control in self.controls.items():
            control.disabled = shown is None if name != "undo" else not count
        if shown is None:
            self.words.value = "<b>All done.</b> Thank you."
            return
        which = "Which picture is better for" if shown.source is None else "Which result is better for"
        self.words.value = f"{which} <b>{escape(shown.text)}</b>?"
        for side, picture in zip(self.sides, shown.pictures):
            self._put(side, picture)
        self.source.layout.display = "none" if shown.source is None else ""
        if shown.source is not None:
            self._put(self.source, shown.source)

    def _put(self, where: w.Image, picture: Tensor) -> None:
        image, out = to_image(picture * 2 - 1), io.BytesIO()
        image.resize((image.width * self.zoom, image.height * self.zoom), resample=0).save(out, "png")
        where.value = out.getvalue()


# ---- ten clicks -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def features_of(reward: RewardModel, model: Model, text: str, pictures: Tensor) -> Tensor:
    """What the head of a reward is linear in, of pictures [B, 3, H, W] in [0, 1] for one prompt: [B, width]."""
    ids, length = torch.tensor([[model.text.start, *model.text.encode(text), model.text.end]]), None
    length = torch.tensor([ids.size(1)])
    condition = reward.condition(model.bagel, ids, length).select(torch.zeros(len(pictures), dtype=torch.long))
    return reward.head.pooled(reward.features(pictures * 2 - 1), condition)


def beliefs(better: Tensor, worse: Tensor, *, scale: float = 1.0, noise: float = 1.0) -> list[LinearUtility]:
    """What is believed before the first of these clicks, and after each: features [n, D] of the preferred pictures and
    of the others. The belief is about a linear utility of the features."""
    steps = [LinearUtility.unknown(better.size(1), scale=scale, noise=noise)]
    for pair in zip(better, worse, strict=True):
        steps.append(steps[-1].updated(*pair))
    return steps


def belief_chart(steps: Sequence[LinearUtility], features: Tensor, names: Sequence[str]) -> plots.Chart:
    """mu and sigma of some pictures, features [B, D], click by click: mu moves, sigma shrinks."""
    found = [belief.predict(features) for belief in steps]
    lines = {
        name: [
            dict(value=float(mu[i]), low=float(mu[i] - sigma[i]), high=float(mu[i] + sigma[i])) for mu, sigma in found
        ]
        for i, name in enumerate(names)
    }
    title = "What clicks teach: mu, and one sigma around it"
    return plots.response(range(len(steps)), lines, xlabel="clicks", ylabel="utility", title=title)
