"""Region of an image that the network sees, and its resize to network input."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

Framing = Literal["image", "subject"]
Interpolation = Literal["bicubic", "bilinear"]
Box = tuple[int, int, int, int]
_MARGIN = 0.1  # of the longer side, around a subject
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def subject_box(mask: NDArray[np.bool_], framing: Framing) -> Box:
    """Return the region of an image that the network sees.

    Args:
        mask: bool [H, W], the subject.
        framing: ``"image"``: the whole image (the paper). ``"subject"``: the bounding box of the
            mask, grown on each side by 10 % of its longer side, as square as the image allows and
            moved inwards at a border; an empty mask gives the whole image.

    Returns:
        (left, top, right, bottom) in pixels, inside the image, right and bottom exclusive.

    Raises:
        ValueError: If ``framing`` has another value.
    """
    height, width = mask.shape
    if framing not in ("image", "subject"):
        raise ValueError(f"framing must be 'image' or 'subject'; got {framing!r}.")
    rows = np.flatnonzero(mask.any(axis=1))
    if framing == "image" or not len(rows):
        return 0, 0, width, height
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    left, right = int(columns[0]), int(columns[-1]) + 1
    longer = max(bottom - top, right - left)
    side = longer + 2 * frame_margin(longer)
    left, right = _span(left, right, side, width)
    top, bottom = _span(top, bottom, side, height)
    return left, top, right, bottom


def frame_margin(longer: int) -> int:
    """Return the margin in pixels around a subject with this longer side."""
    return round(_MARGIN * longer)


def _span(low: int, high: int, side: int, limit: int) -> tuple[int, int]:
    length = min(side, limit)
    start = min(max((low + high - length) // 2, 0), limit - length)
    return start, start + length


def on_grey(pixels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Put the subject on mid grey, which is zero in network input.

    Args:
        pixels: uint8 [H, W, 3], RGB.
        mask: bool [H, W], the subject.

    Returns:
        uint8 [H, W, 3]; ``pixels`` itself if the mask is all True.
    """
    if mask.all():
        return pixels
    height, width = mask.shape
    grey = Image.new("RGB", (width, height), (127, 127, 127))
    grey.paste(Image.fromarray(pixels), mask=Image.fromarray(mask))  # half the time of np.where
    return np.asarray(grey)


def to_input(
    pixels: NDArray[np.uint8],
    box: Box,
    resolution: int,
    interpolation: Interpolation = "bicubic",
) -> torch.Tensor:
    """Resize a region to the network's square input, ignoring its aspect ratio.

    Args:
        pixels: uint8 [H, W, 3], RGB.
        box: (left, top, right, bottom) in pixels, inside the image.
        resolution: Side of the square in pixels.
        interpolation: ``"bicubic"`` or ``"bilinear"``, both with Pillow's antialiasing.

    Returns:
        float32 [3, resolution, resolution] in [-1, 1].

    Raises:
        ValueError: If the box is empty or leaves the image, or ``interpolation`` is unknown.

    Source: arXiv 2509.21989 for the square; the authors have not published their filter.
    """
    resized = resized_region(pixels, box, resolution, interpolation)
    # By numpy: torch would start threads that compete with the network's.
    channels_first = resized.transpose(2, 0, 1).astype(np.float32, order="C")
    channels_first /= 127.5
    channels_first -= 1
    return torch.from_numpy(channels_first)


def resized_region(
    pixels: NDArray[np.uint8], box: Box, resolution: int, interpolation: Interpolation
) -> NDArray[np.uint8]:
    """Resize a region like :func:`to_input`, to uint8 [resolution, resolution, 3]."""
    check_box(box, pixels.shape[:2])
    if interpolation not in _RESAMPLING:
        raise ValueError(
            f"interpolation must be one of {tuple(_RESAMPLING)}; got {interpolation!r}."
        )
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((resolution, resolution), _RESAMPLING[interpolation], box=box))


def check_box(box: Box, size: tuple[int, ...]) -> None:
    """Check that a box is not empty and lies inside an image of ``size`` (height, width).

    Raises:
        ValueError: If it does not.
    """
    left, top, right, bottom = box
    if not (0 <= left < right <= size[1] and 0 <= top < bottom <= size[0]):
        raise ValueError(
            f"box (left, top, right, bottom) must contain a pixel and lie inside the image of "
            f"{size[1]} x {size[0]} (width x height); got {tuple(box)}."
        )
