"""Descriptors of one view, and part masks by region growing on them.

The offline substitute for point-prompted SAM: a part consists of the cells connected to a point
with descriptors similar to its own.
"""

from __future__ import annotations

import heapq

import cv2
import numpy as np
from numpy.typing import NDArray

from vsm_fast.images.framing import subject_box
from vsm_fast.lab.pairs.pairs import Mask, Pixels
from vsm_fast.lab.pairs.stages import SubjectView
from vsm_fast.results.heatmap import cell_centres
from vsm_fast.scorer import VSMScorer

_AROUND = 1  # cells in each direction averaged for the point: a single cell is noisy


def extract_view(scorer: VSMScorer, pixels: Pixels, mask: Mask) -> SubjectView:
    """Extract the semantic descriptors of a subject; cells off the subject are 0."""
    described = scorer.describe([pixels], [mask])
    rows, columns = described.grid
    grid = np.zeros((rows * columns, described.semantic.shape[1]), np.float32)
    grid[described.cells.numpy()] = described.semantic.float().cpu().numpy()
    box = subject_box(mask, scorer.config.backbone.framing)
    return SubjectView(pixels, mask, grid.reshape(rows, columns, -1), box)


def centres_of(view: SubjectView) -> NDArray[np.float32]:
    """Return the centres of all cells, float32 [h * w, 2], (x, y) in pixels."""
    rows, columns = view.descriptors.shape[:2]
    return cell_centres(np.arange(rows * columns), (rows, columns), view.box).astype(np.float32)


class DescriptorParts:
    """Part masks by region growing in order of similarity, up to a target area.

    Args:
        share: Target ``area(part) / area(subject)``, in (0, 1).
    """

    def __init__(self, share: float) -> None:
        if not 0 < share < 1:
            raise ValueError(f"share must lie in (0, 1); got {share}.")
        self._share = share

    def __call__(self, view: SubjectView, point: tuple[float, float]) -> Mask | None:
        """Return the part around ``point``, bool [H, W]; None for a point off the subject."""
        descriptors, (left, top, right, bottom) = view.descriptors, view.box
        on_subject = np.abs(descriptors).sum(axis=2) > 0
        rows, columns = on_subject.shape
        row = min(max(int((point[1] - top) * rows / (bottom - top)), 0), rows - 1)
        column = min(max(int((point[0] - left) * columns / (right - left)), 0), columns - 1)
        if not on_subject[row, column]:
            return None

        seed = descriptors[
            max(0, row - _AROUND) : row + _AROUND + 1,
            max(0, column - _AROUND) : column + _AROUND + 1,
        ]
        similarity = descriptors @ seed.reshape(-1, seed.shape[2]).sum(axis=0)
        region = np.zeros_like(on_subject)
        queue, visited = [(-float(similarity[row, column]), row, column)], {(row, column)}
        for _ in range(max(1, round(self._share * int(on_subject.sum())))):
            if not queue:
                break
            _, y, x = heapq.heappop(queue)
            region[y, x] = True
            for cell in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                inside = 0 <= cell[0] < rows and 0 <= cell[1] < columns
                if inside and cell not in visited and on_subject[cell]:
                    visited.add(cell)
                    heapq.heappush(queue, (-float(similarity[cell]), *cell))
        # Closing fills holes of single cells.
        closed = cv2.morphologyEx(region.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3))) > 0
        cells = (closed & on_subject).astype(np.float32)
        enlarged = cv2.resize(cells, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
        part = np.zeros_like(view.mask)
        part[top:bottom, left:right] = enlarged > 0.5
        return part & view.mask
