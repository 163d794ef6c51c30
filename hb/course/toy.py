"""Distribution matching in the plane (notebook 09): three-step students of five blobs, with an exact real score.

    python -m hb.course.toy

measures stage 3 two by two (which noise, what is scored), three seeds each, and stores it in data/results.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from hb import flow, losses
from hb.exact import GaussianMixture
from hb.files import aside
from hb.train.distill.dmdo import Rollout, roll_out

RESULT = Path(__file__).resolve().parents[2] / "data" / "results" / "toy_dmdo.json"
STEPS, BATCH, FAKE_UPDATES = 3, 128, 3
_ANGLE = 2 * torch.pi * (torch.arange(5) / 5 + 0.25)
DATA = GaussianMixture(1.7 * torch.stack([_ANGLE.cos(), _ANGLE.sin()], 1), torch.full((5,), 0.25))
DATA_SPREAD = float(DATA.sample(10_000, torch.Generator().manual_seed(0)).std())


class Net(nn.Sequential):
    """A velocity in the plane: x [N, 2] and t, one number or [N], to [N, 2]."""

    def __init__(self, width: int = 64):
        layers = [
            nn.Linear(3, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
        ]
        super().__init__(*layers, nn.Linear(width, 2))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return super().forward(torch.cat([x, torch.as_tensor(t).expand(len(x))[:, None]], 1))


def update(optimizer: torch.optim.Optimizer, loss: Tensor, lr: float) -> None:
    """One optimizer step at this learning rate."""
    optimizer.param_groups[0]["lr"] = lr
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def train_teacher(steps: int = 1200, seed: int = 0) -> Net:
    """A flow network that has learned the data's velocity, as in notebook 02."""
    torch.manual_seed(seed)
    teacher = Net()
    optimizer = torch.optim.Adam(teacher.parameters())
    for i in range(steps):
        x0, eps, t = DATA.sample(256), torch.randn(256, 2), torch.rand(256)
        loss = losses.velocity_loss(teacher(flow.interpolate(x0, eps, t), t), eps - x0)
        update(optimizer, loss, 4e-3 * (1 - i / steps))
    return teacher


