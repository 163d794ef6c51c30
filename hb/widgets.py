"""Sliders around plots. Each widget calls one plain function of its arguments, which draws the static figure too.

Nothing trains here, and nothing is drawn while a slider is still moving. A widget is a box; its controls are in
`box.controls`, by name, and setting one's `.value` does what a hand would do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import ipywidgets as w
import torch
from torch import Tensor

from hb import plots
from hb.flow import euler, time_grid
from hb.guidance import Guidance
from hb.model.sequence import MODES, may_attend
from hb.preprocess import to_tensor
from hb.world.judge import DAMAGES, Reading, check, damage, read
from hb.world.language import LanguageError, describe, parse, say
from hb.world.render import render
from hb.world.scene import BACKGROUNDS, COLORS, PLACES, SHAPES, SIZES, TEXTURES, Request, Scene, Thing, Wish

if TYPE_CHECKING:  # the engine is heavy, and only some widgets are handed a model
    from hb.engine import Model, Pictures


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


def _slider(kind, value, low, high, step, name):
    return kind(value=value, min=low, max=high, step=step, description=name, continuous_update=False)


# ---- the same noise, other settings ---------------------------------------------------------------------------------


def _seen(pictures: Pictures) -> Tensor:
    """Pictures as a person gets them, rounded to bytes: [B, 3, H, W] in [0, 1]."""
    return torch.stack([to_tensor(image) for image in pictures.images]) / 2 + 0.5


def compare_figure(
    model: Model, prompt: str, *, steps: Sequence[int] = (50, 12, 6, 2, 1), text_scales: Sequence[float] = (4.0, 1.0),
    seed: int = 0, title: str | None = None,
) -> plots.Chart:
    """One prompt from one noise: steps across, guidance down, framed by the judge's verdict."""  # fmt: skip
    request = parse(prompt)
    rows, right = {}, {}
    for scale in text_scales:
        drawn = [model.draw(prompt, steps=n, text_scale=scale, seed=seed) for n in steps]
        seen = torch.cat([_seen(d) for d in drawn])
        name = f"text scale {scale:g}" if scale > 1 else "unguided"
        rows[name], right[name] = seen, [check(r, request).right for r in read(seen)]
    return plots.strip(rows, [f"{n} steps" if n > 1 else "1 step" for n in steps], right=right, title=title)


def compare(model: Model, prompt: str = "a red circle left of a blue star", steps: int = 12) -> w.VBox:
    """Turn steps, guidance and seed: the picture asked for, beside what 50 steps make of the same noise."""

    def draw(prompt, steps, text_scale, seed):
        request = parse(prompt)
        reference = model.draw(prompt, seed=seed)
        drawn = model.draw(prompt, steps=steps, text_scale=text_scale, seed=seed)
        seen = torch.cat([_seen(reference), _seen(drawn)])
        verdicts = [check(r, request) for r in read(seen)]
        captions = [f"the preset: {reference.nfe:g} NFE", f"yours: {drawn.nfe:g} NFE"]
        chart = plots.sheet(seen, captions, [v.right for v in verdicts], columns=2, size=2.0)
        why = verdicts[1].reasons
        return chart, "The judge: " + ("right." if not why else "; ".join(why[:3]) + ".")

    return live(
        draw,
        prompt=w.Text(value=prompt, description="prompt", continuous_update=False),
        steps=_slider(w.IntSlider, steps, 1, 50, 1, "steps"),
        text_scale=_slider(w.FloatSlider, 4.0, 1.0, 10.0, 0.5, "text scale"),
        seed=_slider(w.IntSlider, 0, 0, 99, 1, "seed"),
    )


# ---- who may look at whom -------------------------------------------------------------------------------------------

