"""Heat maps: regions of the generated subject that fail the visual test.

A pair keeps only ``HeatmapEvidence``, a few kilobytes; the map at pixel resolution is drawn on
request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

SMOOTHING_SIGMA = 1.0  # cells
SMOOTHING_REACH = 3  # cells along each axis; judged cells farther away have no influence


@dataclass(frozen=True, eq=False)
class HeatmapEvidence:
    """Compact input of the heat map of one pair.

    Attributes:
        cells: int32 [n], row-major index in ``grid`` of each point of the generated subject.
        kept: bool [n], True where the point matched the reference semantically (was judged).
        visual_similarity: float32 [n] in [-1, 1], best visual similarity; read where kept.
        grid: (rows, columns) of the descriptor grid.
        box: (left, top, right, bottom) in pixels, the region of the generated image under the grid.
        size: (height, width) of the generated image in pixels.
        packed_mask: uint8 [ceil(height * width / 8)], the subject mask, one bit per pixel.
    """

    cells: NDArray[np.int32]
    kept: NDArray[np.bool_]
    visual_similarity: NDArray[np.float32]
    grid: tuple[int, int]
    box: tuple[int, int, int, int]
    size: tuple[int, int]
    packed_mask: NDArray[np.uint8]

    def __post_init__(self) -> None:
        for name, dtype in (("cells", np.int32), ("kept", np.bool_)):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype))
        similarity = np.asarray(self.visual_similarity, np.float32)
        object.__setattr__(self, "visual_similarity", similarity)
        lengths = {self.cells.shape, self.kept.shape, similarity.shape}
        if len(lengths) != 1 or self.cells.ndim != 1:
            raise ValueError(
                "cells, kept and visual_similarity must be 1-D and equally long; got shapes "
                f"{self.cells.shape}, {self.kept.shape} and {similarity.shape}."
            )
        rows, columns = self.grid
        if len(self.cells) and not 0 <= self.cells.min() <= self.cells.max() < rows * columns:
            raise ValueError(
                f"cells must lie in [0, {rows * columns}) for a {rows} x {columns} grid; got "
                f"{self.cells.min()} to {self.cells.max()}."
            )
        left, top, right, bottom = self.box
        height, width = self.size
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise ValueError(
                f"box must be a non-empty (left, top, right, bottom) inside the {width} x "
                f"{height} pixel image; got {self.box}."
            )
        if self.packed_mask.shape != (-(-height * width // 8),):
            raise ValueError(
                f"packed_mask must hold one bit for each of {height} x {width} pixels; got shape "
                f"{self.packed_mask.shape}. Use HeatmapEvidence.pack to create it from a mask."
            )

    @staticmethod
    def pack(
        cells: ArrayLike,
        kept: ArrayLike,
        visual_similarity: ArrayLike,
        grid: tuple[int, int],
        box: tuple[int, int, int, int],
        mask: ArrayLike,
    ) -> HeatmapEvidence:
        """Create the evidence from a plain mask.

        Args:
            cells: int [n], as in the class, like all but ``mask``.
            kept: bool [n].
            visual_similarity: float [n] in [-1, 1].
            grid: (rows, columns).
            box: (left, top, right, bottom) in pixels.
            mask: bool [H, W], True on the generated subject.
        """
        pixels = np.asarray(mask, np.bool_)
        if pixels.ndim != 2:
            raise ValueError(f"mask must be bool [H, W]; got shape {pixels.shape}.")
        return HeatmapEvidence(
            np.asarray(cells, np.int32),
            np.asarray(kept, np.bool_),
            np.asarray(visual_similarity, np.float32),
            grid,
            box,
            (pixels.shape[0], pixels.shape[1]),
            np.packbits(pixels),
        )

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The subject mask, bool [H, W]."""
        height, width = self.size
        bits = np.unpackbits(self.packed_mask, count=height * width)
        return bits.reshape(height, width).astype(np.bool_)


def inconsistency(visual_similarity: ArrayLike, visual_threshold: float) -> NDArray[np.float32]:
    """Map visual similarity to inconsistency: 0 at similarity 1, exactly 0.5 at the threshold.

    ``0.5 * (1 - similarity) / (1 - threshold)``, clipped to [0, 1]: a point that passes the visual
    test is below 0.5, or equal to it within the precision of float32.

    Args:
        visual_similarity: float, any shape, in [-1, 1].
        visual_threshold: In [-1, 1).

    Returns:
        float32, same shape, in [0, 1].

    Raises:
        ValueError: If the threshold is not in [-1, 1).

    Source: a display scale of this project; arXiv 2509.21989 shows only the failing points.
    """
    if not -1 <= visual_threshold < 1:
        raise ValueError(
            f"visual_threshold must lie in [-1, 1) to draw a heat map; got {visual_threshold}."
        )
    similarity = np.asarray(visual_similarity, np.float32).astype(np.float64)
    # Scores compare in float32, so the float32 threshold maps to 0.5.
    threshold = float(np.float32(visual_threshold))
    value = 0.5 * ((1.0 - similarity) / (1.0 - threshold))
    return np.clip(value, 0.0, 1.0).astype(np.float32)


