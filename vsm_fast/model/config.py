"""Configuration of a model: what ``config.json`` of a model folder says."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vsm_fast.errors import ModelError
from vsm_fast.files import sha256_of_table

FORMAT = "vsm_fast/1"
# Far beyond any model that is of use, and refused before memory is asked for. A grid of 256 x 256
# cells takes 1 GB an image at 4096 channels; time steps of diffusion models end at 1000.
_SIDES = (8, 4096)
_MOST_CELLS = 2**16
_MOST_TIMESTEP = 10_000
_MOST_FACTOR = 10_000


@dataclass(frozen=True)
class BackboneConfig:
    """How an image becomes features.

    Attributes:
        levels: Layers to read: of a UNet like ``("us3", "us5")``, of a transformer like
            ``("block8", "block12")``.
        resolution: Side in pixels of the square that the network sees.
        timestep: Constant time step of the forward pass.
        framing: ``"image"`` shows the network the whole image (the paper), ``"subject"`` the
            square around the subject.
        background: ``"keep"`` shows the network the image as it is (the paper), ``"grey"`` the
            subject on mid grey, so that what surrounds it cannot change its descriptors.
        interpolation: Resampling of the image, ``"bicubic"`` or ``"bilinear"``.
        pixel_unshuffle: Space-to-depth factor of a UNet without a VAE; 1 = none.
        latent_scale: Factor on the VAE's latent, after the shift.
        latent_shift: What is subtracted from the VAE's latent; 0 for UNets.
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
        _check(bool(self.levels), "levels", self.levels, "at least one level")
        _check_range("resolution", self.resolution, *_SIDES)
        _check_range("timestep", self.timestep, 0, _MOST_TIMESTEP)
        for name in ("latent_scale", "latent_shift"):
            _check_range(name, getattr(self, name), -_MOST_FACTOR, _MOST_FACTOR)
        factor = self.pixel_unshuffle
        divides = factor > 0 and self.resolution % factor == 0
        _check(divides, "pixel_unshuffle", factor, f"a divisor of resolution {self.resolution}")
        choices = {
            "framing": ("image", "subject"),
            "background": ("keep", "grey"),
            "interpolation": ("bicubic", "bilinear"),
        }
        for name, allowed in choices.items():
            value = getattr(self, name)
            _check(value in allowed, name, value, f"one of {allowed}")


@dataclass(frozen=True)
class AggregationConfig:
    """Shape of the two aggregation networks; the defaults are the paper's.

    Attributes:
        grid: (rows, columns) of the descriptor map.
        bottleneck_channels: Width inside each bottleneck.
        descriptor_channels: Channels of a descriptor.
        groups: Groups of every GroupNorm.
        first_level_weight: ``"one"``: the first level enters the sum with weight 1, as in the
            published networks; ``"mixing"``: with its softmax weight like the others.
        mask_reduction: When a cell of the grid counts as the subject: ``"any"``, when any pixel
            that it touches does (the paper); ``"nearest"``, when the pixel at its centre does.
            Folders that do not say were calibrated with the latter.
    """

    grid: tuple[int, int] = (48, 48)
    bottleneck_channels: int = 96
    descriptor_channels: int = 384
    groups: int = 32
    first_level_weight: Literal["one", "mixing"] = "one"
    mask_reduction: Literal["nearest", "any"] = "nearest"

    def __post_init__(self) -> None:
        _check_types(self)
        few = min(self.grid) > 0 and math.prod(self.grid) <= _MOST_CELLS
        _check(few, "grid", self.grid, f"two positive sizes of at most {_MOST_CELLS} cells")
        _check(self.groups > 0, "groups", self.groups, "a positive number")
        for name in ("bottleneck_channels", "descriptor_channels"):
            value = getattr(self, name)
            _check(
                value > 0 and value % self.groups == 0,
                name,
                value,
                f"a multiple of {self.groups} groups",
            )
        choices = {"first_level_weight": ("one", "mixing"), "mask_reduction": ("nearest", "any")}
        for name, allowed in choices.items():
            value = getattr(self, name)
            _check(value in allowed, name, value, f"one of {allowed}")


@dataclass(frozen=True)
class Thresholds:
    """Similarities above which points match; the defaults are the paper's."""

    semantic: float = 0.7
    visual: float = 0.6

    def __post_init__(self) -> None:
        _check_types(self)
        for name in ("semantic", "visual"):
            value = getattr(self, name)
            _check(-1 <= value <= 1, name, value, "a cosine similarity in [-1, 1]")


@dataclass(frozen=True)
class ModelConfig:
    """A whole model.

    Attributes:
        name: Name for tables and messages.
        backbone: How an image becomes features.
        aggregation: How features become descriptors.
        thresholds: The model's own thresholds.
        base_revision: Where the base weights came from; "" when trained here.
        files: sha256 (hex) of every file that decides what the model computes, by its path in
            the folder.
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
        """The text of ``config.json``."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=2) + "\n"

    @staticmethod
    def from_json(text: str, where: str = "config.json") -> ModelConfig:
        """Read ``config.json``.

        Args:
            text: Its content.
            where: What to call it in an error.

        Raises:
            ModelError: Not JSON, another format, or a field that is missing, unknown or wrong.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{where} is not JSON: {error}.") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            found = content.get("format") if isinstance(content, dict) else type(content).__name__
            raise ModelError(f"{where} must have format {FORMAT!r}; got {found!r}.")
        del content["format"]
        for name, kind in _SECTIONS.items():
            if name in content:
                content[name] = _section(kind, content[name], f"{where}: {name}")
        config: ModelConfig = _section(ModelConfig, content, where)
        return config


def weights_fingerprint(config: ModelConfig) -> str:
    """One sha256 over the names and hashes of all ``files``."""
    return sha256_of_table(config.files)


_SECTIONS = {
    "backbone": BackboneConfig,
    "aggregation": AggregationConfig,
    "thresholds": Thresholds,
}


def _section(kind: Any, values: object, where: str) -> Any:
    if not isinstance(values, dict):
        raise ModelError(f"{where} must be an object; got {type(values).__name__}.")
    known = {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(known))
    missing = sorted(
        name
        for name, f in known.items()
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


def _is_size(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_is_int, value))


def _is_words(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(word, str) for word in value)


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping) and _is_words((*value.keys(), *value.values()))


# By annotation. Literals are compared with their choices instead, and sections check themselves.
_TYPES: dict[str, tuple[Callable[[object], bool], str]] = {
    "int": (_is_int, "a whole number"),
    "float": (lambda value: _is_int(value) or isinstance(value, float), "a number"),
    "str": (lambda value: isinstance(value, str), "a string"),
    "tuple[str, ...]": (_is_words, "a list of strings"),
    "tuple[int, int]": (_is_size, "a list of two whole numbers"),
    "Mapping[str, str]": (_is_table, "an object of strings"),
}


def _check_types(section: Any) -> None:
    for entry in dataclasses.fields(section):
        if entry.type in _TYPES:
            is_right, wanted = _TYPES[str(entry.type)]
            value = getattr(section, entry.name)
            _check(is_right(value), entry.name, value, wanted)


def _check_range(name: str, value: float, least: float, most: float) -> None:
    _check(least <= value <= most, name, value, f"in [{least}, {most}]")


def _check(right: bool, name: str, value: object, wanted: str) -> None:
    if not right:
        raise ModelError(f"{name} must be {wanted}; got {value!r}.")
