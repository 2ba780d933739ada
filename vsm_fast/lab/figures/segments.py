"""Segments: k-means clusters of descriptors, one clustering for all images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vsm_fast.extras import required
from vsm_fast.lab.figures.views import TooFewPointsError

_STARTS = 10  # of k-means; the best counts


def segment(
    descriptors: Sequence[NDArray[np.float32]], clusters: int, *, seed: int = 0
) -> list[NDArray[np.int64]]:
    """Cluster the points of all images together.

    Args:
        descriptors: Of each image float [n, D].
        clusters: Number of clusters, at least 1.
        seed: Of the starting points.

    Returns:
        Of each image int64 [n], the cluster of each point; 0 is the largest cluster.

    Raises:
        ValueError: ``clusters`` is below 1.
        TooFewPointsError: Fewer different points than clusters.
        ImportError: scikit-learn is not installed; names the extra.
    """
    cluster = required("sklearn.cluster", "a picture of segments")
    if clusters < 1:
        raise ValueError(f"clusters must be at least 1; got {clusters}.")
    rows = np.concatenate(descriptors)
    different = len(np.unique(rows, axis=0)) if len(rows) else 0
    if different < clusters:
        raise TooFewPointsError(
            f"{clusters} segments need at least as many different points; the subjects of "
            f"{len(descriptors)} images have {different}. Ask for fewer, or check the masks."
        )
    threads = required("threadpoolctl", "a picture of segments")
    with threads.threadpool_limits(1):  # with so few points threads only wait for each other
        found = cluster.KMeans(clusters, n_init=_STARTS, random_state=seed).fit_predict(rows)
    order = np.argsort(-np.bincount(found, minlength=clusters), kind="stable")
    rank = np.empty(clusters, np.int64)
    rank[order] = np.arange(clusters)
    ends = np.cumsum([len(part) for part in descriptors])[:-1]
    return np.split(rank[found], ends)


def renamed_like(
    labels: Sequence[NDArray[np.int64]], model: Sequence[NDArray[np.int64]], clusters: int
) -> list[NDArray[np.int64]]:
    """Rename clusters so that as many points as possible have the label that ``model`` gives.

    Clusterings number their clusters as they like; after this, points of different labels
    differ because they are clustered differently.

    Args:
        labels: Of each image int64 [n], in [0, clusters).
        model: Another clustering of the same points.
        clusters: Number of clusters of both.
    """
    optimize = required("scipy.optimize", "a picture of segments")
    mine, theirs = np.concatenate(labels), np.concatenate(model)
    shared = np.bincount(mine * clusters + theirs, minlength=clusters**2)
    _, names = optimize.linear_sum_assignment(shared.reshape(clusters, clusters), maximize=True)
    return [np.asarray(names[part], np.int64) for part in labels]
