"""Writing model folders: complete or not at all, with the sha256 of every weight file."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vsm_fast.errors import ModelError
from vsm_fast.files import new_folder, sha256_of
from vsm_fast.model.aggregation import AggregationNetwork
from vsm_fast.model.config import ModelConfig
from vsm_fast.model.layout import (
    AGGREGATION,
    BRANCHES,
    CONDITIONING,
    CONFIG,
    DENOISERS,
    LAST_LAYERS,
    WEIGHTS,
    deciding_files,
    published_key,
)
from vsm_fast.model.weights import save_weights


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
    with new_folder(folder, CONFIG) as temporary:
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
    with new_folder(folder, CONFIG) as temporary:
        for part in (*DENOISERS, "vae"):
            if (base / part).is_dir():
                shutil.copytree(base / part, temporary / part)
        if (base / CONDITIONING).exists():
            shutil.copy(base / CONDITIONING, temporary / CONDITIONING)
        return _sealed(temporary, config, (semantic, visual), torch.float32)


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
    hashes = {name: sha256_of(folder / name) for name in deciding_files(folder)}
    written = dataclasses.replace(config, files=hashes)
    (folder / CONFIG).write_text(written.to_json(), encoding="utf-8")
    return written


def _save_diffusers(model: Any, folder: Path, dtype: torch.dtype) -> None:
    part = LAST_LAYERS[folder.name]
    if getattr(model, part) is None:
        raise ModelError(
            f"this {type(model).__name__} has lost its {part} to a feature extractor, so that it "
            "could not be loaded again; save a whole one."
        )
    folder.mkdir()
    model.save_config(folder)
    save_weights(model.state_dict(), folder / WEIGHTS, dtype)
