"""Reward feedback in the plane (notebook 11): a reward learnt from clicks trains a one-step generator of five blobs.

    python -m hb.course.toy_reward

measures the table, three seeds each, and stores it in data/results. The true utility is known, so it can be seen when a
learnt reward rises and the utility falls. Clicks are of points near the blobs alone: elsewhere the reward is a guess.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hb import losses
from hb.course import toy_one_step as one
from hb.course.toy import DATA, Net, command, facts, train_teacher, update
from hb.eval.observatory import should_stop
from hb.eval.stats import t_interval
from hb.models.rewards import LOG_SIGMA
from hb.preference_losses import preference_probability, ranking_loss, reward_feedback_loss
from hb.world.annotator import Annotator

RESULT = Path(__file__).resolve().parents[2] / "data" / "results" / "toy_reward.json"
BATCH, EVERY, LR = one.BATCH, 10, 5e-4
PERSON = Annotator("simulated", noise=0.3)


def utility(x: Tensor) -> Tensor:
    """What points [N, 2] are worth: being near a blob counts 2, being far to the right up to 1."""
    far = torch.cdist(x, DATA.means).min(1).values
    return 2 * torch.exp(-2 * far.square()) + torch.tanh(x[:, 0] / 1.7)


# ---- a reward from clicks --------------------------------------------------------------------------------------------


class Reward(nn.Module):
    """mu and log sigma of points [N, 2]. radial: on fixed Gaussian bumps around a grid, instead of learnt features.

    unit   (c, s): mu is returned as (mu - c) / s, log sigma less log s, as `hb.models.rewards.RewardHead` has it
    """

    def __init__(self, radial: bool = False, width: int = 64):
        super().__init__()
        self.radial = radial
        grid = torch.linspace(-3, 3, 9)
        self.register_buffer("centers", torch.cartesian_prod(grid, grid))
        learnt = [nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2)]
        self.layers = nn.Linear(len(self.centers), 2) if radial else nn.Sequential(*learnt)
        self.register_buffer("unit", torch.tensor([0.0, 1.0]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        bumps = torch.exp(-((x[:, None] - self.centers).square().sum(2)) / (2 * 0.6**2)) if self.radial else x
        mu, log_sigma = self.layers(bumps).unbind(1)
        moved, unit = self.unit
        return (mu - moved) / unit, LOG_SIGMA * torch.tanh(log_sigma / LOG_SIGMA) - unit.log()


@dataclass(frozen=True)
class Clicks:
    """Two points [n, 2] of each comparison, and the number of the preferred one [n]."""

    first: Tensor
    second: Tensor
    choice: Tensor

    @property
    def better(self) -> Tensor:
        return torch.where(self.choice[:, None] == 0, self.first, self.second)

    @property
    def worse(self) -> Tensor:
        return torch.where(self.choice[:, None] == 0, self.second, self.first)


def clicks(points: Tensor, n: int, seed: int = 0, *, again: int = 0, person: Annotator = PERSON) -> Clicks:
    """n comparisons of two of these points, clicked by this annotator. again: the same pairs, clicked another time."""
    pairs, looks = (np.random.default_rng([11, seed, k]) for k in (0, 1 + again))
    first, second = (points[torch.from_numpy(pairs.integers(0, len(points), n))] for _ in range(2))
    chosen = person.choose(utility(first).double().numpy(), utility(second).double().numpy(), looks)
    return Clicks(first, second, torch.from_numpy(chosen))


def train_reward(clicked: Clicks, *, seed: int = 0, radial: bool = False, steps: int = 400) -> Reward:
    """Learn from these clicks. The reward has mean 0 and standard deviation 1 over the points that were compared."""
    torch.manual_seed(seed)
    reward = Reward(radial)
    optimizer = torch.optim.AdamW(reward.parameters(), weight_decay=0.05)
    rng, better, worse = torch.Generator().manual_seed(seed), clicked.better, clicked.worse
    for i in range(steps):
        rows = torch.randint(0, len(better), (BATCH,), generator=rng)
        loss = ranking_loss(*reward(better[rows]), *reward(worse[rows]))
        update(optimizer, loss, (2e-2 if radial else 1e-2) * (1 - i / steps))
    with torch.no_grad():
        mu, _ = reward(torch.cat([clicked.first, clicked.second]))
        reward.unit.copy_(torch.stack([mu.mean(), mu.std()]))
    return reward.requires_grad_(False)


def probability(reward: Reward, clicked: Clicks) -> Tensor:
    """Probability that the reward gives to the first point of each comparison."""
    return preference_probability(*reward(clicked.first), *reward(clicked.second))


# ---- the generator ---------------------------------------------------------------------------------------------------


@cache
def before(seed: int = 0, updates: int = 800) -> Net:
    """A one-step generator that has learnt the ends of pairs, as in notebook 10; no reward yet."""
    student, pairs = train_teacher(3 * updates // 2, seed), one.ode_pairs()  # 800 updates: the teacher of notebook 10
    rng, own = torch.Generator().manual_seed(seed), torch.optim.Adam(student.parameters(), betas=(0.0, 0.99))
    for i in range(updates):
        rows = torch.randint(0, one.PAIRS, (BATCH,), generator=rng)
        loss = losses.consistency_loss(one.one_step(student, pairs[0][rows]), pairs[1][rows], 0.03)
        update(own, loss, 2e-3 * min(1.0, 2 - 2 * i / updates))
    return student


@torch.no_grad()
def compared(generator: Net, seed: int = 0, n: int = 2000) -> Tensor:
    """Points to click on [2 n, 2]: what the generator makes, and data."""
    rng = torch.Generator().manual_seed(50 + seed)
    return torch.cat([one.one_step(generator, torch.randn(n, 2, generator=rng)), DATA.sample(n, rng)])


class Rewards(NamedTuple):
    """trained   what a generator is trained on
    held_out  from other clicks, on other features (bumps)
    same      from those clicks, on features that are learnt as the trained one's are, from another seed
    """

    trained: Reward
    held_out: Reward
    same: Reward


def three_rewards(points: Tensor, seed: int = 0, n: int = 1000, steps: int = 400) -> Rewards:
    """Rewards of n clicks each on these points."""
    mine, others = clicks(points, n, seed), clicks(points, n, 1000 + seed)
    apart = dict(seed=1000 + seed, steps=steps)
    return Rewards(
        train_reward(mine, seed=seed, steps=steps),
        train_reward(others, radial=True, **apart),
        train_reward(others, **apart),
    )


# ---- feedback --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """reward: weight of the reward's term. hinge: nothing is gained above the threshold. keep: what is trained beside,
    as notebook 10 has it; None: nothing."""

    reward: float = 1.0
    hinge: bool = False
    keep: one.Setting | None = None


ADP = one.Setting((0.3, 0.3), adversarial=1.0, relativistic=True, true=True, penalty=0.05)
TABLE = {
    "reward alone": Setting(),
    "hinge": Setting(hinge=True),
    "ADP, no reward": Setting(0.0, keep=ADP),
    "reward + ADP": Setting(keep=ADP),
    "hinge + ADP": Setting(hinge=True, keep=ADP),
}


@dataclass(frozen=True)
class Seen:
    """One check. Rewards of the points that the same noises were taken to, [n] each, as `should_stop` reads them; and
    what is true of the points [n, 2]."""

    step: int
    trained: np.ndarray = field(repr=False)
    held_out: np.ndarray = field(repr=False)
    same: np.ndarray = field(repr=False)
    utility: float
    near: float
    coverage: float
    points: Tensor = field(repr=False)

    def to_dict(self) -> dict[str, float]:
        """Means, as plain numbers."""
        rewards = {name: float(getattr(self, name).mean()) for name in Rewards._fields}
        return rewards | dict(utility=self.utility, near=self.near, coverage=self.coverage)


def coverage(points: Tensor) -> float:
    """1 - total variation between the shares of the five blobs and a fifth each; a point near no blob covers none."""
    far, blob = torch.cdist(points, DATA.means).min(1)
    share = torch.bincount(blob[far < 3 * DATA.std[0]], minlength=5) / len(points)
    return float(share.clamp(max=0.2).sum())


@torch.no_grad()
def look(points: Tensor, rewards: Rewards, step: int = 0) -> Seen:
    """Everything that is watched, of points [n, 2]."""
    values = [reward(points)[0].double().numpy() for reward in rewards]
    return Seen(step, *values, float(utility(points).mean()), facts(points).near, coverage(points), points)


@dataclass(frozen=True)
class Run:
    """A generator after feedback, and every check on the way."""

    generator: Net = field(repr=False)
    seen: list[Seen] = field(repr=False)

    @property
    def stop(self) -> int | None:
        """The update at which the rule stops the run; None if it never does."""
        return next((s.step for k, s in enumerate(self.seen) if should_stop(self.seen[: k + 1])), None)

    @property
    def kept(self) -> Seen:
        """Of the checks up to the stop, the one with the largest held-out mean."""
        until = [seen for seen in self.seen if self.stop is None or seen.step <= self.stop]
        return max(until, key=lambda seen: seen.held_out.mean())


def threshold(reward: Reward) -> float:
    """The median reward of data: what the hinge asks for and no more."""
    with torch.no_grad():
        return float(reward(DATA.sample(2000, torch.Generator().manual_seed(8)))[0].median())


def feedback(
    generator: Net, setting: Setting, rewards: Rewards, *, seed: int = 0, updates: int = 300, noises: int = 500
) -> Run:
    """Train a copy of the generator on the first of the rewards; look at the same noises every few updates."""
    rng = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    student, critic, pairs, enough = deepcopy(generator), one.Critic(), one.ode_pairs(), threshold(rewards.trained)
    own, theirs = (torch.optim.Adam(net.parameters(), betas=(0.0, 0.99)) for net in (student, critic))
    fixed, seen = torch.randn(noises, 2, generator=torch.Generator().manual_seed(9)), []
    for i in range(updates + 1):
        if i % EVERY == 0:
            with torch.no_grad():
                seen.append(look(one.one_step(student, fixed), rewards, i))
        if i == updates:
            break
        rows = torch.randint(0, one.PAIRS, (BATCH,), generator=rng)
        noise, end = pairs[0][rows], pairs[1][rows]
        x0 = one.one_step(student, noise)
        mu, _ = rewards.trained(x0)
        loss = setting.reward * (reward_feedback_loss(mu, enough) if setting.hinge else -mu.mean())
        if setting.keep is not None:
            real = DATA.sample(BATCH, rng)
            t, fresh, n = 0.9 * torch.rand(BATCH, generator=rng), *torch.randn(2, BATCH, 2, generator=rng)
            apart, _ = one.critic_loss(critic, setting.keep, real, x0.detach(), t, fresh, n)
            update(theirs, apart, 2e-3)
            loss = loss + one.student_loss(critic, setting.keep, x0, end, real, t, fresh, setting.keep.regression[0])
        update(own, loss, LR)
    return Run(student, seen)


@torch.no_grad()
def best_of(generator: Net, reward: Reward, n: int = 4, noises: int = 500) -> Tensor:
    """For each of so many cases, of n points the one with the largest reward [noises, 2]; nothing is trained."""
    points = one.one_step(generator, torch.randn(n * noises, 2, generator=torch.Generator().manual_seed(9)))
    best = reward(points)[0].view(n, noises).argmax(0)
    return points.view(n, noises, 2)[best, torch.arange(noises)]


# ---- the table, with seeds -------------------------------------------------------------------------------------------

BEFORE, BEST, STOPPED = "before", "best of 4", "reward alone, stopped"


def measure(seeds: int = 3, updates: int = 300, noises: int = 1000) -> dict:
    """Every setting with every seed; a seed has a generator, clicks and rewards of its own."""
    rows = []
    for seed in range(seeds):
        generator = before(seed)
        rewards = three_rewards(compared(generator, seed), seed)
        runs = {
            name: feedback(generator, setting, rewards, seed=seed, updates=updates, noises=noises)
            for name, setting in TABLE.items()
        }
        alone = runs["reward alone"]
        seen = {BEFORE: alone.seen[0], BEST: look(best_of(generator, rewards.trained, noises=noises), rewards)}
        seen |= {STOPPED: alone.kept} | {name: run.seen[-1] for name, run in runs.items()}
        for name, last in seen.items():
            stop = runs[name].stop if name in runs else None
            rows.append(dict(name=name, seed=seed, stop=stop, **last.to_dict()))
            print(rows[-1], flush=True)
    how = dict(command="python -m hb.course.toy_reward", updates=updates, torch=torch.__version__)
    return dict(name="toy_reward", rows=rows, **how)


def against_before(record: dict, name: str, what: str) -> dict:
    """The mean over seeds of the difference to the generator before, with Student's 95% interval."""
    of = lambda name: {row["seed"]: row[what] for row in record["rows"] if row["name"] == name}
    ours, first = of(name), of(BEFORE)
    return t_interval([ours[seed] - first[seed] for seed in sorted(first)])


def names(record: dict) -> Sequence[str]:
    """Of the rows, in their order, each once; without the generator before."""
    return [name for name in dict.fromkeys(row["name"] for row in record["rows"]) if name != BEFORE]


def table(record: dict) -> str:
    """The generator before, and a line for each setting: mean difference to it (95% interval), and where the rule
    stops each seed."""
    first = {
        what: [f"{row[what]:.2f}" for row in record["rows"] if row["name"] == BEFORE]
        for what in ("utility", "coverage")
    }
    lines = [f"before: utility {', '.join(first['utility'])}; coverage {', '.join(first['coverage'])}", ""]
    lines.append(f"{'difference to before':22} {'utility':24} {'coverage':24} stops at")
    for name in names(record):
        cells = []
        for what in ("utility", "coverage"):
            got = against_before(record, name, what)
            cells.append(f"{got['value']:+.2f} ({got['low']:+.2f} to {got['high']:+.2f})")
        stops = [row["stop"] for row in record["rows"] if row["name"] == name]
        rule = ", ".join("-" if stop is None else str(stop) for stop in stops) if name in TABLE else ""
        lines.append(f"{name:22} {cells[0]:24} {cells[1]:24} {rule}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(command("hb.course.toy_reward", 11, measure, table, RESULT))
