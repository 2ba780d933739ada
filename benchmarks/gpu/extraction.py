"""Step 5: images per second of the network, random weights of the real SD 2.1 shape."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.flops import operations_per_image
from benchmarks.gpu.timing import measure, rate
from benchmarks.reference_recipe import Parts
from vsm_fast.aggregation import AggregationNetwork
from vsm_fast.backbones.folding import fold_constants
from vsm_fast.backbones.unet import UNetFeatures, level_index
from vsm_fast.model import DescriptorNetwork
from vsm_fast.model_config import AggregationConfig

LEVELS = ("us3", "us6", "us8", "us9", "us10")
AGGREGATION = AggregationConfig(grid=(48, 48), bottleneck_channels=96, descriptor_channels=384)
TIMESTEP, LATENT_SCALE = 261.0, 0.18215
BATCHES = (1, 4, 8, 16, 32)


def parts(*, quick: bool) -> Parts:
    """What the published model is made of, with random weights; ``quick`` shrinks its widths."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    widths = (8, 8, 16, 16) if quick else (320, 640, 1280, 1280)
    heads = (2, 2, 4, 4) if quick else (5, 10, 20, 20)
    context, groups = (12, 4) if quick else (1024, 32)
    unet = UNet2DConditionModel(
        sample_size=96,
        block_out_channels=widths,
        attention_head_dim=heads,
        cross_attention_dim=context,
        use_linear_projection=True,
        norm_num_groups=groups,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16) if quick else (128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=groups,
    )
    resnets = [resnet for block in unet.up_blocks for resnet in block.resnets]
    channels = [resnets[level_index(level)].out_channels for level in LEVELS]
    semantic, visual = (AggregationNetwork(channels, AGGREGATION) for _ in range(2))
    prompt = torch.randn(1, 77, context)
    return Parts(unet, vae, {"encoder_hidden_states": prompt}, semantic, visual)


def network(made: Parts) -> DescriptorNetwork:
    """The network of parts, which are taken over, before anything is folded."""
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


def run(device: torch.device, *, quick: bool = False) -> Iterator[dict[str, Any]]:
    """Rows of (type, how, batch) with time, images per second and memory.

    ``unfolded`` is the network before its constants were folded into its weights, which the
    others are after.
    """
    side = 64 if quick else 768
    unfolded = network(parts(quick=quick))
    model = copy.deepcopy(unfolded)
    fold_constants(model.backbone, side)
    counted = operations_per_image(model, side)
    for part in (unfolded, model):
        part.to(device, memory_format=torch.channels_last)
    for dtype in (torch.bfloat16,) if quick else (torch.bfloat16, torch.float16):
        unfolded, model = unfolded.to(dtype), model.to(dtype)
        calls = {"unfolded": unfolded, "eager": model, "torch.compile": torch.compile(model)}
        for how, call in calls.items():
            if quick and how == "torch.compile":
                continue
            for batch in (1, 2) if quick else BATCHES:
                images = torch.rand(batch, 3, side, side, device=device) * 2 - 1
                images = images.to(memory_format=torch.channels_last)
                row = {"dtype": str(dtype).removeprefix("torch."), "how": how, "batch": batch}
                yield row | _time(call, images, device, counted)


def _time(call: Any, images: torch.Tensor, device: torch.device, counted: float) -> dict[str, Any]:
    try:
        with torch.inference_mode():
            timing = measure(lambda: call(images), device, milliseconds=1000)
    except Exception as error:  # out of memory, or what a compiler raises: the others go on
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    per_second = len(images) / timing.p50 * 1e6
    return asdict(timing) | {
        "images_per_s": per_second,
        "tflops": rate(counted * len(images), timing),
    }
