"""Weights that a training run begins with: a whole model, an autoencoder, a vision encoder."""

from __future__ import annotations

import json
from pathlib import Path

from hb.cli.use import folder_of
from hb.infer.artifacts import fingerprint
from hb.models.autoencoder import Autoencoder, AutoencoderConfig
from hb.models.checkpoint import AUTOENCODER, WEIGHTS, CheckpointError, check, load_model, read_weights
from hb.models.config import BagelConfig
from hb.models.vision import VisionTower

VISION, OLD_VISION = "vision.safetensors", "eyes.safetensors"  # the second is the name of an earlier release


def model_folder(name: str) -> Path:
    folder = folder_of(name)
    if not (folder / WEIGHTS).exists():
        raise CheckpointError(f"{name} is no model to start from: there is no {folder / WEIGHTS}")
    return folder


def load_autoencoder(folder: Path) -> Autoencoder:
    """From a folder with ae.safetensors and vae_config.json: what `hb train autoencoder` leaves, or a model folder."""
    if not (folder / AUTOENCODER).is_file() or not (folder / "vae_config.json").is_file():
        raise CheckpointError(f"there is no autoencoder in {folder}; train one first: hb train autoencoder")
    values = json.loads((folder / "vae_config.json").read_text())
    values = {k: v for k, v in values.items() if k in AutoencoderConfig.__dataclass_fields__}
    loaded = Autoencoder(AutoencoderConfig(**values | dict(ch_mult=tuple(values["ch_mult"]))))
    weights = read_weights(folder / AUTOENCODER)
    check(weights, {k: v.shape for k, v in loaded.state_dict().items()}, AUTOENCODER)
    loaded.load_state_dict({k: v.float() for k, v in weights.items()})
    return loaded.eval()


def load_vision(folder: Path, config: BagelConfig) -> VisionTower:
    """The vision encoder that `hb train vision` leaves in its folder."""
    name = next((name for name in (VISION, OLD_VISION) if (folder / name).is_file()), None)
    if name is None:
        raise CheckpointError(f"there is no vision encoder in {folder}; train one first: hb train vision")
    tower, weights = VisionTower(config.vision), read_weights(folder / name)
    check(weights, {k: v.shape for k, v in tower.state_dict().items()}, name)
    tower.load_state_dict(weights)
    return tower.eval()


def autoencoder_for(args, start: Path | None, own: Path) -> Autoencoder:
    """The one that was named; else that of the model begun with, which was trained on it; else the run's own."""
    if args.autoencoder:
        return load_autoencoder(folder_of(args.autoencoder))
    return load_model(start)[0].autoencoder if start else load_autoencoder(own / "autoencoder")


def check_only_answers(start: Path | None, pictures: Autoencoder, vision: VisionTower | None) -> None:
    """Raises ValueError if a run that is to teach answers alone would change something else."""
    if not start:
        raise ValueError(
            "--learns answers is for the last layer of a trained model: say which with --start-from FOLDER"
        )
    begun = load_model(start)[0]
    for option, given, own in (("--autoencoder", pictures, begun.autoencoder), ("--vision", vision, begun.vit_model)):
        if given is not None and fingerprint(given) != fingerprint(own):
            raise ValueError(
                f"--learns answers leaves the rest of {start} as it is, and {option} brings another; leave {option} out"
            )
