"""Measuring: a stream of controlled pairs -> one row of numbers a pair.

Pairs are decoded, scored by VSM and by the baselines, and forgotten batch by batch; what is kept
of a pair is a row and two histograms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from vsm_fast.lab.baselines.protocol import Baseline
from vsm_fast.lab.evaluation.localisation import BINS, place_histogram
from vsm_fast.lab.pairs.pairs import ControlledPair
from vsm_fast.results.heatmap import cells_inside
from vsm_fast.results.scores import VSMResult
from vsm_fast.scorer import VSMScorer

BATCH = 8  # pairs decoded at a time


@dataclass(frozen=True)
class PairMeasurement:
    """The numbers of one pair.

    Attributes:
        id, subject, kind, view: As in ``ControlledPair``.
        oracle: In [0, 1], 1 = consistent; NaN without a subject.
        values: Each metric's value, higher = more consistent; NaN where undefined.
        n_matched: Points that matched the reference semantically.
        n_source: Points of the generated subject.
        status: ``"ok"`` or why VSM is undefined; the values of ``vsm_fast.Status``.
        points: int32 [2, B] of matched points (see ``place_histogram``); None where there is
            nothing to localise: no altered part, nothing but it, or no matched point.
        pixels: The same of the heat map's pixels inside the subject.
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


def vsm_name(visual_threshold: float) -> str:
    """Column of VSM at a visual threshold, like ``vsm@0.6``."""
    return f"vsm@{visual_threshold:g}"


def measure(
    pairs: Iterable[ControlledPair],
    scorer: VSMScorer,
    baselines: Sequence[Baseline] = (),
    *,
    visual_thresholds: Sequence[float],
    semantic_threshold: float | None = None,
    batch_size: int = BATCH,
    advance: Callable[[int], None] = lambda images: None,
) -> Iterator[PairMeasurement]:
    """Measure pairs one by one, in order.

    Args:
        pairs: Read once, a batch at a time.
        scorer: Scores ``altered_1`` against ``original_2``.
        baselines: Judged on the same batches.
        visual_thresholds: Of VSM; all from one matching. The heat map is drawn at the first.
        semantic_threshold: None = the model's.
        batch_size: Pairs decoded at a time.
        advance: Called with the number of images just finished.

    Raises:
        ValueError: A baseline does not give one finite number or NaN a pair.
    """
    stream = iter(pairs)
    while batch := list(islice(stream, batch_size)):
        scores = scorer.score(
            [pair.original_2 for pair in batch],
            [pair.altered_1 for pair in batch],
            ref_masks=[pair.mask_2 for pair in batch],
            gen_masks=[pair.mask_1 for pair in batch],
            semantic_threshold=semantic_threshold,
            visual_threshold=visual_thresholds[0],
            heatmaps=True,
        )
        columns = {vsm_name(tau): scores.at(tau).astype(np.float64) for tau in visual_thresholds}
        columns |= {baseline.name: _checked(baseline, batch) for baseline in baselines}
        for row, (pair, result) in enumerate(zip(batch, scores, strict=True)):
            points, pixels = _located(pair, result)
            yield PairMeasurement(
                id=pair.id,
                subject=pair.subject,
                kind=pair.kind,
                view=pair.view,
                oracle=pair.oracle,
                values={name: float(column[row]) for name, column in columns.items()},
                n_matched=result.n_matched,
                n_source=result.n_source,
                status=result.status,
                points=points,
                pixels=pixels,
            )
        advance(2 * len(batch))


def _checked(baseline: Baseline, batch: Sequence[ControlledPair]) -> NDArray[np.float64]:
    values = np.asarray(baseline(batch), np.float64)
    if values.shape != (len(batch),) or np.isinf(values).any():
        raise ValueError(
            f"baseline {baseline.name!r} must give {len(batch)} finite numbers or NaN; got shape "
            f"{values.shape} with {int(np.isinf(values).sum())} infinite."
        )
    return values


def _located(
    pair: ControlledPair, result: VSMResult
) -> tuple[NDArray[np.int32] | None, NDArray[np.int32] | None]:
    """Histograms of points and of pixels, where there is something to localise."""
    part = pair.part_1 & pair.mask_1
    if result.evidence is None or not part.any() or not (pair.mask_1 & ~part).any():
        return None, None
    evidence = result.evidence
    similarity = evidence.visual_similarity[evidence.kept]
    altered = cells_inside(part, evidence.cells, evidence.grid, evidence.box)[evidence.kept]
    points = place_histogram(1 - np.maximum(similarity, 0), altered, BINS)
    heat = result.heatmap()
    inside = pair.mask_1 & np.isfinite(heat)
    pixels = place_histogram(heat[inside], part[inside], BINS)
    return points.astype(np.int32), pixels.astype(np.int32)
