"""What training leaves beside a model: students, a draft, a pixel decoder, rewards. How it was made is not asked here.

Each is a folder with one safetensors file and one JSON, and carries the fingerprint of the weights it was made for.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import ClassVar, Self

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hb.files import aside, check_finite
from hb.models.bagel import Bagel
from hb.models.checkpoint import CheckpointError, check, read_weights
from hb.models.conditioning import StudentModel, extra_layers_of
from hb.models.names import diffusers_name, is_generation, to_released
from hb.models.pixel_decoder import PixelDecoder, PixelDecoderConfig
from hb.models.rewards import RewardConfig, RewardModel

DRAFT, DRAFT_CONFIG = "draft.safetensors", "draft.json"
PIXEL_DECODER, PIXEL_DECODER_CONFIG = "pixel_decoder.safetensors", "pixel_decoder.json"
STUDENT, STUDENT_CONFIG = "student.safetensors", "student.json"
SAMPLERS = ("euler", "multistep")


# ---- whose weights ---------------------------------------------------------------------------------------------------


def fingerprint(module: nn.Module, dtype: torch.dtype | None = None) -> str:
    """Of all weights, in the float16 they are shipped in: what trains beside a model fits the file that is written of
    it. dtype: of the weights as they will be once they are written in it."""
    return _digest({diffusers_name(to_released(n)): v for n, v in module.state_dict().items()}, dtype)


def understanding_fingerprint(model: Bagel, dtype: torch.dtype | None = None) -> str:
    """Of the understanding branch alone: what is made for it stays true while the other branch is trained."""
    weights = {to_released(name): value for name, value in model.state_dict().items() if not is_generation(name)}
    return _digest(weights, dtype)


def _digest(weights: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> str:
    digest = sha256()
    for name, value in sorted(weights.items()):
        value = value.detach().cpu()
        value = value if dtype is None else value.to(dtype)
        digest.update(name.encode() + value.half().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def is_exact(module: nn.Module) -> bool:
    """Can its fingerprint be compared? Not in bfloat16, which has fewer digits than the float16 of fingerprints."""
    return next(module.parameters()).dtype != torch.bfloat16


# ---- one form for all ------------------------------------------------------------------------------------------------


class LazyWeights(Mapping):
    """The tensors of a safetensors file, read when the first one is asked for. Several threads may ask."""

    def __init__(self, path: Path):
        self.path, self._tensors, self._lock = path, None, threading.Lock()

    def read(self) -> dict[str, Tensor]:
        """All of them. Raises CheckpointError if the file is missing or damaged."""
        with self._lock:
            if self._tensors is None:
                self._tensors = read_weights(self.path)
            return self._tensors

    def __getitem__(self, name: str) -> Tensor:
        return self.read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.read())

    def __len__(self) -> int:
        return len(self.read())

    def __reduce__(self):
        return LazyWeights, (self.path,)  # a copy reads the file again


class Artifact:
    """Weights made for one model. Subclasses are frozen dataclasses with a field `weights`; the others go into a JSON.

    FILE, FORMER  file names without their ends; those of earlier versions are read too
    MADE_FOR      the field with the fingerprint of what it was made for
    RENAMED       keys of earlier versions' JSON -> fields
    """

    FILE: ClassVar[str]
    FORMER: ClassVar[tuple[str, ...]] = ()
    WHAT: ClassVar[str]
    MADE_BY: ClassVar[str]
    MADE_FOR: ClassVar[str]
    RENAMED: ClassVar[dict[str, str]] = {}

    def to_dict(self) -> dict:
        """Everything but the weights."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "weights"}

    def fingerprint(self) -> str:
        """Of its weights: results of one are never taken for another's."""
        return _digest(self.weights)

    def save(self, folder: str | Path, dtype: torch.dtype | None = torch.float16) -> None:
        """Write FILE.safetensors and FILE.json. dtype None: each weight's own. An interrupted save leaves the old files
        whole."""
        folder = Path(folder)
        stored = {k: v.detach().cpu().to(dtype or v.dtype).contiguous() for k, v in self.weights.items()}
        check_finite(f"{self.FILE}.safetensors", stored)
        with aside(folder / f"{self.FILE}.json") as words, aside(folder / f"{self.FILE}.safetensors") as numbers:
            save_file(stored, numbers, {"format": "pt"})
            words.write_text(json.dumps(self.to_dict(), indent=1) + "\n")
        for name in self.FORMER:
            _remove_files(folder, name)

    @classmethod
    def load(cls, folder: str | Path, *, lazily: bool = False) -> Self:
        """Raises CheckpointError with what is wrong. lazily: read the weights when they are first used."""
        name = next((n for n in (cls.FILE, *cls.FORMER) if (Path(folder) / f"{n}.json").is_file()), None)
        if name is None:
            raise CheckpointError(f"{folder} holds no {cls.FILE}.json; make {cls.WHAT} first: {cls.MADE_BY}")
        path = Path(folder) / f"{name}.json"
        weights = LazyWeights(path.with_suffix(".safetensors"))
        return cls(**cls._values(path), weights=weights if lazily else weights.read())

    @classmethod
    def _values(cls, path: Path) -> dict:
        """The fields that the JSON has. An earlier version's has fewer, and others that are not ours are left out."""
        own = [f for f in fields(cls) if f.name != "weights"]
        needed = {f.name for f in own if f.default is MISSING and f.default_factory is MISSING}
        try:
            found = {cls.RENAMED.get(key, key): value for key, value in json.loads(path.read_text()).items()}
        except (ValueError, AttributeError) as error:
            raise CheckpointError(f"{path} is damaged ({error}); make or copy it again") from None
        if missing := needed - found.keys():
            raise CheckpointError(f"{path} is damaged (no {', '.join(sorted(missing))}); make or copy it again")
        return {f.name: found[f.name] for f in own if f.name in found}

    @classmethod
    def is_in(cls, folder: Path) -> bool:
        """Does the folder hold one?"""
        return any((folder / f"{name}.json").is_file() for name in (cls.FILE, *cls.FORMER))

    @classmethod
    def remove_from(cls, folder: Path) -> None:
        """Remove its files, and the folder if nothing else is in it."""
        for name in (cls.FILE, *cls.FORMER):
            _remove_files(folder, name)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()

    @staticmethod
    def owner(model: Bagel) -> nn.Module:
        """The part of a model whose weights it was made for."""
        raise NotImplementedError

    @classmethod
    def stamp(cls, model: Bagel, dtype: torch.dtype | None = None) -> str:
        """What MADE_FOR must be for this model (as it is written in dtype)."""
        return fingerprint(cls.owner(model), dtype)

    def is_for(self, model: Bagel) -> bool:
        """Was it made for this model? Weights held in bfloat16 do not tell; then the answer is yes."""
        return not is_exact(self.owner(model)) or self.stamp(model) == getattr(self, self.MADE_FOR)

    def stamped(self, model: Bagel, dtype: torch.dtype | None) -> Self:
        """Itself, for the model as it is written in dtype: rounded weights have another fingerprint."""
        if (dtype is None and is_exact(self.owner(model))) or not self.is_for(model):
            return self
        return replace(self, **{self.MADE_FOR: self.stamp(model, dtype)})


