"""Notebooks keep their shape: opening, rhythm, exercises, small clean outputs. `pytest --nbmake` runs them."""

import re

import pytest

from hb.course import exercises
from hb.course.notebook import FOLDER, clean, complaints, fast

PATHS = sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))
each = pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
OPENING = (
    r"> \*\*\d\d · .+\?\*\*",
    r"> You will ",
    r"> Needs: .+ · CPU: about .+\. · GPU: ",
    r"> New words: ",
    r"> Where from: ",
)
TWIN = dict(
    compare="compare", attention_viewer="attention", scene_maker="scene", path_viewer="paths", ledger_dial="bill",
    microscope="microscope", draft_viewer="draft_viewer", two_scores="two_scores",
    student_scale="student_scale", segment_viewer="segment", best_critics="best_critics", ten_clicks="ten_clicks",
    live_canvas="typed",
)  # fmt: skip


def _nbformat():
    """Imported late: it takes some seconds, and every process of a test run collects this file."""
    import nbformat

    return nbformat


def _read(path):
    return _nbformat().read(path, as_version=4)


def _code(notebook):
    return [c for c in notebook.cells if c.cell_type == "code"]


def _prose(notebook):
    return "\n\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")


def test_there_are_notebooks():
    assert PATHS


@each
def test_it_is_valid_and_its_cells_have_plain_names(path):
    notebook = _read(path)
    _nbformat().validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert all(re.fullmatch(r"[a-z0-9-]+", c.id) for c in notebook.cells)
    assert len({c.id for c in notebook.cells}) == len(notebook.cells)


@each
def test_it_opens_with_the_five_lines(path):
    lines = _read(path).cells[0].source.splitlines()
    assert len(lines) == len(OPENING)
    for line, pattern in zip(lines, OPENING):
        assert re.match(pattern, line), f"{line!r} does not begin like {pattern!r}"
    assert lines[0].startswith(f"> **{path.name[:2]} · ")


@each
def test_cells_are_short(path):
    code = _code(_read(path))
    lengths = [len(c.source.splitlines()) for c in code]
    assert max(lengths) <= 15, "machinery belongs in hb/"
    assert sum(n <= 8 for n in lengths) >= 0.8 * len(lengths)
    assert all(len(line) <= 120 for c in code for line in c.source.splitlines())


@each
def test_it_is_a_chapter_not_a_leaflet_and_not_a_book(path):
    notebook = _read(path)
    assert 20 <= len(notebook.cells) <= 55
    assert 500 <= len(_prose(notebook).split()) <= 1500


@each
def test_it_asks_before_it_shows(path):
    prose = _prose(_read(path))
    assert prose.count("**Predict.**") >= 1
    assert "**Next: " in prose.rstrip().splitlines()[-1], "it ends with one door forward"


@each
def test_exercises_are_stubs_with_a_check(path):
    notebook, number = _read(path), int(path.name[:2])
    asked = re.findall(r"### ✏️ (\d+\.\d+) · \d+ minutes?", _prose(notebook))
    assert asked == sorted(name for name in exercises.CHECKS if name.startswith(f"{number}."))
    assert 2 <= len(asked) <= 4
    for name in asked:
        cells = [c for c in _code(notebook) if f'exercises.check("{name}"' in c.source]
        assert len(cells) == 1 and re.search(r"(return|=) \.\.\.$", cells[0].source, re.M), f"{name} has no stub"


@each
def test_a_widget_has_a_figure_that_needs_no_kernel(path):
    source = "\n".join(c.source for c in _code(_read(path)))
    widgets = re.findall(rf"ch\d\d\.({'|'.join(TWIN)})\(", source)
    assert len(widgets) == 1
    assert f"ch{path.name[:2]}.{TWIN[widgets[0]]}_figure(" in source


@each
def test_outputs_are_as_the_one_command_writes_them(path):
    assert complaints(_read(path)) == []


@each
def test_later_cells_use_the_library_and_not_the_answers(path):
    """A stub returns `...`: whatever an exercise defines may be used by its check alone, or be defined again first."""
    code = [c.source for c in _code(_read(path))]
    for i, source in enumerate(code):
        if "exercises.check(" not in source:
            continue
        name = re.search(r"^(?:def )?(\w+)\s*(?:\(|=)", source, re.M)[1]
        rest = "\n".join(code[i + 1 :])
        used = re.search(rf"(?<![\w.\"']){name}(?![\w\"'])\s*\(", rest)
        defined = re.search(rf"^def {name}\(", rest, re.M)
        assert not used or defined, f"{name} is used after its exercise"


def test_fast_follows_the_environment(monkeypatch):
    monkeypatch.setenv("HB_FAST", "1")
    assert fast(100, 2) == 2
    monkeypatch.setenv("HB_FAST", "0")
    assert fast(100, 2) == 100


def _notebook(*outputs, count=1):
    cell = _nbformat().v4.new_code_cell("1 + 1", outputs=list(outputs), execution_count=count)
    return _nbformat().v4.new_notebook(cells=[cell])


def _shows(data):
    return _nbformat().v4.new_output("display_data", data=data)


def test_cleaning_drops_warnings_widgets_and_state():
    warning = _nbformat().v4.new_output("stream", name="stderr", text="careful")
    widget = _shows({"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/plain": "VBox()"})
    figure = _shows({"image/png": "AAAA", "text/plain": "figure: a title"})
    notebook = _notebook(warning, widget, figure)
    notebook.metadata["widgets"] = {"state": {}}
    cleaned = clean(notebook)
    assert cleaned.cells[0].outputs == [figure] and "widgets" not in cleaned.metadata
    assert complaints(cleaned) == []


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda: _notebook(_shows({"text/plain": "/home/someone/hb"})),
        lambda: _notebook(_shows({"image/png": "A" * 300_000})),
        lambda: _notebook(_nbformat().v4.new_output("error", ename="E", evalue="", traceback=[])),
        lambda: _notebook(_shows({"text/plain": "2"}), count=7),
    ],
    ids=["folder", "size", "error", "order"],
)
def test_what_may_not_be_committed_is_named(spoilt):
    assert complaints(spoilt())
