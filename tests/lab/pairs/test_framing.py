from __future__ import annotations

import numpy as np
import pytest

from recipes.tiny import splits
from vsm_fast.lab.pairs.framing import frame_photograph
from vsm_fast.lab.pairs.photographs import Photograph


def _photo() -> Photograph:
    """A red subject at the left border of a blue photograph."""
    pixels = np.zeros((80, 100, 3), np.uint8)
    pixels[..., 2] = 255
    mask = np.zeros((80, 100), bool)
    mask[20:60, 2:42] = True
    pixels[mask] = (255, 0, 0)
    return Photograph("cup", "00", pixels, mask)


@pytest.mark.parametrize("seed", range(8))
def test_the_frame_holds_the_subject_once(seed: int) -> None:
    """Beyond the photograph its border goes on: no mirror copy outside the mask."""
    pixels, mask = frame_photograph(_photo(), np.random.default_rng(seed), 64)
    assert pixels.shape == (64, 64, 3)
    share = mask.mean()
    assert 1 / 1.6**2 - 0.05 < share < 1 / 1.15**2 + 0.05
    red = pixels[..., 0] > 128
    assert (red & ~mask).mean() < 0.06  # the rim, half a pixel wide
    assert (mask & ~red).mean() < 0.06


def test_a_photograph_without_a_mask_cannot_be_framed() -> None:
    photo = Photograph("cup", "00", np.zeros((8, 8, 3), np.uint8), None)
    with pytest.raises(ValueError, match="no mask"):
        frame_photograph(photo, np.random.default_rng(0), 64)


def test_no_subject_is_in_two_splits() -> None:
    everything = [*splits.TRAIN, *splits.VALIDATION, *splits.TEST]
    assert len(everything) == len(set(everything)) == 22
