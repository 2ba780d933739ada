"""Controlled pair: two views of one subject, and the first view with an altered part.

The common type of dataset generation, storage, training and evaluation of controlled
inconsistencies (arXiv 2509.21989, the automated dataset).
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
    """Two views of one subject, and the first view altered.

    ``altered_1`` is the generated image under test, ``original_2`` its reference. All images and
    masks of one view have the same size.

    Attributes:
        id: Unique in the dataset.
        subject: Subject name; all pairs of a subject belong to one split.
        view: Origin of view 2: ``"photo"`` (another photograph), ``"warp"`` (a warp of view 1),
            ``"rendering"``, or ``""`` if unknown.
        kind: Alteration; ``"none"`` for a consistent pair, ``"other subject"`` if view 2 shows
            another subject.
        original_1: uint8 [H, W, 3].
        original_2: uint8 [H', W', 3].
        altered_1: uint8 [H, W, 3]; differs from ``original_1`` only inside ``part_1``.
        mask_1: bool [H, W], the subject in view 1.
        mask_2: bool [H', W'].
        part_1: bool [H, W], the altered part; empty for a consistent pair, the whole subject
            for another subject.
        part_2: bool [H', W'], the same part in view 2; None if unknown.
        altered_2: uint8 [H', W', 3], view 2 with the same alteration, available only with exact
            geometry (warps, renderings); else None.
        points: float32 [N, 4], corresponding points ``x1, y1, x2, y2`` of the subject, in pixels
            from the top left corner (the centre of the first pixel is 0.5); None if unknown.
        provenance: Seeds, sources and settings. JSON values.
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
        for name, expected in (
            ("original_1", (*first, 3)),
            ("altered_1", (*first, 3)),
            ("part_1", first),
            ("original_2", (*second, 3)),
            ("part_2", second),
            ("altered_2", (*second, 3)),
        ):
            value = getattr(self, name)
            if value is not None and value.shape != expected:
                raise ValueError(
                    f"pair {self.id!r}: {name} has shape {value.shape}, but the subject mask of "
                    f"its view requires {expected}. Resize all images and masks of a view alike."
                )
        if self.points is not None and (self.points.ndim != 2 or self.points.shape[1] != 4):
            raise ValueError(
                f"pair {self.id!r}: points have shape {self.points.shape}; "
                "expected (N, 4): x1, y1, x2, y2."
            )

    @property
    def oracle(self) -> float:
        """Return ``1 - area(part) / area(subject)`` in view 1; NaN without a subject."""
        subject = np.count_nonzero(self.mask_1)
        if not subject:
            return float("nan")
        return 1.0 - np.count_nonzero(self.part_1 & self.mask_1) / subject


def points_of_flow(
    flow: NDArray[np.float32], mask_1: Mask, mask_2: Mask, stride: int = 4
) -> NDArray[np.float32]:
    """Sample corresponding points from a dense flow.

    Args:
        flow: float32 [H, W, 2], the position (x, y) in view 2 of each pixel of view 1, relative
            to pixel centres (the first pixel has its centre at 0); NaN if unknown.
        mask_1: bool [H, W], valid points of view 1.
        mask_2: bool [H', W'], valid points of view 2.
        stride: Spacing of the points in view 1, in pixels.

    Returns:
        float32 [N, 4], as ``ControlledPair.points``.
    """
    half = stride // 2
    height, width = mask_1.shape
    grid = np.stack(
        np.meshgrid(np.arange(half, width, stride), np.arange(half, height, stride)), axis=-1
    ).reshape(-1, 2)
    target = flow[grid[:, 1], grid[:, 0]]
    valid = mask_1[grid[:, 1], grid[:, 0]] & np.isfinite(target).all(axis=1)
    grid, target = grid[valid], target[valid]
    nearest = np.rint(target).astype(np.int64)
    inside = ((nearest >= 0) & (nearest < mask_2.shape[::-1])).all(axis=1)
    grid, target, nearest = grid[inside], target[inside], nearest[inside]
    on_subject = mask_2[nearest[:, 1], nearest[:, 0]]
    points = np.concatenate([grid[on_subject], target[on_subject]], axis=1)
    return (points + 0.5).astype(np.float32)
