"""Descriptor cache: equal scores in every state of the folder."""

from __future__ import annotations

import hashlib
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_models
import torch
from safetensors.torch import save
from training_runs import write_backbone

import vsm_fast
from vsm_fast import ModelError, VSMScorer
from vsm_fast.cache import DescriptorCache, Rows, RowsForm, image_key, model_key
from vsm_fast.cli.main import ExitCode, main
from vsm_fast.identity import identity_of
from vsm_fast.model.load import read_config
from vsm_fast.runtimes.choose import LoadedModel

one_thread = tiny_models.one_thread


def _rows(seed: int, points: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(points, 8, generator=generator) for _ in range(2))  # type: ignore[return-value]


def _got(cache: DescriptorCache, *keys: str, points: int = 4) -> list[Rows | None]:
    return cache.get(keys, [RowsForm(points, 8, torch.float32)] * len(keys))


def _images(count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (40, 40, 3), np.uint8) for _ in range(count)]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_backbone(tmp_path / "model")


def _scorer(model: Path, folder: Path | None, **settings: object) -> VSMScorer:
    return VSMScorer.from_pretrained(model, device="cpu", cache=folder, **settings)  # type: ignore[arg-type]


def test_get_returns_the_stored_entry(tmp_path: Path) -> None:
    cache = DescriptorCache(tmp_path / "c")
    cache.put({"aa1": _rows(1), "bb2": _rows(2, points=0)})
    again = DescriptorCache(tmp_path / "c")
    first, nothing = _got(again, "aa1", "cc3")
    (second,) = _got(again, "bb2", points=0)
    assert nothing is None
    assert first is not None
    assert second is not None
    assert torch.equal(first[0], _rows(1)[0])
    assert torch.equal(first[1], _rows(1)[1])
    assert second[0].shape == (0, 8)
    assert len(cache) == 2
    files = list((tmp_path / "c").rglob("*.safetensors"))
    assert cache.size() == sum(path.stat().st_size for path in files)


