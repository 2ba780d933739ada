"""Local pixel statistics as one more level: colour, contrast and edges at three scales.

A large diffusion model encodes texture that a small one lacks; these 30 numbers per cell need no
training. Mean and standard deviation start Portilla and Simoncelli's texture statistics (IJCV
2000); edge energy by orientation is the basis of histograms of oriented gradients (Dalal and
Triggs, CVPR 2005).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVEL = "pixels"
CHANNELS = 30
_STRIDE = 8
_WINDOWS = (8, 16, 32)
_BLOCK = 4  # pixels: divides every window, the stride, and the margin of windows around a cell
_FLOOR = 1e-4  # under a square root, whose slope at 0 is infinite


class PixelStatistics(nn.Module):
    """Mean, standard deviation and oriented edge energy per window; no parameters."""

    def forward(self, images: Tensor) -> Tensor:
        """Compute the statistics.

        Args:
            images: float [B, 3, R, R] in [-1, 1]; R a multiple of 8.

        Returns:
            float [B, 30, R / 8, R / 8] in the dtype of ``images``: per window of 8, 16 and 32
            pixels mean and standard deviation of the three channels; then per orientation and
            window the root of the edge energy.
        """
        with torch.autocast(images.device.type, enabled=False):
            pixels = images.float()
            energy = _oriented_energy(pixels.mean(dim=1, keepdim=True))
            # One pass over the pixels: all windows consist of the same blocks.
            blocks = F.avg_pool2d(torch.cat([pixels, pixels.square(), *energy], dim=1), _BLOCK)
            colours, edges = [], []
            for window in _WINDOWS:
                margin = (window - _STRIDE) // 2  # zeros outside the image
                means = F.avg_pool2d(blocks, window // _BLOCK, _STRIDE // _BLOCK, margin // _BLOCK)
                mean, square, energies = means.split((3, 3, 4), dim=1)
                colours += [mean, (square - mean.square()).clamp(min=_FLOOR).sqrt()]
                edges.append((energies + _FLOOR).sqrt())
            statistics = torch.cat([*colours, torch.stack(edges, dim=2).flatten(1, 2)], dim=1)
        return statistics.to(images.dtype)


def _oriented_energy(grey: Tensor) -> list[Tensor]:
    """Return gradient magnitude by orientation: upright, level and the two diagonals.

    The angle is doubled, so that light to dark and dark to light are one orientation.
    """
    right = F.pad(grey[..., 1:] - grey[..., :-1], (0, 1))
    down = F.pad(grey[..., 1:, :] - grey[..., :-1, :], (0, 0, 0, 1))
    # A bound, not a sum: optimisers of exported graphs drop the term of x + 1e-8.
    magnitude = (right.square() + down.square()).clamp(min=1e-8).sqrt()
    cosine, sine = (right.square() - down.square()) / magnitude, 2 * right * down / magnitude
    return [part.clamp(min=0) for part in (cosine, sine, -cosine, -sine)]
