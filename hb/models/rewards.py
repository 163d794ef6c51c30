"""A reward model: what a picture is worth for a prompt, as a Gaussian. A small head on frozen features of the model's
own (method.md section 6.2).

HPSv3 (arXiv 2508.03789) fine-tunes a vision-language model of 7 billion parameters and reads (mu, log sigma) off its
last state. Ours keeps the model as it is: patches through its vision encoder, the prompt through its understanding
branch; only the head is trained, and only the head is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hb.models.bagel import Bagel
from hb.models.roles import adamw
from hb.models.vision import patchify, sincos_table, table_rows

FEATURES = ("vision", "latents")
LOG_SIGMA = 3.0  # log_sigma is within so much of 0 while it is learnt: pairs that all agree would let sigma go to 0


@dataclass(frozen=True)
class RewardConfig:
    """How a reward is built.

    features   "vision": of the vision encoder's patches; "latents": of the autoencoder's encoder
    width      of a feature; text_width: of a prompt's state
    inner, heads   width of the head, and heads of its attention; layers: MLPs at each place of the picture
    attention  do places attend to each other before each of these MLPs, and does an MLP follow the pooling? What people
               see in a picture as a whole, its contrast and its balance, is no sum over places. False: as until 0.2
    """

    features: str
    width: int
    text_width: int
    inner: int = 64
    layers: int = 1
    heads: int = 4
    attention: bool = False

    def __post_init__(self):
        if self.features not in FEATURES:
            raise ValueError(f"no features called {self.features!r}; there are {', '.join(FEATURES)}")
        if self.inner < 1 or self.inner % (4 * self.heads):  # the table of places has four parts
            raise ValueError(f"a reward's head is a multiple of {4 * self.heads} wide, not {self.inner}")

    @staticmethod
    def of(model: Bagel, features: str = "vision", **sizes: int | bool) -> RewardConfig:
        """For this model."""
        config = model.config
        width = config.autoencoder.z_channels if features == "latents" else config.vision.hidden_size
        return RewardConfig(features, width, config.llm.hidden_size, **sizes)


class RewardCondition(NamedTuple):
    """What pictures are rewarded for: computed once, without gradient.

    text      states of the prompt's tokens; present: which tokens are there, and not padding
    source    features of the picture that was edited; None: pictures are drawn
    """

    text: Float[Tensor, "B T D"]
    present: Bool[Tensor, "B T"]
    source: Float[Tensor, "B rows columns width"] | None = None

    def select(self, rows: Tensor) -> RewardCondition:
        """These rows, in this order, repeats allowed: several pictures of one prompt."""
        return RewardCondition(*(part if part is None else part[rows.to(part.device)] for part in self))

    def to(self, device: torch.device | str) -> RewardCondition:
        return RewardCondition(*(part if part is None else part.to(device) for part in self))


class _Mlp(nn.Module):
    """Two layers after a norm, residual."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(F.gelu(self.fc1(self.norm(x))))


class _Lookup(nn.Module):
    """Attention, residual: each token of the prompt, or each place, gathers from the places of the picture."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_q, self.norm_x = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.kv, self.out = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, words: Float[Tensor, "B T D"], x: Float[Tensor, "B n D"]) -> Float[Tensor, "B T D"]:
        by_head = lambda t: t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(self.norm_x(x)).chunk(2, -1)
        found = F.scaled_dot_product_attention(by_head(self.q(self.norm_q(words))), by_head(k), by_head(v))
        return words + self.out(found.transpose(1, 2).flatten(2))


class _Block(nn.Module):
    """Places attend to each other, then an MLP at each."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.lookup, self.mlp = _Lookup(width, heads), _Mlp(width)

    def forward(self, x: Float[Tensor, "B n D"]) -> Float[Tensor, "B n D"]:
        return self.mlp(self.lookup(x, x))


