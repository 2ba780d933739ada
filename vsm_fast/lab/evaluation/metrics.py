"""Evaluation figures: correlation and separation.

Undefined results (NaN in, too few values, a constant) are NaN and counted, never 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from vsm_fast.lab.evaluation.bootstrap import Bootstrap, Estimate, Floats

MIN_PAIRS = 3  # two points always lie on a line
MIN_INTERVAL = 10  # resamples of fewer pairs hold too few distinct pairs for an interval
_FLAT = 1e-12  # share of the variance below which a resample counts as constant


@dataclass(frozen=True)
class Correlation:
    """Correlation of a metric with a target over ``n`` pairs; Spearman ties share a mean rank.

    ``undefined`` counts the pairs with a target and no metric; they are not part of ``n``.
    """

    n: int
    undefined: int
    pearson: Estimate
    spearman: Estimate


@dataclass(frozen=True)
class Gain:
    """Correlation of one metric minus that of another, on the ``n`` pairs that have both."""

    n: int
    pearson: Estimate
    spearman: Estimate


@dataclass(frozen=True)
class Separation:
    """Separation of consistent pairs of one subject from pairs of two subjects.

    Attributes:
        higher: Share of all comparisons (one pair of each) in which the pair of one subject has
            the strictly higher value.
        tied: Share of comparisons with equal values.
        mean_same: Mean of the pairs of one subject.
        mean_other: Mean of the pairs of two subjects.
        n_same, n_other: Pairs with a value.
        undefined_same, undefined_other: Pairs without a value; excluded from all comparisons.
    """

    higher: float
    tied: float
    mean_same: float
    mean_other: float
    n_same: int
    n_other: int
    undefined_same: int
    undefined_other: int


def correlations(
    metric: ArrayLike,
    target: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    bootstrap: Bootstrap | None = None,
) -> Correlation:
    """Return Pearson's and Spearman's correlation of a metric with a target, with intervals.

    Args:
        metric: float [P], higher = more consistent; NaN where undefined.
        target: float [P], the oracle or a human rating; pairs with NaN are left out.
        clusters: [P], cluster (subject) of each pair, resampled as a whole; None resamples pairs.
        bootstrap: Settings of the intervals; None = the defaults.

    Returns:
        NaN for fewer than three pairs or a constant; no interval for fewer than ten pairs.

    Source: arXiv 2509.21989, evaluation (the coefficients; the intervals are ours).
    """
    n, pearson, spearman = _estimates([metric], target, clusters, bootstrap)
    with_target = int(np.isfinite(np.asarray(target, np.float64)).sum())
    return Correlation(n, with_target - n, pearson, spearman)


def correlation_gain(
    metric: ArrayLike,
    other: ArrayLike,
    target: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    bootstrap: Bootstrap | None = None,
) -> Gain:
    """Return the correlation of ``metric`` minus that of ``other``, on the same resamples.

    Both metrics see the same pairs: the interval of the difference is narrower than the two
    separate intervals suggest. Arguments are those of :func:`correlations`.
    """
    return Gain(*_estimates([metric, other], target, clusters, bootstrap))


def _estimates(
    metrics: Sequence[ArrayLike],
    target: ArrayLike,
    clusters: ArrayLike | None,
    bootstrap: Bootstrap | None,
) -> tuple[int, Estimate, Estimate]:
    """Return (pairs, Pearson, Spearman) of a metric, or of the first metric minus the second."""
    columns = [np.asarray(column, np.float64) for column in (*metrics, target)]
    if any(column.shape != columns[-1].shape or column.ndim != 1 for column in columns):
        shapes = " and ".join(str(column.shape) for column in columns)
        raise ValueError(f"metrics and their target must be 1-D and equally long; got {shapes}.")
    defined = np.isfinite(columns).all(axis=0)
    columns = [column[defined] for column in columns]
    groups = None if clusters is None else np.asarray(clusters)[defined]
    ranks = [_Ranks(column) for column in columns]
    n = len(columns[-1])
    bootstrap = bootstrap or Bootstrap()
    if n < MIN_INTERVAL:
        bootstrap = replace(bootstrap, resamples=0)

    def pearson(columns: Sequence[Floats], weights: Floats) -> Floats:
        first, *second = (_pearson(column, columns[-1], weights) for column in columns[:-1])
        return first - second[0] if second else first

    return (
        n,
        bootstrap.estimate(lambda weights: pearson(columns, weights), n, groups),
        bootstrap.estimate(
            lambda weights: pearson([r(weights) for r in ranks], weights), n, groups
        ),
    )


def separation(same: ArrayLike, other: ArrayLike) -> Separation:
    """Compare every consistent pair of one subject with every pair of two subjects.

    Args:
        same: float [N], values of unaltered pairs; NaN where undefined.
        other: float [M], values of pairs of two subjects.
    """
    mine, theirs = np.asarray(same, np.float64), np.asarray(other, np.float64)
    ours, foreign = mine[np.isfinite(mine)], np.sort(theirs[np.isfinite(theirs)])
    below = np.searchsorted(foreign, ours, "left")
    equal = np.searchsorted(foreign, ours, "right") - below
    comparisons = len(ours) * len(foreign)
    return Separation(
        higher=below.sum() / comparisons if comparisons else float("nan"),
        tied=equal.sum() / comparisons if comparisons else float("nan"),
        mean_same=float(ours.mean()) if len(ours) else float("nan"),
        mean_other=float(foreign.mean()) if len(foreign) else float("nan"),
        n_same=len(ours),
        n_other=len(foreign),
        undefined_same=len(mine) - len(ours),
        undefined_other=len(theirs) - len(foreign),
    )


def auroc(positive: ArrayLike, negative: ArrayLike) -> float:
    """Return the probability that a value of float [n] exceeds one of float [m]; ties count half.

    NaN if either is empty.
    """
    compared = separation(positive, negative)
    return float(compared.higher + compared.tied / 2)


def mean_estimate(values: Floats, clusters: ArrayLike | None, bootstrap: Bootstrap) -> Estimate:
    """Return the mean of the defined values with its interval."""
    defined = np.isfinite(values)
    column = values[defined]
    groups = None if clusters is None else np.asarray(clusters)[defined]
    return bootstrap.estimate(lambda w: (w @ column) / w.sum(axis=1), len(column), groups)


def _pearson(x: Floats, y: Floats, weights: Floats) -> Floats:
    """Return Pearson's r of weighted pairs: x, y [n] or [r, n], weights [r, n] -> [r]."""
    if x.shape[-1] < MIN_PAIRS:
        return np.full(len(weights), np.nan)
    # Centre before summing products: the variance of 0.9 +- 1e-6 would be lost.
    x, y = x - x.mean(axis=-1, keepdims=True), y - y.mean(axis=-1, keepdims=True)
    total = weights.sum(axis=1)

    def mean(z: Floats) -> Floats:
        summed = weights @ z if z.ndim == 1 else np.einsum("rn,rn->r", weights, z)
        return np.asarray(summed / total, np.float64)

    mean_x, mean_y = mean(x), mean(y)
    variance_x, variance_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    varies = (variance_x > _FLAT * (x * x).mean(axis=-1)) & (
        variance_y > _FLAT * (y * y).mean(axis=-1)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        r = covariance / np.sqrt(np.maximum(variance_x, 0) * np.maximum(variance_y, 0))
    return np.where(varies, np.clip(r, -1, 1), np.nan)


class _Ranks:
    """Ranks of a column with every value repeated by its weight; ties share their mean rank."""

    def __init__(self, column: Floats) -> None:
        values, self._place = np.unique(column, return_inverse=True)
        self._order = np.argsort(column, kind="stable")
        self._starts = np.searchsorted(column[self._order], values)

    def __call__(self, weights: Floats) -> Floats:
        """Map weights float64 [r, n] to the rank of each value in each resample."""
        count = np.add.reduceat(weights[:, self._order], self._starts, axis=1)
        ranks = count.cumsum(axis=1) - (count - 1) / 2
        return np.asarray(ranks[:, self._place], np.float64)