def heatmap(evidence: HeatmapEvidence, visual_threshold: float) -> NDArray[np.float32]:
    """Draw the heat map of one pair at the resolution of its generated image.

    Judged cells show their :func:`inconsistency`; :func:`cells_to_pixels` fills and resamples the
    others.

    Args:
        evidence: Evidence of the pair.
        visual_threshold: Visual threshold at 0.5, in [-1, 1).

    Returns:
        float32 [H, W] in [0, 1], 1 = inconsistent; NaN off the subject.

    Raises:
        ValueError: If no point was judged, or the threshold is not in [-1, 1).
    """
    if not evidence.kept.any():
        raise ValueError("this pair has no heat map: no point matched the reference semantically.")
    cells = evidence.cells[evidence.kept]
    values = inconsistency(evidence.visual_similarity[evidence.kept], visual_threshold)
    return cells_to_pixels(cells, values, evidence.grid, evidence.box, evidence.mask)


def cell_centres(
    cells: NDArray[np.integer[Any]], grid: tuple[int, int], box: tuple[int, int, int, int]
) -> NDArray[np.float64]:
    """Locate the centres of cells of the descriptor grid.

    Args:
        cells: int [n], row-major indices in ``grid``.
        grid: (rows, columns).
        box: (left, top, right, bottom) in pixels, the region under the grid.

    Returns:
        float64 [n, 2], (x, y) in pixels; the first pixel's centre is at 0.5.
    """
    rows, columns = grid
    left, top, right, bottom = box
    row, column = np.divmod(cells, columns)
    x = left + (column + 0.5) * (right - left) / columns
    y = top + (row + 0.5) * (bottom - top) / rows
    return np.stack([x, y], axis=1)


def cells_inside(
    mask: NDArray[np.bool_],
    cells: NDArray[np.integer[Any]],
    grid: tuple[int, int],
    box: tuple[int, int, int, int],
) -> NDArray[np.bool_]:
    """Test whether the centres of cells lie in a mask.

    Args:
        mask: bool [H, W].
        cells: int [n], as in :func:`cell_centres`, like ``grid``.
        grid: (rows, columns).
        box: (left, top, right, bottom) in pixels, inside the mask.

    Returns:
        bool [n].
    """
    x, y = cell_centres(cells, grid, box).astype(np.int64).T
    return np.asarray(mask[y, x])


def cells_to_pixels(
    cells: NDArray[np.integer[Any]],
    values: NDArray[np.float32],
    grid: tuple[int, int],
    box: tuple[int, int, int, int],
    mask: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """Draw values of some cells of the descriptor grid as a smooth map over the image.

    :func:`fill_cells` fills the other cells. The grid is then resampled bilinearly over the box,
    cell centre to pixel centre; beyond the outer centres the edge value holds.

    Args:
        cells: int [n], n >= 1, row-major indices in ``grid``, each at most once.
        values: float32 [n].
        grid: (rows, columns).
        box: (left, top, right, bottom) in pixels, the region under the grid.
        mask: bool [H, W], the pixels to draw.

    Returns:
        float32 [H, W]; NaN off the mask and outside the box.
    """
    rows, columns = grid
    dense = np.zeros(rows * columns, np.float32)
    known = np.zeros(rows * columns, np.bool_)
    dense[cells], known[cells] = values, True
    filled = fill_cells(dense.reshape(grid), known.reshape(grid))
    left, top, right, bottom = box
    above, below, part_y = _neighbours(rows, bottom - top)
    before, after, part_x = _neighbours(columns, right - left)
    tall = filled[above] + (filled[below] - filled[above]) * part_y[:, None]
    smooth = tall[:, before] + (tall[:, after] - tall[:, before]) * part_x
    result = np.full(mask.shape, np.nan, np.float32)
    inside = mask[top:bottom, left:right]
    result[top:bottom, left:right][inside] = smooth[inside]
    return result


def fill_cells(values: NDArray[np.float32], judged: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Interpolate the judged cells over the whole grid.

    Args:
        values: float32 [h, w], read where judged.
        judged: bool [h, w], True on at least one cell.

    Returns:
        float32 [h, w]: judged cells unchanged; other cells the normalised Gaussian average (sigma
        one cell) of the judged cells at most three cells away along each axis, else the nearest
        judged cell.
    """
    bands: list[NDArray[np.float64]] = []
    for length in judged.shape:
        cell = np.arange(length)
        distance = np.abs(cell[:, None] - cell[None])
        gaussian = np.exp(-0.5 * (distance / SMOOTHING_SIGMA) ** 2)
        bands.append(np.where(distance <= SMOOTHING_REACH, gaussian, 0.0))
    down, across = bands
    weight = down @ judged @ across
    total = down @ np.where(judged, values, 0.0) @ across
    with np.errstate(invalid="ignore"):
        filled = total / weight
    filled[judged] = values[judged]
    lonely = np.argwhere(weight == 0)
    if len(lonely):
        known = np.argwhere(judged)
        nearest = ((lonely[:, None] - known[None]) ** 2).sum(-1).argmin(1)
        filled[tuple(lonely.T)] = values[tuple(known[nearest].T)]
    return filled.astype(np.float32)


def _neighbours(
    cells: int, pixels: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return per pixel along one axis the two cells around it and the weight of the second."""
    centre = (np.arange(pixels) + 0.5) * (cells / pixels) - 0.5
    centre = np.clip(centre, 0, cells - 1)
    first = np.floor(centre).astype(np.int64)
    second = np.minimum(first + 1, cells - 1)
    return first, second, (centre - first).astype(np.float32)
