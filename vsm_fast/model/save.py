"""Writing of model folders: complete or not at all, with the sha256 of every weight file."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vsm_fast.errors import ModelError
from vsm_fast.files import new_folder, sha256_of
from vsm_fast.model.aggregation import AggregationNetwork, published_tensors
from vsm_fast.model.config import (
    AGGREGATION,
    CONDITIONING,
    CONFIG,
    DENOISERS,
    WEIGHTS,
    ModelConfig,
    deciding_files,
)
from vsm_fast.model.weights import save_weights

_LAST_LAYERS = {"unet": "conv_out", "transformer": "proj_out", "vae": "decoder"}


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
    """Write a model folder.

    Args:
        folder: An existing model folder is replaced.
        config: The configuration; ``files`` is filled in.
        denoiser: A complete diffusers UNet or transformer, not cut by a feature extractor.
        semantic: Semantic aggregation network.
        visual: Visual aggregation network.
        dtype: Precision of the weights on disk.
        vae: A complete diffusers VAE, or None.
        conditioning: Constant inputs by name, or None.

    Returns:
        The configuration as written.

    Raises:
        ModelError: If ``folder`` is something else, ``denoiser`` or ``vae`` was cut, or a weight
            overflows ``dtype``.
    """
    with new_folder(folder, CONFIG) as temporary:
        transformer = type(denoiser).__name__ in DENOISERS["transformer"]
        parts = {"transformer" if transformer else "unet": denoiser, "vae": vae}
        for name, model in parts.items():
            if model is None:
                continue
            last = _LAST_LAYERS[name]
            if getattr(model, last) is None:
                raise ModelError(
                    f"this {type(model).__name__} has lost its {last} to a feature extractor and "
                    "could not be loaded again; save a complete one."
                )
            (temporary / name).mkdir()
            model.save_config(temporary / name)
            save_weights(model.state_dict(), temporary / name / WEIGHTS, dtype)
        if conditioning:
            save_weights(conditioning, temporary / CONDITIONING, dtype)
        networks = {"semantic": semantic, "visual": visual}
        save_weights(published_tensors(networks), temporary / AGGREGATION, dtype)
        return write_config(temporary, config)


def save_trained(
    folder: Path,
    config: ModelConfig,
    base: Path,
    semantic: AggregationNetwork,
    visual: AggregationNetwork,
) -> ModelConfig:
    """Write a model folder with the backbone of another one and new aggregation networks.

    Returns:
        The configuration as written.

    Raises:
        ModelError: If ``folder`` is something else.
    """
    with new_folder(folder, CONFIG) as temporary:
        for part in (*DENOISERS, "vae"):
            if (base / part).is_dir():
                shutil.copytree(base / part, temporary / part)
        if (base / CONDITIONING).exists():
            shutil.copy(base / CONDITIONING, temporary / CONDITIONING)
        networks = {"semantic": semantic, "visual": visual}
        save_weights(published_tensors(networks), temporary / AGGREGATION, torch.float32)
        return write_config(temporary, config)


def write_config(folder: Path, config: ModelConfig) -> ModelConfig:
    """Write ``config.json`` with the sha256 of every file that affects descriptors.

    Returns:
        The configuration as written.
    """
    hashes = {name: sha256_of(folder / name) for name in deciding_files(folder)}
    written = dataclasses.replace(config, files=hashes)
    (folder / CONFIG).write_text(written.to_json(), encoding="utf-8")
    return written
