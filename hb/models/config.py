"""Every size of the model in one printable record; presets are values in a table."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from hb.files import write
from hb.models.autoencoder import AutoencoderConfig


@dataclass(frozen=True)
class DecoderConfig:
    """The language model (bagel.md section 1, `llm_config.json`); names are the released file's."""

    hidden_size: int = 3584
    num_hidden_layers: int = 28
    num_attention_heads: int = 28
    num_key_value_heads: int = 4
    intermediate_size: int = 18944
    vocab_size: int = 152064
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True)
class VisionConfig:
    """The vision tower (`vit_config.json`). num_hidden_layers counts the layers that run: the file says one more."""

    hidden_size: int = 1152
    num_hidden_layers: int = 26
    num_attention_heads: int = 16
    intermediate_size: int = 4304
    patch_size: int = 14
    image_size: int = 980
    layer_norm_eps: float = 1e-6

    @property
    def side(self) -> int:
        """Patches along a side of the position table."""
        return self.image_size // self.patch_size


@dataclass(frozen=True)
class BagelConfig:
    """The whole model. latent_patch and latent_side are kept in code by the release, not in a file.

    picture_side is the side in pixels of the pictures that a small preset was trained on; None: sizes vary, as
    released. interpolate_pos spreads the places of a picture over the whole position tables instead of taking their
    corner.
    """

    llm: DecoderConfig = field(default_factory=DecoderConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    latent_patch: int = 2
    latent_side: int = 64
    picture_side: int | None = None
    interpolate_pos: bool = False

    @property
    def latent_width(self) -> int:
        """Values in one latent token."""
        return self.latent_patch**2 * self.autoencoder.z_channels

    @property
    def token_pixels(self) -> int:
        """Pixels along a side of one latent token."""
        return self.latent_patch * self.autoencoder.downsample

    def save(self, folder: str | Path) -> None:
        """Write the config files of the released form, and `bagel_config.json`, `vae_config.json` beside them."""
        for name, values in _to_files(self).items():
            write(Path(folder) / name, (json.dumps(values, indent=1) + "\n").encode())

    @staticmethod
    def load(folder: str | Path) -> BagelConfig:
        """Read a folder's config files. What the release keeps in code may be missing and then has its released
        value."""
        folder = Path(folder)
        files = {name: _read_json(folder / name) for name in ("llm_config.json", "vit_config.json")}
        missing = [name for name, values in files.items() if values is None]
        if missing:
            raise FileNotFoundError(f"{folder} holds no {' and no '.join(missing)}: is it a model folder?")
        vae = _read_json(folder / "vae_config.json") or {}
        own = _read_json(folder / "bagel_config.json") or {}
        return _from_files(files["llm_config.json"], files["vit_config.json"], vae, own)


def _read_json(path: Path) -> dict | None:
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path.name} is not readable JSON ({error}); fetch or copy the file again") from None


def _to_files(config: BagelConfig) -> dict[str, dict]:
    llm = asdict(config.llm) | dict(
        model_type="qwen2", architectures=["Qwen2ForCausalLM"], hidden_act="silu", tie_word_embeddings=False
    )
    vit = asdict(config.vision) | dict(model_type="siglip_vision_model")
    vit["num_hidden_layers"] += 1  # the released file counts a layer that is never used
    vae = asdict(config.autoencoder) | dict(downsample=config.autoencoder.downsample)
    own = dict(
        latent_patch_size=config.latent_patch,
        max_latent_size=config.latent_side,
        vit_max_num_patch_per_side=config.vision.side,
        connector_act="gelu_pytorch_tanh",
        interpolate_pos=config.interpolate_pos,
        picture_side=config.picture_side,
    )
    return {"llm_config.json": llm, "vit_config.json": vit, "vae_config.json": vae, "bagel_config.json": own}


def _from_files(llm: dict, vit: dict, vae: dict, own: dict) -> BagelConfig:
    def pick(cls, values):
        known = {k: v for k, v in values.items() if k in cls.__dataclass_fields__}
        if "ch_mult" in known:
            known["ch_mult"] = tuple(known["ch_mult"])
        return cls(**known)

    vision = pick(VisionConfig, vit)
    vision = replace(vision, num_hidden_layers=vision.num_hidden_layers - 1)
    if own.get("vit_max_num_patch_per_side", vision.side) != vision.side:
        raise ValueError(
            f"bagel_config.json gives the vision tower a table of side {own['vit_max_num_patch_per_side']}, "
            f"vit_config.json one of {vision.side}; the two files do not belong together"
        )
    autoencoder = pick(AutoencoderConfig, vae)
    if vae.get("downsample", autoencoder.downsample) != autoencoder.downsample:
        raise ValueError(
            f"vae_config.json says downsample {vae['downsample']}, but {len(autoencoder.ch_mult)} levels make "
            f"{autoencoder.downsample}"
        )
    return BagelConfig(
        llm=pick(DecoderConfig, llm),
        vision=vision,
        autoencoder=autoencoder,
        latent_patch=own.get("latent_patch_size", 2),
        latent_side=own.get("max_latent_size", 64),
        picture_side=own.get("picture_side"),
        interpolate_pos=own.get("interpolate_pos", False),
    )


# 12 thin layers: a draft of two must be cheap beside its target (the paper's ratio is 2 of 28)
NANO = BagelConfig(
    llm=DecoderConfig(
        hidden_size=128, num_hidden_layers=12, num_attention_heads=4, num_key_value_heads=4, intermediate_size=352,
        vocab_size=1024, rope_theta=1e4,
    ),
    vision=VisionConfig(
        hidden_size=128, num_hidden_layers=3, num_attention_heads=4, intermediate_size=384, patch_size=8, image_size=64
    ),
    # 4 channels a group, as FLUX has: one channel a group forgets the background's brightness, and nothing is learnt
    autoencoder=AutoencoderConfig(
        ch=16, ch_mult=(1, 2, 4, 4), num_res_blocks=1, z_channels=8, scale_factor=1.0, shift_factor=0.0, norm_groups=4
    ),
    # a token for each place of the latent, not for four as FLUX has it: each of 16 tokens would carry 64 values in a
    # state of 128
    latent_patch=1, latent_side=8, picture_side=64,
)  # fmt: skip
SMALL = BagelConfig(
    llm=DecoderConfig(
        hidden_size=320, num_hidden_layers=18, num_attention_heads=10, num_key_value_heads=5, intermediate_size=864,
        vocab_size=1024, rope_theta=1e4,
    ),
    vision=VisionConfig(
        hidden_size=256, num_hidden_layers=6, num_attention_heads=8, intermediate_size=768, patch_size=8, image_size=128
    ),
    autoencoder=AutoencoderConfig(
        ch=32, ch_mult=(1, 2, 4, 4), num_res_blocks=1, z_channels=16, scale_factor=1.0, shift_factor=0.0, norm_groups=8
    ),
    latent_side=8, picture_side=128,
)  # fmt: skip
PRESETS = {"nano": NANO, "small": SMALL, "bagel-7b": BagelConfig()}
