"""Evaluation: controlled pairs, one scorer, some baselines -> every figure of the comparison."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vsm_fast import __version__
from vsm_fast.errors import PairingError
from vsm_fast.lab.baselines.protocol import Baseline
from vsm_fast.lab.evaluation.bootstrap import Bootstrap
from vsm_fast.lab.evaluation.localisation import BINS, Localisation, localisation
from vsm_fast.lab.evaluation.measures import (
    Correlation,
    Gain,
    Separation,
    correlation_gain,
    correlations,
    separation,
)
from vsm_fast.lab.evaluation.measuring import BATCH, PairMeasurement, measure, vsm_name
from vsm_fast.lab.evaluation.ratings import join_ratings
from vsm_fast.lab.pairs.pairs import ControlledPair
from vsm_fast.progress import Progress, reporting
from vsm_fast.scorer import VSMScorer

VISUAL_THRESHOLDS = (0.5, 0.6, 0.7)  # the paper's
UNALTERED, OTHER_SUBJECT = "none", "other subject"

Unit = Literal["pair", "subject"]
GROUPINGS = ("kind", "view", "subject")


@dataclass(frozen=True)
class GroupCorrelation:
    """Correlation of one metric with one target over some of the pairs.

    Attributes:
        metric: Column.
        target: ``"oracle"`` or ``"human"``.
        by: ``"all"``, ``"kind"``, ``"view"`` or ``"subject"``.
        group: The kind, view or subject; ``""`` for all.
        correlation: The figures.
    """

    metric: str
    target: str
    by: str
    group: str
    correlation: Correlation


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The figures of one evaluation.

    Attributes:
        settings: What was evaluated and how: model, thresholds, bootstrap, versions.
        metrics: Columns, VSM's first.
        headline: The column of VSM at the model's own visual threshold.
        pairs: One row a pair, in order.
        human: float64 [P], mean human rating, NaN where unrated; None without ratings.
        correlations: With the oracle over all pairs and by kind, view and subject, and with the
            human ratings. Pairs of two subjects are in none: their oracle of 0 far from all
            others would decide the figure.
        gains: By how much the headline correlates better with the oracle than each other metric.
        points: Of matched points: does a low visual similarity lie in the altered part?
        pixels: Of the heat map's pixels inside the subject.
        separation: By metric: unaltered pairs against pairs of two subjects.
        skipped: Baselines that could not be run, and why.
    """

    settings: Mapping[str, Any]
    metrics: tuple[str, ...]
    headline: str
    pairs: tuple[PairMeasurement, ...]
    human: NDArray[np.float64] | None
    correlations: tuple[GroupCorrelation, ...]
    gains: Mapping[str, Gain]
    points: Localisation
    pixels: Localisation
    separation: Mapping[str, Separation]
    skipped: Mapping[str, str] = field(default_factory=dict)

    def column(self, metric: str) -> NDArray[np.float64]:
        """Values of a metric, float64 [P], NaN where undefined."""
        return np.array([pair.values[metric] for pair in self.pairs], np.float64)

    @property
    def oracle(self) -> NDArray[np.float64]:
        """Oracle of each pair, float64 [P]."""
        return np.array([pair.oracle for pair in self.pairs], np.float64)

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Number of pairs by kind, view, subject and status."""
        return {
            name: dict(sorted(Counter(getattr(pair, name) for pair in self.pairs).items()))
            for name in (*GROUPINGS, "status")
        }

    def overall(self, metric: str, target: str = "oracle") -> Correlation:
        """Correlation of a metric over all pairs.

        Raises:
            KeyError: No such metric or target.
        """
        for row in self.correlations:
            if (row.metric, row.target, row.by) == (metric, target, "all"):
                return row.correlation
        raise KeyError(f"no correlation of {metric!r} with {target!r}")


def evaluate(
    pairs: Iterable[ControlledPair],
    scorer: VSMScorer,
    baselines: Sequence[Baseline] = (),
    *,
    visual_thresholds: Sequence[float] = VISUAL_THRESHOLDS,
    semantic_threshold: float | None = None,
    ratings: Mapping[str, float] | None = None,
    bootstrap: Bootstrap | None = None,
    unit: Unit = "pair",
    batch_size: int = BATCH,
    total: int = 0,
    progress: Progress = None,
    skipped: Mapping[str, str] | None = None,
    source: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Evaluate a scorer, and baselines beside it, on controlled pairs.

    Args:
        pairs: Read once, a batch at a time, and not kept.
        scorer: The model; its own visual threshold is the headline.
        baselines: Other metrics.
        visual_thresholds: Further visual thresholds for VSM, from the same matching.
        semantic_threshold: None = the model's.
        ratings: Mean human rating by pair id, as ``load_ratings`` gives them.
        bootstrap: Of the intervals; None takes the defaults.
        unit: What is resampled: ``"pair"``, or ``"subject"`` with all its pairs (pairs of one
            subject are not independent).
        batch_size: Pairs decoded at a time.
        total: Number of pairs, for the progress bar; 0 when unknown.
        progress: True for a bar, or a function of (images done, images in all).
        skipped: Baselines that could not be made, and why; passed on to the result.
        source: Where the pairs come from; JSON values, passed on to the settings.

    Raises:
        PairingError: There is no pair, ratings do not join, or ``unit`` is ``"subject"`` and no
            pair names its subject.
        ValueError: A threshold out of range, an unknown unit, or a baseline that breaks its
            contract.

    Source: arXiv 2509.21989, evaluation.
    """
    if unit not in ("pair", "subject"):
        raise ValueError(f"unit must be 'pair' or 'subject'; got {unit!r}.")
    bootstrap = bootstrap or Bootstrap()
    own = scorer.config.thresholds
    thresholds = tuple(dict.fromkeys([own.visual, *map(float, visual_thresholds)]))
    wrong = [tau for tau in thresholds if not -1 <= tau <= 1]
    if wrong:
        raise ValueError(f"visual thresholds lie in [-1, 1]; got {wrong}.")
    with reporting(progress, 2 * total) as advance:
        rows = tuple(
            measure(
                pairs,
                scorer,
                baselines,
                visual_thresholds=thresholds,
                semantic_threshold=semantic_threshold,
                batch_size=batch_size,
                advance=advance,
            )
        )
    if not rows:
        raise PairingError("there are no pairs to evaluate; check the filters.")
    if unit == "subject" and not any(row.subject for row in rows):
        raise PairingError(
            "intervals by subject need the subject of each pair, and these pairs name none (the "
            "published layout has no such column); resample pairs instead."
        )
    metrics = tuple(rows[0].values)
    human = None
    if ratings is not None:
        human = np.array(join_ratings(ratings, [row.id for row in rows]), np.float64)
    settings = {
        "source": dict(source or {}),
        "model": scorer.config.name,
        "semantic_threshold": own.semantic if semantic_threshold is None else semantic_threshold,
        "visual_threshold": own.visual,
        "visual_thresholds": list(thresholds),
        "bootstrap": {**asdict(bootstrap), "unit": unit},
        "device": str(scorer.device),
        "versions": _versions(),
    }
    return _figures(rows, metrics, settings, human, bootstrap, unit, dict(skipped or {}))


