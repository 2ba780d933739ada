"""Matches: what matching found for the points of a batch of pairs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class PairCounts:
    """Counts of ``P`` pairs, taken while matching.

    Attributes:
        visual_thresholds: ``V`` thresholds.
        counts: int [P, 1 + V], kept points, then how many of them have a visual similarity
            strictly above each threshold.
    """

    visual_thresholds: tuple[float, ...]
    counts: Tensor


@dataclass(frozen=True, eq=False)
class Matches:
    """Matches of ``P`` pairs, packed; ``T`` source points in all.

    Attributes:
        semantic_similarity: float32 [T] in [-1, 1], to the semantically nearest target point;
            NaN where the target has no point, or the descriptors give no similarity but NaN.
        target_index: int64 [T], that point, counted within its image; -1 where there is none.
        visual_similarity: float32 [T] in [-1, 1], to the visually nearest target point; NaN as
            for ``semantic_similarity``.
        kept: bool [T], the matched points, at most one per target point.
        offsets: int64 [P + 1] on the CPU; pair ``p`` owns points ``offsets[p]:offsets[p+1]``.
        counts: Counts of the pairs, where the path that matched took them along.
    """

    semantic_similarity: Tensor
    target_index: Tensor
    visual_similarity: Tensor
    kept: Tensor
    offsets: Tensor
    counts: PairCounts | None = None
