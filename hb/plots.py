"""Data in, Figure out. No networks, no state, no pyplot: a figure is an object, shown inline where a kernel runs.

Colors carry meaning everywhere: blue is the understanding expert, orange the generation expert; green is right, red is
wrong, and a sign says so too.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from operator import itemgetter

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter
from PIL import Image
from torch import Tensor

INK, FAINT, PALE = "#24292f", "#6e7781", "#e6e8eb"
UNDERSTANDING, GENERATION = "#2f6db5", "#e08a2e"
RIGHT, WRONG = "#2c8f5b", "#cc3d3d"
SERIES = (UNDERSTANDING, GENERATION, "#7a4fb0", RIGHT, WRONG, FAINT)
EXPERT = {"text": UNDERSTANDING, "vit": UNDERSTANDING, "vae": GENERATION, "noise": GENERATION}
DPI = 90
SIGN = "sign"  # what marks right and wrong beside the color
PICTURE_COLORS, LINE_COLORS = 160, 40  # a palette makes a committed notebook four times smaller


class Chart(Figure):
    """A matplotlib figure that Jupyter shows without pyplot, as a small PNG."""

    def png(self, dpi: int = DPI) -> bytes:
        """The figure as a small PNG: few colors where it holds no pictures."""
        raw = io.BytesIO()
        self.savefig(raw, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
        colors = PICTURE_COLORS if any(ax.images for ax in self.axes) else LINE_COLORS
        image = Image.open(raw).convert("RGB").quantize(colors, dither=Image.Dither.NONE)
        out = io.BytesIO()
        image.save(out, "png", optimize=True)
        return out.getvalue()

    @property
    def alt(self) -> str:
        """What the figure shows, for readers who do not see it: its title, and what stands at its panels and axes."""
        words = [self.get_suptitle() or "figure"]
        for ax in self.axes:
            words += [ax.get_title(loc="left"), ax.get_title(), ax.get_ylabel(), ax.get_xlabel()]
            words += [text.get_text() for text in ax.texts if text.get_gid() == SIGN]
        return "; ".join(re.sub(r"\s+", " ", word) for word in dict.fromkeys(words) if word)

    def _repr_png_(self) -> tuple[bytes, dict]:
        return self.png(), {"alt": self.alt}

    def __repr__(self) -> str:
        return f"figure: {self.get_suptitle() or 'untitled'}"


def new_chart(width: float, height: float, rows: int = 1, columns: int = 1, **kwargs) -> tuple[Chart, np.ndarray]:
    figure = Chart(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **kwargs)
    return figure, axes


def plain(ax, grid: str | None = "y") -> None:
    """Few lines, quiet ticks."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(PALE)
    ax.tick_params(colors=FAINT, labelsize=8, length=0)
    ax.set_axisbelow(True)
    if grid:
        ax.grid(axis=grid, color=PALE, linewidth=0.8)


def titled(figure: Chart, title: str | None) -> None:
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK, fontweight="bold")


def labels(ax, x: str | None = None, y: str | None = None) -> None:
    ax.set_xlabel(x or "", fontsize=9, color=FAINT)
    ax.set_ylabel(y or "", fontsize=9, color=FAINT)


def legend(ax, **kwargs) -> None:
    ax.legend(frameon=False, fontsize=8, labelcolor=INK, **kwargs)


def wrapped(text: str, width: int) -> str:
    """Lines of at most `width` letters, cut between words."""
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + len(word) < width:
            lines[-1] += " " + word
        else:
            lines.append(word)
    return "\n".join(lines)


def band(ax, x, shares: Sequence[Mapping], color: str, name: str) -> None:
    """A line through values with their 95% interval as a band."""
    ax.fill_between(x, [s["low"] for s in shares], [s["high"] for s in shares], color=color, alpha=0.18, linewidth=0)
    ax.plot(x, [s["value"] for s in shares], color=color, linewidth=1.8, marker="o", markersize=4, label=name)


