"""`hb lab`: the notebooks in JupyterLab."""

from __future__ import annotations

import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
TOUR = NOTEBOOKS / "00_tour.ipynb"


def lab(words: list[str]) -> int:
    """Open the notebook among these words; the others are JupyterLab's options."""
    if find_spec("jupyterlab") is None:
        raise ValueError(
            "JupyterLab is not installed here; `make setup` installs everything, or: "
            "python -m pip install -c constraints.txt -e '.[notebook]'"
        )
    notebook = next((word for word in words if word.endswith(".ipynb")), None)
    options = [word for word in words if word != notebook]
    return run([sys.executable, "-m", "jupyterlab", str(where(notebook)), *options])


def run(command: list[str]) -> int:
    """Run until it ends. Ctrl-C is for JupyterLab, which asks before it stops; we only wait for it."""
    with subprocess.Popen(command) as server:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            return server.wait()
        finally:
            signal.signal(signal.SIGINT, before)


def where(notebook: str | None) -> Path:
    """The notebook to open: the one that was named, else the tour, else the folder."""
    if notebook is None:
        return TOUR if TOUR.exists() else NOTEBOOKS
    for path in (Path(notebook), NOTEBOOKS / notebook):
        if path.exists():
            return path
    there = ", ".join(path.name for path in sorted(NOTEBOOKS.glob("*.ipynb"))) or "none yet"
    raise FileNotFoundError(f"there is no notebook {notebook}; there are {there}")
