"""Small random models with the file and tensor names of the published ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_models import aggregation_pair, condition_unet, published_names, small_vae

from vsm_fast.model.config import AggregationConfig, BackboneConfig
from vsm_fast.model.presets import HubFiles, ModelPreset, TextEncoder
from vsm_fast.model.unet import UNetFeatures

PIECES = ("!", "a", "a</w>", "<|startoftext|>", "<|endoftext|>")
TOKENS = 7
LEVELS = ("us3", "us6")
EXPERIMENT = """\
model:
  feat_type: [us3, us6]
  final_feat_resolution: 6
  freeze_cleandift: true
  lr_alpha: 10
  resnet: {num_blocks: 1, projection_dim: 16, num_norm_groups: 4}
  something_new: 3
train: {epochs: 30}
"""
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CLIP = TextEncoder()
SD = HubFiles("org/sd", ("unet/config.json", "vae/config.json", *CLIP.files), COMMIT)
PLAIN = HubFiles(
    "org/sd",
    tuple(
        f"{part}/{name}"
        for part in ("unet", "vae")
        for name in ("config.json", "diffusion_pytorch_model.safetensors")
    )
    + CLIP.files,
    COMMIT,
)
BACKBONE = BackboneConfig(levels=("us2", "us5"), resolution=32, timestep=50.0)
RELEASED = ModelPreset(
    "small-cleandift", "small", 1, SD, (CLIP,), BACKBONE, AggregationConfig(mask_reduction="any"),
    HubFiles("org/cleandift", ("full.safetensors",), COMMIT),
    HubFiles("org/vsm", ("weights.safetensors",)), HubFiles("org/vsm", ("experiment.yaml",)),
)  # fmt: skip
UNTRAINED = ModelPreset(
    "small-sd", "small", 1, PLAIN, (CLIP,), BACKBONE,
    AggregationConfig(grid=(6, 6), bottleneck_channels=8, descriptor_channels=16, groups=4),
)  # fmt: skip


def text_encoder(class_name="CLIPTextModel", seed=3):
    torch.manual_seed(seed)
    end = len(PIECES) - 1
    config = transformers.CLIPTextConfig(
        vocab_size=len(PIECES), hidden_size=12, intermediate_size=8, num_hidden_layers=2,
        num_attention_heads=2, projection_dim=10, max_position_embeddings=TOKENS,
        bos_token_id=end - 1, eos_token_id=end, pad_token_id=1,
    )  # fmt: skip
    return getattr(transformers, class_name)(config).eval()


def save_tokenizer(folder):
    """The used files; padding is a token with settings, as in some published files."""
    folder.mkdir(parents=True)
    special = {
        "bos_token": PIECES[-2], "eos_token": PIECES[-1],
        "pad_token": {"content": "!", "lstrip": False},
    }  # fmt: skip
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    vocabulary = {piece: number for number, piece in enumerate(PIECES)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))


def prompt(encoder=None, padding="!"):
    """The embedding of the empty prompt: start, end, padding."""
    tokens = [3, 4] + [PIECES.index(padding)] * (TOKENS - 2)
    with torch.no_grad():
        return (encoder or text_encoder())(torch.tensor([tokens])).last_hidden_state


def save_base(folder, **parts):
    """A base model in diffusers' layout."""
    parts = {"unet": condition_unet(), "vae": small_vae(), "text_encoder": text_encoder()} | parts
    for name, model in parts.items():
        model.save_pretrained(folder / name)
    rename_text_encoder(folder / "text_encoder/model.safetensors")
    save_tokenizer(folder / "tokenizer")
    return folder


def rename_text_encoder(path):
    """Rename weights as published: with an older prefix, and with position ids."""
    weights = {f"text_model.{name}": value for name, value in load_file(path).items()}
    assert not any(name.startswith("text_model.text_model.") for name in weights)
    weights["text_model.embeddings.position_ids"] = torch.arange(TOKENS)[None]
    save_file(weights, path, metadata={"format": "pt"})


def other_unet():
    """A UNet with other weights than the base model's."""
    unet = condition_unet()
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.mul_(1.1)
    return unet


def other_vae():
    vae = small_vae()
    with torch.no_grad():
        vae.encoder.conv_in.weight.mul_(0.9)
    return vae


def cleandift_weights(timestep=260.25):
    """A full checkpoint, with the parts that only its own training needs."""
    parts = {
        "unet_feature_extractor_cleandift.": other_unet(),
        "unet_feature_extractor_base.": torch.nn.Linear(2, 2),
        "ae.ae.": other_vae(),
        "adapters.us6.": torch.nn.Linear(2, 2),
        "mapping.": torch.nn.Linear(2, 2),
    }
    weights = {
        prefix + name: value.clone()
        for prefix, part in parts.items()
        for name, value in part.state_dict().items()
    }
    return weights | {"timestep": torch.tensor(timestep)}


def networks():
    """The semantic and the visual network for the levels of the experiment."""
    return aggregation_pair((16, 16))


def released_backbone():
    """The expected backbone, assembled by hand."""
    return UNetFeatures(
        other_unet(), LEVELS, 260.25, vae=other_vae(), latent_scale=0.18215,
        conditioning={"encoder_hidden_states": prompt()},
    )  # fmt: skip


def save_released(folder: Path):
    """All files of RELEASED."""
    save_base(folder / "base")
    save_file(cleandift_weights(), folder / "cleandift.safetensors")
    save_file(published_names(*networks()), folder / "networks.safetensors")
    (folder / "experiment.yaml").write_text(EXPERIMENT)


def released_files(folder: Path) -> SimpleNamespace:
    """Paths of the files of ``save_released``."""
    return SimpleNamespace(
        base=folder / "base", cleandift=folder / "cleandift.safetensors",
        aggregation=folder / "networks.safetensors", experiment=folder / "experiment.yaml",
    )  # fmt: skip


def put_in_cache(folder, repository, commit, contents):
    """Put files into a Hub cache as the Hub's client does."""
    root = folder / f"models--{repository.replace('/', '--')}"
    for name, source in contents.items():
        path = root / "snapshots" / commit / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, path)
    (root / "refs").mkdir(exist_ok=True)
    (root / "refs/main").write_text(commit)
