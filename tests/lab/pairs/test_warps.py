from __future__ import annotations

import numpy as np
import pytest

from vsm_fast.lab.pairs.warps import colour_jitter, random_warp, replace_background, sample_field

SIZE = (96, 128)


def _picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)


def _pixels() -> np.ndarray:
    x, y = np.meshgrid(np.arange(SIZE[1]), np.arange(SIZE[0]))
    return np.stack([x, y], -1).reshape(-1, 2).astype(np.float32)


@pytest.mark.parametrize("seed", range(8))
def test_points_agree_with_the_image(seed: int) -> None:
    warp = random_warp(np.random.default_rng(seed), SIZE)
    again = random_warp(np.random.default_rng(seed), SIZE)
    np.testing.assert_array_equal(warp.inverse, again.inverse)
    source = _pixels()
    landed = warp.points(source)
    inside = ((landed >= 0) & (landed <= [SIZE[1] - 1, SIZE[0] - 1])).all(1)
    assert inside.sum() > 1000
    back = sample_field(warp.inverse, landed[inside].astype(np.float64))
    assert np.abs(back - source[inside]).max() < 0.25

    # No folds: the Jacobian determinant is positive.
    inverse = warp.inverse.astype(np.float64)
    along_x, along_y = np.diff(inverse, axis=1)[:-1], np.diff(inverse, axis=0)[:, :-1]
    area = along_x[..., 0] * along_y[..., 1] - along_x[..., 1] * along_y[..., 0]
    assert area.min() > 0
    assert warp.points(np.zeros((0, 2), np.float32)).shape == (0, 2)


@pytest.mark.parametrize("strength", [-0.1, 1.5])
def test_a_wrong_strength_is_refused(strength: float) -> None:
    with pytest.raises(ValueError, match="strength"):
        random_warp(np.random.default_rng(0), SIZE, strength=strength)


def test_strength_zero_changes_nothing() -> None:
    warp = random_warp(np.random.default_rng(0), SIZE, strength=0.0)
    picture = _picture()
    np.testing.assert_allclose(warp.points(_pixels()), _pixels(), atol=1e-3)
    np.testing.assert_array_equal(warp.image(picture), picture)


def test_picture_and_mask_move_together() -> None:
    mask = np.zeros(SIZE, bool)
    mask[30:60, 40:80] = True
    picture = np.repeat(mask[..., None] * np.uint8(255), 3, axis=2)
    warp = random_warp(np.random.default_rng(3), SIZE)
    differs = (warp.image(picture)[..., 0] > 127) != warp.mask(mask)
    assert differs.mean() < 0.01


def test_jitter_is_deterministic_bounded_and_off_at_zero() -> None:
    picture = _picture()
    np.testing.assert_allclose(
        colour_jitter(np.random.default_rng(0), picture, 0.0), picture, atol=1
    )
    first, second = (colour_jitter(np.random.default_rng(1), picture, 1.0) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.dtype == np.uint8
    assert not np.array_equal(first, picture)


def test_the_background_is_replaced_and_the_subject_kept() -> None:
    mask = np.zeros(SIZE, bool)
    mask[30:60, 40:80] = True
    picture, other = _picture(), _picture(1)
    result = replace_background(picture, mask, other)
    np.testing.assert_array_equal(result[36:54, 46:74], picture[36:54, 46:74])
    np.testing.assert_array_equal(result[:20], other[:20])
