"""`hb train`: the parts of a model, from scratch."""

from typing import Annotated, Literal

import typer

from hb.cli import options as o
from hb.cli.errors import GOES_ON
from hb.cli.verb import Group, arguments, examples_text, verb

app = typer.Typer(
    cls=Group,
    help="Train a part of the model from scratch. In order: tokenizer (shipped), autoencoder, vision, teacher, draft. "
    "Everything is made from seeds; nothing is downloaded. A stopped run goes on when the command is given again.",
    short_help="Train the autoencoder, the vision encoder, the teacher, the draft.",
    epilog=examples_text(
        "hb train autoencoder && hb train teacher      nano, into runs/nano; a night on two cores\n"
        "hb demo --model runs/nano/model              what came of it"
    ),
)
STOPPED = GOES_ON + "the last checkpoint"

PicturesInAStep = Annotated[int | None, o.batch_option("Pictures in a step")]
ScenesInAStep = Annotated[int | None, o.batch_option("Scenes in a step")]
LatentNoise = Annotated[
    float, o.Number(metavar="SD", help="Standard deviation, at most, of the noise that is added to latents.")
]


@verb(app, short_help="Rebuild data/tokenizer (seconds).", examples="hb train tokenizer --out out/tokenizer")
def tokenizer(out: Annotated[str | None, o.Folder(help="Folder to write it to (default: data/tokenizer).")] = None):
    """Rebuild the tokenizer from the tiny world's sentences. Always the same bytes."""
    args = arguments(locals())
    from hb.cli.train import tokenizer

    return tokenizer(args)


@verb(
    app,
    short_help="Pictures to latents and back (about an hour for nano on two cores).",
    stopped=STOPPED,
    examples="""
hb train autoencoder
hb train autoencoder --minutes 30
hb train autoencoder --folder runs/mine --threads 1
""",
)
def autoencoder(
    run: o.RunOptions,
    host: o.HostOptions,
    preset: o.Preset = "nano",
    batch: PicturesInAStep = None,
    decoder_only: Annotated[
        bool,
        o.Flag("--decoder-only", help="With --start-from: train the decoder alone, and leave latents as they are."),
    ] = False,
    semantic: Annotated[
        bool,
        o.Flag("--semantic", help="Latents whose every channel says what is in the picture and where (after VA-VAE)."),
    ] = False,
    noise: Annotated[
        float | None,
        o.Number(
            metavar="SD",
            help="With --semantic (default 0.4) or --decoder-only (default 0): noise on the decoder's latents.",
        ),
    ] = None,
    data: o.Data = None,
    seed: o.Seed = 0,
    json: o.Json = False,
):
    """Train the autoencoder. Writes FOLDER/autoencoder/ae.safetensors and vae_config.json."""
    args = arguments(locals())
    from hb.cli.train import autoencoder

    return autoencoder(args)


@verb(
    app,
    short_help="Optional: pretrain the vision encoder (minutes).",
    formerly="eyes",
    stopped=STOPPED,
    examples="""
hb train vision && hb train teacher --vision runs/nano/vision
hb train vision --start-from nano --minutes 20
""",
)
def vision(
    run: o.RunOptions,
    host: o.HostOptions,
    preset: o.Preset = "nano",
    batch: PicturesInAStep = None,
    seed: o.Seed = 0,
    json: o.Json = False,
):
    """Pretrain the vision encoder: it learns what lies under every patch, of what shape, color, size and texture, and
    where its center is. BAGEL begins with SigLIP's weights; ours have to be made. Writes
    FOLDER/vision/vision.safetensors."""
    args = arguments(locals())
    from hb.cli.train import vision

    return vision(args)


