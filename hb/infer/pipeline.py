"""What a user calls: load a model, draw, edit, ask. Every record carries metered function evaluations and seconds."""

from __future__ import annotations

import io
import json
import time
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from hb import limits
from hb.files import write
from hb.flow import released_grid, time_grid
from hb.guidance import DRAWING, EDITING, Guidance
from hb.infer.artifacts import (
    DRAFT_CONFIG,
    STUDENT_CONFIG,
    TINY_CONFIG,
    DraftCheckpoint,
    PixelDecoderCheckpoint,
    Student,
    fingerprint,
)
from hb.infer.fused import FastText, decode_fast
from hb.infer.image import Contexts, Meter, noise, sample, sample_student
from hb.infer.speculative.decode import Cycle, Read, decode_speculative, read_picture_and_text
from hb.infer.speculative.draft import open_draft
from hb.infer.speculative.runner import DraftModel, Plan
from hb.infer.text import decode
from hb.models.bagel import Bagel
from hb.models.checkpoint import CheckpointError, load_model, save_model
from hb.models.conditioning import GuidedBagel
from hb.models.distribution import TokenDistribution
from hb.models.pixel_decoder import PixelDecoder
from hb.models.tokenizer import Text
from hb.pictures import resized, to_image, to_rgb, to_tensor

FUSED_AT_MOST = 10**9  # parameters: the fused text path is a copy of its weights, and a large model has no room for two
STUDENTS, DECODER = "students", "decoder"  # folders of a model folder
SHIPPED = Path(__file__).resolve().parent.parent / "data" / "checkpoints"
_WARNED: set[tuple[str, str | None, str]] = (
    set()
)  # weights, student and cell of which a warning was given in this process
ALIASES = {
    "bagel-7b": "the released BAGEL-7B-MoT files are 29 GB and do not ship with hb: load(folder) with their folder"
}


@dataclass(frozen=True)
class Sampling:
    """How a model is sampled unless the caller says otherwise: BAGEL's published settings, or a preset's own."""

    draw: Guidance = DRAWING
    edit: Guidance = EDITING
    steps: int = 50
    shift: float = 3.0

    def save(self, folder: Path) -> None:
        write(Path(folder) / "sampling.json", (json.dumps(asdict(self), indent=1) + "\n").encode())

    @staticmethod
    def load(folder: Path) -> Sampling:
        path = Path(folder) / "sampling.json"
        if not path.exists():
            return Sampling()
        values = json.loads(path.read_text())
        for task in ("draw", "edit"):
            values[task] = Guidance(**values[task] | {"interval": tuple(values[task]["interval"])})
        return Sampling(**values)


