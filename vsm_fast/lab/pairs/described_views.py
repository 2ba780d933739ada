"""Views with their semantic descriptors, and part masks by region growing among these.

The offline stand-in for point-prompted SAM: a part is what can be reached from a point over
neighbouring cells whose descriptors resemble the point's.
"""

from __future__ import annotations

import heapq

import cv2
import numpy as np
from numpy.typing import NDArray

from vsm_fast.images.framing import subject_box
from vsm_fast.lab.pairs.pairs import Mask, Pixels
from vsm_fast.lab.pairs.stages import DescribedView
from vsm_fast.results.heatmap import cell_centres
from vsm_fast.scorer import VSMScorer

_AROUND = 1  # cells in each direction that describe the point: one alone is noisy


def describe_view(scorer: VSMScorer, pixels: Pixels, mask: Mask) -> DescribedView:
    """A view with the semantic descriptors of its subject; cells off the subject are 0."""
    described = scorer.describe([pixels], [mask])
    grid = np.zeros(
        (described.grid[0] * described.grid[1], described.semantic.shape[1]), np.float32
    )
    grid[described.cells.numpy()] = described.semantic.float().cpu().numpy()
    box = subject_box(mask, scorer.config.backbone.framing)
    return DescribedView(pixels, mask, grid.reshape(*described.grid, -1), box)


def centres_of(view: DescribedView) -> NDArray[np.float32]:
    """(x, y) in pixels of the centre of every cell, float32 [h * w, 2]."""
    descriptors, box = _described(view)
    rows, columns = descriptors.shape[:2]
    return cell_centres(np.arange(rows * columns), (rows, columns), box).astype(np.float32)


def _described(
    view: DescribedView,
) -> tuple[NDArray[np.float32], tuple[int, int, int, int]]:
    if view.descriptors is None or view.box is None:
        raise ValueError("the view has no descriptors; make it with describe_view.")
    return view.descriptors, view.box


class DescriptorParts:
    """Part masks by region growing: similar cells first, until the part has its size.

    Args:
        share: Wanted ``area(part) / area(subject)``, in (0, 1).
    """

    name = "descriptors"

    def __init__(self, share: float) -> None:
        if not 0 < share < 1:
            raise ValueError(f"share must lie in (0, 1); got {share}.")
        self._share = share

    def __call__(self, view: DescribedView, point: tuple[float, float]) -> Mask | None:
        """Bool [H, W], the part around ``point``; None when the point is off the subject."""
        descriptors, box = _described(view)
        on_subject = np.abs(descriptors).sum(axis=2) > 0
        start = _cell_of(point, box, on_subject.shape)
        if not on_subject[start]:
            return None
        count = max(1, round(self._share * int(on_subject.sum())))
        cells = _grown(descriptors, on_subject, start, count)
        return _to_pixels(cells, box, view.mask)


def _cell_of(
    point: tuple[float, float], box: tuple[int, int, int, int], grid: tuple[int, ...]
) -> tuple[int, int]:
    left, top, right, bottom = box
    row = int((point[1] - top) * grid[0] / (bottom - top))
    column = int((point[0] - left) * grid[1] / (right - left))
    return min(max(row, 0), grid[0] - 1), min(max(column, 0), grid[1] - 1)


def _grown(
    descriptors: NDArray[np.float32], allowed: Mask, start: tuple[int, int], count: int
) -> Mask:
    """Cells reached from ``start``, the one most like it first; a piece without holes."""
    top, left = (max(0, place - _AROUND) for place in start)
    seed = descriptors[top : start[0] + _AROUND + 1, left : start[1] + _AROUND + 1]
    likeness = descriptors @ seed.reshape(-1, seed.shape[2]).sum(axis=0)
    found = np.zeros_like(allowed)
    waiting = [(-float(likeness[start]), *start)]
    seen = {start}
    grown = 0
    while waiting and grown < count:
        _, row, column = heapq.heappop(waiting)
        found[row, column] = True
        grown += 1
        for place in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            inside = 0 <= place[0] < allowed.shape[0] and 0 <= place[1] < allowed.shape[1]
            if inside and place not in seen and allowed[place]:
                seen.add(place)
                heapq.heappush(waiting, (-float(likeness[place]), *place))
    closed: Mask = cv2.morphologyEx(found.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3))) > 0
    return closed & allowed


def _to_pixels(cells: Mask, box: tuple[int, int, int, int], mask: Mask) -> Mask:
    """Cells as a smooth region of the subject on the image, bool [H, W]."""
    left, top, right, bottom = box
    enlarged = cv2.resize(
        cells.astype(np.float32), (right - left, bottom - top), interpolation=cv2.INTER_LINEAR
    )
    part = np.zeros_like(mask)
    part[top:bottom, left:right] = enlarged > 0.5
    return part & mask
