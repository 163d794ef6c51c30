"""Notebook 06, draft trees: a tree and its mask, the cycles of an answer, plans against the clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ipywidgets as w
import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from torch import Tensor

from hb import plots
from hb.course.exercises import Hint, call, exercise, expect
from hb.course.widgets import live, slider
from hb.infer.pipeline import Model
from hb.infer.speculative.decode import Prefill, speculate
from hb.infer.speculative.plan import Plan
from hb.infer.speculative.runner import DraftModel, DraftRunner
from hb.infer.speculative.tree import Tree, root_only
from hb.infer.speculative.verify import children_of
from hb.models.distribution import TokenDistribution

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
) -> plots.Chart:
    """A draft tree, node 0 its root, and beside it the attention mask: row i marks what node i may see.

    values: probability of each node's path. A node is the bluer, the surer the draft is of this one token. path: nodes
    that stayed, drawn bold; added: the target's own token behind them; text: what was said before.
    """
    n, depth, y = len(words), _depths(parents), _rows_of_leaves(parents)
    last = path[-1] if path else 0
    end = (depth[last] + 1, max(y) + 1 if last in parents[1:] else y[last])  # the target's own token
    rows, levels = 1 + max([*y, end[1]] if added else y), max([*depth, end[0]] if added else depth)
    said = plots.wrapped(text, 105)
    height = max(2.2, 0.21 * rows + 0.5) + 0.16 * (said.count("\n") + 1 if said else 0) + (0.3 if title else 0)
    figure, axes = plots.new_chart(7.6, height, 1, 2, gridspec_kw=dict(width_ratios=(3.1, 1)))
    ax = axes[0, 0]
    for i in range(1, n):
        above, color, width = parents[i], *((plots.RIGHT, 2.2) if i in path else (QUIET, 0.9))
        _branch(ax, (depth[above], y[above]), (depth[i], y[i]), color, width)
    for i, word in enumerate(words):
        sure = values[i] / values[parents[i]] if i else 1.0
        _token(ax, depth[i], y[i], word, SURE(sure), plots.RIGHT if i in path else QUIET, i in path)
    if added is not None:
        _branch(ax, (depth[last], y[last]), end, plots.RIGHT, 1.2, (0, (3, 2)))
        _token(ax, *end, added, "white", plots.RIGHT, False, (0, (3, 2)))
    ax.set_xlim(-0.45, levels + 0.55)
    ax.set_ylim(rows - 0.4, -0.6)
    ax.set_xticks(range(levels + 1), ["root", *map(str, range(1, levels + 1))])
    ax.set_yticks([])
    plots.plain(ax, None)
    ax.spines["left"].set_visible(False)
    plots.labels(ax, "depth")
    if said:
        ax.set_title(said, fontsize=7.5, color=plots.FAINT, loc="left", pad=4)
    _tree_mask(axes[0, 1], parents, path)
    plots.titled(figure, title)
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
    ax.text(x, y, word, ha="center", va="center", fontsize=7, color=plots.INK, fontweight=weight, bbox=box, zorder=3)


def _tree_mask(ax, parents: Sequence[int], path: Sequence[int]) -> None:
    """Ancestors as an image; rows and columns of the nodes that stayed are green."""
    seen = np.eye(len(parents), dtype=int)
    for i, parent in enumerate(parents[1:], 1):
        seen[i] |= seen[parent]
    seen[np.ix_(path, path)] *= 2
    ax.imshow(
        seen,
        cmap=ListedColormap(["#f0f2f4", plots.UNDERSTANDING, plots.RIGHT]),
        vmin=0,
        vmax=2,
        interpolation="nearest",
    )
    ax.set_xticks([])
    ax.set_yticks([])
    for side in ax.spines.values():
        side.set_visible(False)
    ax.set_title("mask: a row sees\nthe colored columns", fontsize=7.5, color=plots.FAINT, pad=4)


def plans(series: Mapping[str, Mapping[str, tuple[float, float]]], *, title: str | None = None) -> plots.Chart:
    """Ways to draft, a row each: series[draft][plan] = (tokens a second over plain decoding's, tokens a pass)."""
    names = list(next(iter(series.values())))
    figure, axes = plots.new_chart(7.4, 0.3 * len(names) + 1.25, 1, 2, sharey=True)
    for ax, which, label in zip(axes[0], (1, 0), ("acceptance length: tokens a pass", "tokens a second, plain = 1")):
        for (draft, rows), color in zip(series.items(), plots.SERIES):
            x = [rows[name][which] for name in names]
            ax.plot(x, range(len(names)), "o", color=color, markersize=6, label=draft)
        ax.axvline(1, color=plots.FAINT, linewidth=1, linestyle=(0, (4, 3)))
        ax.set_xlim(0, 1.08 * max(1, *(row[which] for rows in series.values() for row in rows.values())))
        plots.plain(ax, "both")
        plots.labels(ax, label)
    axes[0, 0].set_yticks(range(len(names)), names)
    axes[0, 0].tick_params(axis="y", colors=plots.INK, labelsize=9)
    axes[0, 0].set_ylim(len(names) - 0.5, -0.5)
    plots.legend(axes[0, 0], loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2)
    plots.titled(figure, title)
    return figure


# ---- cycles of an answer ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TreeCycle:
    """One cycle of speculative decoding, one row: the tree that was checked, the nodes that stayed, the token that the
    target added, and what was said before."""

    tree: Tree
    path: list[int]
    added: int
    before: list[int]


class _Watched(DraftRunner):
    """A draft at work that keeps its trees."""

    def __init__(self, fast: DraftModel, batch: int, room: int):
        super().__init__(fast, batch, room)
        self.trees: list[Tree] = []

    def grow(self, *arguments, **settings) -> Tree:
        self.trees.append(super().grow(*arguments, **settings))
        return self.trees[-1]


class _Noisy(DraftModel):
    """A draft made worse: normal noise of this spread on its logits."""

    def __init__(self, fast: DraftModel, noise: float):
        self.__dict__ |= fast.__dict__
        self.noise, self.generator = noise, torch.Generator().manual_seed(0)

    def logits(self, a: Tensor) -> Tensor:
        logits = super().logits(a)
        return logits + self.noise * torch.randn(logits.shape, generator=self.generator)


def tree_cycles(
    model: Model, read: Prefill, plan: Plan, *, temperature: float = 0.0, noise: float = 0.0, max_tokens: int = 96
) -> list[TreeCycle]:
    """Decode an answer behind a context of one row, and keep every tree. noise: spread of what is added to the draft's
    logits."""
    fast, draft = model.fast_text(), model.fast_draft()
    helper = _Watched(_Noisy(draft, noise) if noise else draft, 1, read.context.length + max_tokens + 64)
    generator = torch.Generator().manual_seed(0)
    said = speculate(
        fast,
        lambda: helper,
        read,
        plan=plan,
        max_tokens=max_tokens,
        distribution=TokenDistribution(temperature),
        generator=generator,
    )
    start, end = fast.markers[:2]
    answer, grown, out, at = [*said.tokens[0], end], iter(helper.trees), [], 0
    for cycle in said.cycles:
        root = answer[at - 1] if at else start
        tree = next(grown) if cycle.levels else root_only(torch.tensor([root]))
        *kept, added = answer[at : at + cycle.kept[0]]
        out.append(TreeCycle(tree, _followed(tree, kept), added, answer[: max(at - 1, 0)]))
        at += cycle.kept[0]
    return out


def _followed(tree: Tree, tokens: Sequence[int]) -> list[int]:
    """The nodes that these tokens pass through, the root first."""
    path, words, children = [0], tree.tokens[0].tolist(), children_of(tree.parents[0].tolist())
    for token in tokens:
        path.append(next(c for c in children[path[-1]] if words[c] == token))
    return path


def tree_figure(model: Model, cycle: TreeCycle, title: str | None = None) -> plots.Chart:
    """The tree of a cycle: what was guessed, what stayed, who may look at whom."""
    markers = {model.text.start: "(start)", model.text.end: "(end)"}
    word = lambda token: markers.get(token) or model.text.token(token).strip() or "(space)"
    values = cycle.tree.value[0].exp().tolist()
    words, parents = [word(t) for t in cycle.tree.tokens[0].tolist()], cycle.tree.parents[0].tolist()
    text = model.text.decode(cycle.before)
    return draft_tree(words, parents, values, cycle.path, added=word(cycle.added), text=text, title=title)


def draft_viewer_figure(
    model: Model,
    read: Prefill,
    *,
    cycle: int = 4,
    depth: int = 5,
    width: int = 3,
    budget: int = 16,
    temperature: float = 0.0,
    noise: float = 0.0,
) -> plots.Chart:
    """Cycle number `cycle` of an answer, or the last one if there are fewer."""
    cycles = tree_cycles(model, read, Plan(depth, width, budget, pauses=False), temperature=temperature, noise=noise)
    at = min(cycle, len(cycles))
    return tree_figure(model, cycles[at - 1], f"Cycle {at} of {len(cycles)}")


def draft_viewer(model: Model, read: Prefill) -> w.VBox:
    """Walk through the cycles of an answer; turn the tree's shape, the temperature, and the draft's quality."""
    last: dict[tuple, list[TreeCycle]] = {}
    which = slider(w.IntSlider, 4, 1, 4, 1, "cycle")

    def draw(cycle, depth, width, budget, temperature, noise):
        asked = (depth, width, budget, round(temperature, 2), round(noise, 2))
        if asked not in last:  # another cycle of the same answer needs no decoding
            last.clear()
            last[asked] = tree_cycles(model, read, Plan(*asked[:3], pauses=False), temperature=asked[3], noise=asked[4])
        cycles = last[asked]
        which.max = len(cycles)  # a slider ends at the last cycle that exists
        at = min(cycle, len(cycles))
        tokens = sum(len(c.path) for c in cycles)
        note = f"{tokens} tokens in {len(cycles)} passes: acceptance length {tokens / len(cycles):.2f}"
        return tree_figure(model, cycles[at - 1], f"Cycle {at} of {len(cycles)}"), note

    return live(
        draw,
        cycle=which,
        depth=slider(w.IntSlider, 5, 1, 8, 1, "depth"),
        width=slider(w.IntSlider, 3, 1, 6, 1, "width"),
        budget=slider(w.IntSlider, 16, 1, 32, 1, "budget"),
        temperature=slider(w.FloatSlider, 0.0, 0.0, 1.5, 0.1, "temperature"),
        noise=slider(w.FloatSlider, 0.0, 0.0, 6.0, 0.5, "draft noise"),
    )


# ---- exercises -------------------------------------------------------------------------------------------------------


_TREE_PARENTS = [-1, 0, 0, 1, 1, 2, 3]  # two children of the root; node 6 stands three levels deep


def _seen(parents: Sequence[int], most: int = 99) -> Tensor:
    """Each node and those above it, at most so many levels up."""
    seen = torch.eye(len(parents), dtype=torch.bool)
    for i in range(1, len(parents)):
        node, up = i, 0
        while node and up < most:
            node, up = parents[node], up + 1
            seen[i, node] = True
    return seen


@exercise("6.1")
def _ancestors(answer):
    """ancestors(parents) -> bool [n, n]: row i marks node i and every node above it. parents[0] = -1 is the root's."""
    parents, right = list(_TREE_PARENTS), _seen(_TREE_PARENTS)
    n = len(parents)
    eye = torch.eye(n, dtype=torch.bool)
    wrapped = right | (torch.arange(n) == n - 1)
    expect(
        torch.as_tensor(call(answer, parents)).bool(),
        right,
        [
            (right.T, "rows are the nodes that look, columns those that are seen: yours is transposed"),
            (right & ~eye, "a node sees itself too, or its row may be empty"),
            (_seen(parents, 1), "not only the parent: its parent too, up to the root"),
            (_seen(parents, 1) & ~eye, "not only the parent: its parent too, up to the root; and the node itself"),
            (torch.ones(n, n, dtype=torch.bool).tril(), "that is a chain's mask: other branches must not be seen"),
            (wrapped, "parents[0] = -1 is no node: in Python, index -1 is the last one"),
        ],
        "parents come first: row i is its parent's row, and i itself",
        atol=0.1,
    )


@exercise("6.2")
def _tokens_of_a_tree(answer):
    """tree_tokens(confidence, parents): of one pass over this tree, if the draft is right about itself."""
    parents = list(_TREE_PARENTS)
    confidence = torch.tensor([1.0, 0.6, 0.3, 0.5, 0.4, 0.9, 0.7], dtype=torch.float64)
    value = torch.stack([confidence[row].prod() for row in _seen(parents)])
    leaves = [i for i in range(len(parents)) if i not in parents]
    expect(
        call(answer, confidence, parents),
        value.sum(),
        [
            (confidence.sum(), "a guess counts only if all above it were kept: multiply along the path"),
            (confidence.sum() - 1, "a guess counts only if all above it were kept: multiply along the path"),
            (value.sum() - 1, "the target's own token is missing: the root counts 1"),
            (value.sum() + 1, "the root is the target's token already: do not add it again"),
            (value[leaves].sum(), "a path may be kept in part: every node counts, not the leaves alone"),
            (1 + value[leaves].sum(), "a path may be kept in part: every node counts, not the leaves alone"),
            (
                max(float((value * row).sum()) for row in _seen(parents)),
                "every branch may be the right one: add them all",
            ),
            (value, "one number: add the values up"),
        ],
        "the value of a node is the product of the confidences on its path; add all values, the root's 1 included",
    )


@exercise("6.3")
def _another_level(answer):
    """another_level(tokens, cost, reach, extra) -> bool: does one more level raise tokens over cost?"""
    cases = [(3.0, 2.0, 0.5, 0.25), (3.0, 2.0, 0.3, 0.25), (1.5, 2.0, 0.2, 0.25), (3.0, 2.0, 0.3, 0.4)]
    cases += [(2.0, 1.0, 0.9, 0.4), (3.0, 2.0, 0.1, 0.4)]
    given = [bool(call(answer, *case)) for case in cases]
    right = [r * c > t * e for t, c, r, e in cases]
    if given == right:
        return
    known = {
        tuple(r > e for _, _, r, e in cases): "a token is worth what the tree so far pays for it, not a plain step",
        tuple(t + r > c + e for t, c, r, e in cases): "that asks whether the cycle still pays; would it pay more?",
        tuple(r > 0 for _, _, r, _ in cases): "every level brings something; it has to bring more than it costs",
        tuple(r * t > e * c for t, c, r, e in cases): "upside down: the rate to beat is tokens / cost",
        tuple(not x for x in right): "the other way round",
    }
    raise Hint(known.get(tuple(given), "compare (tokens + reach) / (cost + extra) with tokens / cost"))
