"""What the released files of the method hold, under the names that they were published with.

- A full CleanDIFT checkpoint: UNet, VAE and learned time step, beside parts that only its own
  training needs.
- The aggregation weights, with or without a copy of all that under ``cleandift_model.``, and the
  configuration that they were trained with.
- The text encoders of a base model, of which only the embedding of the empty prompt is used.
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
_T5_TOKENS = 256  # that the pipelines of Stable Diffusion 3 reserve
_PURPOSE = "the embedding of the empty prompt"
# Keys of the experiment's configuration that say nothing about scoring.
_TRAINING_ONLY = {"freeze_cleandift", "load_ckpt", "lr_alpha"}


@dataclass(frozen=True)
class CleanDIFT:
    """The parts of a CleanDIFT checkpoint that are used.

    Attributes:
        unet: Name in the file by name in diffusers' ``UNet2DConditionModel``.
        vae: The same for its ``AutoencoderKL``.
        timestep: The learned time step.
        unused: First parts of the names of everything else.
    """

    unet: Mapping[str, str]
    vae: Mapping[str, str]
    timestep: float
    unused: tuple[str, ...]


@dataclass(frozen=True)
class Experiment:
    """What an experiment's configuration says about the networks.

    Attributes:
        levels: ``model.feat_type``.
        groups: ``model.resnet.num_norm_groups``, or None.
        descriptor_channels: ``model.resnet.projection_dim``, or None.
        grid: ``model.final_feat_resolution``, or None.
        unused: Keys under ``model`` that nothing is known about here.
    """

    levels: tuple[str, ...]
    groups: int | None
    descriptor_channels: int | None
    grid: int | None
    unused: tuple[str, ...]


def has_backbone(file: WeightFile) -> bool:
    """Whether aggregation weights come with a whole copy of the backbone."""
    inner = [
        name.removeprefix(BACKBONE_PREFIX)
        for name in file.shapes
        if name.startswith(BACKBONE_PREFIX)
    ]
    return _TIMESTEP in inner and all(
        any(name.startswith(prefix) for name in inner) for prefix in (_UNET, _VAE)
    )


def read_cleandift(file: WeightFile, prefix: str = "") -> CleanDIFT:
    """Find the parts of a full CleanDIFT checkpoint.

    Args:
        file: The checkpoint.
        prefix: What all its names begin with.

    Raises:
        ModelError: A part is missing.
    """
    names = [name for name in file.shapes if name.startswith(prefix)]
    unet, vae = (_below(names, prefix + part) for part in (_UNET, _VAE))
    missing = [
        part
        for part, there in ((f"{_UNET}*", unet), (f"{_VAE}*", vae), (_TIMESTEP, _has(file, prefix)))
        if not there
    ]
    if missing:
        hint = ""
        if "conv_in.weight" in file.shapes:
            hint = " This is a UNet alone: take cleandift_sd21_full.safetensors."
        raise ModelError(
            f"{file.path} is no full CleanDIFT checkpoint: it has no {', '.join(missing)}; "
            f"{some_keys('found', sorted(names))}.{hint}"
        )
    used = (prefix + _UNET, prefix + _VAE, prefix + _TIMESTEP)
    rest = {n.removeprefix(prefix).split(".")[0] for n in names if not n.startswith(used)}
    value = file.tensor(prefix + _TIMESTEP)
    if value.numel() != 1 or not torch.isfinite(value).all():
        raise ModelError(f"{file.path}: {_TIMESTEP} must be one finite number; got {value}.")
    return CleanDIFT(unet, vae, float(value), tuple(sorted(rest)))


def aggregation_names(file: WeightFile) -> list[str]:
    """The names of the aggregation weights, without the backbone's."""
    return [name for name in file.shapes if not name.startswith(BACKBONE_PREFIX)]


