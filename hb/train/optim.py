"""Muon for the matrices of hidden layers, AdamW for everything else, in one optimizer.

torch.optim.Muon orthogonalizes one matrix after another, in bfloat16: on a CPU without bfloat16 units a step of the
nano teacher then takes seconds. Ours stacks matrices of one shape and orthogonalizes them together, in float32 by
default. Which parameter goes where is declared where its module is built (`hb.models.roles`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable

import lightning as L
import torch
from torch import Tensor, nn

from hb.files import NotFinite
from hb.models.roles import ADAMW, GUIDANCE, MUON, parameter_roles
from hb.train.resuming import BY_NAME, BY_ROLE, as_it_began, reorder, roles_by_name


def refuse_not_finite(**settings: float) -> None:
    """Raises NotFinite, naming the first of these settings that is infinite or no number."""
    for name, value in settings.items():
        if value is not None and not math.isfinite(value):
            raise NotFinite(f"{name.replace('_', ' ')} must be a finite number, not {value}")


def warm_then_cosine(step: int, total: int, warmup: int = 50) -> float:
    """Learning-rate factor: up to 1 in `warmup` steps, and along half a cosine to 0 at `total`."""
    return min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * min(step / max(total, 1), 1.0)))


def warmup_constant_decay(step: int, *, total: int, warmup: int = 100, decay: float = 0.3) -> float:
    """Learning-rate factor: up to 1 in `warmup` steps, constant, then linearly to 0 over the last `decay` of the
    run."""
    down = max(1, round(decay * total))
    return min(1.0, (step + 1) / warmup, max(0.0, (total - step) / down))


def scheduled(optimizer: torch.optim.Optimizer, factor) -> tuple[list, list]:
    """What a LightningModule's configure_optimizers returns: this optimizer, its rates times factor(step)."""
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return [optimizer], [{"scheduler": schedule, "interval": "step"}]


Roles = Callable[[nn.Module], dict[nn.Parameter, str]]


def parameter_groups(
    module: nn.Module, *, muon_lr: float, adamw_lr: float, weight_decay: float = 0.0, roles: Roles = parameter_roles
) -> list[dict]:
    """Groups for MuonAdamW of the parameters that are trained: hidden matrices; all else; guidance embeddings, if any.

    weight_decay is for matrices alone. Guidance embeddings get AdamW at 30 times `adamw_lr`: the rest of a student has
    been trained before, they begin at zero. At `adamw_lr`, 1,240 steps of nano moved their output by 0.6 from one end
    of the scale to the other, where the time embedding's reaches 9.
    """
    found = roles(module)
    of = lambda role: [p for p, its in found.items() if its == role and p.requires_grad]
    groups = [
        dict(params=of(MUON), kind="muon", lr=muon_lr, weight_decay=weight_decay),
        dict(params=of(ADAMW), kind="adamw", lr=adamw_lr, weight_decay=0.0),
    ]
    if guidance := of(GUIDANCE):
        groups.append(dict(params=guidance, kind="adamw", lr=30 * adamw_lr, weight_decay=0.0))
    return groups


def muon(
    module: nn.Module,
    lr: float,
    dtype: torch.dtype = torch.float32,
    *,
    roles: Roles = parameter_roles,
    adamw_share: float = 0.1,
) -> MuonAdamW:
    """Muon at this rate for matrices, AdamW at a share of it for the rest. dtype: see `MuonAdamW`."""
    return MuonAdamW(parameter_groups(module, muon_lr=lr, adamw_lr=adamw_share * lr, roles=roles), dtype)


def adam(module: nn.Module, lr: float, betas: tuple[float, float] = (0.0, 0.99)) -> torch.optim.Optimizer:
    """Adam without momentum, as is usual where two networks are trained against each other."""
    refuse_not_finite(learning_rate=lr)
    return torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr, betas=betas, weight_decay=0.0)


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
        """dtype: what Newton-Schulz runs in; bfloat16 is enough, and faster only on processors with units for it."""
        for group in groups:
            refuse_not_finite(learning_rate=group["lr"], weight_decay=group.get("weight_decay", 0.0))
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
        # lists at once: on a GPU a step of nano would else launch two thousand kernels, each shorter than its launch
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


class Training(L.LightningModule):
    """What `fit` trains. Its `roles` say which parameters go to Muon, by the rule under which its run began.

    optimizer_rule   set by `fit`
    names_then       of a run begun under the old rule: what its checkpoint calls the parameters
    """

    optimizer_rule, names_then = BY_ROLE, None

    def roles(self, module: nn.Module) -> dict[nn.Parameter, str]:
        return parameter_roles(module) if self.optimizer_rule == BY_ROLE else roles_by_name(module, self.names_then)

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Called before weights and optimizers are loaded, and before this run's optimizers are made."""
        if self.optimizer_rule != BY_NAME:
            return
        self.names_then = as_it_began(self, checkpoint)
        made = self.configure_optimizers()
        reorder(made[0] if isinstance(made, tuple) else made, self.names_then, checkpoint)
