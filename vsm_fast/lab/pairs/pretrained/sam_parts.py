"""Parts of a subject from SAM with a point prompt."""

from __future__ import annotations

import cv2
import numpy as np

from vsm_fast.images.grounded_sam import SegmentAnything
from vsm_fast.lab.pairs.pairs import Mask
from vsm_fast.lab.pairs.stages import SubjectView

AREA_SHARE = (0.05, 0.6)  # area(part) / area(subject)
MIN_INSIDE = 0.9  # our choice: the outlines of SAM and of the subject differ by a few pixels


class SamParts:
    """The part around a point: the best of SAM's three masks.

    A candidate lies mostly inside the subject and contains the point; it is clipped to the
    subject and to its connected component at the point. The candidate nearest to the range of
    areas wins; of several within the range, the one with the highest quality predicted by SAM.

    Args:
        segmenter: SAM.
        min_inside: Minimum share of a mask inside the subject, in (0, 1].

    Source: arXiv 2509.21989, the automated dataset (part masks from SAM, relative area 0.05-0.6).
    """

    def __init__(self, segmenter: SegmentAnything, min_inside: float = MIN_INSIDE) -> None:
        if not 0 < min_inside <= 1:
            raise ValueError(f"min_inside must lie in (0, 1]; got {min_inside}.")
        self._segmenter, self._min_inside = segmenter, min_inside

    def __call__(self, view: SubjectView, point: tuple[float, float]) -> Mask | None:
        """Segment the part around a point.

        Args:
            view: Image and subject mask; descriptors are not used.
            point: (x, y) in pixels; the centre of the first pixel is 0.5.

        Returns:
            bool [H, W], one component inside the subject around the point, outside 0.05 to 0.6
            of its area if no candidate is within; None without a candidate.

        Raises:
            ValueError: If the point lies outside the image.
        """
        height, width = view.mask.shape
        column, row = int(np.floor(point[0])), int(np.floor(point[1]))
        if not (0 <= column < width and 0 <= row < height):
            raise ValueError(f"the point {point} lies outside the image of {width} x {height}.")
        if not view.mask[row, column]:
            return None
        candidates = self._segmenter.at_point(view.pixels, point)
        subject = np.count_nonzero(view.mask)
        least, most = AREA_SHARE
        best: tuple[tuple[float, float], Mask] | None = None
        for mask, quality in zip(candidates.masks, candidates.quality, strict=True):
            inside = mask & view.mask
            enough = np.count_nonzero(inside) >= self._min_inside * np.count_nonzero(mask)
            if not (enough and inside[row, column]):
                continue
            _, labels = cv2.connectedComponents(inside.astype(np.uint8), connectivity=8)
            part: Mask = labels == labels[row, column]
            share = np.count_nonzero(part) / subject
            rank = (max(least - share, share - most, 0.0), -float(quality))
            if best is None or rank < best[0]:
                best = (rank, part)
        return None if best is None else best[1]
