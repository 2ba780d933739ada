from __future__ import annotations

import numpy as np
import pytest

from vsm_fast.lab.pairs.alterations import (
    KINDS,
    MIN_CHANGE,
    LabChange,
    OfflineAlterer,
    alter,
    perceptual_change,
    random_part,
    visibly_changed,
)
from vsm_fast.lab.pairs.stages import AlterationRequest

SIZE = 96
Y, X = np.mgrid[:SIZE, :SIZE]
SUBJECT = (X - 48) ** 2 + (Y - 48) ** 2 < 35**2


def _photo(seed: int = 0) -> np.ndarray:
    """Return smooth blobs of colour with fine detail, as in photographs."""
    rng = np.random.default_rng(seed)
    waves = [
        np.sin(X / 12 * f + p) + np.cos(Y / 12 * f - p) for f, p in rng.uniform(0.5, 2, (3, 2))
    ]
    picture = 127 + 50 * np.stack(waves, 2) + rng.normal(0, 10, (SIZE, SIZE, 3))
    return np.clip(picture, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.95])
def test_a_part_has_its_share_and_lies_in_the_subject(share: float) -> None:
    part = random_part(np.random.default_rng(0), SUBJECT, (share, share))
    assert part.sum() == round(share * SUBJECT.sum())
    assert not (part & ~SUBJECT).any()


def test_a_seed_determines_the_part() -> None:
    parts = [random_part(np.random.default_rng(seed), SUBJECT) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(parts[0], parts[1])
    assert not np.array_equal(parts[0], parts[2])


@pytest.mark.parametrize("share", [(0.0, 0.5), (0.5, 1.0), (0.6, 0.3)])
def test_wrong_parts_are_refused(share: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="area_share"):
        random_part(np.random.default_rng(0), SUBJECT, share)
    with pytest.raises(ValueError, match="empty"):
        random_part(np.random.default_rng(0), np.zeros((4, 4), bool))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_an_alteration_is_visible_inside_and_absent_outside(kind: str, seed: int) -> None:
    picture = _photo(seed)
    part = random_part(np.random.default_rng(seed), SUBJECT, (0.2, 0.5))
    (altered, changed), (again, _) = (
        alter(kind, picture, part, SUBJECT, np.random.default_rng(seed), donor=_photo(9))
        for _ in range(2)
    )
    np.testing.assert_array_equal(altered[~changed], picture[~changed])
    np.testing.assert_array_equal(changed, part)
    np.testing.assert_array_equal(altered, again)
    assert perceptual_change(picture, altered, part) >= MIN_CHANGE
    np.testing.assert_array_equal(picture, _photo(seed))  # the input is unchanged


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_masks_are_refused(kind: str) -> None:
    empty, rng = np.zeros((SIZE, SIZE), bool), np.random.default_rng(0)
    for part, subject, message in (
        (empty, SUBJECT, "part mask is empty"),
        (SUBJECT, empty, "subject mask is empty"),
        (SUBJECT[:50], SUBJECT, r"part mask is .*Resize the mask"),
    ):
        with pytest.raises(ValueError, match=message):
            alter(kind, _photo(), part, subject, rng)


@pytest.mark.parametrize("kind", KINDS)
def test_a_donor_may_have_any_size_or_be_missing(kind: str) -> None:
    # One flat colour: kinds without effect on it are retried with more power.
    flat = np.full((SIZE, SIZE, 3), 90, np.uint8)
    part = random_part(np.random.default_rng(0), SUBJECT, (0.3, 0.3))
    for donor in (_photo(9)[:40, :70], None):
        altered, _ = alter(kind, flat, part, SUBJECT, np.random.default_rng(0), donor=donor)
        assert altered.shape == flat.shape


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="melt"):
        alter("melt", _photo(), SUBJECT, SUBJECT, np.random.default_rng(0))


def test_perceptual_change_grows_with_the_change() -> None:
    picture = _photo()
    slight, strong = (np.clip(picture.astype(int) + d, 0, 255).astype(np.uint8) for d in (5, 60))
    assert perceptual_change(picture, picture, SUBJECT) == 0
    small, large = (perceptual_change(picture, after, SUBJECT) for after in (slight, strong))
    assert 0 < small < large
    assert perceptual_change(picture, strong, np.zeros_like(SUBJECT)) == 0


def test_only_visible_changes_count() -> None:
    before = np.full((80, 80, 3), 120, np.uint8)
    part = np.zeros((80, 80), bool)
    part[10:70, 10:70] = True
    after = before.copy()
    after[10:70, 40:70] = (200, 60, 60)  # the right half
    changed = visibly_changed(before, after, part)
    assert changed[14:66, 44:66].all()
    assert not changed[:, :34].any()
    assert not (changed & ~part).any()
    assert not visibly_changed(before, before + 1, part).any()


@pytest.mark.parametrize("kind", ["recolour", None])
def test_the_offline_alterer_reports_its_alteration(kind: str | None) -> None:
    pixels, part = _photo(3), SUBJECT & (X < 44)
    request = AlterationRequest(pixels, part, SUBJECT, "disc", kind, np.random.default_rng(1))
    result = OfflineAlterer()(request)
    assert result.kind in ([kind] if kind else KINDS)
    assert np.array_equal(result.pixels[~result.part], pixels[~result.part])
    assert not (result.part & ~part).any()
    measure = LabChange()
    assert measure(pixels, result.pixels, part) > measure.threshold
    assert measure(pixels, pixels, part) == 0
