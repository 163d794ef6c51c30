"""Model folders, ours and the released one: names, files, checks. Nothing is half-loaded.

A folder holds `ema.safetensors`, `ae.safetensors`, `llm_config.json`, `vit_config.json` and tokenizer files, as
released; ours also `vae_config.json`, `bagel_config.json`, `sampling.json` and `provenance.json`. Large weights may be
in shards with an index, as `transformers` writes them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hb.files import write_tensors
from hb.models.autoencoder import Autoencoder
from hb.models.bagel import Bagel
from hb.models.config import BagelConfig
from hb.models.names import from_released, released_weights
from hb.models.tokenizer import Text

WEIGHTS, AUTOENCODER = "ema.safetensors", "ae.safetensors"


class CheckpointError(ValueError):
    """A model folder or file that cannot be loaded, with what is wrong in words."""


# ---- files ----------------------------------------------------------------------------------------------------------


class WeightFiles:
    """The tensors of a safetensors file, or of its shards, one at a time. Nothing is read before it is asked for:
    tensors are views of the file, mapped into memory.

    Raises CheckpointError for a missing, truncated or foreign file.
    """

    def __init__(self, path: Path):
        self.path, self._stack, self._file_of = Path(path), ExitStack(), {}
        try:
            for part in _shards(self.path):
                file = self._stack.enter_context(safe_open(part, framework="pt"))
                self._file_of |= dict.fromkeys(file.keys(), file)
        except SafetensorError as error:
            self.close()
            raise CheckpointError(
                f"{part.name} is not a whole safetensors file ({error}); it may be truncated: copy or fetch it again"
            ) from None

    def __enter__(self) -> WeightFiles:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()

    def shapes(self) -> dict[str, torch.Size]:
        return {name: torch.Size(file.get_slice(name).get_shape()) for name, file in self._file_of.items()}

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, file.get_tensor(name)) for name, file in self._file_of.items())


def _shards(path: Path) -> list[Path]:
    """The file itself; or what `NAME.index.json` beside it, or a `*.index.json` of the folder, lists."""
    if path.is_file():
        return [path]
    indices = [path.with_name(path.name + ".index.json")]
    if path.name == WEIGHTS:
        indices += sorted(path.parent.glob("*.safetensors.index.json"))
    for index in indices:
        if index.is_file():
            try:
                names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            except (ValueError, KeyError, AttributeError) as error:
                raise CheckpointError(
                    f"{index.name} is not an index of shards ({error!r}); fetch or copy it again"
                ) from None
            parts = [path.parent / name for name in names]
            missing = [part.name for part in parts if not part.is_file()]
            if missing:
                raise CheckpointError(
                    f"{index.name} lists {_some(missing)}, which {path.parent} does not hold; fetch them too"
                )
            return parts
    raise CheckpointError(f"{path.parent} has no {path.name}; is it a whole model folder?")


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a small safetensors file."""
    with WeightFiles(path) as weights:
        return {name: value.clone() for name, value in weights}


def check(found: Mapping[str, Tensor | torch.Size], expected: Mapping[str, torch.Size], where: str) -> None:
    """Raise CheckpointError unless names and shapes are the same; says which differ."""
    shape = lambda value: getattr(value, "shape", value)
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    wrong = [k for k in expected if k in found and shape(found[k]) != expected[k]]
    complaints = []
    if missing:
        complaints.append(f"it lacks {_some(missing)}" + _hint(missing, expected))
    if extra:
        complaints.append(f"it holds {_some(extra)}, which this model does not have")
    if wrong:
        k = wrong[0]
        complaints.append(
            f"{k} has shape {list(shape(found[k]))} where the config asks for {list(expected[k])}"
            + (f" (and {len(wrong) - 1} more of the wrong shape)" if len(wrong) > 1 else "")
        )
    if complaints:
        raise CheckpointError(f"{where} does not fit its config: " + "; ".join(complaints))


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _hint(missing: list[str], expected: Mapping[str, object]) -> str:
    vision = {k for k in expected if k.startswith(("vit_model.", "connector.", "vit_pos_embed."))}
    if vision and vision <= set(missing):
        return " (the whole vision side: was it trained without understanding?)"
    return ""


