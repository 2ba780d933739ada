"""Baselines on pixels: error, structural similarity and colours of the masked subject."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vsm_fast.extras import required
from vsm_fast.lab.baselines.crops import subject_crop
from vsm_fast.lab.pairs.pairs import ControlledPair, Mask, Pixels

CROP = 128  # pixels; the subjects of an evaluation are rarely described at a higher resolution
ROUNDING = 1 / 12  # mean squared error of rounding to whole levels: a floor for equal crops
LAB_LOW, LAB_HIGH = (0.0, -110.0, -110.0), (100.0, 110.0, 110.0)  # holds all of sRGB
LAB_BINS = (10, 11, 11)


class MaskedPSNR:
    """Peak signal-to-noise ratio of the two crops, over the pixels of either subject, in dB.

    Equal crops get 58.9 dB (the error of rounding), so that every value is finite.
    """

    name = "psnr"

    def __call__(self, pairs: Sequence[ControlledPair]) -> NDArray[np.float64]:
        """See :class:`vsm_fast.lab.baselines.Baseline`."""
        return np.array([self._one(pair) for pair in pairs], np.float64)

    @staticmethod
    def _one(pair: ControlledPair) -> float:
        crops = _crops(pair)
        if crops is None:
            return float("nan")
        (generation, here), (reference, there) = crops
        either = here | there
        difference = generation[either].astype(np.float64) - reference[either]
        return float(10 * np.log10(255**2 / max(float(np.mean(difference**2)), ROUNDING)))


class MaskedSSIM:
    """Structural similarity of the two crops, averaged over the pixels of either subject.

    Gaussian windows (sigma 1.5) and constants of Wang et al. 2004, on each colour channel.
    """

    name = "ssim"

    def __init__(self) -> None:
        metrics = required("skimage.metrics", "SSIM")
        self._similarity = metrics.structural_similarity

    def __call__(self, pairs: Sequence[ControlledPair]) -> NDArray[np.float64]:
        """See :class:`vsm_fast.lab.baselines.Baseline`."""
        return np.array([self._one(pair) for pair in pairs], np.float64)

    def _one(self, pair: ControlledPair) -> float:
        crops = _crops(pair)
        if crops is None:
            return float("nan")
        (generation, here), (reference, there) = crops
        _, similarity = self._similarity(
            generation,
            reference,
            channel_axis=2,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )
        return float(similarity[here | there].mean())


class LabHistogram:
    """Intersection of the two subjects' colour histograms in CIE Lab, in [0, 1].

    10 x 11 x 11 bins over the range of sRGB; each subject's histogram sums to 1.
    """

    name = "lab-histogram"

    def __init__(self) -> None:
        self._to_lab = required("skimage.color", "the colour histogram").rgb2lab

    def __call__(self, pairs: Sequence[ControlledPair]) -> NDArray[np.float64]:
        """See :class:`vsm_fast.lab.baselines.Baseline`."""
        return np.array([self._one(pair) for pair in pairs], np.float64)

    def _one(self, pair: ControlledPair) -> float:
        crops = _crops(pair)
        if crops is None:
            return float("nan")
        generation, reference = (self._histogram(*crop) for crop in crops)
        return float(np.minimum(generation, reference).sum())

    def _histogram(self, pixels: Pixels, mask: Mask) -> NDArray[np.float64]:
        colours = self._to_lab(pixels[mask])
        ranges = list(zip(LAB_LOW, LAB_HIGH, strict=True))
        counts, _ = np.histogramdd(colours, LAB_BINS, ranges)
        return np.asarray(counts / counts.sum(), np.float64)


def _crops(pair: ControlledPair) -> tuple[tuple[Pixels, Mask], tuple[Pixels, Mask]] | None:
    """(crop, mask) of the generation and of the reference; None without a subject."""
    if not (pair.mask_1.any() and pair.mask_2.any()):
        return None
    return (
        subject_crop(pair.altered_1, pair.mask_1, CROP),
        subject_crop(pair.original_2, pair.mask_2, CROP),
    )
