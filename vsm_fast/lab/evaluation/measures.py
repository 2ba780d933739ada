"""The figures of an evaluation: correlation, localisation, separation. Arrays in, numbers out.

What is undefined (NaN in, too few values, a constant) is NaN here and counted, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vsm_fast.lab.evaluation.bootstrap import Bootstrap, Estimate, Floats

MIN_PAIRS = 3  # two points always lie on a line
MIN_INTERVAL = 10  # resamples of fewer pairs repeat too few different ones to say anything
_FLAT = 1e-12  # share of the variance below which a resample counts as constant


@dataclass(frozen=True)
class Correlation:
    """Correlation of a metric with a target.

    Attributes:
        n: Pairs that have both.
        undefined: Pairs of these whose metric is undefined; they are not in ``n``.
        pearson: Pearson's r.
        spearman: Spearman's rho, ties at their mean rank.
    """

    n: int
    undefined: int
    pearson: Estimate
    spearman: Estimate


@dataclass(frozen=True)
class Gain:
    """By how much one metric correlates better than another, on the pairs where both are known."""

    n: int
    pearson: Estimate
    spearman: Estimate


@dataclass(frozen=True)
class Separation:
    """How well a metric tells consistent pairs of one subject from pairs of two subjects.

    Attributes:
        higher: Share of all comparisons (one pair of each) in which the same subject has the
            higher value, strictly.
        tied: Share in which both are equal.
        mean_same: Mean of the pairs of one subject.
        mean_other: Mean of the pairs of two subjects.
        n_same, n_other: Pairs with a value.
        undefined_same, undefined_other: Pairs without one; they are in no comparison.
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
    """Pearson's and Spearman's correlation of a metric with the oracle, with intervals.

    Args:
        metric: float [P], higher = more consistent; NaN where undefined.
        target: float [P], the oracle or a human rating; pairs at NaN have none and are left out.
        clusters: [P], resampled as wholes (the subject); None resamples pairs.
        bootstrap: None takes the defaults.

    Returns:
        NaN for fewer than three pairs or a constant; no interval for fewer than ten pairs.

    Source: arXiv 2509.21989, evaluation (the coefficients; the intervals are ours).
    """
    x, y = _columns(metric, target)
    wanted = np.isfinite(y)
    known = wanted & np.isfinite(x)
    x, y = x[known], y[known]
    groups = None if clusters is None else np.asarray(clusters)[known]
    bootstrap = _enough(bootstrap, len(x))
    ranks_x, ranks_y = _Ranks(x), _Ranks(y)

    def spearman(weights: Floats) -> Floats:
        return _pearson(ranks_x(weights), ranks_y(weights), weights)

    return Correlation(
        n=len(x),
        undefined=int(wanted.sum()) - len(x),
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
    """Correlation of ``metric`` minus that of ``other``, on the same resamples.

    The metrics see the same pairs, so the interval of their difference is narrower than their
    two intervals suggest.

    Args:
        metric: float [P].
        other: float [P].
        target: float [P].
        clusters: As for :func:`correlations`.
        bootstrap: As for :func:`correlations`.
    """
    first, y = _columns(metric, target)
    second, _ = _columns(other, target)
    known = np.isfinite(first) & np.isfinite(second) & np.isfinite(y)
    first, second, y = first[known], second[known], y[known]
    groups = None if clusters is None else np.asarray(clusters)[known]
    ranks = [_Ranks(column) for column in (first, second, y)]
    bootstrap = _enough(bootstrap, len(y))

    def pearson(weights: Floats) -> Floats:
        return _pearson(first, y, weights) - _pearson(second, y, weights)

    def spearman(weights: Floats) -> Floats:
        one, two, wanted = (column(weights) for column in ranks)
        return _pearson(one, wanted, weights) - _pearson(two, wanted, weights)

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
    known, foreign = mine[np.isfinite(mine)], np.sort(theirs[np.isfinite(theirs)])
    below = np.searchsorted(foreign, known, "left")
    equal = np.searchsorted(foreign, known, "right") - below
    comparisons = len(known) * len(foreign)
    return Separation(
        higher=below.sum() / comparisons if comparisons else float("nan"),
        tied=equal.sum() / comparisons if comparisons else float("nan"),
        mean_same=float(known.mean()) if len(known) else float("nan"),
        mean_other=float(foreign.mean()) if len(foreign) else float("nan"),
        n_same=len(known),
        n_other=len(foreign),
        undefined_same=len(mine) - len(known),
        undefined_other=len(theirs) - len(foreign),
    )


def _enough(bootstrap: Bootstrap | None, pairs: int) -> Bootstrap:
    """The bootstrap to use: without resamples where there are too few pairs."""
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
    """Pearson's r of weighted pairs: x, y [n] or [r, n], weights [r, n] -> [r]."""
    if x.shape[-1] < MIN_PAIRS:
        return np.full(len(weights), np.nan)
    # Centred before the products are summed: the variance of 0.9 +- 1e-6 would be lost.
    x, y = x - x.mean(axis=-1, keepdims=True), y - y.mean(axis=-1, keepdims=True)
    total = weights.sum(axis=1)

    def mean(z: Floats) -> Floats:
        summed = weights @ z if z.ndim == 1 else np.einsum("rn,rn->r", weights, z)
        return np.asarray(summed / total, np.float64)

    mean_x, mean_y = mean(x), mean(y)
    variances = [mean(x * x) - mean_x**2, mean(y * y) - mean_y**2]
    covariance = mean(x * y) - mean_x * mean_y
    spreads = [(z * z).mean(axis=-1) for z in (x, y)]
    defined = np.all(
        [var > _FLAT * spread for var, spread in zip(variances, spreads, strict=True)], axis=0
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        r = covariance / np.sqrt(np.maximum(variances[0], 0) * np.maximum(variances[1], 0))
    return np.where(defined, np.clip(r, -1, 1), np.nan)


class _Ranks:
    """Ranks of a column when each value occurs as often as its weight says; ties share theirs."""

    def __init__(self, column: Floats) -> None:
        values, self._place = np.unique(column, return_inverse=True)
        self._order = np.argsort(column, kind="stable")
        self._starts = np.searchsorted(column[self._order], values)

    def __call__(self, weights: Floats) -> Floats:
        """float64 [r, n] -> the rank of each value in each resample, float64 [r, n]."""
        count = np.add.reduceat(weights[:, self._order], self._starts, axis=1)
        ranks = count.cumsum(axis=1) - (count - 1) / 2
        return np.asarray(ranks[:, self._place], np.float64)


def auroc(positive: ArrayLike, negative: ArrayLike) -> float:
    """Probability that a positive value is above a negative one, equal ones counted half.

    Args:
        positive: float [n].
        negative: float [m].

    Returns:
        In [0, 1]; NaN when either is empty.
    """
    above, below = np.asarray(positive, np.float64), np.sort(np.asarray(negative, np.float64))
    if not len(above) or not len(below):
        return float("nan")
    wins = np.searchsorted(below, above, "left") + np.searchsorted(below, above, "right")
    return float(wins.sum() / (2 * len(above) * len(below)))


def mean_estimate(
    values: NDArray[np.float64], clusters: ArrayLike | None, bootstrap: Bootstrap
) -> Estimate:
    """Mean of the values that are defined, with its interval."""
    known = np.isfinite(values)
    column = values[known]
    groups = None if clusters is None else np.asarray(clusters)[known]
    return bootstrap.estimate(lambda w: (w @ column) / w.sum(axis=1), len(column), groups)
