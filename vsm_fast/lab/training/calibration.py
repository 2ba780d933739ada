"""Thresholds from controlled pairs of validation subjects, figures on test subjects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vsm_fast.descriptors import Descriptors
from vsm_fast.images.framing import subject_box
from vsm_fast.lab.evaluation.bootstrap import Bootstrap
from vsm_fast.lab.evaluation.evaluating import OTHER_SUBJECT, UNALTERED
from vsm_fast.lab.evaluation.measures import Correlation, auroc, correlations, separation
from vsm_fast.lab.pairs.pairs import ControlledPair
from vsm_fast.matching.match import match
from vsm_fast.model.config import ModelConfig
from vsm_fast.results.heatmap import cells_inside
from vsm_fast.scorer import VSMScorer

_COST = 4.0  # of correlation, for all comparisons with other subjects lost


@dataclass(frozen=True)
class PointTable:
    """The matched points of many pairs, before any threshold.

    Attributes:
        semantic: float32 [T], similarity of the best source of each matched target.
        visual: float32 [T], best visual similarity of that source.
        altered: bool [T], whether the source's cell centre lies in the altered part.
        offsets: int64 [P + 1]; pair ``p`` owns rows ``offsets[p]:offsets[p + 1]``.
    """

    semantic: NDArray[np.float32]
    visual: NDArray[np.float32]
    altered: NDArray[np.bool_]
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
    altered = [
        altered_cells(scorer.config, pair, sources.cells[sources.rows(number)].numpy())
        for number, pair in enumerate(pairs)
    ]
    return point_table(sources, references, np.concatenate(altered))


def point_table(
    sources: Descriptors, references: Descriptors, altered: NDArray[np.bool_]
) -> PointTable:
    """Match generations with their references without thresholds.

    Args:
        sources: Descriptors of P generations.
        references: Of their P references.
        altered: bool [R], for every row of ``sources``.
    """
    index = torch.arange(len(sources))
    matches = match(sources, references, torch.stack([index, index], dim=1), -2.0)
    kept = matches.kept.cpu()
    # Kept points up to each boundary between pairs are the offsets of the kept points alone.
    kept_before = torch.nn.functional.pad(kept.cumsum(0), (1, 0))
    return PointTable(
        matches.semantic_similarity.cpu()[kept].numpy(),
        matches.visual_similarity.cpu()[kept].numpy(),
        altered[kept.numpy()],
        kept_before[matches.offsets.cpu()].numpy(),
    )


def altered_cells(
    config: ModelConfig, pair: ControlledPair, cells: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Whether the centre of each cell of view 1 lies in the altered part, bool [n]."""
    box = subject_box(pair.mask_1, config.backbone.framing)
    return cells_inside(pair.part_1, cells, config.aggregation.grid, box)


def calibrate(
    table: PointTable,
    oracle: NDArray[np.float64],
    other: NDArray[np.bool_],
    least_above: float = 0.9,
) -> tuple[float, float]:
    """(semantic, visual) thresholds whose scores correlate best with the oracle.

    Only pairs of one subject are correlated. Pairs of two subjects weigh against it: correlation
    alone is highest at thresholds under which any two subjects look alike.

    Args:
        table: Matched points of P pairs.
        oracle: float64 [P].
        other: bool [P], the pairs of two subjects.
        least_above: Of comparisons of an unaltered pair with one of two subjects, the share that
            the former should win; each percentage point below costs 0.04 of correlation.

    Returns:
        Thresholds that leave at most 5 % of the pairs without a score.

    Raises:
        ValueError: No thresholds do, or there are too few pairs, or too much alike, to correlate.
    """
    found: list[tuple[float, tuple[float, float]]] = []
    for semantic in np.arange(0.3, 0.91, 0.05):
        for visual in np.arange(0.3, 0.96, 0.02):
            scores = table.scores(semantic, visual)
            scored = np.isfinite(scores)
            same = scored & ~other
            value = _correlated(scores, oracle, same).pearson.value
            if scored.mean() < 0.95 or math.isnan(value):
                continue
            above = separation(scores[same & (oracle == 1)], scores[other]).higher
            short = 0.0 if math.isnan(above) else max(0.0, least_above - above)
            thresholds = (round(float(semantic), 3), round(float(visual), 3))
            found.append((value - _COST * short, thresholds))
    if not found:
        raise ValueError(
            f"no thresholds leave a score to 95 % of the {len(oracle)} pairs and a correlation "
            "with the oracle; at least three pairs of one subject with different altered shares "
            "are needed."
        )
    return max(found)[1]


def report(
    oracle: NDArray[np.float64],
    kinds: NDArray[np.str_],
    table: PointTable,
    thresholds: tuple[float, float],
) -> dict[str, float]:
    """Figures of benchmark pairs at fixed thresholds.

    Args:
        oracle: float64 [P].
        kinds: Kind of alteration of each pair, ``"none"``, or ``"other subject"``.
        table: Their matched points.
        thresholds: (semantic, visual).

    Returns:
        Correlations with the oracle over all pairs of one subject and by kind, each with the
        unaltered ones; means; separation from other subjects; AUROC of altered points.
    """
    scores = table.scores(*thresholds)
    same = kinds != OTHER_SUBJECT
    unaltered = kinds == UNALTERED
    overall = _correlated(scores, oracle, same)
    apart = separation(scores[unaltered], scores[~same])
    figures = {
        "pairs": int(same.sum()),
        "scored": overall.n,
        "pearson": overall.pearson.value,
        "spearman": overall.spearman.value,
        "mean_consistent": apart.mean_same,
        "mean_half_altered": _mean(scores[same & (np.abs(oracle - 0.5) <= 0.06)]),
        "other_pairs": int((~same).sum()),
        "mean_other": apart.mean_other,
        "above_other": apart.higher,
        "point_auroc": _point_auroc(table, thresholds[0], same),
    }
    for kind in sorted(set(kinds) - {UNALTERED, OTHER_SUBJECT}):
        found = _correlated(scores, oracle, unaltered | (kinds == kind))
        figures[f"pearson_{kind}"] = found.pearson.value
    return figures


def _correlated(
    scores: NDArray[np.float64], oracle: NDArray[np.float64], counted: NDArray[np.bool_]
) -> Correlation:
    return correlations(scores[counted], oracle[counted], bootstrap=Bootstrap(resamples=0))


def _mean(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _point_auroc(table: PointTable, semantic: float, counted: NDArray[np.bool_]) -> float:
    """Probability that an altered matched point of the counted pairs is the less similar one."""
    kept = (table.semantic > semantic) & np.repeat(counted, np.diff(table.offsets))
    similarity, altered = table.visual[kept], table.altered[kept]
    return auroc(similarity[~altered], similarity[altered])
