"""Every formula of the distillation recipes, as pure functions. Addresses: method.md, and the papers named there.

Letters as everywhere: t = 1 is noise, t = 0 is data, x_t = (1 - t) x0 + t eps, v = eps - x0. Tensors are [B, ...],
times [B].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def velocity_loss(output: Tensor, target: Tensor) -> Float[Tensor, ""]:
    """Mean squared error of velocities. Stage 1 (method.md 5.1) with the guided teacher's, the fake score with eps -
    x0."""
    return F.mse_loss(output.float(), target.float())


# ---- adversaries (stage 2; method.md 5.2.2) -------------------------------------------------------------------------


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Float[Tensor, ""]:
    """E[max(0, 1 - D(real)) + max(0, 1 + D(fake))] (Lim & Ye 2017; DMDX, arXiv 2507.18569), over samples and heads."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def hinge_generator_loss(fake: Tensor) -> Float[Tensor, ""]:
    """-E[D(fake)]."""
    return -fake.mean()


def relativistic_loss(better: Tensor, worse: Tensor) -> Float[Tensor, ""]:
    """E[softplus(D(worse) - D(better))], pair by pair (Jolicoeur-Martineau 2018; R3GAN, arXiv 2501.05441).

    The discriminator's loss with better = real, and the generator's with better = fake. Both samples of a pair have the
    same prompt and, where the real one is the end of a trajectory, the same noise. The best discriminator is
    log p(x) / q(x) up to a constant.
    """
    return F.softplus(worse - better).mean()


def approximate_r1(clean: Tensor, disturbed: Tensor, scale: float = 1.0) -> Float[Tensor, ""]:
    """E[((D(x + scale n) - D(x)) / scale)^2], n standard normal: E|grad D|^2 by a finite difference, so a discriminator
    may not be steep at x (APT, arXiv 2501.08316; AFM, arXiv 2511.22475). No second derivatives are needed.

    At real data it is R1, at the generator's R2. With scale 1 the difference is taken as it is, which is how stage 2
    uses it (noise of 0.05, not divided). Ours to add: Hyper-Bagel does not say what keeps its discriminator in bounds.
    """
    return ((disturbed - clean) / scale).square().mean()


def consistency_loss(fake: Tensor, real: Tensor, c: float = 0.0) -> Float[Tensor, ""]:
    """Pseudo-Huber distance sqrt(d^2 + c^2) - c of whole samples (Song & Dhariwal 2023), or with c = 0 the mean square.

    `real` is a target: no gradient goes there. Hyper-SD's first stages and LCM; Hyper-Bagel's stage 2 has none of it.
    """
    far = (fake - real.detach()).float()
    if c == 0.0:
        return far.square().mean()
    return ((far.square().flatten(1).sum(1) + c**2).sqrt() - c).mean()


def absolute_loss(fake: Tensor, real: Tensor) -> Float[Tensor, ""]:
    """E sum |fake - real| / sqrt(n), of samples of n values.

    A squared distance is least at the conditional mean, this one at the median of each value: where two ends are
    possible and one is likelier, that one, while the mean lies between them.
    """
    far = (fake - real.detach()).float().abs().flatten(1)
    return (far.sum(1) / far.size(1) ** 0.5).mean()


# ---- distribution matching (stage 3; method.md 5.3) -----------------------------------------------------------------


def matching_direction(x0: Tensor, real: Tensor, fake: Tensor, weighted: bool = True) -> Tensor:
    """(fake - real) / mean|x0 - real| per sample: where x0 should *not* go (DMD, arXiv 2311.18828, equations 7 and 8).

    real, fake: the data that the real and the fake score see behind the same noised sample. weighted False: without the
    denominator, for comparison with closed forms.
    """
    if not weighted:
        return fake - real
    scale = (x0 - real).abs().flatten(1).mean(1)
    if not bool((scale > 0).all()):
        raise ValueError(
            "a sample is exactly at the real score's estimate, so the direction has no scale; is the student untrained "
            "and the real score the student itself?"
        )
    return (fake - real) / scale.reshape(-1, *[1] * (x0.ndim - 1))


