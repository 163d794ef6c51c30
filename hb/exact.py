"""Closed forms: perfect teachers (the velocity of a finite data set and of a Gaussian mixture), best discriminators.

With x_t = (1 - t) x0 + t eps, the best velocity a network can learn is v(x, t) = E[eps - x0 | x_t = x]. Where the data
are known, so is this expectation (the "ideal denoiser" of Karras et al. 2022, in our letters).

Both teachers keep the contract `velocity(x, t)`, so `hb.flow.euler` samples them as it samples a model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class FiniteData:
    """N points, each as likely as its weight (alike if not given). points [N, ...]."""

    points: Tensor
    weights: Float[Tensor, "N"] | None = None

    def posterior(self, x: Tensor, t: Tensor | float) -> Float[Tensor, "B N"]:
        """How likely each point is where x came from:

        r_i(x, t) = softmax_i( log w_i - |x - (1 - t) y_i|^2 / (2 t^2) )
        """
        t = _inside(t, x, low_allowed=False)
        far = _squared_distance(x, (1 - t)[:, None, None] * self.points.flatten(1))
        return torch.softmax(_log(self.weights, self.points) - far / (2 * t[:, None] ** 2), dim=1)

    def velocity(self, x: Tensor, t: Tensor | float) -> Tensor:
        """v = (x - E[x0 | x]) / t, the expectation over the posterior. t in (0, 1]: at 0 there are only the points."""
        x0 = self.posterior(x, t) @ self.points.flatten(1)
        t = _inside(t, x, low_allowed=False)
        return ((x.flatten(1) - x0) / t[:, None]).reshape(x.shape)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n points, drawn with replacement."""
        distribution = torch.ones(len(self.points)) if self.weights is None else self.weights
        return self.points[torch.multinomial(distribution, n, replacement=True, generator=generator)]


@dataclass(frozen=True)
class GaussianMixture:
    """K round blobs: means [K, D], one standard deviation each, weights [K] (alike if not given)."""

    means: Float[Tensor, "K D"]
    std: Float[Tensor, "K"]
    weights: Float[Tensor, "K"] | None = None

    def posterior(self, x: Tensor, t: Tensor | float) -> Float[Tensor, "B K"]:
        """How likely x came from each blob: x_t of blob k is N((1 - t) m_k, ((1 - t)^2 s_k^2 + t^2) I)."""
        t = _inside(t, x)
        variance = self._variance(t)
        far = _squared_distance(x, (1 - t)[:, None, None] * self.means)
        spread = self.means.size(1) / 2 * variance.log()
        return torch.softmax(_log(self.weights, self.means) - spread - far / (2 * variance), dim=1)

    def velocity(self, x: Float[Tensor, "B D"], t: Tensor | float) -> Float[Tensor, "B D"]:
        """sum_k r_k (E[eps | x, k] - E[x0 | x, k]). With u = x - (1 - t) m_k and that blob's variance at t:

        E[eps | x, k] = t u / variance;  E[x0 | x, k] = m_k + (1 - t) s_k^2 u / variance
        """
        t = _inside(t, x)
        kept = 1 - t[:, None]
        u = x[:, None] - kept[..., None] * self.means
        pull = (t[:, None] - kept * self.std**2) / self._variance(t)
        return (self.posterior(x, t)[..., None] * (pull[..., None] * u - self.means)).sum(1)

    def log_density(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B"]:
        """log p(x)."""
        spread = self.means.size(1) * (2 * math.pi * self.std**2).log() / 2
        each = -_squared_distance(x, self.means) / (2 * self.std**2) - spread
        return (
            each + _log(self.weights, self.means) - (math.log(len(self.means)) if self.weights is None else 0)
        ).logsumexp(1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n D"]:
        """n points of the mixture."""
        distribution = torch.ones(len(self.means)) if self.weights is None else self.weights
        k = torch.multinomial(distribution, n, replacement=True, generator=generator)
        return self.means[k] + self.std[k, None] * torch.randn(n, self.means.size(1), generator=generator)

    def _variance(self, t: Float[Tensor, "B"]) -> Float[Tensor, "B K"]:
        return ((1 - t[:, None]) * self.std) ** 2 + t[:, None] ** 2


# ---- adversaries (stage 4) ------------------------------------------------------------------------------------------


def best_hinge_logits(real: GaussianMixture, fake: GaussianMixture, x: Float[Tensor, "B D"]) -> Float[Tensor, "B"]:
    """The discriminator that lowers the hinge loss most: the sign of p_real - p_fake. The loss is then 2 - 2 TV, TV the
    total variation between the two (Lim & Ye 2017)."""
    return (real.log_density(x) - fake.log_density(x)).sign()


def best_relativistic_logits(
    real: GaussianMixture, fake: GaussianMixture, x: Float[Tensor, "B D"]
) -> Float[Tensor, "B"]:
    """The discriminator that lowers the relativistic loss most, up to a constant: log p_real(x) - log p_fake(x).

    It is the logit of "x is the real one of the pair", by Bayes' rule, less the same of the other sample.
    """
    return real.log_density(x) - fake.log_density(x)


def gaussian_squared_mmd(
    mean: Float[Tensor, "D"], std: float, other_mean: Float[Tensor, "D"], other_std: float, width: float
) -> float:
    """The squared maximum mean discrepancy of two round Gaussians with the kernel exp(-|a - b|^2 / (2 width^2 D))."""
    dimension = mean.numel()
    square = width**2 * dimension

    def expected(far: float, variance: float) -> float:
        total = square + variance
        return (square / total) ** (dimension / 2) * math.exp(-far / (2 * total))

    far = float((mean - other_mean).square().sum())
    same = expected(0.0, 2 * std**2) + expected(0.0, 2 * other_std**2)
    return same - 2 * expected(far, std**2 + other_std**2)


def _log(weights: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros(len(like)) if weights is None else (weights / weights.sum()).log()


def _squared_distance(x: Tensor, centers: Float[Tensor, "B N D"]) -> Float[Tensor, "B N"]:
    return (x.flatten(1)[:, None] - centers).square().sum(-1)


def _inside(t: Tensor | float, x: Tensor, low_allowed: bool = True) -> Float[Tensor, "B"]:
    """Times as [B], checked: a finite data set has no velocity at t = 0."""
    t = torch.as_tensor(t, dtype=x.dtype).expand(len(x))
    if t.max() > 1 or t.min() < 0 or (t.min() == 0 and not low_allowed):
        low = "from 0" if low_allowed else "down to, but not including, 0"
        raise ValueError(f"t runs {low} up to 1, got {t.min():.3g} to {t.max():.3g}")
    return t
