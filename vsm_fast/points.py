"""Matched points: which point of the reference each point of a generation went to, and how alike.

A pair keeps a few kilobytes of them beside its heat map's evidence; tables hold them as columns
of lists, from which a program without the images can count at other thresholds and show where.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vsm_fast.images import Box

if TYPE_CHECKING:
    import pyarrow

# Columns of a table, in their order; see :func:`point_columns`.
POINT_COLUMNS = (
    "point_cell", "point_target", "point_semantic", "point_visual",
    "gen_cells", "gen_box", "gen_size", "ref_box", "ref_size",
)  # fmt: skip


@dataclass(frozen=True)
class GridFrame:
    """Where the descriptor grid lies on an image.

    Attributes:
        box: (left, top, right, bottom) in pixels, the region that the grid covers.
        size: (height, width) in pixels of the image.
    """

    box: Box
    size: tuple[int, int]


@dataclass(frozen=True, eq=False)
class MatchedPoints:
    """The ``m`` matched points of one pair, among the ``n`` of its generated subject.

    Attributes:
        cells: int64 [m], row-major cells of the generation's grid.
        targets: int64 [m], cells of the reference's grid: the semantic nearest neighbours.
        semantic_similarity: float32 [m] in [-1, 1], to these.
        visual_similarity: float32 [m] in [-1, 1], to the visual nearest neighbour, which may be
            another point of the reference.
        subject_cells: int64 [n], all cells of the generated subject.
        generation: Where the grid lies on the generated image.
        reference: The same for the reference; None where it was described before.
    """

    cells: NDArray[np.int64]
    targets: NDArray[np.int64]
    semantic_similarity: NDArray[np.float32]
    visual_similarity: NDArray[np.float32]
    subject_cells: NDArray[np.int64]
    generation: GridFrame
    reference: GridFrame | None

    def __post_init__(self) -> None:
        for name in ("cells", "targets", "subject_cells"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.int64))
        for name in ("semantic_similarity", "visual_similarity"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float32))
        lengths = {
            len(column)
            for column in (
                self.cells, self.targets, self.semantic_similarity, self.visual_similarity
            )
        }  # fmt: skip
        if len(lengths) != 1:
            raise ValueError(
                "cells, targets and both similarities must be equally long; got "
                f"{len(self.cells)}, {len(self.targets)}, {len(self.semantic_similarity)} and "
                f"{len(self.visual_similarity)}."
            )


def point_columns(points: Sequence[MatchedPoints | None]) -> dict[str, pyarrow.Array]:
    """Columns of lists, one row a pair; null where a pair has no matched point.

    Args:
        points: Of each pair.

    Returns:
        ``POINT_COLUMNS``: cells are int32, similarities float32; ``*_box`` are (left, top, right,
        bottom) and ``*_size`` (height, width), int32, in pixels.
    """
    import pyarrow as pa

    def lists(name: str, kind: pyarrow.DataType) -> pyarrow.Array:
        values = [None if one is None else getattr(one, name) for one in points]
        return pa.array(values, type=pa.list_(kind))

    def frames(side: str, name: str) -> pyarrow.Array:
        found = [None if one is None else getattr(one, side) for one in points]
        values = [None if frame is None else getattr(frame, name) for frame in found]
        return pa.array(values, type=pa.list_(pa.int32()))

    columns = (
        lists("cells", pa.int32()),
        lists("targets", pa.int32()),
        lists("semantic_similarity", pa.float32()),
        lists("visual_similarity", pa.float32()),
        lists("subject_cells", pa.int32()),
        frames("generation", "box"),
        frames("generation", "size"),
        frames("reference", "box"),
        frames("reference", "size"),
    )
    return dict(zip(POINT_COLUMNS, columns, strict=True))
