"""Doubts about one image: masks that call for a look, and the fingerprint that exposes copies.

The limits were chosen on other subjects than those of the rates in docs/reference/inputs.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from vsm_fast.errors import Flag

if TYPE_CHECKING:
    from vsm_fast.images.masks import MaskOrigin

Doubt = tuple[Flag, str]  # a flag, and its reason as a note

THUMBNAIL = 64  # pixels of its side
_ENOUGH = 512  # pixels of the shorter side for a mean over areas; a phone's photograph takes 50 ms

_FULL = 0.8  # share of the image, at least, that a found mask fills
_SCRAP = 0.04  # below this share of the image, GrabCut has found a scrap: 11 of 11 were wrong
_TOUCHED = 0.05  # share of a border, above which a mask touches it
# GrabCut takes the outermost 3 % of an image for background: its masks end there.
_RIMS = {"grabcut": 0.04, "grounded-sam": 0.01}  # of the longer side
_CUT = 0.1  # share of the bounding box's outline on the border; with 25 % cut away, 0.12 and more
_SHAPE_SIDE = 128  # pixels of the longer side, on which pieces are counted
_LEAST_PIECE = 16  # pixels of that reduced mask
_LIKE_SIZE = 0.3  # area of the second largest piece per largest


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """Features of an image that reveal copies and lost colour.

    Attributes:
        thumbnail: uint8 [64, 64], the whole image in grey, stretched to a square.
        chroma: Mean CIE Lab chroma of the subject; 0 is grey.
    """

    thumbnail: NDArray[np.uint8]
    chroma: float


def fingerprint(pixels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> Fingerprint:
    """Return the fingerprint of an image.

    Args:
        pixels: uint8 [H, W, 3], RGB.
        mask: bool [H, W], the subject; not empty.
    """
    small = _reduced(pixels, THUMBNAIL, THUMBNAIL)
    cover = _reduced(_bytes(mask), THUMBNAIL, THUMBNAIL, scale=255)
    # Pixels without background where there are any: its colour is not the subject's.
    weights = cover == 255 if cover.max() == 255 else cover
    if not weights.any():  # too small for a pixel
        weights = np.ones_like(cover)
    lab = cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    chroma = float(np.average(np.hypot(lab[..., 1], lab[..., 2]), weights=weights))
    return Fingerprint(np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8), chroma)


def mask_doubts(mask: NDArray[np.bool_], origin: MaskOrigin) -> list[Doubt]:
    """Return the flags that a subject mask raises.

    Args:
        mask: bool [H, W], the subject; not empty.
        origin: Where it is from. ``DOUBTFUL_MASK`` concerns found masks only, and the mask of a
            whole image raises nothing else either.
    """
    height, width = mask.shape
    depth = max(1, round(_RIMS.get(origin, 0) * max(height, width)))
    bands = mask[:depth], mask[-depth:], mask[:, :depth].T, mask[:, -depth:].T
    on_border = [np.count_nonzero(band.any(axis=0)) for band in bands]
    raised: list[Doubt] = []
    if origin in _RIMS:
        share = np.count_nonzero(mask) / mask.size
        pairs = zip(on_border, (width, width, height, height), strict=True)
        touched = sum(pixels > _TOUCHED * side for pixels, side in pairs)
        if share >= _FULL or (origin == "grabcut" and share < _SCRAP):
            note = f"the found mask covers {share:.0%} of the image"
            raised.append((Flag.DOUBTFUL_MASK, note))
        elif touched >= 3:
            note = f"the found mask touches {touched} borders of the image"
            raised.append((Flag.DOUBTFUL_MASK, note))
    if origin == "whole image" or mask.all():
        return raised
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    outline = 2 * int(columns[-1] - columns[0] + rows[-1] - rows[0] + 2)
    cut = sum(on_border) / outline
    if cut > _CUT:
        note = f"the image border cuts the subject along {cut:.0%} of its bounding box"
        raised.append((Flag.CUT_OFF, note))
    second = _second_piece(mask)
    if second > _LIKE_SIZE:
        note = f"the mask has two separate pieces, one {second:.0%} as large as the other"
        raised.append((Flag.SEVERAL_SUBJECTS, note))
    return raised


def _second_piece(mask: NDArray[np.bool_]) -> float:
    """Area of the second largest piece of a mask per largest; 0 where there is none."""
    scale = min(1.0, _SHAPE_SIDE / max(mask.shape))
    height, width = (max(1, round(side * scale)) for side in mask.shape)
    small = _reduced(_bytes(mask), width, height)
    _, _, statistics, _ = cv2.connectedComponentsWithStats(small)
    areas = np.sort(statistics[1:, cv2.CC_STAT_AREA])[::-1]
    return float(areas[1] / areas[0]) if len(areas) > 1 and areas[1] >= _LEAST_PIECE else 0.0


def _bytes(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return mask.view(np.uint8)


def _reduced(
    pixels: NDArray[np.uint8], width: int, height: int, scale: int = 1
) -> NDArray[np.uint8]:
    """Means over areas, rounded; of a large image, over every nth pixel."""
    step = max(1, min(pixels.shape[:2]) // _ENOUGH)
    pixels = np.ascontiguousarray(pixels[::step, ::step]) * np.uint8(scale)
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
