"""One step in the plane (notebook 10): students of one evaluation on five blobs, and what each loss makes of them.

    python -m hb.course.toy_one_step

measures the table, three seeds each, and stores it in data/results. The pairs of noise and end come from the exact
flow, so what a student gets wrong is its own.
"""

from __future__ import annotations

import sys
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from hb import flow, losses
from hb.course.toy import DATA, Net, command, facts, train_teacher, update

RESULT = Path(__file__).resolve().parents[2] / "data" / "results" / "toy_one_step.json"
BATCH, PAIRS = 256, 20_000


class Critic(nn.Sequential):
    """A logit for points of the plane [N, 2], noised to times [N]."""

    def __init__(self, width: int = 64):
        hidden = [nn.Linear(width, width), nn.SiLU()]
        super().__init__(nn.Linear(3, width), nn.SiLU(), *hidden, nn.Linear(width, 1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return super().forward(torch.cat([x, t[:, None]], 1))[:, 0]


@dataclass(frozen=True)
class Setting:
    """regression: first and last weight of the distance to the pair's end. adversarial: weight of the discriminator.
    relativistic: pairs instead of hinge. true: real samples are data, not the ends of pairs. penalty: weight of R1 and
    R2. mmd: weight of the maximum mean discrepancy. continued: the exact flow begins with the student's own prediction,
    noised again to this time, instead of with the noise; 0: with the noise. renoise: noised with what, see
    `hb.losses.renoised`. warm: updates of regression before."""

    regression: tuple[float, float] = (0.0, 0.0)
    adversarial: float = 0.0
    relativistic: bool = False
    true: bool = False
    penalty: float = 0.0
    mmd: float = 0.0
    continued: float = 0.0
    renoise: str = "coupled"
    warm: int = 0


@cache
def ode_pairs(n: int = PAIRS, steps: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noise and where the exact flow takes it [n, 2] each."""
    z = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))
    *_, (_, end) = flow.euler(DATA.velocity, z, flow.time_grid(steps))
    return z, end


def one_step(student: Net, z: Tensor) -> Tensor:
    """x0 = z - v(z, 1)."""
    return z - student(z, torch.ones(len(z)))


@torch.no_grad()
def continued_end(x0: Tensor, z: Tensor, fresh: Tensor, t: float, renoise: str, steps: int = 30) -> Tensor:
    """Where the exact flow ends that begins at x0, noised again to time t (0 to 1)."""
    x = losses.renoised(x0, z, fresh, torch.tensor(t), renoise)
    *_, (_, end) = flow.euler(DATA.velocity, x, t * flow.time_grid(steps))
    return end


def critic_loss(critic: Critic, setting: Setting, real: Tensor, fake: Tensor, t: Tensor, noise: Tensor, n: Tensor):
    """The discriminator's loss on noised points, and the share of pairs it tells apart. n: noise of the penalties."""
    real, fake = (flow.interpolate(x, noise, t) for x in (real, fake))
    ours, theirs = critic(real, t), critic(fake, t)
    compare = losses.relativistic_loss if setting.relativistic else losses.hinge_discriminator_loss
    loss = compare(ours, theirs)
    if setting.penalty:
        for x, logits in ((real, ours), (fake, theirs)):
            loss = loss + setting.penalty * losses.approximate_r1(logits, critic(x + 0.01 * n, t), 0.01)
    return loss, float((ours > theirs).float().mean())


def student_loss(
    critic: Critic, setting: Setting, x0: Tensor, end: Tensor, real: Tensor, t: Tensor, noise: Tensor, weight: float
) -> Tensor:
    """What a student lowers: regression, adversary and MMD, each with its weight."""
    loss = weight * losses.consistency_loss(x0, end, 0.03)
    if setting.adversarial:
        logits = critic(flow.interpolate(x0, noise, t), t)
        if setting.relativistic:
            with torch.no_grad():
                ours = critic(flow.interpolate(real, noise, t), t)
            loss = loss + setting.adversarial * losses.relativistic_loss(logits, ours)
        else:
            loss = loss + setting.adversarial * losses.hinge_generator_loss(logits)
    if setting.mmd:
        loss = loss + setting.mmd * losses.squared_mmd(x0, real, (0.1, 0.3, 1.0))
    return loss


def distill(
    teacher: Net, setting: Setting, z: Tensor, *, seed: int = 0, updates: int = 800
) -> tuple[Tensor, list[tuple[float, float]]]:
    """Train a one-step student; what it makes of z, and after every update its spread and the share told apart."""
    generator, curve = torch.Generator().manual_seed(seed), []
    torch.manual_seed(seed)
    student, critic, pairs = deepcopy(teacher), Critic(), ode_pairs()
    own = torch.optim.Adam(student.parameters(), betas=(0.0, 0.99))
    theirs = torch.optim.Adam(critic.parameters(), betas=(0.0, 0.99))
    for i in range(-setting.warm, updates):
        rate = min(1.0, 2 - 2 * i / updates)
        rows = torch.randint(0, PAIRS, (BATCH,), generator=generator)
        noise, end = pairs[0][rows], pairs[1][rows]
        x0 = one_step(student, noise)
        if i < 0:
            update(own, losses.consistency_loss(x0, end, 0.03), 2e-3)
            continue
        if setting.continued:
            anew = torch.randn(BATCH, 2, generator=generator)
            end = continued_end(x0.detach(), noise, anew, setting.continued, setting.renoise)
        real = DATA.sample(BATCH, generator) if setting.true or setting.mmd else end
        t, fresh, n = 0.9 * torch.rand(BATCH, generator=generator), *torch.randn(2, BATCH, 2, generator=generator)
        apart = 0.5
        if setting.adversarial:
            loss, apart = critic_loss(critic, setting, real, x0.detach(), t, fresh, n)
            update(theirs, loss, 2e-3 * rate)
        first, last = setting.regression
        weight = first + (last - first) * i / updates
        update(own, student_loss(critic, setting, x0, end, real, t, fresh, weight), 1e-3 * rate)
        curve.append((facts(x0.detach()).spread, apart))
    with torch.no_grad():
        return one_step(student, z), curve


TABLE = {
    "regression": Setting(regression=(1.0, 1.0)),
    "regression, 1,200 updates": Setting(regression=(1.0, 1.0), warm=400),
    "continued, t = 0.7": Setting(regression=(1.0, 1.0), continued=0.7, warm=400),
    "continued, t = 0.4": Setting(regression=(1.0, 1.0), continued=0.4, warm=400),
    "continued fresh, t = 0.7": Setting(regression=(1.0, 1.0), continued=0.7, renoise="fresh", warm=400),
    "continued fresh, t = 0.4": Setting(regression=(1.0, 1.0), continued=0.4, renoise="fresh", warm=400),
    "hinge (as printed)": Setting(adversarial=1.0),
    "hinge, warm": Setting(adversarial=1.0, warm=400),
    "pairs, warm, R1 and R2": Setting(adversarial=1.0, relativistic=True, penalty=0.05, warm=400),
    "the same, data are real": Setting(adversarial=1.0, relativistic=True, penalty=0.05, true=True, warm=400),
    "the same, regression fades": Setting((1.0, 0.05), 1.0, True, True, 0.05, warm=400),
    "MMD, warm": Setting(mmd=10.0, warm=400),
}


def measure(seeds: int = 3, updates: int = 800, points: int = 2000) -> dict:
    """Every setting of the table with every seed, from one teacher and one noise. off: the mean distance from where the
    exact flow takes the same noise."""
    teacher, rows = train_teacher(), []
    z, there = ode_pairs(points, seed=9)
    for name, setting in TABLE.items():
        for seed in range(seeds):
            ends, curve = distill(teacher, setting, z, seed=seed, updates=updates)
            off = float((ends - there).norm(dim=1).mean())
            apart = sum(a for _, a in curve[-100:]) / 100
            rows.append(dict(name=name, seed=seed, **asdict(setting), **asdict(facts(ends)), off=off, apart=apart))
            print(f"{name}, seed {seed}: {facts(ends)}, off {off:.2f}, told apart {apart:.2f}", flush=True)
    how = dict(command="python -m hb.course.toy_one_step", updates=updates, torch=torch.__version__)
    return dict(name="toy_one_step", exact=asdict(facts(there)), rows=rows, **how)


def table(record: dict) -> str:
    """A line for each setting, its seeds side by side."""
    lines = [f"{'':28} near a blob         blobs      spread            from the exact end"]
    for name in dict.fromkeys(row["name"] for row in record["rows"]):
        mine = [row for row in record["rows"] if row["name"] == name]
        near, blobs = "  ".join(f"{r['near']:4.0%}" for r in mine), "  ".join(f"{r['blobs']}" for r in mine)
        spread, off = ("  ".join(f"{row[key]:.2f}" for row in mine) for key in ("spread", "off"))
        lines.append(f"{name:28} {near:18}  {blobs:9}  {spread:16}  {off}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(command("hb.course.toy_one_step", 10, measure, table, RESULT))
