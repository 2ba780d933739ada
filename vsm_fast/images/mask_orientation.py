"""Which way a mask lies on a photograph that EXIF turned: by what the mask outlines.

Mask tools often ignore EXIF, so that a mask may lie like the stored pixels. Where both ways have
the size of the photograph, only its content can tell: an outline follows edges, and divides
colours, the way it was drawn and seldom the other way.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Chosen on half of the photographs of docs/reference/inputs.md, where the other half measures them.
_SIDE = 128  # pixels of the copy that is looked at
_SAME = 0.95  # of their union in common: two ways that give the same score
_EDGES = 0.35  # share of the strongest edges that the outline must have, on average
_EACH = 0.15  # least lead of the better way in either measure, as a logarithm of the ratio
_BOTH = 0.8  # and in their sum


def better_way(
    pixels: NDArray[np.uint8], upright: NDArray[np.bool_], turned: NDArray[np.bool_]
) -> Literal["upright", "turned"] | None:
    """Which of two ways to lay a mask on an image fits what the image shows.

    Args:
        pixels: uint8 [H, W, 3], RGB.
        upright: bool [H, W], the mask as it is.
        turned: bool [H, W], the mask turned like the photograph.

    Returns:
        The way that fits, ``"upright"`` where both are nearly the same; None where neither is
        clearly better.
    """
    union = np.count_nonzero(upright | turned)
    if np.count_nonzero(upright & turned) >= _SAME * union:
        return "upright"
    image = _small(Image.fromarray(pixels))
    slopes = np.stack([*np.gradient(image, axis=(0, 1))])  # [2, N, N, 3], down and across
    strong = float(np.quantile(np.sqrt(np.square(slopes).sum((0, 3))), 0.95))
    edges, colours = [], []
    for mask in (upright, turned):
        soft = _small(Image.fromarray(mask.astype(np.uint8) * 255)) / 255
        edges.append(_edges_met(slopes, strong, soft))
        colours.append(_colours_divided(image, soft > 0.5))
    leads = [np.log(way[0] + 1e-4) - np.log(way[1] + 1e-4) for way in (edges, colours)]
    if edges[0] > _EDGES and min(leads) > _EACH and sum(leads) > _BOTH:
        return "upright"
    if edges[1] > _EDGES and max(leads) < -_EACH and sum(leads) < -_BOTH:
        return "turned"
    return None


def _small(image: Image.Image) -> NDArray[np.float32]:
    return np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32)


def _edges_met(slopes: NDArray[np.floating], strong: float, mask: NDArray[np.floating]) -> float:
    """Mean slope of the image across the mask's outline, in [0, 1] of a strong edge."""
    outline = np.stack([*np.gradient(_blurred(mask))])
    weight = np.sqrt(np.square(outline).sum(0))
    across = np.sqrt(np.square((slopes * outline[..., None]).sum(0)).sum(-1))
    total = float(weight.sum()) * strong
    return float(np.minimum(across, strong * weight).sum()) / total if total else 0.0


def _blurred(mask: NDArray[np.floating]) -> NDArray[np.floating]:
    """The mask under a binomial filter of five pixels, about as wide as a Gaussian of one."""
    for axis in (0, 1):
        padded = np.pad(mask, [(2, 2) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        parts = [np.take(padded, range(k, k + _SIDE), axis) for k in range(5)]
        mask = (parts[0] + parts[4] + 4 * (parts[1] + parts[3]) + 6 * parts[2]) / 16
    return mask


def _colours_divided(image: NDArray[np.floating], mask: NDArray[np.bool_]) -> float:
    """Share in [0, 1] of the mask's entropy that a pixel's colour, of 64, tells."""
    red, green, blue = np.moveaxis((image // 64).astype(np.int64), -1, 0)
    colour = 16 * red + 4 * green + blue
    counts = np.stack([np.bincount(colour[side], minlength=64) for side in (mask, ~mask)]) + 0.5
    joint = counts / counts.sum()
    sides, colours = joint.sum(1, keepdims=True), joint.sum(0, keepdims=True)
    told = (joint * np.log(joint / (sides * colours))).sum()
    return float(told / -(sides * np.log(sides)).sum())
