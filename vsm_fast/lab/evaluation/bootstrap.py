"""Bootstrap: how far a figure would move if other pairs had been drawn.

A resample is a row of counts, how often each pair was drawn. Figures that take such weights
are computed for many resamples in one matrix product, and resampling whole subjects is the
same thing with other weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_BLOCK = 4_000_000  # weights held at a time, 32 MB


@dataclass(frozen=True)
class Estimate:
    """A figure and its bootstrap interval; NaN where it is undefined."""

    value: float
    low: float = float("nan")
    high: float = float("nan")


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made.

    Attributes:
        resamples: Number of resamples; 0 makes no intervals.
        level: Share of the resamples inside the interval, in (0, 1).
        seed: Seed of the draws.
    """

    resamples: int = 2000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 0 or not 0 < self.level < 1:
            raise ValueError(
                "a bootstrap wants at least 0 resamples and a level in (0, 1); got "
                f"{self.resamples} and {self.level}."
            )

    def weights(self, rows: int, clusters: ArrayLike | None = None) -> Iterator[Floats]:
        """Draws with replacement, as counts, in blocks.

        Args:
            rows: Number of pairs.
            clusters: [rows], what belongs together (the subject) and is drawn as a whole; None
                draws pairs. Resamples then differ in size when clusters do.

        Yields:
            float64 [r, rows], how often each pair is in each resample.
        """
        labels, count = np.arange(rows), rows
        if clusters is not None:
            _, labels = np.unique(np.asarray(clusters), return_inverse=True)
            count = int(labels.max()) + 1 if rows else 0
        if count < 2:  # one unit has no spread that could be measured
            return
        rng = np.random.default_rng(self.seed)
        block = max(1, _BLOCK // rows)
        for start in range(0, self.resamples, block):
            size = min(block, self.resamples - start)
            drawn = rng.multinomial(count, np.full(count, 1 / count), size=size)
            yield drawn[:, labels].astype(np.float64)

    def estimate(
        self,
        figure: Callable[[Floats], Floats],
        rows: int,
        clusters: ArrayLike | None = None,
    ) -> Estimate:
        """A figure of weighted pairs with its percentile interval.

        Args:
            figure: Weights float64 [r, rows] -> float64 [r]; NaN where undefined.
            rows: Number of pairs.
            clusters: As for :meth:`weights`.

        Returns:
            The figure at equal weights. No interval when it is undefined there, when there is
            one cluster only, or when half of the resamples leave it undefined.
        """
        value = float(figure(np.ones((1, rows)))[0]) if rows else float("nan")
        if not np.isfinite(value):
            return Estimate(float("nan"))
        parts = [figure(weights) for weights in self.weights(rows, clusters)]
        drawn = np.concatenate([np.empty(0), *parts])
        known = drawn[np.isfinite(drawn)]
        if 2 * len(known) <= len(drawn):
            return Estimate(value)
        tail = (1 - self.level) / 2
        low, high = np.quantile(known, [tail, 1 - tail])
        return Estimate(value, float(low), float(high))