def _show(ax, picture: Tensor, right: bool | None = None) -> None:
    """A picture; where it was judged, a frame and a sign: color is not the only mark."""
    frame = None if right is None else (RIGHT if right else WRONG)
    if frame:
        box = dict(boxstyle="square,pad=0.12", facecolor="white", edgecolor="none", alpha=0.85)
        sign = dict(fontsize=8, color=frame, fontweight="bold", ha="left", va="top", gid=SIGN, bbox=box)
        ax.text(0.03, 0.97, "✓" if right else "✗", transform=ax.transAxes, **sign)
    ax.imshow(picture.clamp(0, 1).movedim(0, -1).numpy(), interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_color(frame or PALE)
        spine.set_linewidth(2.2 if frame else 0.8)


def sheet(
    pictures: Sequence[Tensor],
    captions: Sequence[str] | None = None,
    right: Sequence[bool | None] | None = None,
    *,
    columns: int = 6,
    size: float = 1.2,
    title: str | None = None,
) -> Chart:
    """Pictures [N, 3, H, W] in [0, 1], each with a caption; marked where judged: ✓ and green, ✗ and red."""
    n = len(pictures)
    columns = min(columns, n)
    rows = -(-n // columns)
    letters = int(size * 13)
    said = [wrapped(c, letters) for c in captions] if captions else [""] * n
    lines = max(c.count("\n") + 1 for c in said) if captions else 0
    figure, axes = new_chart(columns * size, rows * (size + 0.155 * lines) + (0.3 if title else 0.05), rows, columns)
    for i, ax in enumerate(axes.flat):
        if i >= n:
            ax.axis("off")
            continue
        _show(ax, pictures[i], right[i] if right is not None else None)
        ax.set_anchor("N")  # in the middle of too much height a picture pushes a long caption over the edge
        ax.set_xlabel(said[i], fontsize=7.5, color=INK, labelpad=3)
    titled(figure, title)
    return figure


def strip(
    rows: Mapping[str, Tensor],
    columns: Sequence[str],
    *,
    right: Mapping[str, Sequence[bool | None]] | None = None,
    size: float = 1.1,
    title: str | None = None,
) -> Chart:
    """A table of pictures: rows[name] is [len(columns), 3, H, W]. Steps across, settings down."""
    width = len(columns) * size + 0.075 * max(map(len, rows)) + 0.05
    height = len(rows) * size + (0.62 if title else 0.3)
    figure, axes = new_chart(width, height, len(rows), len(columns))
    for line, (name, pictures) in zip(axes, rows.items()):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8.5, color=INK, labelpad=6)
        for i, ax in enumerate(line):
            _show(ax, pictures[i], right[name][i] if right and name in right else None)
    for ax, name in zip(axes[0], columns):
        ax.set_title(name, fontsize=8.5, color=FAINT, pad=4)
    titled(figure, title)
    return figure


def ladder(rows: Sequence[Mapping], *, title: str | None = None, y: str = "share right") -> Chart:
    """Quality against cost: the teacher's two lines, and a mark for each student.

    rows as `hb.eval.scene.steps_ablation` makes them: guided, nfe, overall {value, low, high}, and student, None or
    left out for the teacher.
    """
    figure, axes = new_chart(6.4, 3.4)
    ax = axes[0, 0]
    for guided, color, name in ((True, UNDERSTANDING, "guided"), (False, GENERATION, "unguided")):
        line = sorted(
            ((r["nfe"], r["overall"]) for r in rows if r["guided"] == guided and not r.get("student")),
            key=itemgetter(0),
        )
        if line:
            band(ax, [n for n, _ in line], [o for _, o in line], color, name)
    for i, name in enumerate(dict.fromkeys(r["student"] for r in rows if r.get("student"))):
        mine = [r for r in rows if r.get("student") == name]
        value, low, high = (np.array([r["overall"][k] for r in mine]) for k in ("value", "low", "high"))
        x = [(1 + 0.05 * i) * r["nfe"] for r in mine]  # they cost the same: side by side, or none could be read
        ax.errorbar(
            x,
            value,
            yerr=[value - low, high - value],
            color=f"C{i + 2}",
            fmt="D",
            markersize=4,
            capsize=2,
            label=f"student {name}",
        )
    ax.set_xscale("log", base=2)
    ticks = [t for t in (1, 2, 3, 6, 12, 25, 50, 100) if t <= max(r["nfe"] for r in rows)]
    ax.set_xticks(ticks, [f"{t}" for t in ticks])
    ax.set_xticks([], minor=True)
    ax.set_ylim(0, 1.02)
    plain(ax)
    labels(ax, "function evaluations a picture (NFE)", y)
    legend(ax, loc="upper left")
    titled(figure, title)
    return figure


def complexity(seen: Mapping[str, Mapping], *, title: str | None = None) -> Chart:
    """Where much is asked: the share of right pictures by the number of things, and how many pictures have each kind of
    mistake.

    seen   who drew, and what `hb.eval.complex.complex_summary` gives of it: cells {"4 full": {right: {value, low,
           high}, ...}}, kinds
    """
    figure, axes = new_chart(8.4, 3.4, 1, 2)
    left, right = axes[0]
    for (who, got), color in zip(seen.items(), SERIES):
        for level, style in (("half", (0, (4, 2))), ("full", "-")):
            line = [(int(c.split()[0]), v["right"]) for c, v in got["cells"].items() if c.endswith(level)]
            band(left, [n for n, _ in line], [share for _, share in line], color, f"{who}, {level}")
            left.lines[-1].set_linestyle(style)
    left.set_xticks(range(1, 5))
    left.set_ylim(0, 1.02)
    plain(left)
    labels(left, "things in the prompt", "share right")
    legend(left, loc="lower left")
    height = 0.8 / len(seen)
    for i, ((who, got), color) in enumerate(zip(seen.items(), SERIES)):
        y = np.arange(len(got["kinds"])) + height * (i - (len(seen) - 1) / 2)
        right.barh(y, list(got["kinds"].values()), height=0.9 * height, color=color, label=who)
    right.set_yticks(range(len(got["kinds"])), list(got["kinds"]))
    right.invert_yaxis()
    plain(right, "x")
    labels(right, "pictures with this mistake")
    legend(right, loc="best")
    titled(figure, title)
    return figure


def learning_curve(
    curves: Mapping[str, Sequence[float]],
    *,
    steps: Sequence[int] | None = None,
    smooth: float = 0.0,
    log: bool = False,
    levels: Mapping[str, float] | None = None,
    x: str = "step",
    y: str = "loss",
    title: str | None = None,
) -> Chart:
    """Losses against steps. smooth: share of the past in a running mean; levels: named lines."""
    figure, axes = new_chart(6.4, 3.0)
    ax = axes[0, 0]
    for (name, values), color in zip(curves.items(), SERIES):
        at = np.arange(1, len(values) + 1) if steps is None else steps
        if smooth:
            ax.plot(at, values, color=color, alpha=0.22, linewidth=0.8)
        ax.plot(at, _running(values, smooth), color=color, linewidth=1.7, label=name)
    for name, level in (levels or {}).items():
        ax.axhline(level, color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
        where = dict(xycoords=("axes fraction", "data"), ha="left", va="bottom")
        ax.annotate(f" {name}", (0, level), fontsize=8, color=FAINT, **where)
    if log:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.minorticks_off()
    plain(ax)
    labels(ax, x, y)
    legend(ax, loc="upper right")
    titled(figure, title)
    return figure


def _running(values: Sequence[float], share: float) -> np.ndarray:
    """Exponential running mean, corrected for its cold start."""
    out, mean, weight = [], 0.0, 0.0
    for value in values:
        mean, weight = share * mean + (1 - share) * value, share * weight + (1 - share)
        out.append(mean / weight)
    return np.array(out)


def response(
    x: Sequence[float],
    lines: Mapping[str, Sequence],
    *,
    xlabel: str,
    ylabel: str = "",
    marks: Mapping[str, float] | None = None,
    doubling: bool = False,
    title: str | None = None,
) -> Chart:
    """Values against a setting. A line is numbers, or dicts with value, low and high where there is an interval.

    marks: named values of the setting, drawn as thin vertical lines. doubling: each x twice as far as the one before.
    """
    figure, axes = new_chart(6.4, 3.0)
    ax = axes[0, 0]
    for (name, values), color in zip(lines.items(), SERIES):
        if isinstance(values[0], Mapping):
            band(ax, x, values, color, name)
        else:
            dot = "o" if len(x) <= 30 else None
            ax.plot(x, values, color=color, linewidth=1.8, marker=dot, markersize=3.5, label=name)
    for name, at in (marks or {}).items():
        ax.axvline(at, color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
        ax.annotate(f" {name}", (at, 1), xycoords=("data", "axes fraction"), va="top", fontsize=8, color=FAINT)
    if doubling:
        ax.set_xscale("log", base=2)
        ax.set_xticks(x, [f"{value:g}" for value in x])
        ax.set_xticks([], minor=True)
    plain(ax)
    labels(ax, xlabel, ylabel)
    # inside, a long legend would cover lines
    legend(ax, **(dict(loc="best") if len(lines) <= 4 else dict(loc="upper left", bbox_to_anchor=(1.0, 1.0))))
    titled(figure, title)
    return figure


def calibration(curves: Mapping[str, Sequence[Mapping]], *, title: str | None = None) -> Chart:
    """Predicted probabilities against how often it came so: on the diagonal they are right.

    curves   by name, bins as `hb.eval.reward.calibration` makes them: predicted, frequency {value, low, high, n}
    """
    figure, axes = new_chart(4.6, 3.8)
    ax = axes[0, 0]
    ax.plot([0.5, 1], [0.5, 1], color=FAINT, linewidth=1, linestyle=(0, (4, 3)), label="calibrated")
    for (name, bins), color in zip(curves.items(), SERIES):
        band(ax, [b["predicted"] for b in bins], [b["frequency"] for b in bins], color, name)
    ax.set_xlim(0.48, 1.01)
    plain(ax, "both")
    labels(ax, "probability given to the picture predicted to win", "how often it was chosen")
    legend(ax, loc="upper left")
    titled(figure, title)
    return figure
