"""Reliable semantic matches of two views: similar and unambiguous.

On a uniform surface every point resembles every other: the row of similarities is flat and its
maximum carries no information. The skewness (third standardised moment) of the row separates
flat rows from peaked ones.

Source: arXiv 2509.21989, the automated dataset; it keeps matches with a score above 0.7 and a
skewness above 1.3.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class RowStatistics(NamedTuple):
    """Statistics of each source point's row of similarities.

    Attributes:
        similarity: float32 [N], the maximum.
        target: int64 [N], its position; the first of equal maxima.
        skewness: float32 [N]; 0 if all similarities are equal, NaN without a target.
    """

    similarity: Tensor
    target: Tensor
    skewness: Tensor


def row_statistics(source: Tensor, target: Tensor, rows: int = 256) -> RowStatistics:
    """Compute maximum and skewness of each row of the similarity matrix, in float32.

    Args:
        source: float [N, D], unit length.
        target: float [M, D], unit length.
        rows: Rows of the matrix held in memory at a time.

    Returns:
        Statistics of N rows; without a target every similarity is -1 and every skewness NaN.
    """
    count = len(source)
    if len(target) == 0:
        return RowStatistics(
            torch.full((count,), -1.0),
            torch.zeros(count, dtype=torch.int64),
            torch.full((count,), torch.nan),
        )
    blocks = []
    for block in source.float().split(rows):
        similarity = block @ target.float().T
        best = similarity.max(dim=1)
        centred = similarity - similarity.mean(dim=1, keepdim=True)
        spread = centred.square().mean(dim=1).sqrt()
        skewness = centred.pow(3).mean(dim=1) / spread.pow(3)
        blocks.append((best.values, best.indices, torch.where(spread > 0, skewness, 0.0)))
    return RowStatistics(*map(torch.cat, zip(*blocks, strict=True)))


def trusted_matches(
    source: Tensor, target: Tensor, least_similarity: float, least_skewness: float | None
) -> Tensor:
    """Select reliable semantic matches, one source per target.

    Args:
        source: float [N, D], unit length.
        target: float [M, D], unit length.
        least_similarity: Exclusive lower bound of the similarity.
        least_skewness: Exclusive lower bound of the skewness; None accepts every row.

    Returns:
        int64 [K, 2], rows (source, target) in order of the source. Duplicate matches of a target
        are resolved to the most similar source, the first of equals.
    """
    rows = row_statistics(source, target)
    trusted = rows.similarity > least_similarity
    if least_skewness is not None:
        trusted &= rows.skewness > least_skewness
    sources = trusted.nonzero()[:, 0]
    order = sources[rows.similarity[sources].argsort(descending=True, stable=True)]
    source_of: dict[int, int] = {}
    for point, match in zip(order.tolist(), rows.target[order].tolist(), strict=True):
        source_of.setdefault(match, point)
    matches = sorted((point, match) for match, point in source_of.items())
    return torch.tensor(matches, dtype=torch.int64).reshape(-1, 2)
