"""Is this working tree as fast as an earlier commit? Both are measured in the same minutes, in pairs.

    python tests/before_after.py --against COMMIT [--pairs 7] [--threads 1] [--only draw,ask] [--json]

A worktree of COMMIT is made in a temporary folder. Each side has processes of its own, which stay alive. After a warm-
up, a row is measured old, new, new, old and so on. A pair gives one ratio: seconds of the old side over those of the
new one. Printed are the median ratio and its 95% interval (bootstrap of the pairs). Both sides open the same model
folder, the one of COMMIT, on the CPU with `--threads` threads.

A row passes if the median ratio is at least 0.95, or if the interval contains 1 and is narrower than 0.1.

The row `import` is different: fresh processes import PyTorch, then what `hb.load` needs; what its first call imports
late is included. The figure is the time of both over PyTorch's own, and at most 2.0 passes.

The exit status is 1 if a row fails.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
INPUTS = ROOT / "tests" / "regression" / "fixture"
LEAST, NARROW, IMPORT = 0.95, 0.1, 2.0
SAMPLE_S = 0.5  # a sample repeats its call until it takes about so long

# What runs on either side. It uses the public interface. Training has none, and is imported by old and new names.
WORKER = r'''
import json, os, sys, tempfile, time
from dataclasses import replace
from pathlib import Path

role, root, folder, inputs, threads = sys.argv[1:6]
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # whatever else is printed does not get between the answers


def tell(value):
    answers.write(json.dumps(value) + "\n")
    answers.flush()


def asked():
    """The next request; the process ends with its parent's last one."""
    line = sys.stdin.readline()
    if not line:
        os._exit(0)
    return json.loads(line)


def imports():
    began = time.perf_counter()
    import torch

    torched = time.perf_counter()
    import hb

    hb.load
    imported = time.perf_counter()
    hb.load(folder)
    first = time.perf_counter()
    hb.load(folder)
    second = time.perf_counter()
    late = max(0.0, (first - imported) - (second - first))
    tell(dict(torch=torched - began, hb=imported - torched, late=late))


def infer():
    import hb
    from safetensors.torch import load_file

    model = hb.load(folder)
    pictures = load_file(inputs + "/inputs.safetensors")
    words = json.loads(Path(inputs, "inputs.json").read_text())
    unit = lambda name: pictures[name].movedim(-1, 1).float() / 255
    cycled = lambda values, n: [values[i % len(values)] for i in range(n)]
    shown = unit("edit")
    calls = dict(
        draw=lambda nfe, n: model.draw(cycled(words["prompts"], n), nfe=nfe),
        edit=lambda nfe, n: model.edit(shown.repeat(2, 1, 1, 1)[:n], cycled(words["instructions"], n), nfe=nfe),
        plain=lambda _, n: model.ask(shown[:n], "describe the picture", speculate=False),
        shipped=lambda _, n: model.ask(shown[:n], "describe the picture"),
    )
    tell("ready")
    while True:
        call, *args, repeats = asked()
        began = time.perf_counter()
        for _ in range(repeats):
            calls[call](*args)
        tell(time.perf_counter() - began)


