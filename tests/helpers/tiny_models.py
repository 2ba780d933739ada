"""Small random models in the real file formats, for the tests of backbones and checkpoints."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
)
from safetensors.torch import save_file

from benchmarks.reference_recipe import level_outputs
from vsm_fast.model.aggregation import AggregationNetwork
from vsm_fast.model.config import AggregationConfig, BackboneConfig, ModelConfig

AGGREGATION = AggregationConfig(
    grid=(6, 6), bottleneck_channels=8, descriptor_channels=16, groups=4
)


@pytest.fixture(autouse=True)
def one_thread():
    """Use one thread: small tensors gain nothing from more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def randomised(module, seed=0):
    """Randomise all parameters; default norms and biases could hide that one is unused."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module.eval().requires_grad_(False)


def pixel_unet(attention=False, **settings):
    """A UNet2DModel for pixel_unshuffle 2: levels us1 to us6."""
    torch.manual_seed(0)
    kind = "Attn" if attention else ""
    defaults = {
        "sample_size": 16,
        "in_channels": 12,
        "out_channels": 12,
        "block_out_channels": (8, 16, 24),
        "down_block_types": ("DownBlock2D", f"{kind}DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", f"{kind}UpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 4,
        "add_attention": attention,
    }
    return randomised(UNet2DModel(**{**defaults, **settings}))


def condition_unet(**settings):
    """A UNet2DConditionModel laid out like SD 2.1's: four blocks, levels us1 to us12."""
    torch.manual_seed(0)
    defaults = {
        "sample_size": 16,
        "block_out_channels": (8, 8, 16, 16),
        "attention_head_dim": (2, 2, 4, 4),
        "cross_attention_dim": 12,
        "norm_num_groups": 4,
        "use_linear_projection": True,
    }
    return randomised(UNet2DConditionModel(**{**defaults, **settings}))


def small_vae():
    """An AutoencoderKL that halves the image twice, to 4 channels."""
    torch.manual_seed(0)
    return randomised(
        AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 8, 16),
            latent_channels=4,
            norm_num_groups=4,
        )
    )


def tiny_vae(latent_channels=4):
    """An AutoencoderTiny (TAESD's class) that halves the image twice."""
    torch.manual_seed(0)
    return randomised(
        AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8),
            decoder_block_out_channels=(8, 8, 8),
            num_encoder_blocks=(1, 1, 1),
            num_decoder_blocks=(1, 1, 1),
            latent_channels=latent_channels,
        )
    )


def transformer(**settings):
    """A transformer laid out like SD 3.5 medium's: some blocks attend twice; block1 to block4."""
    torch.manual_seed(0)
    defaults = {
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 4,
        "attention_head_dim": 4,
        "num_attention_heads": 4,
        "joint_attention_dim": 12,
        "caption_projection_dim": 16,
        "pooled_projection_dim": 10,
        "pos_embed_max_size": 24,
        "dual_attention_layers": (0, 1),
        "qk_norm": "rms_norm",
    }
    return randomised(SD3Transformer2DModel(**{**defaults, **settings}))


def pooled(width=10):
    return torch.randn(1, width, generator=torch.Generator().manual_seed(8))


def context(tokens=5, width=12):
    return torch.randn(1, tokens, width, generator=torch.Generator().manual_seed(7))


def images(count=1, size=32, seed=0):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def plain_levels(unet, sample, timestep, hidden_states=None, **inputs):
    """Every level of an uncut diffusers UNet, read by hooks during its own forward pass."""
    if hidden_states is not None:
        inputs["encoder_hidden_states"] = hidden_states
    with torch.no_grad(), level_outputs(unet) as levels:
        unet(sample, timestep, **inputs)
    return levels


def aggregation_pair(channels, config=AGGREGATION):
    torch.manual_seed(1)
    return tuple(randomised(AggregationNetwork(channels, config), seed) for seed in (1, 2))


def config_of(levels=("us2", "us5"), resolution=32, mask_reduction="nearest", **backbone):
    backbone = {"timestep": 50, "pixel_unshuffle": 2, **backbone}
    return ModelConfig(
        name="small",
        backbone=BackboneConfig(levels=levels, resolution=resolution, **backbone),
        aggregation=dataclasses.replace(AGGREGATION, mask_reduction=mask_reduction),
    )


def published_names(semantic, visual):
    """Weights of the two networks under the names of the published file."""
    tensors = {}
    for branch, network in (("semantic", semantic), ("visual", visual)):
        tensors[f"mixing_weights_{branch}"] = network.mixing_weights.detach().clone()
        for level, (bottleneck,) in enumerate(network.bottleneck_layers):
            for part in ("conv1", "conv2", "conv3", "shortcut"):
                conv = getattr(bottleneck, part)
                if conv is None:
                    continue
                name = f"bottleneck_layers_{branch}.{level}.0.{part}"
                tensors[f"{name}.weight"] = conv.weight.detach().clone()
                tensors[f"{name}.norm.weight"] = conv.norm.weight.detach().clone()
                tensors[f"{name}.norm.bias"] = conv.norm.bias.detach().clone()
    return tensors


def write_folder(folder, config, unet, semantic, visual, vae=None, conditioning=None):
    """A model folder from diffusers' own files, without the code under test."""
    unet.save_pretrained(folder / "unet")
    if vae is not None:
        vae.save_pretrained(folder / "vae")
    if conditioning is not None:
        save_file(conditioning, folder / "conditioning.safetensors")
    save_file(published_names(semantic, visual), folder / "aggregation.safetensors")
    return rehash(folder, config)


def rehash(folder, config):
    """Write config.json with the current hashes of the other files."""
    hashes = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (*folder.rglob("*.safetensors"), *folder.glob("*/config.json"))
    }
    config = dataclasses.replace(config, files=hashes)
    (folder / "config.json").write_text(config.to_json(), encoding="utf-8")
    return config


def edit_config(folder, change):
    """Apply ``change`` to the content of config.json."""
    content = json.loads((folder / "config.json").read_text())
    change(content)
    (folder / "config.json").write_text(json.dumps(content))
