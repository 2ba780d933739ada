"""How far two runs of one model differ: another precision, runtime or version of a library."""

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
        similarity: Largest difference of the visual similarities of points that matched in both.
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


def drift(wanted: VSMScores, found: VSMScores) -> Drift:
    """Compare the scores of the same pairs.

    Args:
        wanted: Of the run that the other is measured against, with heat maps kept.
        found: Of the other run, with heat maps kept.

    Raises:
        ValueError: Not the same pairs, or heat maps were not kept.
    """
    for scores in (wanted, found):
        if scores.evidence is None:
            raise ValueError("points cannot be compared: score with heatmaps=True.")
    same = len(wanted) == len(found) and np.array_equal(wanted.gen_id, found.gen_id)
    if not same or not np.array_equal(wanted.ref_id, found.ref_id):
        raise ValueError(
            f"drift is between scores of the same pairs; got {len(wanted)} and {len(found)} pairs, "
            "or other images."
        )
    defined = np.isfinite(wanted.score), np.isfinite(found.score)
    both = defined[0] & defined[1]
    distance = np.abs(wanted.score - found.score)[both]
    points = flipped = 0
    largest = 0.0
    for before, after in zip(wanted.evidence or (), found.evidence or (), strict=True):
        if before is None or after is None:
            known = before or after
            points += 0 if known is None else len(known.cells)
            flipped += 0 if known is None else int(known.kept.sum())
            continue
        points += len(before.cells)
        verdicts = (
            _verdicts(before, wanted.visual_threshold),
            _verdicts(after, found.visual_threshold),
        )
        flipped += int((verdicts[0] != verdicts[1]).sum())
        kept = before.kept & after.kept
        apart = np.abs(before.visual_similarity - after.visual_similarity)[kept]
        largest = max(largest, float(apart.max(initial=0)))
    return Drift(
        len(wanted),
        points,
        flipped,
        float("inf") if (defined[0] != defined[1]).any() else float(distance.max(initial=0)),
        float(distance.mean()) if len(distance) else 0.0,
        largest,
    )


def _verdicts(evidence: HeatmapEvidence, threshold: float) -> NDArray[np.int64]:
    judged = np.where(evidence.visual_similarity > threshold, _CONSISTENT, _INCONSISTENT)
    return np.where(evidence.kept, judged, _UNMATCHED)
