"""Histogram figures against the same figures of the plain values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vsm_fast.lab.evaluation.bootstrap import Bootstrap
from vsm_fast.lab.evaluation.localisation import (
    histogram_auroc,
    localisation,
    overlaps,
    place_histogram,
    roc_curve,
)
from vsm_fast.lab.evaluation.metrics import auroc

FEW = Bootstrap(resamples=100)


def places(seed: int, count: int = 200, lift: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    altered = rng.random(count) < 0.3
    # Multiples of 1/64: the bins of 1/64 then say exactly what the values say.
    value = np.clip(rng.normal(0.4, 0.15, count) + lift * altered, 0, 0.99)
    return np.floor(value * 64) / 64, altered


def test_area_within_and_over_all_pairs() -> None:
    pairs = [places(seed, lift=0.1 * seed) for seed in range(4)]
    found = localisation([place_histogram(*pair, bins=64) for pair in pairs], bootstrap=FEW)
    own = [auroc(value[altered], value[~altered]) for value, altered in pairs]
    value, altered = (np.concatenate(column) for column in zip(*pairs, strict=True))
    assert found.auroc_within.value == pytest.approx(np.mean(own), abs=1e-12)
    assert found.auroc.value == pytest.approx(auroc(value[altered], value[~altered]), abs=1e-12)
    assert found.auroc.low < found.auroc.value < found.auroc.high
    assert (found.pairs, found.places, found.altered) == (4, 800, altered.sum())


def test_overlap_at_every_threshold() -> None:
    pairs = [places(seed) for seed in range(3)]
    histograms = np.array([place_histogram(*pair, bins=64) for pair in pairs])
    table = np.array(
        [
            [
                ((value >= k / 64) & altered).sum() / ((value >= k / 64) | altered).sum()
                for k in range(64)
            ]
            for value, altered in pairs
        ]
    )
    np.testing.assert_allclose(overlaps(histograms.astype(float)), table, atol=1e-12)
    found = localisation(histograms, bootstrap=FEW)
    assert found.best_iou.value == pytest.approx(table.mean(axis=0).max())
    assert found.best_threshold == table.mean(axis=0).argmax() / 64
    assert found.best_iou_each.value == pytest.approx(table.max(axis=1).mean())
    assert found.best_iou_each.value >= found.best_iou.value


def test_a_perfect_and_a_reversed_map() -> None:
    altered = np.array([True] * 3 + [False] * 5)
    perfect = localisation([place_histogram(altered.astype(float), altered)] * 3, bootstrap=FEW)
    assert (perfect.auroc.value, perfect.best_iou.value) == (1, 1)
    reverse = localisation([place_histogram(1.0 - altered, altered)] * 3, bootstrap=FEW)
    assert (reverse.auroc.value, reverse.best_iou.value) == (0, 3 / 8)
    flat = localisation([place_histogram(np.full(8, 0.5), altered)] * 3, bootstrap=FEW)
    assert flat.auroc.value == 0.5


def test_pairs_with_one_sort_of_place_say_nothing() -> None:
    value, altered = places(0)
    histogram = place_histogram(value, altered)
    alone = place_histogram(value, np.ones_like(altered))
    assert localisation([histogram, alone], bootstrap=FEW).pairs == 1
    none = localisation(np.zeros((0, 2, 8)), bootstrap=FEW)
    assert none.pairs == 0
    assert math.isnan(none.auroc.value)
    assert math.isnan(none.best_iou.value)
    assert math.isnan(none.best_threshold)


def test_the_curve_encloses_the_area() -> None:
    value, altered = places(7)
    histogram = place_histogram(value, altered, bins=64)
    false, true = roc_curve(histogram)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    area = (np.diff(false) * (true[1:] + true[:-1]) / 2).sum()
    assert area == pytest.approx(float(histogram_auroc(histogram.astype(float))), abs=1e-12)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="1 NaN"):
        place_histogram([0.1, math.nan], [True, False])
    with pytest.raises(ValueError, match="equally long"):
        place_histogram([0.1], [True, False])
    with pytest.raises(ValueError, match=r"\[pairs, 2, bins\]; got \[3, 4\]"):
        localisation(np.zeros((3, 4)))
