"""Loading: from a model folder to its network.

Weights are safetensors, verified by sha256 before they are read; a folder that also holds pickled
weights is refused. A configuration may come from anywhere, and one number in it can request a
million layers or more memory than any machine has, so the weight file bounds it: there are no more
layers than tensors, and sizes must match the file's.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from vsm_fast.errors import WRONG_JSON, ModelError
from vsm_fast.files import sha256_of
from vsm_fast.model.aggregation import (
    BRANCHES,
    AggregationNetwork,
    published_name,
    published_tensors,
)
from vsm_fast.model.config import (
    AGGREGATION,
    CONDITIONING,
    CONFIG,
    DENOISERS,
    WEIGHTS,
    BackboneConfig,
    ModelConfig,
    deciding_files,
)
from vsm_fast.model.location import find_model
from vsm_fast.model.network import DescriptorNetwork
from vsm_fast.model.transformer import TransformerFeatures
from vsm_fast.model.unet import UNetFeatures
from vsm_fast.model.vae import VAE_CLASSES
from vsm_fast.model.weights import (
    PICKLED,
    Shapes,
    check_fit,
    modern_key,
    read_weights,
    shapes_of,
)
from vsm_fast.torch_state import pinned

Backbone = UNetFeatures | TransformerFeatures


@pinned()
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
        device: Device of the network.
        dtype: Precision of the network; weights on disk may be float16.
        local_files_only: As for :func:`find_model`.

    Returns:
        The configuration, and the network in eval mode.

    Raises:
        ModelError: If a file is missing, altered, damaged, or does not fit the configuration.
    """
    folder = find_model(name_or_path, revision=revision, local_files_only=local_files_only)
    config = verified_config(folder)
    network = build_network(config, folder)
    network.eval().requires_grad_(False)
    side = config.backbone.resolution
    with _as_model_error(f"{folder}/{CONFIG}", f"network for images of {side} pixels"):
        cast(Backbone, network.backbone).fold(side)
    network.to(device=device, dtype=dtype)
    if torch.device(device).type == "cpu":
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return config, network


def read_config(folder: Path) -> ModelConfig:
    """Read ``config.json`` of a model folder.

    Raises:
        ModelError: If it is missing or wrong.
    """
    path = folder / CONFIG
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{folder} is not a model folder: config.json cannot be read ({error})."
        ) from error
    return ModelConfig.from_json(text, str(path))


def verified_config(folder: Path) -> ModelConfig:
    """Read ``config.json`` of a model folder and verify the sha256 of every listed file.

    Raises:
        ModelError: If a file is missing, altered or pickled, or affects descriptors and is not
            listed.
    """
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
    config = read_config(folder)
    for name, expected in config.files.items():
        # By name only: in the Hub's cache every file is a link to another folder.
        parts = PurePosixPath(name).parts
        if not parts or parts[0] == "/" or ".." in parts or "\\" in name or ":" in name:
            raise ModelError(f"{folder}: config.json lists a file outside the folder: {name!r}.")
        path = folder / name
        if not path.is_file():
            raise ModelError(f"{folder}: {name} is missing. Fetch the model again.")
        actual = sha256_of(path)
        if actual != expected:
            raise ModelError(
                f"{folder}: {name} was altered or cut off: its sha256 is {actual}, config.json "
                f"says {expected}. Fetch the model again."
            )
    unlisted = [name for name in deciding_files(folder) if name not in config.files]
    if unlisted:
        raise ModelError(
            f"{folder}: config.json has no sha256 for {unlisted}, so that changes would go "
            "unnoticed. Fetch the model again, or record their hashes in its 'files'."
        )
    return config


def build_network(config: ModelConfig, folder: Path) -> DescriptorNetwork:
    """Build the float32 network of a model folder.

    Raises:
        ModelError: If weights are damaged or do not fit.
    """
    path = folder / AGGREGATION
    if not path.is_file():
        raise ModelError(
            f"{folder} is a backbone without aggregation networks, so that it cannot score. Train "
            f"them: vsm-fast train --backbone {folder} --pairs ... --validation ... --out ..."
        )
    features = build_backbone(config, folder)
    weights = read_weights(path)
    with without_memory(f"{folder}/{CONFIG}", "aggregation network"):
        networks = {
            branch: AggregationNetwork(features.level_channels, config.aggregation)
            for branch in BRANCHES
        }
    check_fit(shapes_of(weights), shapes_of(published_tensors(networks)), str(path))
    for branch, network in networks.items():
        own = {name: weights[published_name(name, branch)] for name in network.state_dict()}
        network.load_state_dict(own, assign=True)
    return DescriptorNetwork(features, *networks.values())


