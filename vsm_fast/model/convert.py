"""Released files -> one model folder that ``VSMScorer.from_pretrained`` reads.

Everything is checked before anything is written: names and shapes of all weights against the
models that they are for, without a second copy of them in memory.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vsm_fast.errors import ModelError
from vsm_fast.extras import required
from vsm_fast.files import new_folder
from vsm_fast.model.aggregation import AggregationNetwork
from vsm_fast.model.config import AggregationConfig, ModelConfig
from vsm_fast.model.config_limits import skeleton
from vsm_fast.model.layout import (
    AGGREGATION,
    BRANCHES,
    CONDITIONING,
    CONFIG,
    WEIGHTS,
    published_key,
)
from vsm_fast.model.load import backbone_of
from vsm_fast.model.presets import PRESETS, Preset, converted_folder, with_revisions
from vsm_fast.model.released_files import (
    BACKBONE_PREFIX,
    aggregation_names,
    empty_joint_prompt,
    empty_prompt,
    has_backbone,
    network_config,
    read_cleandift,
    read_experiment,
)
from vsm_fast.model.save import seal
from vsm_fast.model.sources import Sources, check_lock, write_lock
from vsm_fast.model.weights import Shapes, check_fit, modern_key, opened, save_weights

_log = logging.getLogger(__name__)
_CLASSES = {
    "unet": "UNet2DConditionModel",
    "transformer": "SD3Transformer2DModel",
    "vae": "AutoencoderKL",
}
_TINY_VAE = "AutoencoderTiny"


@dataclass(frozen=True)
class LocalFiles:
    """Copies of the released files; what is None comes from the Hub.

    Attributes:
        base: Folder of the base model, in diffusers' layout.
        cleandift: Full CleanDIFT checkpoint.
        aggregation: Aggregation weights.
        experiment: The configuration that they were trained with.
        tiny_vae: Folder of the tiny VAE, in diffusers' layout.
    """

    base: Path | None = None
    cleandift: Path | None = None
    aggregation: Path | None = None
    experiment: Path | None = None
    tiny_vae: Path | None = None


@dataclass(frozen=True)
class _Weights:
    """Where each weight of a part is: file, and name in it by name in the model."""

    file: Path
    names: Mapping[str, str]


@dataclass(frozen=True)
class _Backbone:
    """A base model, perhaps with other weights, a learned time step or a tiny VAE."""

    base: Path
    parts: Mapping[str, _Weights]
    settings: Mapping[str, dict[str, Any]]
    timestep: float


@dataclass(frozen=True)
class _Networks:
    """Published networks: their weights, shape and levels."""

    weights: _Weights
    config: AggregationConfig
    levels: tuple[str, ...]


def convert(
    preset: str | Preset,
    out: Path | None = None,
    local: LocalFiles | None = None,
    *,
    networks: bool = True,
    tiny_vae: bool = False,
    revisions: Mapping[str, str] | None = None,
    dtype: torch.dtype = torch.float16,
    local_files_only: bool = False,
    tell: Callable[[str], None] = _log.info,
) -> ModelConfig:
    """Convert the released files of a preset into a model folder.

    Args:
        preset: Its name, or a preset of your own.
        out: The folder; None = where ``VSMScorer.from_pretrained(name)`` looks for the name of
            the model (see ``tiny_vae``). It appears complete or not at all.
        local: Files that need not be fetched.
        networks: False leaves published aggregation networks out, to train others.
        tiny_vae: Take the VAE that was distilled from the model's, which is an approximation;
            the model is then called ``PRESET-tiny-vae``.
        revisions: Commit, tag or branch by repository, instead of the preset's.
        dtype: Precision of the backbone on disk; the small rest is float32.
        local_files_only: Never ask the network.
        tell: Gets a sentence about each choice that the files decided.

    Returns:
        The configuration as written. Without aggregation networks the folder is for
        ``vsm-fast train --backbone``, and cannot score.

    Raises:
        ModelError: There is no such preset, a file is missing, pickled, damaged or of another
            model, or ``out`` holds something else or was made from other files.
        ImportError: transformers is not installed.
    """
    required("transformers", "the embedding of the empty prompt")  # before any download
    chosen = find_preset(preset) if isinstance(preset, str) else preset
    chosen = with_revisions(chosen, revisions or {})
    name = model_name(chosen, tiny_vae=tiny_vae)
    out = converted_folder(name) if out is None else out
    local = local or LocalFiles()
    sources = Sources(local_files_only)
    found = _find_networks(chosen, local, sources, tell) if networks else None
    backbone = _find_backbone(chosen, local, sources, found, tell)
    if tiny_vae:
        backbone = _with_tiny_vae(backbone, chosen, local, sources)
    check_lock(out, name, sources.found)
    config = _config(chosen, name, backbone, found, sources)
    constants = _constants(chosen, backbone, config.backbone.resolution)
    _check(config, backbone, constants, found)
    out.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(out, CONFIG) as folder:
        for part, weights in backbone.parts.items():
            (folder / part).mkdir()
            text = json.dumps(backbone.settings[part], indent=2) + "\n"
            (folder / part / "config.json").write_text(text, encoding="utf-8")
            _copy(weights, folder / part / WEIGHTS, dtype)
        save_weights(constants, folder / CONDITIONING, torch.float32)
        if found:
            _copy(found.weights, folder / AGGREGATION, torch.float32)
        write_lock(folder, name, sources.found)
        return seal(folder, config)


def model_name(preset: Preset, *, tiny_vae: bool) -> str:
    """What a converted preset is called."""
    return f"{preset.name}-tiny-vae" if tiny_vae else preset.name


def _config(
    preset: Preset, name: str, backbone: _Backbone, networks: _Networks | None, sources: Sources
) -> ModelConfig:
    return ModelConfig(
        name=name,
        backbone=replace(
            preset.backbone,
            levels=networks.levels if networks else preset.backbone.levels,
            timestep=backbone.timestep,
        ),
        aggregation=networks.config if networks else preset.aggregation,
        base_revision=sources.summary(),
    )


def _constants(preset: Preset, backbone: _Backbone, resolution: int) -> dict[str, Tensor]:
    """The constant inputs of the denoiser."""
    if preset.denoiser == "unet":
        return empty_prompt(backbone.base, preset.text_encoders, resolution)
    channels = backbone.settings[preset.denoiser].get("joint_attention_dim")
    if not isinstance(channels, int):
        raise ModelError(
            f"{backbone.base}/{preset.denoiser}/config.json has no joint_attention_dim."
        )
    return empty_joint_prompt(backbone.base, preset.text_encoders, channels)


def find_preset(name: str) -> Preset:
    """A preset by its name.

    Raises:
        ModelError: There is none.
    """
    if name not in PRESETS:
        raise ModelError(f"no preset {name!r}; there are {', '.join(PRESETS)}.")
    return PRESETS[name]


def _find_networks(
    preset: Preset, local: LocalFiles, sources: Sources, tell: Callable[[str], None]
) -> _Networks | None:
    """The published networks of a preset that has some."""
    if preset.networks is None or preset.experiment is None:
        return None
    weights, experiment = (
        sources.local(path, source) if path else sources.hub(source)[0]
        for path, source in (
            (local.aggregation, preset.networks),
            (local.experiment, preset.experiment),
        )
    )
    settings = read_experiment(experiment)
    if settings.unused:
        tell(f"settings of the experiment that were not used: {', '.join(settings.unused)}")
    with opened(weights) as file:
        config = network_config(file, settings, preset.aggregation)
        names = {name: name for name in aggregation_names(file)}
    tell(f"levels: {', '.join(settings.levels)}; groups: {config.groups}")
    return _Networks(_Weights(weights, names), config, settings.levels)


def _find_backbone(
    preset: Preset,
    local: LocalFiles,
    sources: Sources,
    networks: _Networks | None,
    tell: Callable[[str], None],
) -> _Backbone:
    """The base model, with the weights of CleanDIFT where the preset wants these."""
    base = sources.folder(preset.base, local.base)
    names = (preset.denoiser, "vae")
    settings = {part: _settings(base / part, _CLASSES[part]) for part in names}
    if preset.cleandift is None:
        parts = {part: _own_weights(base / part / WEIGHTS) for part in names}
        return _Backbone(base, parts, settings, preset.backbone.timestep)
    prefix = ""
    path = local.cleandift
    if path is not None:
        sources.local(path, preset.cleandift)
    elif networks is not None and _is_copy(networks.weights.file):
        path, prefix = networks.weights.file, BACKBONE_PREFIX
        tell(f"the backbone is the copy of it in {path.name}")
    else:
        (path,) = sources.hub(preset.cleandift)
    with opened(path) as file:
        found = read_cleandift(file, prefix)
    if found.unused:
        tell(f"parts of {path.name} that were not used: {', '.join(found.unused)}")
    tell(f"learned time step: {found.timestep:g}")
    parts = {
        part: _Weights(path, _modern(names, path))
        for part, names in (("unet", found.unet), ("vae", found.vae))
    }
    return _Backbone(base, parts, settings, found.timestep)


def _with_tiny_vae(
    backbone: _Backbone, preset: Preset, local: LocalFiles, sources: Sources
) -> _Backbone:
    if preset.tiny_vae is None:
        raise ModelError(f"no tiny VAE is known for the preset {preset.name!r}.")
    folder = sources.folder(preset.tiny_vae, local.tiny_vae)
    return replace(
        backbone,
        parts={**backbone.parts, "vae": _own_weights(folder / WEIGHTS)},
        settings={**backbone.settings, "vae": _settings(folder, _TINY_VAE)},
    )


def _is_copy(path: Path) -> bool:
    with opened(path) as file:
        return has_backbone(file)


def _own_weights(path: Path) -> _Weights:
    """All weights of a file of diffusers."""
    with opened(path) as file:
        return _Weights(path, _modern({name: name for name in file.shapes}, path))


def _modern(names: Mapping[str, str], path: Path) -> dict[str, str]:
    modern = {modern_key(name): source for name, source in names.items()}
    if len(modern) < len(names):
        raise ModelError(f"{path} has weights under both their old and their new names.")
    return modern


def _settings(folder: Path, wanted: str) -> dict[str, Any]:
    """The ``config.json`` of a part of the base model, which is of the class ``wanted``."""
    path = folder / "config.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}.") from error
    name = settings.get("_class_name") if isinstance(settings, dict) else None
    if name != wanted:
        raise ModelError(f"{path} must be of {wanted}; got {name!r}.")
    return dict(settings)


def _check(
    config: ModelConfig,
    backbone: _Backbone,
    constants: Mapping[str, Tensor],
    networks: _Networks | None,
) -> None:
    """Check every weight against the models that it is for, which are built without memory."""
    models = {}
    for part, weights in backbone.parts.items():
        settings = backbone.settings[part]
        models[part] = skeleton(settings, len(weights.names), f"{part}/config.json")
        check_fit(_shapes(weights), _wanted(models[part]), f"{weights.file} ({part})")
    without_values = {name: value.to("meta") for name, value in constants.items()}
    features = backbone_of(config.backbone, models, without_values)
    if networks is None:
        return
    with torch.device("meta"):
        network = AggregationNetwork(features.level_channels, config.aggregation)
    wanted = {
        published_key(name, branch): shape
        for branch in BRANCHES
        for name, shape in _wanted(network).items()
    }
    check_fit(_shapes(networks.weights), wanted, str(networks.weights.file))


def _wanted(model: Any) -> Shapes:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def _shapes(weights: _Weights) -> Shapes:
    with opened(weights.file) as file:
        return {name: file.shapes[source] for name, source in weights.names.items()}


def _copy(weights: _Weights, path: Path, dtype: torch.dtype) -> None:
    """Write the weights of a part; in memory they are in ``dtype``, whatever the file has."""
    with opened(weights.file) as file:
        tensors = {name: file.tensor(source).to(dtype) for name, source in weights.names.items()}
    save_weights(tensors, path, dtype)
