"""Shards of rows and checkpoints: the files of a training run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from vsm_fast.lab.training.rows import RowShards, write_rows
from vsm_fast.lab.training.state import load_state, read_progress, save_state


def _write(path: Path, first: int, count: int) -> None:
    rows = [
        {"a": torch.full((2,), float(n)), "b": torch.tensor(n)} for n in range(first, first + count)
    ]
    write_rows(path, rows, {"name": [f"row {n}" for n in range(first, first + count)]})


def test_rows_of_several_shards_are_one_sequence(tmp_path: Path) -> None:
    _write(tmp_path / "0.safetensors", 0, 3)
    _write(tmp_path / "1.safetensors", 3, 1)
    _write(tmp_path / "2.safetensors", 4, 2)
    shards = RowShards(sorted(tmp_path.iterdir()))
    assert len(shards) == 6
    for number in range(6):
        assert shards[number]["a"].tolist() == [number, number]
        assert shards[number]["b"].item() == number
    assert shards.notes("name") == [f"row {n}" for n in range(6)]
    assert shards.notes("other") == []
    with pytest.raises(IndexError, match=r"\[0, 6\); got 6"):
        shards[6]
    assert len(RowShards([])) == 0


@pytest.mark.parametrize(
    "content", [b"", b"not a shard", b"\xff" * 64, save({"a": torch.zeros(2)})]
)
def test_a_damaged_shard_and_other_weights_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"bad.safetensors cannot be read: .*Delete it"):
        RowShards([path])


def test_no_file_is_a_fresh_start(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    before = model.weight.clone()
    assert load_state(tmp_path / "none.safetensors", {"model": model}) == 0
    assert torch.equal(model.weight, before)


def test_step_and_notes_are_read_without_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    assert read_progress(path) == (0, None)
    save_state(path, 7, {"net": torch.nn.Linear(2, 1)}, notes={"a": [1]})
    assert read_progress(path) == (7, {"a": [1]})
    assert load_state(path, {}) == 7
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]
