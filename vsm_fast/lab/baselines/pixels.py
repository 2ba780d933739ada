"""Pixel baselines: error, structural similarity and colour histogram of the masked subject."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vsm_fast.extras import required
from vsm_fast.lab.baselines.baseline import Crop, CropBaseline, one_by_one

CROP = 128  # pixels; few evaluation subjects have a higher resolution
_ROUNDING = 1 / 12  # mean squared error of rounding to 8 bits: the floor for equal crops
_LAB_RANGES = ((0.0, 100.0), (-110.0, 110.0), (-110.0, 110.0))  # contain all of sRGB
_LAB_BINS = (10, 11, 11)


def psnr() -> CropBaseline:
    """Return the peak signal-to-noise ratio over the pixels of either subject, in dB.

    Equal crops score 58.9 dB, the error of rounding, which keeps every value finite.
    """

    def compare(generation: Crop, reference: Crop) -> float:
        either = generation[1] | reference[1]
        difference = generation[0][either].astype(np.float64) - reference[0][either]
        return float(10 * np.log10(255**2 / max(float(np.mean(difference**2)), _ROUNDING)))

    return CropBaseline("psnr", CROP, one_by_one(compare))


def ssim() -> CropBaseline:
    """Return structural similarity, averaged over the pixels of either subject.

    Gaussian windows (sigma 1.5) and the constants of Wang et al. 2004, per colour channel.

    Raises:
        ImportError: If scikit-image is not installed.
    """
    structural_similarity = required("skimage.metrics", "SSIM").structural_similarity

    def compare(generation: Crop, reference: Crop) -> float:
        _, similarity = structural_similarity(
            generation[0],
            reference[0],
            channel_axis=2,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )
        return float(similarity[generation[1] | reference[1]].mean())

    return CropBaseline("ssim", CROP, one_by_one(compare))


def lab_histogram() -> CropBaseline:
    """Return the intersection of the two subjects' colour histograms in CIE Lab, in [0, 1].

    10 x 11 x 11 bins over the range of sRGB; each subject's histogram sums to 1.

    Raises:
        ImportError: If scikit-image is not installed.
    """
    rgb2lab = required("skimage.color", "the colour histogram").rgb2lab

    def histogram(crop: Crop) -> NDArray[np.float64]:
        pixels, mask = crop
        counts, _ = np.histogramdd(rgb2lab(pixels[mask]), _LAB_BINS, _LAB_RANGES)
        return np.asarray(counts / counts.sum(), np.float64)

    def compare(generation: Crop, reference: Crop) -> float:
        return float(np.minimum(histogram(generation), histogram(reference)).sum())

    return CropBaseline("lab-histogram", CROP, one_by_one(compare))
