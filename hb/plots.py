"""Data in, Figure out. No networks, no state, no pyplot: a figure is an object, shown inline where a kernel runs.

Colours carry meaning everywhere: blue is the understanding expert, orange the generation expert; green is right, red is
wrong.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from operator import itemgetter

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, StrMethodFormatter
from PIL import Image
from torch import Tensor

INK, FAINT, PALE = "#24292f", "#6e7781", "#e6e8eb"
UNDERSTANDING, GENERATION = "#2f6db5", "#e08a2e"
RIGHT, WRONG = "#2c8f5b", "#cc3d3d"
SERIES = (UNDERSTANDING, GENERATION, "#7a4fb0", RIGHT, WRONG, FAINT)
EXPERT = {"text": UNDERSTANDING, "vit": UNDERSTANDING, "vae": GENERATION, "noise": GENERATION}
KINDS = {"text": "text", "vit": "eyes (ViT)", "vae": "clean latent", "noise": "noised latent"}
DPI = 90
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

    def _repr_png_(self) -> bytes:
        return self.png()

    def __repr__(self) -> str:
        return f"figure: {self.get_suptitle() or 'untitled'}"


def _chart(width: float, height: float, rows: int = 1, columns: int = 1, **kwargs) -> tuple[Chart, np.ndarray]:
    figure = Chart(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **kwargs)
    return figure, axes


def _plain(ax, grid: str | None = "y") -> None:
    """Few lines, quiet ticks."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(PALE)
    ax.tick_params(colors=FAINT, labelsize=8, length=0)
    ax.set_axisbelow(True)
    if grid:
        ax.grid(axis=grid, color=PALE, linewidth=0.8)


def _titled(figure: Chart, title: str | None) -> None:
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK, fontweight="bold")


def _labels(ax, x: str | None = None, y: str | None = None) -> None:
    ax.set_xlabel(x or "", fontsize=9, color=FAINT)
    ax.set_ylabel(y or "", fontsize=9, color=FAINT)


def _legend(ax, **kwargs) -> None:
    ax.legend(frameon=False, fontsize=8, labelcolor=INK, **kwargs)


def _wrapped(text: str, width: int) -> str:
    """Lines of at most `width` letters, cut between words."""
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + len(word) < width:
            lines[-1] += " " + word
        else:
            lines.append(word)
    return "\n".join(lines)


# ---- pictures -------------------------------------------------------------------------------------------------------


def _show(ax, picture: Tensor, frame: str | None = None) -> None:
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
    """Pictures [N, 3, H, W] in [0, 1], each with a caption; framed green where right, red where wrong."""
    n = len(pictures)
    columns = min(columns, n)
    rows = -(-n // columns)
    letters = int(size * 13)
    said = [_wrapped(c, letters) for c in captions] if captions else [""] * n
    lines = max(c.count("\n") + 1 for c in said) if captions else 0
    figure, axes = _chart(columns * size, rows * (size + 0.155 * lines) + (0.3 if title else 0.05), rows, columns)
    for i, ax in enumerate(axes.flat):
        if i >= n:
            ax.axis("off")
            continue
        verdict = right[i] if right is not None else None
        _show(ax, pictures[i], None if verdict is None else (RIGHT if verdict else WRONG))
        ax.set_xlabel(said[i], fontsize=7.5, color=INK, labelpad=3)
    _titled(figure, title)
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
    figure, axes = _chart(width, height, len(rows), len(columns))
    for line, (name, pictures) in zip(axes, rows.items()):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8.5, color=INK, labelpad=6)
        for i, ax in enumerate(line):
            verdict = right[name][i] if right and name in right else None
            _show(ax, pictures[i], None if verdict is None else (RIGHT if verdict else WRONG))
    for ax, name in zip(axes[0], columns):
        ax.set_title(name, fontsize=8.5, color=FAINT, pad=4)
    _titled(figure, title)
    return figure


# ---- the attention rule ---------------------------------------------------------------------------------------------


