"""Controlled triplets with exact correspondence, for the contrastive training.

A triplet is (original 1, original 2, altered 1): two views of one subject and the first view
with a part of the subject altered. Two sources: a photograph and a random warp of it, and two
renderings of a procedural subject.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vsm_fast.data.alterations import alter, random_part
from vsm_fast.data.photographs import Photograph
from vsm_fast.data.procedural import (
    alter_subject,
    correspondence,
    make_subject,
    render,
    sample_cameras,
    sample_light,
)
from vsm_fast.data.warps import colour_jitter, random_warp, replace_background

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Triplet:
    """One controlled triplet; all images are [S, S].

    Attributes:
        original_1, original_2, altered_1: uint8 [S, S, 3].
        mask_1, mask_2: bool [S, S], the subject (``mask_1`` also serves ``altered_1``).
        part: bool [S, S], what was altered in view 1.
        flow: float32 [S, S, 2], (x, y) in view 2 of each pixel of view 1; NaN where unknown.
        kind: The alteration.
    """

    original_1: Pixels
    original_2: Pixels
    altered_1: Pixels
    mask_1: Mask
    mask_2: Mask
    part: Mask
    flow: NDArray[np.float32]
    kind: str


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
    warped = cv2.warpAffine(pixels, matrix, (size, size), borderMode=cv2.BORDER_REFLECT_101)
    inside = cv2.warpAffine(mask, matrix, (size, size), flags=cv2.INTER_NEAREST)
    return warped, inside > 0


def photograph_triplet(
    photo: Photograph,
    rng: np.random.Generator,
    donors: Sequence[Pixels],
    kinds: Sequence[str],
    size: int = 256,
) -> Triplet:
    """A triplet from one photograph: view 2 is a random warp of it.

    Args:
        photo: With a mask.
        rng: Source of all randomness.
        donors: uint8 [H, W, 3]; textures for alterations, and backgrounds.
        kinds: Alterations to draw from.
        size: Side of the images in pixels.
    """
    base, mask_1 = frame_photograph(photo, rng, size)
    warp = random_warp(rng, (size, size), strength=rng.uniform(0.2, 1.0))
    second, mask_2 = warp.image(base), warp.mask(mask_1)
    if rng.random() < 0.6:
        second = replace_background(second, mask_2, _crop(donors, rng, size))
    part = random_part(rng, mask_1, area_share=(0.08, 0.6))
    kind = str(rng.choice(list(kinds)))
    altered, changed = alter(kind, base, part, mask_1, rng, donor=_crop(donors, rng, size))
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size)), axis=-1)
    flow = warp.points(grid.reshape(-1, 2).astype(np.float32)).reshape(size, size, 2)
    flow = flow.astype(np.float32)
    flow[~mask_1] = np.nan
    return _jittered(base, second, altered, mask_1, mask_2, changed & mask_1, flow, kind, rng)


def procedural_triplet(
    rng: np.random.Generator, textures: Sequence[Pixels], kinds: Sequence[str], size: int = 256
) -> Triplet:
    """A triplet from two renderings of one procedural subject.

    Half of them alter the subject itself before it is rendered, half the rendered picture.
    """
    subject = make_subject(rng, textures)
    camera_1, camera_2 = sample_cameras(rng)
    lights = sample_light(rng), sample_light(rng)
    backgrounds = [_crop(textures, rng, size) if rng.random() < 0.8 else None for _ in range(2)]
    first = render(subject, camera_1, lights[0], size, backgrounds[0])
    second = render(subject, camera_2, lights[1], size, backgrounds[1])
    flow = correspondence(first, second, camera_2)
    if rng.random() < 0.5:
        repainted, _ = alter_subject(subject, rng, textures, view=first)
        again = render(repainted, camera_1, lights[0], size, backgrounds[0])
        altered, part, kind = again.pixels, again.altered & first.mask, "rendered"
    else:
        kind = str(rng.choice(list(kinds)))
        wanted = random_part(rng, first.mask, area_share=(0.08, 0.6))
        donor = _crop(textures, rng, size)
        altered, part = alter(kind, first.pixels, wanted, first.mask, rng, donor=donor)
    return _jittered(
        first.pixels, second.pixels, altered, first.mask, second.mask, part, flow, kind, rng
    )


def _crop(images: Sequence[Pixels], rng: np.random.Generator, size: int) -> Pixels:
    """A random square of a random image, uint8 [size, size, 3]."""
    image = images[int(rng.integers(len(images)))]
    height, width = image.shape[:2]
    side = int(rng.uniform(0.4, 1.0) * min(height, width))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    return cv2.resize(
        image[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_AREA
    )


def _jittered(
    first: Pixels,
    second: Pixels,
    altered: Pixels,
    mask_1: Mask,
    mask_2: Mask,
    part: Mask,
    flow: NDArray[np.float32],
    kind: str,
    rng: np.random.Generator,
) -> Triplet:
    """The triplet with colours jittered per photograph, so that exposure is no clue.

    Original 1 and altered 1 are one photograph and share their jitter.
    """
    seed = int(rng.integers(2**32))
    strength = rng.uniform(0.0, 1.0)
    return Triplet(
        colour_jitter(np.random.default_rng(seed), first, strength),
        colour_jitter(rng, second, rng.uniform(0.0, 1.0)),
        colour_jitter(np.random.default_rng(seed), altered, strength),
        mask_1,
        mask_2,
        part,
        flow,
        kind,
    )
