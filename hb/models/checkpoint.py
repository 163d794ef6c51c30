"""Model folders, ours and the released one: read, check, name what is wrong; never half-load.

A folder holds `ema.safetensors`, `ae.safetensors`, `llm_config.json`, `vit_config.json` and tokenizer files, as
released; ours also `vae_config.json`, `bagel_config.json`, `sampling.json` and `provenance.json`.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hb.files import write_tensors
from hb.models.autoencoder import Autoencoder
from hb.models.bagel import Bagel
from hb.models.config import BagelConfig
from hb.models.tokenizer import Text

WEIGHTS, AUTOENCODER = "ema.safetensors", "ae.safetensors"


class CheckpointError(ValueError):
    """A model folder or file that cannot be loaded, with what is wrong in words."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file. Truncated or foreign files are named as such."""
    if not path.is_file():
        raise CheckpointError(f"{path.parent} has no {path.name}; is it a whole model folder?")
    try:
        with safe_open(path, framework="pt") as f:
            return {key: f.get_tensor(key) for key in f.keys()}
    except SafetensorError as error:
        raise CheckpointError(
            f"{path.name} is not a whole safetensors file ({error}); it may be truncated: copy or fetch it again"
        ) from None


def check(found: dict[str, Tensor], wanted: dict[str, torch.Size], where: str) -> None:
    """Raise CheckpointError unless names and shapes are the same; says which differ."""
    missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    wrong = [k for k in wanted if k in found and found[k].shape != wanted[k]]
    complaints = []
    if missing:
        complaints.append(f"it lacks {_some(missing)}" + _hint(missing))
    if extra:
        complaints.append(f"it holds {_some(extra)}, which this model does not have")
    if wrong:
        k = wrong[0]
        complaints.append(
            f"{k} has shape {list(found[k].shape)} where the config asks for {list(wanted[k])}"
            + (f" (and {len(wrong) - 1} more of the wrong shape)" if len(wrong) > 1 else "")
        )
    if complaints:
        raise CheckpointError(f"{where} does not fit its config: " + "; ".join(complaints))


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _hint(missing: list[str]) -> str:
    if all(k.startswith(("vit_model.", "connector.", "vit_pos_embed.")) for k in missing):
        return " (the whole vision side: was it trained without understanding?)"
    return ""


def save_model(model: Bagel, folder: str | Path, text: Text | None = None, dtype: torch.dtype | None = None) -> None:
    """Write the released form. dtype: the type stored (float16 halves the files); None keeps each weight's own.

    Files are written aside and renamed, so an interrupted save leaves the old ones whole.
    """
    folder = Path(folder)
    for name, weights in ((WEIGHTS, model.state_dict()), (AUTOENCODER, model.autoencoder.released_state_dict())):
        stored = {k: v.detach().cpu().to(dtype or v.dtype).contiguous() for k, v in weights.items()}
        write_tensors(folder / name, stored, {"format": "pt"})
    model.config.save(folder)
    if text is not None:
        text.save(folder)


def load_model(
    folder: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Bagel, Text | None]:
    """The model of a folder and its tokenizer (None where the folder has none and `token_ids.json` says the markers).

    Everything is checked before any weight is put in place. Raises CheckpointError, FileNotFoundError or ValueError
    with a sentence on what is wrong.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"there is no model folder {folder}; give a folder or one of the shipped names")
    config = BagelConfig.load(folder)
    text, markers = _markers(folder)
    with torch.device("meta"):
        model = Bagel(config, markers, Autoencoder(config.autoencoder))
    weights, pictures = read_weights(folder / WEIGHTS), read_weights(folder / AUTOENCODER)
    check(weights, {k: v.shape for k, v in model.state_dict().items()}, WEIGHTS)
    check(pictures, model.autoencoder.expected_shapes(), AUTOENCODER)
    model = model.to_empty(device=device).to(dtype)
    model.load_state_dict(weights)
    model.autoencoder.load_released(pictures)
    model.autoencoder.requires_grad_(False)
    model.autoencoder.eval()
    return model.eval(), text


def _markers(folder: Path) -> tuple[Text | None, tuple[int, int, int, int]]:
    if (folder / "token_ids.json").is_file() and not (folder / "tokenizer.json").is_file():
        ids = json.loads((folder / "token_ids.json").read_text())
        return None, tuple(ids[k] for k in ("bos_token_id", "eos_token_id", "start_of_image", "end_of_image"))
    text = Text.load(folder)
    return text, (text.start, text.end, text.vision_start, text.vision_end)
