"""Readers of the method's released files, under their published names.

- A full CleanDIFT checkpoint: UNet, VAE and learned time step, beside parts that only its own
  training needs.
- The aggregation weights, optionally with a copy of that checkpoint under ``cleandift_model.``, and
  their training configuration.
- The text encoders of a base model, for the embedding of the empty prompt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vsm_fast.errors import ModelError
from vsm_fast.model.config import AggregationConfig
from vsm_fast.model.presets import TextEncoder
from vsm_fast.model.pretrained import ModelSource, load_transformer
from vsm_fast.model.weights import WeightFile, some_keys

BACKBONE_PREFIX = "cleandift_model."
_UNET, _VAE, _TIMESTEP = "unet_feature_extractor_cleandift.", "ae.ae.", "timestep"
_MIXING = "mixing_weights_semantic"
_BOTTLENECK = "bottleneck_layers_semantic.0.0."
_T5_TOKENS = 256  # reserved by the pipelines of Stable Diffusion 3
# Known settings of an experiment; those without a field in Experiment matter only for training.
_MODEL_KEYS = {
    "feat_type", "resnet", "final_feat_resolution", "freeze_cleandift", "load_ckpt", "lr_alpha",
}  # fmt: skip
_RESNET_KEYS = {"num_blocks", "projection_dim", "num_norm_groups"}


@dataclass(frozen=True)
class CleanDIFT:
    """The used parts of a CleanDIFT checkpoint.

    Attributes:
        unet: Name in the file by name in diffusers' ``UNet2DConditionModel``.
        vae: The same for ``AutoencoderKL``.
        timestep: The learned time step.
        unused: Name prefixes of the other parts.
    """

    unet: Mapping[str, str]
    vae: Mapping[str, str]
    timestep: float
    unused: tuple[str, ...]


@dataclass(frozen=True)
class Experiment:
    """Settings of the networks in an experiment's configuration.

    Attributes:
        levels: ``model.feat_type``.
        groups: ``model.resnet.num_norm_groups``, or None.
        descriptor_channels: ``model.resnet.projection_dim``, or None.
        grid: ``model.final_feat_resolution``, or None.
        unused: Unknown keys under ``model``.
    """

    levels: tuple[str, ...]
    groups: int | None
    descriptor_channels: int | None
    grid: int | None
    unused: tuple[str, ...]


def has_backbone(file: WeightFile) -> bool:
    """Return whether aggregation weights include a copy of the backbone."""
    parts = (BACKBONE_PREFIX + _UNET, BACKBONE_PREFIX + _VAE)
    return BACKBONE_PREFIX + _TIMESTEP in file.shapes and all(
        any(name.startswith(part) for name in file.shapes) for part in parts
    )


def read_cleandift(file: WeightFile, prefix: str = "") -> CleanDIFT:
    """Find the parts of a full CleanDIFT checkpoint.

    Raises:
        ModelError: If a part is missing.
    """
    names = [name for name in file.shapes if name.startswith(prefix)]
    unet, vae = (
        {n.removeprefix(prefix + part): n for n in names if n.startswith(prefix + part)}
        for part in (_UNET, _VAE)
    )
    parts = {f"{_UNET}*": unet, f"{_VAE}*": vae, _TIMESTEP: prefix + _TIMESTEP in file.shapes}
    missing = [part for part, present in parts.items() if not present]
    if missing:
        hint = ""
        if "conv_in.weight" in file.shapes:
            hint = " This is a UNet alone: use cleandift_sd21_full.safetensors."
        raise ModelError(
            f"{file.path} is no full CleanDIFT checkpoint: it has no {', '.join(missing)}; "
            f"{some_keys('found', sorted(names))}.{hint}"
        )
    used = (prefix + _UNET, prefix + _VAE, prefix + _TIMESTEP)
    unused = {n.removeprefix(prefix).split(".")[0] for n in names if not n.startswith(used)}
    value = file.tensor(prefix + _TIMESTEP)
    if value.numel() != 1 or not torch.isfinite(value).all():
        raise ModelError(f"{file.path}: {_TIMESTEP} must be one finite number; got {value}.")
    return CleanDIFT(unet, vae, float(value), tuple(sorted(unused)))


def read_experiment(path: Path) -> Experiment:
    """Read ``experiment_cfg.yaml``, without YAML tags, so that it cannot run code.

    Raises:
        ModelError: If it is missing, not YAML, or describes other networks.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{path} cannot be read as YAML: {reason}.") from error

    def table(content: object, name: str) -> dict[str, Any]:
        if not isinstance(content, dict):
            kind = type(content).__name__
            raise ModelError(f"{path}: {name} must be a table of settings; got {kind}.")
        return content

    def count(section: dict[str, Any], where: str, key: str) -> int | None:
        value = section.get(key)
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int) or value < 1
        ):
            raise ModelError(
                f"{path}: {where}.{key} must be a positive whole number; got {value!r}."
            )
        return value

    model = table(table(content, "the file").get("model"), "model")
    networks = table(model.get("resnet") or {}, "model.resnet")
    levels = model.get("feat_type")
    if not isinstance(levels, list) or not levels or not all(isinstance(n, str) for n in levels):
        raise ModelError(
            f"{path}: model.feat_type must be a list of levels like [us6, us8]; got {levels!r}."
        )
    if networks.get("num_blocks", 1) != 1:
        raise ModelError(
            f"{path}: networks with model.resnet.num_blocks={networks['num_blocks']!r} are not "
            "supported, only 1."
        )
    unused = [f"model.{name}" for name in model if name not in _MODEL_KEYS]
    unused += [f"model.resnet.{name}" for name in networks if name not in _RESNET_KEYS]
    return Experiment(
        levels=tuple(levels),
        groups=count(networks, "model.resnet", "num_norm_groups"),
        descriptor_channels=count(networks, "model.resnet", "projection_dim"),
        grid=count(model, "model", "final_feat_resolution"),
        unused=tuple(sorted(unused)),
    )


