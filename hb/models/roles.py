"""Which optimizer a parameter is made for, declared where its module is built.

Muon orthogonalizes the update of a hidden layer's matrix. Embeddings, first and last layers, heads and guidance
embeddings are not such matrices (Jordan et al. 2024, "Muon"), and neither are vectors; AdamW updates them.
"""

from __future__ import annotations

from torch import nn

MUON, ADAMW, GUIDANCE = "muon", "adamw", "guidance"
Module = nn.Module


def adamw(module: Module) -> Module:
    """Mark a module: AdamW updates its parameters and those of its sub-modules. Returns the module."""
    module.optimizer_role = ADAMW
    return module


def guidance_embedding(module: Module) -> Module:
    """Mark an embedding of a guidance scale, which begins at zero in a network that is trained already."""
    module.optimizer_role = GUIDANCE
    return module


def parameter_roles(module: Module) -> dict[nn.Parameter, str]:
    """The role of every parameter, in the order of `module.parameters()`.

    The outermost marked module decides. Without a mark, weights of two and more dimensions are hidden matrices (MUON)
    and vectors go to AdamW.
    """
    by_id: dict[int, str] = {}
    _collect(module, None, by_id)
    return {p: by_id[id(p)] for p in module.parameters()}


def _collect(module: Module, inherited: str | None, into: dict[int, str]) -> None:
    role = inherited or getattr(module, "optimizer_role", None)
    for p in module.parameters(recurse=False):
        into[id(p)] = role or (MUON if p.ndim >= 2 else ADAMW)
    for child in module.children():
        _collect(child, role, into)
