"""Scores: the share of matched points that also match visually."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from vsm_fast.matching.matches import Matches


@dataclass(frozen=True, eq=False)
class PairScores:
    """Scores of ``P`` pairs at ``V`` visual thresholds.

    Attributes:
        score: float32 [P, V] in [0, 1], 1 = consistent; NaN without matched points.
        n_matched: int64 [P], number of points that match semantically.
        n_source: int64 [P], number of points of the source image.
    """

    score: Tensor
    n_matched: Tensor
    n_source: Tensor


def score_eager(matches: Matches, visual_thresholds: Sequence[float]) -> PairScores:
    """Score pair by pair; the specification of :func:`score`.

    Args:
        matches: Matches of P pairs.
        visual_thresholds: V thresholds in [-1, 1].

    Returns:
        Shares of the kept points with a visual similarity strictly above each threshold.

    Source: arXiv 2509.21989, the definition of VSM.
    """
    rows: list[list[float]] = []
    n_matched: list[int] = []
    bounds = matches.offsets.tolist()
    for start, stop in pairwise(bounds):
        visual = matches.visual_similarity[start:stop][matches.kept[start:stop]]
        rows.append([float((visual > tau).float().mean()) for tau in visual_thresholds])
        n_matched.append(len(visual))
    return PairScores(
        score=torch.tensor(rows, dtype=torch.float32).reshape(len(rows), len(visual_thresholds)),
        n_matched=torch.tensor(n_matched, dtype=torch.int64),
        n_source=matches.offsets.diff(),
    )


def score(matches: Matches, visual_thresholds: Sequence[float]) -> PairScores:
    """Score all pairs at once.

    Args:
        matches: Matches of P pairs.
        visual_thresholds: V thresholds in [-1, 1].

    Returns:
        The same as :func:`score_eager`, on the CPU.

    Source: arXiv 2509.21989, the definition of VSM.
    """
    counts = count(matches, visual_thresholds).cpu().long()
    return PairScores(
        score=counts[:, 1:].float() / counts[:, :1].float(),
        n_matched=counts[:, 0],
        n_source=matches.offsets.diff(),
    )


def count(matches: Matches, visual_thresholds: Sequence[float]) -> Tensor:
    """Count matched points per pair, on the device of the matches.

    Args:
        matches: Matches of P pairs.
        visual_thresholds: V thresholds in [-1, 1].

    Returns:
        int [P, 1 + V]: number of kept points, and of those above each threshold.
    """
    if matches.counts is not None and matches.counts.visual_thresholds == tuple(visual_thresholds):
        return matches.counts.counts
    # Thresholds take the points' type: a comparison in float64 would differ.
    visual, kept = matches.visual_similarity, matches.kept
    thresholds = torch.tensor(visual_thresholds, dtype=visual.dtype, device=visual.device)
    passed = (visual[:, None] > thresholds) & kept[:, None]
    counted = torch.cat([kept[:, None], passed], dim=1)
    # Running counts; a pair's count is the difference between its two ends.
    running = torch.nn.functional.pad(counted.cumsum(0), (0, 0, 1, 0))
    ends = running[matches.offsets.to(running.device)]
    return ends.diff(dim=0)