def train(stage):
    import hb
    import lightning as L
    from lightning.pytorch.callbacks import Callback

    # >>> names of the library: the new ones first, then the ones before the move. Only this block follows a move.
    try:
        from hb.data.batches import BatchSizes
        from hb.train.distill.recipe import run_stage
        from hb.train.distill.specs import STAGES
        from hb.train.pools import pool_for
        from hb.train.teacher import train_teacher
    except ImportError:
        from hb.data import BatchSizes
        from hb.distill.recipe import STAGES, run_stage
        from hb.pretrain import pool_for, train_teacher
    # <<<

    class Gate(Callback):
        """Lets so many steps pass as are asked for, and answers with their seconds."""

        def open(self):
            (self.left,) = asked()
            self.began = time.perf_counter()

        def on_train_start(self, *_):
            tell("ready")
            self.open()

        def on_train_batch_end(self, *_):
            self.left -= 1
            if not self.left:
                tell(time.perf_counter() - self.began)
                self.open()

    fit = L.Trainer.fit

    def gated(trainer, *args, **options):
        trainer.callbacks.append(Gate())
        return fit(trainer, *args, **options)

    L.Trainer.fit = gated
    model, run = hb.load(folder), Path(tempfile.mkdtemp())
    trainer = dict(bar=False, accelerator="cpu", steps=400)
    bagel = model.bagel
    if stage == "teacher":
        sizes = BatchSizes(8, 4, 4)
        train_teacher(run, bagel.config, bagel.autoencoder, model.text, prompts=16, scenes=16, sizes=sizes,
                      precision="f32", start_from=Path(folder), **trainer)
    else:
        spec = STAGES[stage]
        warmup = "fake_warmup" if "fake_warmup" in spec.options else "alone"
        spec = replace(spec, prompts=2, editing=0.0, options=spec.options | {warmup: 0})
        pool = pool_for(bagel.autoencoder, model.text, run / "pool.safetensors", side=64, prompts=16, scenes=16,
                        precision="f32")
        guidance = dict(draw=model.sampling.draw, edit=model.sampling.edit)
        run_stage(stage, run, bagel, pool, guidance=guidance, students=model.students, spec=spec, precision="32-true",
                  **trainer)


if role == "import":
    imports()
else:
    import torch

    torch.set_num_threads(int(threads))
    import hb

    assert Path(hb.__file__).resolve().parents[1] == Path(root).resolve(), f"imported {hb.__file__}, not that of {root}"
    infer() if role == "infer" else train(role)
