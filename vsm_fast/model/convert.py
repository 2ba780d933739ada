"""Conversion of released files to a model folder for ``VSMScorer.from_pretrained``.

Names and shapes of all weights are checked against their models before anything is written,
without a second copy in memory.
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
from vsm_fast.model.aggregation import BRANCHES, AggregationNetwork, published_tensors
from vsm_fast.model.config import (
    AGGREGATION,
    CONDITIONING,
    CONFIG,
    WEIGHTS,
    AggregationConfig,
    ModelConfig,
)
from vsm_fast.model.load import backbone_of, read_settings, skeleton
from vsm_fast.model.presets import PRESETS, ModelPreset, converted_folder, with_revisions
from vsm_fast.model.released_files import (
    BACKBONE_PREFIX,
    empty_joint_prompt,
    empty_prompt,
    has_backbone,
    network_config,
    read_cleandift,
    read_experiment,
)
from vsm_fast.model.save import write_config
from vsm_fast.model.sources import Sources, check_lock, write_lock
from vsm_fast.model.weights import Shapes, check_fit, modern_key, opened, save_weights, shapes_of

_log = logging.getLogger(__name__)
_CLASSES = {
    "unet": "UNet2DConditionModel",
    "transformer": "SD3Transformer2DModel",
    "vae": "AutoencoderKL",
}
_TINY_VAE = "AutoencoderTiny"
Tell = Callable[[str], None]


@dataclass(frozen=True)
class LocalFiles:
    """Local copies of the released files; None = from the Hub.

    Attributes:
        base: Folder of the base model, in diffusers' layout.
        cleandift: Full CleanDIFT checkpoint.
        aggregation: Aggregation weights.
        experiment: Their training configuration.
        tiny_vae: Folder of the tiny VAE, in diffusers' layout.
    """

    base: Path | None = None
    cleandift: Path | None = None
    aggregation: Path | None = None
    experiment: Path | None = None
    tiny_vae: Path | None = None


@dataclass(frozen=True)
class _Weights:
    """Weights in a file: name in the file by name in the model."""

    file: Path
    names: Mapping[str, str]

    def shapes(self) -> Shapes:
        with opened(self.file) as file:
            return {name: file.shapes[source] for name, source in self.names.items()}

    def copy(self, path: Path, dtype: torch.dtype) -> None:
        """Write the weights to another file; in memory they have ``dtype``."""
        with opened(self.file) as file:
            tensors = {n: file.tensor(source).to(dtype) for n, source in self.names.items()}
        save_weights(tensors, path, dtype)


@dataclass(frozen=True)
class _Backbone:
    """A base model; weights, time step and VAE may come from elsewhere."""

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
    preset: str | ModelPreset,
    out: Path | None = None,
    local: LocalFiles | None = None,
    *,
    networks: bool = True,
    tiny_vae: bool = False,
    revisions: Mapping[str, str] | None = None,
    dtype: torch.dtype = torch.float16,
    local_files_only: bool = False,
    tell: Tell = _log.info,
) -> ModelConfig:
    """Convert the released files of a preset into a model folder.

    Args:
        preset: Its name, or a preset of your own.
        out: The folder, which appears complete or not at all; None = where
            ``VSMScorer.from_pretrained(name)`` looks for the model's name (see ``tiny_vae``).
        local: Local copies of files.
        networks: False omits published aggregation networks, to train others.
        tiny_vae: Whether to use a VAE distilled from the model's, an approximation; the model is
            then called ``PRESET-tiny-vae``.
        revisions: Commit, tag or branch by repository, instead of the preset's.
        dtype: Precision of the backbone on disk; the rest is float32.
        local_files_only: Whether to use the Hub's cache only.
        tell: Called with a sentence about each choice that the files decided.

    Returns:
        The configuration as written. Without aggregation networks the folder is for
        ``vsm-fast train --backbone``, and cannot score.

    Raises:
        ModelError: If there is no such preset, a file is missing, pickled, damaged or of another
            model, or ``out`` holds something else or was made from other files.
        ImportError: If transformers is not installed.
    """
    required("transformers", "the embedding of the empty prompt")  # before any download
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise ModelError(f"no preset {preset!r}; there are {', '.join(PRESETS)}.")
        preset = PRESETS[preset]
    preset = with_revisions(preset, revisions or {})
    name = model_name(preset, tiny_vae=tiny_vae)
    out = converted_folder(name) if out is None else out
    local = local or LocalFiles()
    sources = Sources(local_files_only)
    published = _find_networks(preset, local, sources, tell) if networks else None
    backbone = _find_backbone(preset, local, sources, published, tell)
    if tiny_vae:
        if preset.tiny_vae is None:
            raise ModelError(f"no tiny VAE is known for the preset {preset.name!r}.")
        folder = sources.folder(preset.tiny_vae, local.tiny_vae)
        backbone = replace(
            backbone,
            parts={**backbone.parts, "vae": _all_weights(folder / WEIGHTS)},
            settings={**backbone.settings, "vae": read_settings(folder, (_TINY_VAE,))},
        )
    check_lock(out, name, sources.found)
    config = ModelConfig(
        name=name,
        backbone=replace(
            preset.backbone,
            levels=published.levels if published else preset.backbone.levels,
            timestep=backbone.timestep,
        ),
        aggregation=published.config if published else preset.aggregation,
        base_revision=sources.summary(),
    )
    constants = _constants(preset, backbone)
    _check(config, backbone, constants, published)
    out.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(out, CONFIG) as folder:
        for part, weights in backbone.parts.items():
            (folder / part).mkdir()
            text = json.dumps(backbone.settings[part], indent=2) + "\n"
            (folder / part / CONFIG).write_text(text, encoding="utf-8")
            weights.copy(folder / part / WEIGHTS, dtype)
        save_weights(constants, folder / CONDITIONING, torch.float32)
        if published:
            published.weights.copy(folder / AGGREGATION, torch.float32)
        write_lock(folder, name, sources.found)
        return write_config(folder, config)


def model_name(preset: ModelPreset, *, tiny_vae: bool) -> str:
    """Return the name of a converted preset."""
    return f"{preset.name}-tiny-vae" if tiny_vae else preset.name


def _find_networks(
    preset: ModelPreset, local: LocalFiles, sources: Sources, tell: Tell
) -> _Networks | None:
    """Find the published networks of a preset, if any."""
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
        names = {name: name for name in file.shapes if not name.startswith(BACKBONE_PREFIX)}
    tell(f"levels: {', '.join(settings.levels)}; groups: {config.groups}")
    return _Networks(_Weights(weights, names), config, settings.levels)


def _find_backbone(
    preset: ModelPreset,
    local: LocalFiles,
    sources: Sources,
    networks: _Networks | None,
    tell: Tell,
) -> _Backbone:
    """Find the base model, with CleanDIFT's weights if the preset uses them."""
    base = sources.folder(preset.base, local.base)
    names = (preset.denoiser, "vae")
    settings = {part: read_settings(base / part, (_CLASSES[part],)) for part in names}
    if preset.cleandift is None:
        parts = {part: _all_weights(base / part / WEIGHTS) for part in names}
        return _Backbone(base, parts, settings, preset.backbone.timestep)
    path, prefix = local.cleandift, ""
    if path is not None:
        sources.local(path, preset.cleandift)
    elif networks is not None:
        with opened(networks.weights.file) as file:
            if has_backbone(file):
                path, prefix = networks.weights.file, BACKBONE_PREFIX
                tell(f"the backbone is the copy of it in {path.name}")
    if path is None:
        (path,) = sources.hub(preset.cleandift)
    with opened(path) as file:
        checkpoint = read_cleandift(file, prefix)
    if checkpoint.unused:
        tell(f"parts of {path.name} that were not used: {', '.join(checkpoint.unused)}")
    tell(f"learned time step: {checkpoint.timestep:g}")
    parts = {
        "unet": _Weights(path, _modern(checkpoint.unet, path)),
        "vae": _Weights(path, _modern(checkpoint.vae, path)),
    }
    return _Backbone(base, parts, settings, checkpoint.timestep)


