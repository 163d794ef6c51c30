"""Sliders around plots. Each widget calls one plain function of its arguments, which draws the static figure too.

Nothing trains here, and nothing is drawn while a slider is still moving. A widget is a box; its controls are in
`box.controls`, by name, and setting one's `.value` does what a hand would do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from textwrap import fill
from types import SimpleNamespace
from typing import TYPE_CHECKING

import ipywidgets as w
import torch
from torch import Tensor

from hb import plots
from hb.eval.pictures import RESULTS, identity
from hb.exact import FiniteData, GaussianMixture
from hb.flow import euler, jump, time_grid, x0_from
from hb.guidance import Guidance
from hb.infer.speculative import exact as distributions
from hb.infer.speculative.decode import Read, speculate
from hb.infer.speculative.runner import DraftModel, DraftRunner, Plan
from hb.infer.speculative.tree import Tree, root_only
from hb.infer.speculative.verify import RULES, children_of
from hb.losses import renoised
from hb.models.distribution import TokenDistribution
from hb.models.sequence import MODES, may_attend
from hb.pictures import to_tensor
from hb.train.distill.segments import Segments
from hb.world.judge.damage import DAMAGES, damage
from hb.world.judge.judge import Reading, check, read
from hb.world.language import LanguageError, describe, parse, say
from hb.world.render import render
from hb.world.scene import BACKGROUNDS, COLORS, PLACES, SHAPES, SIZES, TEXTURES, Request, Scene, Thing, Wish

if TYPE_CHECKING:  # the engine is heavy, and only some widgets are handed a model
    from hb.infer.pipeline import Model, Pictures


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
    model: Model,
    prompt: str,
    *,
    steps: Sequence[int] = (50, 12, 6, 2, 1),
    text_scales: Sequence[float] = (4.0, 1.0),
    seed: int = 0,
    title: str | None = None,
) -> plots.Chart:
    """One prompt from one noise: steps across, guidance down, framed by the judge's verdict."""
    request = parse(prompt)
    rows, right = {}, {}
    for scale in text_scales:
        drawn = [model.draw(prompt, steps=n, text_scale=scale, seed=seed, warn=False) for n in steps]
        seen = torch.cat([_seen(d) for d in drawn])
        name = f"text scale {scale:g}" if scale > 1 else "unguided"
        rows[name], right[name] = seen, [check(r, request).right for r in read(seen)]
    return plots.strip(rows, [f"{n} steps" if n > 1 else "1 step" for n in steps], right=right, title=title)


def compare(model: Model, prompt: str = "a red circle left of a blue star", steps: int = 12) -> w.VBox:
    """Turn steps, guidance and seed: the picture asked for, beside what 50 steps make of the same noise."""

    def draw(prompt, steps, text_scale, seed):
        request = parse(prompt)
        reference = model.draw(prompt, seed=seed, warn=False)
        drawn = model.draw(prompt, steps=steps, text_scale=text_scale, seed=seed, warn=False)
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


# ---- the chain of stages --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Link:
    """One row of the chain's strip: who draws it, in how many steps, and the file `hb eval scene` keeps about just
    that."""

    name: str
    steps: int
    file: str
    student: str | None = None
    guided: bool = True

    def draw(self, model: Model, steps: int | None = None) -> Pictures:
        """The strip's prompts, always from the same noise."""
        off = {} if self.guided else dict(text_scale=1.0)
        who = self.student or "teacher"
        return model.draw(CHAIN_PROMPTS, steps=steps or self.steps, seed=CHAIN_SEED, student=who, **off, warn=False)


CHAIN = (  # in the order of the course: each stage begins with what the one before it made
    Link("teacher", 50, "scene_nfe100"),
    Link("teacher, unguided", 6, "scene_steps6_text1", guided=False),
    *(Link(name, 6, f"scene_{name}_nfe6", student=name) for name in ("cfg", "tscd", "dmdo")),
)
CHAIN_PROMPTS = (
    "a red circle",
    "two stars",
    "three moons",
    "a green ring",
    "a pink star left of a blue heart",
    "a cross above a yellow square",
)
CHAIN_SEED = 7
LADDER = "scene_ladder"


def chain_until(stage: str) -> tuple[Link, ...]:
    """The chain as far as it is made when `stage` is."""
    stages = [link.student for link in CHAIN]
    if stage not in stages[2:]:
        raise ValueError(f"no stage called {stage!r} in the chain; choose from {', '.join(stages[2:])}")
    return CHAIN[: stages.index(stage) + 1]


