"""Stored results for the notebooks' closing cells: what was measured, its interval, and the command that measured it.

Prose in a notebook holds no measured number. These functions print them from data/results and from the diary there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

from scipy.stats import binomtest

from hb.infer.pipeline import Model

RESULTS = Path(__file__).resolve().parents[2] / "data" / "results"


def numbers(name: str, *what: str, folder: Path = RESULTS, made_by: str | None = None) -> str:
    """A line for each figure of data/results/NAME.json whose name contains one of `what`, then its command.

    made_by: the command that makes the file; it is named where there is none yet
    """
    path = Path(folder) / f"{name}.json"
    if not path.exists():
        return f"{path.name} is not there." if made_by is None else f"{path.name} is not there yet; {made_by} makes it."
    record = json.loads(path.read_text())
    chosen = [row for row in record["numbers"] if any(part in row["what"] for part in what)]
    width = max((len(row["what"]) for row in chosen), default=0)
    lines = [f"{row['what']:{width}}  {_interval(row)}" for row in chosen]
    model = record["model"]
    return "\n".join([*lines, f"({record['command']}; {model['name']} {model['identity']}, {record['date']})"])


def _interval(row: dict) -> str:
    value = f"{row['value']:.3f}"
    return value if row["low"] is None else f"{value}  ({row['low']:.3f} to {row['high']:.3f})"


def diary(heading: str, folder: Path = RESULTS, width: int = 110) -> str:
    """The diary's entry that begins with this heading."""
    text = (Path(folder) / "DIARY.md").read_text()
    found = re.search(rf"^- \*\*{re.escape(heading)}\.?\*\*(.*?)(?=^- \*\*|^#|\n\n|\Z)", text, re.M | re.S)
    if found is None:
        return f"The diary has no entry {heading!r}."
    return fill(f"DIARY.md, {heading}: " + " ".join(found[1].split()).replace("`", ""), width)


def right_share(score) -> dict:
    """Pictures of a SceneEval judged right, all tasks together, with Wilson's 95% interval: never of width zero."""
    k, n = (sum(getattr(task, name) for task in score.tasks.values()) for name in ("k", "n"))
    interval = binomtest(k, n).proportion_ci(0.95, method="wilson")
    return dict(value=k / n, low=float(interval.low), high=float(interval.high), n=n)


# ---- one evaluation, side by side ------------------------------------------------------------------------------------

_FIGURES = dict(scene="SceneEval, ", edit="EditEval O", coverage="coverage, ", complex="complex prompts, ")
_OTHERS = (("dmdo", 6, "nfe6"), *((name, 1, "steps1") for name in ("dmdo", "lcm", "dmd2")))
# what each student's evaluations are kept as: the teacher and the six-evaluation student in their own numbers of steps,
# those that were not made for one evaluation in one step
SIDE_BY_SIDE = {
    "teacher, 100": ("scene_nfe100", "edit_nfe132", "coverage_nfe100", "complex_nfe100"),
    **{f"{name}, {n}": tuple(f"{what}_{name}_{kept}" for what in _FIGURES) for name, n, kept in _OTHERS},
}
_SIDE = "{:18} {:>22} {:>16} {:>8} {:>10} {:>9}"


def one_step_table(*names: str, folder: Path = RESULTS) -> str:
    """A line for the teacher, `dmdo`, the students that were made for more steps, and each of `names`: SceneEval with
    its interval and without the refiner, O of edits, coverage, complex prompts. "-": not measured."""
    rows = SIDE_BY_SIDE | {name: tuple(f"{what}_{name}_nfe1" for what in _FIGURES) for name in names}
    lines = [_SIDE.format("", "SceneEval", "without refiner", "edits", "coverage", "complex")]
    for label, files in rows.items():
        scene, *others = (_first_row(folder / f"{file}.json", begins) for file, begins in zip(files, _FIGURES.values()))
        plain = _first_row(folder / f"{files[0]}_norefiner.json", _FIGURES["scene"])
        short = ["-" if row is None else f"{row['value']:.3f}" for row in (plain, *others)]
        lines.append(_SIDE.format(label, "-" if scene is None else _interval(scene), *short))
    return "\n".join(lines)


def _first_row(path: Path, figure: str) -> dict | None:
    """The file's first figure whose name begins so."""
    numbers = json.loads(path.read_text())["numbers"] if path.exists() else ()
    return next((row for row in numbers if row["what"].startswith(figure)), None)


# ---- where the students come from -----------------------------------------------------------------------------------

_ANCESTRY = "{:8} {:>6}   {:12} {}"


def ancestry(model: Model, students: Sequence[str] = ("cfg", "tscd", "dmdo")) -> str:
    """A line for each student: steps of its last run, the date, and what that run began with (its student.json)."""
    lines = [_ANCESTRY.format("", "steps", "date", "began with")]
    for name in students:
        if name not in model.students:
            lines.append(f"This model has no student {name!r}.")
            continue
        made = model.students[name].provenance
        before = _began_with(made, model)
        lines.append(_ANCESTRY.format(name, made.get("steps", "?"), made.get("date", "?"), before))
    return "\n".join(lines)


def _began_with(provenance: dict, model: Model) -> str:
    """The student that a run began with: the one named on its command line, or the recipe's."""
    before = re.search(r"--start-from (\S+)", str(provenance.get("command", "")))
    if before:
        return f"an earlier {Path(before[1]).name}"
    after = provenance.get("settings", {}).get("after")
    if after is None:
        return "the teacher"
    shipped = model.students[after].provenance.get("date", "") if after in model.students else ""
    newer = shipped > provenance.get("date", "")
    return f"an earlier {after} than the one that ships" if newer else f"the {after} of that time"


def deviations(model: Model, student: str = "dmdo") -> str:
    """What the shipped third stage does where the paper does, or is read to do, something else."""
    options = model.students[student].provenance.get("settings", {}).get("options", {})
    rows = (
        ("noise of both updates", "coupled: the sample's own noise", options.get("renoise_student")),
        (
            "what is scored",
            "the prediction of one pass",
            {"end": "the end of the trajectory"}.get(options.get("sample_student", options.get("judged"))),
        ),
        ("adversary in stage 3", "none", f"a critic on latents, weight {options.get('adversarial', 0):g}"),
        ("real score", "not printed; read as the stage-1 student", "the guided teacher, two or three passes"),
        (
            "an edit reads",
            "clean latent and ViT patches",
            "both" if model.students[student].reads_vision else "the clean latent",
        ),
        ("latents", "FLUX's, learned from pixels", "semantic latents, and a latent refiner before the decoder"),
    )
    form = "{:22} {:40} {}"
    return "\n".join(form.format(*row) for row in (("", "paper", f"shipped {student}"), *rows))


def training(model: Model, student: str, *names: str) -> str:
    """What the log of a shipped student's last run kept about these numbers, a line for each."""
    if student not in model.students:
        return f"This model has no student {student!r}."
    curve = model.students[student].provenance.get("curve", [])
    rows = {row["step"]: row for row in curve if all(name in row for name in names)}
    steps = f"{student}, step " + ", ".join(map(str, rows))
    return "\n".join(
        [steps, *(f"{name:14} " + ", ".join(f"{row[name]:.3g}" for row in rows.values()) for name in names)]
    )
