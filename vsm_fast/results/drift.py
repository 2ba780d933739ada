"""Difference between two runs of one model, in other precisions, runtimes or library versions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vsm_fast.results.heatmap import HeatmapEvidence
from vsm_fast.results.scores import VSMScores

_UNMATCHED, _INCONSISTENT, _CONSISTENT = range(3)


@dataclass(frozen=True)
class Drift:
    """Differences over all pairs and all points of the generated subjects.

    Attributes:
        pairs: Pairs compared.
        points: Points compared.
        flipped: Points with another verdict (not matched, consistent, inconsistent).
        score: Largest difference of two scores; infinite if only one of them is defined.
        mean_score: Mean difference of the scores.
        similarity: Largest difference of visual similarity among points matched in both runs.
    """

    pairs: int
    points: int
    flipped: int
    score: float
    mean_score: float
    similarity: float

    @property
    def flipped_share(self) -> float:
        """Flipped points over all points, in [0, 1]."""
        return self.flipped / max(1, self.points)

    def __str__(self) -> str:
        return (
            f"score {self.score:.4f} at most, {self.mean_score:.5f} on average; "
            f"{self.flipped} of {self.points} points flipped ({self.flipped_share:.2%}); "
            f"visual similarity {self.similarity:.5f} at most"
        )


def drift(baseline: VSMScores, other: VSMScores) -> Drift:
    """Compare two runs over the same pairs.

    Args:
        baseline: Scores of the first run, with heat maps.
        other: Scores of the second run, with heat maps.

    Raises:
        ValueError: If the pairs differ, or heat maps were not kept.
    """
    if baseline.evidence is None or other.evidence is None:
        raise ValueError("points cannot be compared without heat maps. Score with heatmaps=True.")
    same = len(baseline) == len(other) and np.array_equal(baseline.gen_id, other.gen_id)
    if not same or not np.array_equal(baseline.ref_id, other.ref_id):
        raise ValueError(
            f"drift needs scores of the same pairs; got {len(baseline)} and {len(other)} pairs, or "
            "other images."
        )
    defined = np.isfinite(baseline.score), np.isfinite(other.score)
    distance = np.abs(baseline.score - other.score)[defined[0] & defined[1]]
    points = flipped = 0
    largest = 0.0
    for before, after in zip(baseline.evidence, other.evidence, strict=True):
        if before is None or after is None:
            only = before or after
            points += 0 if only is None else len(only.cells)
            flipped += 0 if only is None else int(only.kept.sum())
            continue
        points += len(before.cells)
        first = _verdicts(before, baseline.visual_threshold)
        flipped += int((first != _verdicts(after, other.visual_threshold)).sum())
        both = before.kept & after.kept
        apart = np.abs(before.visual_similarity - after.visual_similarity)[both]
        largest = max(largest, float(apart.max(initial=0)))
    return Drift(
        len(baseline),
        points,
        flipped,
        float("inf") if (defined[0] != defined[1]).any() else float(distance.max(initial=0)),
        float(distance.mean()) if len(distance) else 0.0,
        largest,
    )


def _verdicts(evidence: HeatmapEvidence, threshold: float) -> NDArray[np.int64]:
    judged = np.where(evidence.visual_similarity > threshold, _CONSISTENT, _INCONSISTENT)
    return np.where(evidence.kept, judged, _UNMATCHED)
