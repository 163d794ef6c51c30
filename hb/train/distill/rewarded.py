"""Stages that decode what their student makes, for a discriminator or for a reward (stage 5, ReFL)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

from torch import Tensor, nn

from hb.flow import time_grid
from hb.models.bagel import Bagel
from hb.models.conditioning import StudentModel
from hb.preference_losses import reward_feedback_loss
from hb.train.distill.batch import StageBatch
from hb.train.distill.stage import Stage, frozen_copy

# pictures [B, 3, H, W] in [-1, 1] and their batch -> rewards [B], and the reward from which on a picture is good enough
Reward = Callable[[Tensor, StageBatch], tuple[Tensor, float]]


class DecodesPictures:
    """What such a stage has beside the networks that it trains."""

    def set_decoder_and_reward(
        self, decoder: nn.Module | None, reward_model: Reward | None, rewarded: bool | float
    ) -> None:
        """Called by the constructor.

        decoder   instead of the autoencoder's own. Without latent refiner, or a discriminator or a reward would get
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


class SourcedStage(DecodesPictures, Stage):
    """A stage beside the student it follows, its source. Options: the fields of `settings_class`, and those of `Stage`.

    source       None: the student as it was when the stage began
    trajectory   steps, shift and sampler of its trajectories
    decoder, reward_model   see `DecodesPictures`
    """

    settings_class: type

    def __init__(
        self,
        teacher: Bagel,
        student: StudentModel,
        *,
        source: StudentModel | None = None,
        trajectory: tuple[int, float, str] = (6, 3.0, "euler"),
        decoder: nn.Module | None = None,
        reward_model: Reward | None = None,
        **options,
    ):
        own = {f.name: options.pop(f.name) for f in fields(self.settings_class) if f.name in options}
        settings = self.settings_class(**own)
        super().__init__(teacher, student, **options)
        self.settings = settings
        self.set_decoder_and_reward(decoder, reward_model, getattr(settings, "reward", True))
        steps, shift, self.sampler = trajectory
        self.grid = time_grid(steps, shift)
        self.source = frozen_copy(student if source is None else source)