@verb(
    app,
    short_help="The unified model (a night for nano on two cores).",
    stopped=STOPPED,
    renamed={"--eyes": "--vision", "--talks": "--dialogues"},
    examples="""
hb train teacher
hb train teacher --minutes 60 --threads 1
hb train teacher --start-from nano --lr 0.005 --folder runs/more
hb train teacher --preset small --accelerator gpu --devices 8 --num-nodes 2 --strategy ddp
""",
)
def teacher(
    run: o.RunOptions,
    host: o.HostOptions,
    preset: o.Preset = "nano",
    batch: Annotated[int | None, o.batch_option("Prompts in a step; edits and dialogues keep their proportion")] = None,
    autoencoder: Annotated[
        str | None, o.Folder(help="Folder with its ae.safetensors (default: FOLDER/autoencoder).")
    ] = None,
    vision: Annotated[
        str | None,
        o.Folder(help="Pretrained vision encoder to begin with, and to align drawing with (hb train vision)."),
    ] = None,
    edits: Annotated[int | None, o.Whole(help="Edits in a step (default: half the prompts).")] = None,
    dialogues: Annotated[
        int | None, o.Whole(help="Question-answer dialogues in a step (default: half the prompts).")
    ] = None,
    learns: Annotated[
        Literal["all", "understanding", "answers", "drawing"],
        typer.Option(
            help="Train one branch alone, the other stays as it is; answers: the part of understanding that drawing "
            "does not read. understanding and answers take --batch dialogues a step."
        ),
    ] = "all",
    retain: Annotated[
        str | None,
        o.Folder(
            help="An earlier model (a name or a folder) whose velocities are the targets of edits and of prompts that "
            "say little, so that what it does well is not forgotten."
        ),
    ] = None,
    pool: Annotated[int, o.Whole(help="Prompts, and scenes, made once and trained on.")] = 40_000,
    mix: o.Mix = (),
    out: Annotated[str | None, o.Folder(help="Folder of the model (default: FOLDER/model).")] = None,
    data: o.Data = None,
    seed: o.Seed = 0,
    json: o.Json = False,
):
    """Train the unified model on the latents of FOLDER/autoencoder.

    At the end, and when --minutes are over, writes the model in the released form into FOLDER/model, with where it came
    from (provenance.json)."""
    args = arguments(locals())
    from hb.cli.train import teacher

    return teacher(args)


@verb(
    app,
    short_help="A small pixel decoder that takes half the time (minutes).",
    stopped=STOPPED,
    examples="hb train decoder\nhb train decoder --model runs/nano/model --minutes 10",
)
def decoder(
    model: o.ModelOptions,
    run: o.RunOptions,
    host: o.HostOptions,
    batch: PicturesInAStep = None,
    noise: LatentNoise = 0.4,
    out: o.Out = None,
    data: o.Data = None,
    seed: o.Seed = 0,
    json: o.Json = False,
):
    """Train a small pixel decoder for a model's latents: where six steps make a picture, decoding it is a third of
    the time.

    Writes FOLDER/checkpoint. Put that into the model's folder as decoder/ to use it."""
    args = arguments(locals())
    from hb.cli.train import decoder

    return decoder(args)


@verb(
    app,
    short_help="A latent refiner in front of the pixel decoder (minutes).",
    formerly="settler",
    stopped=STOPPED,
    examples="hb train refiner\nhb train refiner --model runs/nano/model --minutes 10",
)
def refiner(
    model: o.ModelOptions,
    run: o.RunOptions,
    host: o.HostOptions,
    batch: ScenesInAStep = None,
    noise: LatentNoise = 0.4,
    out: o.Out = None,
    seed: o.Seed = 0,
    json: o.Json = False,
):
    """Train a latent refiner: a small transformer in front of a model's pixel decoder.

    Few-step models leave shapes that are half of one color and half of another, and a pixel decoder shows patches of
    both; the refiner makes the latents of a shape agree. Writes FOLDER/checkpoint, the pixel decoder with its
    refiner. Put that into the model's folder as decoder/ to use it."""
    args = arguments(locals())
    from hb.cli.train import refiner

    return refiner(args)


