"""Parquet files and Arrow files, a batch of rows at a time; images may lie in their columns.

A column of structs ``{bytes, path}`` holds encoded images, as Hugging Face's ``datasets`` stores
them: Parquet, or the Arrow files of ``save_to_disk``. Such a cell becomes an ``ArrowImage``, which
is read when it is decoded; pyarrow is all that this needs.
"""

from __future__ import annotations

import json
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vsm_fast.errors import InputError, PairingError, Status
from vsm_fast.images.storage import (
    StoredImage,
    beside,
    checked_read,
    is_remote,
    open_binary,
    version_of,
)
from vsm_fast.jobs.records import Record, refuse_twice

_ROWS = 4096  # of text at a time
_BLOCK = 16  # rows of images at a time
_BLOCKS = 8  # of these are kept: decoding runs some batches ahead, and in several threads


@dataclass(frozen=True)
class ArrowImage(StoredImage):
    """A cell of an image column.

    Attributes:
        file: Location of the Parquet or Arrow file.
        row: Of the file.
        column: Name of the column.
    """

    file: str
    row: int
    column: str

    @property
    def name(self) -> str:
        """File, row and column."""
        return f"{self.file}#{self.row}.{self.column}"

    def read(self) -> bytes:
        """The cell's bytes, or the file that its path names."""
        try:
            cell = _opened(self.file, version_of(self.file)).cell(self.row, self.column)
        except (OSError, pa.ArrowException) as error:
            raise InputError(Status.UNREADABLE, f"{self.name} cannot be read: {error}.") from error
        if cell and cell.get("bytes") is not None:
            return bytes(cell["bytes"])
        if cell and cell.get("path"):
            return checked_read(beside(self.file, cell["path"]), 0, None, self.name)
        raise InputError(Status.MISSING_FILE, f"{self.name} holds no image.")


def table_records(file: str, wanted: Collection[str]) -> Iterator[tuple[str, Record]]:
    """Rows of a Parquet or Arrow file; columns that are not wanted are None.

    Raises:
        PairingError: It cannot be read, or two columns share a name.
    """
    try:
        table = _opened(file, version_of(file))
        refuse_twice(table.schema.names, file)
        text = [f.name for f in table.schema if f.name in wanted and not _holds_images(f.type)]
        images = [f.name for f in table.schema if f.name in wanted and _holds_images(f.type)]
        for row, values in enumerate(table.rows(text)):
            record: Record = dict.fromkeys(table.schema.names) | values
            record |= {name: ArrowImage(file, row, name) for name in images}
            yield f"row {row + 1}", record
    except PairingError:
        raise
    # Damaged ones hold text that is not UTF-8, and dates that Python does not have.
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        kind = "a Parquet" if file.lower().endswith(".parquet") else "an Arrow"
        raise PairingError(f"manifest {file} is not {kind} file: {error}") from None


def saved_files(folder: str) -> list[str] | None:
    """Files of a data set that ``datasets`` saved to disk, in order; None = the folder is none.

    Raises:
        PairingError: Its rows are chosen by a list of indices, or it has several splits.
    """
    place = Path(folder)
    try:
        splits = _read_json(place / "dataset_dict.json")
        parts = None if splits is None else ", ".join(splits["splits"])
        state = _read_json(place / "state.json")
        if parts is None and state is None:
            return None
        if state is None:
            state = {"_data_files": []}
        names = [Path(file["filename"]).name for file in state["_data_files"]]  # beside it, always
        shuffled = bool(state.get("_indices_files"))
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise PairingError(
            f"{folder} is no data set that was saved to disk: {type(error).__name__}: {error}. "
            "Save it again."
        ) from error
    if parts is not None:
        raise PairingError(f"{folder} holds several splits; give one: {parts}.")
    if shuffled:
        raise PairingError(
            f"{folder} was shuffled or filtered without being copied; save it again after "
            "flatten_indices()."
        )
    return [str(place / name) for name in names]


def _read_json(path: Path) -> Any:
    """The content of a JSON file; None where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _holds_images(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and {field.name for field in kind} == {"bytes", "path"}


class _ArrowFile:
    """An Arrow file in memory that the system maps and gives back as it likes."""

    def __init__(self, file: str) -> None:
        if is_remote(file):
            raise PairingError(f"{file}: Arrow files are mapped, so they must be on this machine.")
        source = pa.memory_map(file)
        try:
            self._table = pa.ipc.open_stream(source).read_all()  # what datasets writes
        except pa.ArrowInvalid:
            self._table = pa.ipc.open_file(source).read_all()
        self.schema: pa.Schema = self._table.schema

    def rows(self, columns: list[str]) -> Iterator[Record]:
        if not columns:
            yield from ({} for _ in range(self._table.num_rows))
            return
        for batch in self._table.select(columns).to_batches(_ROWS):
            yield from batch.to_pylist()

    def cell(self, row: int, column: str) -> Any:
        return self._table[column][row].as_py()


class _ParquetFile:
    """A Parquet file, of which rows can only be read one after the other inside a row group.

    So cells are taken from the blocks read last, or from reading on, or from the row group's
    start: cheap when they are asked for about in order.
    """

    def __init__(self, file: str) -> None:
        # Buffered: a row group of images may be larger than the memory.
        source = open_binary(file) if is_remote(file) else file
        self._file = pq.ParquetFile(source, buffer_size=1 << 20, pre_buffer=False)
        self.schema: pa.Schema = self._file.schema_arrow
        self._images = [field.name for field in self.schema if _holds_images(field.type)]
        counts = [
            self._file.metadata.row_group(group).num_rows
            for group in range(self._file.num_row_groups)
        ]
        self._ends = list(accumulate(counts))
        self._lock = threading.Lock()
        self._blocks: OrderedDict[tuple[int, int], pa.RecordBatch] = OrderedDict()
        self._reading: tuple[int, int, Iterator[pa.RecordBatch]] | None = None

    def rows(self, columns: list[str]) -> Iterator[Record]:
        if not columns:
            yield from ({} for _ in range(self._file.metadata.num_rows))
            return
        for batch in self._file.iter_batches(_ROWS, columns=columns):
            yield from batch.to_pylist()

    def cell(self, row: int, column: str) -> Any:
        group = bisect_right(self._ends, row)
        block, inside = divmod(row - (self._ends[group - 1] if group else 0), _BLOCK)
        with self._lock:
            return self._block(group, block)[column][inside].as_py()

    def _block(self, group: int, block: int) -> pa.RecordBatch:
        if (group, block) not in self._blocks:
            if self._reading is None or self._reading[0] != group or self._reading[1] > block:
                batches = self._file.iter_batches(
                    _BLOCK, row_groups=[group], columns=self._images, use_threads=False
                )
                self._reading = group, 0, batches
            _, position, batches = self._reading
            while position <= block:
                self._blocks[group, position] = next(batches)
                position += 1
                if len(self._blocks) > _BLOCKS:
                    self._blocks.popitem(last=False)
            self._reading = group, position, batches
        return self._blocks[group, block]


@lru_cache(maxsize=8)
def _opened(file: str, version: str) -> _ArrowFile | _ParquetFile:
    """The file, kept open: as the key, its version tells it from one that replaces it."""
    return _ArrowFile(file) if file.lower().endswith(".arrow") else _ParquetFile(file)