def _all_weights(path: Path) -> _Weights:
    with opened(path) as file:
        return _Weights(path, _modern({name: name for name in file.shapes}, path))


def _modern(names: Mapping[str, str], path: Path) -> dict[str, str]:
    modern = {modern_key(name): source for name, source in names.items()}
    if len(modern) < len(names):
        raise ModelError(f"{path} has weights under both their old and their new names.")
    return modern


def _constants(preset: ModelPreset, backbone: _Backbone) -> dict[str, Tensor]:
    """Return the constant inputs of the denoiser."""
    if preset.denoiser == "unet":
        return empty_prompt(backbone.base, preset.text_encoders, preset.backbone.resolution)
    channels = backbone.settings[preset.denoiser].get("joint_attention_dim")
    if not isinstance(channels, int):
        raise ModelError(
            f"{backbone.base}/{preset.denoiser}/config.json has no joint_attention_dim."
        )
    return empty_joint_prompt(backbone.base, preset.text_encoders, channels)


def _check(
    config: ModelConfig,
    backbone: _Backbone,
    constants: Mapping[str, Tensor],
    published: _Networks | None,
) -> None:
    """Check every weight against its model, which is built without memory."""
    models = {}
    for part, weights in backbone.parts.items():
        settings = backbone.settings[part]
        model = models[part] = skeleton(settings, len(weights.names), f"{part}/config.json")
        check_fit(weights.shapes(), shapes_of(model.state_dict()), f"{weights.file} ({part})")
    on_meta = {name: value.to("meta") for name, value in constants.items()}
    features = backbone_of(config.backbone, models, on_meta)
    if published is None:
        return
    with torch.device("meta"):
        network = AggregationNetwork(features.level_channels, config.aggregation)
    expected = shapes_of(published_tensors(dict.fromkeys(BRANCHES, network)))
    check_fit(published.weights.shapes(), expected, str(published.weights.file))
