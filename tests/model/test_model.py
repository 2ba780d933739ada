"""The whole network: images in, two descriptor maps out."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from tiny_models import aggregation_pair, images, pixel_unet, plain_levels

from vsm_fast.model.network import DescriptorNetwork
from vsm_fast.model.unet import UNetFeatures

one_thread = tiny_models.one_thread
LEVELS = ("us2", "us5")


def make():
    backbone = UNetFeatures(pixel_unet(), LEVELS, 50, pixel_unshuffle=2)
    return DescriptorNetwork(backbone, *aggregation_pair(backbone.level_channels)).eval()


@torch.no_grad()
def test_both_networks_see_the_levels_of_the_backbone():
    sample = torch.nn.functional.pixel_unshuffle(images(), 2)
    plain = plain_levels(pixel_unet(), sample, 50)
    semantic, visual = aggregation_pair((24, 8))
    found = make()(images())
    levels = [plain[name] for name in LEVELS]
    torch.testing.assert_close(found[0], semantic(levels), rtol=0, atol=1e-6)
    torch.testing.assert_close(found[1], visual(levels), rtol=0, atol=1e-6)
    assert (found[0] - found[1]).abs().max() > 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_descriptors_are_float32_of_unit_length(dtype):
    for described in make().to(dtype)(images(3)):
        assert described.dtype == torch.float32
        assert described.shape == (3, 16, 6, 6)
        torch.testing.assert_close(described.norm(dim=1), torch.ones(3, 6, 6), rtol=0, atol=1e-6)


@torch.no_grad()
def test_memory_format_and_batch_change_nothing():
    wanted = make()(images(4))
    for found in (make().to(memory_format=torch.channels_last)(images(4)),
                  [torch.cat(part) for part in
                   zip(*(make()(image[None]) for image in images(4)), strict=True)]):  # fmt: skip
        for mine, plain in zip(found, wanted, strict=True):
            torch.testing.assert_close(mine, plain, rtol=0, atol=1e-5)
