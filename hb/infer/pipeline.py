"""What a user calls: load a model, draw, edit, ask. Each call goes from `processor` over `plan` to a record."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from hb.infer import limits
from hb.infer.artifacts import DraftCheckpoint, PixelDecoderCheckpoint, RewardCheckpoint, Student, fingerprint
from hb.infer.cache import Cache, version_of
from hb.infer.folders import DECODER, SHIPPED, STUDENTS, ModelFolder, is_shipped
from hb.infer.fused import FastText, decode_fast
from hb.infer.fused_student import FusedStudent
from hb.infer.image import Contexts, Meter, generator_of, noise, recorded, sample, sample_student
from hb.infer.plan import Sampling, SamplingPlan, make_plan, student_for
from hb.infer.processor import Processor, grouped_by_size, paired, real, seed_of, seeds_of, texts_of, whole
from hb.infer.records import Answers, Clock, Pictures
from hb.infer.relay import AND, RelayModel, student_of
from hb.infer.speculative.decode import Decoded, Prefill, decode_speculative, read_picture_and_text
from hb.infer.speculative.draft import open_draft
from hb.infer.speculative.plan import Plan
from hb.infer.speculative.runner import DraftModel
from hb.infer.text import decode
from hb.models.bagel import Bagel
from hb.models.conditioning import StudentModel
from hb.models.distribution import TokenDistribution
from hb.models.rewards import RewardModel
from hb.models.tokenizer import Text

__all__ = ["DECODER", "SHIPPED", "STUDENTS", "Answers", "Model", "Pictures", "Sampling", "load"]
_WARNED: set[tuple[str, str | None, str]] = set()  # weights, student and cell that a warning was given of
FUSED_AT_MOST = 10**9  # parameters: the fused text path is a copy of its weights, and a large model has no room for two


class Model(ModelFolder):
    """A loaded model. `draw`, `edit` and `ask` take one thing or a list, and give one record for all.

    students       distilled denoisers by name
    draft          guesses ahead in answers; None: one token a pass
    pixel_decoder  turns latents into pixels; None: the autoencoder's own decoder does
    rewards        what people prefer, by name: `open_reward`
    """

    def __init__(
        self,
        bagel: Bagel,
        text: Text | None,
        sampling: Sampling = Sampling(),
        name: str = "model",
        draft: DraftCheckpoint | None = None,
        students: Mapping[str, Student] | None = None,
        pixel_decoder: PixelDecoderCheckpoint | None = None,
        rewards: Mapping[str, RewardCheckpoint] | None = None,
    ):
        self.bagel, self.text, self.sampling, self.name = bagel, text, sampling, name
        self.draft, self.students, self.pixel_decoder = draft, dict(students or {}), pixel_decoder
        self.rewards = dict(rewards or {})
        self._made = Cache()

    def __repr__(self) -> str:
        millions = sum(p.numel() for p in self.bagel.parameters()) / 1e6
        return f"<hb model {self.name}: {millions:.1f} M parameters on {self.bagel.device}>"

    @property
    def processor(self) -> Processor:
        return Processor(self.bagel.config, self.text)

    # ---- drawing and editing ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def draw(
        self,
        prompts: str | Sequence[str],
        *,
        nfe: int | None = None,
        steps: int | None = None,
        seed: int | Sequence[int] = 0,
        text_scale: float | None = None,
        size: tuple[int, int] | None = None,
        released_steps: bool = False,
        sampling: Sampling | None = None,
        student: str | None = None,
        warn: bool = True,
    ) -> Pictures:
        """Draw one picture for each prompt.

        nfe          function evaluations a picture may cost: 100 is the teacher's 50 guided steps, 6 a distilled
                     student's
        steps        or say the steps instead, and what they cost is metered
        student      a distilled denoiser by its name in `students`; "teacher": none. Left out, the one that serves this
                     nfe
        text_scale   guidance, 1 is off; default: the preset's
        seed         of the first picture, the next ones count on; or one for each picture
        size         (height, width) in pixels; default: the preset's
        released_steps   the published code's grid: one step fewer than it says (98 evaluations for 100)
        warn         warn once, by `warnings`, of a kind of prompt that these weights were measured to draw wrong more
                     often than right
        """
        how = dict(nfe=nfe, steps=steps, text_scale=text_scale, released_steps=released_steps, student=student)
        prompts = texts_of(prompts, "prompt")
        seeds = seeds_of(seed, len(prompts))
        plan = self.plan("draw", sampling=sampling, **how)
        if warn:
            self._warn_of_limits(prompts, plan)
        height, width = (whole(side, "size", 1) for side in size or (self.processor.side,) * 2)
        shape = self.bagel.latent_grid(height, width)
        clock, meter = Clock(self.bagel.device), Meter()
        with clock("prefill"):
            ids = self.processor.encode(prompts)
            _, full = self.bagel.read_text(self.bagel.empty(len(prompts)), ids)
            contexts = Contexts(full, no_text=self.bagel.empty(len(prompts)), no_image=full)
        latent = self._denoise(contexts, plan, shape, seeds, clock, meter)
        with clock("decode picture"):
            pixels = self.decode_pictures(latent, shape)
        return recorded([pixels], [latent], range(len(prompts)), prompts, seeds, plan, clock, meter)

    @torch.no_grad()
    def edit(
        self,
        pictures,
        instructions: str | Sequence[str],
        *,
        nfe: int | None = None,
        steps: int | None = None,
        seed: int | Sequence[int] = 0,
        text_scale: float | None = None,
        image_scale: float | None = None,
        released_steps: bool = False,
        sampling: Sampling | None = None,
        student: str | None = None,
    ) -> Pictures:
        """Change each picture as its instruction says; one of either goes with all of the other.

        pictures   PIL images, a tensor [B, 3, H, W] in [0, 1], or a `Pictures` record; their sizes may differ
        nfe        132 is the teacher's 50 steps, guided by text and picture where t > 0.4; the rest as in `draw`
        """
        how = dict(nfe=nfe, steps=steps, released_steps=released_steps, student=student)
        how |= dict(text_scale=text_scale, image_scale=image_scale)
        instructions = texts_of(instructions, "instruction")
        given, instructions = paired(self.processor.pictures(pictures), instructions, "instruction")
        seeds = seeds_of(seed, len(given))
        plan = self.plan("edit", sampling=sampling, **how)
        ids = self.processor.encode(instructions)
        clock, meter = Clock(self.bagel.device), Meter()
        groups, pixels, latents = grouped_by_size(given), [], []
        for group in groups:
            batch, own = torch.stack([given[i] for i in group]), [seeds[i] for i in group]
            shape = self.bagel.latent_grid(*batch.shape[-2:])
            with clock("prefill"):
                contexts = self.read_for_editing(batch, [ids[i] for i in group], own, plan, shape)
            latents.append(self._denoise(contexts, plan, shape, own, clock, meter, picture=True))
            with clock("decode picture"):
                pixels.append(self.decode_pictures(latents[-1], shape))
        return recorded(pixels, latents, sum(groups, []), instructions, seeds, plan, clock, meter)

    def read_for_editing(self, pixels: Tensor, ids, seeds: Sequence[int], plan: SamplingPlan, shape) -> Contexts:
        """The picture, then the instruction; and without either."""
        seen = self.read_source(pixels, seeds, plan, shape)
        _, full = self.bagel.read_text(seen, ids)
        if plan.student is not None:
            return Contexts(full)
        _, no_image = self.bagel.read_text(self.bagel.empty(len(pixels)), ids)
        return Contexts(full, no_text=seen, no_image=no_image)

    def read_source(self, pixels: Tensor, seeds: Sequence[int], plan: SamplingPlan, shape: tuple[int, int]) -> KVCache:
        """What every edit of these pictures [B, 3, H, W] in [-1, 1] begins with: the picture as a latent and, unless
        the student does without, through the vision encoder."""
        bagel = self.bagel
        latent = bagel.encode(pixels, [generator_of(s) for s in seeds])
        seen = bagel.read_latent(bagel.empty(len(pixels)), latent, shape)
        return bagel.see(seen, self.processor.for_vision(pixels))[1] if plan.reads_vision else seen

    def _denoise(
        self,
        contexts: Contexts,
        plan: SamplingPlan,
        shape: tuple[int, int],
        seeds: list[int],
        clock: Clock,
        meter: Meter,
        picture: bool = False,
    ) -> Tensor:
        """From noise to latent tokens [B, n, values]."""
        with clock("denoise"):
            *_, (_, x) = self.denoising(contexts, plan, shape, seeds, meter, picture)
        return x

    def denoising(
        self,
        contexts: Contexts,
        plan: SamplingPlan,
        shape: tuple[int, int],
        seeds: list[int],
        meter: Meter,
        picture: bool = False,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """(t, latent tokens [B, n, values]) after each step from noise. picture: is one edited?"""
        x = noise(len(seeds), shape[0] * shape[1], self.bagel.config.latent_width, seeds)
        if plan.student is None:
            return sample(self.bagel, contexts, x, plan.grid, plan.guidance, meter, shape)
        student, how = self.open_student(plan.student), dict(sampler=plan.sampler, seeds=seeds)
        return sample_student(student, contexts.full, x, plan.grid, plan.guidance, meter, shape, picture=picture, **how)

    def decode_pictures(self, tokens: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Latent tokens [B, n, values] to pictures [B, 3, H, W] in [0, 1], by the pixel decoder if there is one."""
        chosen, decoder = self.pixel_decoder, None
        if chosen is not None:
            decoder = self._made.get("pixel decoder", chosen, lambda: chosen.open(self.bagel))
        return (self.bagel.decode(tokens, grid, decoder).float() / 2 + 0.5).clamp(0, 1).cpu()

    def _warn_of_limits(self, prompts: Sequence[str], plan: SamplingPlan) -> None:
        """Say once of each cell of `hb eval complex` what it is known to come to, if that is less than half."""
        for cell, words in self.limits_of(prompts, plan).items():
            known = (self.fingerprint(), self._student_fingerprint(plan.student), cell)
            if known not in _WARNED:
                _WARNED.add(known)
                warnings.warn(words, limits.DrawingWarning, stacklevel=4)

    def limits_of(self, prompts: Sequence[str], plan: SamplingPlan) -> dict[str, str]:
        """The cells of `hb eval complex` that these prompts belong to and that are drawn wrong more often than right,
        each with a sentence that says so and which model is better. None for a model not of the tiny world."""
        if self.bagel.config.picture_side is None:
            return {}
        size = sum(p.numel() for p in self.bagel.parameters())
        who = dict(weights=self.fingerprint, parameters=size, student=self._student_fingerprint(plan.student))
        weak = limits.weak_cells(limits.cells_of(prompts), nfe=plan.nfe, **who)
        return {cell: limits.in_words(cell, *known, self.fingerprint()) for cell, known in weak.items()}

    def fingerprint(self) -> str:
        """Of all weights; made again when they have changed since."""
        version = version_of(self.bagel.parameters())
        return self._made.get("fingerprint", version, lambda: fingerprint(self.bagel), same=operator.eq)

    def _student_fingerprint(self, name: str | None) -> str | None:
        """None of the teacher's, which has none of its own."""
        student = name and self.student(name)
        return student and self._made.get(f"fingerprint of {name}", student, student.fingerprint)

    def plan(self, verb: str, *, sampling: Sampling | None = None, **options) -> SamplingPlan:
        """What these options of `draw` or `edit` (verb) come to: see `hb.infer.plan.make_plan`."""
        return make_plan(verb, sampling or self.sampling, self.students, **options)

    def student_for(self, name: str | None, nfe: int | None = None) -> str | None:
        """The student that is meant by this name or this nfe; None: the teacher."""
        return student_for(name, self.students, nfe)

    def student(self, name: str) -> Student:
        """The student of this name, or the relay of two: see `hb.infer.relay`. Raises ValueError if there is none."""
        made_of = [self.students.get(part) for part in name.split(AND)]
        same = lambda a, b: all(map(operator.is_, a, b))
        return self._made.get(f"which is {name}", made_of, lambda: student_of(name, self.students), same=same)

    def open_student(self, name: str) -> StudentModel | RelayModel:
        """A student's denoiser, its weights in place beside the teacher's."""
        student = self.student(name)
        return self._made.get(f"student {name}", student, lambda: student.open(self.bagel))

    def open_reward(self, name: str) -> RewardModel:
        """A reward of this name, its head in place beside the model. Raises ValueError if there is none."""
        if name not in self.rewards:
            there = f"there are {', '.join(self.rewards)}" if self.rewards else "there is none"
            raise ValueError(f"no reward called {name!r}: {there}; train one: hb train reward")
        reward = self.rewards[name]
        return self._made.get(f"reward {name}", reward, lambda: reward.open(self.bagel))

    def fast_student(self, name: str) -> FusedStudent:
        """The same on the fused path, for one picture at a time."""
        made_of = self.open_student(name), self.fast_text()
        same = lambda a, b: a[0] is b[0] and a[1] is b[1]
        return self._made.get(f"fused student {name}", made_of, lambda: FusedStudent(*made_of), same=same)

    # ---- asking -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def ask(
        self,
        pictures,
        questions: str | Sequence[str],
        *,
        max_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float = 1.0,
        seed: int = 0,
        speculate: bool | Plan = True,
    ) -> Answers:
        """Answer a question about each picture, greedily unless a temperature is given; one of either goes with all of
        the other.

        top_k, top_p, repetition_penalty   as in `transformers`; the penalty counts the answer's own tokens
        speculate   let the draft model guess ahead, if the model has one: the same words, or at a temperature words of
                    the same distribution, in fewer passes. True: as much as was tuned; a Plan: that much; False: one by
                    one
        """
        questions = texts_of(questions, "question")
        given, questions = paired(self.processor.pictures(pictures), questions, "question")
        max_tokens, seed = whole(max_tokens, "max_tokens", 1), seed_of(seed)
        distribution = TokenDistribution(
            real(temperature, "temperature"),
            None if top_k is None else whole(top_k, "top_k"),
            None if top_p is None else real(top_p, "top_p"),
            real(repetition_penalty, "repetition_penalty"),
        )
        plan = self._speculation(speculate, distribution)
        how = dict(max_tokens=max_tokens, distribution=distribution, generator=generator_of(seed))
        clock, rows, passes, cycles = Clock(self.bagel.device), {}, 0, []
        for group in grouped_by_size(given):
            with clock("prefill"):
                read = self.read_for_asking(torch.stack([given[i] for i in group]), [questions[i] for i in group])
            with clock("decode text"):
                done = self._decode(read, plan, **how)
            rows |= dict(zip(group, done.tokens))
            passes, cycles = passes + done.passes, cycles + (done.cycles if plan else [])
        texts = tuple(self.text.decode(rows[i]) for i in range(len(given)))
        longest = min(max(map(len, rows.values())) + 1, max_tokens)
        return Answers(texts, tuple(questions), longest, passes, clock.seconds, tuple(cycles), seed)

    def _decode(self, read: Prefill, plan: Plan | None, **how) -> Decoded:
        """Answers to what was read, by the fastest path that there is."""
        if plan is not None:
            return decode_speculative(self.fast_text(), self.fast_draft(), read, plan=plan, **how)
        if self.is_small():
            rows, passes = decode_fast(self.fast_text(), read.context, **how)
        else:
            done = decode(self.bagel, read.context, **how)
            rows, passes = done.tokens, done.passes
        return Decoded.plainly(rows, passes, how["max_tokens"])

    def _speculation(self, speculate: bool | Plan, distribution: TokenDistribution) -> Plan | None:
        """How much is guessed; None: nothing is."""
        if speculate is False or (speculate is True and (self.draft is None or not self.is_small())):
            return None
        if self.draft is None:
            raise ValueError(
                "a plan says how much a draft model guesses, but this model has none; train one: hb train draft"
            )
        if isinstance(speculate, Plan):
            return speculate
        plan = Plan.of(self.draft.plans, distribution.temperature)
        return plan if plan.depth else None

    def is_small(self) -> bool:
        """Is there room for fused copies of its weights?"""
        experts = self.bagel.mot
        return self._made.get("size", experts, lambda: sum(p.numel() for p in experts.parameters())) < FUSED_AT_MOST

    def read_for_asking(self, pixels: Tensor, questions: Sequence[str]) -> Prefill:
        """What an answer starts from: the picture through the vision encoder, then the question. pixels in [-1, 1]."""
        processor = self.processor
        return read_picture_and_text(self.bagel, processor.for_vision(pixels), processor.encode(questions))

    def fast_text(self) -> FastText:
        """The text path, fused; made again when weights have changed since."""
        version = version_of(p for part in self.bagel.understanding_branch()[:3] for p in part.parameters())
        return self._made.get("text", version, lambda: FastText(self.bagel), same=operator.eq)

    def fast_draft(self) -> DraftModel:
        """The draft model, fused."""
        chosen = self.draft
        return self._made.get("draft", chosen, lambda: DraftModel(open_draft(chosen, self.bagel), self.bagel))

    # ---- names until 0.1 --------------------------------------------------------------------------------------------
    drafter = property(lambda self: self.draft, lambda self, draft: setattr(self, "draft", draft))
    tiny = property(lambda self: self.pixel_decoder, lambda self, new: setattr(self, "pixel_decoder", new))
    paint = decode_pictures

    def settle(self, verb: str, **options) -> tuple:
        """The student, grid and guidance of `plan`."""
        plan = self.plan(verb, **options)
        return plan.student, plan.grid, plan.guidance


def load(
    name: str | Path = "nano", *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32, **hub
) -> Model:
    """A shipped model by name ("nano"), any model folder, or "owner/name" on the Hugging Face hub; a local folder of
    that name wins.

    hub: what `huggingface_hub.snapshot_download` takes (revision, cache_dir, token, local_files_only)
    """
    return Model.from_pretrained(SHIPPED / name if is_shipped(name) else name, device, dtype, **hub)
