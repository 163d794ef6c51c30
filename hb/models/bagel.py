"""Bagel: logits for text and velocity for pictures, over one context (bagel.md sections 2 to 4, 7, 8).

Two ways in, one set of rules. `forward` runs whole sequences for training. `read_text`, `see`, `read_latent` grow a
`Context`, and `velocity` and `step` read from it; a test holds the two ways together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from hb.models.autoencoder import Autoencoder
from hb.models.config import BagelConfig
from hb.models.kv_cache import Context
from hb.models.mot import Decoder
from hb.models.roles import adamw
from hb.models.sequence import ImageSplit, Split, attention_mask, positions
from hb.models.vision import Connector, VisionTower, patchify, sincos_table, table_rows, unpatchify


class TimeEmbedder(nn.Module):
    """t in [0, 1], not multiplied by 1000, to width D: sinusoid of 256, linear, SiLU, linear (Peebles & Xie 2022)."""

    def __init__(self, width: int, size: int = 256):
        super().__init__()
        self.size = size
        self.mlp = nn.Sequential(adamw(nn.Linear(size, width)), nn.SiLU(), nn.Linear(width, width))

    def sinusoid(self, t: Float[Tensor, "B"]) -> Float[Tensor, "B size"]:
        half = self.size // 2
        frequency = torch.exp(-math.log(10000.0) / half * torch.arange(half, device=t.device, dtype=torch.float32))
        angle = t.float()[:, None] * frequency
        return torch.cat([angle.cos(), angle.sin()], dim=-1)

    def forward(self, t: Float[Tensor, "B"]) -> Float[Tensor, "B D"]:
        return self.mlp(self.sinusoid(t).to(self.mlp[0].weight.dtype))


class _Table(nn.Module):
    """A frozen sine-cosine table that the checkpoint holds too."""

    def __init__(self, side: int, width: int, stretched: bool):
        super().__init__()
        self.side, self.stretched = side, stretched
        self.pos_embed = nn.Parameter(sincos_table(side, width), requires_grad=False)

    def places(self, rows: int, columns: int) -> Int[Tensor, "n"]:
        """Which entries a grid takes: see table_rows."""
        return table_rows(rows, columns, self.side, self.pos_embed.device, stretched=self.stretched)

    def forward(self, rows: int, columns: int) -> Tensor:
        return self.pos_embed[self.places(rows, columns)]


class _LanguageModel(nn.Module):
    """Nothing but names: the released file says language_model.model... and language_model.lm_head."""

    def __init__(self, config):
        super().__init__()
        self.model = Decoder(config)
        self.lm_head = adamw(nn.Linear(config.hidden_size, config.vocab_size, bias=False))


class Bagel(nn.Module):
    """The unified model. Its weights carry the released names; the autoencoder stands beside it (`ae.safetensors`).

    markers: ids of (start, end, vision_start, vision_end), taken from the tokenizer. In BAGEL "start" and "end" are
    <|im_start|> and <|im_end|>.
    """

    def __init__(self, config: BagelConfig, markers: Sequence[int], autoencoder: Autoencoder | None = None):
        super().__init__()
        self.config = config
        self.markers = tuple(markers)
        width = config.llm.hidden_size
        self.language_model = _LanguageModel(config.llm)
        self.vit_model = VisionTower(config.vision)
        self.connector = Connector(config.vision.hidden_size, width)
        self.vit_pos_embed = _Table(config.vision.side, width, config.interpolate_pos)
        self.latent_pos_embed = _Table(config.latent_side, width, config.interpolate_pos)
        self.time_embedder = TimeEmbedder(width)
        self.vae2llm = adamw(nn.Linear(config.latent_width, width))
        self.llm2vae = adamw(nn.Linear(width, config.latent_width))
        # not a sub-module: its weights live in a file of their own and are frozen once trained
        self.__dict__["autoencoder"] = autoencoder or Autoencoder(config.autoencoder)

    def _apply(self, fn, recurse=True):
        self.autoencoder._apply(fn, recurse)
        return super()._apply(fn, recurse)

    @property
    def device(self) -> torch.device:
        return self.vae2llm.weight.device

    # ---- embeddings -------------------------------------------------------------------------------------------------

    def embed_text(self, ids: Int[Tensor, "B n"]) -> Float[Tensor, "B n D"]:
        return self.language_model.model.embed_tokens(ids)

    def embed_markers(self, batch: int) -> Float[Tensor, "B 2 D"]:
        """<|vision_start|> and <|vision_end|>, which stand around every picture and belong to the understanding
        side."""
        ids = torch.tensor(self.markers[2:], device=self.device)
        return self.embed_text(ids).expand(batch, -1, -1)

    def embed_patches(self, patches: Float[Tensor, "B n pixels"], rows: int, columns: int) -> Float[Tensor, "B n D"]:
        """Patch vectors through the vision tower and connector, plus the place."""
        seen = self.connector(self.vit_model(patches, self.vit_pos_embed.places(rows, columns)))
        return seen + self.vit_pos_embed(rows, columns)

    def embed_latent(self, tokens: Float[Tensor, "B n values"], t, rows: int, columns: int) -> Float[Tensor, "B n D"]:
        """Latent tokens at times t (0 for clean ones): projection + time + place, added, no adaptive norm."""
        tokens = tokens.to(self.vae2llm.weight.dtype)
        return self.vae2llm(tokens) + self.time_embedder(t)[:, None] + self.latent_pos_embed(rows, columns)

    def grid_of(self, n: int) -> tuple[int, int]:
        """Rows and columns of a square picture of n tokens; other shapes are passed explicitly."""
        side = math.isqrt(n)
        if side * side != n:
            raise ValueError(f"{n} tokens do not make a square picture; pass grid=(rows, columns)")
        return side, side

    # ---- training: whole sequences ----------------------------------------------------------------------------------

    def forward(self, splits: Sequence[Split], trace_gen: list | None = None) -> list[Tensor]:
        """For each split, what the model says there: text -> hidden states [B, n, D] (`logits` reads words from them),
        "noise" -> velocities [B, n, values], "vit" and "vae" -> hidden states of their tokens, markers left out.

        trace_gen collects the states of all generation tokens, in the order of the splits (see `Decoder.forward`).
        """
        und, gen, und_at, gen_at, at = [], [], [], [], 0
        for split in splits:
            n = split.present.size(1)
            here = list(range(at, at + n))
            if split.kind == "text":
                und.append(self.embed_text(split.ids))
                und_at += here
            else:
                markers, tokens = self._embed_image(split)
                und.append(markers)
                und_at += [here[0], here[-1]]
                (und if split.kind == "vit" else gen).append(tokens)
                (und_at if split.kind == "vit" else gen_at).extend(here[1:-1])
            at += n
        order = torch.tensor(und_at + gen_at, device=self.device)
        mask = attention_mask(splits)[:, :, order][:, :, :, order]
        pair = (torch.cat(und, 1), torch.cat(gen, 1) if gen else und[0].new_zeros(len(und[0]), 0, und[0].size(-1)))
        hidden, _ = self.language_model.model(pair, positions(splits)[:, order], mask, trace_gen=trace_gen)
        return self._by_split(splits, hidden)

    def _embed_image(self, split: ImageSplit) -> tuple[Tensor, Tensor]:
        batch, n = split.tokens.shape[:2]
        grid = split.grid or self.grid_of(n)
        if split.kind == "vit":
            tokens = self.embed_patches(split.tokens, *grid)
        else:
            t = split.t if split.t is not None else torch.zeros(batch, device=split.tokens.device)
            tokens = self.embed_latent(split.tokens, t, *grid)
        return self.embed_markers(batch), tokens

    def _by_split(self, splits, hidden) -> list[Tensor]:
        """Cut the expert-sorted hidden states back into splits."""
        und, gen = hidden
        out, u, g = [], 0, 0
        for split in splits:
            if split.kind == "text":
                n = split.ids.size(1)
                out.append(und[:, u : u + n])
                u += n
                continue
            n, u = split.tokens.size(1), u + 2
            if split.kind == "vit":
                out.append(und[:, u : u + n])
                u += n
            else:
                part = gen[:, g : g + n]
                out.append(self.llm2vae(part) if split.kind == "noise" else part)
                g += n
        return out

    def logits(self, hidden: Float[Tensor, "*any D"]) -> Float[Tensor, "*any V"]:
        return self.language_model.lm_head(hidden)

    # ---- inference: a context that grows ----------------------------------------------------------------------------

    def empty(self, batch: int) -> Context:
        """A context that has read nothing."""
        config = self.config.llm
        nothing = self.vae2llm.weight.new_zeros(batch, config.num_key_value_heads, 0, config.head_size)
        visible = torch.zeros(batch, 0, dtype=torch.bool, device=self.device)
        start = torch.zeros(batch, dtype=torch.long, device=self.device)
        return Context(((nothing, nothing),) * config.num_hidden_layers, visible, start)

    def read_ids(
        self,
        context: Context,
        ids: Int[Tensor, "B n"],
        length: Int[Tensor, "B"] | None = None,
        trace: list | None = None,
    ) -> tuple[Float[Tensor, "B n D"], Context]:
        """Append token ids exactly as they are, causally. Rows shorter than n are padded at the end; say their length.

        Returns hidden states after the final norm, and the longer context.
        """
        ids = ids.to(self.device)
        batch, n = ids.shape
        length = torch.full((batch,), n, device=self.device) if length is None else length.to(self.device)
        step = torch.arange(n, device=self.device)
        present = step < length[:, None]
        causal = (step[None, :] <= step[:, None]).expand(batch, -1, -1)
        mask = None
        if n > 1 or not context.whole:
            mask = torch.cat([context.visible[:, None].expand(-1, n, -1), causal & present[:, None]], dim=2)
            mask = mask | _self_mask(n, context.length, self.device)
        at = context.position[:, None] + step
        nothing = self.vae2llm.weight.new_zeros(batch, 0, self.config.llm.hidden_size)
        (hidden, _), cache = self.language_model.model(
            (self.embed_text(ids), nothing), at, None if mask is None else mask[:, None], context.cache, trace
        )
        return hidden, Context(cache, torch.cat([context.visible, present], 1), context.position + length)

    def read_text(
        self, context: Context, texts: Sequence[Sequence[int]], trace: list | None = None
    ) -> tuple[Float[Tensor, "B n D"], Context]:
        """Append one text per row, with <|im_start|> and <|im_end|> around it."""
        start, end = self.markers[:2]
        rows = [[start, *ids, end] for ids in texts]
        ids, length = pad_ids(rows, end)
        return self.read_ids(context, ids, length, trace)

    def see(
        self, context: Context, pictures: Float[Tensor, "B 3 H W"], trace: list | None = None
    ) -> tuple[Float[Tensor, "B n D"], Context]:
        """Append pictures in [-1, 1] as the vision tower sees them. Returns hidden states of markers and patches."""
        patch = self.config.vision.patch_size
        rows, columns = pictures.shape[-2] // patch, pictures.shape[-1] // patch
        tokens = self.embed_patches(patchify(pictures.to(self.device), patch), rows, columns)
        markers = self.embed_markers(len(tokens))
        block = torch.cat([markers[:, :1], tokens, markers[:, 1:]], dim=1)
        nothing = block[:, :0]
        (hidden, _), cache = self._look((block, nothing), context, trace)
        return hidden, self._grown(context, cache, block.size(1))

    def read_latent(
        self, context: Context, tokens: Float[Tensor, "B n values"], grid: tuple[int, int] | None = None
    ) -> Context:
        """Append clean latent tokens (t = 0) as a condition. Their hidden states serve nothing, so none are
        returned."""
        grid = grid or self.grid_of(tokens.size(1))
        t = torch.zeros(len(tokens), device=self.device)
        pair = (self.embed_markers(len(tokens)), self.embed_latent(tokens.to(self.device), t, *grid))
        _, cache = self._look(pair, context)
        return self._grown(context, cache, tokens.size(1) + 2)

    def velocity(
        self,
        x: Float[Tensor, "B n values"],
        t: Float[Tensor, "B"],
        context: Context,
        grid: tuple[int, int] | None = None,
    ) -> Float[Tensor, "B n values"]:
        """The velocity eps - x0 expected at noisy tokens x and times t, given the context. The context is not changed.

        One call is one function evaluation for each row.
        """
        grid = grid or self.grid_of(x.size(1))
        pair = (self.embed_markers(len(x)), self.embed_latent(x, t, *grid))
        (_, hidden), _ = self._look(pair, context)
        return self.llm2vae(hidden)

    def _look(self, pair, context: Context, trace: list | None = None, trace_gen: list | None = None):
        """Run a picture block that sees the whole context and all of itself."""
        n = pair[0].size(1) + pair[1].size(1)
        at = context.position[:, None].expand(-1, n)
        mask = None
        if not context.whole:
            own = context.visible.new_ones(context.batch, n)
            mask = torch.cat([context.visible, own], 1)[:, None, None].expand(-1, -1, n, -1)
        return self.language_model.model(pair, at, mask, context.cache, trace, trace_gen)

    def _grown(self, context: Context, cache, n: int) -> Context:
        own = context.visible.new_ones(context.batch, n)
        return Context(cache, torch.cat([context.visible, own], 1), context.position + 1)

    # ---- latents ----------------------------------------------------------------------------------------------------

    def latent_grid(self, height: int, width: int) -> tuple[int, int]:
        """Token rows and columns of a picture of this many pixels."""
        side = self.config.token_pixels
        if height % side or width % side:
            raise ValueError(f"the sides of a picture must be multiples of {side} pixels, got {height}x{width}")
        return height // side, width // side

    def encode(self, pictures: Float[Tensor, "B 3 H W"], generator=None, sample: bool = True) -> Tensor:
        """Pictures in [-1, 1] to latent tokens [B, n, values]. generator, sample: see `Autoencoder.encode`."""
        with torch.no_grad():
            z = self.autoencoder.encode(pictures.to(self.device), generator, sample)
        return patchify(z, self.config.latent_patch)

    def decode(
        self, tokens: Float[Tensor, "B n values"], grid: tuple[int, int] | None = None, decoder: nn.Module | None = None
    ) -> Tensor:
        """Latent tokens to pictures in [-1, 1], not clamped. decoder: instead of the autoencoder's own."""
        rows, columns = grid or self.grid_of(tokens.size(1))
        z = unpatchify(tokens, self.config.latent_patch, rows, columns)
        return self.autoencoder.decode(z.to(next(self.autoencoder.parameters()).dtype), decoder)


