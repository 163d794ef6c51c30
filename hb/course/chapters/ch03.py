"""Notebook 03, the unified model: the attention rule."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets as w
import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.patches import Rectangle
from torch import Tensor

from hb import plots
from hb.course.exercises import Hint, call, exercise, expect, seeded
from hb.course.widgets import live
from hb.models.layers import RMSNorm
from hb.models.sequence import MODES, may_attend

KINDS = {"text": "text", "vit": "ViT patches", "vae": "clean latent", "noise": "noised latent"}


def attention_rule(
    mask: Tensor,
    kinds: Sequence[str],
    lengths: Sequence[int],
    positions: Sequence[int],
    *,
    names: Sequence[str] | None = None,
    title: str | None = None,
) -> plots.Chart:
    """Who may look at whom: mask [L, L], queries down, keys across, colored by the expert that makes the key.

    kinds and lengths: one for each split; positions [L]: RoPE position of every token; names: what to call the splits.
    """
    total = len(mask)
    owner = np.repeat([1 + (plots.EXPERT[kind] == plots.GENERATION) for kind in kinds], lengths)
    picture = np.where(mask.numpy(), owner[None, :], 0)
    figure, axes = plots.new_chart(6.4, 5.6)
    ax = axes[0, 0]
    colors = ListedColormap(["#f5f6f7", plots.UNDERSTANDING, plots.GENERATION])
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
            tick.set_color(plots.EXPERT[kind])
    for side in ax.spines.values():
        side.set_visible(False)
    plots.labels(ax, "keys, with the RoPE positions of each split", "queries")
    for color, name in (
        (plots.UNDERSTANDING, "understanding expert's key"),
        (plots.GENERATION, "generation expert's key"),
    ):
        ax.add_patch(Rectangle((0, 0), 0, 0, color=color, label=name))
    plots.legend(ax, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    plots.titled(figure, title)
    return figure


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
    """The attention rule for a plan of splits, colored by expert."""
    if plan not in PLANS:
        raise ValueError(f"no plan called {plan!r}; choose from {', '.join(PLANS)}")
    kinds, lengths, names = zip(*PLANS[plan])
    mask = may_attend(lengths, [MODES[kind] for kind in kinds])
    at = rope_positions(kinds, lengths)
    return attention_rule(mask, kinds, lengths, at, names=names, title=plan.capitalize())


def attention_viewer() -> w.VBox:
    """Choose a plan of splits: mask, positions, experts."""
    return live(attention_figure, plan=w.Dropdown(options=list(PLANS), value="editing", description="plan"))


# ---- exercises -------------------------------------------------------------------------------------------------------


@exercise("3.1")
def _rms(answer):
    """rms_norm(x, weight, eps)."""
    x, weight, eps = torch.randn(3, 8, generator=seeded()) + 0.5, torch.rand(8, generator=seeded(1)) + 0.5, 1e-2
    norm = RMSNorm(8, eps)
    norm.weight.data = weight
    mean = x.square().mean(-1, keepdim=True)
    expect(
        call(answer, x, weight, eps),
        norm(x).detach(),
        [
            (torch.layer_norm(x, (8,), weight, None, eps), "RMSNorm does not subtract the mean; that was LayerNorm"),
            (weight * x / (mean + eps), "the root is missing: divide by the square root of the mean square"),
            (x / (mean + eps).sqrt(), "the weight is missing"),
            (weight * x / (mean.sqrt() + eps), "eps goes under the root"),
            (weight * x / (x.square().sum(-1, keepdim=True) + eps).sqrt(), "the mean of the squares, not their sum"),
        ],
        "x / sqrt(mean(x^2) + eps) * weight, the mean over the last dimension",
    )


# splits of every kind, each with something behind it
_LENGTHS, _KINDS = (3, 4, 3, 2, 5, 2, 4), ("text", "noise", "vae", "text", "vit", "text", "noise")


@exercise("3.2")
def _positions(answer):
    """positions(lengths, kinds) -> RoPE position of every token."""
    right = torch.tensor(rope_positions(_KINDS, _LENGTHS))

    def instead(**other):
        return torch.tensor(rope_positions([other.get(kind, kind) for kind in _KINDS], _LENGTHS))

    one_each = torch.repeat_interleave(torch.arange(len(_KINDS)), torch.tensor(_LENGTHS))
    expect(
        torch.as_tensor(call(answer, _LENGTHS, _KINDS)),
        right,
        [
            (torch.arange(sum(_LENGTHS)), "all tokens of a picture share one position"),
            (instead(noise="vae"), "a noised picture does not move what follows"),
            (instead(vit="noise"), "a picture as ViT patches moves what follows by 1, as a clean latent does"),
            (instead(vae="noise"), "a clean latent moves what follows by 1, only a noised one does not"),
            (instead(vit="text"), "the patches of a ViT picture share one position too"),
            (right + 1, "positions begin at 0"),
            (one_each, "text counts up, token by token"),
        ],
        "text counts up; a picture's tokens share one position and move the next by 1, or by 0 where it is noised",
    )


@exercise("3.3")
def _expert(answer):
    """expert_of(kind): which weights a token goes through."""
    given = [call(answer, kind) for kind in ("text", "vit", "vae", "noise")]
    right = ["understanding", "understanding", "generation", "generation"]
    if given == right:
        return
    known = {
        ("understanding", "generation", "generation", "generation"): "ViT patches go through the understanding expert",
        (
            "understanding",
            "understanding",
            "understanding",
            "generation",
        ): "a clean latent is still a latent: the generation expert reads it too",
    }
    raise Hint(known.get(tuple(given), "two answers exist, 'understanding' and 'generation'; latents go to the second"))


@exercise("3.4")
def _attention(answer):
    """may_look(lengths, kinds) -> bool mask [L, L]."""
    lengths, kinds = _LENGTHS, _KINDS
    given = torch.as_tensor(call(answer, lengths, kinds)).bool()
    right = may_attend(lengths, [MODES[k] for k in kinds])
    expect(
        given,
        right,
        [
            (right.T, "queries are rows, keys are columns: yours is transposed"),
            (
                may_attend(lengths, ["full"] * len(kinds)),
                "text is causal in its split, and noised pictures are hidden from others",
            ),
            (may_attend(lengths, ["causal"] * len(kinds)), "pictures look both ways inside their split"),
            (
                may_attend(lengths, ["causal" if k == "vit" else MODES[k] for k in kinds]),
                "ViT patches are a picture: they look both ways inside their split",
            ),
            (
                may_attend(lengths, ["causal" if k == "vae" else MODES[k] for k in kinds]),
                "a clean latent is a picture: its tokens look both ways inside their split",
            ),
            (
                may_attend(lengths, ["full" if k == "noise" else MODES[k] for k in kinds]),
                "no token outside may attend to a noised picture, not even what comes later",
            ),
        ],
        _first_difference(given, right, lengths, kinds),
        atol=0.1,
    )


def _first_difference(given, right, lengths, kinds) -> str:
    if given.shape != right.shape:
        return f"{sum(lengths)} tokens make a square mask of that side"
    name = [f"token {i} of split {s} ({k})" for s, (n, k) in enumerate(zip(lengths, kinds)) for i in range(n)]
    wrong = (given != right).nonzero()
    if not len(wrong):
        return "look at the rule again"
    q, k = wrong[0].tolist()
    return f"{name[q]} should {'' if right[q, k] else 'not '}see {name[k]}"
