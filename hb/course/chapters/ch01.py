"""Notebook 01, the tiny world: scenes, distributions, and the judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ipywidgets as w
import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle

from hb import plots
from hb.course.exercises import Hint, call, close, exercise, expect, expect_number
from hb.course.widgets import live, slider
from hb.world.judge.damage import DAMAGES, damage
from hb.world.judge.judge import check
from hb.world.judge.reading import Reading, read
from hb.world.language import LanguageError, describe, say
from hb.world.render import render
from hb.world.scene import BACKGROUNDS, COLORS, PLACES, SHAPES, SIZES, TEXTURES, Request, Scene, Thing, Wish

_SIGN = {True: "✓ ", False: "✗ ", None: ""}  # what the judge should do


def confusion(rows: Sequence, *, title: str | None = None) -> plots.Chart:
    """How the judge fares under damage: rows of `hb.world.judge.judge.confusion`. A cell is the share called clean; its
    frame says what it should be (green: accepted, red: refused, none: a matter of taste); below, the share misread.
    """
    kinds = list(dict.fromkeys(row.kind for row in rows))
    widest = max(sum(r.kind == k for r in rows) for k in kinds)
    figure, axes = plots.new_chart(0.95 * widest + 1.5, 0.43 * len(kinds) + 0.95)
    ax = axes[0, 0]
    shade = LinearSegmentedColormap.from_list("accepted", ["#fbeaea", "#f4f4f4", "#d3ecdd"])
    for y, kind in enumerate(kinds):
        for x, row in enumerate(sorted((r for r in rows if r.kind == kind), key=lambda r: r.strength)):
            ax.add_patch(Rectangle((x, y), 0.96, 0.92, color=shade(row.accepted), linewidth=0))
            if row.accept is not None:
                frame = plots.RIGHT if row.accept else plots.WRONG
                ax.add_patch(Rectangle((x + 0.025, y + 0.03), 0.91, 0.86, fill=False, edgecolor=frame, linewidth=1.3))
            ax.text(
                x + 0.07, y + 0.46, f"{_SIGN[row.accept]}{row.strength:g}", fontsize=7, color=plots.FAINT, va="center"
            )
            ax.text(x + 0.90, y + 0.46, f"{row.accepted:.0%}", fontsize=8.5, color=plots.INK, va="center", ha="right")
            if row.misread:
                ax.text(x + 0.07, y + 0.80, f"misread {row.misread:.1%}", fontsize=5.5, color=plots.WRONG, va="center")
    ax.set_xlim(0, widest)
    ax.set_ylim(len(kinds), 0)
    ax.set_yticks(np.arange(len(kinds)) + 0.46, kinds, fontsize=9, color=plots.INK)
    ax.set_xticks([])
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    plots.labels(
        ax, "gray: how strong; black: share the judge calls clean\n✓ green frame: should be accepted; ✗ red: refused"
    )
    plots.titled(figure, title)
    return figure


def distributions(
    panels: Mapping[str, tuple[Mapping[str, float], Mapping | None]], *, title: str | None = None
) -> plots.Chart:
    """True distributions as bars and, where there is one, what was seen as dots: panels[name] = (distribution, seen or
    None)."""
    widths = [len(distribution) + 1.5 for distribution, _ in panels.values()]
    figure, axes = plots.new_chart(7.4, 2.5, 1, len(panels), sharey=True, gridspec_kw=dict(width_ratios=widths))
    for ax, (name, (distribution, seen)) in zip(axes[0], panels.items()):
        ax.bar(
            range(len(distribution)),
            list(distribution.values()),
            color=plots.UNDERSTANDING,
            width=0.72,
            alpha=0.85,
            label="the distribution",
        )
        if seen is not None:
            ax.plot(
                range(len(distribution)),
                [seen.get(k, 0) for k in distribution],
                "o",
                color=plots.GENERATION,
                markersize=5,
                label="seen",
            )
        plots.plain(ax)
        ax.set_xticks(
            range(len(distribution)), list(distribution), rotation=60, ha="right", rotation_mode="anchor", fontsize=7.5
        )
        ax.set_title(name, fontsize=9, color=plots.INK, pad=4)
    plots.labels(axes[0, 0], None, "probability")
    if any(seen is not None for _, seen in panels.values()):
        plots.legend(axes[0, -1], loc="upper right")
    plots.titled(figure, title)
    return figure


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
        shape=choice(SHAPES, "shape"),
        color=choice(COLORS, "color"),
        size=choice(SIZES[::-1], "size"),
        texture=choice(TEXTURES, "texture"),
        place=choice(PLACES, "place"),
        background=choice(BACKGROUNDS, "background"),
        damaged_by=choice(["nothing", *DAMAGES], "damage"),
        strength=slider(w.FloatSlider, 0.0, 0.0, 2.5, 0.05, "strength"),
    )


# ---- exercises -------------------------------------------------------------------------------------------------------


@exercise("1.1")
def _discrete_scenes(answer):
    """How many different scenes "a circle" can mean, places, turn and shade aside."""
    expect_number(
        answer,
        160,
        {
            80: "does the prompt give the texture?",
            32: "does the prompt give the background?",
            1280: "the shape is given: a circle",
            20: "does the prompt give the color?",
            17: "choices multiply",
            1: "look again at what the prompt leaves unsaid",
        },
        "multiply the numbers of choices for what the prompt leaves unsaid",
    )


@exercise("1.2")
def _fits(answer):
    """fits(thing, wish): does the thing have everything the wish asks?"""
    thing = Thing("circle", "red", "small", 0.5, 0.5)
    if call(answer, thing, Wish()) is False:
        raise Hint("an empty wish is met by every thing: None means 'left to chance'")
    if not call(answer, thing, Wish("circle", "red")):
        raise Hint("a red circle was asked and is there; what a wish leaves None must not count against the thing")
    for wish in (Wish("star"), Wish("circle", "blue"), Wish(size="large"), Wish("circle", texture="striped")):
        if call(answer, thing, wish):
            said = " ".join(v for v in (wish.size, wish.texture, wish.color, wish.shape) if v)
            raise Hint(f"a small plain red circle is not '{said}'; every attribute of the wish must agree")


@exercise("1.3")
def _total_variation(answer):
    """total_variation(p, q) of two distributions given as dicts over the same words."""
    p, q = {"a": 0.5, "b": 0.3, "c": 0.2}, {"a": 0.1, "b": 0.6, "c": 0.3}
    expect(
        call(answer, p, q),
        0.4,
        [
            (0.8, "half of it: what one distribution has too much, the other has too little, and you counted both"),
            (0.4**2 + 0.3**2 + 0.1**2, "absolute differences, not squares"),
            (0.0, "without absolute values the differences cancel: both distributions add up to 1"),
            (0.6, "that is how much the distributions share; the variation is what they do not"),
        ],
        "half the sum of |p - q| over all words",
    )
    if not close(call(answer, p, p), 0.0):
        raise Hint("a distribution does not differ from itself")
