"""Networks of Stable Diffusion 2.1's shape, full or narrower, with random weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.reference_recipe import Parts
from vsm_fast.model.aggregation import AggregationNetwork
from vsm_fast.model.config import AggregationConfig
from vsm_fast.model.network import DescriptorNetwork
from vsm_fast.model.unet import UNetFeatures, level_index

LEVELS = ("us3", "us6", "us8", "us9", "us10")
TIMESTEP, LATENT_SCALE = 261.0, 0.18215


@dataclass(frozen=True)
class Widths:
    """Channels of a network.

    Attributes:
        unet: Channels of the UNet's blocks.
        heads: Attention heads of the UNet's blocks.
        vae: Channels of the VAE's blocks.
        context: Channels of a prompt token.
        groups: Groups of every GroupNorm of the backbone.
        aggregation: Shape of the aggregation networks.
    """

    unet: tuple[int, ...]
    heads: tuple[int, ...]
    vae: tuple[int, ...]
    context: int
    groups: int
    aggregation: AggregationConfig


PAPER = AggregationConfig(grid=(48, 48), bottleneck_channels=96, descriptor_channels=384)
FULL = Widths((320, 640, 1280, 1280), (5, 10, 20, 20), (128, 256, 512, 512), 1024, 32, PAPER)
HALF = Widths(
    (160, 320, 640, 640), (5, 10, 20, 20), (64, 128, 256, 256), 512, 32,
    AggregationConfig(grid=(24, 24), bottleneck_channels=96, descriptor_channels=384),
)  # fmt: skip
TINY = Widths((8, 8, 16, 16), (2, 2, 4, 4), (8, 8, 16, 16), 12, 4, PAPER)


def parts(widths: Widths) -> Parts:
    """Return the networks of these widths."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=96,
        block_out_channels=widths.unet,
        attention_head_dim=widths.heads,
        cross_attention_dim=widths.context,
        use_linear_projection=True,
        norm_num_groups=widths.groups,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=widths.vae,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=widths.groups,
    )
    resnets = [resnet for block in unet.up_blocks for resnet in block.resnets]
    channels = [resnets[level_index(level)].out_channels for level in LEVELS]
    semantic, visual = (AggregationNetwork(channels, widths.aggregation) for _ in range(2))
    prompt = torch.randn(1, 77, widths.context)
    return Parts(unet, vae, {"encoder_hidden_states": prompt}, semantic, visual)


def network_of(made: Parts) -> DescriptorNetwork:
    """Return the unfolded network of ``made``, which shares its modules."""
    features = UNetFeatures(
        made.unet,
        LEVELS,
        TIMESTEP,
        vae=made.vae,
        latent_scale=LATENT_SCALE,
        conditioning=made.conditioning,
    )
    whole = DescriptorNetwork(features, made.semantic, made.visual)
    return whole.eval().requires_grad_(False)
