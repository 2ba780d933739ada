"""Calibration of thresholds on validation pairs, and their figures on other pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vsm_fast.descriptors import Descriptors
from vsm_fast.errors import TrainingError
from vsm_fast.images.framing import subject_box
from vsm_fast.lab.evaluation.bootstrap import Bootstrap
from vsm_fast.lab.evaluation.metrics import Correlation, auroc, correlations, separation
from vsm_fast.lab.evaluation.run import OTHER_SUBJECT, UNALTERED
from vsm_fast.lab.pairs.pairs import ControlledPair
from vsm_fast.lab.training.contrastive import AggregationPair
from vsm_fast.lab.training.features import batch_levels, levels_of
from vsm_fast.lab.training.rows import RowShards
from vsm_fast.matching.match import match
from vsm_fast.model.config import ModelConfig
from vsm_fast.results.heatmap import cells_inside

_COST = 4.0  # of correlation, for losing every comparison with other subjects
_BATCH = 16  # pairs per forward pass
_MIN_PAIRS = 3  # for a correlation


@dataclass(frozen=True)
class PointTable:
    """Matched points of many pairs, before any threshold; T points of P pairs.

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
        """Return the VSM score of each pair, float64 [P]; NaN for a pair without a match.

        The best source of a target does not depend on the semantic threshold, so that one
        matching without a threshold serves all thresholds.
        """
        matched = self.semantic > np.float32(semantic_threshold)
        passed = matched & (self.visual > np.float32(visual_threshold))
        n_matched, n_passed = (
            np.diff(np.concatenate([[0], part.cumsum()])[self.offsets])
            for part in (matched, passed)
        )
        with np.errstate(invalid="ignore"):
            return np.where(n_matched > 0, n_passed / n_matched, np.nan)


@dataclass(frozen=True)
class Validation:
    """Calibrated (semantic, visual) thresholds, and the figures of ``report`` at them."""

    thresholds: tuple[float, float]
    figures: dict[str, float]


@torch.inference_mode()
def stored_point_table(networks: AggregationPair, features: RowShards) -> PointTable:
    """Match all pairs of stored features without thresholds.

    ``networks`` are in eval mode, ``features`` come from ``feature_cache.validation_features``.
    """
    device = next(networks.parameters()).device
    sides: tuple[list[Descriptors], list[Descriptors]] = ([], [])  # references, generated images
    altered: list[NDArray[np.bool_]] = []
    for first in range(0, len(features), _BATCH):
        rows = [features[row] for row in range(first, min(first + _BATCH, len(features)))]
        branches = networks(batch_levels(map(levels_of, rows), device))
        semantic, visual = (branch.unflatten(0, (len(rows), 2)) for branch in branches)
        subjects = torch.stack([row["subject"] for row in rows])
        for number, side in enumerate(sides):
            packed = (semantic[:, number], visual[:, number], subjects[:, number])
            side.append(Descriptors.pack(*packed))
        altered += [row["altered"][row["subject"][1].flatten()].numpy() for row in rows]
    references, sources = map(Descriptors.cat, sides)
    return point_table(sources, references, np.concatenate(altered))


def point_table(
    sources: Descriptors, references: Descriptors, altered: NDArray[np.bool_]
) -> PointTable:
    """Match P sources with their P references without thresholds.

    ``altered``, bool [R], says of each row of ``sources`` whether it lies in the altered part.
    """
    index = torch.arange(len(sources))
    matches = match(sources, references, torch.stack([index, index], dim=1), -2.0)
    kept = matches.kept.cpu()
    # The number of kept points before each pair's first point is its offset among kept points.
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
    """Return whether the centre of each cell of view 1 lies in the altered part, bool [n]."""
    box = subject_box(pair.mask_1, config.backbone.framing)
    return cells_inside(pair.part_1, cells, config.aggregation.grid, box)


