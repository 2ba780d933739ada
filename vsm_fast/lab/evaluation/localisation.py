"""Localisation figures: do low similarities and hot pixels lie in the altered part?

Each pair is reduced to two histograms of inconsistency, of altered and of unaltered places.
Curves, areas, overlaps and their intervals follow from the histograms, and memory does not grow
with image resolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vsm_fast.lab.evaluation.bootstrap import Bootstrap, Estimate, Floats
from vsm_fast.lab.evaluation.metrics import mean_estimate

BINS = 1024

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Localisation:
    """Separation of altered from unaltered places.

    Attributes:
        pairs: Pairs with at least one place of each kind.
        places: Points or pixels of these pairs.
        altered: Number of altered places.
        auroc: AUROC over the places of all pairs together.
        auroc_within: Mean of the AUROC of each pair.
        best_iou: Mean overlap of {value >= t} with the altered part, at the one threshold t that
            maximises it. The threshold is chosen on these pairs: an upper bound.
        best_threshold: That threshold t.
        best_iou_each: Mean overlap with a separate best threshold per pair.
    """

    pairs: int
    places: int
    altered: int
    auroc: Estimate
    auroc_within: Estimate
    best_iou: Estimate
    best_threshold: float
    best_iou_each: Estimate


def place_histogram(values: ArrayLike, altered: ArrayLike, bins: int = BINS) -> Counts:
    """Count the places of one pair.

    Args:
        values: float [T] in [0, 1], 1 = inconsistent; values outside count at the nearer end.
        altered: bool [T], whether the place lies in the altered part.
        bins: Number of equal bins; values in one bin count as equal.

    Returns:
        int64 [2, bins]: unaltered and altered places by value.

    Raises:
        ValueError: If the arrays differ in length, or a value is NaN.
    """
    value, part = np.asarray(values, np.float64).ravel(), np.asarray(altered, np.bool_).ravel()
    if value.shape != part.shape or np.isnan(value).any():
        raise ValueError(
            f"values and altered must be equally long and without NaN; got {value.shape} with "
            f"{int(np.isnan(value).sum())} NaN, and {part.shape}."
        )
    # In float32 arithmetic, a value on the edge of a bin could fall on either side.
    index = np.clip(np.floor(value * bins + 1e-9), 0, bins - 1).astype(np.int64)
    counts = np.bincount(index + bins * part, minlength=2 * bins)
    return counts.reshape(2, bins)


def localisation(
    histograms: ArrayLike, *, clusters: ArrayLike | None = None, bootstrap: Bootstrap | None = None
) -> Localisation:
    """Return the localisation figures of many pairs.

    Args:
        histograms: int [P, 2, B], one :func:`place_histogram` per pair. Pairs without an altered
            or without an unaltered place are left out.
        clusters: [P], cluster of each pair, resampled as a whole; None resamples pairs.
        bootstrap: Settings of the intervals; None = the defaults.

    Returns:
        NaN if no pair is left.
    """
    counts = np.asarray(histograms, np.float64)
    if counts.ndim != 3 or counts.shape[1] != 2:
        raise ValueError(f"histograms must be [pairs, 2, bins]; got {list(counts.shape)}.")
    usable = (counts.sum(axis=2) > 0).all(axis=1)
    counts = counts[usable]
    groups = None if clusters is None else np.asarray(clusters)[usable]
    bootstrap = bootstrap or Bootstrap()
    pairs, bins = len(counts), counts.shape[2]
    overlap = overlaps(counts)

    def pooled(weights: Floats) -> Floats:
        summed = weights @ counts.reshape(pairs, 2 * bins)
        return histogram_auroc(summed.reshape(-1, 2, bins))

    def common(weights: Floats) -> Floats:
        mean = weights @ overlap / weights.sum(axis=1, keepdims=True)
        return np.asarray(mean.max(axis=1), np.float64)

    best = int(overlap.mean(axis=0).argmax()) if pairs else 0
    return Localisation(
        pairs=pairs,
        places=int(counts.sum()),
        altered=int(counts[:, 1].sum()),
        auroc=bootstrap.estimate(pooled, pairs, groups),
        auroc_within=mean_estimate(histogram_auroc(counts), groups, bootstrap),
        best_iou=bootstrap.estimate(common, pairs, groups),
        best_threshold=best / bins if pairs else float("nan"),
        best_iou_each=mean_estimate(overlap.max(axis=1, initial=0), groups, bootstrap),
    )


def histogram_auroc(histograms: Floats) -> Floats:
    """Return the area under the ROC curve of histograms [..., 2, B]; a bin's places are ties."""
    negative, positive = histograms[..., 0, :], histograms[..., 1, :]
    below = negative.cumsum(axis=-1) - negative / 2
    wins = (positive * below).sum(axis=-1)
    comparisons = positive.sum(axis=-1) * negative.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(comparisons > 0, wins / comparisons, np.nan), np.float64)


def roc_curve(histogram: ArrayLike) -> tuple[Floats, Floats]:
    """Return the rates of a histogram [2, B] at every threshold, from none to all.

    Returns:
        (false positive rate, true positive rate), float64 [B + 1] each, both rising.
    """
    rising = np.asarray(histogram, np.float64)[:, ::-1].cumsum(axis=1)
    rates = np.concatenate([np.zeros((2, 1)), rising / rising[:, -1:]], axis=1)
    return rates[0], rates[1]


def overlaps(histograms: Floats) -> Floats:
    """Return the IoU of {value >= k / B} with the altered part, [P, 2, B] -> [P, B]."""
    chosen = histograms[..., ::-1].cumsum(axis=-1)[..., ::-1]
    part = histograms[:, 1].sum(axis=1, keepdims=True)
    return np.asarray(chosen[:, 1] / (part + chosen[:, 0]), np.float64)
