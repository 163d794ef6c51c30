"""hb: Hyper-Bagel in the open. `hb.load("nano")` gives a model that draws, edits and answers.

Nothing heavy is imported until it is used.
"""

from importlib import import_module

_EXPORTS = {"load": "hb.infer.pipeline", "Model": "hb.infer.pipeline"}
__all__ = list(_EXPORTS)


def __getattr__(name):
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'hb' has no attribute {name!r}")
