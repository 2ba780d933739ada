from __future__ import annotations

import cv2
import numpy as np
import pytest

from recipes.tiny.mild_alterations import MILD_KINDS, MIN_MILD_CHANGE, alter_mildly
from vsm_fast.lab.pairs.alterations import KINDS, perceptual_change


def _picture(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(20, 236, (8, 8, 3), np.uint8)
    picture = cv2.resize(coarse, (64, 64), interpolation=cv2.INTER_CUBIC).astype(float)
    return np.clip(picture + rng.normal(0, 12, picture.shape), 0, 255).astype(np.uint8)


def _part() -> np.ndarray:
    part = np.zeros((64, 64), bool)
    part[10:40, 20:50] = True
    return part


@pytest.mark.parametrize("kind", MILD_KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_the_part_changes_visibly_and_nothing_else(kind, seed) -> None:
    picture, part = _picture(seed), _part()
    altered = alter_mildly(kind, picture, part, np.random.default_rng(seed), _picture(9))
    assert np.array_equal(altered[~part], picture[~part])
    assert perceptual_change(picture, altered, part) >= MIN_MILD_CHANGE
    again = alter_mildly(kind, picture, part, np.random.default_rng(seed), _picture(9))
    assert np.array_equal(altered, again)


def test_tests_never_draw_a_mild_kind() -> None:
    assert not set(MILD_KINDS) & set(KINDS)


def test_wrong_arguments() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="kind must be one of"):
        alter_mildly("texture", _picture(0), _part(), rng, _picture(1))
    with pytest.raises(ValueError, match=r"\(64, 64\).*got \(64, 64\) with 0 marked"):
        alter_mildly("tint", _picture(0), np.zeros((64, 64), bool), rng, _picture(1))
