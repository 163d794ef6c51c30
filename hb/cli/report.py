"""`hb eval report`: README.md and data/README.md say what the files in data/ say, because a command wrote them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path

from hb.cli.results import Number
from hb.cli.use import is_shipped
from hb.eval.cache import identity
from hb.eval.report import STORED, STORED_MEANS, renewed
from hb.files import write
from hb.infer.pipeline import load
from hb.infer.relay import relays

ROOT = Path(__file__).resolve().parents[2]
ORDER = (
    "scene_nfe",
    "scene_steps_ablation",
    "complex",
    "edit_nfe",
    "edit_chains",
    "coverage",
    "reward",
    "contradictory",
    "understand",
    "autoencoder",
    "judge",
    "speed",
    "lossless",
    "ask",
    "tune_tree",
    "draft_ablation",
)
NOTHING = "Nothing has been measured yet: `hb eval scene` and its sisters write their numbers into `data/results`."

REFL = "reward_refl-regression_nfe1_againstone-nfe"
HEADLINES = (  # file, beginning of the number's name, what it is called here, the paper's figure
    ("scene_nfe100", "SceneEval, 100 NFE", "teacher, 100 NFE: share of right drawings", "GenEval 0.864"),
    ("scene_dmdo_nfe6", "SceneEval, dmdo", "student, 6 NFE (16.67x fewer)", "GenEval 0.8647"),
    (
        "scene_dmdo_nfe6",
        "dmdo, 6 NFE minus teacher",
        "student minus teacher, lower end of the interval",
        "0.0007 (the difference)",
    ),
    ("edit_nfe132", "EditEval O", "teacher, 132 NFE: edits, O of 0 to 10", "GEdit 6.602"),
    ("edit_dmdo_nfe6", "EditEval O", "student, 6 NFE (22x fewer): edits", "GEdit 6.612"),
    ("coverage_nfe100", "coverage, 100", "teacher: coverage of what a prompt leaves open", "not measured"),
    ("coverage_dmdo_nfe6", "coverage, dmdo", "student: the same", "not measured"),
    ("complex_nfe100", "complex prompts, 100", "teacher: prompts that say much", "a named limit"),
    ("scene_one-nfe_nfe1", "SceneEval, one-nfe", "student, 1 NFE: share of right drawings", "GenEval 0.796"),
    ("edit_one-nfe_nfe1", "EditEval O", "student, 1 NFE: edits", "GEdit 5.975"),
    ("coverage_one-nfe_nfe1", "coverage, one-nfe", "student, 1 NFE: coverage", "not measured"),
    ("complex_one-nfe_nfe1", "complex prompts, one-nfe", "student, 1 NFE: prompts that say much", "a named limit"),
    ("scene_adp_nfe1", "SceneEval, adp", "stage 4 (ADP) from `continued`, 1 NFE: share of right drawings", "-"),
    (REFL, "right, by the judge", "stage 5 (ReFL) from `one-nfe`: change of that share, lower end", "-"),
    ("scene_one-nfe+dmdo_nfe2", "SceneEval, one-nfe+dmdo", "a relay of both, 2 NFE: share of right drawings", "-"),
    ("scene_one-nfe+dmdo_nfe4", "SceneEval, one-nfe+dmdo", "a relay of both, 4 NFE: share of right drawings", "-"),
    ("reward", "normalized accuracy, reward", "reward: accuracy over that of the true utility, 0 by chance", "-"),
    ("understand", "answers", "right answers to questions", "-"),
    ("ask", "descriptions: hb (as shipped)", "speculation: tokens a second over plain decoding", "2.16x"),
    ("ask", "tau, chain of 10", "tokens a pass, chain of ten", "3.77"),
    ("speed", "draw, dmdo, 16 at once", "wall clock of 16 drawings, teacher over student", "an NFE ratio"),
    ("speed", "draw, one-nfe, 16 at once", "the same, student of 1 NFE", "an NFE ratio"),
    ("speed", "draw, one-nfe, 1 at once", "drawings a second, one a call, 1 NFE, two cores", "-"),
)
EARLIER = (
    "*Of an earlier* model or student: measured on other weights than those that ship now, and not yet measured again."
)


def report(args) -> int:
    """Rewrite the blocks; with --check, only say whether they are out of date."""
    stale = []
    for file, block, text in (
        (ROOT / "README.md", "headlines", headlines(ROOT / "data" / "results")),
        (ROOT / "data" / "results" / "README.md", "results", results_table(ROOT / "data" / "results")),
        (ROOT / "data" / "README.md", "files", hashes(ROOT / "data")),
    ):
        old = file.read_text()
        new = with_block(old, block, text)
        if new != old:
            stale.append(file.relative_to(ROOT))
            if not args.check:
                write(file, new.encode())
    words = "out of date, run `hb eval report`" if args.check else "rewritten"
    print("\n".join(f"{file}: {words}" for file in stale) or "README.md and those of data/ are up to date")
    return int(args.check and bool(stale))


def headlines(folder: Path) -> str:
    """A dozen figures beside the paper's, as Markdown. A figure that is not there yet is left out."""
    rows = []
    for file, what, label, paper in HEADLINES:
        path = folder / f"{file}.json"
        record = renewed(json.loads(path.read_text())) if path.exists() else dict(numbers=[])
        for number in [n for n in record["numbers"] if n["what"].startswith(what) and n["headline"]][:1]:
            known = Number(**{name: value for name, value in number.items() if name in Number.__dataclass_fields__})
            rows.append(f"| {label} | {paper} | {known.shown} | {known.interval} | `{record['command']}` |")
    return "\n".join(["| | paper | here | interval | command |", "|---|---|---|---|---|", *rows])