class RewardHead(nn.Module):
    """Features of a picture and states of a prompt to (mu, log_sigma).

    An MLP at each place of the picture, and attention among places before it (`RewardConfig.attention`); each token of
    the prompt looks up the places; then the mean over places and the mean over tokens, with attention an MLP on both,
    and one linear layer.

    unit   (c, s): what that layer gives is returned as (mu - c) / s and log_sigma - log s; see `RewardModel.rescale`
    """

    def __init__(self, config: RewardConfig):
        super().__init__()
        self.config, inner = config, config.inner
        self.picture = adamw(nn.Linear(config.width, inner))
        self.source = adamw(nn.Linear(config.width, inner, bias=False))
        self.text = adamw(nn.Linear(config.text_width, inner))
        layer = (lambda: _Block(inner, config.heads)) if config.attention else (lambda: _Mlp(inner))
        self.at_places = nn.Sequential(*(layer() for _ in range(config.layers)))
        self.lookup = _Lookup(inner, config.heads)
        self.at_words = _Mlp(inner)
        self.together = _Mlp(2 * inner) if config.attention else nn.Identity()
        self.norm = nn.LayerNorm(2 * inner)
        self.last = adamw(nn.Linear(2 * inner, 2))
        nn.init.normal_(self.last.weight, std=0.02)
        nn.init.zeros_(self.last.bias)
        self.register_buffer("unit", torch.tensor([0.0, 1.0]))

    def pooled(
        self, features: Float[Tensor, "B rows columns width"], condition: RewardCondition
    ) -> Float[Tensor, "B 2*inner"]:
        """Mean over places and mean over the prompt's tokens: what the last layer is linear in."""
        rows, columns = features.shape[1:3]
        side = max(rows, columns)
        place = sincos_table(side, self.config.inner, base=20.0)[table_rows(rows, columns, side)]
        x = self.picture(features).flatten(1, 2) + place.to(features)
        if condition.source is not None:
            x = x + self.source(condition.source.to(features)).flatten(1, 2)
        x = self.at_places(x)
        words = self.at_words(self.lookup(self.text(condition.text.to(features)), x))
        weight = condition.present[..., None].to(x)
        said = (words * weight).sum(1) / weight.sum(1).clamp_min(1)
        return self.norm(self.together(torch.cat([x.mean(1), said], 1)))

    def forward(
        self, features: Float[Tensor, "B rows columns width"], condition: RewardCondition
    ) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
        mu, log_sigma = self.last(self.pooled(features, condition)).unbind(-1)
        moved, unit = self.unit
        return (mu - moved) / unit, LOG_SIGMA * torch.tanh(log_sigma / LOG_SIGMA) - unit.log()


class RewardModel(nn.Module):
    """A head beside the frozen model that computes its features. The model is no sub-module: it is not trained, nor
    saved.

    reward(pixels [B, 3, H, W] in [-1, 1], condition) -> (mu [B], log_sigma [B]), differentiable in pixels
    """

    def __init__(self, config: RewardConfig, model: Bagel):
        super().__init__()
        self.config = config
        self.head = RewardHead(config)
        self.__dict__["model"] = model

    def forward(
        self, pixels: Float[Tensor, "B 3 H W"], condition: RewardCondition
    ) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
        return self.head(self.features(pixels), condition)

    def features(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B rows columns width"]:
        """What the frozen model makes of pictures in [-1, 1], float32 or wider. Gradients flow to the pixels."""
        model = self.model
        pixels = pixels.to(model.device)
        wide = pixels.dtype if pixels.dtype == torch.float64 else torch.float32
        if self.config.features == "latents":
            encoder = model.autoencoder
            mean, _ = encoder.moments(pixels.to(next(encoder.parameters()).dtype))
            return (encoder.config.scale_factor * (mean - encoder.config.shift_factor)).movedim(1, -1).to(wide)
        patch = model.config.vision.patch_size
        rows, columns = (side // patch for side in pixels.shape[-2:])
        found = model.vit_model(patchify(pixels.to(model.dtype), patch), model.vit_pos_embed.rows_of(rows, columns))
        return found.unflatten(1, (rows, columns)).to(wide)

    @torch.no_grad()
    def condition(
        self,
        teacher: Bagel,
        ids: Int[Tensor, "B T"],
        length: Int[Tensor, "B"],
        source_pixels: Float[Tensor, "B 3 H W"] | None = None,
    ) -> RewardCondition:
        """Read prompts, or instructions, with their markers, and the pictures that are edited, in [-1, 1].

        teacher   reads the text with its understanding branch: the model that this reward was made for
        """
        states, _ = teacher.read_ids(teacher.empty(len(ids)), ids, length)
        present = torch.arange(ids.size(1), device=states.device) < length.to(states.device)[:, None]
        source = None if source_pixels is None else self.features(source_pixels)
        return RewardCondition(states.float(), present, source)

    @torch.no_grad()
    def rescale(self, mu: Float[Tensor, "P"]) -> None:
        """Choose the unit in which pictures with these rewards have mean 0 and standard deviation 1. Preferences stay
        as they are: the ranking loss leaves the unit open, and a threshold needs one."""
        moved, unit = self.head.unit
        self.head.unit.copy_(torch.stack([moved + unit * mu.mean(), unit * mu.std()]))
