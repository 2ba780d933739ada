"""Matched points: the reference point of each matched point of a generated image.

The points of a pair take one or two kilobytes beside the evidence of its heat map. Tables store
them as columns of lists, so that other programs can apply other thresholds and locate the points
without the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vsm_fast.images.framing import Box
from vsm_fast.results.heatmap import HeatmapEvidence

if TYPE_CHECKING:
    import pyarrow

# Columns of a table, with the attribute of MatchedPoints behind each and its type in Arrow.
_COLUMNS = {
    "point_cell": ("cells", "int32"),
    "point_target": ("targets", "int32"),
    "point_semantic": ("semantic_similarity", "float32"),
    "point_visual": ("visual_similarity", "float32"),
    "gen_cells": ("subject_cells", "int32"),
    "gen_box": ("generation.box", "int32"),
    "gen_size": ("generation.size", "int32"),
    "ref_box": ("reference.box", "int32"),
    "ref_size": ("reference.size", "int32"),
}
POINT_COLUMNS = tuple(_COLUMNS)


@dataclass(frozen=True)
class GridFrame:
    """Position of the descriptor grid on an image.

    Attributes:
        box: (left, top, right, bottom) in pixels, the region under the grid.
        size: (height, width) of the image in pixels.
    """

    box: Box
    size: tuple[int, int]


@dataclass(frozen=True, eq=False)
class MatchedPoints:
    """The ``m`` matched points of one pair, among the ``n`` points of its generated subject.

    Attributes:
        evidence: The points of the generated image.
        targets: int32 [m], cells of the reference's grid: the semantic nearest neighbours.
        semantic_similarity: float32 [m] in [-1, 1], to these neighbours.
        reference: Position of the grid on the reference; None if unknown.
    """

    evidence: HeatmapEvidence
    targets: NDArray[np.int32]
    semantic_similarity: NDArray[np.float32]
    reference: GridFrame | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", np.asarray(self.targets, np.int32))
        similarity = np.asarray(self.semantic_similarity, np.float32)
        object.__setattr__(self, "semantic_similarity", similarity)
        matched = int(self.evidence.kept.sum())
        if not len(self.targets) == len(similarity) == matched:
            raise ValueError(
                f"targets and semantic_similarity need one entry for each of {matched} matched "
                f"points; got {len(self.targets)} and {len(similarity)}."
            )

    @property
    def cells(self) -> NDArray[np.int32]:
        """Row-major cells of the generated image's grid, int32 [m]."""
        return self.evidence.cells[self.evidence.kept]

    @property
    def visual_similarity(self) -> NDArray[np.float32]:
        """To the visual nearest neighbour, which may be another point, float32 [m] in [-1, 1]."""
        return self.evidence.visual_similarity[self.evidence.kept]

    @property
    def subject_cells(self) -> NDArray[np.int32]:
        """All cells of the generated subject, int32 [n]."""
        return self.evidence.cells

    @property
    def generation(self) -> GridFrame:
        """Position of the grid on the generated image."""
        return GridFrame(self.evidence.box, self.evidence.size)


def point_columns(points: Sequence[MatchedPoints | None]) -> dict[str, pyarrow.Array]:
    """Return columns of lists with one row per pair; null without a matched point.

    Args:
        points: Matched points of each pair.

    Returns:
        ``POINT_COLUMNS``: cells are int32, similarities float32; ``*_box`` are (left, top, right,
        bottom) and ``*_size`` (height, width), int32, in pixels.
    """
    import pyarrow as pa

    columns = {}
    for name, (path, kind) in _COLUMNS.items():
        values: list[object] = list(points)
        for attribute in path.split("."):
            values = [None if value is None else getattr(value, attribute) for value in values]
        columns[name] = pa.array(values, type=pa.list_(getattr(pa, kind)()))
    return columns
