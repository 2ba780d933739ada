from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vsm_fast.errors import PairingError
from vsm_fast.lab.pairs.pair_inputs import Photographs, Subjects200K, open_source


def _write(path: Path, seed: int, mask: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    if mask:
        on = np.zeros((40, 60), np.uint8)
        on[10:30, 15:45] = 255
        Image.fromarray(on).save(path.with_name(f"{path.stem}_mask.png"))


class _MaskOf:
    """Records the origins of the requested masks."""

    def __init__(self) -> None:
        self.origins: list[str] = []

    def __call__(self, pixels: np.ndarray, subject: str, origin: str) -> np.ndarray:
        self.origins.append(origin)
        mask = np.zeros(pixels.shape[:2], bool)
        mask[5:-5, 5:-5] = True
        return mask


def test_a_folder_pairs_photographs_of_one_subject(tmp_path: Path) -> None:
    for name in ("00", "01", "02"):
        _write(tmp_path / "cup" / f"{name}.png", int(name), mask=name != "02")
    _write(tmp_path / "shoe" / "00.png", 7)
    source, mask_of = open_source(tmp_path), _MaskOf()
    assert isinstance(source, Photographs)
    drawn = [source.draw(np.random.default_rng(n), [], mask_of) for n in range(40)]
    photos = [views for views in drawn if views.view == "photo"]
    warps = [views for views in drawn if views.view == "warp"]
    assert {views.subject for views in photos} == {"cup"}
    assert {views.subject for views in warps} == {"shoe"}  # with a single photograph
    assert all(views.origins[0] != views.origins[1] for views in photos)
    assert all(views.points is None for views in photos)
    assert all(views.points is not None for views in warps)
    assert set(mask_of.origins) == {"cup/02", "shoe/00"}  # the others have masks
    again = source.draw(np.random.default_rng(3), [], mask_of)
    assert np.array_equal(again.pixels[1], drawn[3].pixels[1])


def test_subjects_are_selected_and_excluded(tmp_path: Path) -> None:
    for subject in ("cup", "hat", "shoe"):
        _write(tmp_path / subject / "00.png", 0, mask=True)
    drawn = open_source(tmp_path, subjects=("cup", "hat"), excluded=("hat",))
    views = [drawn.draw(np.random.default_rng(n), [], _MaskOf()) for n in range(9)]
    assert {v.subject for v in views} == {"cup"}
    with pytest.raises(PairingError, match="every subject is excluded"):
        open_source(tmp_path, excluded=("cup", "hat", "shoe"))
    with pytest.raises(PairingError, match="'boot'"):
        open_source(tmp_path, subjects=("boot",))


def test_single_images_are_warped(tmp_path: Path) -> None:
    _write(tmp_path / "a.png", 0, mask=True)
    _write(tmp_path / "b.png", 1)
    source = open_source(tmp_path)
    for n in range(4):
        views = source.draw(np.random.default_rng(n), [], _MaskOf())
        assert views.view == "warp"
        assert views.points is not None
        assert views.masks[1].any()
    assert len(source.pictures()) == 2
    assert len(open_source(tmp_path / "a.png").pictures()) == 1


def _subjects200k(path: Path, quality: list[int | None]) -> None:
    """Write rows with two images of 64 pixels, padded by 4, in one of 144 x 72."""
    rows = []
    for number, score in enumerate(quality):
        canvas = np.full((72, 144, 3), 255, np.uint8)
        rng = np.random.default_rng(number)
        for left in (4, 76):
            canvas[4:68, left : left + 64] = rng.integers(0, 200, (64, 64, 3))
        file = io.BytesIO()
        Image.fromarray(canvas).save(file, "PNG")
        rows.append(
            {
                "image": {"bytes": file.getvalue(), "path": None},
                "collection": "collection_2",
                "quality_assessment": None
                if score is None
                else {"compositeStructure": score, "objectConsistency": 5, "imageQuality": 5},
                "description": {"item": f"item {number}", "category": "toy"},
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)


def test_subjects200k_halves_have_no_padding(tmp_path: Path) -> None:
    _subjects200k(tmp_path / "train-0.parquet", [5, 3, 5, None])
    source, mask_of = open_source(tmp_path), _MaskOf()
    assert isinstance(source, Subjects200K)
    seen = set()
    for n in range(30):
        views = source.draw(np.random.default_rng(n), [], mask_of)
        assert [picture.shape for picture in views.pixels] == [(64, 64, 3)] * 2
        assert not np.array_equal(*views.pixels)
        seen.add(views.subject)
    assert seen == {"item 0", "item 2", "item 3"}  # item 1 has a lower quality
    assert any(name.endswith(":left") for name in mask_of.origins)
    assert len(source.pictures()) == 3


def test_wrong_sources(tmp_path: Path) -> None:
    with pytest.raises(PairingError, match="does not exist"):
        open_source(tmp_path / "nothing")
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(PairingError, match="lacks the column 'image'; it has text"):
        open_source(tmp_path / "a.parquet")
    _subjects200k(tmp_path / "a.parquet", [1])
    with pytest.raises(PairingError, match="quality 5"):
        open_source(tmp_path / "a.parquet")
