"""What the notebooks need beside the library, and the one command that runs them all: `python -m hb.course.notebook`.

That command alone may write outputs into the committed files: from a fresh kernel, on one CPU thread, with fixed seeds,
and without progress bars, folders, widget state or warnings. With HB_FAST=1 all is run small and nothing is written.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TypeVar

from hb.files import aside

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
WIDGET = "application/vnd.jupyter.widget-view+json"
FOLDERS = ("home", "work", "root", "tmp", "usr")  # of a machine, not of the project
LARGEST_KB = 200  # of all outputs of a notebook together

T = TypeVar("T")


def is_fast() -> bool:
    """Is this a run for tests, where small is enough?"""
    return os.environ.get("HB_FAST", "0") not in ("", "0")


def fast(full: T, fast: T) -> T:
    """`full` for a reader, `fast` where HB_FAST=1 is set: sizes of runs, never what is run."""
    return fast if is_fast() else full


# ---- running and cleaning -------------------------------------------------------------------------------------------


def execute(path: Path, timeout_s: int = 600):
    """The notebook run from top to bottom in a fresh kernel, outputs cleaned. Raises on the first error."""
    # imported here: a learner's kernel uses fast() alone, and need not wait for these
    import nbclient
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["PYTHONHASHSEED"] = "0"
    client = nbclient.NotebookClient(
        notebook,
        timeout=timeout_s,
        startup_timeout=300,
        kernel_name="python3",
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    return clean(notebook)


def clean(notebook):
    """Outputs as we commit them: figures and short text; no widgets, warnings, timings of cells or kernel versions."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [_short(o) for o in cell.outputs if not _unwanted(o)]
    return notebook


def _unwanted(output) -> bool:
    """Warnings, and widgets: without a kernel they are an error message."""
    return output.get("name") == "stderr" or WIDGET in output.get("data", {})


def _short(output):
    """A picture needs no text beside it, unless that is its description."""
    data = output.get("data", {})
    if "image/png" in data and not str(data.get("text/plain", "")).startswith("figure"):
        data.pop("text/plain", None)
    if "metadata" in output:  # what a figure says to readers who do not see it, and no more
        alt = output["metadata"].get("image/png", {}).get("alt")
        output["metadata"] = {"image/png": {"alt": alt}} if alt else {}
    return output


def complaints(notebook) -> list[str]:
    """What may not be committed: sizes, folders, addresses of registries, widget state, cells run out of order."""
    out = []
    code = [c for c in notebook.cells if c.cell_type == "code"]
    counts = [c.execution_count for c in code]
    ran = any(counts) or any(c.outputs for c in code)
    if ran and counts != list(range(1, len(code) + 1)):
        out.append("cells were not run once, from top to bottom")
    said = "".join(str(c.source) + str(c.get("outputs", "")) for c in notebook.cells)
    for word in (*(f"/{name}/" for name in FOLDERS), "site-packages", "://localhost", "simple/", "Users\\"):
        if word in said:
            out.append(f"it holds {word!r}")
    if "widgets" in notebook.metadata or WIDGET in said:
        out.append("it holds widget state")
    size = sum(len(str(o)) for c in code for o in c.outputs) / 1024
    if size > LARGEST_KB:
        out.append(f"its outputs weigh {size:.0f} KB, more than {LARGEST_KB}")
    if any(o.get("output_type") == "error" or o.get("name") == "stderr" for c in code for o in c.outputs):
        out.append("it holds an error or a warning")
    return out


def main(arguments: list[str] | None = None) -> int:
    """Run notebooks and write their outputs; with HB_FAST=1 or --check only run them."""
    parser = argparse.ArgumentParser(prog="python -m hb.course.notebook", description=main.__doc__)
    parser.add_argument("names", nargs="*", help="beginnings of file names, for instance 02; all if none is given")
    parser.add_argument("--check", action="store_true", help="run, but write nothing")
    asked = parser.parse_args(arguments)
    paths = [p for p in sorted(FOLDER.glob("*.ipynb")) if not asked.names or p.name.startswith(tuple(asked.names))]
    if not paths:
        print(f"no notebook begins with {' or '.join(asked.names) or 'anything'}", file=sys.stderr)
        return 1
    failed = 0
    for path in paths:
        failed += not _run(path, write=not (asked.check or is_fast()))
    return failed


def _run(path: Path, write: bool) -> bool:
    import nbformat
    from nbclient.exceptions import CellExecutionError

    began = time.monotonic()
    try:
        notebook = execute(path)
    except CellExecutionError as error:
        print(f"{path.name}: stopped\n{error}", file=sys.stderr)
        return False
    wrong = complaints(notebook)
    if write and not wrong:
        with aside(path) as part:
            nbformat.write(notebook, part)
    size = sum(len(str(o)) for c in notebook.cells for o in c.get("outputs", [])) / 1024
    state = "; ".join(wrong) or ("written" if write else "run, not written")
    print(f"{path.name}: {time.monotonic() - began:.0f} s, outputs {size:.0f} KB, {state}", flush=True)
    return not wrong


if __name__ == "__main__":
    sys.exit(main())
