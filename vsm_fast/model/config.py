"""Layout of a model folder, and its configuration, ``config.json``.

A model folder holds ``config.json``, ``aggregation.safetensors``, ``unet/`` or ``transformer/``
and optionally ``vae/`` in diffusers' format, and optionally ``conditioning.safetensors`` with
constant inputs.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from vsm_fast.errors import ModelError
from vsm_fast.files import sha256_of_table

CONFIG = "config.json"
AGGREGATION = "aggregation.safetensors"
CONDITIONING = "conditioning.safetensors"
WEIGHTS = "diffusion_pytorch_model.safetensors"  # in each sub-folder, beside its config.json
# Supported diffusers classes by sub-folder.
DENOISERS = {
    "unet": ("UNet2DModel", "UNet2DConditionModel"),
    "transformer": ("SD3Transformer2DModel",),
}
FORMAT = "vsm_fast/1"
# Limits far beyond useful models, checked before memory is allocated. A grid of 256 x 256 cells
# takes 1 GB per image at 4096 channels; time steps of diffusion models end at 1000.
_RANGES: dict[str, tuple[float, float]] = {
    "resolution": (8, 4096),
    "timestep": (0, 10_000),
    "latent_scale": (-10_000, 10_000),
    "latent_shift": (-10_000, 10_000),
}
_MOST_CELLS = 2**16


@dataclass(frozen=True)
class BackboneConfig:
    """Feature extraction from an image.

    Attributes:
        levels: Layers to read: ``("us3", "us5")`` of a UNet, ``("block8", "block12")`` of a
            transformer.
        resolution: Side in pixels of the square network input.
        timestep: Constant time step of the forward pass.
        framing: ``"image"`` feeds the whole image (the paper), ``"subject"`` the square around the
            subject.
        background: ``"keep"`` feeds the image unchanged (the paper), ``"grey"`` the subject on mid
            grey, so that its surroundings cannot change its descriptors.
        interpolation: Resampling of the image, ``"bicubic"`` or ``"bilinear"``.
        pixel_unshuffle: Space-to-depth factor of a UNet without a VAE; 1 = none.
        latent_scale: Factor on the VAE's latent, after the shift.
        latent_shift: Subtracted from the VAE's latent; 0 for UNets.
    """

    levels: tuple[str, ...]
    resolution: int
    timestep: float
    framing: Literal["image", "subject"] = "image"
    background: Literal["keep", "grey"] = "keep"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    pixel_unshuffle: int = 1
    latent_scale: float = 0.18215
    latent_shift: float = 0.0

    def __post_init__(self) -> None:
        _check_types(self)
        _require(bool(self.levels), "levels", self.levels, "at least one level")
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            _require(least <= value <= most, name, value, f"in [{least}, {most}]")
        factor = self.pixel_unshuffle
        divides = factor > 0 and self.resolution % factor == 0
        _require(divides, "pixel_unshuffle", factor, f"a divisor of resolution {self.resolution}")


@dataclass(frozen=True)
class AggregationConfig:
    """Shape of the two aggregation networks; the defaults are the paper's.

    Attributes:
        grid: (rows, columns) of the descriptor map.
        bottleneck_channels: Width of each bottleneck.
        descriptor_channels: Channels of a descriptor.
        groups: Groups of every GroupNorm.
        first_level_weight: ``"one"``: the first level has weight 1, as in the published networks;
            ``"mixing"``: its softmax weight, like the others.
        mask_reduction: Rule for cells of the subject: ``"any"`` pixel of the cell is in the mask
            (the paper), or the ``"nearest"`` pixel to its centre. Folders without this field were
            calibrated with the latter.
    """

    grid: tuple[int, int] = (48, 48)
    bottleneck_channels: int = 96
    descriptor_channels: int = 384
    groups: int = 32
    first_level_weight: Literal["one", "mixing"] = "one"
    mask_reduction: Literal["nearest", "any"] = "nearest"

    def __post_init__(self) -> None:
        _check_types(self)
        small = min(self.grid) > 0 and math.prod(self.grid) <= _MOST_CELLS
        _require(small, "grid", self.grid, f"two positive sizes of at most {_MOST_CELLS} cells")
        _require(self.groups > 0, "groups", self.groups, "a positive number")
        for name in ("bottleneck_channels", "descriptor_channels"):
            value = getattr(self, name)
            divides = value > 0 and value % self.groups == 0
            _require(divides, name, value, f"a multiple of {self.groups} groups")


@dataclass(frozen=True)
class Thresholds:
    """Similarities above which points match; the defaults are the paper's."""

    semantic: float = 0.7
    visual: float = 0.6

    def __post_init__(self) -> None:
        _check_types(self)
        for name in ("semantic", "visual"):
            value = getattr(self, name)
            _require(-1 <= value <= 1, name, value, "a cosine similarity in [-1, 1]")


