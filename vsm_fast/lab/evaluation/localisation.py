"""Localisation: do low similarities and hot pixels lie where the subject was altered?

Each pair is counted into two histograms of "how inconsistent" (altered and unaltered places).
Curves, areas and overlaps at every threshold follow from them, and so do their intervals, while
the memory of an evaluation does not grow with the resolution of its images.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vsm_fast.lab.evaluation.bootstrap import Bootstrap, Estimate, Floats
from vsm_fast.lab.evaluation.measures import mean_estimate

BINS = 1024

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Localisation:
    """How well values tell altered places from unaltered ones.

    Attributes:
        pairs: Pairs with at least one place of each sort.
        places: Points or pixels of these pairs.
        altered: How many of them are altered.
        auroc: Over the places of all pairs together.
        auroc_within: Mean over the pairs of each pair's own.
        best_iou: Mean over the pairs of the overlap of {value >= t} with the altered part, at
            the one threshold t that makes it largest. Chosen on these pairs: an upper bound.
        best_threshold: That t.
        best_iou_each: The same with a threshold of each pair's own.
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
        values: float [T] in [0, 1], 1 = inconsistent. Others are counted at the nearer end.
        altered: bool [T], whether the place lies in the altered part.
        bins: Number of equal bins; values within one count as equal.

    Returns:
        int64 [2, bins]: unaltered, altered places by value.

    Raises:
        ValueError: The arrays differ in length, or a value is NaN.
    """
    value, part = np.asarray(values, np.float64).ravel(), np.asarray(altered, np.bool_).ravel()
    if value.shape != part.shape or np.isnan(value).any():
        raise ValueError(
            f"values and altered must be equally long and known; got {value.shape} with "
            f"{int(np.isnan(value).sum())} NaN, and {part.shape}."
        )
    # In float32 arithmetic a value on the edge of a bin could fall on either side.
    index = np.clip(np.floor(value * bins + 1e-9), 0, bins - 1).astype(np.int64)
    counts = np.bincount(index + bins * part, minlength=2 * bins)
    return counts.reshape(2, bins)


def point_histograms(
    visual_similarity: ArrayLike, altered: ArrayLike, offsets: ArrayLike, bins: int = BINS
) -> Counts:
    """Count the matched points of many pairs.

    Args:
        visual_similarity: float [T] in [-1, 1]; below 0 counts as 0.
        altered: bool [T], whether the point lies in the altered part.
        offsets: int [P + 1]; pair ``p`` owns points ``offsets[p]:offsets[p + 1]``.
        bins: As for :func:`place_histogram`.

    Returns:
        int64 [P, 2, bins] of ``1 - similarity``.
    """
    value = 1 - np.maximum(np.asarray(visual_similarity, np.float64), 0)
    part, bounds = np.asarray(altered, np.bool_), np.asarray(offsets, np.int64)
    counts = np.zeros((len(bounds) - 1, 2, bins), np.int64)
    for pair, (start, stop) in enumerate(pairwise(bounds.tolist())):
        counts[pair] = place_histogram(value[start:stop], part[start:stop], bins)
    return counts


def localisation(
    histograms: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    bootstrap: Bootstrap | None = None,
) -> Localisation:
    """Figures of many pairs.

    Args:
        histograms: int [P, 2, B], each pair's as :func:`place_histogram` gives it. Pairs
            without an altered, or without an unaltered place say nothing and are left out.
        clusters: [P], resampled as wholes; None resamples pairs.
        bootstrap: None takes the defaults.

    Returns:
        NaN without such a pair.
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
    """Area under the ROC curve of histograms [..., 2, B] -> [...]; places of a bin are ties."""
    negative, positive = histograms[..., 0, :], histograms[..., 1, :]
    below = negative.cumsum(axis=-1) - negative / 2
    wins = (positive * below).sum(axis=-1)
    comparisons = positive.sum(axis=-1) * negative.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(comparisons > 0, wins / comparisons, np.nan), np.float64)


def roc_curve(histogram: ArrayLike) -> tuple[Floats, Floats]:
    """Rates of a histogram [2, B] at every threshold, from none to all.

    Returns:
        (false positive rate, true positive rate), float64 [B + 1] each, both rising.
    """
    rising = np.asarray(histogram, np.float64)[:, ::-1].cumsum(axis=1)
    rates = np.concatenate([np.zeros((2, 1)), rising / rising[:, -1:]], axis=1)
    return rates[0], rates[1]


def overlaps(histograms: Floats) -> Floats:
    """Intersection over union of {value >= k / B} with the altered part, [P, 2, B] -> [P, B]."""
    chosen = histograms[..., ::-1].cumsum(axis=-1)[..., ::-1]
    part = histograms[:, 1].sum(axis=1, keepdims=True)
    return np.asarray(chosen[:, 1] / (part + chosen[:, 0]), np.float64)
