"""Pictures from noise: Euler on a grid, guided, every function evaluation counted where it happens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from hb.flow import euler, multistep_consistency
from hb.guidance import OFF, Guidance, combine
from hb.infer.plan import SamplingPlan
from hb.infer.processor import seeds_of
from hb.infer.records import Clock, Pictures, joined
from hb.models.bagel import Bagel
from hb.models.conditioning import StudentModel
from hb.models.kv_cache import KVCache, stack


@dataclass
class Meter:
    """Counts rows that went through the denoiser. Nothing else may write to it."""

    rows: int = 0
    calls: int = 0


@dataclass(frozen=True)
class Contexts:
    """The three prefixes of guidance: everything; everything but the last text; all text but no picture."""

    full: KVCache
    no_text: KVCache | None = None
    no_image: KVCache | None = None


def metered(model: Bagel, meter: Meter):
    """`model.velocity`, counted: one evaluation for each row of each call."""

    def velocity(x, t, context, grid=None, **scales):
        meter.rows += len(x)
        meter.calls += 1
        return model.velocity(x, t, context, grid, **scales)

    return velocity


def guided_velocity(velocity, contexts: Contexts, guidance: Guidance = OFF, shape: tuple[int, int] | None = None):
    """A plain v(x, t) for `euler`: the branches that t needs, in one call of the model, combined.

    shape: token rows and columns of the picture.
    """
    stacked: dict[int, KVCache] = {}

    def branches(text: float, image: float) -> list[KVCache]:
        asked = [contexts.full]
        for scale, context, name in ((text, contexts.no_text, "text"), (image, contexts.no_image, "image")):
            if scale > 1:
                if context is None:
                    raise ValueError(
                        f"{name} guidance needs the context without the {name}; read it, or set the scale to 1"
                    )
                asked.append(context)
        return asked

    def v(x: Tensor, t: Tensor) -> Tensor:
        text, image = guidance.scales_at(float(t))
        asked = branches(text, image)
        n = len(asked)
        if n not in stacked:
            stacked[n] = asked[0] if n == 1 else stack(asked)
        out = velocity(x.repeat(n, 1, 1), t.to(x.device).expand(n * len(x)), stacked[n], shape)
        parts = list(out.chunk(n))
        return combine(
            parts[0],
            parts[1] if n > 1 else None,
            parts[2] if n > 2 else None,
            text_scale=text,
            image_scale=image,
            renorm=guidance.renorm,
            renorm_min=guidance.renorm_min,
        )

    return v


def folded(seed: int) -> int:
    """A seed of up to 64 bits in 32, which is what PyTorch's CPU generator takes: it drops the others. Small seeds stay
    as they are; larger ones are mixed (the finalizer of SplitMix64), so that their upper half counts too."""
    if 0 <= seed < 2**32:
        return seed
    z = seed % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return (z ^ z >> 31) % 2**32


def generator_of(seed: int) -> torch.Generator:
    """The CPU generator of a picture."""
    return torch.Generator().manual_seed(folded(seed))


def noise(count: int, tokens: int, width: int, seed: int | Sequence[int]) -> Tensor:
    """Starting noise, one CPU draw a picture from its own seed: a picture does not depend on its batch."""
    return torch.stack([torch.randn(tokens, width, generator=generator_of(s)) for s in seeds_of(seed, count)])


@torch.no_grad()
def sample(
    model: Bagel,
    contexts: Contexts,
    x: Tensor,
    grid: Tensor,
    guidance: Guidance = OFF,
    meter: Meter | None = None,
    shape: tuple[int, int] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (t, latent tokens) after each step, from noise x [B, tokens, values] at t = 1 to data at t = 0."""
    velocity = metered(model, meter if meter is not None else Meter())
    yield from euler(guided_velocity(velocity, contexts, guidance, shape), x.to(model.device), grid)


@torch.no_grad()
def sample_student(
    student: StudentModel,
    context: KVCache,
    x: Tensor,
    grid: Tensor,
    guidance: Guidance,
    meter: Meter | None = None,
    shape: tuple[int, int] | None = None,
    *,
    picture: bool = False,
    sampler: str = "euler",
    seeds: list[int] = (),
) -> Iterator[tuple[Tensor, Tensor]]:
    """As `sample`, by a student: one evaluation a step, the scales are inputs. Renorm and interval are part of what it
    was trained on. picture: is one edited? sampler "multistep": multistep consistency sampling, which adds new noise
    between guesses, from each picture's seed."""
    counted = metered(student, meter if meter is not None else Meter())
    x = x.to(student.device)
    scale = lambda value: torch.full((len(x),), float(value), device=x.device)
    scales = dict(text_scale=scale(guidance.text_scale), image_scale=scale(guidance.image_scale) if picture else None)
    velocity = lambda x, t: counted(x, t.to(x.device).expand(len(x)), context, shape, **scales)
    if sampler == "euler":
        yield from euler(velocity, x, grid)
        return
    step = count(1)

    def fresh(x0: Tensor) -> Tensor:
        number = next(step)
        return noise(len(x0), *x0.shape[1:], [(64 * folded(s) + number) % 2**32 for s in seeds]).to(x0)

    yield from multistep_consistency(velocity, x, grid, fresh)


def recorded(
    pixels: list[Tensor],
    latents: list[Tensor],
    order: Sequence[int],
    prompts: list[str],
    seeds: list[int],
    plan: SamplingPlan,
    clock: Clock,
    meter: Meter,
) -> Pictures:
    """The record of a call. Raises AssertionError if the meter disagrees with the plan."""
    nfe = meter.rows / len(prompts)
    if nfe != plan.nfe:
        raise AssertionError(f"metered {nfe} evaluations where the grid and guidance cost {plan.nfe}")
    latent = joined([latent.cpu() for latent in latents], order)
    return Pictures(
        joined(pixels, order), tuple(prompts), nfe, plan.steps, clock.seconds, tuple(seeds), latent, plan.student
    )