# name -> splits: kind, tokens, what to call it. Pictures carry two markers; real ones have 16 or 64 tokens more.
PLANS = {
    "drawing": [("text", 6, "prompt"), ("noise", 8, "noised picture")],
    "asking": [("vit", 10, "picture (ViT)"), ("text", 6, "question"), ("text", 5, "answer")],
    "editing": [("vae", 8, "picture (clean latent)"), ("vit", 10, "picture (ViT)"), ("text", 6, "instruction"),
                ("noise", 8, "new picture (noised)")],
    "training on a chain of edits": [
        ("text", 4, "prompt"), ("noise", 6, "1st picture, noised"), ("vae", 6, "1st, clean"), ("vit", 8, "1st, ViT"),
        ("text", 4, "instruction"), ("noise", 6, "2nd picture, noised"), ("vae", 6, "2nd, clean")],
}  # fmt: skip


def rope_positions(kinds: Sequence[str], lengths: Sequence[int]) -> list[int]:
    """Text counts up, a picture's tokens share one position, a noised picture does not move what follows."""
    out, at = [], 0
    for kind, n in zip(kinds, lengths):
        out += [at + i for i in range(n)] if kind == "text" else [at] * n
        at += {"text": n, "noise": 0}.get(kind, 1)
    return out


def attention_figure(plan: str = "editing") -> plots.Chart:
    """The attention rule for a plan of splits, coloured by expert."""
    if plan not in PLANS:
        raise ValueError(f"no plan called {plan!r}; choose from {', '.join(PLANS)}")
    kinds, lengths, names = zip(*PLANS[plan])
    mask = may_attend(lengths, [MODES[kind] for kind in kinds])
    at = rope_positions(kinds, lengths)
    return plots.attention_rule(mask, kinds, lengths, at, names=names, title=plan.capitalize())


def attention_viewer() -> w.VBox:
    """Choose a plan of splits: mask, positions, experts."""
    return live(attention_figure, plan=w.Dropdown(options=list(PLANS), value="editing", description="plan"))


# ---- making a scene -------------------------------------------------------------------------------------------------

