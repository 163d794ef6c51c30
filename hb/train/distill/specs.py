"""The stages as data: what each begins with, its losses and its length; and the chains they make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from hb.train.distill.adp import OneStep
from hb.train.distill.cfg import CFGDistillation
from hb.train.distill.dmdo import DistributionMatching
from hb.train.distill.feedback import DiffusionDpo, Draft
from hb.train.distill.segments import Segments
from hb.train.distill.stage import Stage
from hb.train.distill.tscd import SegmentedConsistency

SHIFT = 3.0


@dataclass(frozen=True)
class StageSpec:
    """One stage of a recipe.

    make      the LightningModule
    after     the student it begins with; None: the teacher
    options   what `make` takes beside the usual; "real": the student that is the real score
    steps, prompts, edits, lr   of the training
    editing   the share of steps that edit
    evaluations, sampler, any_steps, default, vision   of the student (see `Student`)
    extra_layers   of its generation branch, behind those of the teacher (see `hb.models.mot.Expert`)
    """

    make: Callable[..., Stage]
    about: str
    after: str | None
    steps: int
    lr: float
    prompts: int = 8
    edits: int = 16
    editing: float = 0.5
    options: dict = field(default_factory=dict)
    evaluations: int = 6
    sampler: str = "euler"
    any_steps: bool = False
    default: bool = False
    vision: bool = True
    extra_layers: int = 0


# how stage 3 differs from what is printed (see DistributionMatching; data/results/DIARY.md says what each brings)
OWN_DMDO = dict(
    renoise_fake="fresh",
    renoise_student="fresh",
    sample_student="end",
    adversarial=10.0,
    fake_warmup=30,
    lr_fake=3e-4,
    deployed=1.0,
    decay=0.5,
    average=0.99,
)

OTHERS = ("real", "stepper", "source")  # options of a stage that name another student, which is used and not trained

STAGES = {
    "cfg": StageSpec(
        CFGDistillation,
        "guidance in one pass instead of two or three: 50 evaluations",
        None,
        1000,
        0.001,
        prompts=48,
        edits=48,
        options=dict(decay=0.7),
        evaluations=50,
        any_steps=True,
    ),
    "tscd": StageSpec(
        SegmentedConsistency, "three segments, an adversary: 6 evaluations", "cfg", 150, 2e-4, prompts=12, edits=24
    ),
    "dmdo": StageSpec(
        DistributionMatching,
        "two scores along the student's own ODE: 6 evaluations",
        "tscd",
        2000,
        1e-4,
        prompts=12,
        edits=24,
        editing=0.25,
        default=True,
        vision=False,
        options=OWN_DMDO,
    ),
    "dmdo-literal": StageSpec(
        DistributionMatching,
        "stage 3 as printed: noised along the line to its own noise",
        "tscd",
        1000,
        5e-5,
        options=dict(real="cfg"),
    ),
    # baselines at equal cost (of drawing: an edit of theirs reads the picture twice, as the paper's do, and dmdo's
    # once)
    "lcm": StageSpec(
        SegmentedConsistency,
        "baseline: latent consistency, one segment, no adversary, re-noised",
        "cfg",
        600,
        0.001,
        prompts=12,
        edits=24,
        editing=0.25,
        options=dict(segments=Segments(1, to_edge=True), adversarial=0.0, mse=1.0, huber=0.03),
        sampler="multistep",
    ),
    "pcm": StageSpec(
        SegmentedConsistency,
        "baseline: three phases, jumps to their edges",
        "cfg",
        600,
        2e-4,
        prompts=12,
        edits=24,
        editing=0.25,
        options=dict(segments=Segments(3, to_edge=True), mse=1.0),
    ),
    "dmd2": StageSpec(
        DistributionMatching,
        "baseline: DMD2, its re-noising sampler and its adversary",
        "cfg",
        600,
        1e-4,
        prompts=12,
        edits=24,
        editing=0.25,
        options=OWN_DMDO | dict(sampler="multistep", sample_student="guess", sample_fake="guess", fake_updates=5),
        sampler="multistep",
    ),
}
SIX_NFE = ("cfg", "tscd", "dmdo")
# Hyper-SD's first form of stage 2 (method.md 5.2.1): the segments are halved from student to student, the mean square
# fades and the adversary comes in. How much of each it does not print: these weights are ours
HYPER_SD = {8: (1.0, 0.1), 4: (0.5, 0.3), 2: (0.2, 1.0), 1: (0.1, 1.0)}  # of mean square and adversary
STAGES |= {
    f"hyper-sd-{count}": StageSpec(
        SegmentedConsistency,
        f"Hyper-SD's form, {count} segments, mean square and adversary: {count} evaluations",
        "cfg" if count == 8 else f"hyper-sd-{2 * count}",
        150,
        2e-4,
        prompts=12,
        edits=24,
        evaluations=count,
        options=dict(segments=Segments(count), mse=mse, adversarial=adversarial, stepper="cfg"),
    )
    for count, (mse, adversarial) in HYPER_SD.items()
}
# one step (stages 4 and 5). Every run makes its pairs with the six-evaluation student that ships; dmdo does not read
# pictures through the vision encoder, and neither do these
_ONE = dict(prompts=12, edits=24, vision=False, evaluations=1)
_CONTINUED = dict(continued=(0, 1, 2), by_value=1.0, at_one=1.0, replay=4)
_REGRESSION = dict(source="dmdo", deployed=1.0, decay=0.6, adversarial=0.0, regression=(1.0, 1.0), average=0.9)
_ADP = dict(
    source="dmdo", deployed=1.0, decay=0.5, pairing="relativistic", true=0.5, r1=0.025, r2=0.025, regression=(1.0, 0.05)
)
_LIGHT = _ADP | dict(latent=0.0, pixel=0.0, light=1.0, lr_discriminator=1e-3, at_one=0.75)
STAGES |= {
    "regression": StageSpec(
        OneStep,
        "one step: regression onto the ends of the six-evaluation student's trajectories",
        "dmdo",
        1500,
        0.004,
        editing=0.25,
        options=_REGRESSION,
        **_ONE,
    ),
    "continued": StageSpec(
        OneStep,
        "one step: regression onto the ends that the six-evaluation student reaches from the student's own predictions",
        "regression",
        800,
        0.003,
        editing=0.25,
        options=_REGRESSION | _CONTINUED,
        **_ONE,
    ),
    "deepened": StageSpec(
        OneStep,
        "one step: the same with four layers more, over the latent tokens alone",
        "continued",
        1250,
        0.003,
        editing=0.25,
        options=_REGRESSION | _CONTINUED | dict(average=0.97),
        extra_layers=4,
        **_ONE | dict(edits=12),
    ),
    "adp": StageSpec(OneStep, "stage 4: one step, two discriminators", "regression", 800, 1e-4, options=_ADP, **_ONE),
    "adp-literal": StageSpec(
        OneStep,
        "stage 4 as printed: hinge, from the six-evaluation student, ends of trajectories alone are real",
        "dmdo",
        800,
        1e-4,
        options=dict(source="dmdo"),
        **_ONE,
    ),
    "adp-hinge": StageSpec(
        OneStep,
        "stage 4, hinge instead of pairs",
        "regression",
        800,
        1e-4,
        options=_ADP | dict(pairing="hinge"),
        **_ONE,
    ),
    "adp-latent": StageSpec(
        OneStep,
        "stage 4 without the pixel discriminator",
        "regression",
        800,
        1e-4,
        options=_ADP | dict(pixel=0.0),
        **_ONE,
    ),
    "adp-light": StageSpec(
        OneStep,
        "stage 4 with a small discriminator, trained from scratch, in place of both",
        "regression",
        800,
        3e-4,
        editing=0.25,
        options=_LIGHT | dict(regression=(1.0, 0.2), replay=2),
        **_ONE,
    ),
    "mmd": StageSpec(
        OneStep,
        "baseline: one step without a discriminator, maximum mean discrepancy within each prompt",
        "regression",
        800,
        1e-4,
        options=dict(source="dmdo", deployed=1.0, decay=0.5, adversarial=0.0, mmd=1.0, regression=(1.0, 0.05)),
        **_ONE,
    ),
    "refl-regression": StageSpec(
        OneStep,
        "reward feedback beside regression alone, without a discriminator",
        "regression",
        300,
        5e-4,
        editing=0.25,
        options=dict(source="dmdo", deployed=1.0, decay=0.5, average=0.9, adversarial=0.0, regression=(1.0, 1.0))
        | dict(reward=1.0, replay=1),
        **_ONE,
    ),
    "refl": StageSpec(
        OneStep, "stage 5: reward feedback beside stage 4", "adp", 300, 5e-5, options=_ADP | dict(reward=0.1), **_ONE
    ),
}
# stage 3 with fewer and fewer steps, from what regression made of one
STAGES |= {
    f"dmdo-{steps}": StageSpec(
        DistributionMatching,
        f"stage 3 with {steps} step{'s' * (steps > 1)}",
        "regression" if steps == 3 else f"dmdo-{steps + 1}",
        400,
        1e-4,
        options=OWN_DMDO | dict(steps=steps),
        **_ONE | dict(evaluations=steps),
    )
    for steps in (3, 2, 1)
}
# other roads from a reward to a student
STAGES |= {
    "refl-dmdo": StageSpec(
        DistributionMatching,
        "reward feedback beside stage 3 with one step, instead of stage 4",
        "dmdo-1",
        300,
        5e-5,
        options=OWN_DMDO | dict(steps=1, reward=0.1),
        **_ONE,
    ),
    "reward-draft": StageSpec(
        Draft,
        "DRaFT: a reward's gradient back through the last of six steps",
        "dmdo",
        200,
        5e-5,
        options=dict(source="dmdo", deployed=1.0, decay=0.5),
        **_ONE | dict(evaluations=6),
    ),
    "reward-dpo": StageSpec(
        DiffusionDpo,
        "Diffusion-DPO on pairs that a reward ranks, six steps",
        "dmdo",
        200,
        5e-5,
        options=dict(source="dmdo", deployed=1.0, decay=0.5),
        **_ONE | dict(evaluations=6),
    ),
}
ONE_NFE = ("regression", "continued", "deepened")  # what ships
ADP_REFL = ("regression", "adp", "refl")  # the paper's stages 4 and 5, after a warm start
# chains whose last student is kept under the chain's own name too, and answers to its evaluations
SERVED = {"one-nfe"}
CHAINS = {
    "six-nfe": SIX_NFE,
    "one-nfe": ONE_NFE,
    "adp-refl": ADP_REFL,
    "hyper-sd": ("cfg", *(f"hyper-sd-{count}" for count in HYPER_SD)),
}
