"""A small random model and small subjects."""

from __future__ import annotations

import dataclasses
from functools import lru_cache

import numpy as np
import torch
from PIL import Image, ImageDraw
from tiny_models import AGGREGATION, aggregation_pair, config_of

from vsm_fast.lab.figures import describe_subjects
from vsm_fast.model.network import DescriptorNetwork
from vsm_fast.runtimes.choose import LoadedModel
from vsm_fast.runtimes.torch_runtime import TorchRuntime
from vsm_fast.scorer import VSMScorer

PIXELS = np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8)


class _Levels(torch.nn.Module):
    """Two levels of random features, without a UNet."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.fine = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.coarse = torch.nn.Conv2d(8, 12, 3, padding=1)

    def forward(self, images):
        fine = torch.nn.functional.avg_pool2d(self.fine(images), 4)
        return fine, torch.nn.functional.avg_pool2d(self.coarse(fine).relu(), 2)


@lru_cache(maxsize=4)
def scorer_of(framing="image", first_level_weight="one"):
    """Return a scorer of a random network on a 6 x 6 grid, with the paper's thresholds."""
    aggregation = dataclasses.replace(AGGREGATION, first_level_weight=first_level_weight)
    config = dataclasses.replace(config_of(framing=framing), aggregation=aggregation)
    network = DescriptorNetwork(_Levels(), *aggregation_pair((8, 12), aggregation))
    return VSMScorer(LoadedModel(config, TorchRuntime(network.eval().requires_grad_(False))))


def subject_image(seed, size=(96, 72)):
    """Return a textured blob on plain ground, uint8 [72, 96, 3], and its mask, bool [72, 96]."""
    width, height = size
    texture = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    image = Image.fromarray(texture).resize(size, Image.Resampling.BICUBIC)
    mask = Image.new("L", size)
    box = (width * 0.2, height * 0.15, width * 0.75, height * 0.9)
    ImageDraw.Draw(mask).ellipse(box, fill=255)
    on = np.asarray(mask) > 0
    return np.where(on[..., None], np.asarray(image), np.uint8(205)), on


def small_views(images, masks=None, **settings):
    """Return views of images from the small model."""
    return describe_subjects(scorer_of(), images, masks, **settings)


def two_subjects(**settings):
    """Two subjects with masks, described by the small model."""
    images, masks = zip(*(subject_image(seed) for seed in (0, 1)), strict=True)
    return small_views(images, masks, **settings)