def chain_strip(model: Model, stage: str, *, steps: int = 50) -> plots.Chart:
    """The same noise for every link of the chain up to `stage`, framed by the judge's verdict. A stage that the model
    has no student of has no row. steps: the guided teacher's, for who cannot wait."""
    rows, right = {}, {}
    for link in chain_until(stage):
        if link.student in (None, *model.students):
            drawn = link.draw(model, steps if link is CHAIN[0] else None)
            name, seen = f"{link.name}, {drawn.nfe:g} NFE", _seen(drawn)
            rows[name] = seen
            right[name] = [check(r, parse(p)).right for r, p in zip(read(seen), CHAIN_PROMPTS)]
    columns = [fill(prompt, 13) for prompt in CHAIN_PROMPTS]
    return plots.strip(
        rows, columns, right=right, size=0.9, title="One noise a column, drawn by every link of the chain"
    )


def chain_score(model: Model, stage: str, folder: Path = RESULTS) -> str:
    """SceneEval of every link up to `stage`, read from what `hb eval scene` wrote: a line a number, and its command.

    Numbers of another model or another student are not shown; a sentence in their place says so.
    """
    lines, sentences = [], []
    for link in chain_until(stage):
        if link.student not in (None, *model.students):
            sentences.append(f"This model has no student {link.student!r} yet: hb distill six-nfe.")
            continue
        for path in (Path(folder) / f"{file}.json" for file in (LADDER, link.file)):
            if path.exists():
                record = json.loads(path.read_text())
                score = _score_of(record, link)
                if why := _wrong_about(record, score, model, link):
                    sentences.append(f"{path.name} {why}; measure again: {record['command']}.")
                else:
                    lines.append(_score_line(record, score, link))
            elif path.stem == LADDER:
                sentences.append(f"{path.name} is not there: hb eval scene --ladder.")
    table = (
        [_SCORE_LINE.format("SceneEval", "right", "95% interval", "pictures", "measured by"), *lines] if lines else []
    )
    return "\n".join(table + list(dict.fromkeys(sentences)))


_SCORE_LINE = "{:25} {:>5}  {:14}  {:>8}  {}"


def _score_line(record: dict, score: dict, link: Link) -> str:
    share, pictures = score["overall"], sum(task["n"] for task in score["tasks"].values())
    interval = f"{share['low']:.3f} to {share['high']:.3f}"
    return _SCORE_LINE.format(
        f"{link.name}, {score['nfe']:g} NFE", f"{share['value']:.3f}", interval, pictures, record["command"]
    )


def _score_of(record: dict, link: Link) -> dict | None:
    """What a record says about this link: a rung of the ladder, or all of a file that is about nothing else."""
    if record["name"] != LADDER:
        return record["result"]
    mine = (link.student, link.guided, link.steps)
    return next((r for r in record["result"]["rungs"] if (r["student"], r["guided"], r["steps"]) == mine), None)


def _wrong_about(record: dict, score: dict | None, model: Model, link: Link) -> str | None:
    """Why these numbers are not this link's; None: they are."""
    if record["model"]["identity"] != identity(model):
        return f"is about another model ({record['model']['identity']}, and this one is {identity(model)})"
    if score is None:
        return f"does not know {link.name!r}"
    who = record.get("student") or score  # of a file, or of a rung
    if link.student and who.get("identity") != model.students[link.student].fingerprint():
        return f"is about another student {link.student!r}"
    return None


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
    """The attention rule for a plan of splits, colored by expert."""
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
        shape=choice(SHAPES, "shape"),
        color=choice(COLORS, "color"),
        size=choice(SIZES[::-1], "size"),
        texture=choice(TEXTURES, "texture"),
        place=choice(PLACES, "place"),
        background=choice(BACKGROUNDS, "background"),
        damaged_by=choice(["nothing", *DAMAGES], "damage"),
        strength=_slider(w.FloatSlider, 0.0, 0.0, 2.5, 0.05, "strength"),
    )


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
        draw,
        steps=_slider(w.IntSlider, 6, 1, 50, 1, "steps"),
        shift=_slider(w.FloatSlider, 1.0, 0.25, 6.0, 0.25, "shift"),
        seed=_slider(w.IntSlider, 0, 0, 20, 1, "seed"),
    )


