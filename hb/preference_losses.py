"""Preferences as formulas: how likely one picture is preferred, losses that rewards learn by, and losses by which a
reward, or preferences alone, train a model that draws.

A reward is a Gaussian: mu is what a picture is worth, sigma how uncertain that is; log_sigma is what networks output.
Sources: method.md section 6.2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

# ---- preferences of rewards -----------------------------------------------------------------------------------------


def standardized_difference(
    mu: Float[Tensor, "*b"], log_sigma: Float[Tensor, "*b"], other: Float[Tensor, "*b"], other_log_sigma: Tensor
) -> Float[Tensor, "*b"]:
    """(mu_1 - mu_2) / sqrt(sigma_1^2 + sigma_2^2), computed so that no sigma over- or underflows; float32 or wider,
    since the normal distribution is not computed in half precision."""
    wide = torch.promote_types(mu.dtype, torch.float32)
    mu, log_sigma, other, other_log_sigma = (x.to(wide) for x in (mu, log_sigma, other, other_log_sigma))
    return (mu - other) * torch.exp(-0.5 * torch.logaddexp(2 * log_sigma, 2 * other_log_sigma))


def preference_probability(
    mu: Float[Tensor, "*b"], log_sigma: Float[Tensor, "*b"], other: Float[Tensor, "*b"], other_log_sigma: Tensor
) -> Float[Tensor, "*b"]:
    """P(r_1 > r_2) = Phi((mu_1 - mu_2) / sqrt(sigma_1^2 + sigma_2^2)) of two independent Gaussian rewards (Thurstone
    1927, case III)."""
    return torch.special.ndtr(standardized_difference(mu, log_sigma, other, other_log_sigma))


def ranking_loss(
    mu: Float[Tensor, "B"], log_sigma: Float[Tensor, "B"], worse: Float[Tensor, "B"], worse_log_sigma: Tensor
) -> Float[Tensor, ""]:
    """-E[log Phi((mu_w - mu_l) / sqrt(sigma_w^2 + sigma_l^2))]: the uncertainty-aware ranking loss of HPSv3 (arXiv
    2508.03789) in closed form. mu: of the preferred pictures; worse: of the others.

    Differs from the public trainer of HPSv3, which averages -log sigmoid(z) over a thousand draws of z from N(mu_w -
    mu_l, sigma_w^2 + sigma_l^2). That is convex in z, so its mean is least at sigma = 0 whatever the data, and sigma
    cannot be learnt from it. Here the unit of mu and sigma is free: only their ratio enters (`RewardModel.rescale`
    fixes it).
    """
    return -torch.special.log_ndtr(standardized_difference(mu, log_sigma, worse, worse_log_sigma)).mean()


def bradley_terry_loss(mu: Float[Tensor, "B"], worse: Float[Tensor, "B"]) -> Float[Tensor, ""]:
    """-E[log sigmoid(mu_w - mu_l)] (Bradley & Terry 1952; ImageReward, arXiv 2304.05977), without sigma."""
    return -F.logsigmoid(mu - worse).mean()


# ---- feedback -------------------------------------------------------------------------------------------------------


def reward_feedback_loss(mu: Float[Tensor, "B"], threshold: float | Tensor) -> Float[Tensor, ""]:
    """E[max(0, threshold - mu)]: ReFL (ImageReward, arXiv 2304.05977) with the hinge of Hyper-SD, as in stage 5 of
    Hyper-Bagel (method.md section 6.2). Slope -1/B for each picture below the threshold, none above it."""
    return F.relu(threshold - mu).mean()


def diffusion_dpo_loss(
    better: Float[Tensor, "B"],
    worse: Float[Tensor, "B"],
    reference_better: Float[Tensor, "B"],
    reference_worse: Float[Tensor, "B"],
    beta: float,
) -> Float[Tensor, ""]:
    """-E[log sigmoid(-beta ((e_w - e_w^ref) - (e_l - e_l^ref)))]: Diffusion-DPO (arXiv 2311.12908) with the
    errors of flow matching, e = |v_theta(x_t, t) - (eps - x0)|^2 of each picture, at one time and noise for all four.

    beta: the paper's beta T omega(lambda_t). The slope in e_w is beta s / B and in e_l the negative, where s =
    sigmoid(beta ((e_w - e_w^ref) - (e_l - e_l^ref))), so 1/2 where the model is still the reference.
    """
    ahead = (better - reference_better) - (worse - reference_worse)
    return -F.logsigmoid(-beta * ahead).mean()
