"""Descriptor cache: a folder of bounded size, shared between processes.

The folder holds one safetensors file per image and ``index.sqlite`` with each file's size, sha256
and last use. A key hashes the network's input and the model's identity. Damaged entries are
removed and recomputed.
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
_FORMAT = 3  # version of keys and files
_WAIT = 60.0  # seconds to wait for another process that writes the index
_TABLE = """
CREATE TABLE IF NOT EXISTS entries (
    key TEXT PRIMARY KEY, sha256 TEXT NOT NULL, size INTEGER NOT NULL, used INTEGER NOT NULL
) WITHOUT ROWID
"""


@dataclass(frozen=True)
class RowsForm:
    """Expected content of an entry: two finite tensors [points, channels].

    Attributes:
        points: Number of cells on the subject.
        channels: Channels of a descriptor.
        dtype: Type of the descriptors.
    """

    points: int
    channels: int
    dtype: torch.dtype

    def fits(self, tensors: Mapping[str, Tensor]) -> bool:
        """Return whether the tensors of a file have this form."""
        return tensors.keys() == {"semantic", "visual"} and all(
            rows.shape == (self.points, self.channels)
            and rows.dtype == self.dtype
            and bool(torch.isfinite(rows).all())
            for rows in tensors.values()
        )


def model_key(identity: ModelIdentity) -> str:
    """Return the hash of a model's identity, hexadecimal.

    Raises:
        ModelError: If the weights have no recorded hashes.
    """
    parts = {"format": _FORMAT, **identity.record()}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def image_key(model: str, pixels: Tensor, cells: NDArray[np.bool_]) -> str:
    """Return the cache key of one prepared image.

    Args:
        model: Result of :func:`model_key`.
        pixels: float32 [3, R, R] in [-1, 1], from 8-bit values.
        cells: bool [h, w], subject on the descriptor grid.
    """
    digest = hashlib.sha256(model.encode())
    digest.update(pixels.add(1).mul(127.5).round().to(torch.uint8).numpy().tobytes())
    digest.update(np.packbits(cells).tobytes())
    return digest.hexdigest()


class DescriptorCache:
    """Descriptor cache with least-recently-used eviction.

    Args:
        folder: Folder of the cache; created if missing.
        max_bytes: Size limit of all files; the least recently used are evicted.

    Attributes:
        hits, misses: Cache hits and misses of this process.

    Raises:
        OSError: If the folder is not writable.
        ValueError: If ``max_bytes`` is negative.
    """

    def __init__(self, folder: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> None:
        if max_bytes < 0:
            raise ValueError(f"max_bytes must not be negative; got {max_bytes}.")
        self.folder = Path(folder).absolute()  # independent of a later chdir
        self.max_bytes = max_bytes
        self.hits = self.misses = 0
        self._lock = threading.Lock()
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with self._index() as index:
                index.execute(_TABLE)
                index.execute("SELECT key, sha256, size, used FROM entries LIMIT 1").fetchall()
        except sqlite3.DatabaseError:
            self._reset()

    def get(self, keys: Sequence[str], forms: Sequence[RowsForm]) -> list[Rows | None]:
        """Return (semantic, visual), float [n, D] on the CPU, or None for each key.

        An unreadable folder causes a warning and misses.

        Args:
            keys: Results of :func:`image_key`.
            forms: Expected form of each entry; any other content counts as damaged.
        """
        entries: list[Rows | None] = [None] * len(keys)
        try:
            with self._index() as index:
                entries = [
                    self._read(index, key, form) for key, form in zip(keys, forms, strict=True)
                ]
                used = [(key,) for key, rows in zip(keys, entries, strict=True) if rows is not None]
                # A counter, because clocks jump.
                index.executemany(
                    "UPDATE entries SET used = (SELECT max(used) + 1 FROM entries) WHERE key = ?",
                    used,
                )
        except sqlite3.Error as error:
            _log.warning("cannot read the descriptor cache %s: %s", self.folder, error)
        hits = sum(rows is not None for rows in entries)
        with self._lock:
            self.hits += hits
            self.misses += len(keys) - hits
        return entries

    def put(self, entries: Mapping[str, Rows]) -> None:
        """Store descriptors by key and evict old entries beyond the size limit.

        A write error, such as a full disk, causes a warning: scores do not depend on the cache.
        """
        try:
            self._put(entries)
        except (OSError, sqlite3.Error) as error:
            _log.warning("cannot write to the descriptor cache %s: %s", self.folder, error)

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
        """Return the total size of all files in bytes."""
        with self._index() as index:
            return int(index.execute("SELECT coalesce(sum(size), 0) FROM entries").fetchone()[0])

    def _read(self, index: sqlite3.Connection, key: str, form: RowsForm) -> Rows | None:
        """Return one entry; remove it if damaged."""
        row = index.execute("SELECT sha256, size FROM entries WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        path = self._path(key)
        try:
            # The size check bounds the read, should another file have taken this path.
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
        """Evict the least recently used entries until the rest fits."""
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
        """Open the index for one transaction; a new connection each, for threads and forks."""
        path = self.folder / "index.sqlite"
        with closing(sqlite3.connect(path, timeout=_WAIT, isolation_level=None)) as index:
            index.execute("BEGIN IMMEDIATE")
            try:
                yield index
            except BaseException:
                index.execute("ROLLBACK")
                raise
            index.execute("COMMIT")

    def _reset(self) -> None:
        """Remove a damaged index, and the files, which are useless without it."""
        for path in (*self.folder.glob("??/*.safetensors"), *self.folder.glob("index.sqlite*")):
            path.unlink(missing_ok=True)
        with self._index() as index:
            index.execute(_TABLE)
