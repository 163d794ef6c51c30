"""`hb distill` and `hb recipe`."""

from typing import Annotated, Literal

import typer

from hb.cli import options as o
from hb.cli.errors import GOES_ON
from hb.cli.verb import arguments, verb

app = typer.Typer()
PANEL, OF_A_STAGE = "Make a model", "Options of a stage"
Stage = Literal[
    "six-nfe", "cfg", "tscd", "dmdo", "dmdo-literal", "lcm", "pcm", "dmd2",
    "one-nfe", "regression", "continued", "deepened", "adp-refl", "adp", "refl", "adp-literal", "adp-hinge",
    "adp-latent", "adp-light", "mmd", "dmdo-3", "dmdo-2", "dmdo-1", "refl-regression", "refl-dmdo", "reward-draft",
    "reward-dpo", "hyper-sd", "hyper-sd-8", "hyper-sd-4", "hyper-sd-2", "hyper-sd-1",
]  # fmt: skip
Noise = Literal["coupled", "fresh", "mixed"]
Points = Literal["end", "guess"]


def of_stage(help: str, **more):
    return typer.Option(help=help, rich_help_panel=OF_A_STAGE, **more)


@verb(
    app,
    short_help="Make a student that draws in 6 evaluations instead of 100 or 132.",
    rich_help_panel=PANEL,
    stopped=GOES_ON + "the last checkpoint",
    renamed={
        "--new-knobs": "--new-guidance-embedding",
        "--eyes": "--vision",
        "--no-eyes": "--no-vision",
        "--judged": "--sample-student",
        "--learns": "--sample-fake",
        "--fake-times": "--fake-updates",
    },
    examples="""
hb distill six-nfe
hb distill cfg --minutes 10
hb distill dmdo --renoise-fake mixed --renoise-student fresh
hb distill six-nfe --model runs/nano/model --install runs/nano/model
""",
)
def distill(
    stage: Annotated[Stage, o.Words(metavar="STAGE", help="One of the names above.", show_choices=False)],
    model: o.ModelOptions,
    run: o.RunOptions,
    host: o.HostOptions,
    new_guidance_embedding: Annotated[
        bool,
        o.Flag(
            "--new-guidance-embedding",
            help="With --start-from: begin with new embeddings of the guidance scales.",
            rich_help_panel=o.RUN,
        ),
    ] = False,
    extra_layers: Annotated[
        int | None,
        o.Whole(
            help="Layers of the student behind the teacher's own; new ones change nothing before they are trained "
            "(default: the stage's).",
            rich_help_panel=o.RUN,
        ),
    ] = None,
    prompts: Annotated[
        int | None,
        o.Whole(help="In a step that draws, four pictures each (default: the stage's own).", rich_help_panel=o.RUN),
    ] = None,
    edits: Annotated[
        int | None,
        o.Whole(help="In a step that edits, two noises each (default: the stage's own).", rich_help_panel=o.RUN),
    ] = None,
    pool: Annotated[int, o.Whole(help="Prompts, and scenes, made once and trained on.", rich_help_panel=o.RUN)] = 4000,
    mix: o.Mix = (),
    install: Annotated[
        str | None,
        o.Folder(
            metavar="MODEL",
            help="Model folder to put the students into, where they are found by name.",
            rich_help_panel=o.RUN,
        ),
    ] = None,
    watch: Annotated[
        int | None,
        o.Whole(
            help="Measure the instruments (hb eval instruments, fewer prompts) every N steps, into the run's log; of a "
            "stage with a reward also what other rewards say.",
            rich_help_panel=o.RUN,
        ),
    ] = None,
    go_on_when_hacked: Annotated[
        bool,
        o.Flag(
            "--go-on-when-hacked",
            help="With --watch, of a stage with a reward: do not end the run where held-out rewards fall.",
            rich_help_panel=o.RUN,
        ),
    ] = False,
    mean_with: Annotated[
        list[str],
        o.Folder(
            metavar="FOLDER ...",
            help="Students of other runs of this stage: what is kept is the mean of all their weights.",
            rich_help_panel=o.RUN,
            show_default=False,
        ),
    ] = (),
    vision: Annotated[
        bool | None,
        of_stage("Does the student get the vision tokens of a picture to be edited, beside its latent? (dmdo: no)"),
    ] = None,
    mse: Annotated[
        float | None,
        of_stage("tscd: weight of the mean square beside the adversarial loss (in the paper: 0).", metavar="W"),
    ] = None,
    renoise_fake: Annotated[
        Noise | None, of_stage("dmdo: noise added to samples of the fake score (in the paper: coupled).")
    ] = None,
    renoise_student: Annotated[
        Noise | None, of_stage("dmdo: noise added to samples of the student (in the paper: coupled).")
    ] = None,
    sample_student: Annotated[
        Points | None,
        of_stage(
            "dmdo: what the scores evaluate, ends of trajectories or the estimate of one step (the paper can be read "
            "either way)."
        ),
    ] = None,
    sample_fake: Annotated[
        Points | None,
        of_stage(
            "dmdo: what the fake score is trained on, ends of trajectories (in the paper) or the estimate of each step."
        ),
    ] = None,
    fake_updates: Annotated[
        int | None, of_stage("dmdo: optimizer steps of the fake score for one of the student.", min=1, metavar="N")
    ] = None,
    reward: Annotated[
        str | None,
        of_stage("refl and its relatives: which of the model's rewards (default: the first).", metavar="NAME"),
    ] = None,
    set: Annotated[
        list[str],
        of_stage(
            "Any other setting of the stage's own, as hb/train/distill names it: --set r1=0.25 pairing=hinge.",
            metavar="NAME=VALUE ...",
            show_default=False,
        ),
    ] = (),
    data: o.Data = None,
    seed: o.Seed = 0,
    json: o.Json = False,
):
    """Distill a model: one stage, or a whole recipe of Hyper-Bagel, to six evaluations or to one.

    Stages:
      cfg               stage 1: guidance in one pass, 50 evaluations
      tscd              stage 2: three segments, an adversarial loss, 6 evaluations
      dmdo              stage 3: distribution matching along the ODE, 6 evaluations
      six-nfe           the three, one after another
      regression        one step: a warm start on the six-evaluation student's pairs
      continued         one step: pairs that begin with the student's own prediction
      deepened          one step: the same, and four layers more
      one-nfe           these three, one after another: the student that serves one evaluation
      adp               stage 4: one step, adversarial, in latents and pixels
      refl              stage 5: reward feedback
      adp-refl          regression, adp and refl, one after another
      dmdo-literal      stage 3 as printed
      lcm, pcm, dmd2    baselines at equal cost
      adp-literal       stage 4 as printed
      adp-hinge, adp-latent, adp-light, mmd, dmdo-3, -2, -1
                        other roads to one step
      refl-regression, refl-dmdo, reward-draft, reward-dpo
                        other roads from a reward: beside regression alone or stage 3 with one step, DRaFT and
                        Diffusion-DPO with six
      hyper-sd          stage 2 in its first form: cfg, then segments halved from
                        student to student: hyper-sd-8, -4, -2 and -1

    Every student is kept in FOLDER/students/STAGE; FOLDER is runs/MODEL/distill by default. A stopped run goes on
    when the command is given again."""
    args = arguments(locals())
    from hb.cli.distill import distill

    return distill(args)


