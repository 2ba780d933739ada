"""Matched points: which point of the reference each point of a generation went to, and how alike.

A pair keeps a kilobyte or two of them beside its heat map's evidence; tables hold them as columns
of lists, from which a program without the images can count at other thresholds and show where.
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
        evidence: What is known of the generation's points.
        targets: int32 [m], cells of the reference's grid: the semantic nearest neighbours.
        semantic_similarity: float32 [m] in [-1, 1], to these.
        reference: Where the grid lies on the reference; None where it was described before.
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
        """Row-major cells of the generation's grid, int32 [m]."""
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
        """Where the grid lies on the generated image."""
        return GridFrame(self.evidence.box, self.evidence.size)


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
