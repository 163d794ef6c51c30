"""Imports point downwards: a room may use the floors below it, never its neighbours or what is above."""

import ast
import builtins
import symtable
from pathlib import Path

import pytest

HB = Path(__file__).resolve().parents[1] / "hb"

# A room is a file or a folder of hb/. Rooms of one floor do not know each other.
FLOORS = (
    {"conventions", "files", "machine"},
    {
        "world",
        "flow",
        "guidance",
        "exact",
        "losses",
        "preference_losses",
        "bayes",
        "seeding",
        "pictures",
        "plots",
    },  # facts, formulas, figures: no networks
    {"models", "data"},
    {"infer"},
    {"train"},
    {"eval"},
    {"course", "cli"},
    {"__init__"},
    {"__main__"},
)
ONLY_IN = {  # library -> rooms
    "lightning": {"train", "course"},
    "transformers": {"models"},
    "diffusers": {"models"},
    "ipywidgets": {"course"},
    "anywidget": {"course"},
    "traitlets": {"course"},
    "playwright": {"cli"},
}

FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(HB.rglob("*.py"))


def room_of(file: Path) -> str:
    return file.relative_to(HB).parts[0].removesuffix(".py")


def imports(source: str) -> set[str]:
    """Dotted names of everything imported, wherever it stands: inside a function too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which room is meant"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def violations(room: str, source: str) -> list[str]:
    """What this room imports and should not."""
    out = []
    for name in sorted(imports(source)):
        top, *rest = name.split(".")
        if top in ONLY_IN and room not in ONLY_IN[top]:
            out.append(f"{room} imports {top}, which belongs to {', '.join(sorted(ONLY_IN[top]))}")
        other = rest[0] if top == "hb" and rest and rest[0] in FLOOR else room
        if other != room and (FLOOR[other] >= FLOOR[room]):
            out.append(f"{room} (floor {FLOOR[room]}) imports {other} (floor {FLOOR[other]})")
    return out


def test_every_room_has_a_floor():
    homeless = {room_of(file) for file in FILES} - FLOOR.keys()
    assert not homeless, f"give {', '.join(homeless)} a floor in this file's table"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(HB)))
def test_imports_point_downwards(file):
    assert not violations(room_of(file), file.read_text())


def test_imports_are_statements():
    """A name given to import_module is an arrow that nobody sees; only the front door may do it."""
    hidden = [file for file in FILES if "import_module(" in file.read_text() or "__import__(" in file.read_text()]
    assert {room_of(file) for file in hidden} == {"__init__"}


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("world", "from hb.models.bagel import Bagel"),
        ("models", "from hb.data.pool import Pool"),
        ("infer", "def f():\n    from hb.train.trainer import fit"),
        ("train", "import hb.eval.scene"),
        ("infer", "import lightning as L"),
        ("cli", "from hb.course import widgets"),
    ],
)
def test_the_test_sees_what_is_wrong(room, source):
    assert violations(room, source)


# ---- sizes, names, and parts that are modules -----------------------------------------------------------------------

NAMES_OF_WEIGHTS = {"models/names.py", "models/checkpoint.py", "train/resuming.py"}


def undefined(source: str) -> set[str]:
    """Names that a module or one of its functions reads and nobody binds. The linter's own rule for it is off: it takes
    the shapes in jaxtyping's strings for names."""
    module = symtable.symtable(source, "source", "exec")
    bound = lambda symbol: symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()
    known = {symbol.get_name() for symbol in module.get_symbols() if bound(symbol)} | {*dir(builtins), "__file__"}
    missing, tables = set(), [module]
    for table in tables:
        names = {s.get_name() for s in table.get_symbols() if s.is_referenced() and (s.is_global() or table is module)}
        missing |= names - known
        tables += table.get_children()
    return missing


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(HB)))
def test_every_name_is_defined(file):
    """Seen red: `hb bench ask --eagle3` read a class that its file had ceased to import."""
    assert not undefined(file.read_text())


def test_an_undefined_name_is_seen():
    assert undefined("def f(x):\n    return [g(y) for y in x]") == {"g"}
    assert not undefined("import g\n\ndef f(x):\n    return [g(len(y)) for y in x]")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(HB)))
def test_a_file_reads_in_one_sitting(file):
    lines = len(file.read_text().splitlines())
    assert lines <= 400


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(HB)))
def test_no_constructor_has_more_than_twelve_arguments(file):
    found = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)]
    for function in (node for node in found if node.name == "__init__"):
        count = len(function.args.args) + len(function.args.kwonlyargs) - 1
        assert count <= 12, f"{file.name}, line {function.lineno}: {count} arguments"


def selects_by_released_name(source: str) -> bool:
    """Is a part of the model found by the released file's name of it, instead of by its module?"""
    marks = ("_moe_gen", "language_model.model", "vae2llm", "llm2vae.")
    strings = [n.value for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return any(mark in text and " " not in text for text in strings for mark in marks)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(HB)))
def test_released_names_of_weights_are_known_in_one_place(file):
    if str(file.relative_to(HB)) not in NAMES_OF_WEIGHTS:
        assert not selects_by_released_name(file.read_text())


def test_a_selection_by_name_is_seen():
    assert selects_by_released_name('[p for n, p in model.named_parameters() if "_moe_gen" in n]')
    assert selects_by_released_name('state["vae2llm.weight"]') and not selects_by_released_name('"a word"')
