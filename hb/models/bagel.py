"""Bagel: logits for text and velocity for pictures, over one prefix (bagel.md sections 2 to 4, 7, 8).

Two ways in, one set of rules. `forward` runs whole sequences for training. `read_text`, `see` and `read_latent` give a
longer `KVCache`, and `velocity` reads from it. A test holds the two ways together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hb.models.autoencoder import Autoencoder
from hb.models.config import BagelConfig
from hb.models.kv_cache import KVCache
from hb.models.latents import LatentInterface
from hb.models.mot import Expert, MixtureOfTransformers, run_experts
from hb.models.names import accept_released
from hb.models.roles import adamw
from hb.models.sequence import ImageSplit, Split, attention_mask, positions
from hb.models.vision import Connector, VisionTower, patchify, sincos_table, table_rows, unpatchify


class PositionTable(nn.Module):
    """A frozen sine-cosine table of 2-D positions. The checkpoint holds it too."""

    def __init__(self, side: int, width: int, stretched: bool):
        super().__init__()
        self.side, self.stretched = side, stretched
        self.pos_embed = nn.Parameter(sincos_table(side, width), requires_grad=False)

    def rows_of(self, rows: int, columns: int) -> Int[Tensor, "n"]:
        """Which entries a grid takes: see table_rows."""
        return table_rows(rows, columns, self.side, self.pos_embed.device, stretched=self.stretched)

    def forward(self, rows: int, columns: int) -> Tensor:
        return self.pos_embed[self.rows_of(rows, columns)]


class Bagel(nn.Module):
    """The unified model. Released files have other names for its weights: see hb.models.checkpoint.

    mot             the two experts and their attention
    latent          what stands between latent tokens and the generation expert: with it the generation branch
    markers         ids of (start, end, vision_start, vision_end), taken from the tokenizer. In BAGEL "start" and "end"
                    are <|im_start|> and <|im_end|>
    autoencoder     stands beside the model: its weights are in a file of their own (`ae.safetensors`)
    """

    def __init__(self, config: BagelConfig, markers: Sequence[int], autoencoder: Autoencoder | None = None):
        super().__init__()
        self.config, self.markers = config, tuple(markers)
        width = config.llm.hidden_size
        self.embed_tokens = adamw(nn.Embedding(config.llm.vocab_size, width))
        self.mot = MixtureOfTransformers(config.llm)
        self.lm_head = adamw(nn.Linear(width, config.llm.vocab_size, bias=False))
        self.vit_model = VisionTower(config.vision)
        self.connector = Connector(config.vision.hidden_size, width)
        self.vit_pos_embed = PositionTable(config.vision.side, width, config.interpolate_pos)
        self.latent_pos_embed = PositionTable(config.latent_side, width, config.interpolate_pos)
        self.latent = LatentInterface(config.latent_width, width)
        self.compiled = False  # True: layers run as one compiled graph; for training with fixed shapes
        # not a sub-module: it is saved apart and frozen once trained
        self.__dict__["autoencoder"] = autoencoder or Autoencoder(config.autoencoder)

    def _apply(self, fn, recurse=True):
        self.autoencoder._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        accept_released(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    @property
    def device(self) -> torch.device:
        return self.latent.input.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.latent.input.weight.dtype

    def generation_branch(self) -> tuple[nn.Module, ...]:
        """The modules that draw: what distillation copies, and all that it may change."""
        return self.mot.generation, self.latent

    def understanding_branch(self) -> tuple[nn.Module, ...]:
        """The modules that read and answer."""
        return self.embed_tokens, self.mot.understanding, self.lm_head, self.vit_model, self.connector

    # ---- embeddings -------------------------------------------------------------------------------------------------

    def embed_text(self, ids: Int[Tensor, "B n"]) -> Float[Tensor, "B n D"]:
        return self.embed_tokens(ids)

    def embed_markers(self, batch: int) -> Float[Tensor, "B 2 D"]:
        """<|vision_start|> and <|vision_end|>, which stand around every picture and belong to the understanding
        side."""
        ids = torch.tensor(self.markers[2:], device=self.device)
        return self.embed_text(ids).expand(batch, -1, -1)

    def embed_patches(self, patches: Float[Tensor, "B n pixels"], rows: int, columns: int) -> Float[Tensor, "B n D"]:
        """Patch vectors through the vision tower and connector, plus the position."""
        features = self.vit_model(patches.to(self.dtype), self.vit_pos_embed.rows_of(rows, columns))
        return self.connector(features) + self.vit_pos_embed(rows, columns)

    def embed_latent(self, tokens: Float[Tensor, "B n values"], t, rows: int, columns: int) -> Float[Tensor, "B n D"]:
        """Latent tokens at times t (0 for clean ones): projection + time + position, added, no adaptive norm."""
        return self.latent.embed(tokens, t) + self.latent_pos_embed(rows, columns)

    def grid_of(self, n: int) -> tuple[int, int]:
        """Rows and columns of a square picture of n tokens; other shapes are passed explicitly."""
        side = math.isqrt(n)
        if side * side != n:
            raise ValueError(f"{n} tokens do not make a square picture; pass grid=(rows, columns)")
        return side, side

    # ---- training: whole sequences ----------------------------------------------------------------------------------

    def forward(self, splits: Sequence[Split], hidden_gen: list | None = None) -> list[Tensor]:
        """For each split, the model's output there: text -> hidden states [B, n, D] (`logits` reads words from them),
        "noise" -> velocities [B, n, values], "vit" and "vae" -> hidden states of their tokens, markers left out.

        hidden_gen collects the states of all generation tokens, in the order of the splits (see `run_experts`).
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
        und = torch.cat(und, 1)
        gen = torch.cat(gen, 1) if gen else und[:, :0]
        at = positions(splits)[:, order]
        hidden, _ = self.mot(und, gen, at, mask, hidden_states=(None, hidden_gen), compiled=self.compiled)
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
                out.append(self.latent.output(part) if split.kind == "noise" else part)
                g += n
        return out

    def logits(self, hidden: Float[Tensor, "*any D"]) -> Float[Tensor, "*any V"]:
        return self.lm_head(hidden)

    # ---- inference: a prefix that grows -----------------------------------------------------------------------------

    def empty(self, batch: int) -> KVCache:
        """The cache of a prefix without tokens."""
        config = self.config.llm
        like = self.latent.input.weight
        return KVCache.with_room(
            config.num_hidden_layers, batch, config.num_key_value_heads, 0, config.head_size, like.detach()
        )

    def read_ids(
        self,
        cache: KVCache,
        ids: Int[Tensor, "B n"],
        length: Int[Tensor, "B"] | None = None,
        hidden_states: list | None = None,
    ) -> tuple[Float[Tensor, "B n D"], KVCache]:
        """Append token ids exactly as they are, causally. Rows shorter than n are padded at the end; say their length.

        Returns hidden states after the final norm, and the longer cache.
        """
        ids = ids.to(self.device)
        batch, n = ids.shape
        length = torch.full((batch,), n, device=self.device) if length is None else length.to(self.device)
        step = torch.arange(n, device=self.device)
        present = step < length[:, None]
        causal = (step[None, :] <= step[:, None]).expand(batch, -1, -1)
        mask = None
        if n > 1 or not cache.whole:
            mask = torch.cat([cache.visible[:, None].expand(-1, n, -1), causal & present[:, None]], dim=2)
            mask = (mask | _self_mask(n, cache.length, self.device))[:, None]
        at = cache.position[:, None] + step
        und = self.embed_text(ids)
        (hidden, _), new = self.mot(und, und[:, :0], at, mask, cache, hidden_states=(hidden_states, None))
        return hidden, cache.append(new, length, present)

    def read_text(
        self, cache: KVCache, texts: Sequence[Sequence[int]], hidden_states: list | None = None
    ) -> tuple[Float[Tensor, "B n D"], KVCache]:
        """Append one text per row, with <|im_start|> and <|im_end|> around it."""
        start, end = self.markers[:2]
        rows = [[start, *ids, end] for ids in texts]
        ids, length = pad_ids(rows, end)
        return self.read_ids(cache, ids, length, hidden_states)

    def see(
        self, cache: KVCache, pictures: Float[Tensor, "B 3 H W"], hidden_states: list | None = None
    ) -> tuple[Float[Tensor, "B n D"], KVCache]:
        """Append pictures in [-1, 1] as the vision tower encodes them. Returns hidden states of markers and patches."""
        patch = self.config.vision.patch_size
        rows, columns = pictures.shape[-2] // patch, pictures.shape[-1] // patch
        tokens = self.embed_patches(patchify(pictures.to(self.device), patch), rows, columns)
        markers = self.embed_markers(len(tokens))
        block = torch.cat([markers[:, :1], tokens, markers[:, 1:]], dim=1)
        (hidden, _), new = self._run_block(block, block[:, :0], cache, hidden_states=(hidden_states, None))
        return hidden, cache.append(new, 1)

    def read_latent(
        self, cache: KVCache, tokens: Float[Tensor, "B n values"], grid: tuple[int, int] | None = None
    ) -> KVCache:
        """Append clean latent tokens (t = 0) as a condition. Nothing uses their hidden states, so none are returned."""
        grid = grid or self.grid_of(tokens.size(1))
        t = torch.zeros(len(tokens), device=self.device)
        gen = self.embed_latent(tokens.to(self.device), t, *grid)
        _, new = self._run_block(self.embed_markers(len(tokens)), gen, cache)
        return cache.append(new, 1)

    def velocity(
        self, x: Float[Tensor, "B n values"], t: Float[Tensor, "B"], cache: KVCache, grid: tuple[int, int] | None = None
    ) -> Float[Tensor, "B n values"]:
        """The velocity eps - x0 expected at noisy tokens x and times t, given the prefix. The cache is not changed.

        One call is one function evaluation for each row.
        """
        return branch_velocity(self, self.mot.generation, self.latent, x, t, cache, grid, compiled=self.compiled)

    def _run_block(self, und: Tensor, gen: Tensor, cache: KVCache, **options):
        """A picture block, all of whose tokens attend to the whole prefix and to each other."""
        at = cache.position[:, None].expand(-1, und.size(1) + gen.size(1))
        return self.mot(und, gen, at, block_mask(cache, at.size(1)), cache, compiled=self.compiled, **options)

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
            weights = next(self.autoencoder.parameters())
            z = self.autoencoder.encode(pictures.to(weights.device, weights.dtype), generator, sample)
        return patchify(z, self.config.latent_patch)

    def decode(
        self, tokens: Float[Tensor, "B n values"], grid: tuple[int, int] | None = None, decoder: nn.Module | None = None
    ) -> Tensor:
        """Latent tokens to pictures in [-1, 1], not clamped. decoder: instead of the autoencoder's own."""
        rows, columns = grid or self.grid_of(tokens.size(1))
        z = unpatchify(tokens, self.config.latent_patch, rows, columns)
        return self.autoencoder.decode(z.to(next(self.autoencoder.parameters()).dtype), decoder)


