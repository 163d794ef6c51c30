"""Model folders: found by name (shipped, local, on the Hugging Face hub), opened, and written whole."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Self

import torch

from hb.infer.artifacts import Artifact, DraftCheckpoint, PixelDecoderCheckpoint, RewardCheckpoint, Student
from hb.infer.plan import Sampling
from hb.models.checkpoint import WEIGHTS, CheckpointError, load_model, save_model

STUDENTS, DRAFT, DECODER, REWARDS = "students", "draft", "decoder", "rewards"  # folders of a model folder
SHIPPED = Path(__file__).resolve().parents[2] / "data" / "checkpoints"
RELEASED = "ByteDance-Seed/BAGEL-7B-MoT"
ALIASES = {
    "bagel-7b": "the released BAGEL-7B-MoT files are 29 GB and do not ship with hb: load(folder) reads your copy, "
    f"load({RELEASED!r}) fetches them"
}
NEEDED = ("*.json", "*.safetensors", "*.txt")  # of a hub repository: no code, no pickles, no pictures
HUB_NAME = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


def is_shipped(name: str | Path) -> bool:
    """Is this the name of a model that comes with hb, and not a path?"""
    return Path(name).name == str(name) and (SHIPPED / name / WEIGHTS).exists()


def find_model(name: str | Path, **hub) -> Path:
    """A local folder, or that of "owner/name" on the hub. Raises CheckpointError for a name that is neither."""
    given = str(name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if given in ALIASES:
        raise CheckpointError(ALIASES[given])
    if HUB_NAME.fullmatch(given):
        return _fetched(given, **hub)
    raise CheckpointError(f"no model called {given!r}: {_shipped()}; or give a model folder, or owner/name on the hub")


def _shipped() -> str:
    """What models come with this copy, in words."""
    if not SHIPPED.is_dir():
        return (
            f"the shipped models lie beside the source code, and this hb was installed without them (there is no "
            f"{SHIPPED.parent}). Clone the repository and install that: pip install -e ."
        )
    names = sorted(p.parent.name for p in SHIPPED.glob(f"*/{WEIGHTS}"))
    return f"shipped are {', '.join(names) or 'none (train one: hb train teacher)'}"


def _fetched(repo: str, **hub) -> Path:
    """A snapshot in the hub's cache, fetched if it is not there. Offline mode and tokens are huggingface_hub's."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, allow_patterns=list(NEEDED), **hub))
    except (OSError, ValueError) as error:  # every error of huggingface_hub is one of these two
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"there is no folder {repo}, and the Hugging Face hub did not give a model of that name ({reason})"
        ) from None


def checked_device(name: str | torch.device) -> torch.device:
    """A device that this PyTorch can use. Raises ValueError otherwise."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"no device called {str(name)!r}; there are cpu, cuda, cuda:1 and mps") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError("CUDA was asked for, but this PyTorch sees no CUDA device; use device='cpu'")
        if (device.index or 0) >= torch.cuda.device_count():
            raise ValueError(f"there is no {device}: this PyTorch sees {torch.cuda.device_count()} CUDA device(s)")
    elif device.type == "mps":
        if not torch.backends.mps.is_available():
            raise ValueError("MPS was asked for, but this PyTorch sees no Apple GPU; use device='cpu'")
    elif device.type != "cpu":
        raise ValueError(f"hb does not run on {device.type!r}; there are cpu, cuda, cuda:1 and mps")
    return device


class ModelFolder:
    """Saving, loading and uploading, for a class with the attributes and constructor of `hb.infer.pipeline.Model`."""

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None, **hub) -> None:
        """Write the model and all that it holds as a folder in the released form. Students, rewards, draft and pixel
        decoder that it does not hold are removed from there.

        dtype   of the stored weights; None: each one's own. Rounded weights have another fingerprint, so what belongs
                to the model is stamped with that
        hub     push_to_hub=True and repo_id, and what `push_to_hub` takes: upload it too
        """
        folder = Path(folder).expanduser()
        kept = {Path(STUDENTS) / name: student for name, student in self.students.items()}
        kept |= {Path(REWARDS) / name: reward for name, reward in self.rewards.items()}
        kept |= {Path(DRAFT): self.draft} if self.draft is not None else {}
        kept |= {Path(DECODER): self.pixel_decoder} if self.pixel_decoder is not None else {}
        kept = {place: artifact.stamped(self.bagel, dtype) for place, artifact in kept.items()}
        for artifact in kept.values():
            len(artifact.weights)  # read now: its file may be the one that is written
        save_model(self.bagel, folder, self.text, dtype)
        self.sampling.save(folder)
        for place, artifact in kept.items():
            artifact.save(folder / place, dtype)
        for place, kind in _artifacts_in(folder).items():
            if place not in kept:
                kind.remove_from(folder / place)
        if hub.pop("push_to_hub", False):
            self.push_to_hub(hub.pop("repo_id", folder.name), dtype=dtype, **hub)

    def push_to_hub(
        self, repo_id: str, *, dtype: torch.dtype | None = None, private: bool | None = None, token=None, **upload
    ) -> str:
        """Upload the model to the Hugging Face hub. upload: what `HfApi.upload_folder` takes (commit_message, revision,
        create_pr). Returns the commit's address."""
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, dtype)
            held = [
                f"{place}/*" for place in (STUDENTS, DRAFT, DECODER, REWARDS)
            ]  # what is there and not here is removed
            upload = dict(commit_message="Upload with hb", delete_patterns=held) | upload
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder, **upload))

    @classmethod
    def from_pretrained(
        cls, name: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32, **hub
    ) -> Self:
        """Load a folder, one of ours or one with the released BAGEL-7B-MoT files, or "owner/name" on the hub.

        hub: what `huggingface_hub.snapshot_download` takes (revision, cache_dir, token, local_files_only)
        """
        device, folder = checked_device(device), find_model(name, **hub)
        bagel, text = load_model(folder, device=device, dtype=dtype)
        held = {
            place.as_posix(): kind.load(folder / place, lazily=True) for place, kind in _artifacts_in(folder).items()
        }
        within = lambda kind: {p.removeprefix(f"{kind}/"): held[p] for p in held if p.startswith(f"{kind}/")}
        return cls(
            bagel,
            text,
            Sampling.load(folder),
            Path(name).name,
            draft=held.get(DRAFT),
            pixel_decoder=held.get(DECODER),
            students=within(STUDENTS),
            rewards=within(REWARDS),
        )


def _artifacts_in(folder: Path) -> dict[Path, type[Artifact]]:
    """Where a model folder holds something beside the model, and of which kind."""
    found = {Path(STUDENTS) / path.name: Student for path in sorted((folder / STUDENTS).glob("*"))}
    found |= {Path(REWARDS) / path.name: RewardCheckpoint for path in sorted((folder / REWARDS).glob("*"))}
    found |= {Path(DRAFT): DraftCheckpoint, Path(DECODER): PixelDecoderCheckpoint}
    return {place: kind for place, kind in found.items() if kind.is_in(folder / place)}