def with_block(document: str, name: str, text: str) -> str:
    """The document with `text` between its markers <!-- name --> and <!-- /name -->."""
    opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = document.partition(opening)
    _, ended, after = rest.partition(closing)
    if not found or not ended:
        raise ValueError(f"the document has no block from {opening} to {closing}")
    return f"{before}{opening}\n{text}\n{closing}{after}"


@cache
def shipped(name: str) -> tuple[str, dict[str, str]]:
    """The identities of a shipped model and of its students, as today's results would bear them."""
    if not is_shipped(name):
        return "", {}
    model = load(name)
    names = [*model.students, *relays(model.students)]
    return identity(model), {name: model.student(name).fingerprint() for name in names}


def of_another(record: dict, now: Callable[[str], tuple[str, dict[str, str]]]) -> str:
    """The words "of an earlier nano" if these results are of other weights than those that ship now; else none."""
    model, student = record.get("model"), record.get("student")
    if model is None:
        return ""
    weights, students = now(model["name"])
    if model["identity"] != weights:
        return f"of an earlier {model['name']}"
    same = student is None or student["identity"] == students.get(student["name"])
    return "" if same else f"of an earlier {student['name']}"


def results_table(folder: Path, now: Callable[[str], tuple[str, dict[str, str]]] = shipped) -> str:
    """The headlines of all results, as Markdown. now: `shipped`."""
    stored = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"), key=_rank)]
    records = [renewed(record) for record in stored if "numbers" in record]  # notebooks store files of their own here
    earlier = [of_another(record, now) for record in records]
    rows = [
        _row(number, record, words)
        for record, words in zip(records, earlier)
        for number in record["numbers"]
        if number["headline"]
    ]
    if not rows:
        return NOTHING
    head = "| measured | value | interval | target | by |\n|---|---|---|---|---|"
    made = sorted({f"{record['machine']} (commit {record['commit']}, {record['date']})" for record in records})
    notes = [EARLIER] if any(earlier) else []
    notes += [STORED_MEANS] if any(f"({STORED})" in row for row in rows) else []
    return "\n".join([head, *rows, "", " ".join(["Measured on " + "; ".join(made) + ".", *notes])])


def _rank(path: Path) -> tuple[int, str]:
    return next((k for k, start in enumerate(ORDER) if path.stem.startswith(start)), len(ORDER)), path.stem


def _row(number: dict, record: dict, words: str = "") -> str:
    known = Number(**{name: value for name, value in number.items() if name in Number.__dataclass_fields__})
    target = "" if known.met is None else f"{known.wanted}: {'met' if known.met else '**not met**'}"
    what = known.what + (f" *({words})*" if words else "")
    return f"| {what} | {known.shown} | {known.interval} | {target} | `{record['command']}` |"


def hashes(folder: Path) -> str:
    """Every file of the folder but prose, as `sha256sum -c` reads it."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix not in (".md", ".part")]
    lines = [
        f"{sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder.parent).as_posix()}"
        for path in files
        if not path.name.startswith(".")
    ]
    return "\n".join(["```", *lines, "```"])