def pad_ids(rows: Sequence[Sequence[int]], fill: int) -> tuple[Int[Tensor, "B n"], Int[Tensor, "B"]]:
    """Lists of ids as one tensor, padded at the end, and each row's true length."""
    length = torch.tensor([len(r) for r in rows])
    ids = torch.full((len(rows), max(1, int(length.max()))), fill, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
    return ids, length


def _self_mask(n: int, past: int, device) -> Tensor:
    """A padded token sees itself, so that no attention row is empty."""
    return F.pad(torch.eye(n, dtype=torch.bool, device=device), (past, 0))[None]


def initialize(model: Bagel, generator: torch.Generator) -> None:
    """Fresh weights: normal, of standard deviation 1 / sqrt(inputs), output projections smaller by the depth, llm2vae
    zero as BAGEL; words of deviation 1; the tower's places sines and cosines of short waves, so that neighbours begin
    alike.

    Differs from Qwen2, which begins everything at 0.02. Beside matrices that Muon moves, words that small are drowned
    by the first layer: after 1,560 steps nano's had grown to 0.1 in a stream of 70, and what a word was could hardly be
    read.
    """
    depth = model.config.llm.num_hidden_layers
    with torch.no_grad():
        for name, p in model.named_parameters():
            if not p.requires_grad or "norm" in name:
                continue
            if p.ndim < 2:
                p.zero_()
                continue
            std = 1.0 if name.endswith("embed_tokens.weight") else p.size(1) ** -0.5
            if name.endswith(("o_proj.weight", "o_proj_moe_gen.weight", "down_proj.weight", "out_proj.weight")):
                std /= (2 * depth) ** 0.5
            p.copy_(torch.randn(p.shape, generator=generator) * std)
        model.vit_model.begin_places()
        model.llm2vae.weight.zero_()
