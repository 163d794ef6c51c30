"""A model that has the guidance scales as inputs: what distillation trains, one pass where the teacher needs two or
three.

Two more embedders, built as the timestep's and added where it is (method.md 5.1; FLUX's way; Meng et al. 2023, arXiv
2210.03142). Only the generation branch is a model's own: the understanding weights are shared with the teacher it was
made from, object by object, so nothing that trains a student can change how a prompt or a picture is read.
"""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hb.models.bagel import Bagel, TimeEmbedder
from hb.models.kv_cache import Context
from hb.models.roles import guidance_embedding

TEXT_SCALES, IMAGE_SCALES = (1.0, 5.0), (1.0, 2.5)  # what is trained, as in Hyper-Bagel
GENERATION = ("time_embedder.", "vae2llm.", "llm2vae.", "text_scale_embedder.", "image_scale_embedder.")


class GuidedBagel(Bagel):
    """Bagel whose velocity is the guided one, at scales that are given.

    The last layers of both embedders start at zero: an untrained one is the unguided teacher. Scales go in as
    (scale - 1) / (largest - 1), so 0 is "off" and the range is that of t. Their first layers start as the time's, which
    tells numbers of this range apart already (ours: features of a random layer hardly differ between two scales, and
    after a thousand steps the knob was dead still).
    """

    def __init__(self, teacher: Bagel):
        nn.Module.__init__(self)
        shared = {id(p): p for name, p in teacher.named_parameters() if not is_generation(name)}
        source = copy.deepcopy(dict(teacher.__dict__), {**shared, id(teacher.autoencoder): teacher.autoencoder})
        self.__dict__.update(source)
        width = self.config.llm.hidden_size
        had_scales = isinstance(teacher, GuidedBagel)
        for name in ("text_scale_embedder", "image_scale_embedder"):
            if not had_scales:
                embedder = guidance_embedding(TimeEmbedder(width)).to(self.vae2llm.weight)
                embedder.mlp[0].load_state_dict(teacher.time_embedder.mlp[0].state_dict())
                nn.init.zeros_(embedder.mlp[-1].weight)
                nn.init.zeros_(embedder.mlp[-1].bias)
                self.add_module(name, embedder)

    def velocity(
        self,
        x: Float[Tensor, "B n values"],
        t: Float[Tensor, "B"],
        context: Context,
        grid: tuple[int, int] | None = None,
        text_scale: Tensor | None = None,
        image_scale: Tensor | None = None,
        trace_gen: list | None = None,
    ) -> Float[Tensor, "B n values"]:
        """The velocity at these scales [B]; image_scale None: no picture is there to be guided by."""
        grid = grid or self.grid_of(x.size(1))
        tokens = self.embed_latent(x, t, *grid)
        for scale, embedder, (low, high) in (
            (text_scale, self.text_scale_embedder, TEXT_SCALES),
            (image_scale, self.image_scale_embedder, IMAGE_SCALES),
        ):
            if scale is not None:
                tokens = tokens + embedder((scale.to(x.device) - low) / (high - low))[:, None]
        (_, hidden), _ = self._look((self.embed_markers(len(x)), tokens), context, trace_gen=trace_gen)
        return self.llm2vae(hidden)


def is_generation(name: str) -> bool:
    """Does a parameter of this name belong to the generation branch?"""
    return "_moe_gen" in name or name.startswith(GENERATION)


def generation_weights(model: Bagel) -> dict[str, nn.Parameter]:
    """The generation branch, by name: all that distillation may change, and all that a student's file holds."""
    return {name: p for name, p in model.named_parameters() if is_generation(name)}


class Branch(nn.Module):
    """The generation branch of a model as a module of its own: what a stage optimizes, averages and saves.

    The model itself hangs on it without being a sub-module; its parameters and the branch's are the same objects.
    """

    def __init__(self, model: GuidedBagel, trainable: bool = True):
        super().__init__()
        self.__dict__["model"] = model
        for name, p in generation_weights(model).items():
            p.requires_grad_(trainable)
            self.register_parameter(name.replace(".", "/"), p)

    def forward(self, *args, **options) -> Tensor:
        return self.model.velocity(*args, **options)

    @torch.no_grad()
    def follow(self, other: Branch, decay: float) -> None:
        """Exponential moving average: self <- decay * self + (1 - decay) * other."""
        torch._foreach_lerp_(list(self.parameters()), list(other.parameters()), 1 - decay)

    @torch.no_grad()
    def copy_from(self, other: Branch) -> None:
        """The other's weights, from now on apart."""
        self.follow(other, 0.0)


def guided_branch(teacher: Bagel, trainable: bool = True) -> Branch:
    """A new generation branch that begins as a copy of the teacher's."""
    return Branch(GuidedBagel(teacher), trainable)
