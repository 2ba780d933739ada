"""Bootstrap intervals of evaluation figures.

A resample is a row of counts: how often each pair was drawn. Weighted figures of many resamples
are one matrix product, and resampling whole subjects only changes the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_BLOCK = 4_000_000  # weights in memory at a time, 32 MB


@dataclass(frozen=True)
class Estimate:
    """A figure and its bootstrap interval; NaN where undefined."""

    value: float
    low: float = float("nan")
    high: float = float("nan")


@dataclass(frozen=True)
class Bootstrap:
    """Settings of the intervals.

    Attributes:
        resamples: Number of resamples; 0 computes no intervals.
        level: Share of the resamples inside the interval, in (0, 1).
        seed: Seed of the draws.
    """

    resamples: int = 2000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 0 or not 0 < self.level < 1:
            raise ValueError(
                "a bootstrap needs at least 0 resamples and a level in (0, 1); got "
                f"{self.resamples} and {self.level}."
            )

    def weights(self, rows: int, clusters: ArrayLike | None = None) -> Iterator[Floats]:
        """Draw with replacement, in blocks of resamples.

        Args:
            rows: Number of pairs.
            clusters: [rows], cluster (subject) of each pair, drawn as a whole; None draws pairs.
                Resamples differ in size if clusters do.

        Yields:
            float64 [r, rows], count of each pair in each resample.
        """
        labels, count = np.arange(rows), rows
        if clusters is not None:
            _, labels = np.unique(np.asarray(clusters), return_inverse=True)
            count = int(labels.max()) + 1 if rows else 0
        if count < 2:  # one unit has no measurable spread
            return
        rng = np.random.default_rng(self.seed)
        block = max(1, _BLOCK // rows)
        for start in range(0, self.resamples, block):
            size = min(block, self.resamples - start)
            drawn = rng.multinomial(count, np.full(count, 1 / count), size=size)
            yield drawn[:, labels].astype(np.float64)

    def estimate(
        self, figure: Callable[[Floats], Floats], rows: int, clusters: ArrayLike | None = None
    ) -> Estimate:
        """Return a figure of weighted pairs with its percentile interval.

        Args:
            figure: Weights float64 [r, rows] -> float64 [r]; NaN where undefined.
            rows: Number of pairs.
            clusters: As for :meth:`weights`.

        Returns:
            The figure at equal weights. It has no interval if it is undefined there, if there is
            only one cluster, or if at least half of the resamples leave it undefined.
        """
        value = float(figure(np.ones((1, rows)))[0]) if rows else float("nan")
        if not np.isfinite(value):
            return Estimate(float("nan"))
        parts = [figure(weights) for weights in self.weights(rows, clusters)]
        drawn = np.concatenate([np.empty(0), *parts])
        defined = drawn[np.isfinite(drawn)]
        if 2 * len(defined) <= len(drawn):
            return Estimate(value)
        tail = (1 - self.level) / 2
        low, high = np.quantile(defined, [tail, 1 - tail])
        return Estimate(value, float(low), float(high))
