"""Model folders: the embedded model, a local folder, or a Hub repository.

A folder holds ``config.json``, ``aggregation.safetensors``, ``unet/`` and perhaps ``vae/`` in
diffusers' format, and perhaps ``conditioning.safetensors`` with constant inputs of the UNet.
Weights are safetensors only and their sha256 is checked before they are read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vsm_fast.aggregation import AggregationNetwork
from vsm_fast.backbones.unet import UNetFeatures
from vsm_fast.errors import ModelError
from vsm_fast.model import DescriptorNetwork
from vsm_fast.model_config import ModelConfig

EMBEDDED = ("tiny",)
_WEIGHTS = "diffusion_pytorch_model.safetensors"
_AGGREGATION = "aggregation.safetensors"
_CONDITIONING = "conditioning.safetensors"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def find_model(
    name_or_path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder of a model; a Hub repository is downloaded into the Hub's cache.

    Args:
        name_or_path: ``"tiny"``, a folder, or a Hub repository id ``"owner/name"``.
        revision: Commit, tag or branch of a Hub repository.
        local_files_only: Never ask the network (as ``HF_HUB_OFFLINE=1`` does).

    Raises:
        ModelError: There is no such model, or it cannot be fetched.
    """
    name = os.fspath(name_or_path)
    if name in EMBEDDED:
        return Path(str(package_files("vsm_fast"))) / "models" / name
    folder = Path(name)
    if folder.is_dir():
        return folder
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelError(
            f"no model {name!r}: not one of {list(EMBEDDED)}, not a folder, and not a Hub "
            "repository id like 'owner/name'."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        fetched = snapshot_download(
            name,
            revision=revision,
            local_files_only=local_files_only,
            allow_patterns=["*.json", "*.safetensors", "*/*.json", "*/*.safetensors"],
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        command = f"hf download {name}" + (f" --revision {revision}" if revision else "")
        raise ModelError(
            f"model {name!r} is not in the local cache and could not be fetched "
            f"({type(error).__name__}). With network access run: {command}"
        ) from error
    return Path(fetched)


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
    config = read_config(folder)
    verify_files(folder, config)
    network = build_network(config, folder)
    network.eval().requires_grad_(False)
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
        pickled = sorted(p.name for p in folder.glob("*") if p.suffix in _PICKLED)
        hint = f" It has {pickled}, but only safetensors are read." if pickled else ""
        raise ModelError(
            f"{folder} is not a model folder: config.json cannot be read ({error}).{hint}"
        ) from error
    return ModelConfig.from_json(text, str(path))


def verify_files(folder: Path, config: ModelConfig) -> None:
    """Check the sha256 of every weight file.

    Raises:
        ModelError: A file is missing, altered, or not listed in the configuration.
    """
    for name, expected in config.files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()) and not path.is_symlink():
            raise ModelError(f"{folder}: config.json lists a file outside the folder: {name!r}.")
        if not path.is_file():
            raise ModelError(f"{folder}: {name} is missing.")
        found = _sha256(path)
        if found != expected:
            raise ModelError(
                f"{folder}: {name} was altered or cut off: its sha256 is {found}, config.json "
                f"says {expected}. Fetch the model again."
            )
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*.safetensors")}
    unlisted = sorted(present - set(config.files))
    if unlisted:
        raise ModelError(f"{folder}: config.json has no sha256 for {unlisted}.")


def weights_fingerprint(config: ModelConfig) -> str:
    """One sha256 over the names and hashes of all weight files."""
    listing = json.dumps(sorted(config.files.items()))
    return hashlib.sha256(listing.encode()).hexdigest()


def build_network(config: ModelConfig, folder: Path) -> DescriptorNetwork:
    """The float32 network of a model folder.

    Raises:
        ModelError: Weights are damaged or do not fit.
    """
    backbone = config.backbone
    unet = _load_diffusers(folder / "unet", ("UNet2DModel", "UNet2DConditionModel"))
    vae = None
    if (folder / "vae").is_dir():
        vae = _load_diffusers(folder / "vae", ("AutoencoderKL",))
    conditioning_file = folder / _CONDITIONING
    features = UNetFeatures(
        unet,
        backbone.levels,
        backbone.timestep,
        vae=vae,
        latent_scale=backbone.latent_scale,
        pixel_unshuffle=backbone.pixel_unshuffle,
        conditioning=_read(conditioning_file) if conditioning_file.exists() else None,
    )
    weights = _read(folder / _AGGREGATION)
    channels = _level_channels(weights, len(backbone.levels))
    networks = []
    for branch in ("semantic", "visual"):
        network = AggregationNetwork(channels, config.aggregation)
        prefixes = {
            f"bottleneck_layers_{branch}.": "bottleneck_layers.",
            f"mixing_weights_{branch}": "mixing_weights",
        }
        mine = {
            new + key.removeprefix(old): value
            for key, value in weights.items()
            for old, new in prefixes.items()
            if key.startswith(old)
        }
        _load_strictly(network, mine, f"{folder / _AGGREGATION} ({branch})")
        networks.append(network)
    return DescriptorNetwork(features, *networks)


def save_model(
    folder: Path,
    config: ModelConfig,
    unet: Any,
    semantic: AggregationNetwork,
    visual: AggregationNetwork,
    dtype: torch.dtype = torch.float16,
) -> ModelConfig:
    """Write a model folder; the folder appears complete or not at all.

    Args:
        folder: Replaced when it exists.
        config: Its ``files`` are filled in.
        unet: diffusers UNet.
        semantic: Semantic aggregation network.
        visual: Visual aggregation network.
        dtype: Precision of the weights on disk.

    Returns:
        The configuration as written.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    (temporary / "unet").mkdir(parents=True)
    unet.save_config(temporary / "unet")
    _save(unet.state_dict(), temporary / "unet" / _WEIGHTS, dtype)
    tensors: dict[str, Tensor] = {}
    for branch, network in (("semantic", semantic), ("visual", visual)):
        for key, value in network.state_dict().items():
            first, dot, rest = key.partition(".")
            tensors[f"{first}_{branch}{dot}{rest}"] = value
    _save(tensors, temporary / _AGGREGATION, dtype)
    hashes = {
        path.relative_to(temporary).as_posix(): _sha256(path)
        for path in sorted(temporary.rglob("*.safetensors"))
    }
    written = dataclasses.replace(config, files=hashes)
    (temporary / "config.json").write_text(written.to_json(), encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    temporary.rename(folder)
    return written


def _load_diffusers(folder: Path, classes: tuple[str, ...]) -> Any:
    """A diffusers model from its folder, float32, keys checked strictly."""
    import diffusers

    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}/config.json cannot be read: {error}.") from error
    name = settings.get("_class_name") if isinstance(settings, dict) else None
    if name not in classes:
        raise ModelError(f"{folder}/config.json must be of {' or '.join(classes)}; got {name!r}.")
    model = getattr(diffusers, name).from_config(settings)
    _load_strictly(model, _read(folder / _WEIGHTS), str(folder / _WEIGHTS))
    return model


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return {
            key: value.float() if value.is_floating_point() else value
            for key, value in load_file(path).items()
        }
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read as safetensors: {error}.") from error


def _save(tensors: dict[str, Tensor], path: Path, dtype: torch.dtype) -> None:
    save_file(
        {
            key: (value.to(dtype) if value.is_floating_point() else value).contiguous()
            for key, value in tensors.items()
        },
        path,
    )


def _load_strictly(module: nn.Module, weights: dict[str, Tensor], where: str) -> None:
    wanted = module.state_dict()
    unknown, missing = sorted(set(weights) - set(wanted)), sorted(set(wanted) - set(weights))
    if unknown or missing:
        raise ModelError(
            f"{where} does not fit the model: {_some('unknown', unknown)}; "
            f"{_some('missing', missing)}."
        )
    shapes = [
        f"{key} is {list(weights[key].shape)}, wanted {list(value.shape)}"
        for key, value in wanted.items()
        if weights[key].shape != value.shape
    ]
    if shapes:
        raise ModelError(f"{where} does not fit the model: {'; '.join(shapes[:4])}.")
    module.load_state_dict(weights)


def _some(kind: str, keys: list[str]) -> str:
    shown = ", ".join(keys[:6]) + (", ..." if len(keys) > 6 else "")
    return f"{len(keys)} {kind} keys" + (f" ({shown})" if keys else "")


def _level_channels(weights: dict[str, Tensor], levels: int) -> list[int]:
    """Input channels of each level, read off the first convolutions."""
    channels = []
    for level in range(levels):
        key = f"bottleneck_layers_semantic.{level}.0.conv1.weight"
        if key not in weights or weights[key].ndim != 4:
            raise ModelError(f"{_AGGREGATION} has no usable {key} for {levels} levels.")
        channels.append(int(weights[key].shape[1]))
    return channels


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
