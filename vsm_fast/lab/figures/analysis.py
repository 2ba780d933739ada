"""Principal components and clusters of descriptors, fitted to all images together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vsm_fast.extras import required
from vsm_fast.lab.figures.views import TooFewPointsError

_CHANNELS = 3  # red, green, blue
_PERCENTILES = (1, 99)  # of a component over all images: black and full; outliers saturate
_STARTS = 10  # of k-means, of which the best counts


def component_colours(
    descriptors: Sequence[NDArray[np.float32]],
) -> tuple[list[NDArray[np.float32]], NDArray[np.float64]]:
    """Colour points by the first three principal components of their descriptors.

    All images share one basis and one scale: a colour stands for the same place in descriptor
    space in all of them. The analysis leaves the sign of a component open; here its largest entry
    is positive.

    Args:
        descriptors: Per image float [n, D].

    Returns:
        Per image float32 [n, 3] in [0, 1], the components as red, green and blue; and float64 [3]
        in [0, 1], the share of the variance per component.

    Raises:
        TooFewPointsError: If there are fewer than four points, which span no three components.
        ImportError: If scikit-learn is not installed; names the extra.
    """
    decomposition = required("sklearn.decomposition", "a PCA picture")
    rows = np.concatenate(descriptors).astype(np.float64)
    if len(rows) <= _CHANNELS:
        raise TooFewPointsError(
            f"three principal components need at least {_CHANNELS + 1} points; the subjects of "
            f"{len(descriptors)} images have {len(rows)}. Check the masks, or add images."
        )
    count = min(_CHANNELS, rows.shape[1])
    analysis = decomposition.PCA(n_components=count, svd_solver="covariance_eigh")
    with np.errstate(invalid="ignore"):  # without any variance the shares are 0 / 0
        analysis.fit(rows)
    basis = analysis.components_
    largest = np.take_along_axis(basis, np.abs(basis).argmax(axis=1, keepdims=True), axis=1)
    values = np.zeros((len(rows), _CHANNELS))
    values[:, :count] = (rows - analysis.mean_) @ np.where(largest < 0, -basis, basis).T
    explained = np.zeros(_CHANNELS)
    explained[:count] = np.nan_to_num(analysis.explained_variance_ratio_)
    low, high = np.percentile(values, _PERCENTILES, axis=0)
    flat = high - low <= 1e-9  # descriptors have unit length: such a spread is rounding error
    scaled = ((values - low) / np.where(flat, 1, high - low)).clip(0, 1)
    colours = np.where(flat, 0.5, scaled).astype(np.float32)
    ends = np.cumsum([len(part) for part in descriptors])[:-1]
    return np.split(colours, ends), explained


def segment(
    descriptors: Sequence[NDArray[np.float32]], clusters: int, *, seed: int = 0
) -> list[NDArray[np.int64]]:
    """Cluster the points of all images together by k-means.

    Args:
        descriptors: Per image float [n, D].
        clusters: Number of clusters, at least 1.
        seed: Random seed of the starting points.

    Returns:
        Per image int64 [n], the cluster of each point; 0 is the largest cluster.

    Raises:
        ValueError: If ``clusters`` is below 1.
        TooFewPointsError: If there are fewer distinct points than clusters.
        ImportError: If scikit-learn is not installed; names the extra.
    """
    cluster = required("sklearn.cluster", "a picture of segments")
    threads = required("threadpoolctl", "a picture of segments")
    if clusters < 1:
        raise ValueError(f"clusters must be at least 1; got {clusters}.")
    rows = np.concatenate(descriptors)
    distinct = len(np.unique(rows, axis=0)) if len(rows) else 0
    if distinct < clusters:
        raise TooFewPointsError(
            f"{clusters} segments need at least as many distinct points; the subjects of "
            f"{len(descriptors)} images have {distinct}. Ask for fewer, or check the masks."
        )
    with threads.threadpool_limits(1):  # with so few points, threads wait for each other
        labels = cluster.KMeans(clusters, n_init=_STARTS, random_state=seed).fit_predict(rows)
    order = np.argsort(-np.bincount(labels, minlength=clusters), kind="stable")
    rank = np.empty(clusters, np.int64)
    rank[order] = np.arange(clusters)
    ends = np.cumsum([len(part) for part in descriptors])[:-1]
    return np.split(rank[labels], ends)


def align_labels(
    labels: Sequence[NDArray[np.int64]], target: Sequence[NDArray[np.int64]], clusters: int
) -> list[NDArray[np.int64]]:
    """Permute cluster labels to agree with another clustering on as many points as possible.

    K-means numbers its clusters arbitrarily; after alignment, a difference of labels is a
    difference of the clusterings.

    Args:
        labels: Per image int64 [n], in [0, clusters).
        target: Another clustering of the same points.
        clusters: Number of clusters of both.
    """
    optimize = required("scipy.optimize", "a picture of segments")
    ours, theirs = np.concatenate(labels), np.concatenate(target)
    shared = np.bincount(ours * clusters + theirs, minlength=clusters**2)
    _, names = optimize.linear_sum_assignment(shared.reshape(clusters, clusters), maximize=True)
    return [np.asarray(names[part], np.int64) for part in labels]
