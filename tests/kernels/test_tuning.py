"""Tiles come from measurements, else from the GPU's capacity."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vsm_fast.kernels import tuning
from vsm_fast.kernels.nearest import NearestTiles
from vsm_fast.kernels.tuning import TUNED, Choice, TunedEntry, TunedGPU, choose, default, file_name

SMALL, LARGE = NearestTiles(64, 64, 64), NearestTiles(128, 256, 64, descriptors=True)
ENTRY = TunedEntry("float16", 384, 2304, LARGE, fused_us=100.0, gemm_us=250.0, pairs=64)
GPU = TunedGPU(
    "Some GPU 80GB",
    {"torch": "2.11", "triton": "3.6", "date": "2026-01-01"},
    (
        ENTRY,
        replace(ENTRY, points=256, tiles=SMALL),
        replace(ENTRY, channels=64, gemm_us=80.0),
        replace(ENTRY, dtype="float32", tiles=SMALL),
    ),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / file_name(GPU.gpu)).write_text(GPU.json(), encoding="utf-8")
    return tmp_path


def chosen(folder: Path, dtype: str, channels: int, points: int) -> Choice:
    found = tuning._choose(GPU.gpu, dtype, channels, points, folder)
    assert found is not None
    return found


def test_a_file_reads_as_it_was_written(folder: Path) -> None:
    assert file_name(GPU.gpu) == "some-gpu-80gb.json"
    assert TunedGPU.read(folder / "some-gpu-80gb.json") == GPU


def test_the_nearest_shape_decides(folder: Path) -> None:
    assert chosen(folder, "float16", 384, 2000).tiles == LARGE
    assert chosen(folder, "float16", 384, 300).tiles == SMALL
    assert chosen(folder, "float16", 384, 0).tiles == SMALL
    assert chosen(folder, "float32", 384, 2000).tiles == SMALL
    assert "2304 points of 384 channels" in chosen(folder, "float16", 400, 9999).reason


def test_products_of_torch_are_taken_where_they_were_faster(folder: Path) -> None:
    assert not chosen(folder, "float16", 384, 2304).gemm
    narrow = chosen(folder, "float16", 64, 2304)
    assert narrow.gemm
    assert narrow.reason.startswith("torch's products, as measured on Some GPU 80GB")


def test_an_unmeasured_type_or_gpu_has_no_choice(folder: Path) -> None:
    assert tuning._choose(GPU.gpu, "bfloat16", 384, 2304, folder) is None
    assert tuning._choose("Another GPU", "float16", 384, 2304, folder) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: "{",
        lambda raw: json.dumps({**raw, "schema": 2}),
        lambda raw: json.dumps({key: value for key, value in raw.items() if key != "entries"}),
        lambda raw: json.dumps({**raw, "entries": [{"dtype": "float16"}]}),
        lambda raw: json.dumps(
            {**raw, "entries": [{**raw["entries"][0], "tiles": {"queries": 100}}]}
        ),
        lambda raw: json.dumps([raw]),
    ],
)
def test_a_damaged_file_is_named(folder: Path, damage) -> None:
    path = folder / file_name("Damaged GPU")
    path.write_text(damage(json.loads(GPU.json())), encoding="utf-8")
    with pytest.raises(ValueError, match=r"damaged-gpu.json is no file of tuned tiles.*Delete it"):
        tuning._choose("Damaged GPU", "float16", 384, 2304, folder)


def fake_gpu(monkeypatch: pytest.MonkeyPatch, *, major: int, shared: int, hip: str | None) -> None:
    properties = SimpleNamespace(
        name="New GPU", major=major, minor=0, shared_memory_per_block_optin=shared
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: properties.name)
    monkeypatch.setattr(torch.version, "hip", hip)


def test_an_untuned_gpu_gets_tiles_by_its_capacity(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda")
    fake_gpu(monkeypatch, major=9, shared=227 << 10, hip=None)
    hopper = choose(torch.float16, 384, 2304, device)
    assert hopper.tiles.descriptors
    assert hopper.tiles.registers == 128
    assert not hopper.gemm
    assert hopper.reason == "not tuned for New GPU: default tiles"
    assert choose(torch.float32, 384, 2304, device).gemm
    fake_gpu(monkeypatch, major=10, shared=227 << 10, hip=None)
    assert default(torch.float16, device).tiles.registers == 0  # with a limit it would spill
    fake_gpu(monkeypatch, major=8, shared=163 << 10, hip=None)
    assert not default(torch.float16, device).tiles.descriptors
    fake_gpu(monkeypatch, major=8, shared=64 << 10, hip=None)
    assert default(torch.bfloat16, device).tiles.queries == 64
    fake_gpu(monkeypatch, major=9, shared=64 << 10, hip="6.4")
    assert default(torch.bfloat16, device).tiles == NearestTiles(128, 128, 64, warps=8, stages=2)


def test_every_shipped_file_is_whole_and_says_where_it_comes_from() -> None:
    for path in TUNED.glob("*.json"):
        tuned = TunedGPU.read(path)
        assert path.name == file_name(tuned.gpu)
        assert {"driver", "torch", "triton", "date", "commit"} <= tuned.provenance.keys()
        assert tuned.entries


@pytest.mark.parametrize(
    "wrong",
    [{"queries": 100}, {"keys": 8}, {"channels": 0}, {"warps": 3}, {"stages": 0}, {"programs": -1},
     {"registers": 300}],
)  # fmt: skip
def test_tiles_that_no_kernel_takes_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(wrong))}.*got"):
        NearestTiles(**wrong)