def test_scores_are_the_same_and_the_network_rests(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs, gens = _images(1), _images(5, seed=1)
    gens.append(gens[2])  # one image twice in a batch is described once
    wanted = _scorer(model, None).score(refs, gens)
    first = _scorer(model, tmp_path / "c")
    found = first.score(refs, gens, batch_size=4)
    # Other images share a batch when one is left out, which changes the last bits.
    np.testing.assert_allclose(found.visual_similarity, wanted.visual_similarity, atol=1e-5)
    assert (first.cache.hits, first.cache.misses) == (1, 6)  # type: ignore[union-attr]
    assert len(first.cache) == 6  # type: ignore[arg-type]

    second = _scorer(model, tmp_path / "c")
    monkeypatch.setattr(second.network, "forward", _unused)
    again = second.score(refs, gens)
    assert np.array_equal(again.visual_similarity, found.visual_similarity)
    assert np.array_equal(again.score, found.score)
    assert second.cache.misses == 0  # type: ignore[union-attr]


def _unused(images: torch.Tensor) -> None:
    raise AssertionError("an image was described again")


def test_bad_images_keep_their_place(model: Path, tmp_path: Path) -> None:
    gens = _images(3)
    gens[1] = np.zeros((4, 4, 7), np.uint8)
    for _ in range(2):
        scores = _scorer(model, tmp_path / "c").score(_images(1, seed=9), gens)
        assert np.isnan(scores.score).tolist() == [False, True, False]


def test_masks_models_and_precisions_have_names_of_their_own(model: Path, tmp_path: Path) -> None:
    config = read_config(model)
    plain = {"name": "torch", "precision": "float32", "device": torch.device("cpu")}
    keys = {
        model_key(identity_of(config, SimpleNamespace(**plain | other)))
        for other in (
            {},
            {"name": "onnxruntime"},
            {"precision": "bfloat16"},
            {"device": torch.device("cuda")},
        )
    }
    assert len(keys) == 4
    name = next(iter(keys))
    pixels = torch.full((3, 8, 8), -1.0)
    brighter = pixels.clone()
    brighter[0, 0, 0] = 1 / 127.5 - 1
    whole, part = np.ones((2, 2), bool), np.eye(2, dtype=bool)
    assert len({image_key(name, pixels, whole), image_key(name, brighter, whole),
                image_key(name, pixels, part), image_key("other", pixels, whole)}) == 4  # fmt: skip


def test_a_model_without_hashes_has_no_name(tmp_path: Path, model: Path) -> None:
    scorer = _scorer(model, None)
    bare = replace(scorer.config, files={})
    with pytest.raises(ModelError, match="no recorded hashes"):
        VSMScorer(LoadedModel(bare, scorer.runtime), cache=DescriptorCache(tmp_path / "c"))


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing", "emptied"])
def test_a_damaged_entry_is_recomputed(model: Path, tmp_path: Path, damage: str) -> None:
    gens = _images(2)
    wanted = _scorer(model, tmp_path / "c").score(gens[:1], gens)
    for path in (tmp_path / "c").rglob("*.safetensors"):
        content = bytearray(path.read_bytes())
        if damage == "truncated":
            path.write_bytes(content[:-3])
        elif damage == "altered":
            content[-1] ^= 1
            path.write_bytes(content)
        elif damage == "emptied":
            path.write_bytes(b"")
        else:
            path.unlink()
    scorer = _scorer(model, tmp_path / "c")
    found = scorer.score(gens[:1], gens)
    assert np.array_equal(found.visual_similarity, wanted.visual_similarity)
    assert scorer.cache.misses == 2  # type: ignore[union-attr]
    assert _scorer(model, tmp_path / "c").cache.get([], []) == []  # type: ignore[union-attr]
    third = _scorer(model, tmp_path / "c")
    third.score(gens[:1], gens)
    assert third.cache.misses == 0  # type: ignore[union-attr]


WRONG: dict[str, Callable[[torch.Tensor], dict[str, torch.Tensor]]] = {
    "a point too few": lambda rows: {"semantic": rows[1:], "visual": rows[1:]},
    "other channels": lambda rows: {"semantic": rows, "visual": rows[:, 1:]},
    "one axis": lambda rows: {"semantic": rows.flatten(), "visual": rows},
    "another type": lambda rows: {"semantic": rows.double(), "visual": rows.double()},
    "NaN": lambda rows: {"semantic": rows * torch.nan, "visual": rows},
    "infinity": lambda rows: {"semantic": rows, "visual": rows / 0},
    "a tensor too few": lambda rows: {"semantic": rows},
    "a tensor too many": lambda rows: {"semantic": rows, "visual": rows, "other": rows},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_an_entry_of_another_form_is_recomputed(model: Path, tmp_path: Path, wrong: str) -> None:
    """Its size and hash match the index."""
    gens = _images(1)
    wanted = _scorer(model, tmp_path / "c").describe(gens)
    (path,) = (tmp_path / "c").rglob("*.safetensors")
    content = save({k: v.clone() for k, v in WRONG[wrong](wanted.semantic).items()})
    path.write_bytes(content)
    with closing(sqlite3.connect(tmp_path / "c" / "index.sqlite")) as index, index:
        digest = hashlib.sha256(content).hexdigest()
        index.execute("UPDATE entries SET sha256 = ?, size = ?", (digest, len(content)))
    scorer = _scorer(model, tmp_path / "c")
    for misses in (1, 1):
        found = scorer.describe(gens)
        assert torch.equal(found.semantic, wanted.semantic)
        assert torch.equal(found.visual, wanted.visual)
        assert scorer.cache.misses == misses  # type: ignore[union-attr]


def test_a_cache_stays_where_it_was_made(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scorer = _scorer(model, Path("c"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    scorer.describe(_images(1))
    assert len(DescriptorCache(tmp_path / "c")) == 1
    assert not list(Path().iterdir())


@pytest.mark.parametrize("content", [b"", b"not a database " * 100])
def test_a_damaged_index_starts_the_folder_again(
    model: Path, tmp_path: Path, content: bytes
) -> None:
    gens = _images(2)
    wanted = _scorer(model, tmp_path / "c").score(gens[:1], gens)
    (tmp_path / "c" / "index.sqlite").write_bytes(content)
    scorer = _scorer(model, tmp_path / "c")
    found = scorer.score(gens[:1], gens)
    assert np.array_equal(found.visual_similarity, wanted.visual_similarity)
    assert len(scorer.cache) == 2  # type: ignore[arg-type]


def test_the_least_recently_used_is_evicted_first(tmp_path: Path) -> None:
    size = _size_of_one(tmp_path / "one")
    cache = DescriptorCache(tmp_path / "c", max_bytes=3 * size)
    for number in range(3):
        cache.put({f"k{number}": _rows(number)})
    _got(cache, "k0")  # now k1 is the oldest
    cache.put({"k3": _rows(3)})
    present = [rows is not None for rows in _got(cache, "k0", "k1", "k2", "k3")]
    assert present == [True, False, True, True]
    assert cache.size() <= 3 * size
    assert len(list((tmp_path / "c").rglob("*.safetensors"))) == 3


def test_a_folder_without_room_keeps_nothing(tmp_path: Path) -> None:
    cache = DescriptorCache(tmp_path / "c", max_bytes=0)
    cache.put({"k": _rows(0)})
    assert _got(cache, "k") == [None]
    assert not list((tmp_path / "c").rglob("*.safetensors"))
    with pytest.raises(ValueError, match="must not be negative; got -1"):
        DescriptorCache(tmp_path / "c", max_bytes=-1)


def _size_of_one(folder: Path) -> int:
    cache = DescriptorCache(folder)
    cache.put({"k": _rows(0)})
    return cache.size()


def test_a_disk_that_is_full_is_a_warning(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    gens = _images(2)
    scores = _scorer(model, tmp_path / "c").score(gens[:1], gens)
    assert np.isfinite(scores.score).all()
    assert "cannot write to the descriptor cache" in caplog.text


def test_an_index_that_is_locked_for_good_is_a_warning(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(vsm_fast.cache, "_WAIT", 0.05)
    scorer = _scorer(model, tmp_path / "c")
    other = sqlite3.connect(tmp_path / "c" / "index.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    scores = scorer.score(_images(1), _images(2))
    other.close()
    assert np.isfinite(scores.score).all()
    assert "cannot read the descriptor cache" in caplog.text


_WRITER = """
import sys, torch
from vsm_fast.cache import DescriptorCache, RowsForm
cache = DescriptorCache(sys.argv[1], max_bytes=20_000)
for number in range(40):
    key = f"{number % 30:02d}-shared"
    rows = cache.get([key], [RowsForm(4, 8, torch.float32)])[0]
    if rows is not None:
        assert rows[0][0, 0] == number % 30, (key, rows[0][0, 0])
    value = torch.full((4, 8), float(number % 30))
    cache.put({key: (value, value.clone())})
"""


def test_processes_share_a_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _WRITER, str(tmp_path / "c")]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()[-2000:]
        assert b"cannot" not in errors
    cache = DescriptorCache(tmp_path / "c", max_bytes=20_000)
    assert 0 < len(cache) <= 30
    assert cache.size() <= 20_000


def test_the_public_ways_in(model: Path, tmp_path: Path) -> None:
    gens = _images(2)
    plain = vsm_fast.score_batch(gens[:1], gens, model=model, device="cpu")
    cached = vsm_fast.score_batch(gens[:1], gens, model=model, device="cpu", cache=tmp_path / "c")
    assert np.array_equal(plain.score, cached.score)
    assert len(DescriptorCache(tmp_path / "c")) == 2
    photo = str(next(Path("examples/refs").rglob("reference.jpg")))
    command = ["score", "--refs", photo, "--gens", photo, "--model", str(model), "-q"]
    command += ["--device", "cpu", "--out", str(tmp_path / "s.csv")]
    codes = {main([*command, "--cache", str(tmp_path / "cli")]) for _ in range(2)}
    assert codes <= {ExitCode.OK, ExitCode.UNSCORED}
    assert len(DescriptorCache(tmp_path / "cli")) == 1


def test_a_folder_that_cannot_be_made(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        _scorer(model, tmp_path / "file")