def distribution_matching_loss(x0: Tensor, real: Tensor, fake: Tensor, weighted: bool = True) -> Float[Tensor, ""]:
    """A scalar whose gradient in x0 is `matching_direction` over the number of samples. Its value means nothing.

    The divergence itself is never computed: this is the parabola whose slope is that direction.
    """
    with torch.no_grad():
        target = x0 - matching_direction(x0, real, fake, weighted)
    return 0.5 * (x0 - target).square().flatten(1).sum(1).mean()


def renoised(
    x0: Tensor,
    z: Tensor,
    fresh: Tensor,
    t: Tensor,
    way: str,
    generator: torch.Generator | None = None,
    share: float = 0.5,
) -> Tensor:
    """The sample at time t. way "coupled": on the line to z, the noise it was made from (DMDO, method.md 5.3.2);
    "fresh": on the line to noise it has never met (DMD); "mixed": each sample coupled with probability `share`.

    Coupled and a fake score that can invert the coupling contract the distribution (method.md 5.3.4); see
    `coupled_fixed_point`.
    """
    if way == "coupled":
        noise = z
    elif way == "fresh":
        noise = fresh
    elif way == "mixed":
        coin = torch.rand(len(x0), generator=generator).to(x0.device) < share
        noise = torch.where(coin.reshape(-1, *[1] * (x0.ndim - 1)), z, fresh)
    else:
        raise ValueError(f"no way to re-noise called {way!r}; choose from coupled, fresh, mixed")
    t = t.reshape(-1, *[1] * (x0.ndim - 1))
    return (1 - t) * x0 + t * noise


def log_rho(x0: Tensor, real: Tensor, fake: Tensor) -> Float[Tensor, ""]:
    """log(E|fake - x0| / E|real - x0|): about 0 in health; far below, the fake score has seen through the coupling and
    the student is only regressed onto the real score's mean (method.md 5.3.4)."""
    return ((fake - x0).abs().mean() / (real - x0).abs().mean()).log()


def coupled_fixed_point(s: float, t: Tensor) -> float:
    """Where literal DMDO ends on data N(0, s^2) with a one-step student x0 = a z and a perfect fake score, unweighted:

    a* = mean_t[c t] / mean_t[1 - c (1 - t)],  c = (1 - t) s^2 / ((1 - t)^2 s^2 + t^2)      (method.md 5.3.4)

    t: the times that the generator's step re-noises to. The right answer would be s; fresh noise reaches it.
    """
    c = (1 - t) * s**2 / ((1 - t) ** 2 * s**2 + t**2)
    return float((c * t).mean() / (1 - c * (1 - t)).mean())


# ---- one step (stage 4; method.md 6.1) ------------------------------------------------------------------------------


def squared_mmd(x: Float[Tensor, "*sets n D"], y: Float[Tensor, "*sets m D"], widths: tuple[float, ...]) -> Tensor:
    """The unbiased squared maximum mean discrepancy of each pair of sets [*sets], averaged over Gaussian kernels
    exp(-|a - b|^2 / (2 width^2 D)) (Gretton et al. 2012, equation 3).

    widths are for one value: distances are divided by the dimension D, so that one list serves features of any size.
    0 on average for samples of the same distribution, and now and then below. n and m are at least 2.
    """
    if x.size(-2) < 2 or y.size(-2) < 2:
        raise ValueError(f"an unbiased discrepancy needs two samples of each, got {x.size(-2)} and {y.size(-2)}")
    total = 0.0
    for a, b, sign in ((x, x, 1.0), (y, y, 1.0), (x, y, -2.0)):
        square = (a.unsqueeze(-2) - b.unsqueeze(-3)).square().mean(-1)
        kernel = sum((-square / (2 * width**2)).exp() for width in widths) / len(widths)
        if a is b:
            n = a.size(-2)
            total = total + (kernel.sum((-2, -1)) - kernel.diagonal(dim1=-2, dim2=-1).sum(-1)) / (n * (n - 1))
        else:
            total = total + sign * kernel.mean((-2, -1))
    return total
