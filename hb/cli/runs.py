"""Runs in folders, as `hb train` and `hb distill` keep them: whose a folder is, Ctrl-C, and files that are never half
written."""

from __future__ import annotations

import json
import os
import sys
import uuid
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from hb.cli.output import write_json
from hb.data.folder import read_folder
from hb.data.own_pictures import OwnPictures
from hb.data.tokens import Tokenizer
from hb.files import write

# What an earlier release called folders of a run, and facts in its run.json
OLD_FOLDERS = dict(vision="eyes", refiner="settler", checkpoint="parcel")
OLD_FACTS = dict(eyes="vision", talks="dialogues", new_knobs="new_guidance_embedding", painter="decoder")


def trainer_options(args) -> dict:
    """The options that every stage passes on to the Trainer."""
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.accelerator in ("gpu", "cuda") and not torch.cuda.is_available() and not torch.backends.mps.is_available():
        raise ValueError("PyTorch finds no GPU here; leave --accelerator out, or say cpu")
    return dict(
        seed=args.seed,
        precision=args.precision,
        minutes=args.minutes,
        bar=not args.json,
        devices=args.devices,
        num_nodes=args.num_nodes,
        strategy=args.strategy,
        accelerator=args.accelerator,
        **({} if args.logger == "csv" else dict(logger=args.logger)),
    )


def place(parent: Path, name: str) -> Path:
    """The folder `name` of a run, or the one that an earlier release left there under its old name."""
    old = parent / OLD_FOLDERS[name]
    return old if old.exists() and not (parent / name).exists() else parent / name


def shares_of(words: Sequence[str]) -> dict[str, float]:
    """["counting=0.5"] as numbers: what --mix says."""
    try:
        pairs = [(task, float(share)) for task, share in (word.split("=") for word in words)]
    except ValueError:
        raise ValueError(f"--mix is said as TASK=SHARE, counting=0.5 for example, not {' '.join(words)!r}") from None
    if len(dict(pairs)) < len(pairs):
        raise ValueError(f"--mix names a task twice: {' '.join(words)}")
    return dict(pairs)


SHOWN = 20  # sentences about rows of one's own data that are left out


def own_pictures(args, run: Path, side: int, text: Tokenizer | None = None) -> OwnPictures | None:
    """What --data names, if it names anything. Sentences about rows that are left out go to stderr, and all of them to
    left_out.txt in the run's folder."""
    if not args.data:
        return None
    if getattr(args, "mix", None):
        raise ValueError("--mix is of the tiny world's prompts, and --data brings others; leave one of the two out")
    own = read_folder(args.data, size=(side, side), text=text)
    if not is_first_process():
        return own
    said = [*own.left_out, *own.notes]
    print("\n  ".join([f"{args.data}: {own}", *said[:SHOWN]]), file=sys.stderr)
    if said:
        path = write(run / "left_out.txt", "".join(line + "\n" for line in said).encode())
        if len(said) > SHOWN:
            print(f"  and {len(said) - SHOWN} more, in {path}", file=sys.stderr)
    return own


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
        before = {OLD_FACTS.get(fact, fact): value for fact, value in json.loads(note.read_text()).items()}
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
    """Run a training so that Ctrl-C raises KeyboardInterrupt; Lightning alone makes it an exit.

    Lightning's warnings are hidden: the data of a step follow from its number, so nothing has to be resumable,
    sharded or in an empty folder."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\.")
            return train(*args, **options)
    except SystemExit:
        raise KeyboardInterrupt from None


def is_first_process() -> bool:
    """Of several processes that train together, the first writes. Lightning, torchrun and SLURM set these variables."""
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