@dataclass(frozen=True)
class ModelConfig:
    """Configuration of a model.

    Attributes:
        name: Name for tables and messages.
        backbone: Feature extraction.
        aggregation: Aggregation networks.
        thresholds: The model's own thresholds.
        base_revision: Origin of the base weights; "" if trained here.
        files: sha256 (hex) of every file that affects descriptors, by path in the folder.
    """

    name: str
    backbone: BackboneConfig
    aggregation: AggregationConfig = field(default_factory=AggregationConfig)
    thresholds: Thresholds = field(default_factory=Thresholds)
    base_revision: str = ""
    files: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_types(self)

    def to_json(self) -> str:
        """Return the text of ``config.json``."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=2) + "\n"

    @staticmethod
    def from_json(text: str, where: str = "config.json") -> ModelConfig:
        """Parse ``config.json``.

        Args:
            text: Its content.
            where: Its name in errors.

        Raises:
            ModelError: If it is not JSON, has another format, or a field is missing, unknown or
                wrong.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{where} is not JSON: {error}.") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            actual = content.get("format") if isinstance(content, dict) else type(content).__name__
            raise ModelError(f"{where} must have format {FORMAT!r}; got {actual!r}.")
        del content["format"]
        for name, kind in _SECTIONS.items():
            if name in content:
                content[name] = _section(kind, content[name], f"{where}: {name}")
        config: ModelConfig = _section(ModelConfig, content, where)
        return config


def weights_fingerprint(config: ModelConfig) -> str:
    """Return one sha256 over the names and hashes of all ``files``."""
    return sha256_of_table(config.files)


def deciding_files(folder: Path) -> list[str]:
    """Return the files that affect descriptors, by path in the folder.

    ``config.json`` of the folder records the sha256 of each.
    """
    return [
        path.relative_to(folder).as_posix()
        for pattern in ("*/config.json", "**/*.safetensors")
        for path in sorted(folder.glob(pattern))
    ]


_SECTIONS = {
    "backbone": BackboneConfig,
    "aggregation": AggregationConfig,
    "thresholds": Thresholds,
}


def _section(kind: Any, values: object, where: str) -> Any:
    if not isinstance(values, dict):
        raise ModelError(f"{where} must be an object; got {type(values).__name__}.")
    fields = {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(fields))
    missing = sorted(
        name
        for name, f in fields.items()
        if name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    )
    if unknown or missing:
        raise ModelError(f"{where}: unknown fields {unknown}, missing fields {missing}.")
    frozen = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    try:
        return kind(**frozen)
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_words(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(word, str) for word in value)


# Test and rule by type; Literals are compared with their choices, and sections check themselves.
_TYPES: dict[Any, tuple[Callable[[Any], bool], str]] = {
    int: (_is_int, "a whole number"),
    float: (lambda value: _is_int(value) or isinstance(value, float), "a number"),
    str: (lambda value: isinstance(value, str), "a string"),
    tuple[str, ...]: (_is_words, "a list of strings"),
    tuple[int, int]: (
        lambda value: isinstance(value, tuple) and len(value) == 2 and all(map(_is_int, value)),
        "a list of two whole numbers",
    ),
    Mapping[str, str]: (
        lambda value: isinstance(value, Mapping) and _is_words((*value.keys(), *value.values())),
        "an object of strings",
    ),
}


def _check_types(section: Any) -> None:
    for name, hint in get_type_hints(type(section)).items():
        value = getattr(section, name)
        if get_origin(hint) is Literal:
            _require(value in get_args(hint), name, value, f"one of {get_args(hint)}")
        elif hint in _TYPES:
            fits, rule = _TYPES[hint]
            _require(fits(value), name, value, rule)


def _require(condition: bool, name: str, value: object, rule: str) -> None:
    if not condition:
        raise ModelError(f"{name} must be {rule}; got {value!r}.")
