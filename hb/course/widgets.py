"""Controls around a figure: what the widgets of all chapters share.

Nothing trains here, and nothing is drawn while a slider is still moving. A widget is a box; its controls are in
`box.controls`, by name, and setting one's `.value` does what a hand would do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import ipywidgets as w
import torch
from torch import Tensor

from hb import plots
from hb.pictures import to_tensor

if TYPE_CHECKING:  # heavy, and not every widget is handed a model
    from hb.infer.pipeline import Pictures


def live(draw: Callable[..., plots.Chart | tuple[plots.Chart, str]], **controls: w.Widget) -> w.VBox:
    """Controls above a picture that `draw(**values)` makes; a second result is a line of text below it.

    What goes wrong in `draw` because of what was typed is said in that line; the last good picture stays.
    """
    picture, note = w.Image(format="png"), w.HTML()

    def redraw(_=None):
        try:
            made = draw(**{name: control.value for name, control in controls.items()})
        except ValueError as error:
            note.value = f"<span style='color:{plots.WRONG}'>{error}</span>"
            return
        chart, note.value = made if isinstance(made, tuple) else (made, "")
        picture.value = chart.png()

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
