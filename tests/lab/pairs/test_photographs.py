from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vsm_fast.errors import PairingError
from vsm_fast.lab.pairs.photographs import Photograph, frame_photograph, load_photographs


def _write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def test_masks_beside_the_photograph_take_precedence(tmp_path: Path) -> None:
    mask = np.zeros((8, 10), np.uint8)
    for name in ("00", "01", "02"):
        _write(tmp_path / "photos" / "cup" / f"{name}.jpg", np.zeros((8, 10, 3), np.uint8))
    mask[:2] = 255
    _write(tmp_path / "photos" / "cup" / "00_mask.png", mask)
    mask[:5] = 255
    for name in ("00", "01"):
        _write(tmp_path / "masks" / "cup" / f"{name}_mask.png", mask)
    photos = load_photographs(tmp_path / "photos", masks=tmp_path / "masks")
    assert [None if p.mask is None else int(p.mask.sum()) for p in photos] == [20, 50, None]
    assert [p.mask is not None for p in load_photographs(tmp_path / "photos")] == [
        True,
        False,
        False,
    ]


def test_masks_have_any_case_and_suffix_and_hidden_files_are_none(tmp_path: Path) -> None:
    picture, mask = np.zeros((8, 10, 3), np.uint8), np.full((8, 10), 255, np.uint8)
    _write(tmp_path / "cup" / "A.JPG", picture)
    _write(tmp_path / "cup" / "a_MASK.bmp", mask)
    for name in ("cup/._A.JPG", "cup/._A_mask.png", "__MACOSX/x.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no image")
    (read,) = load_photographs(tmp_path)
    assert read.mask is not None
    assert read.mask.all()


def test_missing_subjects_are_named(tmp_path: Path) -> None:
    with pytest.raises(PairingError, match="'hat'"):
        load_photographs(tmp_path, ("hat",))
    with pytest.raises(PairingError, match="no photographs in"):
        load_photographs(tmp_path)


@pytest.mark.parametrize("seed", range(8))
def test_a_frame_shows_the_subject_once(seed: int) -> None:
    """The border is extended: a reflection would mirror the subject outside its mask."""
    pixels = np.zeros((80, 100, 3), np.uint8)
    pixels[..., 2] = 255
    mask = np.zeros((80, 100), bool)
    mask[20:60, 2:42] = True  # at the left border
    pixels[mask] = (255, 0, 0)
    photo = Photograph("cup", "00", pixels, mask)
    framed, inside = frame_photograph(photo, np.random.default_rng(seed), 64)
    assert framed.shape == (64, 64, 3)
    assert 1 / 1.6**2 - 0.05 < inside.mean() < 1 / 1.15**2 + 0.05
    red = framed[..., 0] > 128
    assert (red & ~inside).mean() < 0.06  # the rim, half a pixel wide
    assert (inside & ~red).mean() < 0.06


def test_a_photograph_without_a_mask_cannot_be_framed() -> None:
    photo = Photograph("cup", "00", np.zeros((8, 8, 3), np.uint8), None)
    with pytest.raises(ValueError, match="no mask"):
        frame_photograph(photo, np.random.default_rng(0), 64)
