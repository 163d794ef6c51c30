"""A pool as one file: its arrays, and what it was made of."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from hb.files import aside


class Stored:
    """For dataclasses all of whose fields are tensors."""

    def save(self, path: Path, made_of: dict | None = None) -> None:
        """made_of: what another pool must share to be the same one, ready for JSON; the file keeps it."""
        arrays = {f.name: getattr(self, f.name).contiguous() for f in fields(self)}
        with aside(path) as part:
            save_file(arrays, part, {"made_of": json.dumps(made_of)})

    @staticmethod
    def made_of(path: Path) -> dict | None:
        """What `save` was told; None if nothing."""
        with safe_open(path, framework="pt") as f:
            return json.loads((f.metadata() or {}).get("made_of", "null"))
