"""Figures against scipy and against loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from vsm_fast.lab.evaluation.bootstrap import Bootstrap
from vsm_fast.lab.evaluation.metrics import auroc, correlation_gain, correlations, separation

NAN = math.nan
FEW = Bootstrap(resamples=200)


def data(n: int = 40, ties: bool = True) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    y = rng.uniform(0.4, 1, n)
    x = 0.5 * y + 0.1 * rng.normal(size=n)
    return (x.round(1), y.round(1)) if ties else (x, y)


@pytest.mark.parametrize("ties", [True, False])
def test_both_coefficients(ties: bool) -> None:
    x, y = data(ties=ties)
    found = correlations(x, y, bootstrap=FEW)
    assert found.pearson.value == pytest.approx(pearsonr(x, y)[0], abs=1e-12)
    assert found.spearman.value == pytest.approx(spearmanr(x, y)[0], abs=1e-12)
    assert (found.n, found.undefined) == (40, 0)


def test_small_differences_far_from_zero_are_not_lost() -> None:
    x, y = data(ties=False)
    found = correlations(1e6 + 1e-4 * x, y, bootstrap=FEW)
    assert found.pearson.value == pytest.approx(pearsonr(x, y)[0], abs=1e-4)


def test_every_resample_is_the_coefficient_of_the_pairs_it_draws() -> None:
    x, y = data(12)
    weights = np.concatenate(list(Bootstrap(resamples=50, seed=3).weights(12)))
    drawn_pearson, drawn_spearman = [], []
    for row in weights.astype(int):
        chosen = np.repeat(np.arange(12), row)
        drawn_pearson.append(pearsonr(x[chosen], y[chosen])[0])
        drawn_spearman.append(spearmanr(x[chosen], y[chosen])[0])
    found = correlations(x, y, bootstrap=Bootstrap(resamples=50, seed=3, level=0.8))
    for estimate, drawn in ((found.pearson, drawn_pearson), (found.spearman, drawn_spearman)):
        low, high = np.quantile(drawn, [0.1, 0.9])
        assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=1e-10)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    rng, held = np.random.default_rng(0), 0
    for seed in range(150):
        x = rng.normal(size=60)
        y = 0.6 * x + 0.8 * rng.normal(size=60)
        interval = correlations(x, y, bootstrap=Bootstrap(300, 0.9, seed)).pearson
        held += interval.low <= 0.6 <= interval.high
    assert 0.82 <= held / 150 <= 0.96


def test_subjects_are_drawn_as_wholes() -> None:
    subjects = np.repeat(["a", "b", "c"], [2, 3, 5])
    weights = np.concatenate(list(FEW.weights(10, subjects)))
    assert weights.shape == (200, 10)
    for name, total in (("a", 2), ("b", 3), ("c", 5)):
        mine = weights[:, subjects == name]
        assert mine.shape[1] == total
        assert (mine == mine[:, :1]).all()
    assert (weights[:, [0, 2, 5]].sum(axis=1) == 3).all()


def test_dependent_pairs_widen_the_interval() -> None:
    rng = np.random.default_rng(5)
    subjects = np.arange(8).repeat(20)
    shift = rng.normal(size=8)[subjects]
    x, y = shift + 0.1 * rng.normal(size=160), -shift + rng.normal(size=8)[subjects]
    by_pair = correlations(x, y, bootstrap=FEW).pearson
    by_subject = correlations(x, y, clusters=subjects, bootstrap=FEW).pearson
    assert by_subject.value == by_pair.value
    assert by_subject.high - by_subject.low > 2 * (by_pair.high - by_pair.low)


def test_what_is_undefined_is_counted() -> None:
    x, y = data(10)
    x[[2, 5]], y[9] = NAN, NAN
    found = correlations(x, y, bootstrap=FEW)
    assert (found.n, found.undefined) == (7, 2)
    known = [0, 1, 3, 4, 6, 7, 8]
    assert found.pearson.value == pytest.approx(pearsonr(x[known], y[known])[0])


@pytest.mark.parametrize(
    ("x", "y"), [([], []), ([1.0, 2], [1.0, 2]), ([0.5] * 9, range(9)), ([NAN] * 9, range(9))]
)
def test_no_number_where_there_is_none(x: list[float], y: list[float]) -> None:
    found = correlations(x, y, bootstrap=FEW)
    for estimate in (found.pearson, found.spearman):
        assert all(math.isnan(v) for v in (estimate.value, estimate.low, estimate.high))


def test_a_handful_of_pairs_has_no_interval() -> None:
    x, y = data(ties=False)
    for count, known in ((9, False), (10, True)):
        found = correlations(x[:count], y[:count], bootstrap=FEW).pearson
        assert found.value == pytest.approx(pearsonr(x[:count], y[:count])[0])
        assert math.isfinite(found.low) is known


def test_one_subject_has_no_interval_by_subject() -> None:
    x, y = data()
    found = correlations(x, y, clusters=["cup"] * 40, bootstrap=FEW).pearson
    assert math.isfinite(found.value)
    assert math.isnan(found.low)


def test_a_gain_is_a_difference_on_the_same_pairs() -> None:
    x, y = data(ties=False)
    worse = x + 0.1 * np.random.default_rng(2).normal(size=40)
    worse[3] = NAN
    known = np.arange(40) != 3
    gain = correlation_gain(x, worse, y, bootstrap=FEW)
    assert gain.n == 39
    expected = pearsonr(x[known], y[known])[0] - pearsonr(worse[known], y[known])[0]
    assert gain.pearson.value == pytest.approx(expected, abs=1e-12)
    alone = correlations(worse, y, bootstrap=FEW).pearson
    assert gain.pearson.high - gain.pearson.low < alone.high - alone.low
    nothing = correlation_gain(x, x, y, bootstrap=FEW)
    assert (nothing.pearson.value, nothing.pearson.low, nothing.pearson.high) == (0, 0, 0)


def test_separation_compares_every_pair_with_every_pair() -> None:
    same, other = [0.9, 0.5, NAN, 0.7], [0.5, 0.1, 0.7, NAN, NAN]
    found = separation(same, other)
    comparisons = list(itertools.product([0.9, 0.5, 0.7], [0.5, 0.1, 0.7]))
    assert found.higher == pytest.approx(sum(a > b for a, b in comparisons) / 9)
    assert found.tied == pytest.approx(sum(a == b for a, b in comparisons) / 9)
    assert (found.mean_same, found.mean_other) == pytest.approx((0.7, 1.3 / 3))
    assert (found.n_same, found.n_other) == (3, 3)
    assert (found.undefined_same, found.undefined_other) == (1, 2)
    empty = separation([], [0.3])
    assert math.isnan(empty.higher)
    assert math.isnan(empty.mean_same)


def test_auroc_counts_ties_half() -> None:
    positive, negative = [0.3, 0.5, 0.5, 0.9], [0.1, 0.5, 0.6]
    wins = [(a > b) + 0.5 * (a == b) for a in positive for b in negative]
    assert auroc(positive, negative) == pytest.approx(sum(wins) / 12)
    assert math.isnan(auroc([], [1.0]))


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1-D and equally long; got \(3,\) and \(2,\)"):
        correlations([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="level in"):
        Bootstrap(level=1.0)