def network_config(
    file: WeightFile, experiment: Experiment, default: AggregationConfig
) -> AggregationConfig:
    """Return the shape of published networks, from their configuration or else their weights.

    Raises:
        ModelError: If the file has no such weights, or another number of levels than the
            configuration.
    """
    try:
        middle = file.shapes[f"{_BOTTLENECK}conv2.weight"][0]
        outputs = file.shapes[f"{_BOTTLENECK}conv3.weight"][0]
        levels = file.shapes[_MIXING][0]
    except (KeyError, IndexError) as error:
        raise ModelError(
            f"{file.path} holds no aggregation networks ({_MIXING} and {_BOTTLENECK}*); "
            f"{some_keys('found', sorted(file.shapes))}."
        ) from error
    if levels != len(experiment.levels):
        raise ModelError(
            f"{file.path} has networks of {levels} levels; the experiment's configuration names "
            f"{len(experiment.levels)}: {', '.join(experiment.levels)}."
        )
    side = experiment.grid
    return replace(
        default,
        grid=default.grid if side is None else (side, side),
        bottleneck_channels=middle,
        descriptor_channels=experiment.descriptor_channels or outputs,
        groups=experiment.groups or default.groups,
    )


def empty_prompt(base: Path, encoders: Sequence[TextEncoder], resolution: int) -> dict[str, Tensor]:
    """Return the constant inputs of a UNet for the empty prompt.

    Args:
        base: Folder of the base model.
        encoders: Its text encoders.
        resolution: Side of the images in pixels, an input of SDXL.

    Returns:
        ``encoder_hidden_states``, float32 [1, tokens, channels of all encoders]; with a projected
        prompt (SDXL) also ``text_embeds``, float32 [1, channels], and ``time_ids``, float32
        [1, 6]: the whole image at its own size.

    Raises:
        ImportError: If transformers is not installed.
        ModelError: If an encoder or tokenizer is missing, incomplete or damaged.
    """
    states, pooled = _encode_empty(base, encoders)
    constants = {"encoder_hidden_states": torch.cat(states, dim=-1)}
    if pooled:
        side = float(resolution)
        constants["text_embeds"] = pooled[-1]
        constants["time_ids"] = torch.tensor([[side, side, 0.0, 0.0, side, side]])
    return constants


def empty_joint_prompt(
    base: Path, encoders: Sequence[TextEncoder], channels: int
) -> dict[str, Tensor]:
    """Return the constant inputs of a Stable Diffusion 3 transformer for the empty prompt.

    Its largest text encoder, T5, is omitted, as its pipelines allow: zeros replace its tokens.

    Args:
        base: Folder of the base model.
        encoders: Its CLIP text encoders.
        channels: Channels of a prompt token.

    Returns:
        ``encoder_hidden_states``, float32 [1, tokens + 256, channels]: the encoders' channels
        side by side, then zeros; ``pooled_projections``, float32 [1, channels of all encoders].

    Raises:
        ImportError: If transformers is not installed.
        ModelError: If an encoder or tokenizer is missing, incomplete or damaged, or does not fit.
    """
    states, pooled = _encode_empty(base, encoders)
    tokens = torch.cat(states, dim=-1)
    missing = channels - tokens.shape[2]
    if missing < 0 or len(pooled) < len(encoders):
        raise ModelError(
            f"{base}: text encoders that give {tokens.shape[2]} channels and {len(pooled)} pooled "
            f"prompts do not fit a transformer that takes {channels} and {len(encoders)}."
        )
    return {
        "encoder_hidden_states": F.pad(tokens, (0, missing, 0, _T5_TOKENS)),
        "pooled_projections": torch.cat(pooled, dim=-1),
    }


@torch.no_grad()
def _encode_empty(base: Path, encoders: Sequence[TextEncoder]) -> tuple[list[Tensor], list[Tensor]]:
    """Encode the empty prompt; return tokens per encoder, and the pooled prompts that exist."""
    states, pooled = [], []
    for encoder in encoders:
        model = load_transformer(
            encoder.class_name,
            ModelSource(str(base / encoder.model)),
            torch.device("cpu"),
            purpose="the embedding of the empty prompt",
        )
        tokens = _empty_tokens(base / encoder.tokenizer, model.config.max_position_embeddings)
        encoded = model(tokens, output_hidden_states=True)
        last = encoder.output == "last"
        states.append(encoded.last_hidden_state if last else encoded.hidden_states[-2])
        if getattr(encoded, "text_embeds", None) is not None:
            pooled.append(encoded.text_embeds)
    return states, pooled


def _empty_tokens(folder: Path, length: int) -> Tensor:
    """Return start, end, and padding to the encoder's trained length, int64 [1, length].

    Read from the tokenizer's own files: SD 2.1 and SDXL pad with "!" according to their map of
    special tokens, which other files of theirs contradict.
    """
    try:
        special, vocabulary = (
            json.loads((folder / name).read_text(encoding="utf-8"))
            for name in ("special_tokens_map.json", "vocab.json")
        )
        pieces = [special[f"{kind}_token"] for kind in ("bos", "eos", "pad")]
        start, end, padding = (
            int(vocabulary[piece["content"] if isinstance(piece, dict) else piece])
            for piece in pieces
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"{folder}: no start, end and padding token in special_tokens_map.json and vocab.json "
            f"({type(error).__name__}: {error})."
        ) from error
    return torch.tensor([[start, end] + [padding] * (length - 2)])
