"""Evaluation run: controlled pairs, one scorer and baselines -> all figures of the comparison.

Pairs are decoded, scored and released batch by batch; memory holds one row of numbers and two
histograms per pair.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vsm_fast import __version__
from vsm_fast.errors import PairingError
from vsm_fast.lab.baselines.baseline import Baseline
from vsm_fast.lab.evaluation.bootstrap import Bootstrap
from vsm_fast.lab.evaluation.localisation import BINS, Localisation, localisation, place_histogram
from vsm_fast.lab.evaluation.metrics import (
    Correlation,
    Gain,
    Separation,
    correlation_gain,
    correlations,
    separation,
)
from vsm_fast.lab.evaluation.ratings import join_ratings
from vsm_fast.lab.pairs.pairs import ControlledPair
from vsm_fast.progress import Progress, reporting
from vsm_fast.results.heatmap import cells_inside
from vsm_fast.results.scores import VSMResult
from vsm_fast.scorer import VSMScorer

BATCH = 8  # pairs decoded at a time
VISUAL_THRESHOLDS = (0.5, 0.6, 0.7)  # the paper's
UNALTERED, OTHER_SUBJECT = "none", "other subject"
GROUPINGS = ("kind", "view", "subject")

Unit = Literal["pair", "subject"]


@dataclass(frozen=True)
class PairMeasurement:
    """Measured values of one pair.

    Attributes:
        id, subject, kind, view: As in ``ControlledPair``.
        oracle: In [0, 1], 1 = consistent; NaN without a subject.
        values: Value of each metric, higher = more consistent; NaN where undefined.
        n_matched: Points that match the reference semantically.
        n_source: Points of the generated subject.
        status: ``"ok"`` or the reason for an undefined VSM score, as in ``vsm_fast.Status``.
        points: int32 [2, B] of matched points (see ``place_histogram``); None if there is
            nothing to localise: no altered part, no unaltered part, or no matched point.
        pixels: The same for the heat map's pixels inside the subject.
    """

    id: str
    subject: str
    kind: str
    view: str
    oracle: float
    values: dict[str, float]
    n_matched: int
    n_source: int
    status: str
    points: NDArray[np.int32] | None = None
    pixels: NDArray[np.int32] | None = None


@dataclass(frozen=True)
class GroupCorrelation:
    """Correlation of one metric with one target over a group of pairs.

    ``target`` is ``"oracle"`` or ``"human"``; ``by`` is ``"all"`` (with ``group`` ``""``),
    ``"kind"``, ``"view"`` or ``"subject"``.
    """

    metric: str
    target: str
    by: str
    group: str
    correlation: Correlation


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Figures of one evaluation.

    Attributes:
        settings: Provenance: source, model, thresholds, bootstrap, versions.
        metrics: Columns, VSM's first.
        headline: Column of VSM at the model's own visual threshold.
        pairs: One row per pair, in order.
        human: float64 [P], mean human rating, NaN where unrated; None without ratings.
        correlations: Correlations with the oracle over all pairs and by kind, view and subject,
            and with the human ratings. Correlations with the oracle exclude pairs of two
            subjects: their oracle of 0, far from all others, would dominate.
        gains: Correlation gain of the headline over each other metric.
        points: Localisation by the visual similarity of matched points.
        pixels: Localisation by the heat map's pixels inside the subject.
        separation: Per metric, separation of unaltered pairs from pairs of two subjects.
        skipped: Baselines that could not run, with the reason.
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
        """Return the values of a metric, float64 [P]; NaN where undefined."""
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
        """Return the correlation of a metric over all pairs.

        Raises:
            KeyError: If there is no such metric or target.
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
    """Evaluate a scorer and baselines on controlled pairs.

    Args:
        pairs: Controlled pairs, read once, a batch at a time.
        scorer: Scorer of the model; its own visual threshold is the headline.
        baselines: Other metrics.
        visual_thresholds: Further visual thresholds of VSM, from the same matching.
        semantic_threshold: None = the model's.
        ratings: Mean human rating by pair id, from ``load_ratings``.
        bootstrap: Settings of the intervals; None = the defaults.
        unit: Unit of resampling: ``"pair"``, or ``"subject"`` with all its pairs (pairs of one
            subject are not independent).
        batch_size: Pairs decoded at a time.
        total: Number of pairs, for the progress bar; 0 if unknown.
        progress: True for a bar, or a function of (images done, images in all).
        skipped: Baselines that could not be loaded, with the reason; copied to the result.
        source: Origin of the pairs as JSON values; copied to the settings.

    Raises:
        PairingError: If there is no pair, ratings do not join, or ``unit`` is ``"subject"`` and
            no pair names its subject.
        ValueError: If a threshold is out of range, the unit is unknown, or a baseline breaks its
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
        raise ValueError(f"visual thresholds must lie in [-1, 1]; got {wrong}.")
    rows: list[PairMeasurement] = []
    stream = iter(pairs)
    with reporting(progress, 2 * total) as advance:
        while batch := list(islice(stream, batch_size)):
            scores = scorer.score(
                [pair.original_2 for pair in batch],
                [pair.altered_1 for pair in batch],
                ref_masks=[pair.mask_2 for pair in batch],
                gen_masks=[pair.mask_1 for pair in batch],
                semantic_threshold=semantic_threshold,
                visual_threshold=own.visual,
                heatmaps=True,
            )
            columns = {vsm_name(tau): scores.at(tau).astype(np.float64) for tau in thresholds}
            for baseline in baselines:
                values = np.asarray(baseline(batch), np.float64)
                if values.shape != (len(batch),) or np.isinf(values).any():
                    infinite = int(np.isinf(values).sum())
                    raise ValueError(
                        f"baseline {baseline.name!r} must return {len(batch)} finite numbers or "
                        f"NaN; got shape {values.shape} with {infinite} infinite."
                    )
                columns[baseline.name] = values
            for row, (pair, result) in enumerate(zip(batch, scores, strict=True)):
                rows.append(
                    PairMeasurement(
                        pair.id,
                        pair.subject,
                        pair.kind,
                        pair.view,
                        pair.oracle,
                        {name: float(column[row]) for name, column in columns.items()},
                        result.n_matched,
                        result.n_source,
                        result.status,
                        *_place_histograms(pair, result),
                    )
                )
            advance(2 * len(batch))
    if not rows:
        raise PairingError("there are no pairs to evaluate: check the filters.")
    if unit == "subject" and not any(row.subject for row in rows):
        raise PairingError(
            "intervals by subject need the subject of each pair, and these pairs name none (the "
            "published layout has no such column). Resample pairs instead."
        )
    human = None
    if ratings is not None:
        human = np.array(join_ratings(ratings, [row.id for row in rows]), np.float64)
    versions = {"vsm_fast": __version__, "python": platform.python_version()}
    for package in ("torch", "numpy", "scikit-image"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    settings = {
        "source": dict(source or {}),
        "model": scorer.config.name,
        "semantic_threshold": own.semantic if semantic_threshold is None else semantic_threshold,
        "visual_threshold": own.visual,
        "visual_thresholds": list(thresholds),
        "bootstrap": {**asdict(bootstrap), "unit": unit},
        "device": str(scorer.device),
        "versions": versions,
    }
    return summarise(tuple(rows), settings, human, bootstrap, unit, skipped or {})


def vsm_name(visual_threshold: float) -> str:
    """Return the column name of VSM at a visual threshold, like ``vsm@0.6``."""
    return f"vsm@{visual_threshold:g}"


def _place_histograms(
    pair: ControlledPair, result: VSMResult
) -> tuple[NDArray[np.int32] | None, NDArray[np.int32] | None]:
    """Return the histograms of points and of pixels; None if there is nothing to localise."""
    part, evidence = pair.part_1 & pair.mask_1, result.evidence
    if evidence is None or not part.any() or not (pair.mask_1 & ~part).any():
        return None, None
    similarity = evidence.visual_similarity[evidence.kept]
    altered = cells_inside(part, evidence.cells, evidence.grid, evidence.box)[evidence.kept]
    points = place_histogram(1 - np.maximum(similarity, 0), altered)
    heat = result.heatmap()
    inside = pair.mask_1 & np.isfinite(heat)
    pixels = place_histogram(heat[inside], part[inside])
    return points.astype(np.int32), pixels.astype(np.int32)


def summarise(
    rows: tuple[PairMeasurement, ...],
    settings: Mapping[str, Any],
    human: NDArray[np.float64] | None,
    bootstrap: Bootstrap,
    unit: Unit,
    skipped: Mapping[str, str],
) -> Evaluation:
    """Compute all figures of measured pairs; arguments as in ``Evaluation`` and ``evaluate``."""
    clusters = np.array([row.subject for row in rows]) if unit == "subject" else None
    metrics = tuple(rows[0].values)
    values = {name: np.array([row.values[name] for row in rows]) for name in metrics}
    kinds = np.array([row.kind for row in rows])
    oracle = np.where(kinds == OTHER_SUBJECT, np.nan, [row.oracle for row in rows])
    headline = vsm_name(settings["visual_threshold"])
    figures: list[GroupCorrelation] = []

    def correlate(
        metric: str, target: str, goal: NDArray[np.float64], by: str = "all", group: str = ""
    ) -> None:
        correlation = correlations(values[metric], goal, clusters=clusters, bootstrap=bootstrap)
        figures.append(GroupCorrelation(metric, target, by, group, correlation))

    def localise(histograms: Sequence[NDArray[np.int32] | None]) -> Localisation:
        present = [row for row, counts in enumerate(histograms) if counts is not None]
        stacked = [counts for counts in histograms if counts is not None]
        return localisation(
            np.stack(stacked) if stacked else np.zeros((0, 2, BINS)),
            clusters=None if clusters is None else clusters[present],
            bootstrap=bootstrap,
        )

    for metric in metrics:
        correlate(metric, "oracle", oracle)
        if human is not None:
            correlate(metric, "human", human)
    for by in GROUPINGS:
        names = np.array([getattr(row, by) for row in rows])
        # Unaltered pairs share one oracle; the oracle of pairs of two subjects is NaN here.
        for group in sorted({*names.tolist()} - {"", UNALTERED, OTHER_SUBJECT}):
            for metric in metrics:
                correlate(metric, "oracle", np.where(names == group, oracle, np.nan), by, group)
    return Evaluation(
        settings=settings,
        metrics=metrics,
        headline=headline,
        pairs=rows,
        human=human,
        correlations=tuple(figures),
        gains={
            name: correlation_gain(
                values[headline], values[name], oracle, clusters=clusters, bootstrap=bootstrap
            )
            for name in metrics
            if name != headline
        },
        points=localise([row.points for row in rows]),
        pixels=localise([row.pixels for row in rows]),
        separation={
            name: separation(column[kinds == UNALTERED], column[kinds == OTHER_SUBJECT])
            for name, column in values.items()
        },
        skipped=dict(skipped),
    )
