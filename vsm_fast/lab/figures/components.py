"""Principal components of descriptors as colours, in one basis for all images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vsm_fast.extras import required
from vsm_fast.lab.figures.views import TooFewPointsError

CHANNELS = 3  # red, green, blue
_PERCENTILES = (1, 99)  # of a component over all images: black and full; a few outliers saturate


@dataclass(frozen=True, eq=False)
class ComponentColours:
    """Colours of points.

    Attributes:
        colours: Of each image float32 [n, 3] in [0, 1]: the first, second and third component
            as red, green and blue.
        explained: float64 [3] in [0, 1], share of the variance that each component has.
    """

    colours: tuple[NDArray[np.float32], ...]
    explained: NDArray[np.float64]


def component_colours(descriptors: Sequence[NDArray[np.float32]]) -> ComponentColours:
    """Colour points by the first three principal components of their descriptors.

    Basis and scale are those of all images together, so that one colour is one place in
    descriptor space in all of them. The sign of a component, which the analysis leaves open, is
    that in which its largest entry is positive.

    Args:
        descriptors: Of each image float [n, D].

    Raises:
        TooFewPointsError: Fewer than four points, which cannot span three components.
        ImportError: scikit-learn is not installed; names the extra.
    """
    decomposition = required("sklearn.decomposition", "a PCA picture")
    rows = np.concatenate(descriptors).astype(np.float64)
    if len(rows) <= CHANNELS:
        raise TooFewPointsError(
            f"three principal components need at least {CHANNELS + 1} points; the subjects of "
            f"{len(descriptors)} images have {len(rows)}. Check the masks, or add images."
        )
    count = min(CHANNELS, rows.shape[1])
    analysis = decomposition.PCA(n_components=count, svd_solver="covariance_eigh")
    with np.errstate(invalid="ignore"):  # no variance at all: 0 / 0 in the shares
        analysis.fit(rows)
    basis = analysis.components_
    largest = np.abs(basis).argmax(axis=1)
    basis = basis * np.where(basis[np.arange(count), largest] < 0, -1.0, 1.0)[:, None]
    values = np.zeros((len(rows), CHANNELS))
    values[:, :count] = (rows - analysis.mean_) @ basis.T
    explained = np.zeros(CHANNELS)
    explained[:count] = np.nan_to_num(analysis.explained_variance_ratio_)
    ends = np.cumsum([len(part) for part in descriptors])[:-1]
    return ComponentColours(tuple(np.split(_scaled(values), ends)), explained)


def _scaled(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Each column to [0, 1] between its percentiles; a column without spread becomes 0.5."""
    low, high = np.percentile(values, _PERCENTILES, axis=0)
    spread = high - low
    flat = spread <= 1e-9  # descriptors have unit length: this is rounding
    scaled = (values - low) / np.where(flat, 1.0, spread)
    return np.where(flat, 0.5, scaled.clip(0, 1)).astype(np.float32)
