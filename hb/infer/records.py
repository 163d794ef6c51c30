"""What `draw`, `edit` and `ask` give back: pictures or texts, with the metered cost."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import torch
from PIL import Image
from torch import Tensor

from hb.infer.speculative.decode import VerifyStep
from hb.pictures import to_image


class Clock:
    """Seconds by part. Synchronizes CUDA so that the measured time includes queued kernels."""

    def __init__(self, device: torch.device):
        self.device, self.seconds = device, {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - began


@dataclass(frozen=True)
class Pictures:
    """Drawn or edited pictures and what they cost.

    pixels    [B, 3, H, W] in [0, 1]; where the pictures of one call differ in size, a tuple of [3, H, W]
    nfe       metered function evaluations per picture
    seconds   by part, for the whole call
    latent    [B, n, values], or a tuple like pixels
    student   which one drew, None for the teacher
    """

    pixels: Tensor | tuple[Tensor, ...] = field(repr=False)
    prompts: tuple[str, ...]
    nfe: float
    steps: int
    seconds: dict[str, float]
    seeds: tuple[int, ...]
    latent: Tensor | tuple[Tensor, ...] = field(repr=False, default=None)
    student: str | None = None

    @property
    def images(self) -> list[Image.Image]:
        """PIL images, truncated to bytes as the published code does."""
        return [to_image(p * 2 - 1, truncate=True) for p in self.pixels]

    @property
    def image(self) -> Image.Image:
        """The first picture."""
        return self.images[0]

    def sheet(self, columns: int = 8, zoom: int = 1) -> Image.Image:
        """All pictures side by side, each in a cell of the largest one's size."""
        images = self.images
        w, h = (max(image.size[i] for image in images) for i in (0, 1))
        columns = min(columns, len(images))
        out = Image.new("RGB", (columns * w, -(-len(images) // columns) * h), "white")
        for i, image in enumerate(images):
            out.paste(image, (i % columns * w, i // columns * h))
        return out.resize((out.width * zoom, out.height * zoom), Image.Resampling.NEAREST)

    def to_dict(self) -> dict:
        """Everything but the pictures, ready for JSON."""
        return dict(
            prompts=list(self.prompts),
            nfe=self.nfe,
            steps=self.steps,
            seconds=self.seconds,
            seeds=list(self.seeds),
            student=self.student,
        )

    def _repr_png_(self) -> bytes:
        side = self.pixels[0].shape[-1]
        out = io.BytesIO()
        self.sheet(zoom=max(1, round(128 / side))).save(out, "png")
        return out.getvalue()


@dataclass(frozen=True)
class Answers:
    """Answers to questions about pictures, and what they cost.

    tokens   of the longest answer, its end marker included where there is one; never more than `max_tokens`
    passes   of the target; for pictures of several sizes, of all groups together
    cycles   with a draft model, what each pass gave
    seed     of the generator of all rows, which greedy answers do not use
    """

    texts: tuple[str, ...]
    questions: tuple[str, ...]
    tokens: int
    passes: int
    seconds: dict[str, float]
    cycles: tuple[VerifyStep, ...] = field(default=(), repr=False)
    seed: int = 0

    @property
    def text(self) -> str:
        """The first answer."""
        return self.texts[0]

    @property
    def acceptance_length(self) -> float:
        """tau: tokens that a pass of the target gave a row, its own included. Plain decoding gives 1."""
        kept = [k for cycle in self.cycles for k in cycle.kept]
        return sum(kept) / len(kept) if kept else 1.0

    def to_dict(self) -> dict:
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join(self.texts)


def joined(parts: Sequence[Tensor], order: Sequence[int]) -> Tensor | tuple[Tensor, ...]:
    """Batches of equal shapes, put back into the order of the call: one tensor, or a tuple if the shapes differ.

    order: of each row of the batches, one after the other, its place in the call.
    """
    if len(parts) == 1 and list(order) == list(range(len(order))):
        return parts[0]
    rows = dict(zip(order, (row for part in parts for row in part)))
    rows = [rows[i] for i in range(len(order))]
    return torch.stack(rows) if len({row.shape for row in rows}) == 1 else tuple(rows)
