"""A linear utility of which we are not sure yet: a Gaussian belief about its weights, moved by one click after another.

u(x) = w'x with w ~ N(mean, covariance). A click says that u(x_1) + n_1 > u(x_2) + n_2 with n_i ~ N(0, noise^2). The
posterior is no Gaussian; the Gaussian with its mean and covariance takes its place (assumed-density filtering: Opper
1998; Minka 2001; as TrueSkill has it, Herbrich et al. 2006). After one click these two are exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class LinearUtility:
    """What is believed about the weights after some clicks. mean [D], covariance [D, D], float64."""

    mean: Float[Tensor, "D"]
    covariance: Float[Tensor, "D D"]
    noise: float = 1.0

    @staticmethod
    def unknown(width: int, *, scale: float = 1.0, noise: float = 1.0) -> LinearUtility:
        """Before the first click: N(0, scale^2) for each weight."""
        return LinearUtility(
            torch.zeros(width, dtype=torch.float64), scale**2 * torch.eye(width, dtype=torch.float64), noise
        )

    def predict(self, x: Float[Tensor, "B D"]) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
        """Mean and standard deviation of the utilities of x."""
        x = x.to(self.mean)
        return x @ self.mean, ((x @ self.covariance) * x).sum(1).clamp_min(0).sqrt()

    def preference(self, x: Float[Tensor, "B D"], other: Float[Tensor, "B D"]) -> Float[Tensor, "B"]:
        """Probability that x is preferred. What two pictures share is no reason to doubt: their difference counts."""
        mean, deviation = self.predict(x - other)
        return torch.special.ndtr(mean / (deviation**2 + 2 * self.noise**2).sqrt())

    def updated(self, better: Float[Tensor, "D"], worse: Float[Tensor, "D"]) -> LinearUtility:
        """The belief after one click. With d = better - worse, s^2 = d' C d + 2 noise^2 and z = m' d / s:

        m <- m + C d v / s,  C <- C - C d (C d)' v (v + z) / s^2,  v = phi(z) / Phi(z)
        """
        d = (better - worse).to(self.mean)
        moved = self.covariance @ d
        s = torch.sqrt(d @ moved + 2 * self.noise**2)
        z = self.mean @ d / s
        v = torch.exp(-0.5 * z**2 - 0.5 * math.log(2 * math.pi) - torch.special.log_ndtr(z))
        covariance = self.covariance - torch.outer(moved, moved) * v * (v + z) / s**2
        return replace(self, mean=self.mean + moved * v / s, covariance=covariance)

    def after(self, better: Float[Tensor, "n D"], worse: Float[Tensor, "n D"]) -> LinearUtility:
        """The belief after these clicks, one after another."""
        belief = self
        for pair in zip(better, worse, strict=True):
            belief = belief.updated(*pair)
        return belief
