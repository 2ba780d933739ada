"""Principal components (one basis, scale and sign) and clusters of descriptors."""

from __future__ import annotations

import numpy as np
import pytest

from vsm_fast.lab.figures import TooFewPointsError
from vsm_fast.lab.figures.analysis import align_labels, component_colours, segment


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
    colours, explained = component_colours(parts)
    expected = ((values - low) / (high - low)).clip(0, 1)
    np.testing.assert_allclose(np.concatenate(colours), expected, atol=1e-4)
    np.testing.assert_allclose(explained, (strength**2 / (strength**2).sum())[:3], atol=1e-6)
    assert [len(part) for part in colours] == [40, 25]


def test_equal_descriptors_have_one_colour_in_all_images():
    first, second = points()
    second[7] = first[3]
    colours = component_colours([first, second])[0]
    np.testing.assert_array_equal(colours[1][7], colours[0][3])


def test_the_split_into_images_changes_no_colour():
    rows = np.concatenate(points())
    one = component_colours([rows])[0][0]
    many = component_colours([rows[:5], rows[5:5], rows[5:]])[0]
    np.testing.assert_array_equal(np.concatenate(many), one)
    assert many[1].shape == (0, 3)


@pytest.mark.filterwarnings("error")
def test_descriptors_without_variance_are_grey():
    (colours,), explained = component_colours([np.ones((9, 5), np.float32)])
    np.testing.assert_array_equal(colours, np.full((9, 3), 0.5))
    np.testing.assert_array_equal(explained, np.zeros(3))


def test_fewer_channels_than_colours():
    rows = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)
    (colours,), _ = component_colours([rows])
    np.testing.assert_array_equal(colours[:, 2], np.full(9, 0.5))
    assert np.ptp(colours[:, 1]) > 0.9


@pytest.mark.parametrize("counts", [(0,), (3,), (1, 0, 2)])
def test_too_few_points(counts):
    with pytest.raises(TooFewPointsError, match=rf"at least 4 points.*have {sum(counts)}\."):
        component_colours(points(counts))


def blobs(counts, seed=0):
    """Points around as many far-off centres, in the order of ``counts``; their labels."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    centres = 10 * np.eye(len(counts), 6)
    return (centres[labels] + rng.normal(0, 0.1, (len(labels), 6))).astype(np.float32), labels


def test_images_are_clustered_together_and_the_largest_comes_first():
    rows, labels = blobs((10, 40, 25))
    order = np.random.default_rng(1).permutation(len(rows))
    rows, labels = rows[order], labels[order]
    parts = segment([rows[:30], rows[30:30], rows[30:]], 3)
    assert [len(part) for part in parts] == [30, 0, 45]
    np.testing.assert_array_equal(np.concatenate(parts), np.array([2, 0, 1])[labels])


def test_a_seed_gives_one_result():
    rows = np.random.default_rng(2).normal(size=(80, 6)).astype(np.float32)
    np.testing.assert_array_equal(segment([rows], 5, seed=4)[0], segment([rows], 5, seed=4)[0])


def test_every_point_alone_and_all_together():
    rows, _ = blobs((1, 1, 1, 1))
    assert sorted(segment([rows], 4)[0]) == [0, 1, 2, 3]
    assert segment([rows], 1)[0].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("rows", "distinct"), [(np.empty((0, 4)), 0), (np.ones((30, 4)), 1), (np.eye(3), 3)]
)
def test_too_few_different_points(rows, distinct):
    with pytest.raises(TooFewPointsError, match=rf"4 segments.*have {distinct}\."):
        segment([rows.astype(np.float32)], 4)


def test_no_clusters():
    with pytest.raises(ValueError, match="at least 1; got 0"):
        segment([np.eye(3, dtype=np.float32)], 0)


def test_aligned_labels_agree_as_far_as_they_can():
    target = [np.array([0, 0, 0, 1, 1]), np.array([2, 2, 2, 2])]
    labels = [np.array([2, 2, 1, 1, 1]), np.array([0, 0, 0, 2])]
    aligned = align_labels(labels, target, 3)
    assert [part.tolist() for part in aligned] == [[0, 0, 1, 1, 1], [2, 2, 2, 0]]


def test_alignment_keeps_clusters_apart():
    labels, target = np.random.default_rng(3).integers(0, 5, (2, 200))
    (aligned,) = align_labels([labels], [target], 5)
    assert len({*zip(labels.tolist(), aligned.tolist(), strict=True)}) == 5
