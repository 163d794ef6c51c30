"""Does training on a folder of real drawings lower the loss on drawings that were held back? A few minutes on one core.

    python -m tests.data.try_folder FOLDER [RUN]

Prints losses before and after, and 95% intervals of the difference: paired bootstrap over groups of pictures (edits
connect the pictures of a group, so these are not independent). Writes RUN/sheet.png.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from hb.data.batches import BatchSizes
from hb.data.folder import read_folder
from hb.data.own_pictures import OwnPictures, connected
from hb.infer.pipeline import Model
from hb.models.bagel import Bagel
from hb.models.config import NANO
from hb.models.initialize import initialize
from hb.models.tokenizer import Text
from hb.seeding import seeded_generator
from hb.train.sheets import tiled
from hb.train.teacher import AutoencoderTraining, TeacherTraining, train_autoencoder, train_teacher
from tests.conftest import TOKENIZER

HELD, SEED = 50, 0
STEPS, BATCH = dict(autoencoder=250, teacher=250), dict(autoencoder=8, teacher=BatchSizes(4, 3, 2))
CONFIG = replace(  # smaller than nano: minutes on a core that others share
    NANO,
    llm=replace(NANO.llm, hidden_size=64, num_hidden_layers=3, intermediate_size=176),
    vision=replace(NANO.vision, hidden_size=64, num_hidden_layers=2, intermediate_size=192),
    autoencoder=replace(NANO.autoencoder, ch=8, ch_mult=(1, 2, 2, 2), norm_groups=2),
)
RUN = dict(bar=False, accelerator="cpu", precision="f32")


def main(folder: str, run: Path) -> None:
    text = Text.load(TOKENIZER)
    own = read_folder(folder, size=(64, 64), text=text)
    kept, held = own.hold_back(HELD, SEED)
    print(f"{folder}: {own}\ntrained on: {kept}\nheld back: {held}", flush=True)
    began = time.monotonic()
    torch.manual_seed(SEED)
    before = AutoencoderTraining(replace(CONFIG.autoencoder, scale_factor=1.0, shift_factor=0.0), total=1).autoencoder
    torch.manual_seed(SEED)
    autoencoder = train_autoencoder(
        run / "autoencoder",
        CONFIG,
        steps=STEPS["autoencoder"],
        batch=BATCH["autoencoder"],
        lr=0.008,
        seed=SEED,
        pictures=lambda n, step, rank: kept.random_pictures(n, SEED, step, rank),
        **RUN,
    )
    start, end = ([painted(a, held, name) for name in held.names] for a in (before, autoencoder))
    report("autoencoder, error of pixels (L1)", start, end, list(held.names), held)
    print(f"{time.monotonic() - began:.0f} s", flush=True)

    config = replace(CONFIG, autoencoder=autoencoder.config)
    fresh = Bagel(config, (text.start, text.end, text.vision_start, text.vision_end), autoencoder)
    initialize(fresh, torch.Generator().manual_seed(SEED))
    settings = dict(compiled=False, lr=0.014)
    trained = train_teacher(
        run / "teacher",
        config,
        autoencoder,
        text,
        steps=STEPS["teacher"],
        sizes=BATCH["teacher"],
        seed=SEED,
        own=kept,
        settings=settings,
        **RUN,
    )
    print(f"{time.monotonic() - began:.0f} s", flush=True)
    encode = lambda pictures: trained.autoencoder.encode(pictures * 2 - 1, sample=False).detach()
    pool = held.pool(encode, text)
    for task, names in (("draw", [c.image for c in held.captions]), ("edit", [e.edited for e in held.edits])):
        start, end = (velocity_errors(model, pool, task) for model in (fresh, trained))
        report(f"teacher, {task}: error of velocities (mean square)", start, end, names, held)
    write_sheet(run / "sheet.png", held, autoencoder, Model(trained.eval(), text))
    print(f"{time.monotonic() - began:.0f} s in all", flush=True)


@torch.no_grad()
def painted(autoencoder, own: OwnPictures, name: str) -> float:
    pixels = own.pixels([name]) * 2 - 1
    return float((autoencoder.eval().decoder(autoencoder.moments(pixels)[0]) - pixels).abs().mean())


@torch.no_grad()
def velocity_errors(model: Bagel, pool, task: str, draws: int = 3) -> list[float]:
    """Of each row, over several noises and times, the same for every model."""
    training = TeacherTraining(model, total=1, drop_text=0.0, drop_pictures=0.0, drop_view=0.0)
    loss, names = (training.draw_loss, pool.DRAW) if task == "draw" else (training.edit_loss, pool.EDIT)
    count = pool.prompts if task == "draw" else pool.edits
    error = lambda i, k: float(loss(pool.rows(names, torch.tensor([i])), seeded_generator(SEED, i, k))[0])
    return [float(np.mean([error(i, k) for k in range(draws)])) for i in range(count)]


def report(what: str, start: list[float], end: list[float], names: list[str], own: OwnPictures) -> None:
    """Mean before and after, and the interval of their difference."""
    group = {name: i for i, names_ in enumerate(connected(own.names, own.edits)) for name in names_}
    units = np.unique([group[name] for name in names], return_inverse=True)[1]
    change = np.array(end) - np.array(start)
    totals, counts = np.bincount(units, change), np.bincount(units)
    rows = np.random.default_rng(0).integers(0, len(totals), (10_000, len(totals)))
    low, high = np.quantile(totals[rows].sum(1) / counts[rows].sum(1), (0.025, 0.975))
    print(
        f"{what}: {np.mean(start):.4f} -> {np.mean(end):.4f}, change {change.mean():.4f} ({low:.4f} to {high:.4f}), "
        f"n = {len(names)} in {len(totals)} groups",
        flush=True,
    )


@torch.no_grad()
def write_sheet(path: Path, held: OwnPictures, autoencoder, model: Model, columns: int = 6) -> None:
    """Held-back pictures and what the autoencoder makes of them; held-back edits: given, made, right; drawings of
    held-back captions."""
    shown = held.pixels([c.image for c in held.captions[:columns]]) * 2 - 1
    back = autoencoder.decoder(autoencoder.moments(shown)[0]).clamp(-1, 1)
    edits = held.edits[:columns]
    given, right = (held.pixels([getattr(e, side) for e in edits]) * 2 - 1 for side in ("image", "edited"))
    made = model.edit(given / 2 + 0.5, [e.instruction for e in edits], steps=12, seed=0).pixels * 2 - 1
    drawn = model.draw([c.text for c in held.captions[:columns]], steps=12, seed=0).pixels * 2 - 1
    tiled([shown, back, drawn, given, made, right]).quantize(128).save(path, optimize=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], Path(sys.argv[2] if len(sys.argv) > 2 else "runs/own-pictures"))
