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
_BLOCK = 4  # pixels: divides every window, the stride, and how far windows reach over their cell
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
        energy = _oriented_energy(images.mean(dim=1, keepdim=True))
        # Every window is made of the same blocks, which are the only pass over the pixels.
        blocks = F.avg_pool2d(torch.cat([images, images.square(), *energy], dim=1), _BLOCK)
        found, edges = [], []
        for window in _WINDOWS:
            mean, square, energies = _windows(blocks, window).split((3, 3, 4), dim=1)
            found += [mean, (square - mean.square()).clamp(min=_FLOOR).sqrt()]
            edges.append((energies + _FLOOR).sqrt())
        # By orientation, then by window.
        return torch.cat([*found, torch.stack(edges, dim=2).flatten(1, 2)], dim=1)


def _windows(blocks: Tensor, window: int) -> Tensor:
    """Means of windows around the centres of cells of 8 pixels; outside the image is 0."""
    reach = (window - STRIDE) // 2
    return F.avg_pool2d(blocks, window // _BLOCK, STRIDE // _BLOCK, reach // _BLOCK)


def _oriented_energy(grey: Tensor) -> list[Tensor]:
    """Gradient magnitude split by orientation: upright, level and the two diagonals.

    The angle is doubled, so that light to dark and dark to light are one orientation.
    """
    right = F.pad(grey[..., 1:] - grey[..., :-1], (0, 1))
    down = F.pad(grey[..., 1:, :] - grey[..., :-1, :], (0, 0, 0, 1))
    # A bound, not a sum: an optimiser of exported graphs takes x + 1e-8 for x.
    magnitude = (right.square() + down.square()).clamp(min=1e-8).sqrt()
    cosine, sine = (right.square() - down.square()) / magnitude, 2 * right * down / magnitude
    return [part.clamp(min=0) for part in (cosine, sine, -cosine, -sine)]