def _remove_files(folder: Path, name: str) -> None:
    for end in ("json", "safetensors"):
        (folder / f"{name}.{end}").unlink(missing_ok=True)


# ---- four kinds ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DraftCheckpoint(Artifact):
    """A draft model for one target: weights, how it is built, and how much it should guess.

    config   what `hb.infer.speculative.draft.DraftConfig` takes
    plans    temperature ("0", "1.0") -> what `hb.infer.speculative.plan.Plan` takes; the nearest temperature is used
    best     the fastest "chain" and the fastest "tree" that tuning met, greedy: to measure one against the other
    target   `understanding_fingerprint` of the model it was trained for. With another target it would be as right, and
             slow
    """

    config: dict
    plans: dict[str, dict]
    target: str
    weights: Mapping[str, Tensor] = field(repr=False, default_factory=dict, compare=False)
    best: dict[str, dict] = field(default_factory=dict)

    FILE, WHAT, MADE_BY, MADE_FOR = "draft", "a draft", "hb train draft", "target"

    @staticmethod
    def owner(model: Bagel) -> nn.Module:
        return model

    @classmethod
    def stamp(cls, model: Bagel, dtype: torch.dtype | None = None) -> str:
        return understanding_fingerprint(model, dtype)

    def planned(self, plans: dict[str, dict], best: dict[str, dict]) -> DraftCheckpoint:
        """The same draft, guessing differently."""
        return replace(self, plans=plans, best=best)


@dataclass(frozen=True)
class Student(Artifact):
    """A distilled denoiser of one teacher: its generation branch and how it is to be sampled.

    stage         which stage made it
    steps         its grid is `hb.flow.time_grid(steps, shift)`: so many function evaluations
    any_steps     it serves any number of steps as well (stage 1 does)
    sampler       "euler", or "multistep": multistep consistency sampling (Song et al. 2023, algorithm 1), for those
                  trained to guess, add noise, guess again (LCM, DMD2). Until 0.1 the latter was called "renoise"
    default       it answers to nfe=steps without being named
    reads_vision  the teacher reads a picture to be edited twice, as a latent and through the vision encoder. False:
                  this student needs the latent alone, which halves the reading. Until 0.1 "eyes"
    teacher       fingerprint of the model it was made from. Beside any other it is refused
    """

    stage: str
    steps: int
    shift: float
    teacher: str
    sampler: str = "euler"
    any_steps: bool = False
    default: bool = False
    reads_vision: bool = True
    provenance: dict = field(default_factory=dict, repr=False)
    weights: Mapping[str, Tensor] = field(repr=False, default_factory=dict, compare=False)

    FILE, WHAT, MADE_BY, MADE_FOR = "student", "a student", "hb distill six-nfe", "teacher"
    RENAMED = {"eyes": "reads_vision"}

    def __post_init__(self):
        if self.sampler == "renoise":
            object.__setattr__(self, "sampler", "multistep")
        if self.sampler not in SAMPLERS:
            raise CheckpointError(
                f"no sampler called {self.sampler!r} ({self.stage} student); there are {', '.join(SAMPLERS)}"
            )

    @staticmethod
    def owner(model: Bagel) -> nn.Module:
        return model

    def grid(self, steps: int, make: Callable[[int, float], Tensor]) -> Tensor:
        """Boundaries from 1 to 0 of so many steps, by `make(steps, shift)`."""
        return make(steps, self.shift)

    def open(self, teacher: Bagel) -> StudentModel:
        """The student beside its teacher, whose understanding weights it shares. Raises CheckpointError if it is
        another's."""
        model = StudentModel(teacher, extra_layers=extra_layers_of(self.weights))
        check(self.weights, {name: p.shape for name, p in model.released_weights().items()}, STUDENT)
        if not self.is_for(teacher):
            raise CheckpointError(
                f"this {self.stage} student was made from another teacher (its fingerprint is {self.teacher}, this "
                f"one's is {fingerprint(teacher)}); distil this teacher: hb distill six-nfe"
            )
        model.load_released(self.weights, STUDENT)
        return model.eval()


