"""The pool of a run: made once, with the run's autoencoder and vision encoder, and found again by its next session."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from hb.data.mixes import DRAW_MIX
from hb.data.own_pictures import OwnPictures
from hb.data.pool import Pool, make_pool
from hb.files import alone_in
from hb.infer.artifacts import fingerprint
from hb.models.autoencoder import Autoencoder
from hb.models.tokenizer import Text
from hb.models.vision import VisionTower, patchify, table_rows
from hb.seeding import seeded_generator
from hb.train.trainer import precision_of


def pool_for(
    autoencoder: Autoencoder,
    text: Text,
    path: Path,
    *,
    side: int,
    prompts: int,
    scenes: int,
    seed: int = 0,
    precision: str = "auto",
    device: str = "cpu",
    vision_encoder: VisionTower | None = None,
    square: int | None = None,
    mix: Mapping[str, float] = DRAW_MIX,
    own: OwnPictures | None = None,
) -> Pool:
    """The pool at `path`, made first if it is not there or was made of something else.

    Of several processes that ask for it one makes it, and the others wait. vision_encoder: its features are in the pool
    too, one for each square of so many pixels. mix: see `make_pool`. own: pictures in the place of the tiny world, of
    which `prompts`, `scenes` and `mix` speak.
    """
    path = Path(path)
    # not precision, which "auto" finds by timing: a run that goes on must find its pool
    made_of = dict(
        encoder=fingerprint(autoencoder.encoder),
        scale=autoencoder.config.scale_factor,
        shift=autoencoder.config.shift_factor,
        eyes=vision_encoder and fingerprint(vision_encoder),  # the name in pools that are there already
        square=square,
        side=side,
        tokenizer=text.fingerprint(),
        prompts=prompts,
        scenes=scenes,
        seed=seed,
        mix=dict(mix),
        data=own and own.fingerprint(),
    )
    with alone_in(path.parent):
        if path.exists():
            complaint = _what_differs(Pool.made_of(path), made_of)
            if complaint is None:
                return Pool.load(path)
            print(f"{path.name} {complaint}: it is made anew", file=sys.stderr)
        encode = _encode_with(autoencoder, device, precision, seeded_generator(seed, 11))
        see = vision_encoder and _see_with(vision_encoder, square)
        # on a CPU encoding takes what cores there are
        workers = 0 if device == "cpu" else min(12, (os.cpu_count() or 1) - 1)
        world = dict(side=side, prompts=prompts, scenes=scenes, seed=seed, workers=workers, mix=mix)
        pool = own.pool(encode, text, see=see) if own else make_pool(encode, text, see=see, **world)
        pool.save(path, made_of)
    return pool


def _encode_with(autoencoder: Autoencoder, device: str, precision: str, generator) -> Callable[[Tensor], Tensor]:
    autoencoder = autoencoder.to(device).eval()
    fast, kind = precision_of(precision) == "bf16-mixed", torch.device(device).type

    @torch.no_grad()
    def encode(pictures: Tensor) -> Tensor:
        out = []
        for part in pictures.split(128 if kind == "cpu" else 1024):
            part = (part * 2 - 1).to(device, memory_format=torch.channels_last)
            with torch.autocast(kind, torch.bfloat16, enabled=fast):
                out.append(autoencoder.encode(part, generator).float().cpu())
        return torch.cat(out)

    return encode


def _see_with(encoder: VisionTower, square: int) -> Callable[[Tensor], Tensor]:
    @torch.no_grad()
    def see(pictures: Tensor) -> Tensor:
        return torch.cat([features_of(encoder, part * 2 - 1, square) for part in pictures.split(128)])

    return see


def features_of(encoder: VisionTower, pictures: Tensor, square: int) -> Tensor:
    """Features of pictures in [-1, 1], the mean over each square of so many pixels: [B, squares, width], row by row."""
    patch, (height, width) = encoder.config.patch_size, pictures.shape[-2:]
    rows, columns = height // patch, width // patch
    features = encoder(patchify(pictures, patch), table_rows(rows, columns, encoder.config.side))
    features = features.mT.unflatten(-1, (rows, columns))
    return F.adaptive_avg_pool2d(features, (height // square, width // square)).flatten(-2).mT


def _what_differs(found: dict | None, asked: dict) -> str | None:
    """The first thing, in words."""
    if found is None:
        return "does not say what it was made of"
    return next((f"was made with {k} {found.get(k)}, not {asked[k]}" for k in asked if found.get(k) != asked[k]), None)
