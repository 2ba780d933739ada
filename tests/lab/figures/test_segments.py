"""Segments: joint clusters, their order, and names that agree between branches."""

from __future__ import annotations

import numpy as np
import pytest

from vsm_fast.lab.figures import TooFewPointsError
from vsm_fast.lab.figures.segments import renamed_like, segment


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
    ("rows", "different"), [(np.empty((0, 4)), 0), (np.ones((30, 4)), 1), (np.eye(3), 3)]
)
def test_too_few_different_points(rows, different):
    with pytest.raises(TooFewPointsError, match=rf"4 segments.*have {different}\."):
        segment([rows.astype(np.float32)], 4)


def test_no_clusters():
    with pytest.raises(ValueError, match="at least 1; got 0"):
        segment([np.eye(3, dtype=np.float32)], 0)


def test_renaming_agrees_as_far_as_it_can():
    model = [np.array([0, 0, 0, 1, 1]), np.array([2, 2, 2, 2])]
    labels = [np.array([2, 2, 1, 1, 1]), np.array([0, 0, 0, 2])]
    renamed = renamed_like(labels, model, 3)
    assert [part.tolist() for part in renamed] == [[0, 0, 1, 1, 1], [2, 2, 2, 0]]


def test_renaming_keeps_clusters_apart():
    rng = np.random.default_rng(3)
    labels, model = rng.integers(0, 5, (2, 200))
    (renamed,) = renamed_like([labels], [model], 5)
    assert len({*zip(labels.tolist(), renamed.tolist(), strict=True)}) == 5