'''


@dataclass(frozen=True)
class Row:
    """What is measured: a request to the worker of a role, without the number of repeats."""

    name: str
    role: str
    request: tuple = ()


ROWS = (
    *(Row(f"draw, {nfe} NFE, batch {n}", "infer", ("draw", nfe, n)) for nfe in (6, 100) for n in (1, 16)),
    *(Row(f"edit, 6 NFE, batch {n}", "infer", ("edit", 6, n)) for n in (1, 16)),
    *(Row(f"ask, {plan}, batch {n}", "infer", (plan, None, n)) for plan in ("plain", "shipped") for n in (1, 8)),
    Row("train, step of the teacher", "teacher"),
    Row("train, step of dmdo", "dmdo"),
    Row("import", "import"),
)


@dataclass(frozen=True)
class Result:
    """What came out of a row.

    old, new           seconds of one call or one training step, the median; of the row `import`: times PyTorch's own
    ratio, low, high   old over new, the median of the pairs, and its 95% interval
    """

    name: str
    old: float
    new: float
    ratio: float
    low: float
    high: float
    pairs: int
    passed: bool


class Worker:
    """One side's process of a role."""

    def __init__(self, role: str, root: Path, folder: Path, threads: int):
        env = os.environ | dict(PYTHONPATH=str(root), OMP_NUM_THREADS=str(threads), HF_HUB_OFFLINE="1")
        command = [sys.executable, "-c", WORKER, role, str(root), str(folder), str(INPUTS), str(threads)]
        self.errors = tempfile.TemporaryFile("w+")
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True)
        self.process = subprocess.Popen(command, cwd=root, env=env, **pipes)
        self.root = root

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise RuntimeError(f"the process of {self.root} ended: {self.errors.read()[-3000:]}")
        return json.loads(line)

    def seconds(self, request: tuple, repeats: int) -> float:
        self.process.stdin.write(json.dumps([*request, repeats]) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


@contextmanager
def worktree(commit: str):
    """A checkout of a commit in a temporary folder."""
    git = lambda *words: subprocess.run(["git", "-C", str(ROOT), *words], check=True, capture_output=True, text=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "old"
        git("worktree", "add", "--detach", str(path), commit)
        try:
            yield path
        finally:
            git("worktree", "remove", "--force", str(path))


def in_turns(pairs: int):
    """0 and 1, old and new, for each pair; who comes first changes."""
    for pair in range(pairs):
        yield (0, 1) if pair % 2 == 0 else (1, 0)


def interval(values: list[float]) -> tuple[float, float]:
    """95% interval of the median: percentiles of the medians of 10,000 resamples."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(np.array(values), (10_000, len(values))), axis=1)
    return tuple(float(q) for q in np.percentile(medians, (2.5, 97.5)))


def measure(row: Row, workers: list[Worker], pairs: int) -> Result:
    """Warm up, choose how often a sample repeats its call, then the pairs."""
    slowest = 0.0
    for _ in range(2):
        slowest = max(worker.seconds(row.request, 1) for worker in workers)
    repeats = max(1, math.ceil(SAMPLE_S / slowest))
    taken: tuple[list[float], list[float]] = ([], [])
    for turn in in_turns(pairs):
        for side in turn:
            taken[side].append(workers[side].seconds(row.request, repeats) / repeats)
    ratios = [old / new for old, new in zip(*taken, strict=True)]
    ratio, (low, high) = statistics.median(ratios), interval(ratios)
    passed = ratio >= LEAST or (low <= 1 <= high and high - low < NARROW)
    return Result(row.name, *map(statistics.median, taken), ratio, low, high, pairs, passed)


def measure_import(row: Row, roots: list[Path], folder: Path, threads: int, pairs: int) -> Result:
    """Fresh processes. The interval is of the ratio too; what counts is the new side's multiple of PyTorch's import."""

    def multiple(root: Path) -> float:
        worker = Worker("import", root, folder, threads)
        taken = worker.answer()
        worker.close()
        return sum(taken.values()) / taken["torch"]

    for root in roots:
        multiple(root)  # writes byte code, and fills the cache of the file system
    taken: tuple[list[float], list[float]] = ([], [])
    for turn in in_turns(pairs):
        for side in turn:
            taken[side].append(multiple(roots[side]))
    ratios = [old / new for old, new in zip(*taken, strict=True)]
    old, new = map(statistics.median, taken)
    return Result(row.name, old, new, statistics.median(ratios), *interval(ratios), pairs, new <= IMPORT)


def compare(rows: list[Row], old: Path, folder: Path, pairs: int, threads: int, say) -> list[Result]:
    """All rows in order. The processes of a role live as long as its rows."""
    roots, results = [old, ROOT], []
    for role in dict.fromkeys(row.role for row in rows):
        with ExitStack() as stack:
            workers = []
            if role != "import":
                workers = [Worker(role, root, folder, threads) for root in roots]
                for worker in workers:
                    stack.callback(worker.close)
                    worker.answer()  # ready
            for row in (row for row in rows if row.role == role):
                if role == "import":
                    results.append(measure_import(row, roots, folder, threads, pairs))
                else:
                    results.append(measure(row, workers, pairs))
                say(results[-1])
    return results


def line_of(result: Result) -> str:
    verdict = "passed" if result.passed else "FAILED"
    unit = "x torch" if result.name == "import" else "s"
    old, new = (f"{value:.3f} {unit}" for value in (result.old, result.new))
    interval_ = f"{result.low:.3f} to {result.high:.3f}"
    return f"{result.name:<28} {old:>14} {new:>14}   {result.ratio:6.3f}   {interval_}   {verdict}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", required=True, metavar="COMMIT", help="the commit to compare with")
    parser.add_argument("--pairs", type=int, default=7, help="pairs a row (default: 7)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each process (default: 1)")
    parser.add_argument(
        "--only", default="", metavar="NAMES", help="rows that begin with one of these names, by commas"
    )
    parser.add_argument("--model", type=Path, help="model folder for both sides (default: nano as COMMIT ships it)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    begins = tuple(args.only.split(","))
    rows = [row for row in ROWS if row.name.startswith(begins)]
    if not rows:
        parser.error(f"no row begins with {args.only!r}; there are: {'; '.join(row.name for row in ROWS)}")
    say = (lambda result: None) if args.json else lambda result: print(line_of(result), flush=True)
    if not args.json:
        print(f"{'':<28} {'before':>14} {'after':>14}    ratio   95% interval")
    with worktree(args.against) as old:
        folder = (args.model or old / "data" / "checkpoints" / "nano").resolve()
        results = compare(rows, old, folder, args.pairs, args.threads, say)
    if args.json:
        print(json.dumps(dict(against=args.against, threads=args.threads, rows=[asdict(r) for r in results]), indent=1))
    return 0 if all(result.passed for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
