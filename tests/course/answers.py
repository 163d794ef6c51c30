"""Right answers to every exercise, and what the wrong ones of `wrong_answers` are made of."""

import torch

from hb.course.chapters.ch03 import rope_positions
from hb.course.chapters.ch11 import BETAS
from hb.course.line import on_the_line, tilted
from hb.flow import interpolate, jump, time_grid, x0_from
from hb.guidance import Guidance
from hb.models.layers import RMSNorm
from hb.models.sequence import MODES, may_attend

ATTRIBUTES = ("shape", "color", "size", "texture", "place")


def _rms(x, weight, eps):
    norm = RMSNorm(x.size(-1), eps)
    norm.weight.data = weight
    return norm(x).detach()


def _mean_square(x, eps):
    return x.square().mean(-1, keepdim=True) + eps


def _look(lengths, kinds, **other):
    return may_attend(lengths, [other.get(k, MODES[k]) for k in kinds])


def _count(grid, low, high, extra):
    return Guidance(3.0, 3.0 if extra == 2 else 1.0, (low, high)).evaluations(grid)


def _length(x):
    return x.norm(dim=(1, 2), keepdim=True)


def _share(weights):
    return weights / weights.sum()


def _above(parents, first=1):
    """Ancestors; first=0 forgets that parents[0] = -1 is no node."""
    seen = torch.eye(len(parents), dtype=torch.bool)
    for i in range(first, len(parents)):
        seen[i] |= seen[parents[i]]
    return seen


def _parent_only(parents):
    return torch.tensor([[j == parent for j in range(len(parents))] for parent in parents])


def _values(confidence, parents):
    return torch.stack([confidence[row].prod() for row in _above(parents)])


def _kept(s, t):
    """Of a noised point, what the best guess of data N(0, s^2) keeps."""
    return (1 - t) * s**2 / ((1 - t) ** 2 * s**2 + t**2)


def _wanted(v, no_text, scale, inside, start=None, off=None):
    g = (no_text if start is None else start) + scale[:, None, None] * (v - no_text)
    return torch.where(inside[:, None, None], g, v if off is None else off)


def _further(x, t, s, velocity):
    return jump(x, velocity(x, t), t, s)


def _jump_by(x, asked_at, t, s, velocity):
    """The velocity of one time, for the step of another."""
    return jump(x, velocity(x, asked_at), t, s)


def _says(thing, wish):
    return {a: getattr(wish, a) for a in ATTRIBUTES if getattr(wish, a) is not None}


def _click(ahead, spread, careful, coin):
    return careful * torch.special.ndtr(ahead / spread) + coin


def _refl(x, reward, threshold, blind=False):
    """blind: no gradient passes through the reward."""
    mu = reward(x.detach()) if blind else reward(x)
    return (threshold - mu).relu().mean()


def _best_beta():
    log_p, true, learnt = on_the_line()
    return max(BETAS, key=lambda beta: float((tilted(log_p, learnt, beta) * true).sum()))


def _begin_alike(a, b):
    count = 0
    while count < min(len(a), len(b)) and a[count] == b[count]:
        count += 1
    return count


def _flat(blocks):
    return [token for _, tokens in blocks for token in tokens]


def _kept_blocks(before, after, only=None):
    """only: forget that blocks of another mode stay whole where they are equal."""
    kept = 0
    for (mode, old), (new_mode, new) in zip(before, after):
        if mode != new_mode:
            break
        if old != new:
            return kept + (_begin_alike(old, new) if mode == "text" else 0)
        kept += len(old) if only in (None, mode) else 0
    return kept


def _newest(arrivals, service, oldest=False):
    """By a walk from job to job, where the chapter's goes from key to key. oldest: the first one that waits."""
    done, now, left = [], 0.0, list(range(len(arrivals)))
    while left:
        there = [i for i in left if arrivals[i] <= now] or left[:1]
        chosen = there[0 if oldest else -1]
        now = max(now, arrivals[chosen]) + service
        done.append((chosen, now))
        left = [i for i in left if i > (there[-1] if oldest else chosen)]
    return done


