"""Evaluation figures: correlation and separation.

Undefined results (NaN in, too few values, a constant) are NaN and counted, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from vsm_fast.lab.evaluation.bootstrap import Bootstrap, Estimate, Floats

MIN_PAIRS = 3  # two points always lie on a line
MIN_INTERVAL = 10  # resamples of fewer pairs hold too few distinct pairs for an interval
_FLAT = 1e-12  # share of the variance below which a resample counts as constant


@dataclass(frozen=True)
class Correlation:
    """Correlation of a metric with a target.

    Attributes:
        n: Pairs with a metric and a target.
        undefined: Pairs with a target and no metric; not part of ``n``.
        pearson: Pearson's r.
        spearman: Spearman's rho, ties at their mean rank.
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
    x, y = _columns(metric, target)
    with_target = np.isfinite(y)
    defined = with_target & np.isfinite(x)
    x, y = x[defined], y[defined]
    groups = None if clusters is None else np.asarray(clusters)[defined]
    bootstrap = _enough(bootstrap, len(x))
    ranks_x, ranks_y = _Ranks(x), _Ranks(y)

    def spearman(weights: Floats) -> Floats:
        return _pearson(ranks_x(weights), ranks_y(weights), weights)

    return Correlation(
        n=len(x),
        undefined=int(with_target.sum()) - len(x),
        pearson=bootstrap.estimate(lambda weights: _pearson(x, y, weights), len(x), groups),
        spearman=bootstrap.estimate(spearman, len(x), groups),
    )


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
    separate intervals suggest.

    Args:
        metric: float [P].
        other: float [P].
        target: float [P].
        clusters: As for :func:`correlations`.
        bootstrap: As for :func:`correlations`.
    """
    first, y = _columns(metric, target)
    second, _ = _columns(other, target)
    defined = np.isfinite(first) & np.isfinite(second) & np.isfinite(y)
    first, second, y = first[defined], second[defined], y[defined]
    groups = None if clusters is None else np.asarray(clusters)[defined]
    ranks = [_Ranks(column) for column in (first, second, y)]
    bootstrap = _enough(bootstrap, len(y))

    def pearson(weights: Floats) -> Floats:
        return _pearson(first, y, weights) - _pearson(second, y, weights)

    def spearman(weights: Floats) -> Floats:
        one, two, goal = (column(weights) for column in ranks)
        return _pearson(one, goal, weights) - _pearson(two, goal, weights)

    return Gain(
        len(y),
        bootstrap.estimate(pearson, len(y), groups),
        bootstrap.estimate(spearman, len(y), groups),
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
    """Return the probability that a positive value exceeds a negative one, ties counted half.

    Args:
        positive: float [n].
        negative: float [m].

    Returns:
        In [0, 1]; NaN if either is empty.
    """
    compared = separation(positive, negative)
    return float(compared.higher + compared.tied / 2)


def mean_estimate(values: Floats, clusters: ArrayLike | None, bootstrap: Bootstrap) -> Estimate:
    """Return the mean of the defined values with its interval."""
    defined = np.isfinite(values)
    column = values[defined]
    groups = None if clusters is None else np.asarray(clusters)[defined]
    return bootstrap.estimate(lambda w: (w @ column) / w.sum(axis=1), len(column), groups)


def _enough(bootstrap: Bootstrap | None, pairs: int) -> Bootstrap:
    """Return the bootstrap, without resamples if there are too few pairs for an interval."""
    chosen = bootstrap or Bootstrap()
    return chosen if pairs >= MIN_INTERVAL else replace(chosen, resamples=0)


def _columns(metric: ArrayLike, target: ArrayLike) -> tuple[Floats, Floats]:
    x, y = np.asarray(metric, np.float64), np.asarray(target, np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(
            f"a metric and its target must be 1-D and equally long; got {x.shape} and {y.shape}."
        )
    return x, y


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
