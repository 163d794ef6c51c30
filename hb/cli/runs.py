"""Runs in folders, as `hb train` and `hb distill` keep them: whose a folder is, Ctrl-C, and files that are never half
written."""

from __future__ import annotations

import json
import os
import uuid
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from hb.cli.output import write_json


def trainer_options(args) -> dict:
    """What every stage hands on to the Trainer."""
    if args.threads:
        torch.set_num_threads(args.threads)
    return dict(
        seed=args.seed,
        precision=args.precision,
        minutes=args.minutes,
        bar=not args.json,
        devices=args.devices,
        num_nodes=args.num_nodes,
        strategy=args.strategy,
        accelerator=args.accelerator,
    )


def shares_of(words: Sequence[str]) -> dict[str, float]:
    """["counting=0.5"] as numbers: what --mix says."""
    try:
        pairs = [(task, float(share)) for task, share in (word.split("=") for word in words)]
    except ValueError:
        raise ValueError(f"--mix is said as TASK=SHARE, counting=0.5 for example, not {' '.join(words)!r}") from None
    if len(dict(pairs)) < len(pairs):
        raise ValueError(f"--mix names a task twice: {' '.join(words)}")
    return dict(pairs)


def claim(
    folder: Path, args, facts: dict, leftovers: tuple[str, ...], may_change: tuple[str, ...] = ("steps",)
) -> None:
    """Make sure that what the folder holds belongs to this run, or, with --fresh, throw it away.

    A run may be made longer or shorter; anything else that changes, but for what may, makes it another run.
    """
    if not is_first_process():
        return
    facts = dict(facts, preset=args.preset, seed=args.seed)
    if args.fresh:
        for name in (*leftovers, "run.json"):
            (folder / name).unlink(missing_ok=True)
    note, before = folder / "run.json", {}
    if note.exists():
        before = json.loads(note.read_text())
        other = [k for k in facts if k not in may_change and facts[k] != before.get(k)]
        if other:
            k = other[0]
            raise ValueError(
                f"{folder} holds a run with {k} {before.get(k)}, not {facts[k]}; go on with the same settings, choose "
                "another --folder, or begin again with --fresh"
            )
    rule = {k: before[k] for k in ("optimizer_rule",) if k in before}  # of `hb.train.resuming`: it stays the run's
    write_json(note, facts | rule)


def interruptible(train, *args, **options):
    """Lightning turns Ctrl-C into an exit of its own; we want to hear of it. Its warnings do not concern us: the
    data of a step follow from its number, so nothing has to be resumable, sharded or in an empty folder."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\.")
            return train(*args, **options)
    except SystemExit:
        raise KeyboardInterrupt from None


def is_first_process() -> bool:
    """Of several that train together, one writes. Lightning, torchrun and SLURM say who is who in these variables."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def replace_folder(folder: Path, fill) -> None:
    """Fill a folder aside, then move its files into place one by one: no file is ever half written."""
    part = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:12]}.part")  # each process fills its own
    part.mkdir(parents=True)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        fill(part)
        for file in sorted(part.iterdir()):
            file.replace(folder / file.name)
    finally:
        for file in part.iterdir():
            file.unlink()
        part.rmdir()
