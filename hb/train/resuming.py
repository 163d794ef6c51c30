"""Runs begun before version 0.2 go on as they began: their rule for optimizers, and the names in their checkpoints.

This file is for resuming alone. Delete it when no such run is left.
"""

from __future__ import annotations

import json
from pathlib import Path

from torch import nn

from hb.files import write

RUN, LAST = "run.json", "last.ckpt"
BY_ROLE, BY_NAME = "role", "name"
# parts of names by which the old rule found embeddings, first and last layers; it missed heads and other first layers
OUTER = ("embed", "lm_head", "conv_in", "conv_out", "vae2llm", "llm2vae", "patch_embedding", "time_embedder.mlp.0")


def optimizer_rule(folder: Path) -> str:
    """How the run in this folder finds the parameters for Muon. A run that has begun and does not say it is old."""
    noted = _note(folder).get("optimizer_rule")
    return noted or (BY_NAME if (Path(folder) / LAST).exists() else BY_ROLE)


def record_rule(folder: Path) -> str:
    """The rule of the run in this folder; a new run's is noted, so that it is the same when the run is resumed."""
    rule, note = optimizer_rule(folder), _note(folder)
    if rule == BY_ROLE and "optimizer_rule" not in note:
        write(Path(folder) / RUN, (json.dumps(note | dict(optimizer_rule=rule), indent=1) + "\n").encode())
    return rule


def _note(folder: Path) -> dict:
    path = Path(folder) / RUN
    return json.loads(path.read_text()) if path.exists() else {}


def matrices_by_name(module: nn.Module) -> set[nn.Parameter]:
    """The parameters that the old rule gives to Muon."""
    return {p for name, p in module.named_parameters() if p.ndim >= 2 and not any(part in name for part in OUTER)}


def guidance_by_name(module: nn.Module) -> set[nn.Parameter]:
    """The parameters that the old rule takes for embeddings of guidance scales."""
    return {p for name, p in module.named_parameters() if "scale_embedder" in name}


def renamed(state: dict, prefixes: dict[str, str]) -> dict:
    """A state dict whose names begin anew: {"settler.": "refiner."}."""
    found = lambda name: next((old for old in prefixes if name.startswith(old)), None)
    return {
        prefixes[old] + name.removeprefix(old) if (old := found(name)) else name: value for name, value in state.items()
    }
