"""Controls around a figure: what the widgets of all chapters share.

Nothing trains here, and nothing is drawn while a slider is still moving. A widget is a box; its controls are in
`box.controls`, by name, and setting one's `.value` does what a hand would do.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING

import ipywidgets as w
import torch
from torch import Tensor

from hb import plots
from hb.pictures import to_tensor

if TYPE_CHECKING:  # heavy, and not every widget is handed a model
    from hb.infer.pipeline import Pictures


class Picture(w.HTML):
    """A chart at its own size, rendered with twice as many pixels, with a text for readers who do not see it."""

    png = b""

    def show(self, chart: plots.Chart) -> None:
        self.png = chart.png(2 * plots.DPI)
        data, width = b64encode(self.png).decode(), round(chart.get_figwidth() * plots.DPI)
        self.value = f'<img alt="{escape(chart.alt)}" width="{width}" src="data:image/png;base64,{data}">'


def live(draw: Callable[..., plots.Chart | tuple[plots.Chart, str]], **controls: w.Widget) -> w.VBox:
    """Controls above a picture that `draw(**values)` makes; a second result is a line of text below it.

    While `draw` runs the line says so. A ValueError of `draw` is shown there, and the last good picture stays.
    """
    picture, note = Picture(), w.HTML()

    def redraw(_=None):
        note.value = "drawing …"
        try:
            made = draw(**{name: control.value for name, control in controls.items()})
        except ValueError as error:
            note.value = f"<span style='color:{plots.WRONG}'>✗ {error}</span>"
            return
        chart, text = made if isinstance(made, tuple) else (made, "")
        picture.show(chart)
        note.value = text

    for control in controls.values():
        control.observe(redraw, names="value")
    redraw()
    box = w.VBox([w.HBox(list(controls.values()), layout=w.Layout(flex_flow="row wrap")), picture, note])
    box.controls, box.picture, box.note, box.draw = controls, picture, note, draw
    return box


def slider(kind, value, low, high, step, name):
    return kind(value=value, min=low, max=high, step=step, description=name, continuous_update=False)


def as_seen(pictures: Pictures) -> Tensor:
    """Pictures as a person gets them, rounded to bytes: [B, 3, H, W] in [0, 1]."""
    return torch.stack([to_tensor(image) for image in pictures.images]) / 2 + 0.5
