"""How a stage is run: from a teacher and earlier students to the next student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from hb.data.pool import Pool
from hb.flow import time_grid
from hb.guidance import Guidance
from hb.infer.artifacts import PixelDecoderCheckpoint, Student, fingerprint
from hb.models.bagel import Bagel
from hb.models.conditioning import StudentModel, extra_layers_of
from hb.seeding import noise_like, seeded_generator
from hb.train.distill.batch import StageBatch, pick_batch, read_batch
from hb.train.distill.dmdo import noise_between, roll_out, student_velocity
from hb.train.distill.rewarded import DecodesPictures, Reward
from hb.train.distill.specs import OTHERS, SHIFT, STAGES, StageSpec
from hb.train.distill.stage import Stage
from hb.train.optim import muon_dtype_of
from hb.train.sheets import SheetEvery, tiled
from hb.train.trainer import StepData, fit, working_device, worth_compiling


def run_stage(
    name: str,
    folder: Path,
    teacher: Bagel,
    pool: Pool,
    *,
    guidance: dict[str, Guidance],
    students: dict[str, Student],
    spec: StageSpec | None = None,
    seed: int = 0,
    steps: int | None = None,
    provenance: dict | None = None,
    tiny: PixelDecoderCheckpoint | None = None,
    reward: Reward | None = None,
    begin: Student | None = None,
    save_every: int = 50,
    callbacks: Sequence[Callback] = (),
    **trainer,
) -> Student:
    """Run a stage in `folder` (resumes there) and return its student.

    students   those made before it, by name
    begin      the student to begin with instead of the recipe's; another teacher's too, an earlier version's is most of
               the way there
    tiny       the pixel decoder of the run's sheets and of stages that look at pictures, instead of the autoencoder's
    reward     of stage 5
    save_every   steps from checkpoint to checkpoint: a run can diverge, and then one from before that is needed

    Raises ValueError if the stage that must come first has not been run, and Diverged if there is no going on.
    """
    spec = spec or STAGES[name]
    check_beginning(name, spec, teacher, students, begin)
    if begin is not None:
        begin = replace(begin, teacher=fingerprint(teacher))
    steps = steps or spec.steps
    where = working_device(**trainer)
    teacher, pool = teacher.to(where), pool.to(where)
    options = dict(
        spec.options,
        lr=spec.lr,
        vision=spec.vision,
        muon_dtype=muon_dtype_of(trainer.get("precision")),
        compiled=worth_compiling(steps),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # the heads of a discriminator begin at random
        start = branch_of(teacher, begin or students.get(spec.after), extra_layers=spec.extra_layers)
        for role in (role for role in OTHERS if role in options):
            options[role] = branch_of(teacher, students[options[role]], trainable=False)
        if source := students.get(spec.options.get("source")):
            options["trajectory"] = (source.steps, source.shift, source.sampler)
        if issubclass(spec.make, DecodesPictures):
            options |= dict(decoder=tiny and tiny.without_refiner().open(teacher), reward_model=reward)
        moving = [p for p in teacher.parameters() if p.requires_grad]  # the caller's model is given back as it came
        stage = spec.make(
            teacher.eval().requires_grad_(False), start, guidance=guidance, total=steps, seed=seed, **options
        )
    sizes = dict(draw=spec.prompts * bool(pool.prompts), edit=spec.edits * bool(pool.edits))
    data = StepData(lambda step, rank: pick_batch(pool, sizes, seed, step, rank, spec.editing), steps)
    grid = time_grid(6 if spec.any_steps else spec.evaluations, SHIFT)
    sheet = Sheet(folder, pool, sizes, guidance, grid, spec.sampler, pixel_decoder=tiny and tiny.open(teacher))
    try:
        fit(stage, data, folder, ema=None, clip=None, callbacks=(sheet, *callbacks), save_every=save_every, **trainer)
    finally:
        teacher.compiled = False  # later calls have other shapes
        for p in moving:
            p.requires_grad_(True)
    weights = {n: p.detach().clone() for n, p in stage.average.released_weights().items()}
    facts = dict(settings=_plain(asdict(spec)), steps=steps, seed=seed) | (provenance or {})
    return Student(
        name,
        spec.evaluations,
        SHIFT,
        fingerprint(teacher),
        spec.sampler,
        spec.any_steps,
        spec.default,
        spec.vision,
        facts,
        weights,
    )


def mean_of(students: Sequence[Student]) -> Student:
    """The first of these students, with the mean of all their weights (model soups: Wortsman et al. 2022, arXiv
    2203.05482). That makes sense for runs from a common beginning. Raises ValueError for students of other teachers or
    another form."""
    first, *others = students
    if not others:
        return first
    alike = lambda s: (s.teacher, s.steps, s.sampler, s.reads_vision, s.weights.keys())
    for other in others:
        if alike(other) != alike(first):
            raise ValueError(
                f"a mean is of students of one teacher and one form: {other.stage} does not go with {first.stage}"
            )
    mean = {name: torch.stack([s.weights[name].float() for s in students]).mean(0) for name in first.weights}
    return replace(first, weights=mean)


def check_beginning(
    name: str, spec: StageSpec, teacher: Bagel, students: dict[str, Student], begin: Student | None
) -> None:
    """Raises ValueError if what a stage begins with is not there or does not fit, before anything is made."""
    real = spec.options.get("real")
    others = [spec.options.get(role) for role in OTHERS]
    missing = [n for n in (None if begin else spec.after, *others) if n and n not in students]
    if missing:
        raise ValueError(
            f"stage {name!r} begins with the student of {missing[0]!r}, which is not there; run it first: "
            f"hb distill {missing[0]}"
        )
    source = students.get(spec.options.get("source"))
    if source is not None and source.reads_vision and not spec.vision:
        raise ValueError(
            f"the students of {name!r} do not read pictures through the vision encoder, and {source.stage!r}, which "
            f"makes their pairs, does; train {name!r} with it: hb distill {name} --vision"
        )
    if real and not students[real].reads_vision:
        raise ValueError(
            f"the real score of {name!r} reads all of a picture, and the student of {real!r} was trained without the "
            f"vision encoder; train it with it: hb distill {real} --vision"
        )
    if begin is not None:
        replace(begin, teacher=fingerprint(teacher)).open(teacher)


def branch_of(teacher: Bagel, student: Student | None, trainable: bool = True, extra_layers: int = 0) -> StudentModel:
    """A branch that begins as this student, or as the teacher. Of `extra_layers` those that the student does not have
    are added; they change nothing before they are trained."""
    start = teacher if student is None else student.open(teacher)
    there = 0 if student is None else extra_layers_of(student.weights)
    return StudentModel(start, trainable, extra_layers=max(0, extra_layers - there))


def with_new_guidance_embedding(student: Student, teacher: Bagel) -> Student:
    """The same, but that the embedders of scales are as a new student has them: a fresh start where they learned
    nothing."""
    new = StudentModel(teacher).released_weights()
    return replace(student, weights=student.weights | {n: p.detach() for n, p in new.items() if "scale_embedder" in n})


def _plain(settings: dict) -> dict:
    """Ready for JSON."""
    return {k: v for k, v in settings.items() if k != "make"}


class Sheet(SheetEvery):
    """Pictures from the same noise for the same prompts and edits, to see a run go right or wrong.

    grid, sampler: the student's own (`Student`); pixel_decoder: see `Bagel.decode`.
    """

    def __init__(
        self,
        folder: Path,
        pool: Pool,
        sizes: dict[str, int],
        guidance: dict[str, Guidance],
        grid: Tensor,
        sampler: str = "euler",
        every: int = 200,
        pixel_decoder: nn.Module | None = None,
    ):
        super().__init__(folder, every)
        self.pool, self.guidance, self.pixel_decoder = pool, guidance, pixel_decoder
        self.grid, self.sampler = grid, sampler
        self.sizes = {task: min(n, 4) for task, n in sizes.items()}

    @torch.no_grad()
    @torch.compiler.set_stance("force_eager")  # four pictures are a shape of their own
    def draw(self, stage: Stage):
        """A row for each task the stage is trained on."""
        rows = []
        for task in (t for t, n in self.sizes.items() if n):
            generator = seeded_generator(stage.seed, 99)
            picked = pick_batch(self.pool, {task: self.sizes[task]}, stage.seed, 10**6)
            batch = read_batch(stage.teacher, picked, self.guidance, generator, deployed=1.0, vision=stage.vision)
            how = (self.grid, generator, self.sampler, self.pixel_decoder)
            rows.append(pictures_of(stage.teacher, stage.average, batch, *how)[:8])
        return tiled(rows)


@torch.no_grad()
def pictures_of(
    teacher: Bagel,
    branch: StudentModel,
    batch: StageBatch,
    grid: Tensor,
    generator: torch.Generator,
    sampler: str = "euler",
    pixel_decoder: nn.Module | None = None,
) -> Tensor:
    """What a branch draws for a batch, sampled as its student is: [B, 3, H, W] in [-1, 1]. pixel_decoder: see
    `Bagel.decode`."""
    z = noise_like(batch.latent, generator)
    *_, x = roll_out(student_velocity(branch, batch), z, grid, noise_between(sampler, generator))
    return teacher.decode(x, batch.grid, decoder=pixel_decoder).clamp(-1, 1).cpu()
