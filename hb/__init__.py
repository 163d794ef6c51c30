"""hb: Hyper-Bagel in the open. `hb.load("nano")` gives a model that draws, edits and answers.

Nothing heavy is imported until it is used.
"""

from importlib import import_module
from pathlib import Path

_EXPORTS = {"load": "hb.infer.pipeline", "Model": "hb.infer.pipeline"}
__all__ = list(_EXPORTS)


def _version() -> str:
    """What the pyproject.toml of a clone says; of an installed copy, its metadata."""
    project = Path(__file__).resolve().parents[1] / "pyproject.toml"
    if project.is_file():
        import tomllib

        return tomllib.loads(project.read_text())["project"]["version"]
    from importlib.metadata import version

    return version("hb")


def __getattr__(name):
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    if name == "__version__":
        return _version()
    raise AttributeError(f"module 'hb' has no attribute {name!r}")
