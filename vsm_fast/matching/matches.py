"""Matches of a batch of pairs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class PairCounts:
    """Counts of ``P`` pairs, accumulated during matching.

    Attributes:
        visual_thresholds: ``V`` thresholds.
        counts: int [P, 1 + V], number of kept points, then number of those with a visual
            similarity strictly above each threshold.
    """

    visual_thresholds: tuple[float, ...]
    counts: Tensor


@dataclass(frozen=True, eq=False)
class Matches:
    """Packed matches of ``P`` pairs with ``T`` source points in total.

    Attributes:
        semantic_similarity: float32 [T] in [-1, 1], to the semantically nearest target point;
            NaN if the target has no points or all similarities are NaN.
        target_index: int64 [T], index of that point within its image; -1 if there is none.
        visual_similarity: float32 [T] in [-1, 1], to the visually nearest target point; NaN as
            for ``semantic_similarity``.
        kept: bool [T], matched points, at most one per target point.
        offsets: int64 [P + 1] on the CPU; pair ``p`` owns points ``offsets[p]:offsets[p+1]``.
        counts: Counts per pair, if the path computes them.
    """

    semantic_similarity: Tensor
    target_index: Tensor
    visual_similarity: Tensor
    kept: Tensor
    offsets: Tensor
    counts: PairCounts | None = None
