"""The baseline interface, and baselines that compare square crops of the subject."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from vsm_fast.images.framing import on_grey, subject_box
from vsm_fast.lab.pairs.pairs import ControlledPair, Mask, Pixels

Crop = tuple[Pixels, Mask]  # uint8 [S, S, 3] and the subject in it, bool [S, S]
_BATCH = 16  # pairs per comparison


class Baseline(Protocol):
    """Metric that is evaluated on the same pairs as VSM; ``name`` is its column."""

    name: str

    def __call__(self, pairs: Sequence[ControlledPair]) -> NDArray[np.float64]:
        """Compare ``altered_1`` with ``original_2`` inside their subject masks.

        Returns:
            float64 [P] for P pairs, higher = more consistent; NaN where undefined.
        """
        ...


@dataclass
class CropBaseline:
    """Baseline that maps N generated and N reference crops of ``side`` pixels to N values."""

    name: str
    side: int
    compare: Callable[[list[Crop], list[Crop]], ArrayLike]

    def __call__(self, pairs: Sequence[ControlledPair]) -> NDArray[np.float64]:
        """Return the value of each pair; NaN where an image has no subject."""
        values = np.full(len(pairs), np.nan)
        usable = [i for i, pair in enumerate(pairs) if pair.mask_1.any() and pair.mask_2.any()]
        for start in range(0, len(usable), _BATCH):
            rows = usable[start : start + _BATCH]
            values[rows] = self.compare(
                [subject_crop(pairs[i].altered_1, pairs[i].mask_1, self.side) for i in rows],
                [subject_crop(pairs[i].original_2, pairs[i].mask_2, self.side) for i in rows],
            )
        return values


def one_by_one(
    compare: Callable[[Crop, Crop], float],
) -> Callable[[list[Crop], list[Crop]], list[float]]:
    """Apply a comparison of two crops to every pair of a batch."""
    return lambda generations, references: list(map(compare, generations, references))


def subject_crop(pixels: Pixels, mask: Mask, size: int) -> Crop:
    """Crop the subject to a square on mid grey.

    The box is that of ``subject_box(mask, "subject")``: the mask's bounding box with a margin,
    stretched to the square, which roughly aligns two views of a subject. The grey replaces the
    background before resizing, to keep the background out of the subject's edge.

    Args:
        pixels: uint8 [H, W, 3].
        mask: bool [H, W] with at least one True.
        size: Side of the square in pixels.

    Returns:
        uint8 [size, size, 3] and bool [size, size].
    """
    box = subject_box(mask, "subject")
    image = Image.fromarray(on_grey(pixels, mask))
    shape = Image.fromarray(mask.astype(np.uint8) * 255)
    resized = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    coverage = np.asarray(shape.resize((size, size), Image.Resampling.BOX, box=box))
    # A thin subject may cover no pixel by half. Every pixel that it touches then counts.
    inside = coverage > 127
    return np.asarray(resized), inside if inside.any() else coverage > 0
