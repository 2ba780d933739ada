from __future__ import annotations

import numpy as np
import pytest

from vsm_fast.lab.pairs.offline_stages import (
    LabChange,
    OfflineAlterer,
    visibly_changed,
)
from vsm_fast.lab.pairs.stages import AlterationRequest


def _scene() -> tuple[np.ndarray, np.ndarray]:
    """An orange disc on a noisy green ground."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 30, (300, 400, 3), np.uint8) + np.array([20, 110, 30], np.uint8)
    y, x = np.mgrid[:300, :400]
    mask = (x - 210) ** 2 + (y - 140) ** 2 < 80**2
    pixels[mask] = rng.integers(0, 30, (mask.sum(), 3)) + np.array([210, 120, 20])
    return pixels, mask


def test_only_what_looks_different_counts_as_changed() -> None:
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
def test_the_offline_alterer_says_what_it_did(kind: str | None) -> None:
    pixels, mask = _scene()
    part = mask & (np.mgrid[:300, :400][1] < 200)
    request = AlterationRequest(pixels, part, mask, "disc", kind, np.random.default_rng(1))
    made = OfflineAlterer()(request)
    assert made.kind == (kind or made.kind)
    assert made.kind in OfflineAlterer.kinds
    assert np.array_equal(made.pixels[~part], pixels[~part])
    assert not (made.part & ~part).any()
    measure = LabChange()
    assert measure(pixels, made.pixels, part) > measure.threshold
    assert measure(pixels, pixels, part) == 0