def _in_turn(arrivals, service):
    done, free = [], 0.0
    for i, at in enumerate(arrivals):
        free = max(free, at) + service
        done.append((i, free))
    return done


def _stopped_early(arrivals, service):
    """A newer request stops the job that runs."""
    after = [*arrivals[1:], float("inf")]
    return [(i, at + service) for i, (at, then) in enumerate(zip(arrivals, after)) if at + service <= then]


RIGHT = {
    "0.1": lambda steps, branches: steps * branches,
    "0.2": 132 / 6,
    "1.1": 8 * 2 * 2 * 5,
    "1.2": lambda thing, wish: all(getattr(thing, a) == v for a, v in _says(thing, wish).items()),
    "1.3": lambda p, q: sum(abs(p[k] - q[k]) for k in p) / 2,
    "2.1": interpolate,
    "2.2": x0_from,
    "2.3": jump,
    "2.4": time_grid,
    "3.1": _rms,
    "3.4": _look,
    "3.2": lambda lengths, kinds: rope_positions(kinds, lengths),
    "3.3": lambda kind: "generation" if kind in ("vae", "noise") else "understanding",
    "4.1": lambda v, no_text, scale: no_text + scale * (v - no_text),
    "4.3": _count,
    "4.4": lambda a, b: 1 + b * (a - 1),
    "4.2": lambda v, g: g * (_length(v) / _length(g)).clamp(max=1),
    "5.1": lambda p, q: torch.minimum(p, q).sum(),
    "5.2": lambda p, q: _share((p - q).clamp_min(0)),
    "5.3": lambda alpha, g: (1 - alpha ** (g + 1)) / (1 - alpha),
    "6.1": lambda parents: _above(parents),
    "6.2": lambda confidence, parents: _values(confidence, parents).sum(),
    "6.3": lambda tokens, cost, reach, extra: (tokens + reach) / (cost + extra) > tokens / cost,
    "7.1": lambda v, no_text, scale, t, low: _wanted(v, no_text, scale, t > low),
    "7.2": lambda said, v, no_text: ((said - no_text) * (v - no_text)).sum() / (v - no_text).square().sum(),
    "7.3": (4 + 3) / 2,
    "8.1": lambda x_t, x_s, t, s: (x_s - x_t) / (s - t)[:, None],
    "8.2": lambda n, fine, segments: (n // (fine // segments) + 1) * (fine // segments),
    "8.3": lambda n, edge, share: n + 1 + int(share * (edge - n)),
    "8.4": lambda x, t, m, e, teacher, slow: _further(_further(x, t, m, teacher), m, e, slow),
    "9.1": lambda x0, real, fake: (fake - real) / (x0 - real).abs().mean((1, 2), keepdim=True),
    "9.2": lambda s, t: s**2 * (1 - t) / t,
    "9.3": lambda t, grid: (grid > t[:, None]).sum(1) - 1,
    "10.1": 0.1 ** (1 / 3),
    "10.2": lambda real, fake: (1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean(),
    "10.3": lambda d, x, n, scale: ((d(x + scale * n) - d(x)) / scale).square().mean(),
    "11.1": lambda ahead, noise, careless: _click(ahead, 2**0.5 * noise, 1 - careless, careless / 2),
    "11.2": lambda m, s, a, beta: (m + a * s**2 / beta, s),
    "11.3": _best_beta(),
    "11.4": lambda generator, reward, z, threshold: _refl(generator(z), reward, threshold),
    "12.1": lambda before, after: _kept_blocks(before, after),
    "12.2": lambda arrivals, service: _newest(arrivals, service),
    "12.3": lambda same, fresh, first, second: (fresh - same) / 2 / (first**0.5 * second**0.5),
}
