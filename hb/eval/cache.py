"""Whose figures these are: one key, made here alone, of everything that changes a figure; and rows that survive a
stop.

A key is a dict. Its digest names the file of rows and goes into the record of a result. What is not in it, because it
changes figures by rounding only: the version of PyTorch, threads, and how many pictures are made at once.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from hashlib import sha256
from pathlib import Path

import torch
from filelock import FileLock
from tqdm import tqdm

import hb.world
from hb.files import append_rows, read_rows
from hb.infer.artifacts import fingerprint
from hb.infer.pipeline import Model

FORM = 3  # of rows; to be raised when the code of an evaluation writes other rows for the same pictures
WORLD = Path(hb.world.__path__[0])
JUDGE = ("judge", "language", "scene.py")  # what decides whether a picture or an answer is right
RENDERER = ("render.py", "scene.py")  # what makes the pictures that are edited, described and asked about


# ---- versions and weights -------------------------------------------------------------------------------------------


@cache
def source_version(names: tuple[str, ...], root: Path = WORLD) -> str:
    """A digest of the code of these files and folders; comments, docstrings and layout do not count."""
    files = [file for name in names for file in sorted((root / name).rglob("*.py")) or [root / name]]
    return digest([(file.relative_to(root).as_posix(), _code(file.read_text())) for file in files])


def _code(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def digest(value) -> str:
    """Of anything that JSON or `str` can tell apart."""
    return sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def identity(model: Model) -> str:
    """A fingerprint of the weights: results of one model are never taken for another's."""
    return fingerprint(model.bagel)


def place(model: Model) -> dict:
    """Device and number type: figures of two kinds of arithmetic are two figures."""
    weights = next(model.bagel.parameters())
    name = torch.cuda.get_device_name(weights.device) if weights.device.type == "cuda" else weights.device.type
    return dict(device=name, dtype=str(weights.dtype).removeprefix("torch."))


def sampled(model: Model, verb: str, options: Mapping) -> dict:
    """What draws or edits, and how. Options that mean the same give equal dicts, so nothing is drawn twice: nfe=100
    and student="teacher" where the teacher serves 100."""
    plan = model.plan(verb, **options)
    student = plan.student and model.student(plan.student)
    who = student and (student.fingerprint(), plan.sampler, verb == "draw" or plan.reads_vision)
    decoder = model.pixel_decoder and model.pixel_decoder.fingerprint()  # latent refiner and pixel decoder
    return dict(student=who, grid=plan.grid.tolist(), guidance=asdict(plan.guidance), decoder=decoder)


def drafted(model: Model) -> dict:
    """What guesses ahead of answers, and how much. In exact arithmetic it changes no word."""
    drafter = model.draft
    return dict(draft=drafter and (drafter.fingerprint(), drafter.plans))


def key_of(
    model: Model, what: str, verb: str, *, options: Mapping | None = None, cases: Sequence[str] = (), **more
) -> dict:
    """The key of an evaluation's rows. verb: "draw", "edit" (sampled with `options`) or "ask"; more: seed, pictures
    ..."""
    how = drafted(model) if verb == "ask" else sampled(model, verb, options or {})
    versions = dict(form=FORM, judge=source_version(JUDGE), renderer=source_version(RENDERER))
    whole = dict(what=what, verb=verb, teacher=identity(model), cases=digest(list(cases)))
    return whole | place(model) | how | versions | more


# ---- results --------------------------------------------------------------------------------------------------------

NO_FIGURE = {
    "json",
    "results",
    "command",
    "run",
    "stopped",
    "model",
    "verb",
    "what",
    "folder",
}  # options that change none
USUAL = dict(
    device="cpu",
    dtype="f32",
    batches=[1, 16],
    repeats=5,
    temperatures=[0.0, 0.5, 1.0, 1.5],
    seeds=3,
    pool=1500,
    text=[1.25, 1.5, 2.0, 3.0, 4.0],
    image=[1.25, 1.5, 2.0],
    server="voila",
    delay_ms=80.0,
)  # other options are usually off
USUAL_STEPS = dict(draft_ablation=600, tune_guidance=25)
IN_BASE = {
    "student", "nfe", "text_scale", "image_scale", "chains", "complex", "ambiguous", "steps_ablation", "ladder",
    "batch",
}  # fmt: skip


