"""A notebook in a real browser: served by Voila or JupyterLab, opened in Chromium by Playwright.

Nothing is fetched: Chromium is the system's (`apt install chromium`, or HB_CHROMIUM names the program), never one that
Playwright downloads.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import hb

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# as root there is no sandbox; small machines have little shared memory; nothing is to be asked of the network
FLAGS = (
    "--no-sandbox --disable-dev-shm-usage --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
SERVERS = ("voila", "lab")
START_S = 180  # seconds that a server, and a page with its kernel, may take to start


class NoBrowser(ValueError):
    """What is missing here, in a sentence."""


def chromium() -> str:
    """The path of Chromium. Raises NoBrowser if it or Playwright is missing."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        raise NoBrowser("playwright is not installed here; `make setup` installs it into .venv") from None
    found = os.environ.get("HB_CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)
    if not found or not Path(found).exists():
        raise NoBrowser("there is no Chromium here; install it (apt install chromium), or name it: HB_CHROMIUM=PATH")
    return found


def notebook_of(cells: Sequence[str]) -> dict:
    """A notebook with these cells of code."""
    code = [dict(cell_type="code", source=c, metadata={}, outputs=[], execution_count=None, id=f"c{i}")
            for i, c in enumerate(cells)]  # fmt: skip
    kernel = dict(display_name="Python 3", language="python", name="python3")
    return dict(nbformat=4, nbformat_minor=5, metadata=dict(kernelspec=kernel), cells=code)


@contextmanager
def served(kind: str, cells: Sequence[str], threads: int | None = None) -> Iterator[str]:
    """The address at which Voila shows what these cells make, or JupyterLab the notebook. The server ends with the
    block.

    threads   of the kernel's processor. Raises RuntimeError with the end of the log if the server does not start
    """
    if kind not in SERVERS:
        raise ValueError(f"no server {kind!r}; there are {', '.join(SERVERS)}")
    with tempfile.TemporaryDirectory(prefix="hb-", ignore_cleanup_errors=True) as folder:
        folder = Path(folder)
        (folder / "root").mkdir()
        notebook = folder / "root" / "live.ipynb"
        notebook.write_text(json.dumps(notebook_of(cells)))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        base, log = f"http://127.0.0.1:{port}", folder / "log"
        with log.open("w") as out:
            server = subprocess.Popen(
                _command(kind, notebook, port), env=_environment(folder, threads), stdout=out, stderr=subprocess.STDOUT
            )
        try:
            _wait_for(base + ("/api" if kind == "lab" else "/voila/static/require.min.js"), server, log)
            yield base + ("/doc/tree/live.ipynb?reset" if kind == "lab" else "/")
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _command(kind: str, notebook: Path, port: int) -> list[str]:
    if kind == "voila":
        options = [str(notebook), "--no-browser", f"--port={port}", "--Voila.ip=127.0.0.1", "--show_tracebacks=True"]
        return [sys.executable, "-m", "voila", *options]
    options = ["--no-browser", "--allow-root", "--expose-app-in-browser", "--ServerApp.ip=127.0.0.1"]
    options += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token="]
    return [sys.executable, "-m", "jupyterlab", *options, f"--ServerApp.root_dir={notebook.parent}"]


def _environment(folder: Path, threads: int | None) -> dict[str, str]:
    """A Jupyter with no settings but these; the kernel finds this hb."""
    disabled = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    (folder / "config/labconfig").mkdir(parents=True)
    (folder / "config/labconfig/page_config.json").write_text(json.dumps(disabled))
    tracker = folder / "settings/@jupyterlab/notebook-extension"
    tracker.mkdir(parents=True)
    (tracker / "tracker.jupyterlab-settings").write_text(json.dumps({"windowingMode": "none"}))
    paths = [str(Path(hb.__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    } | ({"OMP_NUM_THREADS": str(threads)} if threads else {})  # fmt: skip


def _wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except urllib.error.HTTPError:  # it answers
            return
        except OSError:
            if server.poll() is not None:
                break
            time.sleep(0.25)
    raise RuntimeError(f"the server did not start: {log.read_text()[-2000:]}")


@contextmanager
def browser_page(width: int = 1000, height: int = 1100, **context) -> Iterator:
    """A page of a headless Chromium, its `errors` (of scripts) in a list. context: for Playwright's `new_context`."""
    program = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, headless=True, args=FLAGS)
        try:
            page = browser.new_context(viewport=dict(width=width, height=height), **context).new_page()
            page.set_default_timeout(1000 * START_S)  # Playwright's 30 s are too few on a core with much else to do
            page.errors = []
            page.on("pageerror", lambda error: page.errors.append(str(error)))
            yield page
        finally:
            browser.close()


def open_canvas(page, address: str) -> None:
    """Go to a served notebook and wait until its canvas is there."""
    page.goto(address, wait_until="domcontentloaded", timeout=1000 * START_S)
    if "/doc/tree/" in address:
        _run_all(page, address)
    page.wait_for_selector(".hb-canvas[data-turns]", timeout=1000 * START_S)


def _run_all(page, address: str) -> None:
    """In JupyterLab: wait for the kernel, run all cells. Raises RuntimeError with the first error of a cell."""
    page.wait_for_selector(".jp-NotebookPanel-notebook", timeout=1000 * START_S)
    sessions, end = address.split("/doc/")[0] + "/api/sessions", time.monotonic() + START_S
    while time.monotonic() < end:  # the page says "idle" before a kernel is there: ask the server
        with urllib.request.urlopen(sessions) as answer:
            kernels = [session["kernel"] for session in json.load(answer)]
        if kernels and kernels[0]["execution_state"] == "idle" and kernels[0]["connections"] > 0:
            break
        page.wait_for_timeout(250)
    page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', timeout=1000 * START_S)
    page.evaluate(
        """() => { window.hbErrors = null; const app = window.jupyterapp;
            app.commands.execute('notebook:run-all-cells').then(() => { window.hbErrors =
                app.shell.currentWidget.content.model.toJSON().cells.flatMap(c => (c.outputs || [])
                .filter(o => o.output_type === 'error').map(o => `${o.ename}: ${o.evalue}`)); }); }"""
    )
    page.wait_for_function("() => window.hbErrors !== null", timeout=1000 * START_S)
    errors = page.evaluate("window.hbErrors")
    if errors:
        raise RuntimeError(errors[0])