@verb(
    app,
    short_help="Everything from scratch, one command after another.",
    rich_help_panel=PANEL,
    stopped=GOES_ON + "where it was",
    examples="""
hb recipe
hb recipe --dry-run
hb recipe --share 0.02 --pool 500 --folder runs/rehearsal      a rehearsal
hb recipe --accelerator gpu
""",
)
def recipe(
    preset: Annotated[str, o.Name(help="nano or small.")] = "nano",
    folder: Annotated[str | None, o.Folder(help="Folder for all of it (default: runs/PRESET).")] = None,
    share: Annotated[float, o.Number(help="Share of the usual steps of each part.")] = 1.0,
    pool: Annotated[
        int | None, o.Whole(help="Examples that parts make for themselves (default: the part's own).")
    ] = None,
    threads: o.Threads = None,
    accelerator: Annotated[str, o.Name(metavar="KIND", help="cpu, gpu or auto.")] = "auto",
    dry_run: Annotated[bool, o.Flag("--dry-run", help="Print the commands only.")] = False,
):
    """Make a model from nothing: autoencoder, vision encoder, teacher, pixel decoder, refiner, draft, and the
    six-evaluation students.

    Prints each command before it runs it; what is already there is not made again. A night for nano on two cores."""
    args = arguments(locals())
    from hb.cli.recipe import recipe

    return recipe(args)