@dataclass(frozen=True)
class PixelDecoderCheckpoint(Artifact):
    """A pixel decoder for the latents of one encoder: smaller than the autoencoder's own.

    config    what `hb.models.pixel_decoder.PixelDecoderConfig` takes
    encoder   fingerprint of the encoder whose latents it decodes. It cannot decode those of another
    """

    config: dict
    encoder: str
    provenance: dict = field(default_factory=dict, repr=False)
    weights: Mapping[str, Tensor] = field(repr=False, default_factory=dict, compare=False)

    FILE, FORMER = "pixel_decoder", ("tiny_decoder",)
    WHAT, MADE_BY, MADE_FOR = "a pixel decoder", "hb train decoder", "encoder"

    @staticmethod
    def owner(model: Bagel) -> nn.Module:
        return model.autoencoder.encoder

    def without_refiner(self) -> PixelDecoderCheckpoint:
        """The same decoder for latents as they are."""
        weights = {name: value for name, value in self.weights.items() if not name.startswith("settle.")}
        kept = {name: value for name, value in self.config.items() if name not in ("settler", "refiner")}
        return replace(self, config=kept, weights=weights)

    def open(self, model: Bagel) -> PixelDecoder:
        """The decoder, ready beside the model's own. Raises CheckpointError if it decodes another encoder's latents."""
        widths = tuple(self.config["widths"])
        if len(widths) != len(PixelDecoderConfig(1).widths):
            raise CheckpointError(
                f"this pixel decoder is of an older kind (widths {widths}); train one again: hb train decoder"
            )
        decoder = PixelDecoder(PixelDecoderConfig.of(self.config))
        check(self.weights, {name: p.shape for name, p in decoder.state_dict().items()}, PIXEL_DECODER)
        if not self.is_for(model):
            raise CheckpointError(
                f"this pixel decoder was trained on the latents of another encoder (fingerprint {self.encoder}, this "
                f"one's is {self.stamp(model)}); train one for it: hb train decoder"
            )
        decoder.load_state_dict(self.weights)
        return decoder.to(next(model.autoencoder.parameters())).eval().requires_grad_(False).quick()


@dataclass(frozen=True)
class RewardCheckpoint(Artifact):
    """The head of a reward model.

    config       what `hb.models.rewards.RewardConfig` takes
    reads        fingerprints of what computes its features, understanding branch and encoder. It is refused beside any
                 others
    thresholds   by task, "draw" and "edit": the median reward of rendered scenes, in which ReFL's hinge bends
    """

    config: dict
    reads: str
    thresholds: dict[str, float] = field(default_factory=dict)
    provenance: dict = field(default_factory=dict, repr=False)
    weights: Mapping[str, Tensor] = field(repr=False, default_factory=dict, compare=False)

    FILE, WHAT, MADE_BY, MADE_FOR = "reward", "a reward", "hb train reward", "reads"

    @staticmethod
    def owner(model: Bagel) -> nn.Module:
        return model

    @classmethod
    def stamp(cls, model: Bagel, dtype: torch.dtype | None = None) -> str:
        return f"{understanding_fingerprint(model, dtype)}-{fingerprint(model.autoencoder.encoder, dtype)}"

    def open(self, model: Bagel) -> RewardModel:
        """The reward beside its model, frozen. Raises CheckpointError if it reads another's features."""
        reward = RewardModel(RewardConfig(**self.config), model)
        check(self.weights, {name: p.shape for name, p in reward.head.state_dict().items()}, f"{self.FILE}.safetensors")
        if not self.is_for(model):
            raise CheckpointError(
                f"this reward was trained on the features of another model (fingerprint {self.reads}, this one's is "
                f"{self.stamp(model)}); train one for it: hb train reward"
            )
        reward.head.load_state_dict({name: value.float() for name, value in self.weights.items()})
        return reward.to(model.device).eval().requires_grad_(False)
