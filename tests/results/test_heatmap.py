"""Heat maps: scale, filling of cells, and resampling to pixels."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

import vsm_fast.results.heatmap
from vsm_fast.results.heatmap import (
    HeatmapEvidence,
    cell_centres,
    cells_inside,
    fill_cells,
    heatmap,
    inconsistency,
)


def evidence(values, kept, grid, box, mask):
    return HeatmapEvidence.pack(np.arange(len(values)), kept, values, grid, box, mask)


@pytest.mark.parametrize("threshold", [-1.0, -0.3, 0.0, 0.5, 0.6, 0.7, 0.99])
def test_scale_is_half_exactly_at_the_threshold(threshold):
    similarities = np.float32(threshold) + np.array([1e-5, 0, -1e-5], np.float32)
    passes, equal, fails = inconsistency(similarities, threshold)
    assert equal == 0.5
    assert passes < 0.5 < fails


def test_scale_is_linear_and_clipped():
    np.testing.assert_allclose(
        inconsistency([1.0, 0.8, 0.6, 0.4, 0.2, -1.0], 0.6), [0, 0.25, 0.5, 0.75, 1, 1], atol=1e-6
    )
    assert inconsistency(np.float32(1.0000001), 0.6) == 0


def test_scale_is_computed_in_float64():
    values = np.random.default_rng(6).uniform(-0.9, 1, 999).astype(np.float32)
    exact = 0.5 * ((1 - values.astype(np.float64)) / (1 - np.float64(np.float32(0.05))))
    found = inconsistency(values, 0.05)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, exact.clip(0, 1).astype(np.float32))


@pytest.mark.parametrize("threshold", [1.0, 1.5, -1.1, float("nan")])
def test_thresholds_outside_the_scale_are_refused(threshold):
    with pytest.raises(ValueError, match="visual_threshold"):
        inconsistency([0.5], threshold)


@pytest.mark.parametrize("sigma", [None, 1.5])
def test_filling_keeps_judged_cells_and_agrees_with_scipy_elsewhere(sigma, monkeypatch):
    if sigma is not None:
        monkeypatch.setattr(vsm_fast.results.heatmap, "SMOOTHING_SIGMA", sigma)
    rng = np.random.default_rng(1)
    values = rng.random((9, 12)).astype(np.float32)
    judged = rng.random((9, 12)) < 0.4
    filled = fill_cells(values, judged)
    np.testing.assert_array_equal(filled[judged], values[judged])
    options = {"sigma": sigma or 1.0, "mode": "constant", "radius": 3}
    weight = gaussian_filter(judged.astype(float), **options)
    expected = gaussian_filter(np.where(judged, values, 0).astype(float), **options) / weight
    np.testing.assert_allclose(filled[~judged], expected[~judged], rtol=1e-5)


@pytest.mark.filterwarnings("error")
def test_cells_out_of_reach_take_the_nearest_judged_cell():
    values, judged = np.zeros((1, 30), np.float32), np.zeros((1, 30), bool)
    values[0, [2, 25]], judged[0, [2, 25]] = (0.2, 0.9), True
    filled = fill_cells(values, judged)[0]
    np.testing.assert_array_equal(filled[:14], np.full(14, np.float32(0.2)))
    np.testing.assert_array_equal(filled[14:], np.full(16, np.float32(0.9)))


def test_one_judged_cell_gives_every_pixel_its_value():
    kept = np.arange(36) == 7
    only = evidence(np.where(kept, 0.2, 0.9), kept, (6, 6), (0, 0, 24, 24), np.ones((24, 24)))
    np.testing.assert_array_equal(heatmap(only, 0.5), np.full((24, 24), inconsistency(0.2, 0.5)))


def test_an_average_of_equal_values_is_that_value():
    rng = np.random.default_rng(7)
    for value in rng.random(50).astype(np.float32):
        filled = fill_cells(np.full((5, 6), value), rng.random((5, 6)) < 0.3 + np.eye(5, 6))
        assert set(filled.ravel().tolist()) == {float(value)}


def test_unjudged_values_have_no_influence():
    rng = np.random.default_rng(2)
    values, kept = rng.random(36).astype(np.float32), rng.random(36) < 0.5
    mask = np.ones((24, 24), bool)
    one = heatmap(evidence(values, kept, (6, 6), (0, 0, 24, 24), mask), 0.6)
    other = np.where(kept, values, np.nan).astype(np.float32)
    two = heatmap(evidence(other, kept, (6, 6), (0, 0, 24, 24), mask), 0.6)
    np.testing.assert_array_equal(one, two)
    assert np.isfinite(one).all()


def test_resampling_is_that_of_torch_over_the_box():
    rng = np.random.default_rng(3)
    values = rng.uniform(0.3, 1, 35).astype(np.float32)
    mask = np.zeros((40, 50), bool)
    mask[5:33, 10:41] = True
    result = heatmap(evidence(values, np.ones(35, bool), (5, 7), (7, 3, 47, 36), mask), 0.6)
    grid = torch.from_numpy(inconsistency(values, 0.6).reshape(1, 1, 5, 7))
    expected = np.full((40, 50), np.nan, np.float32)
    expected[3:36, 7:47] = torch.nn.functional.interpolate(
        grid, size=(33, 40), mode="bilinear", align_corners=False
    )[0, 0]
    expected[~mask] = np.nan
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_map_is_nan_off_the_subject_and_outside_the_box():
    mask = np.ones((10, 10), bool)
    mask[:, 0] = False
    result = heatmap(evidence([0.9], [True], (1, 1), (0, 0, 10, 5), mask), 0.6)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(result), ~mask | (np.arange(10) >= 5)[:, None])


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (2000, 7)])
def test_values_stay_in_range_at_odd_sizes(size):
    rng = np.random.default_rng(4)
    values = rng.uniform(-1, 1, 48 * 48)
    box = (0, 0, size[1], size[0])
    result = heatmap(
        evidence(values, rng.random(48 * 48) < 0.1, (48, 48), box, np.ones(size, bool)), 0.6
    )
    assert result.shape == size
    assert ((result >= 0) & (result <= 1)).all()


def test_evidence_packs_masks_and_converts_lists():
    mask = np.random.default_rng(5).random((13, 11)) < 0.5
    packed = evidence([0.5], [True], (2, 2), (0, 0, 11, 13), mask)
    np.testing.assert_array_equal(packed.mask, mask)
    assert packed.packed_mask.nbytes == 18
    mask = [[True, False], [False, True]]
    packed = HeatmapEvidence.pack([1], [1], [0.5], (2, 2), (0, 0, 2, 2), mask)
    np.testing.assert_array_equal(packed.mask, mask)
    plain = HeatmapEvidence([1], [1], [0.5], (2, 2), (0, 0, 2, 2), (2, 2), packed.packed_mask)
    for made in (packed, plain):
        columns = made.cells, made.kept, made.visual_similarity
        assert [column.dtype for column in columns] == [np.int32, np.bool_, np.float32]
        assert [column.tolist() for column in columns] == [[1], [True], [0.5]]
    with pytest.raises(ValueError, match="one bit for each of 2 x 9 pixels"):
        dataclasses.replace(packed, size=(2, 9))


TWO = {"kept": [True, True], "visual_similarity": [0.5, 0.5]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cells": [4]}, "cells must lie in"),
        ({**TWO, "cells": [0, 4]}, "cells must lie in"),
        ({**TWO, "cells": [-1, 0]}, "cells must lie in"),
        ({"cells": [0, 1]}, "equally long"),
        ({"box": (0, 0, 9, 8)}, "box must be"),
        ({"box": (3, 0, 3, 8)}, "box must be"),
        ({"box": (0, 3, 8, 3)}, "box must be"),
        ({"box": (-1, 0, 8, 8)}, "box must be"),
        ({"box": (0, -1, 8, 8)}, "box must be"),
        ({"mask": np.ones(8, bool)}, r"mask must be bool \[H, W\]"),
    ],
)
def test_bad_evidence_is_refused(change, message):
    good = {"cells": [0], "kept": [True], "visual_similarity": [0.5], "grid": (2, 2),
            "box": (0, 0, 8, 8), "mask": np.ones((8, 8), bool)}  # fmt: skip
    HeatmapEvidence.pack(**good)
    with pytest.raises(ValueError, match=message):
        HeatmapEvidence.pack(**{**good, **change})


def test_a_map_without_judged_points_is_refused():
    nothing = evidence([0.5], [False], (1, 1), (0, 0, 4, 4), np.ones((4, 4), bool))
    with pytest.raises(ValueError, match="no point matched"):
        heatmap(nothing, 0.6)


def test_centres_of_cells_and_the_mask_under_them():
    box, grid = (2, 4, 10, 8), (2, 4)  # cells of 2 x 2 pixels
    centres = cell_centres(np.arange(8), grid, box)
    assert centres[0].tolist() == [3, 5]
    assert centres[7].tolist() == [9, 7]
    mask = np.zeros((9, 11), bool)
    mask[4:6, 4:8] = True  # the second and the third cell of the first row
    assert cells_inside(mask, np.arange(8), grid, box).nonzero()[0].tolist() == [1, 2]
    assert cells_inside(mask, np.array([2, 7]), grid, box).tolist() == [True, False]
