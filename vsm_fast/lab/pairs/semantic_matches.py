"""Semantic matches of two views that can be trusted: similar, and peaked.

A match counts when the row of similarities that it is the maximum of stands out: on a plain
surface every point resembles every other, the row is flat, and its maximum means nothing. The
third standardised moment (skewness) of the row tells the two apart.

Source: arXiv 2509.21989, the automated dataset; matches with a score above 0.7 and a skewness
above 1.3 are kept there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_ROWS = 256  # of the similarity matrix at a time: [256, M] instead of [N, M]


@dataclass(frozen=True)
class RowStatistics:
    """What is known of each source point's row of similarities.

    Attributes:
        similarity: float32 [N], the maximum.
        target: int64 [N], where it is; of equals the first.
        skewness: float32 [N]; 0 where all similarities are equal, NaN without a target.
    """

    similarity: Tensor
    target: Tensor
    skewness: Tensor


def row_statistics_eager(source: Tensor, target: Tensor) -> RowStatistics:
    """The specification: one matrix, in float32.

    Args:
        source: float [N, D], unit length.
        target: float [M, D], unit length, M > 0.
    """
    rows = source.float() @ target.float().T
    best = rows.max(dim=1)
    centred = rows - rows.mean(dim=1, keepdim=True)
    spread = centred.square().mean(dim=1).sqrt()
    skewness = centred.pow(3).mean(dim=1) / spread.pow(3)
    return RowStatistics(best.values, best.indices, torch.where(spread > 0, skewness, 0.0))


def row_statistics(source: Tensor, target: Tensor) -> RowStatistics:
    """Maximum and skewness of every row, a few rows of the matrix at a time.

    Args:
        source: float [N, D], unit length.
        target: float [M, D], unit length.

    Returns:
        Statistics of N rows; without any target every similarity is -1 and every skewness NaN.
    """
    if len(target) == 0:
        count = len(source)
        return RowStatistics(
            torch.full((count,), -1.0),
            torch.zeros(count, dtype=torch.int64),
            torch.full((count,), torch.nan),
        )
    blocks = [row_statistics_eager(block, target) for block in source.split(_ROWS)]
    return RowStatistics(
        torch.cat([block.similarity for block in blocks]),
        torch.cat([block.target for block in blocks]),
        torch.cat([block.skewness for block in blocks]),
    )


def trusted_matches(
    source: Tensor, target: Tensor, least_similarity: float, least_skewness: float | None
) -> Tensor:
    """Pairs of points that match semantically, one source per target.

    Args:
        source: float [N, D], unit length.
        target: float [M, D], unit length.
        least_similarity: Matches must score higher.
        least_skewness: Rows must be more skewed; None trusts every row.

    Returns:
        int64 [K, 2], rows (source, target), by source; of several sources of one target the
        most similar stays, of equals the first.
    """
    rows = row_statistics(source, target)
    kept = rows.similarity > least_similarity
    if least_skewness is not None:
        kept &= rows.skewness > least_skewness
    sources = kept.nonzero()[:, 0]
    order = sources[rows.similarity[sources].argsort(descending=True, stable=True)]
    taken: dict[int, int] = {}
    for point, place in zip(order.tolist(), rows.target[order].tolist(), strict=True):
        taken.setdefault(place, point)
    found = sorted((point, place) for place, point in taken.items())
    return torch.tensor(found, dtype=torch.int64).reshape(-1, 2)
