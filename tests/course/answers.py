"""Right answers to every exercise, and plausible wrong ones."""

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
}
WRONG = {
    "0.1": [lambda s, b: s, lambda s, b: s + b, lambda s, b: (s - 1) * b, lambda s, b: s * b / 2],
    "0.2": [6 / 132, 126, 100 / 6, "22", 21],
    "1.1": [80, 32, 1280, 8 * 2, 7],
    "1.2": [
        lambda thing, wish: all(getattr(thing, a) == getattr(wish, a) for a in ATTRIBUTES),
        lambda thing, wish: wish.shape in (None, thing.shape),
        lambda thing, wish: any(getattr(thing, a) == v for a, v in _says(thing, wish).items()),
        lambda thing, wish: True,
    ],
    "1.3": [
        lambda p, q: sum(abs(p[k] - q[k]) for k in p),
        lambda p, q: sum((p[k] - q[k]) ** 2 for k in p),
        lambda p, q: sum(p[k] - q[k] for k in p),
        lambda p, q: max(p.values()),
    ],
    "2.1": [
        lambda x0, eps, t: interpolate(eps, x0, t),
        lambda x0, eps, t: (1 - t[:, None]) * x0,
        lambda x0, eps, t: (1 - t) * x0 + t * eps,
        lambda x0, eps, t: x0 + t[:, None] * eps,
    ],
    "2.2": [
        lambda x, v, t: x - t * v,
        lambda x, v, t: x + t[:, None] * v,
        lambda x, v, t: x - v,
        lambda x, v, t: x + (1 - t[:, None]) * v,
        lambda x, v, t: x,
    ],
    "2.3": [
        lambda x, v, t, s: x + (t - s) * v,
        lambda x, v, t, s: x - t * v,
        lambda x, v, t, s: x - v,
        lambda x, v, t, s: x + s * v,
    ],
    "2.4": [
        lambda n, shift: time_grid(6, shift),
        lambda n, shift: shift * (r := torch.linspace(1, 0, 7)) / (1 + (shift - 1) * r),
        lambda n, shift: time_grid(n, shift)[:-1],
        lambda n, shift: time_grid(n - 1, shift),
        lambda n, shift: time_grid(n, shift).flip(0),
        lambda n, shift: torch.linspace(1, 0, n + 1),
        lambda n, shift: shift * torch.linspace(1, 0, n + 1),
        lambda n, shift: time_grid(n, 1 / shift),
    ],
    "3.1": [
        lambda x, w, e: torch.layer_norm(x, (x.size(-1),), w, None, e),
        lambda x, w, e: w * x / _mean_square(x, e),
        lambda x, w, e: x / _mean_square(x, e).sqrt(),
        lambda x, w, e: w * x / (_mean_square(x, 0.0).sqrt() + e),
    ],
    "3.4": [
        lambda n, k: _look(n, k, vit="causal"),
        lambda n, k: _look(n, k, vae="causal"),
        lambda n, k: _look(n, k).T,
        lambda n, k: _look(n, k, noise="full"),
        lambda n, k: _look(n, k, text="full"),
        lambda n, k: torch.ones(sum(n), sum(n)).tril(),
        lambda n, k: torch.ones(2, 2),
    ],
    "3.2": [
        lambda n, k: rope_positions(["noise" if i == "vit" else i for i in k], n),
        lambda n, k: rope_positions(["noise" if i == "vae" else i for i in k], n),
        lambda n, k: list(range(sum(n))),
        lambda n, k: rope_positions(["vae" if i == "noise" else i for i in k], n),
        lambda n, k: [i + 1 for i in rope_positions(k, n)],
    ],
    "3.3": [
        lambda kind: "understanding" if kind == "text" else "generation",
        lambda kind: "generation" if kind == "noise" else "understanding",
        lambda kind: kind,
    ],
    "4.1": [lambda v, n, s: v + s * (v - n), lambda v, n, s: n + s * (n - v), lambda v, n, s: s * v, lambda v, n, s: v],
    "4.3": [
        lambda grid, low, high, extra: 50 * (1 + extra),
        lambda grid, low, high, extra: _count(grid, low, high, extra) + 1,
        lambda grid, low, high, extra: sum(low < float(t) <= high for t in grid[:-1]) * extra,
        lambda grid, low, high, extra: _count(grid, low, high, extra) - extra,
    ],
    "4.4": [lambda a, b: a * b, lambda a, b: a + b, lambda a, b: 1 + a * (b - 1), lambda a, b: 1 + (a - 1) * (b - 1)],
    "4.2": [
        lambda v, g: g * (_length(v) / _length(g)),
        lambda v, g: g * (v.norm(dim=2, keepdim=True) / g.norm(dim=2, keepdim=True)).clamp(max=1),
        lambda v, g: v,
        lambda v, g: g,
    ],
    "5.1": [
        lambda p, q: (p * q).sum(),
        lambda p, q: (p / q).clamp(max=1).mean(),
        lambda p, q: (p * (p / q).clamp(max=1)).sum(),
        lambda p, q: (p - q).abs().sum() / 2,
        lambda p, q: torch.minimum(p, q),
        lambda p, q: 1.0,
    ],
    "5.2": [
        lambda p, q: (p - q).clamp_min(0),
        lambda p, q: p,
        lambda p, q: _share((q - p).clamp_min(0)),
        lambda p, q: _share((p - q).abs()),
        lambda p, q: (p - q).softmax(-1),
        lambda p, q: _share(p * (p > q)),
    ],
    "5.3": [
        lambda alpha, g: (1 - alpha**g) / (1 - alpha),
        lambda alpha, g: alpha * (1 - alpha**g) / (1 - alpha),
        lambda alpha, g: 1 + g * alpha,
        lambda alpha, g: 1 / (1 - alpha),
        lambda alpha, g: 1 + g * alpha**g,
        lambda alpha, g: (1 - alpha) ** (g + 1) / (1 - alpha),
    ],
    "6.1": [
        lambda parents: _above(parents).T,
        lambda parents: _above(parents) & ~torch.eye(len(parents), dtype=torch.bool),
        lambda parents: torch.eye(len(parents), dtype=torch.bool) | _parent_only(parents),
        lambda parents: torch.ones(len(parents), len(parents)).tril(),
        lambda parents: _above(parents, first=0),
        lambda parents: torch.eye(len(parents)),
    ],
    "6.2": [
        lambda confidence, parents: confidence.sum(),
        lambda confidence, parents: _values(confidence, parents).sum() - 1,
        lambda confidence, parents: _values(confidence, parents).sum() + 1,
        lambda confidence, parents: 1 + sum(v for i, v in enumerate(_values(confidence, parents)) if i not in parents),
        lambda confidence, parents: max((_values(confidence, parents) * row).sum() for row in _above(parents)),
        lambda confidence, parents: confidence.prod(),
        lambda confidence, parents: _values(confidence, parents),
    ],
    "6.3": [
        lambda tokens, cost, reach, extra: reach > extra,
        lambda tokens, cost, reach, extra: tokens + reach > cost + extra,
        lambda tokens, cost, reach, extra: reach > 0,
        lambda tokens, cost, reach, extra: reach / extra > cost / tokens,
        lambda tokens, cost, reach, extra: (tokens + reach) / (cost + extra) <= tokens / cost,
        lambda tokens, cost, reach, extra: False,
    ],
    "7.1": [
        lambda v, n, s, t, low: _wanted(v, n, s, t > -1),
        lambda v, n, s, t, low: _wanted(v, n, s, t <= low),
        lambda v, n, s, t, low: _wanted(v, n, s, t >= low),
        lambda v, n, s, t, low: _wanted(v, n, s, t > low, start=v),
        lambda v, n, s, t, low: _wanted(v, n, s, t > low, off=n),
        lambda v, n, s, t, low: n + s * (v - n),
        lambda v, n, s, t, low: _wanted(v, n, s[:1].expand(4), t > low),
        lambda v, n, s, t, low: v,
    ],
    "7.2": [
        lambda said, v, n: ((said - v) * (v - n)).sum() / (v - n).square().sum(),
        lambda said, v, n: (said - n).norm() / (v - n).norm(),
        lambda said, v, n: ((said - n) * (v - n)).sum() / (v - n).norm(),
        lambda said, v, n: ((said - n) * (n - v)).sum() / (v - n).square().sum(),
        lambda said, v, n: (said * (v - n)).sum() / (v - n).square().sum(),
        lambda said, v, n: ((said - n) / (v - n)).mean(),
        lambda said, v, n: ((said - n) * (v - n)).sum(1) / (v - n).square().sum(1),
    ],
    "7.3": [3.0, 4.0, 1.0, 3.75, 2.5, 5, "3.5"],
    "8.1": [
        lambda x_t, x_s, t, s: (x_s - x_t) / (s - t),
        lambda x_t, x_s, t, s: (x_t - x_s) / (s - t)[:, None],
        lambda x_t, x_s, t, s: x_t - x_s,
        lambda x_t, x_s, t, s: (x_s - x_t) * (s - t)[:, None],
        lambda x_t, x_s, t, s: (x_t - x_s) / t[:, None],
        lambda x_t, x_s, t, s: (x_s - x_t) / (s - t),
        lambda x_t, x_s, t, s: x_s,
    ],
    "8.2": [
        lambda n, fine, k: n // (fine // k) * (fine // k),
        lambda n, fine, k: -(-n // (fine // k)) * (fine // k),
        lambda n, fine, k: (n // (fine // k) + 1) * (fine // k) - 1,
        lambda n, fine, k: n // (fine // k) + 1,
        lambda n, fine, k: (n // k + 1) * k,
        lambda n, fine, k: fine,
        lambda n, fine, k: n + fine // k,
    ],
    "8.3": [
        lambda n, edge, share: n + int(share * (edge - n)),
        lambda n, edge, share: n + int(share * (edge - n + 1)),
        lambda n, edge, share: n + 1 + int(share * (edge - n - 1)),
        lambda n, edge, share: edge,
        lambda n, edge, share: n + 1 + share * (edge - n),
        lambda n, edge, share: n + 1 + round(share * (edge - n - 1)),
        lambda n, edge, share: int(share * edge),
    ],
    "8.4": [
        lambda x, t, m, e, teacher, slow: _jump_by(_further(x, t, m, teacher), t, m, e, slow),
        lambda x, t, m, e, teacher, slow: jump(_further(x, t, m, teacher), slow(x, t), m, e),
        lambda x, t, m, e, teacher, slow: jump(x, slow(_further(x, t, m, teacher), m), m, e),
        lambda x, t, m, e, teacher, slow: _further(x, t, e, slow),
        lambda x, t, m, e, teacher, slow: _further(_further(x, t, m, teacher), m, e, teacher),
        lambda x, t, m, e, teacher, slow: _further(_further(x, t, m, slow), m, e, teacher),
        lambda x, t, m, e, teacher, slow: _further(x, t, m, teacher),
    ],
    "9.1": [
        lambda x0, real, fake: (real - fake) / (x0 - real).abs().mean((1, 2), keepdim=True),
        lambda x0, real, fake: fake - real,
        lambda x0, real, fake: (fake - real) / (x0 - real).abs().mean(),
        lambda x0, real, fake: (fake - real) / (x0 - real).abs().mean(0, keepdim=True),
        lambda x0, real, fake: (fake - real) / (x0 - fake).abs().mean((1, 2), keepdim=True),
        lambda x0, real, fake: (fake - real) / (x0 - real).abs(),
        lambda x0, real, fake: (fake - real) / (x0 - real).flatten(1).norm(dim=1)[:, None, None],
        lambda x0, real, fake: fake - x0,
    ],
    "9.2": [
        lambda s, t: s,
        lambda s, t: _kept(s, t) * t,
        lambda s, t: _kept(s, t) * t / (1 - _kept(s, t)),
        lambda s, t: s**2 * t / (1 - t),
        lambda s, t: (1 - t) / t,
        lambda s, t: s * (1 - t) / t,
        lambda s, t: 1 - t,
    ],
    "9.3": [
        lambda t, grid: (grid >= t[:, None]).sum(1) - 1,
        lambda t, grid: (grid > t[:, None]).sum(1),
        lambda t, grid: (grid <= t[:, None]).sum(1),
        lambda t, grid: (grid - t[:, None]).abs().argmin(1),
        lambda t, grid: ((len(grid) - 1) * (1 - t)).long(),
        lambda t, grid: grid[(grid > t[:, None]).sum(1) - 1],
        lambda t, grid: 0,
    ],
    "10.1": [0.1, 0.9 ** (1 / 3), 46.4, 0.001, 0.3, "half"],
    "10.2": [
        lambda real, fake: (1 + real).clamp(min=0).mean() + (1 - fake).clamp(min=0).mean(),
        lambda real, fake: (1 - real).mean() + (1 + fake).mean(),
        lambda real, fake: (1 - real).clamp(min=0).sum() + (1 + fake).clamp(min=0).sum(),
        lambda real, fake: (1 - real).clamp(min=0) + (1 + fake).clamp(min=0),
        lambda real, fake: fake.mean() - real.mean(),
    ],
    "10.3": [
        lambda d, x, n, scale: (d(x + scale * n) - d(x)).square().mean(),
        lambda d, x, n, scale: (d(x + n) - d(x)).square().mean(),
        lambda d, x, n, scale: ((d(x + scale * n) - d(x)) / scale).mean(),
        lambda d, x, n, scale: ((d(x + scale * n) - d(x)) / scale).abs().mean(),
        lambda d, x, n, scale: ((d(x + scale * n) - d(x)).square() / scale).mean(),
    ],
    "11.1": [
        lambda ahead, noise, careless: _click(ahead, 2**0.5 * noise, 1, 0),
        lambda ahead, noise, careless: _click(ahead, noise, 1 - careless, careless / 2),
        lambda ahead, noise, careless: _click(ahead, 2 * noise, 1 - careless, careless / 2),
        lambda ahead, noise, careless: _click(ahead, 2**0.5 * noise, 1 - careless, careless),
        lambda ahead, noise, careless: _click(ahead, 2**0.5 * noise, 1 - careless, 0),
        lambda ahead, noise, careless: _click(ahead, 2**0.5 * noise, 1, careless / 2),
        lambda ahead, noise, careless: _click(-ahead, 2**0.5 * noise, 1 - careless, careless / 2),
        lambda ahead, noise, careless: torch.sigmoid(ahead / noise),
    ],
    "11.2": [
        lambda m, s, a, beta: (m + a / beta, s),
        lambda m, s, a, beta: (m + a * s / beta, s),
        lambda m, s, a, beta: (m + a * s**2 * beta, s),
        lambda m, s, a, beta: (m + a * s**2 / (2 * beta), s),
        lambda m, s, a, beta: (m + a * s**2 / beta, s**2),
        lambda m, s, a, beta: m + a * s**2 / beta,
    ],
    "11.3": [beta for beta in BETAS if beta != _best_beta()] + ["the largest"],
    "11.4": [
        lambda generator, reward, z, threshold: (threshold - reward(generator(z)).mean()).relu(),
        lambda generator, reward, z, threshold: _refl(generator(z), reward, threshold, blind=True),
        lambda generator, reward, z, threshold: _refl(generator(z), reward, threshold).detach(),
        lambda generator, reward, z, threshold: (reward(generator(z)) - threshold).relu().mean(),
        lambda generator, reward, z, threshold: (threshold - reward(generator(z))).relu().sum(),
        lambda generator, reward, z, threshold: (threshold - reward(generator(z))).relu(),
    ],
}