def build_backbone(config: ModelConfig, folder: Path) -> Backbone:
    """Build the float32 backbone of a model folder; aggregation networks may be missing.

    Raises:
        ModelError: If weights are damaged or do not fit.
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
    """Assemble a backbone.

    Args:
        config: Its configuration.
        models: Models of diffusers by ``"unet"`` or ``"transformer"``, and optionally ``"vae"``.
        conditioning: Constant inputs by name, or None.

    Raises:
        ModelError: If the parts do not fit together.
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


def read_settings(folder: Path, classes: tuple[str, ...]) -> dict[str, Any]:
    """Read ``config.json`` of a diffusers model.

    Raises:
        ModelError: If it cannot be read, or is of none of the classes.
    """
    path = folder / CONFIG
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}.") from error
    name = settings.get("_class_name") if isinstance(settings, dict) else None
    if name not in classes:
        raise ModelError(f"{path} must be of {' or '.join(classes)}; got {name!r}.")
    return dict(settings)


def _load_diffusers(folder: Path, classes: tuple[str, ...]) -> Any:
    """Load a diffusers model from its folder, in float32, with strict keys."""
    settings = read_settings(folder, classes)
    path = folder / WEIGHTS
    weights = {modern_key(key): value for key, value in read_weights(path).items()}
    model = bounded_model(settings, shapes_of(weights), folder / CONFIG, path)
    model.load_state_dict(weights, assign=True)
    return model


def bounded_model(settings: Mapping[str, Any], weights: Shapes, config: Path, file: Path) -> Any:
    """Build a diffusers model without values whose names and shapes are those of a file.

    Raises:
        ModelError: If diffusers cannot build it, or it does not fit the weights.
    """
    model = skeleton(settings, len(weights), str(config))
    check_fit(weights, shapes_of(model.state_dict()), str(file))
    constants = sum(buffer.numel() for buffer in model.buffers())
    if not constants:
        return model
    most = sum(map(math.prod, weights.values()))
    if constants > most:
        raise ModelError(
            f"{config} requests tables of {constants:,} numbers beside {most:,} weights; fetch "
            "the model again, or build it with smaller ones."
        )
    # No file has the values of these buffers: build again, with memory.
    with _as_model_error(str(config), settings["_class_name"]):
        return _build(settings)


def skeleton(settings: Mapping[str, Any], tensors: int, where: str) -> Any:
    """Build a diffusers model on the meta device, where sizes cost nothing.

    Args:
        settings: Content of its ``config.json``.
        tensors: Number of tensors in its weight file. Building stops at twice as many weights; a
            smaller excess is built, so that errors can name the missing weights.
        where: Name of the settings in errors.

    Raises:
        ModelError: If it has too many weights, or diffusers cannot build it.
    """
    this_thread, count = threading.get_ident(), 0

    def count_weight(_module: nn.Module, _name: str, _weight: nn.Parameter) -> None:
        nonlocal count
        if threading.get_ident() != this_thread:  # the hook is process-wide
            return
        count += 1
        if count > 2 * tensors:
            raise ModelError(
                f"{where} requests more than {2 * tensors} weights, but their file has {tensors}: "
                "too many layers. Fetch both files again from one place."
            )

    with without_memory(where, settings["_class_name"]):
        hook = register_module_parameter_registration_hook(count_weight)
        try:
            return _build(settings)
        finally:
            hook.remove()


@contextmanager
def without_memory(where: str, subject: str) -> Iterator[None]:
    """Build modules on the meta device, and turn failures into a ``ModelError``."""
    with _as_model_error(where, subject), torch.device("meta"):
        yield


def _build(settings: Mapping[str, Any]) -> Any:
    import diffusers

    return getattr(diffusers, settings["_class_name"]).from_config(settings)


@contextmanager
def _as_model_error(where: str, subject: str) -> Iterator[None]:
    try:
        yield
    except ModelError:
        raise
    except (*WRONG_JSON, AssertionError, RuntimeError) as error:  # from anywhere in diffusers
        reason = str(error).partition("\n")[0]
        raise ModelError(
            f"{where} describes no {subject} ({type(error).__name__}: {reason})."
        ) from error
