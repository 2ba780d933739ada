"""Readers of Parquet and Arrow tables, whose columns may hold encoded images.

A column of structs ``{bytes, path}`` holds images as Hugging Face ``datasets`` stores them, in
Parquet or in the Arrow files of ``save_to_disk``. Its cells become :class:`ArrowImage` and are read
when they are decoded.
"""

from __future__ import annotations

import json
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator
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
from vsm_fast.jobs.records import Record, refuse_repeated_columns

_TEXT_ROWS = 4096  # per read
_BLOCK = 16  # rows of images per read
_MAX_BLOCKS = 8  # in memory: decoding runs some batches ahead, and in several threads


@dataclass(frozen=True)
class ArrowImage(StoredImage):
    """Image in a cell of a table.

    Attributes:
        file: Location of the Parquet or Arrow file.
        row: Row in the file, from 0.
        column: Name of the column.
    """

    file: str
    row: int
    column: str

    @property
    def name(self) -> str:
        """Return file, row and column."""
        return f"{self.file}#{self.row}.{self.column}"

    def read(self) -> bytes:
        """Return the bytes of the cell, or of the file that its path names."""
        try:
            cell = _opened(self.file, version_of(self.file)).cell(self.row, self.column)
        except (OSError, pa.ArrowException) as error:
            raise InputError(Status.UNREADABLE, f"{self.name} cannot be read: {error}.") from error
        if cell and cell.get("bytes") is not None:
            return bytes(cell["bytes"])
        if cell and cell.get("path"):
            return checked_read(beside(self.file, cell["path"]), 0, None, self.name)
        raise InputError(Status.MISSING_FILE, f"{self.name} contains no image.")


def table_records(file: str, columns: Collection[str]) -> Iterator[tuple[str, Record]]:
    """Yield the rows of a Parquet or Arrow file; values of other columns are None.

    Raises:
        PairingError: If the file cannot be read, or repeats a column.
    """
    try:
        table = _opened(file, version_of(file))
        refuse_repeated_columns(table.schema.names, file)
        fields = [field for field in table.schema if field.name in columns]
        images = [field.name for field in fields if _is_image(field.type)]
        text = [field.name for field in fields if not _is_image(field.type)]
        rows: Iterable[Record] = ({} for _ in range(table.count))
        if text:
            rows = (row for batch in table.batches(text) for row in batch.to_pylist())
        for row, values in enumerate(rows):
            record: Record = dict.fromkeys(table.schema.names) | values
            record |= {name: ArrowImage(file, row, name) for name in images}
            yield f"row {row + 1}", record
    except PairingError:
        raise
    # Damaged files contain invalid UTF-8, and dates that Python does not have.
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        kind = "a Parquet" if file.lower().endswith(".parquet") else "an Arrow"
        raise PairingError(f"manifest {file} is not {kind} file: {error}") from None


def saved_files(folder: str) -> list[str] | None:
    """Return the files of a data set saved by ``datasets``, in order; None = no data set.

    Raises:
        PairingError: If the data set has several splits, or selects rows by an index.
    """
    place = Path(folder)

    def read_json(name: str) -> Any:
        file = place / name
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    try:
        splits, state = read_json("dataset_dict.json"), read_json("state.json")
        if splits is None and state is None:
            return None
        if splits is not None:
            splits = ", ".join(splits["splits"])
        state = {"_data_files": []} if state is None else state
        names = [Path(file["filename"]).name for file in state["_data_files"]]
        shuffled = bool(state.get("_indices_files"))
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise PairingError(
            f"{folder} is not a data set saved to disk: {type(error).__name__}: {error}. Save it "
            "again."
        ) from error
    if splits is not None:
        raise PairingError(f"{folder} contains several splits; pass one: {splits}.")
    if shuffled:
        raise PairingError(
            f"{folder} was shuffled or filtered without a copy; save it again after "
            "flatten_indices()."
        )
    return [str(place / name) for name in names]


def _is_image(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and {field.name for field in kind} == {"bytes", "path"}


class _ArrowFile:
    """Memory-mapped Arrow file."""

    def __init__(self, file: str) -> None:
        if is_remote(file):
            raise PairingError(f"{file}: Arrow files are memory-mapped, so they must be local.")
        source = pa.memory_map(file)
        try:
            self._table = pa.ipc.open_stream(source).read_all()  # the format of datasets
        except pa.ArrowInvalid:
            self._table = pa.ipc.open_file(source).read_all()
        self.schema: pa.Schema = self._table.schema
        self.count = self._table.num_rows

    def batches(self, columns: list[str]) -> Any:
        return self._table.select(columns).to_batches(_TEXT_ROWS)

    def cell(self, row: int, column: str) -> Any:
        return self._table[column][row].as_py()


class _ParquetFile:
    """Parquet file with random access to image cells.

    Rows of a row group can only be read in order. A cell comes from a recent block, from reading
    on, or from the start of its row group: cheap for requests in rough order.
    """

    def __init__(self, file: str) -> None:
        # Buffered: a row group of images may exceed the memory.
        source = open_binary(file) if is_remote(file) else file
        self._file = pq.ParquetFile(source, buffer_size=1 << 20, pre_buffer=False)
        self.schema: pa.Schema = self._file.schema_arrow
        self._images = [field.name for field in self.schema if _is_image(field.type)]
        footer = self._file.metadata
        self.count = footer.num_rows
        groups = range(footer.num_row_groups)
        self._ends = list(accumulate(footer.row_group(group).num_rows for group in groups))
        self._lock = threading.Lock()
        self._blocks: OrderedDict[tuple[int, int], pa.RecordBatch] = OrderedDict()
        self._reading: tuple[int, int, Iterator[pa.RecordBatch]] | None = None

    def batches(self, columns: list[str]) -> Any:
        return self._file.iter_batches(_TEXT_ROWS, columns=columns)

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
                if len(self._blocks) > _MAX_BLOCKS:
                    self._blocks.popitem(last=False)
            self._reading = group, position, batches
        return self._blocks[group, block]


@lru_cache(maxsize=8)
def _opened(file: str, version: str) -> _ArrowFile | _ParquetFile:
    """Open a file and keep it open; the version in the cache key detects a replaced file."""
    return _ArrowFile(file) if file.lower().endswith(".arrow") else _ParquetFile(file)
