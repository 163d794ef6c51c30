"""A student: a generation branch of its own that has the guidance scales as inputs. One pass where the teacher needs
two or three.

The understanding branch is the teacher's, shared and not a part of the student: nothing that trains a student can
change how a prompt or a picture is read.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hb.models.bagel import Bagel, branch_velocity
from hb.models.checkpoint import check
from hb.models.kv_cache import KVCache
from hb.models.latents import GuidanceEmbedding
from hb.models.names import from_released, to_released


class Shared:
    """A module that is used and not owned: no sub-module of the user, and not copied with it."""

    def __init__(self, module: nn.Module):
        self.module = module

    def __deepcopy__(self, memo) -> Shared:
        return self


class StudentModel(nn.Module):
    """A generation branch: an expert and its latent interface with a guidance embedding. What a stage optimizes,
    averages and saves; a fake score and a critic's backbone are such branches too.

    An ordinary module: registered, copied by `copy.deepcopy`, compiled, wrapped by DDP. base is the teacher, whose
    understanding branch reads prompts and pictures.
    """

    def __init__(self, base: Bagel | StudentModel, trainable: bool = True, extra_layers: int = 0):
        """A copy of the teacher's branch, or of another student's, with weights of its own.

        extra_layers   so many layers more than it has (see `hb.models.mot.Expert.add_layers`)
        """
        super().__init__()
        source = base if isinstance(base, StudentModel) else None
        self._base = source._base if source else Shared(base)
        expert, latent = (source.expert, source.latent) if source else base.generation_branch()
        self.expert = copy.deepcopy(expert)
        self.latent = copy.deepcopy(latent)
        self.expert.add_layers(extra_layers)
        if self.latent.guidance is None:
            self.latent.guidance = GuidanceEmbedding(self.latent.time)
        self.compiled = False
        self.requires_grad_(trainable)

    @property
    def base(self) -> Bagel:
        """The teacher whose understanding branch it shares."""
        return self._base.module

    @property
    def config(self):
        return self.base.config

    @property
    def device(self) -> torch.device:
        return self.latent.input.weight.device

    def forward(
        self,
        x: Float[Tensor, "B n values"],
        t: Float[Tensor, "B"],
        cache: KVCache,
        grid: tuple[int, int] | None = None,
        *,
        text_scale: Tensor | None = None,
        image_scale: Tensor | None = None,
        hidden_states: list | None = None,
    ) -> Float[Tensor, "B n values"]:
        """The guided velocity at scales [B]; image_scale None: there is no picture to be guided by. hidden_states
        collects the latent tokens' input and state after every layer."""
        return branch_velocity(
            self.base,
            self.expert,
            self.latent,
            x,
            t,
            cache,
            grid,
            text_scale=text_scale,
            image_scale=image_scale,
            hidden_states=hidden_states,
            compiled=self.compiled,
        )

    velocity = forward  # as the teacher calls it: a sampler takes either

    @torch.no_grad()
    def follow(self, other: StudentModel, decay: float) -> None:
        """Exponential moving average: self <- decay * self + (1 - decay) * other."""
        torch._foreach_lerp_(list(self.parameters()), list(other.parameters()), 1 - decay)

    @torch.no_grad()
    def copy_from(self, other: StudentModel) -> None:
        """The other's weights, from now on apart."""
        self.follow(other, 0.0)

    # ---- files ------------------------------------------------------------------------------------------------------

    def released_weights(self) -> dict[str, Tensor]:
        """The weights under the names that a student's file has, which are those of the released file."""
        return {_released(name): value for name, value in self.state_dict().items()}

    @torch.no_grad()
    def load_released(self, weights: dict[str, Tensor], where: str) -> None:
        """Put these weights in place. Raises CheckpointError, which names the file `where`, if they do not fit."""
        check(weights, {name: value.shape for name, value in self.released_weights().items()}, where)
        for name, value in self.released_weights().items():
            value.copy_(weights[name])

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        """Runs of version 0.1 kept a branch's weights under released names with "/" for "."."""
        for old in [name for name in state_dict if name.startswith(prefix) and "/" in name]:
            new = from_released(old[len(prefix) :].replace("/", "."))
            state_dict[prefix + new.replace("mot.generation.", "expert.", 1)] = state_dict.pop(old)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _released(name: str) -> str:
    return to_released(name.replace("expert.", "mot.generation.", 1) if name.startswith("expert.") else name)


def extra_layers_of(weights: Mapping[str, Tensor]) -> int:
    """How many extra layers these released weights of a student have."""
    return len({match[1] for name in weights if (match := re.match(r"mot\.generation\.extra\.(\d+)\.", name))})
