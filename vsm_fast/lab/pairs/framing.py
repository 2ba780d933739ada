"""A subject of a photograph in a square frame of its own."""

from __future__ import annotations

import cv2
import numpy as np

from vsm_fast.lab.pairs.pairs import Mask, Pixels
from vsm_fast.lab.pairs.photographs import Photograph


def frame_photograph(photo: Photograph, rng: np.random.Generator, size: int) -> tuple[Pixels, Mask]:
    """The subject of a photograph in a square of ``size`` pixels, at a random margin.

    Raises:
        ValueError: The photograph has no mask.
    """
    if photo.mask is None or not photo.mask.any():
        raise ValueError(f"{photo.subject}/{photo.name} has no mask; pick masked photographs.")
    rows, columns = np.nonzero(photo.mask)
    centre = np.array([columns.min() + columns.max(), rows.min() + rows.max()]) / 2
    extent = max(np.ptp(columns), np.ptp(rows)) + 1
    side = extent * rng.uniform(1.15, 1.6)
    centre = centre + rng.uniform(-0.5, 0.5, 2) * (side - extent)
    scale = size / side
    matrix = np.array(
        [[scale, 0, size / 2 - scale * centre[0]], [0, scale, size / 2 - scale * centre[1]]]
    )
    # Shrinking by plain bilinear sampling would alias: go through an area-averaged copy.
    factor = max(1.0, 1.0 / scale)
    height, width = photo.mask.shape
    small = (max(1, round(width / factor)), max(1, round(height / factor)))
    pixels = cv2.resize(photo.pixels, small, interpolation=cv2.INTER_AREA)
    mask = cv2.resize(photo.mask.astype(np.uint8), small, interpolation=cv2.INTER_NEAREST)
    matrix = matrix @ np.diag([width / small[0], height / small[1], 1.0])
    # Not reflected: a mirror copy of the subject would lie outside its mask.
    warped = cv2.warpAffine(pixels, matrix, (size, size), borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.warpAffine(mask, matrix, (size, size), flags=cv2.INTER_NEAREST)
    return warped, inside > 0