@dataclass(frozen=True)
class Pictures:
    """Drawn or edited pictures and what they cost.

    pixels [B, 3, H, W] in [0, 1]; nfe: metered function evaluations per picture; seconds: by part, for the whole batch;
    student: which one drew, None for the teacher
    """

    pixels: Tensor = field(repr=False)
    prompts: tuple[str, ...]
    nfe: float
    steps: int
    seconds: dict[str, float]
    seeds: tuple[int, ...]
    latent: Tensor = field(repr=False, default=None)
    student: str | None = None

    @property
    def images(self) -> list[Image.Image]:
        return [to_image(p * 2 - 1) for p in self.pixels]

    @property
    def image(self) -> Image.Image:
        """The first picture."""
        return self.images[0]

    def sheet(self, columns: int = 8, zoom: int = 1) -> Image.Image:
        """All pictures side by side."""
        n, _, h, w = self.pixels.shape
        columns = min(columns, n)
        out = Image.new("RGB", (columns * w, -(-n // columns) * h), "white")
        for i, image in enumerate(self.images):
            out.paste(image, (i % columns * w, i // columns * h))
        return out.resize((out.width * zoom, out.height * zoom), Image.Resampling.NEAREST)

    def to_dict(self) -> dict:
        """Everything but the pictures, ready for JSON."""
        return dict(
            prompts=list(self.prompts),
            nfe=self.nfe,
            steps=self.steps,
            seconds=self.seconds,
            seeds=list(self.seeds),
            student=self.student,
        )

    def _repr_png_(self) -> bytes:
        side = self.pixels.shape[-1]
        out = io.BytesIO()
        self.sheet(zoom=max(1, round(128 / side))).save(out, "png")
        return out.getvalue()


@dataclass(frozen=True)
class Answers:
    """What was said about pictures, and what it cost: `passes` of the target for `tokens` tokens in the longest row,
    the end marker included.

    cycles: with a draft model, what each pass gave; seed: of the generator of all rows, which greedy answers do not
    throw
    """

    texts: tuple[str, ...]
    questions: tuple[str, ...]
    tokens: int
    passes: int
    seconds: dict[str, float]
    cycles: tuple[Cycle, ...] = field(default=(), repr=False)
    seed: int = 0

    @property
    def text(self) -> str:
        """The first answer."""
        return self.texts[0]

    @property
    def acceptance_length(self) -> float:
        """tau: tokens a pass of the target gave a row, its own included; plain decoding has 1."""
        kept = [k for cycle in self.cycles for k in cycle.kept]
        return sum(kept) / len(kept) if kept else self.tokens / max(self.passes, 1)

    def to_dict(self) -> dict:
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join(self.texts)


class _Clock:
    """Seconds by part; waits for the accelerator, or the time would be somebody else's."""

    def __init__(self, device: torch.device):
        self.device, self.seconds = device, {}

    @contextmanager
    def __call__(self, part: str):
        began = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - began


class Model:
    """A loaded model. `draw`, `edit` and `ask` take one thing or a list, and give one record for all."""

    def __init__(
        self,
        bagel: Bagel,
        text: Text | None,
        sampling: Sampling = Sampling(),
        name: str = "model",
        drafter: DraftCheckpoint | None = None,
        students: dict[str, Student] | None = None,
        tiny: PixelDecoderCheckpoint | None = None,
    ):
        self.bagel, self.text, self.sampling, self.name = bagel, text, sampling, name
        self.drafter = drafter
        self.students = dict(students or {})
        self.tiny = tiny  # draws the pixels if it is there; set it to None for the autoencoder's own decoder
        self._painting: tuple[PixelDecoderCheckpoint, PixelDecoder] | None = None
        self._opened: dict[str, tuple[Student, GuidedBagel]] = {}
        self._fused: tuple[object, FastText] | None = None
        self._drafting: tuple[DraftCheckpoint, DraftModel] | None = None
        self._identity: tuple[object, str] | None = None

    def __repr__(self) -> str:
        millions = sum(p.numel() for p in self.bagel.parameters()) / 1e6
        return f"<hb model {self.name}: {millions:.1f} M parameters on {self.bagel.device}>"

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
        prompts = _listed(prompts, "prompt")
        student, grid, guidance = self.settle(
            "draw",
            nfe=nfe,
            steps=steps,
            text_scale=text_scale,
            released_steps=released_steps,
            sampling=sampling,
            student=student,
        )
        if warn:
            self._warn_of_limits(prompts, student, _due(student, grid, guidance))
        height, width = size or (self._side(),) * 2
        shape = self.bagel.latent_grid(height, width)
        clock, meter = _Clock(self.bagel.device), Meter()
        with clock("prefill"):
            _, full = self.bagel.read_text(self.bagel.empty(len(prompts)), self._encode(prompts))
            empty = self.bagel.empty(len(prompts))
            contexts = Contexts(full, no_text=empty, no_image=full)
        return self._denoise(prompts, contexts, grid, guidance, shape, seed, clock, meter, student)

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
        """Change each picture as its instruction says. Pictures: PIL images, or a tensor [B, 3, H, W] in [0, 1], or a
        `Pictures` record. nfe=132 is the teacher's 50 steps, guided by text and picture where t > 0.4; nfe=6 or
        `student` as in `draw`."""
        pixels = self._pixels(pictures)
        instructions = _listed(instructions, "instruction")
        if len(instructions) == 1:
            instructions = instructions * len(pixels)
        if len(instructions) != len(pixels):
            raise ValueError(
                f"{len(pixels)} pictures but {len(instructions)} instructions; give one for each, or one for all"
            )
        student, grid, guidance = self.settle(
            "edit",
            nfe=nfe,
            steps=steps,
            text_scale=text_scale,
            image_scale=image_scale,
            released_steps=released_steps,
            sampling=sampling,
            student=student,
        )
        shape = self.bagel.latent_grid(*pixels.shape[-2:])
        clock, meter = _Clock(self.bagel.device), Meter()
        with clock("prefill"):
            seeds = _seeds(seed, len(pixels))
            latent = self.bagel.encode(pixels, [torch.Generator().manual_seed(2**40 + s) for s in seeds])
            seen = self.bagel.read_latent(self.bagel.empty(len(pixels)), latent, shape)
            if student is None or self.students[student].eyes:
                _, seen = self.bagel.see(seen, self._for_eyes(pixels))
            ids = self._encode(instructions)
            _, full = self.bagel.read_text(seen, ids)
            no_image = None
            if student is None:
                _, no_image = self.bagel.read_text(self.bagel.empty(len(pixels)), ids)
            contexts = Contexts(full, no_text=seen, no_image=no_image)
        return self._denoise(instructions, contexts, grid, guidance, shape, seed, clock, meter, student, picture=True)

    def _denoise(
        self, prompts, contexts, grid, guidance, shape, seed, clock, meter, student: str | None, picture: bool = False
    ) -> Pictures:
        seeds = _seeds(seed, len(prompts))
        x = noise(len(prompts), shape[0] * shape[1], self.bagel.config.latent_width, seeds)
        with clock("denoise"):
            if student is None:
                walk = sample(self.bagel, contexts, x, grid, guidance, meter, shape)
            else:
                walk = sample_student(
                    self.open_student(student),
                    contexts.full,
                    x,
                    grid,
                    guidance,
                    meter,
                    shape,
                    picture=picture,
                    sampler=self.students[student].sampler,
                    seeds=seeds,
                )
            *_, (_, x) = walk
        with clock("decode picture"):
            pixels = self.paint(x, shape)
        nfe, due = meter.rows / len(prompts), _due(student, grid, guidance)
        if nfe != due:
            raise AssertionError(f"metered {nfe} evaluations where the grid and guidance cost {due}")
        return Pictures(pixels, tuple(prompts), nfe, len(grid) - 1, clock.seconds, tuple(seeds), x.cpu(), student)

    def _warn_of_limits(self, prompts: Sequence[str], student: str | None, nfe: float) -> None:
        """Say once of each cell of `hb eval complex` what it is known to come to, if that is less than half."""
        if self.bagel.config.picture_side is None:
            return
        who = self.students[student].fingerprint() if student else None
        weak = limits.weak_cells(
            limits.cells_of(prompts),
            weights=self.identity,
            student=who,
            nfe=nfe,
            parameters=sum(p.numel() for p in self.bagel.parameters()),
        )
        for cell, (right, at) in weak.items():
            if (self.identity(), who, cell) not in _WARNED:
                _WARNED.add((self.identity(), who, cell))
                warnings.warn(limits.in_words(cell, right, at), limits.DrawingWarning, stacklevel=4)

    def identity(self) -> str:
        """The fingerprint of the weights, made again when they have changed since."""
        version = _version(self.bagel)
        if self._identity is None or self._identity[0] != version:
            self._identity = (version, fingerprint(self.bagel))
        return self._identity[1]

    def paint(self, tokens: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Latent tokens [B, n, values] to pictures [B, 3, H, W] in [0, 1], by the tiny decoder if the model has one."""
        decoder = None
        if self.tiny is not None:
            if self._painting is None or self._painting[0] is not self.tiny:
                self._painting = (self.tiny, self.tiny.open(self.bagel))
            decoder = self._painting[1]
        return (self.bagel.decode(tokens, grid, decoder).float() / 2 + 0.5).clamp(0, 1).cpu()

    def settle(
        self,
        verb: str,
        *,
        nfe: int | None = None,
        steps: int | None = None,
        text_scale: float | None = None,
        image_scale: float | None = None,
        released_steps: bool = False,
        sampling: Sampling | None = None,
        student: str | None = None,
    ) -> tuple[str | None, Tensor, Guidance]:
        """What these options of `draw` or `edit` (verb) come to: the student's name, None for the teacher; the times it
        is asked at; the guidance. Whatever differs in words only is the same here.

        Raises ValueError for a student, or a cost, that is not to be had.
        """
        sampling = sampling or self.sampling
        changes = {k: v for k, v in (("text_scale", text_scale), ("image_scale", image_scale)) if v is not None}
        guidance = replace(getattr(sampling, verb), **changes)
        student = self.student_for(student, nfe)
        return student, self._grid(nfe, steps, guidance, sampling, released_steps, verb, student), guidance

    def student_for(self, name: str | None, nfe: int | None = None) -> str | None:
        """The name of the student that is meant: the one that was named, or the one that serves this nfe; None: the
        teacher."""
        if name == "teacher":
            return None
        if name is None:
            served = [n for n, s in self.students.items() if s.default and s.steps == nfe]
            return served[0] if served else None
        if name not in self.students:
            known = ", ".join(self.students) or "none (make them: hb distill six-nfe)"
            raise ValueError(f"no student called {name!r} here; there are {known}; and 'teacher', which is none")
        return name

    def open_student(self, name: str) -> GuidedBagel:
        """A student's denoiser, its weights in place beside the teacher's."""
        parcel = self.students[name]
        if name not in self._opened or self._opened[name][0] is not parcel:
            self._opened[name] = (parcel, parcel.open(self.bagel))
        return self._opened[name][1]

    def _grid(self, nfe, steps, guidance, sampling, released_steps, verb, student: str | None = None) -> Tensor:
        """The grid that costs nfe evaluations, or has the given steps."""
        make = released_grid if released_steps else time_grid
        if steps is not None and nfe is not None:
            raise ValueError("say nfe or steps, not both: one follows from the other")
        if student is not None:
            parcel = self.students[student]
            if nfe not in (None, parcel.steps) and not parcel.any_steps:
                raise ValueError(
                    f"the student {student!r} was made for {parcel.steps} evaluations, not {nfe}; to walk it on another grid all "
                    f"the same, say steps={nfe}"
                )
            return make(steps or nfe or parcel.steps, parcel.shift)
        if nfe is None:
            return make(steps if steps is not None else sampling.steps, sampling.shift)
        costs = {}
        for n in range(2 if released_steps else 1, max(nfe, 4) + 2):
            grid = make(n, sampling.shift)
            costs.setdefault(guidance.evaluations(grid), grid)
        if nfe not in costs:
            near = sorted(sorted(costs, key=lambda c: abs(c - nfe))[:2])
            raise ValueError(
                f"no number of steps makes {verb} cost {nfe} evaluations at this guidance; the nearest are "
                f"{' and '.join(map(str, near))}. " + self._served()
            )
        return costs[nfe]

    def _served(self) -> str:
        """What students there are, in a sentence."""
        if not self.students:
            return "A distilled student costs one evaluation a step; this model has none yet: hb distill six-nfe."
        listed = ", ".join(f"{n} ({s.steps})" for n, s in self.students.items())
        return f"Or name a student, each with the evaluations it was made for: {listed}."

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
        """Answer a question about each picture, greedily unless a temperature is given.

        top_k, top_p, repetition_penalty   as in `transformers`; the penalty counts the answer's own tokens
        speculate   let the draft model guess ahead, if the model has one: the same words, or at a temperature words of
                    the same distribution, in fewer passes. True: as much as was tuned; a Plan: that much; False: one by
                    one
        """
        pixels = self._pixels(pictures)
        questions = _listed(questions, "question")
        if len(pixels) == 1 and len(questions) > 1:
            pixels = pixels.expand(len(questions), -1, -1, -1)
        if len(questions) == 1:
            questions = questions * len(pixels)
        if len(questions) != len(pixels):
            raise ValueError(
                f"{len(pixels)} pictures but {len(questions)} questions; give one for each, or one for all"
            )
        distribution = TokenDistribution(temperature, top_k, top_p, repetition_penalty)
        plan = self._plan(speculate, distribution)
        clock = _Clock(self.bagel.device)
        generator = torch.Generator().manual_seed(seed)
        with clock("prefill"):
            read = self.read_for_asking(pixels, questions)
        with clock("decode text"):
            if plan is not None:
                done = decode_speculative(
                    self.fast_text(),
                    self.fast_draft(),
                    read,
                    plan=plan,
                    max_tokens=max_tokens,
                    distribution=distribution,
                    generator=generator,
                )
                rows, passes, cycles = done.tokens, done.passes, tuple(done.cycles)
            else:
                rows, passes = self._decode_plain(read, max_tokens, distribution, generator)
                cycles = ()
        texts = tuple(self.text.decode(row) for row in rows)
        return Answers(texts, tuple(questions), max(map(len, rows)) + 1, passes, clock.seconds, cycles, seed)

    def _plan(self, speculate: bool | Plan, distribution: TokenDistribution) -> Plan | None:
        """How much is guessed; None: nothing is."""
        if speculate is False or (speculate is True and (self.drafter is None or not self._is_small())):
            return None
        if self.drafter is None:
            raise ValueError(
                "a plan says how much a draft model guesses, but this model has none; train one: hb train draft"
            )
        if isinstance(speculate, Plan):
            return speculate
        plan = Plan.of(self.drafter.plans, distribution.temperature)
        return plan if plan.depth else None

    def _decode_plain(
        self, read: Read, max_tokens: int, distribution: TokenDistribution, generator
    ) -> tuple[list[list[int]], int]:
        if self._is_small():
            return decode_fast(
                self.fast_text(), read.context, max_tokens=max_tokens, distribution=distribution, generator=generator
            )
        done = decode(self.bagel, read.context, max_tokens=max_tokens, distribution=distribution, generator=generator)
        return done.tokens, done.passes

    def _is_small(self) -> bool:
        return sum(p.numel() for p in self.bagel.language_model.parameters()) < FUSED_AT_MOST

    def fast_text(self) -> FastText:
        """The text path, fused; made again when weights have changed since."""
        version = _version(self.bagel.language_model)
        if self._fused is None or self._fused[0] != version:
            self._fused = (version, FastText(self.bagel))
        return self._fused[1]

    def fast_draft(self) -> DraftModel:
        """The draft model, fused."""
        if self._drafting is None or self._drafting[0] is not self.drafter:
            self._drafting = (self.drafter, DraftModel(open_draft(self.drafter, self.bagel), self.bagel))
        return self._drafting[1]

    def read_for_asking(self, pixels: Tensor, questions: Sequence[str]) -> Read:
        """What an answer starts from: the picture as the eyes see it, then the question. pixels in [-1, 1]."""
        return read_picture_and_text(self.bagel, self._for_eyes(pixels), self._encode(questions))

    # ---- what goes in -----------------------------------------------------------------------------------------------

    def _side(self) -> int:
        return self.bagel.config.picture_side or 1024

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        if self.text is None:
            raise ValueError(
                "this model folder has no tokenizer.json, so it cannot read text; put one beside the weights"
            )
        return self.text.encode_many(texts)

    def _pixels(self, pictures) -> Tensor:
        """Whatever pictures came in as [B, 3, H, W] in [-1, 1]."""
        if isinstance(pictures, Pictures):
            pictures = pictures.pixels
        if isinstance(pictures, Tensor):
            return self._checked(pictures)
        if isinstance(pictures, Image.Image):
            pictures = [pictures]
        if not isinstance(pictures, Sequence) or not all(isinstance(p, Image.Image) for p in pictures) or not pictures:
            raise ValueError(
                "pictures must be PIL images, a tensor [B, 3, H, W] in [0, 1], or what draw and edit return"
            )
        side = self.bagel.config.picture_side
        if side:
            fitted = [
                to_rgb(p).resize((side, side), Image.Resampling.BICUBIC) if p.size != (side, side) else p
                for p in pictures
            ]
        else:
            sizes = [resized(*p.size, most=1024, least=512, stride=16, pictures=len(pictures)) for p in pictures]
            fitted = [to_rgb(p).resize(s, Image.Resampling.BICUBIC) for p, s in zip(pictures, sizes)]
            if len({f.size for f in fitted}) > 1:
                raise ValueError("pictures of one call must end up the same size; edit these one by one")
        return torch.stack([to_tensor(p) for p in fitted])

    def _checked(self, pixels: Tensor) -> Tensor:
        pixels = pixels[None] if pixels.ndim == 3 else pixels
        if pixels.ndim != 4 or pixels.size(1) != 3:
            raise ValueError(f"a picture tensor is [B, 3, H, W] or [3, H, W], got shape {list(pixels.shape)}")
        if not pixels.is_floating_point() or pixels.min() < -0.001 or pixels.max() > 1.001:
            raise ValueError(
                f"picture tensors hold floats in [0, 1], got {pixels.dtype} from {float(pixels.min()):.3g} to "
                f"{float(pixels.max()):.3g}; divide bytes by 255"
            )
        side = self.bagel.config.picture_side
        if side and tuple(pixels.shape[-2:]) != (side, side):
            raise ValueError(
                f"this model was trained on {side}x{side} pictures, got {tuple(pixels.shape[-2:])}; resize them"
            )
        return pixels.float() * 2 - 1

    def _for_eyes(self, pixels: Tensor) -> Tensor:
        """The vision transform: only the released model resizes again, to multiples of its 14-pixel patches."""
        if self.bagel.config.picture_side:
            return pixels
        h, w = pixels.shape[-2:]
        new_w, new_h = resized(w, h, most=980, least=224, stride=14)
        return torch.stack([to_tensor(to_image(p).resize((new_w, new_h), Image.Resampling.BICUBIC)) for p in pixels])

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write the model, its tokenizer and its sampling settings as a folder in the released form."""
        save_model(self.bagel, folder, self.text, dtype)
        self.sampling.save(Path(folder))
        if self.drafter is not None:
            self.drafter.save(Path(folder) / "draft", dtype or torch.float32)
        if self.tiny is not None:
            self.tiny.save(Path(folder) / DECODER, dtype or torch.float32)
        for name, student in self.students.items():
            student.save(Path(folder) / STUDENTS / name, dtype or torch.float32)

    @staticmethod
    def from_pretrained(folder: str | Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Model:
        """Load a folder: one of ours, or one with the released BAGEL-7B-MoT files."""
        device = _device(device)
        bagel, text = load_model(folder, device=device, dtype=dtype)
        draft = Path(folder) / "draft"
        drafter = DraftCheckpoint.load(draft) if (draft / DRAFT_CONFIG).exists() else None
        tiny = (
            PixelDecoderCheckpoint.load(Path(folder) / DECODER)
            if (Path(folder) / DECODER / TINY_CONFIG).exists()
            else None
        )
        found = sorted((Path(folder) / STUDENTS).glob(f"*/{STUDENT_CONFIG}"))
        students = {file.parent.name: Student.load(file.parent) for file in found}
        return Model(bagel, text, Sampling.load(Path(folder)), Path(folder).name, drafter, students, tiny)


def load(name: str | Path = "nano", *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Model:
    """A shipped model by name ("nano"), or any model folder."""
    if (SHIPPED / str(name) / "ema.safetensors").exists():
        return Model.from_pretrained(SHIPPED / str(name), device, dtype)
    if Path(name).is_dir():
        return Model.from_pretrained(name, device, dtype)
    if str(name) in ALIASES:
        raise CheckpointError(ALIASES[str(name)])
    shipped = sorted(p.parent.name for p in SHIPPED.glob("*/ema.safetensors"))
    raise CheckpointError(
        f"no model called {str(name)!r}: shipped are {', '.join(shipped) or 'none (train one: hb train teacher)'}; "
        "or give a model folder"
    )


def _due(student: str | None, grid: Tensor, guidance: Guidance) -> int:
    """Function evaluations that a picture costs."""
    return guidance.evaluations(grid) if student is None else len(grid) - 1


def _version(module: torch.nn.Module) -> list[tuple]:
    """What changes when weights do."""
    count = lambda p: 0 if p.is_inference() else p._version  # weights made in inference mode cannot change
    return [(id(p), count(p), p.device, p.dtype) for p in module.parameters()]


def _device(name: str) -> torch.device:
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("CUDA was asked for, but this PyTorch sees no CUDA device; use device='cpu'")
    return device


def _listed(texts: str | Sequence[str], what: str) -> list[str]:
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not texts or not all(isinstance(t, str) and t.strip() for t in texts):
        raise ValueError(f"give a {what}, or a list of them; an empty {what} says nothing")
    return texts


def _seeds(seed: int | Sequence[int], n: int) -> list[int]:
    seeds = [seed + i for i in range(n)] if isinstance(seed, int) else [int(s) for s in seed]
    if len(seeds) != n:
        raise ValueError(f"{n} pictures need {n} seeds, got {len(seeds)}")
    return seeds
