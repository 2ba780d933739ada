"""The LPIPS wrapper, with a fake lpips package (lpips_stand_in.py)."""

from __future__ import annotations

import sys
import urllib.error

import lpips_stand_in
import numpy as np
import pytest
import torch

from vsm_fast.errors import ModelError
from vsm_fast.lab.pairs.pretrained.lpips_change import LpipsChange, LpipsDistance

lpips = lpips_stand_in.lpips


@pytest.fixture
def change(lpips):
    return LpipsChange(LpipsDistance.from_pretrained(device="cpu"))


def picture(value, shape=(90, 120)):
    return np.full((*shape, 3), value, np.uint8)


def part(rows, columns, shape=(90, 120)):
    mask = np.zeros(shape, bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


def test_pixels_are_scaled_to_minus_one_to_one(lpips):
    distance = LpipsDistance.from_pretrained(device="cpu")
    assert distance(picture(0), picture(255)) == pytest.approx(2)
    first, second = distance._model.seen
    assert first.shape == (1, 3, 90, 120)
    assert first.dtype == torch.float32
    assert torch.all(first == -1)
    assert torch.all(second == 1)


def test_the_box_of_the_part_is_compared(change):
    before, after = picture(10), picture(10)
    after[:20] = 255  # outside the box
    where = part((20, 84), (30, 100))
    where[50, 60] = False
    assert change(before, after, where) == 0
    after[50, 60] = 255  # inside the box
    assert change(before, after, where) > 0
    assert change._distance._model.seen[0].shape == (1, 3, 64, 70)


def test_a_small_part_is_enlarged_for_alexnet(change):
    before, after = picture(0), picture(255)
    assert change(before, after, part((40, 41), (50, 53))) == pytest.approx(2)
    assert change._distance._model.seen[0].shape == (1, 3, 64, 64)
    change(before, after, part((40, 41), (0, 120)))
    assert change._distance._model.seen[0].shape == (1, 3, 64, 120)


def test_the_papers_threshold(change):
    assert change.threshold == 0.15


def test_wrong_input_is_refused(change):
    with pytest.raises(ValueError, match="at least one pixel"):
        change(picture(0), picture(0), part((0, 0), (0, 0)))
    with pytest.raises(ValueError, match=r"\(90, 120, 3\), \(80, 120, 3\) and \(90, 120\)"):
        change(picture(0), picture(0, (80, 120)), part((0, 9), (0, 9)))
    with pytest.raises(ValueError, match="one size"):
        change._distance(picture(0), picture(0, (80, 120)))


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ImportError, match=r"LPIPS needs lpips.*pip install lpips"):
        LpipsDistance.from_pretrained()


def test_unavailable_weights_are_a_model_error(lpips, monkeypatch):
    def offline(**_settings):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(lpips, "LPIPS", offline)
    with pytest.raises(ModelError, match=r"AlexNet's weights.*no network.*import lpips"):
        LpipsDistance.from_pretrained()
