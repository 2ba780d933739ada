from __future__ import annotations

import numpy as np
import pytest

from vsm_fast.lab.pairs.alterations import KINDS, MIN_CHANGE, alter, perceptual_change, random_part

SIZE = 96


def _subject() -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE]
    return (x - 48) ** 2 + (y - 48) ** 2 < 35**2


def _photo(seed: int = 0) -> np.ndarray:
    """Smooth blobs of colour with detail on top, as photographs have."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE] / 12.0
    waves = np.stack(
        [np.sin(x * f + p) + np.cos(y * f - p) for f, p in rng.uniform(0.5, 2, (3, 2))]
    )
    picture = 127 + 50 * waves.transpose(1, 2, 0) + rng.normal(0, 10, (SIZE, SIZE, 3))
    return np.clip(picture, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.95])
def test_a_part_has_the_share_asked_for_and_lies_in_the_subject(share: float) -> None:
    subject = _subject()
    part = random_part(np.random.default_rng(0), subject, (share, share))
    assert part.sum() == round(share * subject.sum())
    assert not (part & ~subject).any()


def test_parts_differ_from_seed_to_seed_and_repeat_for_one() -> None:
    subject = _subject()
    parts = [random_part(np.random.default_rng(seed), subject) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(parts[0], parts[1])
    assert not np.array_equal(parts[0], parts[2])


def test_an_empty_subject_has_no_part() -> None:
    with pytest.raises(ValueError, match="empty"):
        random_part(np.random.default_rng(0), np.zeros((4, 4), bool))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_an_alteration_is_visible_inside_and_absent_outside(kind: str, seed: int) -> None:
    picture, subject = _photo(seed), _subject()
    part = random_part(np.random.default_rng(seed), subject, (0.2, 0.5))
    altered, changed = alter(
        kind, picture, part, subject, np.random.default_rng(seed), donor=_photo(9)
    )
    np.testing.assert_array_equal(altered[~changed], picture[~changed])
    np.testing.assert_array_equal(changed, part)
    assert perceptual_change(picture, altered, part) >= MIN_CHANGE


@pytest.mark.parametrize("kind", KINDS)
def test_an_alteration_is_deterministic(kind: str) -> None:
    picture, subject = _photo(), _subject()
    part = random_part(np.random.default_rng(0), subject, (0.3, 0.3))
    first, second = (
        alter(kind, picture, part, subject, np.random.default_rng(7), donor=_photo(1))[0]
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)


def test_the_input_is_left_alone() -> None:
    picture, subject = _photo(), _subject()
    before = picture.copy()
    part = random_part(np.random.default_rng(0), subject)
    for kind in KINDS:
        alter(kind, picture, part, subject, np.random.default_rng(0))
    np.testing.assert_array_equal(picture, before)


@pytest.mark.parametrize("share", [(0.0, 0.5), (0.5, 1.0), (0.6, 0.3)])
def test_a_share_that_is_no_part_is_refused(share: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="area_share"):
        random_part(np.random.default_rng(0), _subject(), share)


@pytest.mark.parametrize("kind", KINDS)
def test_masks_that_cannot_be_altered_are_refused(kind: str) -> None:
    subject, empty, rng = _subject(), np.zeros((SIZE, SIZE), bool), np.random.default_rng(0)
    with pytest.raises(ValueError, match="part mask is empty"):
        alter(kind, _photo(), empty, subject, rng)
    with pytest.raises(ValueError, match="subject mask is empty"):
        alter(kind, _photo(), subject, empty, rng)
    with pytest.raises(ValueError, match=r"part mask is .*resize the mask"):
        alter(kind, _photo(), subject[:50], subject, rng)


@pytest.mark.parametrize("kind", KINDS)
def test_a_donor_may_have_any_size(kind: str) -> None:
    # One flat colour: every kind that a flat picture hides is retried at full strength.
    flat, subject = np.full((SIZE, SIZE, 3), 90, np.uint8), _subject()
    part = random_part(np.random.default_rng(0), subject, (0.3, 0.3))
    donor = _photo(9)[:40, :70]
    altered, _ = alter(kind, flat, part, subject, np.random.default_rng(0), donor=donor)
    assert altered.shape == flat.shape


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="melt"):
        alter("melt", _photo(), _subject(), _subject(), np.random.default_rng(0))


def test_no_change_measures_zero_and_more_change_measures_more() -> None:
    picture, part = _photo(), _subject()
    slight, strong = (np.clip(picture.astype(int) + d, 0, 255).astype(np.uint8) for d in (5, 60))
    assert perceptual_change(picture, picture, part) == 0
    assert 0 < perceptual_change(picture, slight, part) < perceptual_change(picture, strong, part)
    assert perceptual_change(picture, strong, np.zeros_like(part)) == 0
