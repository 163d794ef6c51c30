"""Muon for matrices, AdamW for everything else, in one optimizer.

torch.optim.Muon orthogonalizes one matrix after another, in bfloat16: on a CPU without bfloat16 units a step of the
nano teacher then takes seconds. Ours stacks matrices of one shape and orthogonalizes them together, in float32 by
default.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

import torch
from torch import Tensor, nn


def orthogonalize(stack: Tensor, steps: int = 5) -> Tensor:
    """Roughly U V' for each matrix U S V' of the stack [n, rows, cols], by Newton-Schulz.

    Quintic coefficients of Jordan et al. 2024 ("Muon"): singular values land in about [0.7, 1.2], which is enough.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = stack.size(1) > stack.size(2)
    x = stack.mT if wide else stack
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if wide else x


def muon_dtype_of(precision: str | None) -> torch.dtype:
    """What Muon orthogonalizes in, for a run of this precision of Lightning's: see `MuonAdamW`."""
    return torch.bfloat16 if precision == "bf16-mixed" else torch.float32


class MuonAdamW(torch.optim.Optimizer):
    """Two kinds of parameter groups: {"kind": "muon"} for weight matrices (convolutions are flattened to matrices),
    {"kind": "adamw"} for vectors, embeddings and heads. Both decay weights by lr * weight_decay."""

    def __init__(self, groups: list[dict], dtype: torch.dtype = torch.float32):
        """dtype: what Newton-Schulz runs in; bfloat16 is enough, and faster only where the machine has units for it."""
        self.dtype = dtype
        defaults = dict(lr=1e-3, momentum=0.95, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            (self._muon if group["kind"] == "muon" else self._adamw)(group)
        return loss

    def _muon(self, group):
        params = [p for p in group["params"] if p.grad is not None]
        if not params:
            return
        for p in params:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        # lists at once: on a GPU a step of nano would else begin two thousand kernels, each shorter than its beginning
        gradients, momenta = [p.grad for p in params], [self.state[p]["momentum"] for p in params]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        nesterov = torch._foreach_lerp(gradients, momenta, group["momentum"])
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        by_shape = defaultdict(list)
        for p, u in zip(params, nesterov):
            by_shape[p.flatten(1).shape].append((p, u.flatten(1)))
        for (rows, cols), pairs in by_shape.items():
            updates = orthogonalize(torch.stack([u for _, u in pairs]).to(self.dtype))
            moved = [u.reshape(p.shape).to(p.dtype) for (p, _), u in zip(pairs, updates)]
            torch._foreach_add_([p for p, _ in pairs], moved, alpha=-group["lr"] * max(1.0, rows / cols) ** 0.5)

    def _adamw(self, group):
        params = [p for p in group["params"] if p.grad is not None]
        if not params:
            return
        for p in params:
            if "exp_avg" not in self.state[p]:
                self.state[p].update(
                    exp_avg=torch.zeros_like(p),
                    exp_avg_sq=torch.zeros_like(p),
                    step=torch.zeros((), dtype=torch.float32),
                )
        states = [self.state[p] for p in params]
        torch.optim._functional.adamw(
            params,
            [p.grad for p in params],
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [],
            [s["step"] for s in states],
            foreach=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def split_parameters(
    module: nn.Module, *, muon_lr: float, adamw_lr: float, weight_decay: float = 0.0, leave_out: Collection[str] = ()
) -> list[dict]:
    """Groups for MuonAdamW: hidden matrices go to Muon; embeddings, tables, first and last layers, vectors to AdamW.

    leave_out: names of those that go to neither.
    """
    outer = (
        "embed",
        "lm_head",
        "conv_in",
        "conv_out",
        "latent.input",
        "latent.output",
        "patch_embedding",
        "latent.time.mlp.0",
    )
    matrices, rest = [], []
    for name, p in module.named_parameters():
        if not p.requires_grad or name in leave_out:
            continue
        (rest if p.ndim < 2 or any(o in name for o in outer) else matrices).append(p)
    return [
        dict(params=matrices, kind="muon", lr=muon_lr, weight_decay=weight_decay),
        dict(params=rest, kind="adamw", lr=adamw_lr, weight_decay=0.0),
    ]