def result_key(model: Model | None, name: str, options: Mapping) -> dict:
    """The key of a result: every option that can change a figure, all weights, and the versions."""
    chosen = {option: value for option, value in options.items() if option not in NO_FIGURE}
    versions = dict(form=FORM, judge=source_version(JUDGE), renderer=source_version(RENDERER))
    if model is None:
        return dict(name=name, options=chosen) | versions
    students = {student: (s.fingerprint(), s.to_dict()) for student, s in model.students.items()}
    weights = dict(
        teacher=identity(model), students=students, decoder=model.pixel_decoder and model.pixel_decoder.fingerprint()
    )
    if name.split("_")[0] == "reward":  # also what training on one changed
        weights |= dict(rewards={reward: r.fingerprint() for reward, r in model.rewards.items()})
    sampling = asdict(model.sampling)
    return dict(name=name, options=chosen, sampling=sampling) | weights | drafted(model) | place(model) | versions


def result_name(name: str, options: Mapping) -> str:
    """The name of a result: the measurement, then every option that is not as usual, as in scene_nfe6_bf16_seed3."""
    usual = USUAL | dict(steps=USUAL_STEPS.get(name, options.get("steps")))  # of others the name has the steps already
    published = {"against": "teacher", "threads": 1}
    for option, value in sorted(options.items()):
        if option in NO_FIGURE | IN_BASE or not value or value in (usual.get(option), published.get(option)):
            continue
        name += "_" + _in_name(option, value)
    return name


def _in_name(option: str, value) -> str:
    if option in ("device", "dtype"):
        return _plain(value)
    word = option.replace("_", "")
    if value is True:
        return word
    return word + ("-".join(map(_plain, value)) if isinstance(value, list | tuple) else _plain(value))


def _plain(value) -> str:
    text = f"{value:g}" if isinstance(value, int | float) else str(value)
    return "".join(letter if letter.isalnum() or letter == "." else "-" for letter in text).strip("-")


# ---- work that can be interrupted -----------------------------------------------------------------------------------


class Progress:
    """Rows of an evaluation as they are made, kept in a file: a second start goes on where the first was stopped.

    Two processes may share the folder. A lock keeps their lines apart, and each takes over what the other has made.
    """

    def __init__(self, folder: Path | None, key: dict):
        self.rows: dict[int, dict] = {}
        self.path = None if folder is None else Path(folder) / f"{key['what']}-{digest(key)}.jsonl"
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.refresh()

    def refresh(self) -> None:
        """Take over the rows that are in the file."""
        if self.path is not None:
            with self._alone():
                self.rows |= {row["i"]: row for row in read_rows(self.path)}

    def keep(self, rows: Iterable[dict]) -> None:
        rows = list(rows)
        self.rows |= {row["i"]: row for row in rows}
        if self.path is not None:
            with self._alone():
                append_rows(self.path, rows)

    def run(self, n: int, batch: int, work: Callable[[list[int]], list[dict]], title: str, bar: bool) -> list[dict]:
        """Rows 0 to n - 1; `work` makes those that are missing, `batch` at a time."""
        missing = [i for i in range(n) if i not in self.rows]
        for at in tqdm(range(0, len(missing), batch), desc=title, disable=not bar, leave=False):
            self.refresh()
            part = [i for i in missing[at : at + batch] if i not in self.rows]
            if part:
                self.keep(row | {"i": i} for i, row in zip(part, work(part), strict=True))
        return [self.rows[i] for i in range(n)]

    def _alone(self) -> FileLock:
        return FileLock(self.path.with_suffix(".lock"))