# ---- models ---------------------------------------------------------------------------------------------------------


def _remove_shards(folder: Path) -> None:
    """Remove the shards and indices of an earlier save: the weights are in one file now, and nothing reads them."""
    for index in folder.glob("*.safetensors.index.json"):
        try:
            parts = set(json.loads(index.read_text())["weight_map"].values())
        except (ValueError, KeyError, AttributeError):
            parts = set()
        for name in parts:
            if Path(name).name == name and name not in (WEIGHTS, AUTOENCODER):
                (folder / name).unlink(missing_ok=True)
        index.unlink()


def save_model(model: Bagel, folder: str | Path, text: Text | None = None, dtype: torch.dtype | None = None) -> None:
    """Write the released form. dtype: the type stored (float16 halves the files); None keeps each weight's own.

    Files are written aside and renamed, so an interrupted save leaves the old ones whole. Shards of an earlier save,
    and their index, are removed.
    """
    folder = Path(folder)
    for name, weights in ((WEIGHTS, released_weights(model)), (AUTOENCODER, model.autoencoder.state_dict())):
        stored = {k: v.detach().cpu().to(dtype or v.dtype).contiguous() for k, v in weights.items()}
        write_tensors(folder / name, stored, {"format": "pt"})
    _remove_shards(folder)
    model.config.save(folder)
    if text is not None:
        text.save(folder)


def load_model(
    folder: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Bagel, Text | None]:
    """The model of a folder and its tokenizer (None where the folder has none and `token_ids.json` says the markers).

    Everything is checked before any weight is put in place. Weights go one by one from the file to their device and
    type: a model needs little more memory than it has weights. Raises CheckpointError, FileNotFoundError or ValueError
    with a sentence on what is wrong.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"there is no model folder {folder}; give a folder or one of the shipped names")
    config = BagelConfig.load(folder)
    text, markers = _markers(folder)
    with torch.device("meta"), NotInitialized():
        model = Bagel(config, markers, Autoencoder(config.autoencoder))
    with WeightFiles(folder / WEIGHTS) as weights, WeightFiles(folder / AUTOENCODER) as pictures:
        check(weights.shapes(), {k: v.shape for k, v in released_weights(model).items()}, WEIGHTS)
        check(pictures.shapes(), {k: v.shape for k, v in model.autoencoder.state_dict().items()}, AUTOENCODER)
        for name, value in weights:
            put(model, from_released(name), value, device, dtype)
        for name, value in pictures:
            put(model.autoencoder, name, value, device, dtype)
    model.autoencoder.to(memory_format=torch.channels_last)
    model.autoencoder.requires_grad_(False)
    model.autoencoder.eval()
    return model.eval(), text


class NotInitialized(TorchFunctionMode):
    """Modules built in this context keep their parameters as they are: `torch.nn.init` does nothing.

    For a model on the device "meta", whose weights come from a file. There is nothing to initialize, and PyTorch
    imports its compiler to draw random numbers on that device, which takes longer than all other imports.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))


def put(model: nn.Module, name: str, value: Tensor, device: str | torch.device, dtype: torch.dtype) -> None:
    """Replace a parameter that has no memory yet by a tensor of a file, on its device and in its type."""
    *path, last = name.split(".")
    owner = model.get_submodule(".".join(path))
    old = getattr(owner, last)
    setattr(owner, last, nn.Parameter(value.to(device, dtype), requires_grad=old.requires_grad))


def _markers(folder: Path) -> tuple[Text | None, tuple[int, int, int, int]]:
    if (folder / "token_ids.json").is_file() and not (folder / "tokenizer.json").is_file():
        ids = json.loads((folder / "token_ids.json").read_text())
        return None, tuple(ids[k] for k in ("bos_token_id", "eos_token_id", "start_of_image", "end_of_image"))
    text = Text.load(folder)
    return text, (text.start, text.end, text.vision_start, text.vision_end)
