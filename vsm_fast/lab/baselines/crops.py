"""Subjects cut out and brought to one size: what pixel metrics compare."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vsm_fast.images.framing import on_grey, subject_box
from vsm_fast.lab.pairs.pairs import Mask, Pixels


def subject_crop(pixels: Pixels, mask: Mask, size: int) -> tuple[Pixels, Mask]:
    """The subject on mid grey in a square.

    The box is that of ``subject_box(mask, "subject")``: the mask's bounding box with a margin,
    stretched to the square, so that two views of a subject lie roughly on each other.

    Args:
        pixels: uint8 [H, W, 3].
        mask: bool [H, W] with at least one True.
        size: Side of the square in pixels.

    Returns:
        uint8 [size, size, 3] and bool [size, size]. The grey is put under the subject before
        resizing, so that no background bleeds in.
    """
    box = subject_box(mask, "subject")
    image = Image.fromarray(on_grey(pixels, mask))
    shape = Image.fromarray(mask.astype(np.uint8) * 255)
    resized = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    coverage = shape.resize((size, size), Image.Resampling.BOX, box=box)
    # A thin subject may cover no pixel by half: then every pixel that it touches is its own.
    inside: NDArray[np.bool_] = np.asarray(coverage) > 127
    return np.asarray(resized), inside if inside.any() else np.asarray(coverage) > 0
