"""A controlled pair: two views of a subject, the first also with a part of the subject altered.

Everything that makes, stores, trains on or evaluates controlled inconsistencies speaks of this
one type (arXiv 2509.21989, the automated dataset and its evaluation).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ControlledPair:
    """Two views of one subject and the first one altered.

    The generation that the metric judges is ``altered_1``, its reference ``original_2``.
    Images and masks of view 1 have one size, those of view 2 another or the same.

    Attributes:
        id: Unique in its dataset.
        subject: Name of the subject; pairs of one subject stay in one split.
        view: Where view 2 comes from: ``"photo"`` (another photograph), ``"warp"`` (a warp of
            view 1), ``"rendering"``, or ``""`` when unknown.
        kind: The alteration; ``"none"`` for a consistent pair, ``"other subject"`` when view 2
            shows another subject.
        original_1: uint8 [H, W, 3].
        original_2: uint8 [H', W', 3].
        altered_1: uint8 [H, W, 3]; differs from ``original_1`` only inside ``part_1``.
        mask_1: bool [H, W], the subject in view 1.
        mask_2: bool [H', W'].
        part_1: bool [H, W], what was altered; empty for a consistent pair, the whole subject
            for another subject.
        part_2: bool [H', W'], the same part in view 2; None when unknown.
        altered_2: uint8 [H', W', 3], view 2 with the same alteration, where it can be made
            exactly (warps, renderings); None elsewhere.
        points: float32 [N, 4], points that show the same place of the subject, ``x1, y1`` in
            view 1 and ``x2, y2`` in view 2, in pixels from the top left corner (the first
            pixel's centre is at 0.5); None when unknown.
        provenance: How the pair was made: seeds, sources, settings. JSON values.
    """

    id: str
    subject: str
    view: str
    kind: str
    original_1: Pixels
    original_2: Pixels
    altered_1: Pixels
    mask_1: Mask
    mask_2: Mask
    part_1: Mask
    part_2: Mask | None = None
    altered_2: Pixels | None = None
    points: NDArray[np.float32] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        first, second = self.mask_1.shape, self.mask_2.shape
        sizes = {
            "original_1": (self.original_1, (*first, 3)),
            "altered_1": (self.altered_1, (*first, 3)),
            "part_1": (self.part_1, first),
            "original_2": (self.original_2, (*second, 3)),
            "part_2": (self.part_2, second),
            "altered_2": (self.altered_2, (*second, 3)),
        }
        for name, (value, wanted) in sizes.items():
            if value is not None and value.shape != wanted:
                raise ValueError(
                    f"pair {self.id!r}: {name} is {value.shape}, its view's subject mask asks for "
                    f"{wanted}; images and masks of one view must have one size."
                )
        if self.points is not None and (self.points.ndim != 2 or self.points.shape[1] != 4):
            raise ValueError(
                f"pair {self.id!r}: points are {self.points.shape}; wanted (N, 4): x1, y1, x2, y2."
            )

    @property
    def oracle(self) -> float:
        """``1 - area(part) / area(subject)`` in view 1; NaN without a subject."""
        subject = np.count_nonzero(self.mask_1)
        if not subject:
            return float("nan")
        return 1.0 - np.count_nonzero(self.part_1 & self.mask_1) / subject


def points_of_flow(
    flow: NDArray[np.float32], mask_1: Mask, mask_2: Mask, stride: int = 4
) -> NDArray[np.float32]:
    """Matched points of a dense correspondence.

    Args:
        flow: float32 [H, W, 2], pixel (x, y) of view 2 that each pixel of view 1 shows, counted
            from pixel centres (the first pixel's centre is at 0); NaN where unknown.
        mask_1: bool [H, W], where points of view 1 may lie.
        mask_2: bool [H', W'], where points of view 2 may lie.
        stride: Distance of the points in view 1, in pixels.

    Returns:
        float32 [N, 4], as ``ControlledPair.points``.
    """
    half = stride // 2
    height, width = mask_1.shape
    grid = np.stack(
        np.meshgrid(np.arange(half, width, stride), np.arange(half, height, stride)), axis=-1
    ).reshape(-1, 2)
    landing = flow[grid[:, 1], grid[:, 0]]
    known = mask_1[grid[:, 1], grid[:, 0]] & np.isfinite(landing).all(axis=1)
    grid, landing = grid[known], landing[known]
    nearest = np.rint(landing).astype(np.int64)
    inside = ((nearest >= 0) & (nearest < mask_2.shape[::-1])).all(axis=1)
    grid, landing, nearest = grid[inside], landing[inside], nearest[inside]
    on_subject = mask_2[nearest[:, 1], nearest[:, 0]]
    points = np.concatenate([grid[on_subject], landing[on_subject]], axis=1)
    return (points + 0.5).astype(np.float32)