@verb(
    app,
    short_help="The draft model that makes asking faster (minutes on two cores).",
    stopped=STOPPED,
    examples="""
hb train draft
hb train draft --model runs/nano/model --minutes 10
hb train draft --layers 1 --folder runs/thin
""",
)
def draft(
    model: o.ModelOptions,
    run: o.RunOptions,
    host: o.HostOptions,
    batch: Annotated[int | None, o.batch_option("Answers in a step")] = None,
    kind: Annotated[Literal["hyper-bagel", "eagle3"], typer.Option(help="Architecture of the draft.")] = "hyper-bagel",
    layers: Annotated[int, o.Whole(help="Draft layers.")] = 2,
    no_zero_init: Annotated[
        bool, o.Flag("--no-zero-init", help="Random instead of zero weights in the last layer of the bridge.")
    ] = False,
    ce_weight: Annotated[float, o.Number(metavar="W", help="Weight of the cross-entropy beside the divergence.")] = 0.1,
    pool: Annotated[int, o.Whole(help="Answers of the model to learn from, made once.")] = 4000,
    out: o.Out = None,
    seed: o.Seed = 0,
    json: o.Json = False,
):
    """Train a draft for a model: the model answers questions about random scenes, the draft learns to predict its
    tokens.

    Writes FOLDER/checkpoint/draft.safetensors and draft.json. Put them into the model's folder as draft/ to use
    them."""
    args = arguments(locals())
    from hb.cli.train import draft

    return draft(args)


@verb(
    app,
    short_help="What people prefer, learnt from clicks (minutes, once pictures are made).",
    stopped=STOPPED,
    examples="""
hb train reward
hb train reward --features latents --seed 1 --pictures runs/nano/reward/vision/pictures
hb train reward --clicks my_clicks/preferences.jsonl
hb train reward --install data/checkpoints/nano
""",
)
def reward(
    model: o.ModelOptions,
    run: o.RunOptions,
    host: o.HostOptions,
    batch: Annotated[int | None, o.batch_option("Comparisons in a step")] = None,
    features: Annotated[
        Literal["vision", "latents"],
        typer.Option(help="What it reads of a picture: the vision encoder's features, or the autoencoder's."),
    ] = "vision",
    loss: Annotated[
        Literal["uncertain", "bradley-terry"], typer.Option(help="With or without a sigma (HPSv3, ImageReward).")
    ] = "uncertain",
    clicks: Annotated[
        str | None, o.Folder(metavar="FILE", help="Learn from these comparisons of people instead: JSON lines.")
    ] = None,
    prompts: Annotated[int, typer.Option(min=0, metavar="N", help="Prompts, four pictures of each.")] = 768,
    edits: Annotated[int, typer.Option(min=0, metavar="N", help="Edits, four results of each.")] = 320,
    rendered: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="For each of these, N requests whose pictures are rendered, half of them wrong."
        ),
    ] = 2,
    width: Annotated[int, o.Whole(help="Width of the head, a multiple of 16.")] = 64,
    layers: Annotated[int, o.Whole(help="Its layers at each place of the picture.")] = 1,
    attention: Annotated[
        bool,
        typer.Option(
            "--attention/--no-attention",
            help="Places attend to each other in each layer: contrast and balance are of the picture as a whole.",
        ),
    ] = True,
    annotators: Annotated[int, o.Whole(help="Simulated annotators, each with a taste of their own.")] = 3,
    annotator_seed: Annotated[int, typer.Option(metavar="N", help="Whose taste: other seeds are other people.")] = 0,
    noise: Annotated[
        float, o.Number(metavar="SD", help="Standard deviation of the noise on each utility (a right picture: 2).")
    ] = 0.15,
    careless: Annotated[float, o.Number(metavar="SHARE", help="Share of clicks that a coin makes.")] = 0.05,
    pictures: Annotated[
        str | None,
        o.Folder(help="Folder of the pictures that are compared, made if it is empty (default: FOLDER/pictures)."),
    ] = None,
    name: Annotated[str | None, o.Name(help="What the reward is called (default: its features).")] = None,
    install: Annotated[
        str | None, o.Folder(metavar="MODEL", help="Model folder to put the reward into, where it is found by name.")
    ] = None,
    out: o.Out = None,
    seed: o.Seed = 0,
    json: o.Json = False,
):
    """Train a reward: for a picture and a prompt it gives what people think of it, mu, and how unsure that is, sigma.

    Pictures of the model are compared by simulated annotators, or by people (--clicks). The model stays as it is; the
    reward is a small head on its features. Writes FOLDER/checkpoint. Put that into the model's folder as rewards/NAME
    to use it."""
    args = arguments(locals())
    from hb.cli.reward import train

    return train(args)