# ---- one student ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """noise: "fresh", "coupled" or "mixed", for both updates. to_end: the end of the trajectory is scored, not the
    prediction of one pass. learns_scored: the fake score learns the samples that are scored, not the ends alone.
    multistep: multistep consistency sampling (DMD2's) instead of Euler steps."""

    noise: str = "fresh"
    to_end: bool = False
    learns_scored: bool = False
    multistep: bool = False


def sample(net: Net, z: Tensor, setting: Setting, generator: torch.Generator | None = None) -> Rollout:
    """All states on the way from z in three steps."""
    fresh = (lambda x: torch.randn(x.shape, generator=generator)) if setting.multistep else None
    grid = flow.time_grid(STEPS)
    return Rollout(None, grid, roll_out(net, z, grid, fresh))


def scored(student: Net, rollout: Rollout, setting: Setting, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Numbers of the stored states from which gradient flows, and the samples that the scores are asked about."""
    j = torch.randint(0, len(rollout.grid) - 1, (len(rollout.z),), generator=generator)
    x, t = rollout.at(j)
    if not setting.to_end:
        return j, flow.x0_from(x, student(x, t), t)
    for k, (t, s) in enumerate(zip(rollout.grid[:-1], rollout.grid[1:])):
        x = torch.where((j <= k)[:, None], flow.jump(x, student(x, t), t, s), x)
    return j, x


def _times(n: int, generator: torch.Generator) -> Tensor:
    return 0.02 + 0.96 * torch.rand(n, generator=generator)


def fake_loss(fake: Net, x0: Tensor, z: Tensor, noise: str, generator: torch.Generator) -> Tensor:
    """The fake score learns the velocity on the line from each sample to its noise."""
    t, eps = _times(len(z), generator), torch.randn(z.shape, generator=generator)
    x = losses.renoised(x0, z, eps, t, noise, generator)
    return losses.velocity_loss(fake(x, t), (x - x0) / t[:, None])


def student_loss(fake: Net, x0: Tensor, z: Tensor, noise: str, generator: torch.Generator) -> tuple[Tensor, float]:
    """Distribution matching against the exact real score; log rho beside it."""
    t, eps = _times(len(z), generator), torch.randn(z.shape, generator=generator)
    with torch.no_grad():
        y = losses.renoised(x0, z, eps, t, noise, generator)
        real, guess = (flow.x0_from(y, velocity(y, t), t) for velocity in (DATA.velocity, fake))
        rho = float(losses.log_rho(x0, real, guess))
    return losses.distribution_matching_loss(x0, real, guess), rho


@dataclass(frozen=True)
class Facts:
    """Of points: their spread over the data's, the share near a blob, and the blobs that hold a twentieth of them."""

    spread: float
    near: float
    blobs: int


def facts(points: Tensor) -> Facts:
    far, blob = torch.cdist(points, DATA.means).min(1)
    share = torch.bincount(blob[far < 3 * DATA.std[0]], minlength=5) / len(points)
    return Facts(float(points.std()) / DATA_SPREAD, float(share.sum()), int((share > 0.05).sum()))


def distill(
    teacher: Net,
    setting: Setting,
    noise: Tensor,
    *,
    seed: int = 0,
    updates: int = 600,
    report: Callable[[str], None] | None = None,
) -> tuple[Tensor, list[float]]:
    """Train a student; what it makes of `noise`, and its spread after every update."""
    generator, curve, recent = torch.Generator().manual_seed(seed), [], []
    student, fake = deepcopy(teacher), deepcopy(teacher)
    optimizers = [torch.optim.Adam(net.parameters(), betas=(0.0, 0.999)) for net in (fake, student)]
    for i in range(updates):
        rate = min(1, 2 - 2 * i / updates)
        rollout = sample(student, torch.randn(BATCH, 2, generator=generator), setting, generator)
        j, x0 = scored(student, rollout, setting, generator)
        learned = x0.detach() if setting.learns_scored else rollout.x0
        for _ in range(FAKE_UPDATES):
            update(optimizers[0], fake_loss(fake, learned, rollout.z, setting.noise, generator), 2e-3 * rate)
        loss, rho = student_loss(fake, x0, rollout.z, setting.noise, generator)
        update(optimizers[1], loss, 1e-3 * rate)
        curve.append(facts(rollout.x0).spread)
        recent = [*recent[-99:], (rho, facts(x0.detach()[j == 0]).spread)]
        if report and (i + 1) % (updates // 4) == 0:
            report(_line(i + 1, facts(rollout.x0), recent))
    return sample(student, noise, setting, generator).x0, curve


def _line(step: int, now: Facts, recent: list[tuple[float, float]]) -> str:
    rho, first = torch.tensor(recent).mean(0).tolist()
    return (
        f"step {step:3}   spread {now.spread:.2f}   near a blob {now.near:4.0%}   blobs {now.blobs}"
        f"   log rho {rho:5.2f}   first x0's spread {first:.2f}"
    )


# ---- the two by two, with seeds -------------------------------------------------------------------------------------

TABLE = {
    "coupled, one pass (as printed)": Setting("coupled"),
    "coupled, end": Setting("coupled", to_end=True),
    "fresh, one pass": Setting("fresh"),
    "fresh, end (what ships)": Setting("fresh", to_end=True),
    "fresh, one pass, fake learns it": Setting("fresh", learns_scored=True),
}


def measure(seeds: int = 3, updates: int = 600, points: int = 2000) -> dict:
    """Every setting of the table with every seed, from one teacher and one noise."""
    teacher, rows = train_teacher(), []
    noise = torch.randn(points, 2, generator=torch.Generator().manual_seed(9))
    for name, setting in TABLE.items():
        for seed in range(seeds):
            ends, _ = distill(teacher, setting, noise, seed=seed, updates=updates)
            rows.append(dict(name=name, seed=seed, **asdict(setting), **asdict(facts(ends))))
            print(f"{name}, seed {seed}: {facts(ends)}", flush=True)
    return dict(name="toy_dmdo", command="python -m hb.course.toy", updates=updates, torch=torch.__version__, rows=rows)


def table(record: dict) -> str:
    """A line for each setting, its seeds side by side."""
    lines = [f"{'':32} near a blob         blobs found"]
    for name in dict.fromkeys(row["name"] for row in record["rows"]):
        mine = [row for row in record["rows"] if row["name"] == name]
        near, blobs = "  ".join(f"{r['near']:4.0%}" for r in mine), "  ".join(f"{r['blobs']}" for r in mine)
        lines.append(f"{name:32} {near:18}  {blobs}")
    return "\n".join(lines)


def stored(path: Path = RESULT) -> dict:
    """What `python -m hb.course.toy` measured; or, from another path, what another toy's command did."""
    return json.loads(path.read_text())


def command(
    name: str,
    notebook: int,
    measure: Callable[[int], dict],
    table: Callable[[dict], str],
    result: Path,
    arguments: list[str] | None = None,
) -> int:
    """A toy's command line: measure with so many seeds, keep the record in `result`, print its table."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {name}", description=f"Measure the table of notebook {notebook:02}."
    )
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    record = measure(asked.seeds)
    with aside(result) as part:
        part.write_text(json.dumps(record, indent=1) + "\n")
    print(table(record))
    return 0


if __name__ == "__main__":
    sys.exit(command("hb.course.toy", 9, measure, table, RESULT))