def attention_rule(
    mask: Tensor,
    kinds: Sequence[str],
    lengths: Sequence[int],
    positions: Sequence[int],
    *,
    names: Sequence[str] | None = None,
    title: str | None = None,
) -> Chart:
    """Who may look at whom: mask [L, L], queries down, keys across, colored by the expert that makes the key.

    kinds and lengths: one for each split; positions [L]: RoPE position of every token; names: what to call the splits.
    """
    total = len(mask)
    owner = np.repeat([1 + (EXPERT[kind] == GENERATION) for kind in kinds], lengths)
    picture = np.where(mask.numpy(), owner[None, :], 0)
    figure, axes = _chart(6.4, 5.6)
    ax = axes[0, 0]
    colors = ListedColormap(["#f5f6f7", UNDERSTANDING, GENERATION])
    ax.imshow(picture, cmap=colors, vmin=0, vmax=2, interpolation="nearest")
    edges = np.cumsum([0, *lengths])
    for edge in edges[1:-1]:
        ax.axhline(edge - 0.5, color="white", linewidth=2.5)
        ax.axvline(edge - 0.5, color="white", linewidth=2.5)
    ax.set_xticks(np.arange(total) - 0.5, minor=True)
    ax.set_yticks(np.arange(total) - 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=0.4)
    ax.tick_params(which="both", length=0)
    middles = (edges[:-1] + edges[1:] - 1) / 2
    called = names or [KINDS[kind] for kind in kinds]
    ax.set_yticks(middles, called, fontsize=9)
    spans = [(int(positions[a]), int(positions[b - 1])) for a, b in zip(edges[:-1], edges[1:])]
    ax.set_xticks(middles, [f"{a}" if a == b else f"{a}\u2013{b}" for a, b in spans], fontsize=9)
    for ticks in (ax.get_yticklabels(), ax.get_xticklabels()):
        for tick, kind in zip(ticks, kinds):
            tick.set_color(EXPERT[kind])
    for side in ax.spines.values():
        side.set_visible(False)
    _labels(ax, "keys, with the RoPE positions of each split", "queries")
    for color, name in ((UNDERSTANDING, "understanding expert's key"), (GENERATION, "generation expert's key")):
        ax.add_patch(Rectangle((0, 0), 0, 0, color=color, label=name))
    _legend(ax, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    _titled(figure, title)
    return figure


# ---- costs ----------------------------------------------------------------------------------------------------------


def ledger(rows: Mapping[str, Sequence[int]], *, students: Sequence[int] = (6, 1), title: str | None = None) -> Chart:
    """Function evaluations: rows[name] lists the branches of every step (1, 2 or 3). A bar a row, cut into
    full, without text, without picture; behind it the total, and how many times a student's few go into it.
    """
    figure, axes = _chart(7.4, 0.52 * len(rows) + 1.1)
    ax = axes[0, 0]
    parts = (("full context", UNDERSTANDING), ("without the text", GENERATION), ("without the picture", SERIES[2]))
    longest = max(sum(branches) for branches in rows.values())
    for y, branches in enumerate(rows.values()):
        left = 0
        for k, (_, color) in enumerate(parts):
            count = sum(b > k for b in branches)
            ax.barh(y, count, left=left, color=color, height=0.62)
            if count >= 0.05 * longest:
                ax.text(left + count / 2, y, str(count), ha="center", va="center", color="white", fontsize=8.5)
            left += count
        ratios = ", ".join(f"{left / s:.4g}x for {s}" for s in students if left not in students)
        said = f"{left}   {ratios}" if ratios else f"{left}"
        ax.text(left + 0.012 * longest, y, said, va="center", fontsize=8.5, color=INK)
    ax.set_yticks(range(len(rows)), list(rows), fontsize=9, color=INK)
    ax.invert_yaxis()
    ax.set_xlim(0, longest * 1.42)
    _plain(ax, "x")
    ax.tick_params(axis="y", colors=INK, labelsize=9)
    _labels(ax, "function evaluations a picture (NFE)")
    for name, color in parts:
        ax.add_patch(Rectangle((0, 0), 0, 0, color=color, label=name))
    _legend(ax, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3)
    _titled(figure, title)
    return figure


def ladder(rows: Sequence[Mapping], *, title: str | None = None, y: str = "share right") -> Chart:
    """Quality against cost: the teacher's two lines, and a mark for each student.

    rows as `hb.eval.pictures.ladder` makes them: guided, nfe, overall {value, low, high}, and student, None or left out
    for the teacher.
    """
    figure, axes = _chart(6.4, 3.4)
    ax = axes[0, 0]
    for guided, color, name in ((True, UNDERSTANDING, "guided"), (False, GENERATION, "unguided")):
        line = sorted(
            ((r["nfe"], r["overall"]) for r in rows if r["guided"] == guided and not r.get("student")),
            key=itemgetter(0),
        )
        if line:
            _band(ax, [n for n, _ in line], [o for _, o in line], color, name)
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
    _plain(ax)
    _labels(ax, "function evaluations a picture (NFE)", y)
    _legend(ax, loc="upper left")
    _titled(figure, title)
    return figure


def complexity(seen: Mapping[str, Mapping], *, title: str | None = None) -> Chart:
    """Where much is asked: the share of right pictures by the number of things, and how many pictures have each kind of
    mistake.

    seen   who drew, and what `hb.eval.pictures.complex_summary` gives of it: cells {"4 full": {right: {value, low,
           high}, ...}}, kinds
    """
    figure, axes = _chart(8.4, 3.4, 1, 2)
    left, right = axes[0]
    for (who, got), color in zip(seen.items(), SERIES):
        for level, style in (("half", (0, (4, 2))), ("full", "-")):
            line = [
                (int(cell.split()[0]), values["right"]) for cell, values in got["cells"].items() if cell.endswith(level)
            ]
            _band(left, [n for n, _ in line], [share for _, share in line], color, f"{who}, {level}")
            left.lines[-1].set_linestyle(style)
    left.set_xticks(range(1, 5))
    left.set_ylim(0, 1.02)
    _plain(left)
    _labels(left, "things in the prompt", "share right")
    _legend(left, loc="lower left")
    height = 0.8 / len(seen)
    for i, ((who, got), color) in enumerate(zip(seen.items(), SERIES)):
        y = np.arange(len(got["kinds"])) + height * (i - (len(seen) - 1) / 2)
        right.barh(y, list(got["kinds"].values()), height=0.9 * height, color=color, label=who)
    right.set_yticks(range(len(got["kinds"])), list(got["kinds"]))
    right.invert_yaxis()
    _plain(right, "x")
    _labels(right, "pictures with this mistake")
    _legend(right, loc="lower right")
    _titled(figure, title)
    return figure


def _band(ax, x, shares: Sequence[Mapping], color: str, name: str) -> None:
    """A line through values with their 95% interval as a band."""
    ax.fill_between(x, [s["low"] for s in shares], [s["high"] for s in shares], color=color, alpha=0.18, linewidth=0)
    ax.plot(x, [s["value"] for s in shares], color=color, linewidth=1.8, marker="o", markersize=4, label=name)


# ---- learning and responding ----------------------------------------------------------------------------------------


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
    figure, axes = _chart(6.4, 3.0)
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
    _plain(ax)
    _labels(ax, x, y)
    _legend(ax, loc="upper right")
    _titled(figure, title)
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
    """Values against a knob. A line is numbers, or dicts with value, low and high where there is an interval.

    marks: named places on the knob, drawn as thin vertical lines. doubling: each x twice as far as the one before.
    """
    figure, axes = _chart(6.4, 3.0)
    ax = axes[0, 0]
    for (name, values), color in zip(lines.items(), SERIES):
        if isinstance(values[0], Mapping):
            _band(ax, x, values, color, name)
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
    _plain(ax)
    _labels(ax, xlabel, ylabel)
    # inside, a long legend would cover lines
    _legend(ax, **(dict(loc="best") if len(lines) <= 4 else dict(loc="upper left", bbox_to_anchor=(1.0, 1.0))))
    _titled(figure, title)
    return figure


# ---- two dimensions -------------------------------------------------------------------------------------------------


def trajectories(
    panels: Mapping[str, Tensor],
    *,
    data: Tensor | None = None,
    limit: float = 2.6,
    size: float = 2.3,
    marked: int | None = None,
    title: str | None = None,
) -> Chart:
    """Paths through the plane, a panel for each name: [T, N, 2], from noise (first, hollow) to data (last, filled).

    data [M, 2]: where the paths should end. marked: number of a path drawn thick.
    """
    figure, axes = _chart(len(panels) * size, size + (0.5 if title else 0.3), 1, len(panels))
    for ax, (name, paths) in zip(axes[0], panels.items()):
        if data is not None:
            ax.scatter(*data.T, s=26, color=RIGHT, alpha=0.28, linewidth=0, zorder=1)
        ax.plot(paths[..., 0], paths[..., 1], color=FAINT, linewidth=0.6, alpha=0.55, zorder=2)
        ax.scatter(*paths[0].T, s=7, facecolors="none", edgecolors=UNDERSTANDING, linewidths=0.6, zorder=3)
        ax.scatter(*paths[-1].T, s=16, color=GENERATION, linewidth=0, zorder=5)
        if marked is not None:
            dots = "." if len(paths) < 15 else None
            ax.plot(*paths[:, marked].T, color=INK, linewidth=1.5, marker=dots, markersize=5, zorder=4)
        _square(ax, limit)
        ax.set_title(name, fontsize=9, color=INK, pad=4)
    _titled(figure, title)
    return figure


def most_bent(paths: Tensor) -> int:
    """Which of the paths [T, N, 2] makes the largest detour: its length less the distance of its ends."""
    length = paths.diff(dim=0).norm(dim=-1).sum(0)
    return int((length - (paths[-1] - paths[0]).norm(dim=-1)).argmax())


def most_arched(paths: Tensor) -> int:
    """Which of the paths [T, N, 2] gets farthest away, sideways, from the line between its ends."""
    along = paths[-1] - paths[0]
    away = paths - paths[0]
    sideways = (away[..., 0] * along[:, 1] - away[..., 1] * along[:, 0]) / along.norm(dim=-1)
    return int(sideways.abs().amax(0).argmax())


def clouds(panels: Mapping[str, Tensor], *, limit: float = 2.6, size: float = 2.0, title: str | None = None) -> Chart:
    """Points [N, 2], a panel for each name."""
    figure, axes = _chart(len(panels) * size, size + (0.5 if title else 0.3), 1, len(panels))
    for ax, (name, points) in zip(axes[0], panels.items()):
        ax.scatter(*points.T, s=4, color=UNDERSTANDING, alpha=0.5, linewidth=0)
        _square(ax, limit)
        ax.set_title(name, fontsize=9, color=INK, pad=4)
    _titled(figure, title)
    return figure


def field(
    velocity, times: Sequence[float], *, points: Tensor, limit: float = 2.6, size: float = 2.3, title: str | None = None
) -> Chart:
    """Arrows of -v, the way the sampler walks, at places [N, 2]; a panel for each time. velocity(x, t)."""
    figure, axes = _chart(len(times) * size, size + (0.5 if title else 0.3), 1, len(times))
    for ax, t in zip(axes[0], times):
        v = -velocity(points, t)
        ax.quiver(*points.T, *v.T, color=UNDERSTANDING, angles="xy", scale=30, width=0.006)
        _square(ax, limit)
        ax.set_title(f"t = {t:g}", fontsize=9, color=INK, pad=4)
    _titled(figure, title)
    return figure


def arrows(
    panels: Mapping[str, tuple[Tensor, Tensor, str]],
    *,
    data: Tensor | None = None,
    limit: float = 2.6,
    size: float = 2.5,
    title: str | None = None,
) -> Chart:
    """Arrows in their true length, a panel for each name: (from [N, 2], to [N, 2], color). A dot is where one begins.

    data [M, 2]: drawn pale green behind.
    """
    figure, axes = _chart(len(panels) * size, size + (0.5 if title else 0.3), 1, len(panels))
    for ax, (name, (start, end, color)) in zip(axes[0], panels.items()):
        if data is not None:
            ax.scatter(*data.T, s=10, color=RIGHT, alpha=0.16, linewidth=0, zorder=1)
        ax.scatter(*start.T, s=7, color=color, linewidth=0, zorder=2)
        how = dict(angles="xy", scale_units="xy", scale=1, width=0.006, headwidth=4, minlength=0.3, zorder=3)
        ax.quiver(*start.T, *(end - start).T, color=color, alpha=0.8, **how)
        _square(ax, limit)
        ax.set_title(name, fontsize=9, color=INK, pad=4)
    _titled(figure, title)
    return figure


def _square(ax, limit: float) -> None:
    ax.set_xlim(-limit, limit)
    ax.set_ylim(-limit, limit)
    ax.set_aspect("equal")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_color(PALE)


# ---- the world and its judge ----------------------------------------------------------------------------------------


def confusion(rows: Sequence, *, title: str | None = None) -> Chart:
    """How the judge fares under damage: rows of `hb.world.judge.judge.confusion`. A cell is the share called clean; its
    frame says what it should be (green: accepted, red: refused, none: a matter of taste); below, the share misread.
    """
    kinds = list(dict.fromkeys(row.kind for row in rows))
    widest = max(sum(r.kind == k for r in rows) for k in kinds)
    figure, axes = _chart(0.95 * widest + 1.5, 0.43 * len(kinds) + 0.95)
    ax = axes[0, 0]
    shade = LinearSegmentedColormap.from_list("accepted", ["#fbeaea", "#f4f4f4", "#d3ecdd"])
    for y, kind in enumerate(kinds):
        for x, row in enumerate(sorted((r for r in rows if r.kind == kind), key=lambda r: r.strength)):
            ax.add_patch(Rectangle((x, y), 0.96, 0.92, color=shade(row.accepted), linewidth=0))
            if row.accept is not None:
                frame = RIGHT if row.accept else WRONG
                ax.add_patch(Rectangle((x + 0.025, y + 0.03), 0.91, 0.86, fill=False, edgecolor=frame, linewidth=1.3))
            ax.text(x + 0.07, y + 0.46, f"{row.strength:g}", fontsize=7, color=FAINT, va="center")
            ax.text(x + 0.90, y + 0.46, f"{row.accepted:.0%}", fontsize=8.5, color=INK, va="center", ha="right")
            if row.misread:
                ax.text(x + 0.07, y + 0.80, f"misread {row.misread:.1%}", fontsize=5.5, color=WRONG, va="center")
    ax.set_xlim(0, widest)
    ax.set_ylim(len(kinds), 0)
    ax.set_yticks(np.arange(len(kinds)) + 0.46, kinds, fontsize=9, color=INK)
    ax.set_xticks([])
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    _labels(ax, "gray: how strong; black: share the judge calls clean\ngreen frame: should be accepted; red: refused")
    _titled(figure, title)
    return figure


def distributions(
    panels: Mapping[str, tuple[Mapping[str, float], Mapping | None]], *, title: str | None = None
) -> Chart:
    """True distributions as bars and, where there is one, what was seen as dots: panels[name] = (distribution, seen or
    None)."""
    widths = [len(distribution) + 1.5 for distribution, _ in panels.values()]
    figure, axes = _chart(7.4, 2.5, 1, len(panels), sharey=True, gridspec_kw=dict(width_ratios=widths))
    for ax, (name, (distribution, seen)) in zip(axes[0], panels.items()):
        ax.bar(
            range(len(distribution)),
            list(distribution.values()),
            color=UNDERSTANDING,
            width=0.72,
            alpha=0.85,
            label="the distribution",
        )
        if seen is not None:
            ax.plot(
                range(len(distribution)),
                [seen.get(k, 0) for k in distribution],
                "o",
                color=GENERATION,
                markersize=5,
                label="seen",
            )
        _plain(ax)
        ax.set_xticks(
            range(len(distribution)), list(distribution), rotation=60, ha="right", rotation_mode="anchor", fontsize=7.5
        )
        ax.set_title(name, fontsize=9, color=INK, pad=4)
    _labels(axes[0, 0], None, "probability")
    if any(seen is not None for _, seen in panels.values()):
        _legend(axes[0, -1], loc="upper right")
    _titled(figure, title)
    return figure


# ---- drafting words -------------------------------------------------------------------------------------------------


Values = Sequence[float] | Tensor


def overlap(p: Values, q: Values, names: Sequence[str], *, title: str | None = None) -> Chart:
    """Target distribution p and draft distribution q over the same words: what they share is kept, the rest of q is
    refused, and the rest of p is what the target says instead."""
    p, q = np.asarray(p, dtype=float), np.asarray(q, dtype=float)
    figure, axes = _chart(6.4, 3.0)
    ax, at, shared = axes[0, 0], np.arange(len(p)), np.minimum(p, q)
    style = dict(width=0.62, linewidth=0)
    ax.bar(at, shared, color=RIGHT, label="min(p, q): kept from the draft", **style)
    ax.bar(at, p - shared, bottom=shared, color=UNDERSTANDING, label="p - q: said by the target instead", **style)
    ax.bar(at, q - shared, bottom=shared, color=WRONG, alpha=0.25, label="q - p: drafted, refused", **style)
    ax.hlines(p, at - 0.36, at + 0.36, color=INK, linewidth=2, label="p, the target's distribution")
    ax.hlines(
        q,
        at - 0.36,
        at + 0.36,
        color=FAINT,
        linewidth=1.4,
        linestyle=(0, (2, 1.5)),
        label="q, the draft's distribution",
    )
    _plain(ax)
    ax.set_xticks(at, list(names), fontsize=9, color=INK)
    _labels(ax, None, "probability")
    _legend(ax, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    _titled(figure, title)
    return figure


def microscope(wanted: Values, emitted: Values, names: Sequence[str], *, title: str | None = None) -> Chart:
    """The target's distribution of named sequences as bars, what a decoder emits as dots; below, the difference."""
    wanted, emitted = np.asarray(wanted, dtype=float), np.asarray(emitted, dtype=float)
    figure, axes = _chart(7.4, 3.9, 2, 1, sharex=True, gridspec_kw=dict(height_ratios=(3, 1.3)))
    (above, below), at, wrong = axes[:, 0], np.arange(len(wanted)), emitted - wanted
    largest = np.abs(wrong).max()
    color = RIGHT if largest < 1e-9 else WRONG
    above.bar(at, wanted, color=UNDERSTANDING, width=0.72, alpha=0.85, label="the target alone")
    above.plot(at, emitted, "o", color=GENERATION, markersize=4, label="draft and target together")
    below.bar(at, wrong, color=color, width=0.72)
    below.axhline(0, color=FAINT, linewidth=0.8)
    limit = 1.15 * max(largest, 0.02)
    below.set_ylim(-limit, limit)
    below.set_title(f"largest difference: {largest:.1g}", fontsize=9, color=color, pad=3, loc="left")
    for ax, name in ((above, "probability"), (below, "difference")):
        _plain(ax)
        _labels(ax, None, name)
    below.set_xticks(at, list(names), rotation=90, fontsize=7.5, family="monospace")
    _legend(above, loc="upper right")
    _titled(figure, title)
    return figure


def bargain(rows: Mapping[str, tuple[float, float]], *, title: str | None = None) -> Chart:
    """Decoders: rows[name] = (tokens for a pass of the target, largest error of what is emitted). Green: lossless."""
    figure, axes = _chart(7.4, 0.34 * len(rows) + 0.9)
    ax, longest = axes[0, 0], max(tokens for tokens, _ in rows.values())
    for y, (tokens, error) in enumerate(rows.values()):
        color = RIGHT if error < 1e-9 else WRONG
        ax.barh(y, tokens, color=color, height=0.62)
        ax.text(tokens - 0.012 * longest, y, f"{tokens:.2f}", ha="right", va="center", fontsize=8.5, color="white")
        said = "the target's distribution" if error < 1e-9 else "another distribution"
        ax.text(tokens + 0.012 * longest, y, f"{said}, error {error:.0e}", va="center", fontsize=8.5, color=color)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.invert_yaxis()
    ax.set_xlim(0, longest * 1.55)
    _plain(ax, "x")
    ax.tick_params(axis="y", colors=INK, labelsize=9)
    _labels(ax, "tokens for one pass of the target")
    _titled(figure, title)
    return figure


def acceptance(rates: Sequence[float], alpha: float | None = None, *, title: str | None = None) -> Chart:
    """How often the guess of each depth stays where those before it stayed. alpha: the one rate that gives as many
    tokens."""
    figure, axes = _chart(6.4, 2.6)
    ax, at = axes[0, 0], np.arange(1, len(rates) + 1)
    ax.bar(at, rates, color=RIGHT, width=0.62)
    if alpha is not None:
        ax.axhline(alpha, color=INK, linewidth=1.2, linestyle=(0, (4, 3)), label=f"one rate for all: {alpha:.2f}")
        _legend(ax, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    _plain(ax)
    ax.set_ylim(0, 1.02)
    ax.set_xticks(at)
    _labels(ax, "depth of the guess", "stays")
    _titled(figure, title)
    return figure


# ---- trees of guesses -----------------------------------------------------------------------------------------------

QUIET = "#c9ced4"
SURE = LinearSegmentedColormap.from_list("sure", ["#f7f9fb", "#7fb0e0"])


def draft_tree(
    words: Sequence[str],
    parents: Sequence[int],
    values: Sequence[float],
    path: Sequence[int] = (),
    *,
    added: str | None = None,
    text: str = "",
    title: str | None = None,
) -> Chart:
    """A draft tree, node 0 its root, and beside it the attention mask: row i marks what node i may see.

    values: probability of each node's path. A node is the bluer, the surer the draft is of this one token. path: nodes
    that stayed, drawn bold; added: the target's own token behind them; text: what was said before.
    """
    n, depth, y = len(words), _depths(parents), _rows_of_leaves(parents)
    last = path[-1] if path else 0
    end = (depth[last] + 1, max(y) + 1 if last in parents[1:] else y[last])  # the target's own token
    rows, levels = 1 + max([*y, end[1]] if added else y), max([*depth, end[0]] if added else depth)
    said = _wrapped(text, 105)
    height = max(2.2, 0.21 * rows + 0.5) + 0.16 * (said.count("\n") + 1 if said else 0) + (0.3 if title else 0)
    figure, axes = _chart(7.6, height, 1, 2, gridspec_kw=dict(width_ratios=(3.1, 1)))
    ax = axes[0, 0]
    for i in range(1, n):
        above, color, width = parents[i], *((RIGHT, 2.2) if i in path else (QUIET, 0.9))
        _branch(ax, (depth[above], y[above]), (depth[i], y[i]), color, width)
    for i, word in enumerate(words):
        sure = values[i] / values[parents[i]] if i else 1.0
        _token(ax, depth[i], y[i], word, SURE(sure), RIGHT if i in path else QUIET, i in path)
    if added is not None:
        _branch(ax, (depth[last], y[last]), end, RIGHT, 1.2, (0, (3, 2)))
        _token(ax, *end, added, "white", RIGHT, False, (0, (3, 2)))
    ax.set_xlim(-0.45, levels + 0.55)
    ax.set_ylim(rows - 0.4, -0.6)
    ax.set_xticks(range(levels + 1), ["root", *map(str, range(1, levels + 1))])
    ax.set_yticks([])
    _plain(ax, None)
    ax.spines["left"].set_visible(False)
    _labels(ax, "depth")
    if said:
        ax.set_title(said, fontsize=7.5, color=FAINT, loc="left", pad=4)
    _tree_mask(axes[0, 1], parents, path)
    _titled(figure, title)
    return figure


def _depths(parents: Sequence[int]) -> list[int]:
    depth = [0]
    for parent in parents[1:]:
        depth.append(depth[parent] + 1)
    return depth


def _rows_of_leaves(parents: Sequence[int]) -> list[int]:
    """Where each node stands: leaves in a column without crossings, a parent level with its first child."""
    children: list[list[int]] = [[] for _ in parents]
    for i, parent in enumerate(parents[1:], 1):
        children[parent].append(i)
    y, leaves, stack = [0] * len(parents), 0, [0]
    while stack:
        node = stack.pop()
        stack += children[node][::-1]
        y[node] = leaves
        leaves += not children[node]
    return y


def _branch(ax, start, end, color: str, width: float, style="-") -> None:
    (x0, y0), (x1, y1) = start, end
    turn = x0 + 0.5
    order = 2 if width > 1 else 1
    ax.plot([x0, turn, turn, x1], [y0, y0, y1, y1], color=color, linewidth=width, linestyle=style, zorder=order)


def _token(ax, x, y, word, face, edge, bold, style="-") -> None:
    width, weight = (1.6, "bold") if bold else (0.8, "normal")
    box = dict(boxstyle="round,pad=0.2", facecolor=face, edgecolor=edge, linewidth=width, linestyle=style)
    ax.text(x, y, word, ha="center", va="center", fontsize=7, color=INK, fontweight=weight, bbox=box, zorder=3)


def _tree_mask(ax, parents: Sequence[int], path: Sequence[int]) -> None:
    """Ancestors as an image; rows and columns of the nodes that stayed are green."""
    seen = np.eye(len(parents), dtype=int)
    for i, parent in enumerate(parents[1:], 1):
        seen[i] |= seen[parent]
    seen[np.ix_(path, path)] *= 2
    ax.imshow(seen, cmap=ListedColormap(["#f0f2f4", UNDERSTANDING, RIGHT]), vmin=0, vmax=2, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    for side in ax.spines.values():
        side.set_visible(False)
    ax.set_title("mask: a row sees\nthe colored columns", fontsize=7.5, color=FAINT, pad=4)


def plans(series: Mapping[str, Mapping[str, tuple[float, float]]], *, title: str | None = None) -> Chart:
    """Ways to draft, a row each: series[draft][plan] = (tokens a second over plain decoding's, tokens a pass)."""
    names = list(next(iter(series.values())))
    figure, axes = _chart(7.4, 0.3 * len(names) + 1.25, 1, 2, sharey=True)
    for ax, which, label in zip(axes[0], (1, 0), ("acceptance length: tokens a pass", "tokens a second, plain = 1")):
        for (draft, rows), color in zip(series.items(), SERIES):
            x = [rows[name][which] for name in names]
            ax.plot(x, range(len(names)), "o", color=color, markersize=6, label=draft)
        ax.axvline(1, color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
        ax.set_xlim(0, 1.08 * max(1, *(row[which] for rows in series.values() for row in rows.values())))
        _plain(ax, "both")
        _labels(ax, label)
    axes[0, 0].set_yticks(range(len(names)), names)
    axes[0, 0].tick_params(axis="y", colors=INK, labelsize=9)
    axes[0, 0].set_ylim(len(names) - 0.5, -0.5)
    _legend(axes[0, 0], loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2)
    _titled(figure, title)
    return figure


# ---- distilling -----------------------------------------------------------------------------------------------------

HEAT = LinearSegmentedColormap.from_list("heat", ["#fbfcfd", "#f3c98f", "#c9622a"])


def cells(
    panels: Mapping[str, Sequence[Sequence[float]] | Tensor],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    xlabel: str | None = None,
    ylabel: str | None = None,
    form: str = "{:.1%}",
    largest: float | None = None,
    title: str | None = None,
) -> Chart:
    """Tables of numbers, the darker the larger, by one scale for all panels: panels[name][row][column].

    largest: what is darkest, where two figures shall be compared; otherwise the largest number.
    """
    tables = {name: np.asarray(values, dtype=float) for name, values in panels.items()}
    largest = max(table.max() for table in tables.values()) if largest is None else largest
    width, height = len(tables) * (0.62 * len(columns) + 0.35) + 0.75, 0.34 * len(rows) + 0.8 + (0.3 if title else 0)
    figure, axes = _chart(width, height, 1, len(tables), sharey=True)
    for ax, (name, table) in zip(axes[0], tables.items()):
        shade = np.sqrt((table / largest).clip(0, 1)) if largest > 0 else table  # a root: small errors show too
        ax.imshow(shade, cmap=HEAT, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        for (y, x), value in np.ndenumerate(table):
            color = "white" if shade[y, x] > 0.75 else INK
            ax.text(x, y, form.format(value), ha="center", va="center", fontsize=8, color=color)
        ax.set_xticks(range(len(columns)), list(columns))
        ax.set_yticks(range(len(rows)), list(rows))
        ax.tick_params(colors=FAINT, labelsize=8, length=0)
        for spine in ax.spines.values():
            spine.set_visible(False)
        ax.set_title(name, fontsize=9, color=INK, pad=4)
        _labels(ax, xlabel, ylabel if ax is axes[0, 0] else None)
    _titled(figure, title)
    return figure


def segments(
    path: Tensor,
    times: Tensor,
    marks: Tensor,
    walked: Tensor,
    at: Tensor,
    edges: Tensor,
    *,
    others: Tensor | None = None,
    data: Tensor | None = None,
    limit: float = 2.6,
    title: str | None = None,
) -> Chart:
    """Jumps from edge to edge of segments. Left the plane, right one coordinate against time, cut into segments.

    path [T, 2] at times [T]: the curve; marks [K, 2] at times `at`: places on it where jumps start and end; walked
    [K, 2]: the same jumps along the velocity at their start; edges: of all segments; others [T, N, 2]: more paths.
    """
    figure, axes = _chart(7.6, 3.6 + (0.25 if title else 0), 1, 2, gridspec_kw=dict(width_ratios=(1, 1.15)))
    plane, clock = axes[0]
    gone = ((times[0] - times) / (times[0] - times[-1]))[:, None]
    which = int((path - path[0] - gone * (path[-1] - path[0])).abs().amax(0).argmax())  # the coordinate that bends more
    if data is not None:
        plane.scatter(*data.T, s=26, color=RIGHT, alpha=0.28, linewidth=0, zorder=1)
    if others is not None:
        plane.plot(others[..., 0], others[..., 1], color=PALE, linewidth=0.7, zorder=0)
    line = lambda values: values[:, which]
    for x, y, ax in ((path[:, 0], path[:, 1], plane), (times, line(path), clock)):
        ax.plot(x, y, color=INK, linewidth=1.7, zorder=3, label="the path, many steps")
    for x, y, ax in ((walked[:, 0], walked[:, 1], plane), (at, line(walked), clock)):
        ax.plot(
            x,
            y,
            color=UNDERSTANDING,
            linewidth=1.6,
            linestyle=(0, (3, 1.5)),
            marker="o",
            markersize=4,
            zorder=4,
            label="the same jumps, by the teacher's arrow",
        )
    for x, y, ax in ((marks[:, 0], marks[:, 1], plane), (at, line(marks), clock)):
        ax.plot(x, y, color=RIGHT, linewidth=1.8, marker="o", markersize=4.5, zorder=5, label="consistent jumps")
    _square(plane, limit)
    bounds = [float(e) for e in edges]
    for i, (high, low) in enumerate(zip(bounds, bounds[1:])):
        clock.axvspan(low, high, color=PALE if i % 2 else "#f5f6f7", linewidth=0, zorder=0)
    clock.set_xlim(1.02, -0.02)  # the way a sampler walks: noise on the left
    _plain(clock, None)
    clock.set_yticks([])
    ticks = [b for i, b in enumerate(bounds) if i == 0 or bounds[i - 1] - b >= 0.08]
    clock.set_xticks(ticks, [f"{b:.2g}" for b in ticks])
    _labels(clock, "time, with the edges of the segments", "across" if which == 0 else "up and down")
    how = dict(loc="outside lower center", ncols=3, frameon=False, fontsize=8, labelcolor=INK)
    figure.legend(*clock.get_legend_handles_labels(), **how)
    _titled(figure, title)
    return figure
