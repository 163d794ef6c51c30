"""Stages that look at what their student makes: decoded pictures, and what a reward says of them (stage 5, ReFL)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from hb.preference_losses import reward_feedback_loss
from hb.train.distill.batch import StageBatch

# pictures [B, 3, H, W] in [-1, 1] and their batch -> rewards [B], and the reward from which on a picture is good enough
Reward = Callable[[Tensor, StageBatch], tuple[Tensor, float]]


class SeesPictures:
    """What such a stage has beside its networks, none of it trained."""

    def look_with(self, decoder: nn.Module | None, reward_model: Reward | None, rewarded: float) -> None:
        """Called by the constructor.

        decoder   instead of the autoencoder's own. Without latent refiner, or a discriminator or a reward would look at
                  what the refiner corrected
        rewarded  the weight of the reward. Raises ValueError if there is one, and no reward
        """
        if rewarded and reward_model is None:
            raise ValueError("the reward has a weight, and there is no reward model: train one first: hb train reward")
        self.__dict__["decoder"], self.__dict__["reward_model"] = decoder, reward_model

    def pictures(self, latent: Tensor, batch: StageBatch) -> Tensor:
        """Decoded, in [-1, 1] where the decoder keeps to it; differentiable."""
        return self.teacher.decode(latent, batch.grid, decoder=self.decoder)

    def rewards(self, latent: Tensor, batch: StageBatch) -> tuple[Tensor, float]:
        """Rewards [B] of latents, and the threshold; their mean is noted."""
        rewards, threshold = self.reward_model(self.pictures(latent, batch), batch)
        self.facts["reward"] = float(rewards.detach().mean())
        return rewards, threshold

    def reward_loss(self, latent: Tensor, batch: StageBatch) -> Tensor:
        """`reward_feedback_loss` of latents."""
        return reward_feedback_loss(*self.rewards(latent, batch))
