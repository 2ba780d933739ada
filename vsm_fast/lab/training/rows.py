"""Rows of tensors in safetensors shards with random access."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vsm_fast.files import replacing


def write_rows(
    path: Path, rows: Sequence[Mapping[str, Tensor]], notes: Mapping[str, Sequence[Any]]
) -> None:
    """Write a ``.safetensors`` shard atomically.

    All rows, at least one, have the same names and shapes; ``notes`` hold one JSON value per row.
    """
    tensors = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"notes": json.dumps(notes)})


class RowShards(Sequence[dict[str, Tensor]]):
    """Rows of several files of :func:`write_rows`; an access reads one row from disk.

    Raises:
        ValueError: If a file is damaged or not a shard.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._files: list[Any] = []
        self._notes: dict[str, list[Any]] = {}
        counts = [0]
        for path in paths:
            try:
                file: Any = safe_open(path, framework="pt")
                notes = json.loads(file.metadata()["notes"])
            except (SafetensorError, TypeError, KeyError, ValueError) as error:
                raise ValueError(
                    f"{path} cannot be read: {error}. Delete it; the next run rewrites it."
                ) from error
            for name, values in notes.items():
                self._notes.setdefault(name, []).extend(values)
            names = list(file.keys())
            counts.append(file.get_slice(names[0]).get_shape()[0])
            self._files.append((file, names))
        self._starts = np.cumsum(counts)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, row: int) -> dict[str, Tensor]:  # type: ignore[override]
        if not 0 <= row < len(self):
            raise IndexError(f"row must lie in [0, {len(self)}); got {row}.")
        number = int(self._starts.searchsorted(row, "right")) - 1
        file, names = self._files[number]
        place = row - int(self._starts[number])
        return {name: file.get_slice(name)[place] for name in names}

    def notes(self, name: str) -> list[Any]:
        """Return one JSON value per row; empty if no shard has such notes."""
        return self._notes.get(name, [])
