"""Sheets: the same few pictures again and again while a network is trained, to see a run go right or wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image
from torch import Tensor

from hb.data.own_pictures import OwnPictures
from hb.files import aside
from hb.flow import time_grid
from hb.guidance import DRAWING, EDITING, Guidance
from hb.infer.image import Contexts, noise, sample
from hb.models.bagel import Bagel
from hb.models.tokenizer import Text
from hb.pictures import to_image
from hb.train.loggers import is_due
from hb.world.render import render
from hb.world.scene import Scene, Thing, sample_any

DRAWN = (
    "a red circle",
    "two yellow stars",
    "a blue square left of a green triangle",
    "a purple moon and an orange heart",
    "three green rings",
)
CHANGED = Scene((Thing("circle", "red", "large", 0.3, 0.3), Thing("square", "blue", "small", 0.72, 0.68)), "white")
CHANGES = (
    "remove the circle",
    "make the square green",
    "replace the circle with a star",
    "change the background to black",
)


class SheetEvery(Callback):
    """Every `every` steps and at the last, the picture that `draw` makes of the network, as sheet-000500.png in the
    run's folder.

    Weights and random numbers of the run stay the same: `draw` has generators of its own.
    """

    def __init__(self, folder: Path, every: int):
        self.folder, self.every = Path(folder), every

    def draw(self, module: L.LightningModule) -> Image.Image:
        raise NotImplementedError

    def on_train_batch_end(self, trainer, module, *_):
        if is_due(trainer, self.every):
            with aside(self.folder / f"sheet-{trainer.global_step:06}.png") as part:
                self.draw(module).save(part, "png")


class TeacherSheet(SheetEvery):
    """A row of drawings of DRAWN; a row of CHANGED, as it is given, and each of CHANGES made in it. Always from the
    same noise.

    own: in the place of the tiny world's, the first few of these captions and edits.

    By the weights as they stand; the run ends with their average, which draws better until the rate has come down.
    """

    def __init__(self, folder: Path, text: Text, every: int = 500, steps: int = 12, own: OwnPictures | None = None):
        super().__init__(folder, every)
        drawn, changes = DRAWN, CHANGES
        if own:
            edits = own.edits[: len(CHANGES)]
            drawn, changes = [c.text for c in own.captions[: len(DRAWN)]], [e.instruction for e in edits]
            self.given = own.pixels([e.image for e in edits]) * 2 - 1
        self.own, self.size = own is not None, tuple(own.pictures.shape[1:3]) if own else None
        self.prompts, self.changes = ([text.encode(words) for words in asked] for asked in (drawn, changes))
        self.grid = time_grid(steps, 3.0)

    @torch.no_grad()
    @torch.compiler.set_stance("force_eager")  # five pictures are a shape of their own
    def draw(self, module: L.LightningModule) -> Image.Image:
        model, side = module.model, module.model.config.picture_side
        size = self.size or (side, side)
        given = self.given if self.own else render([CHANGED], side) * 2 - 1
        rows = [self._drawn(model, size)] if self.prompts else []
        edited = [self._edited(model, given, size)] if self.changes else []
        rows += [given, *edited] if self.own and edited else [torch.cat([given, *edited])] if edited else []
        return tiled(rows)

    def _drawn(self, model: Bagel, size: tuple[int, int]) -> Tensor:
        nothing = model.empty(len(self.prompts))
        _, full = model.read_text(nothing, self.prompts)
        return self._sampled(model, Contexts(full, no_text=nothing), DRAWING, size)

    def _edited(self, model: Bagel, given: Tensor, size: tuple[int, int]) -> Tensor:
        given = given.expand(len(self.changes), -1, -1, -1)
        nothing = model.empty(len(given))
        latent = model.read_latent(nothing, model.encode(given, sample=False), model.latent_grid(*size))
        _, seen = model.see(latent, given)
        (_, full), (_, no_image) = (model.read_text(before, self.changes) for before in (seen, nothing))
        return self._sampled(model, Contexts(full, no_text=seen, no_image=no_image), EDITING, size)

    def _sampled(self, model: Bagel, contexts: Contexts, guidance: Guidance, size: tuple[int, int]) -> Tensor:
        rows, columns = model.latent_grid(*size)
        x = noise(contexts.full.batch, rows * columns, model.config.latent_width, seed=0)
        *_, (_, x) = sample(model, contexts, x, self.grid, guidance, shape=(rows, columns))
        return model.decode(x, (rows, columns)).clamp(-1, 1).cpu()


class AutoencoderSheet(SheetEvery):
    """A row of pictures that no step trains on, and below each what becomes of it; the latents are means, without
    noise. pictures: where they come from instead, a function of number, step and rank."""

    def __init__(
        self,
        folder: Path,
        side: int,
        pictures: Callable[[int, int, int], Tensor] | None = None,
        every: int = 500,
        count: int = 8,
    ):
        super().__init__(folder, every)
        world = lambda: render(sample_any(count, np.random.default_rng(0)), side) * 2 - 1
        self.pictures = pictures(count, 0, 0) if pictures else world()

    @torch.no_grad()
    def draw(self, module: L.LightningModule) -> Image.Image:
        mean, _ = module.autoencoder.moments(self.pictures.to(module.device))
        return tiled([self.pictures, module.autoencoder.decoder(mean).clamp(-1, 1).cpu()])


def tiled(rows: list[Tensor]) -> Image.Image:
    """Rows of pictures [B, 3, H, W] in [-1, 1] as one image."""
    wide = [torch.cat(list(row), dim=-1) for row in rows]
    most = max(w.size(-1) for w in wide)
    padded = [torch.nn.functional.pad(w, (0, most - w.size(-1)), value=1.0) for w in wide]
    return to_image(torch.cat(padded, dim=-2))