def read_experiment(path: Path) -> Experiment:
    """Read ``experiment_cfg.yaml``; YAML without tags, so that nothing in it is run.

    Raises:
        ModelError: It is missing, not YAML, or describes networks of another kind.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{path} cannot be read as YAML: {reason}.") from error
    model = _table(content, "", path).get("model")
    model = _table(model, "model", path)
    networks = _table(model.get("resnet") or {}, "model.resnet", path)
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
    known = {"feat_type", "resnet", "final_feat_resolution", *_TRAINING_ONLY}
    inner = {"num_blocks", "projection_dim", "num_norm_groups"}
    unused = [f"model.{name}" for name in model if name not in known]
    unused += [f"model.resnet.{name}" for name in networks if name not in inner]
    return Experiment(
        levels=tuple(levels),
        groups=_count(networks, "num_norm_groups", "model.resnet.", path),
        descriptor_channels=_count(networks, "projection_dim", "model.resnet.", path),
        grid=_count(model, "final_feat_resolution", "model.", path),
        unused=tuple(sorted(unused)),
    )


def network_config(
    file: WeightFile, experiment: Experiment, default: AggregationConfig
) -> AggregationConfig:
    """The shape of published networks: from the configuration, else from the weights.

    Args:
        file: The aggregation weights.
        experiment: Their configuration.
        default: What neither of them says.

    Raises:
        ModelError: The file holds no such weights, or fewer or more levels than the configuration.
    """
    try:
        middle = file.shapes[f"{_BOTTLENECK}conv2.weight"][0]
        outputs = file.shapes[f"{_BOTTLENECK}conv3.weight"][0]
        levels = file.shapes[_MIXING][0]
    except (KeyError, IndexError) as error:
        raise ModelError(
            f"{file.path} holds no aggregation networks: wanted {_MIXING} and {_BOTTLENECK}*; "
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


@torch.no_grad()
def empty_prompt(base: Path, encoders: Sequence[TextEncoder], resolution: int) -> dict[str, Tensor]:
    """The constant inputs of a UNet for the empty prompt.

    Args:
        base: Folder of the base model.
        encoders: Its text encoders.
        resolution: Side of the images in pixels, which SDXL is told.

    Returns:
        ``encoder_hidden_states``, float32 [1, tokens, channels of all encoders]; with a projected
        prompt (SDXL) also ``text_embeds``, float32 [1, channels], and ``time_ids``, float32
        [1, 6]: the whole image at its own size.

    Raises:
        ImportError: transformers is not installed.
        ModelError: An encoder or tokenizer is missing, incomplete or damaged.
    """
    states, pooled = _encoded(base, encoders)
    constants = {"encoder_hidden_states": torch.cat(states, dim=-1)}
    if pooled:
        side = float(resolution)
        constants["text_embeds"] = pooled[-1]
        constants["time_ids"] = torch.tensor([[side, side, 0.0, 0.0, side, side]])
    return constants


@torch.no_grad()
def empty_joint_prompt(
    base: Path, encoders: Sequence[TextEncoder], channels: int
) -> dict[str, Tensor]:
    """The constant inputs of a Stable Diffusion 3 transformer for the empty prompt.

    Its third and largest text encoder, T5, is left out as its pipelines allow: zeros take the
    place of its tokens.

    Args:
        base: Folder of the base model.
        encoders: Its CLIP text encoders.
        channels: Of a token of the prompt.

    Returns:
        ``encoder_hidden_states``, float32 [1, tokens + 256, channels]: the encoders' channels
        side by side, then zeros; ``pooled_projections``, float32 [1, channels of all encoders].

    Raises:
        ImportError: transformers is not installed.
        ModelError: An encoder or tokenizer is missing, incomplete or damaged, or does not fit.
    """
    states, pooled = _encoded(base, encoders)
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


def _encoded(base: Path, encoders: Sequence[TextEncoder]) -> tuple[list[Tensor], list[Tensor]]:
    """What each encoder makes of the empty prompt: its tokens, and its pooled prompt if any."""
    states, pooled = [], []
    for encoder in encoders:
        model = load_transformer(
            encoder.class_name,
            ModelSource(str(base / encoder.model)),
            torch.device("cpu"),
            purpose=_PURPOSE,
        )
        tokens = _empty_tokens(base / encoder.tokenizer, model.config.max_position_embeddings)
        found = model(tokens, output_hidden_states=True)
        last = encoder.output == "last"
        states.append(found.last_hidden_state if last else found.hidden_states[-2])
        if getattr(found, "text_embeds", None) is not None:
            pooled.append(found.text_embeds)
    return states, pooled


def _empty_tokens(folder: Path, length: int) -> Tensor:
    """Start, end, and padding up to what the encoder was trained with, int64 [1, length].

    Read from the tokenizer's own files: SD 2.1 and SDXL pad with "!", which their map of special
    tokens says and other files of theirs contradict.
    """
    try:
        named, numbers = (
            json.loads((folder / name).read_text(encoding="utf-8"))
            for name in ("special_tokens_map.json", "vocab.json")
        )
        pieces = [named[f"{kind}_token"] for kind in ("bos", "eos", "pad")]
        start, end, padding = (
            int(numbers[piece["content"] if isinstance(piece, dict) else piece]) for piece in pieces
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"{folder}: no start, end and padding token in special_tokens_map.json and vocab.json "
            f"({type(error).__name__}: {error})."
        ) from error
    return torch.tensor([[start, end] + [padding] * (length - 2)])


def _below(names: Sequence[str], prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): name for name in names if name.startswith(prefix)}


def _has(file: WeightFile, prefix: str) -> bool:
    return prefix + _TIMESTEP in file.shapes


def _table(content: object, name: str, path: Path) -> dict[str, Any]:
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise ModelError(f"{path}: {name or 'the file'} must be a table of settings; got {kind}.")
    return content


def _count(table: Mapping[str, Any], key: str, where: str, path: Path) -> int | None:
    value = table.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ModelError(f"{path}: {where}{key} must be a positive whole number; got {value!r}.")
    return value