def calibrate(
    table: PointTable,
    oracle: NDArray[np.float64],
    other: NDArray[np.bool_],
    least_above: float = 0.9,
) -> tuple[float, float]:
    """Return the (semantic, visual) thresholds whose scores correlate best with the oracle.

    Only pairs of one subject enter the correlation. Pairs of two subjects add a penalty:
    correlation alone is highest at thresholds under which any two subjects look alike.

    Args:
        table: Matched points of P pairs.
        oracle: float64 [P].
        other: bool [P], pairs of two subjects.
        least_above: Required share of comparisons in which an unaltered pair scores above a pair
            of two subjects; each missing percentage point costs 0.04 of correlation.

    Returns:
        Thresholds that leave at most 5 % of the pairs without a score.

    Raises:
        ValueError: If no thresholds do, or if the pairs are too few or too similar to correlate.
    """
    candidates: list[tuple[float, tuple[float, float]]] = []
    for semantic in np.arange(0.3, 0.91, 0.05):
        for visual in np.arange(0.3, 0.96, 0.02):
            scores = table.scores(semantic, visual)
            scored = np.isfinite(scores)
            same = scored & ~other
            pearson = _correlation(scores, oracle, same).pearson.value
            if scored.mean() < 0.95 or math.isnan(pearson):
                continue
            above = separation(scores[same & (oracle == 1)], scores[other]).higher
            short = 0.0 if math.isnan(above) else max(0.0, least_above - above)
            thresholds = (round(float(semantic), 3), round(float(visual), 3))
            candidates.append((pearson - _COST * short, thresholds))
    if not candidates:
        raise ValueError(
            f"no thresholds give a score to 95 % of the {len(oracle)} pairs and a correlation with "
            "the oracle. Use at least three pairs of one subject with different altered shares."
        )
    return max(candidates)[1]


def report(
    oracle: NDArray[np.float64],
    kinds: NDArray[np.str_],
    table: PointTable,
    thresholds: tuple[float, float],
) -> dict[str, float]:
    """Return the figures of P pairs at fixed thresholds.

    Args:
        oracle: float64 [P].
        kinds: str [P], kind of alteration, ``"none"`` or ``"other subject"``.
        table: Matched points of the pairs.
        thresholds: (semantic, visual).

    Returns:
        Correlations with the oracle over all pairs of one subject and by kind, each with the
        unaltered pairs; means; separation from other subjects; AUROC of altered points.
    """
    scores = table.scores(*thresholds)
    same = kinds != OTHER_SUBJECT
    unaltered = kinds == UNALTERED
    overall = _correlation(scores, oracle, same)
    apart = separation(scores[unaltered], scores[~same])
    half = scores[same & (np.abs(oracle - 0.5) <= 0.06) & np.isfinite(scores)]
    points = (table.semantic > thresholds[0]) & np.repeat(same, np.diff(table.offsets))
    similarity, altered = table.visual[points], table.altered[points]
    figures = {
        "pairs": int(same.sum()),
        "scored": overall.n,
        "pearson": overall.pearson.value,
        "spearman": overall.spearman.value,
        "mean_consistent": apart.mean_same,
        "mean_half_altered": float(half.mean()) if len(half) else float("nan"),
        "other_pairs": int((~same).sum()),
        "mean_other": apart.mean_other,
        "above_other": apart.higher,
        "point_auroc": auroc(similarity[~altered], similarity[altered]),
    }
    for kind in sorted(set(kinds) - {UNALTERED, OTHER_SUBJECT}):
        of_kind = _correlation(scores, oracle, unaltered | (kinds == kind))
        figures[f"pearson_{kind}"] = of_kind.pearson.value
    return figures


def _correlation(
    scores: NDArray[np.float64], oracle: NDArray[np.float64], counted: NDArray[np.bool_]
) -> Correlation:
    return correlations(scores[counted], oracle[counted], bootstrap=Bootstrap(resamples=0))


def validate(networks: AggregationPair, features: RowShards) -> Validation:
    """Calibrate on validation pairs and report on the same pairs.

    The figures select an epoch; they do not measure its quality. Arguments are those of
    :func:`stored_point_table`, errors those of :func:`calibrate`.
    """
    oracle, kinds = oracle_and_kinds(features)
    table = stored_point_table(networks, features)
    thresholds = calibrate(table, oracle, kinds == OTHER_SUBJECT)
    return Validation(thresholds, report(oracle, kinds, table, thresholds))


def check_pairs(features: RowShards) -> None:
    """Refuse validation pairs that cannot rank epochs, before hours of training.

    Raises:
        TrainingError: If there are fewer than three pairs of one subject, or all have the same
            altered share.
    """
    oracle, kinds = oracle_and_kinds(features)
    judged = oracle[kinds != OTHER_SUBJECT]
    if len(judged) < _MIN_PAIRS or np.ptp(judged) == 0:
        raise TrainingError(
            f"validation needs at least {_MIN_PAIRS} pairs of one subject with different altered "
            f"shares; got {len(judged)}, with {len(set(judged))} different shares. Add pairs."
        )


def oracle_and_kinds(features: RowShards) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
    """Return oracle and kind of the pairs of ``feature_cache.validation_features``."""
    oracle = np.array(features.notes("oracle"), np.float64)
    return oracle, np.array(features.notes("kind"), np.str_)