# ---- the ledger -----------------------------------------------------------------------------------------------------


def bill(
    steps: int = 50, shift: float = 3.0, low: float = 0.4, high: float = 1.0, text: bool = True, picture: bool = True
) -> list[int]:
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


# ---- losslessness under the microscope ------------------------------------------------------------------------------

TRIED = {"a chain of two": (1, 1), "two, then one": (2, 1)}  # candidates at each depth
SOUND = "nothing is wrong"


def microscope_figure(
    temperature: float = 1.0, rule: str = "drawn", tried: str = "a chain of two", sabotage: str = SOUND
) -> plots.Chart:
    """Every three-token sequence of the tiny models: the target's distribution, and what drafting with it emits."""
    if sabotage not in (SOUND, *distributions.SABOTAGES):
        raise ValueError(f"no sabotage called {sabotage!r}; choose from {', '.join((SOUND, *distributions.SABOTAGES))}")
    distribution, decoder = (
        TokenDistribution(temperature=temperature),
        distributions.SABOTAGES.get(sabotage, distributions.HONEST),
    )
    wanted = distributions.target_distribution(distributions.TINY_TARGET, 3, distribution)
    emitted = distributions.emitted_distribution(
        distributions.TINY_TARGET,
        distributions.TINY_DRAFT,
        rule=rule,
        shape=TRIED[tried],
        length=3,
        distribution=distribution,
        decoder=decoder,
    )
    names = ["".join(letters) for letters in product("abc", repeat=3)]
    title = f"{tried.capitalize()}, temperature {temperature:g}: {sabotage}"
    return plots.microscope(wanted.flatten(), emitted.flatten(), names, title=title)


def microscope() -> w.VBox:
    """Turn temperature and rule, and break the decoder: what is emitted, against the target's distribution."""

    def draw(temperature, rule, tried, sabotage):
        chart = microscope_figure(round(temperature, 2), rule, tried, sabotage)
        return chart, distributions.SABOTAGES.get(sabotage, distributions.HONEST).why

    choice = lambda options, name: w.Dropdown(options=list(options), description=name)
    return live(
        draw,
        temperature=_slider(w.FloatSlider, 1.0, 0.0, 1.5, 0.1, "temperature"),
        rule=w.Dropdown(options=list(RULES), value="drawn", description="rule"),
        tried=choice(TRIED, "tried"),
        sabotage=choice((SOUND, *distributions.SABOTAGES), "sabotage"),
    )


# ---- the draft-tree theatre -----------------------------------------------------------------------------------------


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
    model: Model, read: Read, plan: Plan, *, temperature: float = 0.0, noise: float = 0.0, max_tokens: int = 96
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
    return plots.draft_tree(words, parents, values, cycle.path, added=word(cycle.added), text=text, title=title)


