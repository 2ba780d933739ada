"""Parts of a subject by SAM with a point prompt."""

from __future__ import annotations

import os

import cv2
import numpy as np

from vsm_fast.images.grounded_sam import SAM, SegmentAnything
from vsm_fast.lab.pairs.pairs import Mask
from vsm_fast.lab.pairs.stages import DescribedView
from vsm_fast.model.pretrained import ModelSource

AREA_SHARE = (0.05, 0.6)  # of the subject
MIN_INSIDE = 0.9  # our choice: SAM's outline and the subject's differ by a few pixels


class SamParts:
    """The part around a point: the best of SAM's three masks.

    A mask is a candidate when most of it lies inside the subject and it holds the point; what
    sticks out of the subject and pieces apart from the point's are cut off. Of the candidates
    the one nearest to the wanted share of the subject's area is taken; of several within it, the
    one that SAM thinks best.

    Args:
        segmenter: SAM.
        area_share: Wanted ``area(part) / area(subject)``, (least, most).
        min_inside: Least share of a mask that lies inside the subject, in (0, 1].

    Source: arXiv 2509.21989, the automated dataset (part masks by SAM, relative area 0.05-0.6).
    """

    name = "sam"

    def __init__(
        self,
        segmenter: SegmentAnything,
        area_share: tuple[float, float] = AREA_SHARE,
        min_inside: float = MIN_INSIDE,
    ) -> None:
        if not 0 <= area_share[0] < area_share[1] <= 1:
            raise ValueError(f"area_share must rise within [0, 1]; got {area_share}.")
        if not 0 < min_inside <= 1:
            raise ValueError(f"min_inside must lie in (0, 1]; got {min_inside}.")
        self._segmenter, self._area_share, self._min_inside = segmenter, area_share, min_inside

    @classmethod
    def from_pretrained(
        cls,
        sam: ModelSource | str | os.PathLike[str] | SegmentAnything = SAM,
        *,
        area_share: tuple[float, float] = AREA_SHARE,
        min_inside: float = MIN_INSIDE,
        device: str = "auto",
    ) -> SamParts:
        """Load SAM.

        Args:
            sam: Hub repository or folder, or a model that is loaded already.
            area_share: As above.
            min_inside: As above.
            device: ``"auto"`` (CUDA when there is one), or a torch device.

        Raises:
            ImportError: transformers is not installed; names the extra.
            ModelError: The model is missing or incomplete.
        """
        if not isinstance(sam, SegmentAnything):
            sam = SegmentAnything.from_pretrained(sam, device=device)
        return cls(sam, area_share, min_inside)

    def __call__(self, view: DescribedView, point: tuple[float, float]) -> Mask | None:
        """Segment the part around a point.

        Args:
            view: Pixels and subject mask; descriptors are not used.
            point: (x, y) in pixels; the first pixel's centre is at 0.5.

        Returns:
            bool [H, W], one piece inside the subject that holds the point; its share may lie
            outside ``area_share`` when no candidate's does. None when there is no candidate.

        Raises:
            ValueError: The point lies outside the image.
        """
        height, width = view.mask.shape
        column, row = int(np.floor(point[0])), int(np.floor(point[1]))
        if not (0 <= column < width and 0 <= row < height):
            raise ValueError(f"the point {point} lies outside the image of {width} x {height}.")
        if not view.mask[row, column]:
            return None
        answers = self._segmenter.at_point(view.pixels, point)
        subject = np.count_nonzero(view.mask)
        least, most = self._area_share
        best: tuple[tuple[float, float], Mask] | None = None
        for mask, quality in zip(answers.masks, answers.quality, strict=True):
            inside = mask & view.mask
            if np.count_nonzero(inside) < self._min_inside * np.count_nonzero(mask):
                continue
            if not inside[row, column]:
                continue
            part = _piece_at(inside, row, column)
            share = np.count_nonzero(part) / subject
            rank = (max(least - share, share - most, 0.0), -float(quality))
            if best is None or rank < best[0]:
                best = (rank, part)
        return None if best is None else best[1]


def _piece_at(mask: Mask, row: int, column: int) -> Mask:
    """The connected piece of a mask that holds one of its pixels."""
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    piece: Mask = labels == labels[row, column]
    return piece
