"""Model folders: the embedded model, a local folder, or a Hub repository.

A folder holds ``config.json``, ``aggregation.safetensors``, ``unet/`` or ``transformer/`` and
perhaps ``vae/`` in diffusers' format, and perhaps ``conditioning.safetensors`` with constant
inputs.
Weights are safetensors only and their sha256 is checked before they are read; a folder that
also holds pickled weights is refused.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, cast

import torch
from torch import Tensor

from vsm_fast.aggregation import AggregationNetwork
from vsm_fast.backbones.config_limits import bounded_model, without_memory
from vsm_fast.backbones.latents import VAE_CLASSES
from vsm_fast.backbones.transformer import TransformerFeatures
from vsm_fast.backbones.unet import UNetFeatures
from vsm_fast.errors import ModelError
from vsm_fast.model import DescriptorNetwork
from vsm_fast.model_config import BackboneConfig, ModelConfig
from vsm_fast.model_location import find_model
from vsm_fast.weight_files import (
    PICKLED,
    WEIGHTS,
    check_fit,
    modern_key,
    read_weights,
    save_weights,
    sha256_of,
    shapes_of,
)

AGGREGATION = "aggregation.safetensors"
CONDITIONING = "conditioning.safetensors"
# Classes of diffusers that a denoiser may have, by its sub-folder, and what each loses when it is
# cut for its features.
DENOISERS = {
    "unet": ("UNet2DModel", "UNet2DConditionModel"),
    "transformer": ("SD3Transformer2DModel",),
}
_LAST = {"unet": "conv_out", "transformer": "proj_out", "vae": "decoder"}
Backbone = UNetFeatures | TransformerFeatures
BRANCHES = ("semantic", "visual")


def load_model(
    name_or_path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    local_files_only: bool = False,
) -> tuple[ModelConfig, DescriptorNetwork]:
    """Load a model for inference.

    Args:
        name_or_path: As for :func:`find_model`.
        revision: As for :func:`find_model`.
        device: Where the network goes.
        dtype: Precision of the network; weights on disk may be float16.
        local_files_only: As for :func:`find_model`.

    Returns:
        The configuration, and the network in eval mode.

    Raises:
        ModelError: A file is missing, altered, damaged, or does not fit the configuration.
    """
    folder = find_model(name_or_path, revision=revision, local_files_only=local_files_only)
    _refuse_pickles(folder)
    config = read_config(folder)
    verify_files(folder, config)
    network = build_network(config, folder)
    network.eval().requires_grad_(False)
    cast(Backbone, network.backbone).fold(config.backbone.resolution)
    network.to(device=device, dtype=dtype)
    if torch.device(device).type == "cpu":
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return config, network


def read_config(folder: Path) -> ModelConfig:
    """Read ``config.json`` of a model folder.

    Raises:
        ModelError: It is missing or wrong.
    """
    path = folder / "config.json"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{folder} is not a model folder: config.json cannot be read ({error})."
        ) from error
    return ModelConfig.from_json(text, str(path))


def verify_files(folder: Path, config: ModelConfig) -> None:
    """Check the sha256 of every weight file.

    Raises:
        ModelError: A file is missing, altered, or not listed in the configuration.
    """
    for name, expected in config.files.items():
        # By the name alone: in the Hub's cache every file is a link to somewhere else.
        parts = PurePosixPath(name).parts
        if not parts or parts[0] == "/" or ".." in parts or "\\" in name or ":" in name:
            raise ModelError(f"{folder}: config.json lists a file outside the folder: {name!r}.")
        path = folder / name
        if not path.is_file():
            raise ModelError(f"{folder}: {name} is missing. Fetch the model again.")
        found = sha256_of(path)
        if found != expected:
            raise ModelError(
                f"{folder}: {name} was altered or cut off: its sha256 is {found}, config.json "
                f"says {expected}. Fetch the model again."
            )
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*.safetensors")}
    unlisted = sorted(present - set(config.files))
    if unlisted:
        raise ModelError(f"{folder}: config.json has no sha256 for {unlisted}.")


def build_network(config: ModelConfig, folder: Path) -> DescriptorNetwork:
    """The float32 network of a model folder.

    Raises:
        ModelError: Weights are damaged or do not fit.
    """
    if not (folder / AGGREGATION).is_file():
        raise ModelError(
            f"{folder} is a backbone without aggregation networks, so that it cannot score. Train "
            f"them: vsm-fast train --backbone {folder} --pairs ... --validation ... --out ..."
        )
    features = build_backbone(config, folder)
    networks = _load_aggregation(folder / AGGREGATION, features.level_channels, config)
    return DescriptorNetwork(features, *networks)


def build_backbone(config: ModelConfig, folder: Path) -> Backbone:
    """The float32 backbone of a model folder, which needs no aggregation networks.

    Raises:
        ModelError: Weights are damaged or do not fit.
    """
    kind = "transformer" if (folder / "transformer").is_dir() else "unet"
    models = {kind: _load_diffusers(folder / kind, DENOISERS[kind])}
    if (folder / "vae").is_dir():
        models["vae"] = _load_diffusers(folder / "vae", VAE_CLASSES)
    file = folder / CONDITIONING
    return backbone_of(config.backbone, models, read_weights(file) if file.exists() else None)


def backbone_of(
    config: BackboneConfig, models: Mapping[str, Any], conditioning: Mapping[str, Tensor] | None
) -> Backbone:
    """A backbone of its parts.

    Args:
        config: How it is used.
        models: Models of diffusers by ``"unet"`` or ``"transformer"``, and perhaps ``"vae"``.
        conditioning: Constant inputs by name, or None.

    Raises:
        ModelError: They do not fit together.
    """
    if "transformer" in models:
        return TransformerFeatures(
            models["transformer"],
            config.levels,
            config.timestep,
            vae=models.get("vae"),
            latent_scale=config.latent_scale,
            latent_shift=config.latent_shift,
            conditioning=conditioning,
        )
    return UNetFeatures(
        models["unet"],
        config.levels,
        config.timestep,
        vae=models.get("vae"),
        latent_scale=config.latent_scale,
        pixel_unshuffle=config.pixel_unshuffle,
        conditioning=conditioning,
    )


def save_model(
    folder: Path,
    config: ModelConfig,
    denoiser: Any,
    semantic: AggregationNetwork,
    visual: AggregationNetwork,
    dtype: torch.dtype = torch.float16,
    *,
    vae: Any = None,
    conditioning: Mapping[str, Tensor] | None = None,
) -> ModelConfig:
    """Write a model folder; the folder appears complete or not at all.

    Args:
        folder: Replaced when it is a model folder already.
        config: Its ``files`` are filled in.
        denoiser: diffusers UNet or transformer, whole: not one that features have been read
            from.
        semantic: Semantic aggregation network.
        visual: Visual aggregation network.
        dtype: Precision of the weights on disk.
        vae: diffusers VAE, whole, or None.
        conditioning: Constant inputs by name, or None.

    Returns:
        The configuration as written.

    Raises:
        ModelError: ``folder`` is something else, ``denoiser`` or ``vae`` was cut, or a weight does
            not fit into ``dtype``.
    """
    with new_folder(folder) as temporary:
        transformer = type(denoiser).__name__ in DENOISERS["transformer"]
        _save_diffusers(denoiser, temporary / ("transformer" if transformer else "unet"), dtype)
        if vae is not None:
            _save_diffusers(vae, temporary / "vae", dtype)
        if conditioning:
            save_weights(conditioning, temporary / CONDITIONING, dtype)
        return _sealed(temporary, config, (semantic, visual), dtype)


def save_trained(
    folder: Path,
    config: ModelConfig,
    base: Path,
    semantic: AggregationNetwork,
    visual: AggregationNetwork,
) -> ModelConfig:
    """Write a model folder with the backbone of another one and new aggregation networks.

    Args:
        folder: Replaced when it is a model folder already.
        config: Its ``files`` are filled in.
        base: Folder of the model whose backbone was used; its files are copied.
        semantic: Semantic aggregation network, stored as float32.
        visual: Visual aggregation network, stored as float32.

    Returns:
        The configuration as written.

    Raises:
        ModelError: ``folder`` is something else.
    """
    with new_folder(folder) as temporary:
        for part in (*DENOISERS, "vae"):
            if (base / part).is_dir():
                shutil.copytree(base / part, temporary / part)
        if (base / CONDITIONING).exists():
            shutil.copy(base / CONDITIONING, temporary / CONDITIONING)
        return _sealed(temporary, config, (semantic, visual), torch.float32)


@contextmanager
def new_folder(folder: Path, mark: str = "config.json") -> Iterator[Path]:
    """A folder to write into, which then replaces ``folder`` in one step.

    Args:
        folder: Is replaced if it has a file ``mark``.
        mark: By which a folder of this kind is known.

    Raises:
        ModelError: ``folder`` exists and is something else.
    """
    if folder.exists() and not (folder / mark).is_file():
        raise ModelError(f"{folder} exists and has no {mark}; it is left as it is.")
    writer = f"{os.getpid()}-{threading.get_ident():x}"
    temporary = folder.with_name(f".{folder.name}.{writer}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        _replace_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sealed(
    folder: Path,
    config: ModelConfig,
    networks: Sequence[AggregationNetwork],
    dtype: torch.dtype,
) -> ModelConfig:
    """Add the aggregation networks and a ``config.json`` with the hashes of all weights."""
    tensors = {
        published_key(key, branch): value
        for branch, network in zip(BRANCHES, networks, strict=True)
        for key, value in network.state_dict().items()
    }
    save_weights(tensors, folder / AGGREGATION, dtype)
    return seal(folder, config)


def seal(folder: Path, config: ModelConfig) -> ModelConfig:
    """Write ``config.json``, with the sha256 of every file that decides what the model computes.

    Args:
        folder: A model folder, complete but for its ``config.json``.
        config: Its ``files`` are filled in.

    Returns:
        The configuration as written.
    """
    hashes = {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for pattern in ("*/config.json", "**/*.safetensors")
        for path in sorted(folder.glob(pattern))
    }
    written = dataclasses.replace(config, files=hashes)
    (folder / "config.json").write_text(written.to_json(), encoding="utf-8")
    return written


def _replace_folder(new: Path, folder: Path) -> None:
    """Put ``new`` in the place of ``folder``; a folder that is in use is never half there."""
    if not folder.exists():
        new.rename(folder)
        return
    old = new.with_suffix(".old")
    folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old)


def _save_diffusers(model: Any, folder: Path, dtype: torch.dtype) -> None:
    part = _LAST[folder.name]
    if getattr(model, part) is None:
        raise ModelError(
            f"this {type(model).__name__} has lost its {part} to a feature extractor, so that it "
            "could not be loaded again; save a whole one."
        )
    folder.mkdir()
    model.save_config(folder)
    save_weights(model.state_dict(), folder / WEIGHTS, dtype)


def _load_diffusers(folder: Path, classes: tuple[str, ...]) -> Any:
    """A diffusers model from its folder, float32, keys checked strictly."""
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{folder}/config.json cannot be read: {error}.") from error
    name = settings.get("_class_name") if isinstance(settings, dict) else None
    if name not in classes:
        raise ModelError(f"{folder}/config.json must be of {' or '.join(classes)}; got {name!r}.")
    path = folder / WEIGHTS
    weights = {modern_key(key): value for key, value in read_weights(path).items()}
    model = bounded_model(settings, shapes_of(weights), folder / "config.json", path)
    model.load_state_dict(weights, assign=True)
    return model


def _load_aggregation(
    path: Path, level_channels: Sequence[int], config: ModelConfig
) -> list[AggregationNetwork]:
    """The semantic and the visual network, from one file under the published names."""
    weights = read_weights(path)
    with without_memory(f"{path.parent}/config.json", "aggregation network"):
        networks = {
            branch: AggregationNetwork(level_channels, config.aggregation) for branch in BRANCHES
        }
    wanted = {
        published_key(key, branch): value
        for branch, network in networks.items()
        for key, value in network.state_dict().items()
    }
    check_fit(shapes_of(weights), shapes_of(wanted), str(path))
    for branch, network in networks.items():
        mine = {key: weights[published_key(key, branch)] for key in network.state_dict()}
        network.load_state_dict(mine, assign=True)
    return list(networks.values())


def published_key(key: str, branch: str) -> str:
    """Name in the file: ``bottleneck_layers.0.0…`` -> ``bottleneck_layers_semantic.0.0…``."""
    first, dot, rest = key.partition(".")
    return f"{first}_{branch}{dot}{rest}"


def _refuse_pickles(folder: Path) -> None:
    pickled = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in PICKLED
    )
    if pickled:
        raise ModelError(
            f"{folder} holds pickled weights ({', '.join(pickled[:4])}). Reading such a file can "
            "run any code, so only safetensors are accepted: convert the weights and remove "
            "these files."
        )