def branch_velocity(
    base: Bagel,
    expert: Expert,
    latent: LatentInterface,
    x: Float[Tensor, "B n values"],
    t: Float[Tensor, "B"],
    cache: KVCache,
    grid: tuple[int, int] | None = None,
    *,
    text_scale: Tensor | None = None,
    image_scale: Tensor | None = None,
    hidden_states: list | None = None,
    compiled: bool = False,
) -> Float[Tensor, "B n values"]:
    """The velocity that a generation branch (expert and latent) gives behind a prefix that `base` has read.

    A teacher and its students differ in the branch alone. hidden_states collects the latent tokens' states.
    """
    grid = grid or base.grid_of(x.size(1))
    gen = latent.embed(x, t, text_scale, image_scale) + base.latent_pos_embed(*grid)
    und = base.embed_markers(len(x))
    at = cache.position[:, None].expand(-1, und.size(1) + gen.size(1))
    (_, hidden), _ = run_experts(
        (base.mot.understanding, expert),
        (und, gen),
        at,
        block_mask(cache, at.size(1)),
        cache,
        (None, hidden_states),
        compiled,
    )
    return latent.output(hidden)


def block_mask(cache: KVCache, n: int) -> Bool[Tensor, "B 1 n P"] | None:
    """What n tokens of a picture may attend to: all real tokens of the prefix, and each other. None: everything."""
    if cache.whole:
        return None
    own = torch.ones(cache.batch, n, dtype=torch.bool, device=cache.position.device)
    return torch.cat([cache.visible, own], 1)[:, None, None].expand(-1, -1, n, -1)


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
