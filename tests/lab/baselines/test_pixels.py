from __future__ import annotations

import math

import numpy as np
import pytest
from made_pairs import made_pair
from skimage.metrics import structural_similarity

from vsm_fast.lab.baselines.baseline import subject_crop
from vsm_fast.lab.baselines.pixels import CROP, lab_histogram, psnr, ssim

BASELINES = (psnr, ssim, lab_histogram)


def same_view(number: int = 0, **changes: object):
    """The reference is view 1 before its alteration."""
    pair = made_pair(number, kind="recolour")
    reference = {"original_2": pair.original_1, "mask_2": pair.mask_1}
    return made_pair(number, kind="recolour", **{**reference, **changes})


@pytest.mark.parametrize("baseline", BASELINES)
def test_the_contract_of_every_baseline(baseline) -> None:
    """More altered is less consistent; the background does not count; no subject is NaN."""
    pair = same_view()
    half = np.where((np.arange(48) % 4 < 2)[:, None, None], pair.original_1, pair.altered_1)
    values = baseline()(
        [same_view(altered_1=pair.original_1), same_view(altered_1=half), same_view()]
    )
    assert values.shape == (3,)
    assert values[0] > values[1] > values[2]
    assert values[0] == pytest.approx(58.92 if baseline is psnr else 1, abs=0.01)
    other = np.where(pair.mask_1[..., None], pair.altered_1, np.uint8(7))
    first, second = baseline()([pair, same_view(altered_1=other)])
    assert first == second
    nothing = np.zeros_like(pair.mask_1)
    values = baseline()([same_view(mask_1=nothing), same_view(mask_2=nothing), pair])
    assert np.isnan(values).tolist() == [True, True, False]
    assert baseline()([]).shape == (0,)


def test_psnr_is_the_error_over_either_subject() -> None:
    pair = made_pair(1)
    one, here = subject_crop(pair.altered_1, pair.mask_1, CROP)
    two, there = subject_crop(pair.original_2, pair.mask_2, CROP)
    squares = [
        (float(one[y, x, c]) - float(two[y, x, c])) ** 2
        for y, x in np.argwhere(here | there)
        for c in range(3)
    ]
    expected = 10 * math.log10(255**2 / (sum(squares) / len(squares)))
    assert psnr()([pair])[0] == pytest.approx(expected)


def test_ssim_is_skimages_where_the_subject_fills_the_picture() -> None:
    pair = made_pair(1)
    full = np.ones_like(pair.mask_1)
    pair = made_pair(1, mask_1=full, mask_2=full)
    crops = [subject_crop(p, full, CROP)[0] for p in (pair.altered_1, pair.original_2)]
    assert ssim()([pair])[0] == pytest.approx(
        structural_similarity(
            *crops, channel_axis=2, data_range=255, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False, full=True,
        )[1].mean()
    )  # fmt: skip


def test_disjoint_colours_do_not_intersect() -> None:
    red, blue = (np.full((48, 48, 3), colour, np.uint8) for colour in ((200, 0, 0), (0, 0, 200)))
    values = lab_histogram()(
        [same_view(altered_1=red, original_2=blue), same_view(altered_1=red, original_2=red)]
    )
    assert values == pytest.approx([0, 1])


def test_a_crop_holds_the_subject_on_grey() -> None:
    pixels = np.full((40, 100, 3), 250, np.uint8)
    mask = np.zeros((40, 100), bool)
    mask[10:20, 60:80] = True
    pixels[mask] = (10, 20, 30)
    crop, inside = subject_crop(pixels, mask, 64)
    assert crop.shape == (64, 64, 3)
    assert inside.any()
    assert (crop[inside] < 127).all()
    assert crop.max() < 160  # no white of the background, though the filter overshoots a little
    thin = np.zeros((40, 100), bool)
    thin[20, 10:90] = True
    assert subject_crop(pixels, thin, 8)[1].any()