SPOTS = {place: ((0.2, 0.5, 0.8)[i % 3], (0.2, 0.5, 0.8)[i // 3]) for i, place in enumerate(PLACES)}


def scene_figure(scene: Scene, damaged_by: str = "nothing", strength: float = 0.0) -> tuple[plots.Chart, str]:
    """A scene as drawn and as the judge reads it after a damage, and the words for it."""
    clean = render([scene])
    seen = clean if damaged_by == "nothing" else damage(clean, damaged_by, strength, torch.Generator().manual_seed(0))
    reading = read(seen[0])
    request = Request(tuple(Wish(t.shape, t.color) for t in scene.things), background=scene.background)
    verdict = check(reading, request)
    chart = plots.sheet(torch.cat([clean, seen]), ["drawn", "judged"], [None, verdict.right], columns=2, size=2.0)
    lines = {"prompt": say(request), "description": describe(scene), "the judge reads": reading_in_words(reading)}
    if verdict.reasons:
        lines["what is wrong"] = "; ".join(verdict.reasons[:3])
    return chart, "<br>".join(f"<b>{name}</b>: {said}" for name, said in lines.items())


def reading_in_words(reading: Reading) -> str:
    """What the judge saw, as a sentence."""
    if reading.scene is None:
        return "nothing it could call a scene"
    return describe(reading.scene)


def scene_maker() -> w.VBox:
    """Dropdowns for one thing (a striped green star stands beside it), and a damage to turn up."""

    def draw(shape, color, size, texture, place, background, damaged_by, strength):
        x, y = SPOTS[place]
        thing = Thing(shape, color, size, x, y, texture)
        corner = SPOTS["bottom right" if place != "bottom right" else "top left"]
        beside = Thing("star", "green", "small", *corner, "striped")
        scene = Scene((thing, beside), background)
        if not scene.has_room():
            raise LanguageError(f"there is no room for a {size} {shape} there; choose another place")
        return scene_figure(scene, damaged_by, strength)

    choice = lambda options, name: w.Dropdown(options=list(options), description=name)
    return live(
        draw,
        shape=choice(SHAPES, "shape"), color=choice(COLORS, "color"), size=choice(SIZES[::-1], "size"),
        texture=choice(TEXTURES, "texture"), place=choice(PLACES, "place"),
        background=choice(BACKGROUNDS, "background"), damaged_by=choice(["nothing", *DAMAGES], "damage"),
        strength=_slider(w.FloatSlider, 0.0, 0.0, 2.5, 0.05, "strength"),
    )  # fmt: skip


# ---- walking a known flow -------------------------------------------------------------------------------------------


def walk(teacher, steps: int, *, shift: float = 1.0, count: int = 70, seed: int = 0) -> Tensor:
    """Paths [steps + 1, count, 2] from fixed noise down a velocity field of the plane."""
    x = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    return torch.stack([x, *(x for _, x in euler(teacher.velocity, x, time_grid(steps, shift)))])


def walk_figure(
    teacher, data: Tensor, steps: Sequence[int] = (50, 6, 2, 1), shift: float = 1.0, seed: int = 0
) -> plots.Chart:
    """The same noise, walked in fewer and fewer steps."""
    panels = {f"{n} steps" if n > 1 else "1 step": walk(teacher, n, shift=shift, seed=seed) for n in steps}
    bent = plots.most_bent(next(iter(panels.values())))
    return plots.trajectories(panels, data=data, marked=bent, title="The same noise, fewer steps")


def path_walker(teacher, data: Tensor) -> w.VBox:
    """Turn steps, shift and seed; one path is drawn thick."""

    def draw(steps, shift, seed):
        paths = walk(teacher, steps, shift=shift, seed=seed)
        near = torch.cdist(paths[-1], data).min(1).values
        chart = plots.trajectories({f"{steps} steps": paths}, data=data, marked=plots.most_bent(paths), size=3.4)
        return chart, f"mean distance from the nearest data point: {near.mean():.3f}"

    return live(
        draw, steps=_slider(w.IntSlider, 6, 1, 50, 1, "steps"),
        shift=_slider(w.FloatSlider, 1.0, 0.25, 6.0, 0.25, "shift"), seed=_slider(w.IntSlider, 0, 0, 20, 1, "seed"),
    )  # fmt: skip


# ---- the ledger -----------------------------------------------------------------------------------------------------


def bill(steps: int = 50, shift: float = 3.0, low: float = 0.4, high: float = 1.0, text: bool = True,
         picture: bool = True) -> list[int]:  # fmt: skip
    """Branches that each step pays for."""
    guidance = Guidance(4.0 if text else 1.0, 2.0 if picture else 1.0, (low, high))
    return [guidance.branches_at(float(t)) for t in time_grid(steps, shift)[:-1]]


def bill_figure(**settings) -> plots.Chart:
    """One bill beside the two that the paper starts from."""
    rows = {"paper: draw": bill(low=0.0, picture=False), "paper: edit": bill(), "yours": bill(**settings)}
    return plots.ledger(rows, title="What a picture costs")


def ledger_dial() -> w.VBox:
    """Turn steps, shift and interval, switch the branches: the bill, step by step."""

    def draw(steps, shift, interval, text, picture):
        return bill_figure(steps=steps, shift=shift, low=interval[0], high=interval[1], text=text, picture=picture)

    return live(
        draw,
        steps=_slider(w.IntSlider, 50, 1, 100, 1, "steps"),
        shift=_slider(w.FloatSlider, 3.0, 0.5, 6.0, 0.1, "shift"),
        interval=w.FloatRangeSlider(
            value=(0.4, 1.0), min=0.0, max=1.0, step=0.05, description="interval", continuous_update=False
        ),
        text=w.Checkbox(value=True, description="text guidance"),
        picture=w.Checkbox(value=True, description="picture guidance"),
    )
