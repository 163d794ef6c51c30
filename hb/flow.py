"""The straight path between noise and data, and grids of times to follow it on.

Rectified flow (Liu et al. 2022; Lipman et al. 2022) in BAGEL's direction: t = 1 is noise, t = 0 is data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor


def _like(t: Tensor, x: Tensor) -> Tensor:
    """Times [B] (or a scalar) shaped to multiply x [B, ...]."""
    return t.reshape(t.shape + (1,) * (x.ndim - t.ndim)) if t.ndim else t


def interpolate(x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """x_t = (1 - t) x0 + t eps, t of shape [B] or a scalar."""
    t = _like(t, x0)
    return (1 - t) * x0 + t * eps


def velocity_of(x0: Tensor, eps: Tensor) -> Tensor:
    """v = dx_t/dt = eps - x0: it points from data to noise and does not depend on t."""
    return eps - x0


def x0_from(x: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """The data this velocity points away from: x0 = x_t - t v."""
    return x - _like(t, x) * v


def eps_from(x: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """The noise this velocity points to: eps = x_t + (1 - t) v."""
    return x + (1 - _like(t, x)) * v


def jump(x: Tensor, v: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """One Euler step from time t to time s: x_s = x_t + (s - t) v."""
    return x + _like(torch.as_tensor(s) - torch.as_tensor(t), x) * v


def shift_time(t: Tensor, shift: float) -> Tensor:
    """t -> s t / (1 + (s - 1) t): more of the steps (or of the training) at high noise when s > 1."""
    if shift <= 0:
        raise ValueError(f"the timestep shift must be positive, got {shift}")
    return shift * t / (1 + (shift - 1) * t)


def time_grid(steps: int, shift: float = 1.0) -> Float[Tensor, "boundaries"]:
    """Boundaries 1 = t_0 > t_1 > ... > t_steps = 0: `steps` Euler steps need `steps + 1` of them."""
    if steps < 1:
        raise ValueError(f"a sampler needs at least one step, got {steps}")
    return shift_time(torch.linspace(1.0, 0.0, steps + 1), shift)


def released_grid(num_timesteps: int, shift: float = 1.0) -> Float[Tensor, "boundaries"]:
    """The grid of the published code: num_timesteps *boundaries*, so one step fewer than its name says (49 for 50)."""
    if num_timesteps < 2:
        raise ValueError(f"the released grid needs at least two boundaries, got {num_timesteps}")
    return time_grid(num_timesteps - 1, shift)


def euler(
    velocity: Callable[[Tensor, Tensor], Tensor], x: Tensor, grid: Float[Tensor, "boundaries"]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Integrate dx/dt = v down the grid, yielding (s, x_s) after each step. Raises if the grid does not fall within [0,
    1]."""
    if not (grid[0] <= 1 and grid[-1] >= 0 and bool((grid.diff() < 0).all())):
        raise ValueError(
            f"the grid must fall within [0, 1], got {grid[0]:.3g} ... {grid[-1]:.3g}; build it with time_grid(steps)"
        )
    for t, s in pairwise(grid):
        x = jump(x, velocity(x, t), t, s)
        yield s, x


def multistep_consistency(
    velocity: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    grid: Float[Tensor, "boundaries"],
    fresh: Callable[[Tensor], Tensor],
) -> Iterator[tuple[Tensor, Tensor]]:
    """The sampler of consistency models (Song et al. 2023, algorithm 1) and DMD2: predict the data, add noise again,
    predict again. `fresh(x)` draws that noise. Yields (s, x_s); the last is the data predicted."""
    for t, s in pairwise(grid):
        x0 = x0_from(x, velocity(x, t), t)
        x = interpolate(x0, fresh(x0), s) if s > 0 else x0
        yield s, x
