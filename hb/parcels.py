"""What leaves training: small files that a model opens by name. How they were made does not matter here."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hb.model.checkpoint import CheckpointError, read_weights

DRAFT, DRAFT_CONFIG = "draft.safetensors", "draft.json"


def fingerprint(module: nn.Module) -> str:
    """Of all weights: two models with the same one are the same."""
    digest = sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Drafter:
    """A draft model for one target: weights, how it is built, and how much it should guess.

    config   what `hb.speculative.draft.DraftConfig` takes
    plans    temperature ("0", "1.0") -> what `hb.speculative.drafting.Plan` takes; the nearest temperature is used
    best     the fastest "chain" and the fastest "tree" that tuning met, greedy: to measure one against the other
    target   fingerprint of the weights it was trained for. With another target it would be as right, and slow
    """

    config: dict
    plans: dict[str, dict]
    target: str
    weights: dict[str, Tensor] = field(repr=False, default_factory=dict)
    best: dict[str, dict] = field(default_factory=dict)

    def planned(self, plans: dict[str, dict], best: dict[str, dict]) -> Drafter:
        """The same draft, guessing differently."""
        return replace(self, plans=plans, best=best)

    def save(self, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
        """Write `draft.safetensors` and `draft.json`, aside first: an interrupted save leaves the old ones whole."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights, config = folder / (DRAFT + ".part"), folder / (DRAFT_CONFIG + ".part")
        save_file({k: v.detach().cpu().to(dtype).contiguous() for k, v in self.weights.items()}, weights, {"format": "pt"})
        config.write_text(json.dumps(self.to_dict(), indent=1) + "\n")
        weights.replace(folder / DRAFT)
        config.replace(folder / DRAFT_CONFIG)

    def to_dict(self) -> dict:
        """Everything but the weights."""
        return dict(config=self.config, plans=self.plans, best=self.best, target=self.target)

    @staticmethod
    def load(folder: str | Path) -> Drafter:
        """Raises CheckpointError with what is wrong."""
        folder = Path(folder)
        if not (folder / DRAFT_CONFIG).is_file():
            raise CheckpointError(f"{folder} holds no {DRAFT_CONFIG}; train a draft first: hb train draft")
        try:
            values = json.loads((folder / DRAFT_CONFIG).read_text())
            parts = {name: values[name] for name in ("config", "plans", "best", "target")}
        except (json.JSONDecodeError, KeyError) as error:
            raise CheckpointError(f"{folder / DRAFT_CONFIG} is damaged ({error}); train or copy it again") from None
        return Drafter(**parts, weights={k: v.float() for k, v in read_weights(folder / DRAFT).items()})