def draft_theatre_figure(
    model: Model,
    read: Read,
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


def draft_theatre(model: Model, read: Read) -> w.VBox:
    """Walk through the cycles of an answer; turn the tree's shape, the temperature, and the draft's quality."""
    last: dict[tuple, list[TreeCycle]] = {}

    def draw(cycle, depth, width, budget, temperature, noise):
        asked = (depth, width, budget, round(temperature, 2), round(noise, 2))
        if asked not in last:  # another cycle of the same answer needs no decoding
            last.clear()
            last[asked] = tree_cycles(model, read, Plan(*asked[:3], pauses=False), temperature=asked[3], noise=asked[4])
        cycles = last[asked]
        at = min(cycle, len(cycles))
        tokens = sum(len(c.path) for c in cycles)
        note = f"{tokens} tokens in {len(cycles)} passes: acceptance length {tokens / len(cycles):.2f}"
        return tree_figure(model, cycles[at - 1], f"Cycle {at} of {len(cycles)}"), note

    return live(
        draw,
        cycle=_slider(w.IntSlider, 4, 1, 60, 1, "cycle"),
        depth=_slider(w.IntSlider, 5, 1, 8, 1, "depth"),
        width=_slider(w.IntSlider, 3, 1, 6, 1, "width"),
        budget=_slider(w.IntSlider, 16, 1, 32, 1, "budget"),
        temperature=_slider(w.FloatSlider, 0.0, 0.0, 1.5, 0.1, "temperature"),
        noise=_slider(w.FloatSlider, 0.0, 0.0, 6.0, 0.5, "draft noise"),
    )


# ---- real score against fake score ----------------------------------------------------------------------------------

# name -> how a student's points are noised for the fake score, and for the student's own turn
WAYS = {
    "fresh": ("fresh", "fresh"),
    "coupled": ("coupled", "coupled"),
    "fake fresh, student coupled": ("fresh", "coupled"),
}


def two_guesses(
    distribution: GaussianMixture,
    x0: Tensor,
    z: Tensor,
    t: Tensor,
    way: str = "fresh",
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """A student of N points x0 [N, 2], each with the noise z it was made from: its points at time t [N], and the data
    behind them as the exact real score and the exact fake score guess it.

    Noised afresh, the student's distribution at time t is a mixture of N Gaussians. Coupled, a noised point lies on the
    line of one pair only, so a perfect fake score gives x0 back.
    """
    if way not in WAYS:
        raise ValueError(f"no way to re-noise called {way!r}; choose from {', '.join(WAYS)}")
    learnt, asked = WAYS[way]
    y = renoised(x0, z, torch.randn(x0.shape, generator=generator), t, asked)
    real = x0_from(y, distribution.velocity(y, t), t)
    fake = x0 if learnt == "coupled" else x0_from(y, FiniteData(x0).velocity(y, t), t)
    return y, real, fake


MOVES = 100  # as many as the slider has


def contracting(distribution: GaussianMixture, x0: Tensor, z: Tensor, way: str, moves: int, seed: int = 0) -> Tensor:
    """A student of free points while two exact scores push it: its states [moves + 1, N, 2].

    Each move is a tenth of the way from the fake guess to the real one, without DMD's scale.
    """
    generator, states = torch.Generator().manual_seed(seed), [x0]
    for _ in range(moves):
        t = 0.02 + 0.96 * torch.rand(len(z), generator=generator)
        _, real, fake = two_guesses(distribution, states[-1], z, t, way, generator)
        states.append(states[-1] + 0.1 * (real - fake))
    return torch.stack(states)


def _right_student(distribution: GaussianMixture, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noises, and where the exact flow takes them."""
    z = torch.randn(count, 2, generator=generator)
    *_, (_, right) = euler(distribution.velocity, z, time_grid(60))
    return z, right


def _two_scores(
    distribution: GaussianMixture,
    x0: Tensor,
    z: Tensor,
    t: float,
    way: str,
    title: str,
    generator: torch.Generator,
    shown: int = 60,
) -> plots.Chart:
    drawn = [two_guesses(distribution, x0, z, torch.full((len(z),), t), way, generator) for _ in range(12)]
    y, real, fake = drawn[0]
    panels = {
        "the real score's guess": (y, real, plots.RIGHT),
        "the fake score's guess": (y, fake, plots.GENERATION),
        "where the student goes": (x0, x0 + sum(real - fake for _, real, fake in drawn) / len(drawn), plots.INK),
    }
    panels = {name: (start[:shown], end[:shown], color) for name, (start, end, color) in panels.items()}
    return plots.arrows(panels, data=distribution.sample(200, generator), limit=3.0, title=title)


def _two_scores_title(t: float, spread: float, way: str, moves: int) -> str:
    return f"Noised to t' = {t:g} ({way}), spread {spread:g}" + (f", after {moves} moves" if moves else "")


def two_scores_figure(
    distribution: GaussianMixture,
    *,
    t: float = 0.5,
    spread: float = 0.6,
    way: str = "fresh",
    moves: int = 0,
    count: int = 400,
) -> plots.Chart:
    """Both guesses behind the same noised points; and where the student is sent: their difference, over twelve noises.

    The student is what the exact flow makes of `count` noises, narrowed or widened by `spread` (at 1 its distribution
    is right), and then moved so often by the two scores themselves.
    """
    generator = torch.Generator().manual_seed(0)
    z, right = _right_student(distribution, count, generator)
    x0 = contracting(distribution, spread * right, z, way, moves)[-1]
    return _two_scores(distribution, x0, z, t, way, _two_scores_title(t, spread, way, moves), generator)


def two_scores(distribution: GaussianMixture, count: int = 400) -> w.VBox:
    """Let the student move, and turn the noise time, its spread at the start and the way of re-noising."""
    last: dict[tuple, Tensor] = {}

    def draw(moves, way, spread, t):
        t, spread, generator = round(t, 2), round(spread, 2), torch.Generator().manual_seed(0)
        z, right = _right_student(distribution, count, generator)
        if (spread, way) not in last:  # all states at once: the slider of moves only looks them up
            last.clear()
            last[spread, way] = contracting(distribution, spread * right, z, way, MOVES)
        x0 = last[spread, way][moves]
        chart = _two_scores(distribution, x0, z, t, way, _two_scores_title(t, spread, way, moves), generator)
        return chart, f"the student's spread, over the data's: {x0.std() / right.std():.2f}"

    return live(
        draw,
        moves=_slider(w.IntSlider, 0, 0, MOVES, 5, "moves"),
        way=w.Dropdown(options=list(WAYS), value="coupled", description="way"),
        spread=_slider(w.FloatSlider, 1.0, 0.2, 1.6, 0.1, "spread"),
        t=_slider(w.FloatSlider, 0.5, 0.05, 0.95, 0.05, "t'"),
    )


# ---- distilled guidance ---------------------------------------------------------------------------------------------

Guided = Callable[[Tensor, Tensor, float], Tensor]  # velocity(x, t, scale)


@torch.no_grad()
def knob_walks(distributions: Sequence[Guided], scale: float, steps: int, seed: int = 0) -> list[Tensor]:
    """Paths [steps + 1, 120, 2] of guided velocities at this scale, all from the same noise."""
    at = lambda distribution: SimpleNamespace(velocity=lambda x, t: distribution(x, t, scale))
    return [walk(at(distribution), steps, shift=3.0, count=120, seed=seed) for distribution in distributions]


def guidance_knob_figure(
    teacher: Guided, student: Guided, data: Tensor, *, scale: float = 4.0, steps: int = 50, seed: int = 0
) -> plots.Chart:
    """In the plane: the guided teacher beside a student that is told the scale, from the same noise."""
    theirs, ours = knob_walks((teacher, student), scale, steps, seed)
    panels = {f"teacher: {2 * steps} evaluations": theirs, f"student: {steps} evaluations": ours}
    title = f"The same noise, text scale {scale:g}"
    return plots.trajectories(panels, data=data, size=2.9, limit=3.2, marked=plots.most_bent(theirs), title=title)


@dataclass(frozen=True)
class KnobGrid:
    """The same prompts from the same noise at several text scales: by the guided teacher in two passes a step, and by a
    student that is told the scale, in one. scale -> pictures."""

    student: str
    teachers: dict[float, Pictures]
    students: dict[float, Pictures]

    @property
    def prompts(self) -> tuple[str, ...]:
        return next(iter(self.teachers.values())).prompts

    def row(self, name: str, drawn: Sequence[Pictures], which: int | None = None) -> tuple[str, Tensor, list[bool]]:
        """A row of a strip: its name with the metered cost, all pictures or number `which` of each, and the
        verdicts."""
        costs = " or ".join(f"{n:g}" for n in sorted({d.nfe for d in drawn}))
        chosen = slice(None) if which is None else slice(which, which + 1)
        seen, prompts = torch.cat([_seen(d)[chosen] for d in drawn]), [p for d in drawn for p in d.prompts[chosen]]
        return f"{name}, {costs} NFE", seen, [check(r, parse(p)).right for r, p in zip(read(seen), prompts)]

    def strip(
        self, scales: Sequence[float], columns: Sequence[str], title: str, which: int | None = None
    ) -> plots.Chart:
        """Teacher above, student below."""
        made = {"teacher": self.teachers, self.student: self.students}
        lines = [self.row(name, [of[a] for a in scales], which) for name, of in made.items()]
        return plots.strip(
            {name: seen for name, seen, _ in lines}, columns, right={n: r for n, _, r in lines}, title=title
        )

    def moved(self, scale: float) -> tuple[float, float]:
        """How far the teacher's and the student's pictures are from their own at the least scale: mean over pixels."""
        least = min(self.teachers)
        return tuple(float((of[scale].pixels - of[least].pixels).abs().mean()) for of in (self.teachers, self.students))


def knob_grid(
    model: Model,
    student: str = "cfg",
    *,
    prompts: Sequence[str] = CHAIN_PROMPTS[1:5],
    steps: int = 12,
    scales: Sequence[float] = (1.0, 2.0, 3.0, 4.0, 5.0),
    seed: int = CHAIN_SEED,
) -> KnobGrid:
    """Draw them all, once: a slider then only looks them up."""
    at = lambda who: {
        a: model.draw(prompts, steps=steps, text_scale=a, seed=seed, student=who, warn=False) for a in scales
    }
    return KnobGrid(student, at("teacher"), at(student))


def student_knob_figure(grid: KnobGrid, which: int = -1) -> plots.Chart:
    """One prompt at every scale: the teacher above, the student below."""
    which %= len(grid.prompts)
    columns = [f"scale {a:g}" for a in grid.teachers]
    return grid.strip(list(grid.teachers), columns, f"{grid.prompts[which].capitalize()}, one noise", which)


def student_knob(grid: KnobGrid) -> w.VBox:
    """Turn the text scale: every prompt, by teacher and student, and how far either has moved since the least scale."""

    def draw(scale):
        theirs, ours = grid.moved(scale)
        chart = grid.strip([scale], [fill(p, 14) for p in grid.prompts], f"Text scale {scale:g}, one noise a column")
        return (
            chart,
            f"pixels moved since scale {min(grid.teachers):g}: teacher {theirs:.3f}, {grid.student} {ours:.3f}",
        )

    options = [(f"{a:g}", a) for a in grid.teachers]
    return live(draw, scale=w.SelectionSlider(options=options, description="scale", continuous_update=False))


# ---- segments of a path ---------------------------------------------------------------------------------------------

FINE, FINER = 48, 4  # teacher's steps, and steps of the exact path in each of them


@dataclass(frozen=True)
class Hops:
    """Jumps from a start down the edges of segments: where consistent ones land, and where the teacher's arrow does."""

    times: Tensor  # [K]: the start, then every edge below it
    marks: Tensor  # [K, 2], on the path
    walked: Tensor  # [K, 2], by Euler from the first mark


def hops(teacher, path: Tensor, segments: Segments, start: int) -> Hops:
    """path [fine + 1, 2] on the segments' fine grid, from its point number `start`."""
    size = segments.fine // segments.count
    at = torch.tensor([start, *range((start // size + 1) * size, segments.fine + 1, size)])
    times = time_grid(segments.fine, segments.shift)[at]
    walked = [path[start]]
    for t, s in zip(times, times[1:]):
        x = walked[-1][None]
        walked.append(jump(x, teacher.velocity(x, t), t, s)[0])
    return Hops(times, path[at], torch.stack(walked))


def _segmented(teacher, data: Tensor, count: int, start: int, seed: int) -> tuple[plots.Chart, str]:
    paths = walk(teacher, FINE * FINER, shift=3.0, count=60, seed=seed)
    chosen, segments = plots.most_arched(paths), Segments(count, FINE)
    way = hops(teacher, paths[::FINER, chosen], segments, start)
    off, jumps = (way.marks[-1] - way.walked[-1]).norm(), len(way.times) - 1
    title = f"{count} segment{'s' * (count > 1)}, from t = {way.times[0]:.2f}: {jumps} jump{'s' * (jumps > 1)}"
    chart = plots.segments(
        paths[:, chosen],
        time_grid(FINE * FINER, segments.shift),
        way.marks,
        way.walked,
        way.times,
        segments.edges,
        others=paths[:, :30],
        data=data,
        title=title,
    )
    return chart, f"consistent jumps end on the path; the same jumps along the teacher's arrow end {off:.2f} from it"


def segment_figure(teacher, data: Tensor, *, count: int = 3, start: int = 0, seed: int = 0) -> plots.Chart:
    """The most arched of some paths, cut into `count` segments, from step `start` of 48: the jumps to be learnt."""
    return _segmented(teacher, data, count, start, seed)[0]


def segment_viewer(teacher, data: Tensor) -> w.VBox:
    """Turn the number of segments and the start: path, jumps, edges."""
    counts = [n for n in range(1, FINE + 1) if FINE % n == 0]
    return live(
        lambda count, start, seed: _segmented(teacher, data, count, start, seed),
        count=w.SelectionSlider(options=counts, value=3, description="segments", continuous_update=False),
        start=_slider(w.IntSlider, 0, 0, FINE - 1, 1, "start"),
        seed=_slider(w.IntSlider, 0, 0, 20, 1, "seed"),
    )
