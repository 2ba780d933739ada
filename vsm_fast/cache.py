"""Descriptors on disk: an image that was described before is not described again.

A folder holds one safetensors file per image and ``index.sqlite``, which knows each file's size,
sha256 and last use. Names are hashes of what the network sees and of everything that decides
what it makes of it, so that nothing is found under a wrong name. Several processes can share a
folder. What is damaged is removed and described again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vsm_fast.files import replacing
from vsm_fast.identity import ModelIdentity

_log = logging.getLogger(__name__)

Rows = tuple[Tensor, Tensor]
MAX_BYTES = 10 * 2**30
_FORMAT = 3  # of keys and files; raised whenever either changes
_WAIT = 60.0  # seconds for another process that is writing the index
_TABLE = """
CREATE TABLE IF NOT EXISTS entries (
    key TEXT PRIMARY KEY, sha256 TEXT NOT NULL, size INTEGER NOT NULL, used INTEGER NOT NULL
) WITHOUT ROWID
"""


@dataclass(frozen=True)
class RowsForm:
    """What an entry must hold: two finite tensors [points, channels] of one type.

    Attributes:
        points: Cells on the subject.
        channels: Of a descriptor.
        dtype: Of the descriptors.
    """

    points: int
    channels: int
    dtype: torch.dtype

    def fits(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether the tensors of a file are such an entry."""
        return tensors.keys() == {"semantic", "visual"} and all(
            rows.shape == (self.points, self.channels)
            and rows.dtype == self.dtype
            and bool(torch.isfinite(rows).all())
            for rows in tensors.values()
        )


def model_key(identity: ModelIdentity) -> str:
    """Everything but the image that decides what its descriptors are, as one hash.

    Raises:
        ModelError: The model's weights have no hashes.
    """
    parts = {"format": _FORMAT, **identity.record()}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def image_key(model: str, pixels: Tensor, cells: NDArray[np.bool_]) -> str:
    """Name of the descriptors of one prepared image.

    Args:
        model: Of :func:`model_key`.
        pixels: float32 [3, R, R] in [-1, 1], from 8-bit values.
        cells: bool [h, w], the subject on the descriptor grid.
    """
    digest = hashlib.sha256(model.encode())
    digest.update(pixels.add(1).mul(127.5).round().to(torch.uint8).numpy().tobytes())
    digest.update(np.packbits(cells).tobytes())
    return digest.hexdigest()


class DescriptorCache:
    """Descriptors of images by name, in a folder of bounded size.

    Args:
        folder: Made when it is missing.
        max_bytes: When the files take more, those used longest ago are removed.

    Attributes:
        hits, misses: Names that were and were not found, in this process.

    Raises:
        OSError: The folder cannot be written to.
        ValueError: A negative size.
    """

    def __init__(self, folder: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> None:
        if max_bytes < 0:
            raise ValueError(f"max_bytes must not be negative; got {max_bytes}.")
        self.folder = Path(folder).absolute()  # a later chdir moves no cache
        self.max_bytes = max_bytes
        self.hits = self.misses = 0
        self._counting = threading.Lock()
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with self._index() as index:
                index.execute(_TABLE)
                index.execute("SELECT key, sha256, size, used FROM entries LIMIT 1").fetchall()
        except sqlite3.DatabaseError:
            self._start_again()

    def get(self, keys: Sequence[str], forms: Sequence[RowsForm]) -> list[Rows | None]:
        """What is stored under each name: (semantic, visual), float [n, D] on the CPU; or None.

        A folder that cannot be read is a warning, and finds nothing.

        Args:
            keys: Of :func:`image_key`.
            forms: What each entry must hold; one of another form is damaged.
        """
        found: list[Rows | None] = [None] * len(keys)
        try:
            with self._index() as index:
                found = [
                    self._read(index, key, form) for key, form in zip(keys, forms, strict=True)
                ]
                used = [(key,) for key, rows in zip(keys, found, strict=True) if rows is not None]
                # A count, not a time: clocks jump.
                index.executemany(
                    "UPDATE entries SET used = (SELECT max(used) + 1 FROM entries) WHERE key = ?",
                    used,
                )
        except sqlite3.Error as error:
            _log.warning("descriptors in %s cannot be read: %s", self.folder, error)
        hits = sum(rows is not None for rows in found)
        with self._counting:
            self.hits += hits
            self.misses += len(keys) - hits
        return found

    def put(self, entries: Mapping[str, Rows]) -> None:
        """Store descriptors under their names, and remove old ones if the folder gets too large.

        A folder that cannot be written to, or a full disk, is a warning: scores do not need it.
        """
        try:
            self._put(entries)
        except (OSError, sqlite3.Error) as error:
            _log.warning("descriptors cannot be kept in %s: %s", self.folder, error)

    def _put(self, entries: Mapping[str, Rows]) -> None:
        records = []
        for key, (semantic, visual) in entries.items():
            content = save({"semantic": semantic.contiguous(), "visual": visual.contiguous()})
            path = self._path(key)
            path.parent.mkdir(exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_bytes(content)
            records.append((key, hashlib.sha256(content).hexdigest(), len(content)))
        with self._index() as index:
            index.executemany(
                "INSERT OR REPLACE INTO entries VALUES "
                "(?, ?, ?, (SELECT coalesce(max(used), 0) + 1 FROM entries))",
                records,
            )
            self._shrink(index)

    def __len__(self) -> int:
        with self._index() as index:
            return int(index.execute("SELECT count(*) FROM entries").fetchone()[0])

    def size(self) -> int:
        """Bytes of all files."""
        with self._index() as index:
            return int(index.execute("SELECT coalesce(sum(size), 0) FROM entries").fetchone()[0])

    def _read(self, index: sqlite3.Connection, key: str, form: RowsForm) -> Rows | None:
        """One entry; a damaged one is removed."""
        row = index.execute("SELECT sha256, size FROM entries WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        path = self._path(key)
        try:
            # Nothing larger than was written is read, whatever lies there now.
            if path.stat().st_size == row[1]:
                content = path.read_bytes()
                if hashlib.sha256(content).hexdigest() == row[0]:
                    tensors = load(content)
                    if form.fits(tensors):
                        return tensors["semantic"], tensors["visual"]
        except (OSError, SafetensorError):
            pass
        self._remove(index, key)
        return None

    def _shrink(self, index: sqlite3.Connection) -> None:
        """Remove what was used longest ago until the rest fits."""
        total = index.execute("SELECT coalesce(sum(size), 0) FROM entries").fetchone()[0]
        oldest = index.execute("SELECT key, size FROM entries ORDER BY used, key").fetchall()
        for key, size in oldest:
            if total <= self.max_bytes:
                break
            self._remove(index, key)
            total -= size

    def _remove(self, index: sqlite3.Connection, key: str) -> None:
        index.execute("DELETE FROM entries WHERE key = ?", (key,))
        self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    @contextmanager
    def _index(self) -> Iterator[sqlite3.Connection]:
        """The index inside one transaction; opened anew, so that threads and forks are safe."""
        path = self.folder / "index.sqlite"
        with closing(sqlite3.connect(path, timeout=_WAIT, isolation_level=None)) as index:
            index.execute("BEGIN IMMEDIATE")
            try:
                yield index
            except BaseException:
                index.execute("ROLLBACK")
                raise
            index.execute("COMMIT")

    def _start_again(self) -> None:
        """The index is damaged: without it the files are of no use, so they go too."""
        for path in (*self.folder.glob("??/*.safetensors"), *self.folder.glob("index.sqlite*")):
            path.unlink(missing_ok=True)
        with self._index() as index:
            index.execute(_TABLE)
