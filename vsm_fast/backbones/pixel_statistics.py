"""Local statistics of the pixels: colour, contrast and edges at three scales, as one more level.

What a large diffusion model knows about texture a small one must be given: these 30 numbers a
cell need no training. Mean and standard deviation are what Portilla and Simoncelli's texture
statistics (IJCV 2000) begin with, edge energies by orientation what histograms of oriented
gradients do (Dalal and Triggs, CVPR 2005).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVEL = "pixels"
CHANNELS = 30
STRIDE = 8
_WINDOWS = (8, 16, 32)
_FLOOR = 1e-4  # under a square root: its slope at 0 is infinite


class PixelStatistics(nn.Module):
    """Mean, standard deviation and oriented edge energy of each window; no parameters."""

    def forward(self, images: Tensor) -> Tensor:
        """Statistics of images.

        Args:
            images: float [B, 3, R, R] in [-1, 1]; R a multiple of 8.

        Returns:
            float [B, 30, R / 8, R / 8] in the type of ``images``: for windows of 8, 16 and 32
            pixels mean and standard deviation of the three channels, then for four
            orientations the root of the edge energy.
        """
        with torch.autocast(images.device.type, enabled=False):
            return self._statistics(images.float()).to(images.dtype)

    def _statistics(self, images: Tensor) -> Tensor:
        found = []
        for window in _WINDOWS:
            mean = _windows(images, window)
            variance = _windows(images.square(), window) - mean.square()
            found += [mean, variance.clamp(min=_FLOOR).sqrt()]
        for energy in _oriented_energy(images.mean(dim=1, keepdim=True)):
            found += [(_windows(energy, window) + _FLOOR).sqrt() for window in _WINDOWS]
        return torch.cat(found, dim=1)


def _windows(values: Tensor, window: int) -> Tensor:
    """Means of windows around the centres of cells of 8 pixels; outside the image is 0."""
    return F.avg_pool2d(values, window, STRIDE, (window - STRIDE) // 2)


def _oriented_energy(grey: Tensor) -> list[Tensor]:
    """Gradient magnitude split by orientation: upright, level and the two diagonals.

    The angle is doubled, so that light to dark and dark to light are one orientation.
    """
    right = F.pad(grey[..., 1:] - grey[..., :-1], (0, 1))
    down = F.pad(grey[..., 1:, :] - grey[..., :-1, :], (0, 0, 0, 1))
    magnitude = (right.square() + down.square() + 1e-8).sqrt()
    cosine, sine = (right.square() - down.square()) / magnitude, 2 * right * down / magnitude
    return [part.clamp(min=0) for part in (cosine, sine, -cosine, -sine)]
