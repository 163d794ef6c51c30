"""Imports point downwards: a room may use the floors below it, never its neighbours or what is above."""

import ast
from pathlib import Path

import pytest

HB = Path(__file__).resolve().parents[1] / "hb"

# A room is a file or a folder of hb/. Rooms of one floor do not know each other.
FLOORS = (
    {"notation", "machine", "files"},
    {"world", "flow", "guidance", "preprocess", "optim", "plots"},  # facts and tools: no networks of ours
    {"model", "exact"},
    {"sampling", "parcels", "data", "training"},  # training: what every run shares, not a run
    {"sheets", "limits"},  # what runs show of themselves; what is known of a model's limits
    {"pretrain", "eyes", "semantic", "speculative", "distill", "reward"},  # what trains
    {"engine"},
    {"evaluate", "evaluate_text"},
    {"commands", "widgets", "exercises", "notebook"},
    {"cli", "__init__"},
    {"__main__"},
)
NEVER = {  # though the floor would allow it
    "model": {"world"},
    "sampling": {"world"},
    "engine": {"training", "pretrain", "distill", "reward"},  # it opens parcels and knows nothing of how they were made
    "evaluate": {"training", "pretrain", "distill", "reward"},
    "evaluate_text": {"training", "pretrain", "distill", "reward"},
    "widgets": {"training"},
}
TRAINS = {"training", "sheets", "pretrain", "eyes", "semantic", "speculative", "distill", "reward"}
ONLY_IN = {"lightning": TRAINS, "transformers": {"model"}, "diffusers": {"model"}, "ipywidgets": {"widgets"}}

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
        if other != room and (FLOOR[other] >= FLOOR[room] or other in NEVER.get(room, ())):
            out.append(f"{room} (floor {FLOOR[room]}) imports {other} (floor {FLOOR[other]})")
    return out


def test_every_room_has_a_floor():
    homeless = {room_of(file) for file in FILES} - FLOOR.keys()
    assert not homeless, f"give {', '.join(homeless)} a floor in this file's table"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(HB)))
def test_imports_point_downwards(file):
    assert not violations(room_of(file), file.read_text())


def test_imports_are_statements():
    """A name given to import_module is an arrow that nobody sees; only the two front doors may do it."""
    hidden = [file for file in FILES if "import_module(" in file.read_text() or "__import__(" in file.read_text()]
    assert {room_of(file) for file in hidden} == {"cli", "__init__"}


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("world", "from hb.models.bagel import Bagel"),
        ("model", "from hb.world.scene import Scene"),
        ("distill", "def f():\n    from hb.infer.speculative.tree import DraftTree"),
        ("evaluate", "import hb.train.teacher"),
        ("engine", "import lightning as L"),
        ("sampling", "from hb import engine"),
    ],
)
def test_the_test_sees_what_is_wrong(room, source):
    assert violations(room, source)
