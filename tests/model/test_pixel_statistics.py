from __future__ import annotations

import numpy as np
import pytest
import tiny_models
import torch
from tiny_models import images, pixel_unet

from vsm_fast.errors import ModelError
from vsm_fast.model.pixel_statistics import CHANNELS, PixelStatistics
from vsm_fast.model.unet import UNetFeatures

one_thread = tiny_models.one_thread


def test_colour_and_contrast_against_loops() -> None:
    """Windows of 8, 16 and 32 pixels around each cell; outside the image everything is 0."""
    picture = images(1, 32)
    found = PixelStatistics()(picture)[0].numpy()
    assert found.shape == (CHANNELS, 4, 4)
    padded = np.pad(picture[0].numpy().astype(np.float64), ((0, 0), (12, 12), (12, 12)))
    for number, window in enumerate((8, 16, 32)):
        reach = (window - 8) // 2
        for row in range(4):
            for column in range(4):
                top, left = 12 + 8 * row - reach, 12 + 8 * column - reach
                seen = padded[:, top : top + window, left : left + window]
                mean, spread = seen.mean((1, 2)), seen.std((1, 2))
                at = 6 * number
                np.testing.assert_allclose(found[at : at + 3, row, column], mean, atol=1e-6)
                np.testing.assert_allclose(found[at + 3 : at + 6, row, column], spread, atol=1e-5)


@pytest.mark.parametrize(("angle", "strongest"), [(0, 0), (45, 1), (90, 2), (135, 3)])
def test_edges_are_told_apart_by_orientation(angle: float, strongest: int) -> None:
    y, x = np.mgrid[:64, :64].astype(np.float32)
    radians = np.deg2rad(angle)
    waves = np.sin((np.cos(radians) * x + np.sin(radians) * y) / 2)
    picture = torch.from_numpy(waves).expand(1, 3, 64, 64).contiguous()
    energy = PixelStatistics()(picture)[0, 18:].view(4, 3, 8, 8)[:, 0, 2:6, 2:6].mean((1, 2))
    assert int(energy.argmax()) == strongest
    assert energy[strongest] > 2 * energy[(strongest + 2) % 4]


def test_flat_images_have_finite_gradients() -> None:
    flat = torch.zeros(1, 3, 32, 32, requires_grad=True)
    PixelStatistics()(flat).sum().backward()
    assert flat.grad is not None
    assert flat.grad.isfinite().all()


def test_as_a_level_beside_those_of_the_unet() -> None:
    alone = UNetFeatures(pixel_unet(), ("us2", "us5"), 50, pixel_unshuffle=2)
    both = UNetFeatures(pixel_unet(), ("us2", "pixels", "us5"), 50, pixel_unshuffle=2)
    assert both.level_channels == (24, CHANNELS, 8)
    picture = images(2, 32)
    first, statistics, second = both(picture)
    assert torch.equal(first, alone(picture)[0])
    assert torch.equal(second, alone(picture)[1])
    assert torch.equal(statistics, PixelStatistics()(picture))


def test_pixels_alone_are_no_backbone() -> None:
    with pytest.raises(ModelError, match="at least one of the UNet"):
        UNetFeatures(pixel_unet(), ("pixels",), 50, pixel_unshuffle=2)
    with pytest.raises(ModelError, match="each once"):
        UNetFeatures(pixel_unet(), ("us1", "pixels", "pixels"), 50, pixel_unshuffle=2)
