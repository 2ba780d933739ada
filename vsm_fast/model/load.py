"""A model folder to its network.

Weights are safetensors only and their sha256 is checked before they are read; a folder that
also holds pickled weights is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, cast

import torch
from torch import Tensor

from vsm_fast.errors import ModelError
from vsm_fast.files import sha256_of
from vsm_fast.model.aggregation import AggregationNetwork
from vsm_fast.model.config import BackboneConfig, ModelConfig
from vsm_fast.model.config_limits import bounded_model, refused, without_memory
from vsm_fast.model.latents import VAE_CLASSES
from vsm_fast.model.layout import (
    AGGREGATION,
    BRANCHES,
    CONDITIONING,
    DENOISERS,
    WEIGHTS,
    deciding_files,
    published_key,
)
from vsm_fast.model.location import find_model
from vsm_fast.model.network import DescriptorNetwork
from vsm_fast.model.transformer import TransformerFeatures
from vsm_fast.model.unet import UNetFeatures
from vsm_fast.model.weights import (
    PICKLED,
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
        device: Where the network goes.
        dtype: Precision of the network; weights on disk may be float16.
        local_files_only: As for :func:`find_model`.

    Returns:
        The configuration, and the network in eval mode.

    Raises:
        ModelError: A file is missing, altered, damaged, or does not fit the configuration.
    """
    folder = find_model(name_or_path, revision=revision, local_files_only=local_files_only)
    config = verified_config(folder)
    network = build_network(config, folder)
    network.eval().requires_grad_(False)
    side = config.backbone.resolution
    with refused(f"{folder}/config.json", f"network for images of {side} pixels"):
        cast(Backbone, network.backbone).fold(side)
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


def verified_config(folder: Path) -> ModelConfig:
    """Read ``config.json`` of a model folder and check the sha256 of every file that it lists.

    Raises:
        ModelError: A file is missing, altered, pickled, or decides what the model computes and
            is not listed.
    """
    _refuse_pickles(folder)
    config = read_config(folder)
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
    unlisted = [name for name in deciding_files(folder) if name not in config.files]
    if unlisted:
        raise ModelError(
            f"{folder}: config.json has no sha256 for {unlisted}, so that a change of them could "
            "not be seen. Fetch the model again, or record their hashes in its 'files'."
        )
    return config


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
