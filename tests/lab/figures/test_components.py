"""Principal components as colours: one basis, one scale, one sign."""

from __future__ import annotations

import numpy as np
import pytest

from vsm_fast.lab.figures import TooFewPointsError
from vsm_fast.lab.figures.components import component_colours


def points(counts=(40, 25), channels=8, seed=0):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(channels, channels)) * np.geomspace(3, 0.1, channels)[:, None]
    return [(rng.normal(size=(n, channels)) @ mixing).astype(np.float32) for n in counts]


def test_colours_are_those_of_the_singular_vectors():
    parts = points()
    rows = np.concatenate(parts).astype(np.float64)
    centred = rows - rows.mean(axis=0)
    _, strength, vectors = np.linalg.svd(centred, full_matrices=False)
    values = centred @ vectors[:3].T
    values *= np.sign(vectors[:3][np.arange(3), np.abs(vectors[:3]).argmax(axis=1)])
    low, high = np.percentile(values, (1, 99), axis=0)
    found = component_colours(parts)
    expected = ((values - low) / (high - low)).clip(0, 1)
    np.testing.assert_allclose(np.concatenate(found.colours), expected, atol=1e-4)
    np.testing.assert_allclose(found.explained, (strength**2 / (strength**2).sum())[:3], atol=1e-6)
    assert [len(part) for part in found.colours] == [40, 25]


def test_equal_descriptors_have_one_colour_in_all_images():
    first, second = points()
    second[7] = first[3]
    colours = component_colours([first, second]).colours
    np.testing.assert_array_equal(colours[1][7], colours[0][3])


def test_the_split_into_images_changes_no_colour():
    rows = np.concatenate(points())
    one = component_colours([rows]).colours[0]
    many = component_colours([rows[:5], rows[5:5], rows[5:]]).colours
    np.testing.assert_array_equal(np.concatenate(many), one)
    assert many[1].shape == (0, 3)


@pytest.mark.filterwarnings("error")
def test_descriptors_without_variance_are_grey():
    found = component_colours([np.ones((9, 5), np.float32)])
    np.testing.assert_array_equal(found.colours[0], np.full((9, 3), 0.5))
    np.testing.assert_array_equal(found.explained, np.zeros(3))


def test_fewer_channels_than_colours():
    found = component_colours([np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)])
    np.testing.assert_array_equal(found.colours[0][:, 2], np.full(9, 0.5))
    assert np.ptp(found.colours[0][:, 1]) > 0.9


@pytest.mark.parametrize("counts", [(0,), (3,), (1, 0, 2)])
def test_too_few_points(counts):
    with pytest.raises(TooFewPointsError, match=rf"at least 4 points.*have {sum(counts)}\."):
        component_colours(points(counts))
