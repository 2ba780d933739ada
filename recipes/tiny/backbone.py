"""Denoising training of a small diffusion backbone.

The network is diffusers' ``UNet2DModel`` on the space-to-depth image (``pixel_unshuffle``):
without a VAE, a small model sees every pixel. Objective: v-prediction under a cosine schedule
(Salimans & Ho 2022, Nichol & Dhariwal 2021), mean squared error.
"""

from __future__ import annotations

import logging
import math
import time
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from vsm_fast.lab.pairs.pairs import Pixels
from vsm_fast.lab.training.state import load_state, save_state
from vsm_fast.model.devices import autocast_bfloat16

if TYPE_CHECKING:
    from diffusers import UNet2DModel

_log = logging.getLogger(__name__)
TIMESTEPS = 1000


@dataclass(frozen=True)
class BackboneTraining:
    """Settings of the denoising training; the defaults made the embedded model."""

    channels: tuple[int, ...] = (64, 128, 192)
    layers_per_block: int = 1
    pixel_unshuffle: int = 4
    crop: int = 128
    batch: int = 32
    steps: int = 2200
    learning_rate: float = 6e-4
    warmup: int = 100
    ema: float = 0.998
    seed: int = 0
    save_every: int = 250


def make_unet(config: BackboneTraining) -> UNet2DModel:
    """Create the denoising network; input and output [B, 3 * unshuffle², h, w]."""
    from diffusers import UNet2DModel

    blocks, channels = len(config.channels), 3 * config.pixel_unshuffle**2
    return UNet2DModel(
        sample_size=config.crop // config.pixel_unshuffle,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=config.channels,
        down_block_types=("DownBlock2D",) * blocks,
        up_block_types=("UpBlock2D",) * blocks,
        layers_per_block=config.layers_per_block,
        norm_num_groups=32,
        add_attention=False,
    )


def noise_schedule() -> Tensor:
    """Return ``alpha_bar`` of every time step, float32 [1000] (cosine schedule)."""
    phase = (torch.arange(TIMESTEPS) + 0.5) / TIMESTEPS
    return torch.cos(phase * math.pi / 2).square().clamp(1e-4, 1 - 1e-4)


def crops_at(images: list[Pixels], config: BackboneTraining, step: int) -> NDArray[np.float32]:
    """Draw the crops of one step, float32 [batch, 3, crop, crop] in [-1, 1]."""
    rng = np.random.default_rng((config.seed, step))
    batch = np.empty((config.batch, config.crop, config.crop, 3), np.uint8)
    for slot in range(config.batch):
        image = images[rng.integers(len(images))]
        height, width = image.shape[:2]
        side = int(rng.uniform(0.3, 1.0) * min(height, width))
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        crop = image[top : top + side, left : left + side]
        batch[slot] = cv2.resize(crop, (config.crop, config.crop), interpolation=cv2.INTER_AREA)
        if rng.random() < 0.5:
            batch[slot] = batch[slot, :, ::-1]
    gain = rng.uniform(0.8, 1.2, (config.batch, 1, 1, 3)).astype(np.float32)
    scaled = np.clip(batch.astype(np.float32) * gain, 0, 255)
    return np.ascontiguousarray((scaled / 127.5 - 1).transpose(0, 3, 1, 2))


def denoising_loss(unet: UNet2DModel, clean: Tensor, step: int, seed: int) -> Tensor:
    """Return the mean squared error of the velocity at random time steps; scalar."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    timestep = torch.randint(TIMESTEPS, (len(clean),), generator=generator)
    noise = torch.randn(clean.shape, generator=generator)
    signal = noise_schedule()[timestep].view(-1, 1, 1, 1)
    noisy = signal.sqrt() * clean + (1 - signal).sqrt() * noise
    velocity = signal.sqrt() * noise - (1 - signal).sqrt() * clean
    with autocast_bfloat16(noisy.device):
        predicted = unet(noisy, timestep).sample
    return F.mse_loss(predicted.float(), velocity)


def train_backbone(images: list[Pixels], out: Path, config: BackboneTraining) -> nn.Module:
    """Train, or resume from ``out/backbone.safetensors``, and return the averaged weights.

    Args:
        images: uint8 [H, W, 3] each; full detail needs sides of ``config.crop`` / 0.3 pixels.
        out: Folder of the checkpoint.
        config: Settings; the learning-rate schedule counts steps from 0.

    Returns:
        The exponential moving average of the UNet, in eval mode.
    """
    torch.manual_seed(config.seed)
    unet = make_unet(config)
    average: nn.Module = deepcopy(unet).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=config.learning_rate, weight_decay=1e-4)
    modules: dict[str, nn.Module] = {"unet": unet, "average": average}
    checkpoint = out / "backbone.safetensors"
    first = load_state(checkpoint, modules, optimizer)
    started, running = time.perf_counter(), 0.0
    for step in range(first, config.steps):
        remaining = 0.5 * (1 + math.cos(math.pi * step / config.steps))
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * min(1, (step + 1) / config.warmup) * remaining
        pixels = torch.from_numpy(crops_at(images, config, step))
        clean = F.pixel_unshuffle(pixels, config.pixel_unshuffle)
        loss = denoising_loss(unet, clean, step, config.seed)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        decay = min(config.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            for smooth, weight in zip(average.parameters(), unet.parameters(), strict=True):
                smooth.lerp_(weight, 1 - decay)
        running = loss.item() if step == first else 0.98 * running + 0.02 * loss.item()
        if (step + 1) % 50 == 0:
            rate = (time.perf_counter() - started) / (step + 1 - first)
            _log.info("step %d loss %.4f %.2f s/step", step + 1, running, rate)
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            save_state(checkpoint, step + 1, modules, optimizer)
    return average
