from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import recipes.tiny
from recipes.tiny import splits
from vsm_fast.errors import PairingError
from vsm_fast.lab.pairs.photographs import load_photographs


def _write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def test_masks_come_from_beside_the_photograph_first(tmp_path: Path) -> None:
    picture = np.zeros((8, 10, 3), np.uint8)
    mask = np.zeros((8, 10), np.uint8)
    for name in ("00", "01", "02"):
        _write(tmp_path / "photos" / "cup" / f"{name}.jpg", picture)
    mask[:2] = 255
    _write(tmp_path / "photos" / "cup" / "00_mask.png", mask)
    mask[:5] = 255
    for name in ("00", "01"):
        _write(tmp_path / "masks" / "cup" / f"{name}_mask.png", mask)
    read = load_photographs(tmp_path / "photos", masks=tmp_path / "masks")
    assert [None if p.mask is None else int(p.mask.sum()) for p in read] == [20, 50, None]
    alone = load_photographs(tmp_path / "photos")
    assert [p.mask is not None for p in alone] == [True, False, False]


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


def test_the_shipped_masks_are_of_training_subjects_only() -> None:
    folder = Path(recipes.tiny.__file__).parent / "masks"
    masks = sorted(folder.glob("*/*_mask.png"))
    assert len(masks) == 41
    assert {path.parent.name for path in masks} <= set(splits.TRAIN)
    for path in masks:
        share = np.asarray(Image.open(path).convert("L")).mean() / 255
        assert 0.005 < share < 0.6, path
