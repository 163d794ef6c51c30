"""`hb demo`: the model does everything it can do; the judge compares with the truth, and the verdicts are printed."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from hb.cli.output import to_json, write_figure, write_json
from hb.cli.use import edit_verdict, judged, open_model, wish
from hb.eval.cache import identity
from hb.eval.protocol import as_seen
from hb.eval.stats import Share
from hb.infer.pipeline import Model, Pictures
from hb.machine import machine
from hb.pictures import to_image
from hb.world.judge.reading import read
from hb.world.language import DESCRIBE_REQUEST, Question, described_right, parse_description, parse_edit
from hb.world.language import ask as ask_about
from hb.world.render import render
from hb.world.scene import Scene, Thing

DRAWINGS = (
    ("single", "a star"),
    ("two", "a circle and a heart"),
    ("counting", "three triangles"),
    ("colors", "a purple moon"),
    ("position", "a cross above a ring"),
    ("attribution", "a red square and a yellow heart"),
    ("all of it", "a large red circle left of a small blue star"),
    ("all of it", "two green rings and a striped pink square on a black background"),
)
OWN = 6  # the drawing that is edited: its scene is what the judge reads in it
OWN_EDIT = "make the star green"
SCENE = Scene(
    (
        Thing("heart", "red", "large", 0.21, 0.25),
        Thing("star", "blue", "small", 0.78, 0.22),
        Thing("ring", "orange", "large", 0.5, 0.76),
    ),
    "beige",
)
SCENE_EDITS = ("remove the heart", "change the background to navy")
QUESTIONS = ("count", "color", "place", "relation")
DRAW_NFE, EDIT_NFE = 100, 132
SEED = 0


@dataclass(frozen=True)
class Row:
    """One thing that was asked of the model, what it cost, and how it went."""

    task: str
    asked: str
    nfe: float | None
    seconds: float
    right: bool
    remark: str

    def line(self) -> str:
        cost = "" if self.nfe is None else f"{self.nfe:g}"
        verdict = ("right" if self.right else "wrong") + (f": {self.remark}" if self.remark else "")
        return f"{self.task:17} {self.asked:66} {cost:>4} {self.seconds:7.2f}  {verdict}"


HEAD = f"{'task':17} {'asked':66} {'NFE':>4} {'seconds':>7}  verdict"


def demo(args) -> None:
    began = time.monotonic()
    model = open_model(args)
    if model.bagel.config.picture_side is None:
        raise ValueError("the demo is of the tiny world, and this model was not trained on it; try `hb draw` with it")
    say = (lambda words: None) if args.json else (lambda words: print(words, flush=True))
    if args.seeds:
        return _over_seeds(args, model, say, began)
    say(f"{model!r}\n\n{HEAD}\n{'-' * len(HEAD)}")
    rows, panels = _asked(model, SEED, say)
    right = sum(row.right for row in rows)
    record = dict(
        right=right,
        asked=len(rows),
        seconds=round(time.monotonic() - began, 2),
        seed=SEED,
        machine=machine(),
        model=dict(name=model.name, identity=identity(model)),
        rows=[asdict(row) for row in rows],
    )
    picture = write_figure(Path(args.out) / "demo.png", sheet(panels), dpi=110)
    file = write_json(Path(args.out) / "demo.json", record)
    say(f"\n{right} of {len(rows)} right, {record['seconds']:.0f} s in all on {record['machine']}.")
    say(f"The pictures are in {picture}, the numbers in {file}.")
    if args.json:
        print(to_json(record))


def _asked(model: Model, seed: int, say=lambda line: None) -> tuple[list[Row], list[Panel]]:
    """All that is asked of the model; each row is said as soon as it is there."""
    rows, panels = [], []
    for part in (drawings, edits, answers):
        for row, *shown in part(model, panels, seed):
            rows.append(row)
            panels += shown
            say(row.line())
    return rows, panels


def _over_seeds(args, model: Model, say, began: float) -> None:
    """All of the demo from each of the seeds 0 to N - 1, and how often each thing was right."""
    runs = []
    for seed in range(args.seeds):
        rows, _ = _asked(model, seed)
        runs.append(rows)
        say(f"seed {seed}: {sum(row.right for row in rows)} of {len(rows)} right")
    each = [[row.right for row in rows] for rows in zip(*runs)]
    shares = [dict(task=row.task, asked=row.asked) | Share(sum(k), len(k)).to_dict() for row, k in zip(runs[0], each)]
    mean = sum(map(sum, each)) / len(runs)
    record = dict(mean=round(mean, 3), asked=len(each), seeds=args.seeds, machine=machine(), rows=shares)
    record |= dict(model=dict(name=model.name, identity=identity(model)), seconds=round(time.monotonic() - began, 2))
    file = write_json(Path(args.out) / "demo_seeds.json", record)
    say("")
    for row in shares:
        interval = f"{row['value']:.2f}  ({row['low']:.2f} to {row['high']:.2f})"
        say(f"{row['task']:17} {row['asked']:66} {interval}")
    say(f"\n{mean:.2f} of {len(each)} right in the mean of {args.seeds} seeds. The numbers are in {file}.")
    if args.json:
        print(to_json(record))


@dataclass(frozen=True)
class Panel:
    """A picture with its caption; right is None for what was given, not made."""

    image: Image.Image
    caption: str
    right: bool | None
    pictures: Pictures | None = None


def drawings(model: Model, panels, seed: int):
    for k, (task, prompt) in enumerate(DRAWINGS):
        said, request = wish(prompt)
        done = model.draw(said, nfe=DRAW_NFE, seed=seed + k, warn=False)
        row = _row(f"draw: {task}", prompt, done, judged(done, [request])[0])
        yield row, Panel(done.image, prompt, row.right, done)


def edits(model: Model, panels: list[Panel], seed: int):
    own = as_seen(panels[OWN].pictures)[0]
    yield _edit(model, own, "its drawing", read(own).scene, OWN_EDIT, seed)
    given = render([SCENE], model.bagel.config.picture_side)[0]
    before = [Panel(to_image(given * 2 - 1), "a picture it was given", None)]
    for instruction in SCENE_EDITS:
        row, after = _edit(model, given, "a picture", SCENE, instruction, seed)
        yield row, *before, after
        before = []


def _edit(
    model: Model, before: Tensor, what: str, scene: Scene | None, instruction: str, seed: int
) -> tuple[Row, Panel]:
    done = model.edit(before, instruction, nfe=EDIT_NFE, seed=seed)
    verdict = dict(right=False, reasons=["not judged: the drawing it was to edit cannot be read as a scene"])
    if scene is not None:
        verdict = edit_verdict(read(as_seen(done))[0], parse_edit(instruction), scene)
    row = _row(f"edit {what}", instruction, done, verdict)
    return row, Panel(done.image, instruction, row.right, done)


def answers(model: Model, panels, seed: int):
    picture = render([SCENE], model.bagel.config.picture_side)
    for question in questions():
        done = model.ask(picture, question.text, max_tokens=12)
        said = done.text.strip()
        right = said == question.answer
        yield (
            Row(
                "ask",
                question.text,
                None,
                _total(done),
                right,
                said if right else f"{said!r}, it is {question.answer!r}",
            ),
        )
    done = model.ask(picture, DESCRIBE_REQUEST)
    match = described_right(parse_description(done.text), SCENE)
    right = match.found == match.told == match.true and match.background and match.count
    remark = f"{match.found} of {match.true} things as they are, {match.told} told of"
    yield (Row("ask", DESCRIBE_REQUEST, None, _total(done), bool(right), remark),)


def questions() -> list[Question]:
    """One of each kind about the given picture, with the true answers, always the same ones."""
    return [ask_about(SCENE, np.random.default_rng(seed), kind) for seed, kind in enumerate(QUESTIONS)]


def _row(task: str, asked: str, done: Pictures, verdict: dict) -> Row:
    return Row(task, asked, done.nfe, _total(done), verdict["right"], "; ".join(verdict["reasons"][:1]))


def _total(record) -> float:
    return round(sum(record.seconds.values()), 3)


def sheet(panels: list[Panel], columns: int = 4) -> Figure:
    """All pictures with captions: green for right, red for wrong, black for what was given."""
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(2.6 * columns, 3.0 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for ax in axes:
        ax.set_axis_off()
    for ax, panel in zip(axes, panels):
        ax.imshow(panel.image, interpolation="nearest")
        mark = {True: "\n✓ right", False: "\n✗ wrong", None: ""}[panel.right]
        color = {True: "darkgreen", False: "firebrick", None: "black"}[panel.right]
        ax.set_title(panel.caption + mark, fontsize=8, color=color, wrap=True)
    return figure