def _figures(
    rows: tuple[PairMeasurement, ...],
    metrics: tuple[str, ...],
    settings: Mapping[str, Any],
    human: NDArray[np.float64] | None,
    bootstrap: Bootstrap,
    unit: Unit,
    skipped: Mapping[str, str],
) -> Evaluation:
    subjects = np.array([row.subject for row in rows])
    clusters = subjects if unit == "subject" else None
    values = {name: np.array([row.values[name] for row in rows]) for name in metrics}
    oracle = np.array([row.oracle for row in rows])
    kinds = np.array([row.kind for row in rows])
    judged = np.where(kinds == OTHER_SUBJECT, np.nan, oracle)
    headline = vsm_name(settings["visual_threshold"])
    return Evaluation(
        settings=settings,
        metrics=metrics,
        headline=headline,
        pairs=rows,
        human=human,
        correlations=tuple(_correlations(rows, values, judged, human, clusters, bootstrap)),
        gains={
            name: correlation_gain(
                values[headline], values[name], judged, clusters=clusters, bootstrap=bootstrap
            )
            for name in metrics
            if name != headline
        },
        points=_localised([row.points for row in rows], clusters, bootstrap),
        pixels=_localised([row.pixels for row in rows], clusters, bootstrap),
        separation={
            name: separation(column[kinds == UNALTERED], column[kinds == OTHER_SUBJECT])
            for name, column in values.items()
        },
        skipped=skipped,
    )


def _correlations(
    rows: Sequence[PairMeasurement],
    values: Mapping[str, NDArray[np.float64]],
    oracle: NDArray[np.float64],
    human: NDArray[np.float64] | None,
    clusters: NDArray[np.str_] | None,
    bootstrap: Bootstrap,
) -> Iterator[GroupCorrelation]:
    def over(metric: str, target: NDArray[np.float64]) -> Correlation:
        return correlations(values[metric], target, clusters=clusters, bootstrap=bootstrap)

    for metric in values:
        yield GroupCorrelation(metric, "oracle", "all", "", over(metric, oracle))
        if human is not None:
            yield GroupCorrelation(metric, "human", "all", "", over(metric, human))
    for by in GROUPINGS:
        names = np.array([getattr(row, by) for row in rows])
        # Unaltered pairs have one oracle, and those of two subjects are not correlated at all.
        groups = sorted({*names.tolist()} - {"", UNALTERED, OTHER_SUBJECT})
        for group in groups:
            target = np.where(names == group, oracle, np.nan)
            for metric in values:
                yield GroupCorrelation(metric, "oracle", by, group, over(metric, target))


def _localised(
    histograms: Sequence[NDArray[np.int32] | None],
    clusters: NDArray[np.str_] | None,
    bootstrap: Bootstrap,
) -> Localisation:
    known = [row for row, counts in enumerate(histograms) if counts is not None]
    stacked = [counts for counts in histograms if counts is not None]
    return localisation(
        np.stack(stacked) if stacked else np.zeros((0, 2, BINS)),
        clusters=None if clusters is None else clusters[known],
        bootstrap=bootstrap,
    )


def _versions() -> dict[str, str]:
    found = {"vsm_fast": __version__, "python": platform.python_version()}
    for package in ("torch", "numpy", "scikit-image"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
