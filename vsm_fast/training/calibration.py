"""Thresholds from controlled pairs of validation subjects, figures on test subjects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr

from vsm_fast.data.pairs import ControlledPair
from vsm_fast.evaluation.measures import auroc
from vsm_fast.images import subject_box
from vsm_fast.matching import match
from vsm_fast.scorer import VSMScorer


@dataclass(frozen=True)
class PointTable:
    """The matched points of many pairs, before any threshold.

    Attributes:
        semantic: float32 [T], similarity of the best source of each matched target.
        visual: float32 [T], best visual similarity of that source.
        altered: float32 [T], 1 where the source's cell centre lies in the altered part.
        offsets: int64 [P + 1]; pair ``p`` owns rows ``offsets[p]:offsets[p + 1]``.
    """

    semantic: NDArray[np.float32]
    visual: NDArray[np.float32]
    altered: NDArray[np.float32]
    offsets: NDArray[np.int64]

    def scores(self, semantic_threshold: float, visual_threshold: float) -> NDArray[np.float64]:
        """VSM of every pair, NaN where nothing is kept.

        The best source of a target is the same at every semantic threshold, so one matching
        without a threshold serves them all.
        """
        kept = self.semantic > np.float32(semantic_threshold)
        passed = kept & (self.visual > np.float32(visual_threshold))
        totals = [np.concatenate([[0], part.cumsum()])[self.offsets] for part in (kept, passed)]
        n_kept, n_passed = np.diff(totals[0]), np.diff(totals[1])
        with np.errstate(invalid="ignore"):
            return np.where(n_kept > 0, n_passed / n_kept, np.nan)


def match_points(scorer: VSMScorer, pairs: Sequence[ControlledPair]) -> PointTable:
    """Describe and match controlled pairs without thresholds."""
    references = scorer.describe([p.original_2 for p in pairs], [p.mask_2 for p in pairs])
    sources = scorer.describe([p.altered_1 for p in pairs], [p.mask_1 for p in pairs])
    index = torch.arange(len(pairs))
    matches = match(sources, references, torch.stack([index, index], dim=1), -2.0)
    kept = matches.kept
    # Kept points up to each boundary between pairs are the offsets of the kept points alone.
    kept_before = torch.nn.functional.pad(kept.cumsum(0), (1, 0))
    altered = np.concatenate(
        [
            cell_values(scorer, pair, sources.cells[sources.rows(i)].numpy())
            for i, pair in enumerate(pairs)
        ]
    )
    return PointTable(
        matches.semantic_similarity[kept].numpy(),
        matches.visual_similarity[kept].numpy(),
        altered[kept.numpy()],
        kept_before[matches.offsets].numpy(),
    )


def cell_values(
    scorer: VSMScorer, pair: ControlledPair, cells: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Whether the centre of each cell lies in the altered part, float32 [n]."""
    left, top, right, bottom = subject_box(pair.mask_1, scorer.config.backbone.framing)
    rows, columns = scorer.config.aggregation.grid
    y = top + (cells // columns + 0.5) * (bottom - top) / rows
    x = left + (cells % columns + 0.5) * (right - left) / columns
    return pair.part_1[y.astype(np.int64), x.astype(np.int64)].astype(np.float32)


def calibrate(
    table: PointTable,
    oracle: NDArray[np.float64],
    other: NDArray[np.bool_],
    least_above: float = 0.9,
) -> tuple[float, float]:
    """(semantic, visual) thresholds whose scores correlate best with the oracle.

    Only pairs of one subject are correlated. Pairs of two subjects set a condition: correlation
    alone is highest at thresholds under which any two subjects look alike.

    Args:
        table: Matched points of P pairs.
        oracle: float64 [P].
        other: bool [P], the pairs of two subjects.
        least_above: Of comparisons of an unaltered pair with one of two subjects, the share that
            the former must win; where no thresholds reach it, those that come nearest count.

    Returns:
        Thresholds that leave at most 5 % of the pairs without a score.

    Raises:
        ValueError: No thresholds do.
    """
    found: list[tuple[float, float, tuple[float, float]]] = []
    for semantic in np.arange(0.3, 0.91, 0.05):
        for visual in np.arange(0.3, 0.96, 0.02):
            scores = table.scores(semantic, visual)
            scored = np.isfinite(scores)
            same = scored & ~other
            if scored.mean() < 0.95 or np.ptp(scores[same]) == 0:
                continue
            value = float(pearsonr(scores[same], oracle[same])[0])
            above = _share_above(scores[same & (oracle == 1)], scores[scored & other])
            thresholds = (round(float(semantic), 3), round(float(visual), 3))
            found.append((min(above, least_above), value, thresholds))
    if not found:
        raise ValueError("no thresholds leave a score to 95 % of the pairs.")
    return max(found)[2]


def _share_above(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Share of comparisons in which the first is higher; 1 where nothing is to compare."""
    if not len(first) or not len(second):
        return 1.0
    return float((first[:, None] > second).mean())


def report(
    pairs: Sequence[ControlledPair], table: PointTable, semantic: float, visual: float
) -> dict[str, float]:
    """Figures of benchmark pairs at fixed thresholds: correlations, means, separation."""
    scores = table.scores(semantic, visual)
    scored = np.isfinite(scores)
    oracle = np.array([pair.oracle for pair in pairs])
    kinds = np.array([pair.kind for pair in pairs])
    same = scored & (kinds != "other subject")
    consistent, other = scores[same & (kinds == "none")], scores[scored & ~same]
    figures = {
        "pairs": int((kinds != "other subject").sum()),
        "scored": int(same.sum()),
        "pearson": float(pearsonr(scores[same], oracle[same])[0]),
        "spearman": float(spearmanr(scores[same], oracle[same])[0]),
        "mean_consistent": float(consistent.mean()),
        "mean_half_altered": float(scores[same & (np.abs(oracle - 0.5) <= 0.06)].mean()),
        "other_pairs": int((kinds == "other subject").sum()),
        "mean_other": float(np.nanmean(scores[kinds == "other subject"])),
        "above_other": _share_above(consistent, other),
        "point_auroc": _auroc(table, semantic, kinds != "other subject"),
    }
    for kind in sorted(set(kinds) - {"none", "other subject"}):
        mine = same & np.isin(kinds, (kind, "none"))
        figures[f"pearson_{kind}"] = float(pearsonr(scores[mine], oracle[mine])[0])
    return figures


def _auroc(table: PointTable, semantic: float, counted: NDArray[np.bool_]) -> float:
    """Probability that an altered matched point of the counted pairs is the less similar one."""
    kept = (table.semantic > semantic) & np.repeat(counted, np.diff(table.offsets))
    similarity, altered = table.visual[kept], table.altered[kept] > 0
    return auroc(similarity[~altered], similarity[altered])
