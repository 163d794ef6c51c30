"""Runs begun before version 0.2 go on as they began: their rule for optimizers, and the names and the order of weights
in their checkpoints.

This file is for resuming alone. Delete it when no such run is left.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from hb.files import write
from hb.models.roles import ADAMW, GUIDANCE, MUON

Names = dict[nn.Parameter, str]
RUN, LAST = "run.json", "last.ckpt"
BY_ROLE, BY_NAME = "role", "name"
# parts of names by which the old rule found embeddings, first and last layers; it missed heads and other first layers
OUTER = (
    "embed",
    "lm_head",
    "conv_in",
    "conv_out",
    "vae2llm",
    "llm2vae",
    "patch_embedding",
    "time_embedder.mlp.0",
    "latent.input",
    "latent.output",
    "latent.time",
)


def rule_of_run(folder: Path) -> str:
    """How the run in this folder finds the parameters for Muon. A run that has begun and does not say it is old."""
    noted = _note(folder).get("optimizer_rule")
    return noted or (BY_NAME if (Path(folder) / LAST).exists() else BY_ROLE)


def record_rule(folder: Path) -> str:
    """The rule of the run in this folder; a new run's is noted, so that it is the same when the run is resumed."""
    rule, note = rule_of_run(folder), _note(folder)
    if rule == BY_ROLE and "optimizer_rule" not in note:
        write(Path(folder) / RUN, (json.dumps(note | dict(optimizer_rule=rule), indent=1) + "\n").encode())
    return rule


def _note(folder: Path) -> dict:
    path = Path(folder) / RUN
    return json.loads(path.read_text()) if path.exists() else {}


def roles_by_name(module: nn.Module, names: Names | None = None) -> dict[nn.Parameter, str]:
    """The old rule. names: what parameters were called when the run began; None: what they are called now."""
    names = names or {p: name for name, p in module.named_parameters()}
    return {p: _role(names[p], p) for p in module.parameters()}


def _role(name: str, p: nn.Parameter) -> str:
    if "scale_embedder" in name or ".guidance." in name:
        return GUIDANCE
    return MUON if p.ndim >= 2 and not any(part in name for part in OUTER) else ADAMW


def as_it_began(module: nn.Module, checkpoint: dict) -> Names:
    """What the module's parameters were called when this checkpoint was written."""
    then = list(checkpoint["state_dict"])
    # modules translate old names while they load. A weight that is loaded as the number of its name tells which it was
    tags = {
        name: torch.full_like(w, i, dtype=torch.float32) for i, (name, w) in enumerate(checkpoint["state_dict"].items())
    }
    module.load_state_dict(tags)
    return {p: then[int(p.flatten()[0])] for p in module.parameters()}


def reorder(optimizers: list[torch.optim.Optimizer], names: Names, checkpoint: dict) -> None:
    """Put the checkpoint's optimizer states into the order that parameters have now; they are stored by number."""
    then = {name: i for i, name in enumerate(checkpoint["state_dict"])}
    for optimizer, state in zip(optimizers, checkpoint["optimizer_states"], strict=True):
        for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True):
            place = [then[names[p]] for p in group["params"]]
            rank = {at: i for i, at in enumerate(sorted(place))}
            saved["params"] = [saved["params"][rank[at]] for at in place]


def renamed(state: dict, prefixes: dict[str, str]) -> dict:
    """A state dict whose names begin anew: {"settler.": "refiner."}."""
    found = lambda name: next((old for old in prefixes if name.startswith(old)), None)
    return {
        prefixes[old] + name.removeprefix(old) if (old := found(name)) else name: value for name, value in state.items()
    }
