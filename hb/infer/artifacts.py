"""What leaves training: small files that a model opens by name. How they were made does not matter here."""

from __future__ import annotations

import json
from dataclasses import MISSING, dataclass, field, fields, replace
from hashlib import sha256
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hb.files import aside, check_finite
from hb.models.bagel import Bagel
from hb.models.checkpoint import CheckpointError, check, read_weights
from hb.models.conditioning import GuidedBagel, generation_weights, is_generation
from hb.models.pixel_decoder import PixelDecoder, PixelDecoderConfig

DRAFT, DRAFT_CONFIG = "draft.safetensors", "draft.json"
TINY, TINY_CONFIG = "tiny_decoder.safetensors", "tiny_decoder.json"
STUDENT, STUDENT_CONFIG = "student.safetensors", "student.json"


def fingerprint(module: nn.Module) -> str:
    """Of all weights, in the float16 they are shipped in: what trains beside a model fits the file that is written of
    it."""
    return _digest(module.state_dict())


def understanding_fingerprint(model: Bagel) -> str:
    """Of the understanding branch alone: what is made for it stays true while the other branch is trained."""
    return _digest({name: value for name, value in model.state_dict().items() if not is_generation(name)})


def _digest(weights: dict[str, Tensor]) -> str:
    digest = sha256()
    for name, value in sorted(weights.items()):
        digest.update(name.encode() + value.detach().cpu().half().float().numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class DraftCheckpoint:
    """A draft model for one target: weights, how it is built, and how much it should guess.

    config   what `hb.infer.speculative.draft.DraftConfig` takes
    plans    temperature ("0", "1.0") -> what `hb.infer.speculative.runner.Plan` takes; the nearest temperature is used
    best     the fastest "chain" and the fastest "tree" that tuning met, greedy: to measure one against the other
    target   `understanding_fingerprint` of the model it was trained for. With another target it would be as right, and
             slow
    """

    config: dict
    plans: dict[str, dict]
    target: str
    weights: dict[str, Tensor] = field(repr=False, default_factory=dict)
    best: dict[str, dict] = field(default_factory=dict)

    def planned(self, plans: dict[str, dict], best: dict[str, dict]) -> DraftCheckpoint:
        """The same draft, guessing differently."""
        return replace(self, plans=plans, best=best)

    def save(self, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
        """Write `draft.safetensors` and `draft.json`."""
        _save(Path(folder), DRAFT, self.weights, DRAFT_CONFIG, self.to_dict(), dtype)

    def to_dict(self) -> dict:
        """Everything but the weights."""
        return dict(config=self.config, plans=self.plans, best=self.best, target=self.target)

    @staticmethod
    def load(folder: str | Path) -> DraftCheckpoint:
        """Raises CheckpointError with what is wrong."""
        values = _load(Path(folder), DRAFT_CONFIG, ("config", "plans", "best", "target"), "a draft", "hb train draft")
        return DraftCheckpoint(**values, weights={k: v.float() for k, v in read_weights(Path(folder) / DRAFT).items()})


@dataclass(frozen=True)
class Student:
    """A distilled denoiser of one teacher: its generation branch and how it is to be walked.

    stage      which stage made it
    steps      its grid is `hb.flow.time_grid(steps, shift)`: so many function evaluations
    any_steps  it serves any number of steps as well (stage 1 does)
    sampler    "euler", or "renoise" for those trained to guess, add noise, guess again (LCM, DMD2)
    default    it answers to nfe=steps without being named
    eyes       a picture to be edited is read twice by the teacher, its latent and what the vision tower sees; False:
               this student needs the latent alone, which halves the reading
    teacher    fingerprint of the model it was made from. Beside any other it is refused
    """

    stage: str
    steps: int
    shift: float
    teacher: str
    sampler: str = "euler"
    any_steps: bool = False
    default: bool = False
    eyes: bool = True
    provenance: dict = field(default_factory=dict, repr=False)
    weights: dict[str, Tensor] = field(repr=False, default_factory=dict, compare=False)

    def to_dict(self) -> dict:
        """Everything but the weights."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "weights"}

    def save(self, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
        """Write `student.safetensors` and `student.json`."""
        _save(Path(folder), STUDENT, self.weights, STUDENT_CONFIG, self.to_dict(), dtype)

    @staticmethod
    def load(folder: str | Path) -> Student:
        """Raises CheckpointError with what is wrong."""
        own = [f for f in fields(Student) if f.name != "weights"]
        needed = tuple(f.name for f in own if f.default is MISSING and f.default_factory is MISSING)
        values = _load(
            Path(folder), STUDENT_CONFIG, needed, "a student", "hb distill six-nfe", others=tuple(f.name for f in own)
        )
        return Student(**values, weights=read_weights(Path(folder) / STUDENT))

    def fingerprint(self) -> str:
        """Of its weights: results of one student are never taken for another's."""
        return _digest(self.weights)

    def open(self, teacher: Bagel) -> GuidedBagel:
        """The student beside its teacher, whose understanding weights it shares. Raises CheckpointError if it is
        another's."""
        model = GuidedBagel(teacher)
        mine = generation_weights(model)
        check(self.weights, {name: p.shape for name, p in mine.items()}, STUDENT)
        # in bfloat16 the fingerprint is another, and cannot be compared
        if teacher.vae2llm.weight.dtype != torch.bfloat16 and fingerprint(teacher) != self.teacher:
            raise CheckpointError(
                f"this {self.stage} student was made from another teacher (its fingerprint is {self.teacher}, this one's is "
                f"{fingerprint(teacher)}); distil this teacher: hb distill six-nfe"
            )
        with torch.no_grad():
            for name, p in mine.items():
                p.copy_(self.weights[name])
        return model.eval()


@dataclass(frozen=True)
class PixelDecoderCheckpoint:
    """A tiny decoder for the latents of one encoder.

    config    what `hb.models.pixel_decoder.PixelDecoderConfig` takes
    encoder   fingerprint of the encoder whose latents it reads. Another one's would be noise to it
    """

    config: dict
    encoder: str
    provenance: dict = field(default_factory=dict, repr=False)
    weights: dict[str, Tensor] = field(repr=False, default_factory=dict, compare=False)

    def to_dict(self) -> dict:
        """Everything but the weights."""
        return dict(config=self.config, encoder=self.encoder, provenance=self.provenance)

    def save(self, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
        """Write `tiny_decoder.safetensors` and `tiny_decoder.json`."""
        _save(Path(folder), TINY, self.weights, TINY_CONFIG, self.to_dict(), dtype)

    @staticmethod
    def load(folder: str | Path) -> PixelDecoderCheckpoint:
        """Raises CheckpointError with what is wrong."""
        names = ("config", "encoder", "provenance")
        values = _load(Path(folder), TINY_CONFIG, names, "a tiny decoder", "hb train decoder")
        return PixelDecoderCheckpoint(**values, weights=read_weights(Path(folder) / TINY))

    def fingerprint(self) -> str:
        """Of its weights."""
        return _digest(self.weights)

    def open(self, model: Bagel) -> PixelDecoder:
        """The decoder, ready beside the model's own. Raises CheckpointError if it reads another encoder's latents."""
        like = next(model.autoencoder.parameters())
        widths = tuple(self.config["widths"])
        if len(widths) != len(PixelDecoderConfig(1).widths):
            raise CheckpointError(
                f"this tiny decoder is of an older kind (widths {widths}); train one again: hb train decoder"
            )
        decoder = PixelDecoder(PixelDecoderConfig(**self.config | dict(widths=widths)))
        check(self.weights, {name: p.shape for name, p in decoder.state_dict().items()}, TINY)
        if like.dtype != torch.bfloat16 and fingerprint(model.autoencoder.encoder) != self.encoder:
            raise CheckpointError(
                f"this tiny decoder reads the latents of another encoder (fingerprint {self.encoder}, this one's is "
                f"{fingerprint(model.autoencoder.encoder)}); train one for it: hb train decoder"
            )
        decoder.load_state_dict(self.weights)
        return decoder.to(like).eval().requires_grad_(False).quick()


def _save(
    folder: Path, weights_name: str, weights: dict[str, Tensor], config_name: str, config: dict, dtype: torch.dtype
):
    """Both files aside first: an interrupted save leaves the old ones whole."""
    stored = {k: v.detach().cpu().to(dtype).contiguous() for k, v in weights.items()}
    check_finite(weights_name, stored)
    with aside(folder / config_name) as words, aside(folder / weights_name) as numbers:
        save_file(stored, numbers, {"format": "pt"})
        words.write_text(json.dumps(config, indent=1) + "\n")


def _load(
    folder: Path, config_name: str, names: tuple[str, ...], what: str, made_by: str, others: tuple[str, ...] = ()
) -> dict:
    """The config's values of these names, all of which must be there, and of the others that are: an older file knows
    fewer."""
    if not (folder / config_name).is_file():
        raise CheckpointError(f"{folder} holds no {config_name}; make {what} first: {made_by}")
    try:
        values = json.loads((folder / config_name).read_text())
        return {name: values[name] for name in names} | {name: values[name] for name in others if name in values}
    except (json.JSONDecodeError, KeyError) as error:
        raise CheckpointError(f"{folder / config_name} is damaged ({error}); make or copy it again") from None
