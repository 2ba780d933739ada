"""Result tables of ``vsm-fast score``, as the columns of a report."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vsm_fast.errors import PairingError, ResultsError
from vsm_fast.images.storage import files_in, suffix_of
from vsm_fast.jobs.job_folder import JOB, recorded_settings
from vsm_fast.jobs.text_tables import csv_records, jsonl_records
from vsm_fast.results.points import POINT_COLUMNS

if TYPE_CHECKING:
    import pyarrow

FORMATS = (".parquet", ".csv", ".jsonl")
REQUIRED = ("ref_id", "gen_id", "score", "n_matched", "n_source", "status")
SETTINGS = ("model", "semantic_threshold", "visual_threshold", "vsm_fast_version")
_NUMBERS = ("score", "n_matched", "n_source")
_GRID = b"vsm_fast.grid"
_HOW_TO = "A report needs the output of vsm-fast score --out RESULTS.parquet --points."


@dataclass(frozen=True, eq=False)
class PointTable:
    """Matched points of ``P`` pairs, ``T`` in all, packed row after row.

    Attributes:
        grid: (rows, columns) of the descriptor grid, shared by all images.
        cells: uint16 [T], cells of the generation's grid.
        targets: uint16 [T], cells of the reference's grid.
        semantic_similarity: float32 [T] in [-1, 1], to the target.
        visual_similarity: float32 [T] in [-1, 1], to the visual nearest neighbour.
        subject_counts: int64 [P], number of cells of each generated subject.
        subject_cells: uint16, these cells, row after row.
        gen_frame: int32 [P, 6]: left, top, right, bottom of the grid, height and width of the
            image, in pixels; zeros if unknown.
        ref_frame: int32 [P, 6], the same for the references.
    """

    grid: tuple[int, int]
    cells: NDArray[np.uint16]
    targets: NDArray[np.uint16]
    semantic_similarity: NDArray[np.float32]
    visual_similarity: NDArray[np.float32]
    subject_counts: NDArray[np.int64]
    subject_cells: NDArray[np.uint16]
    gen_frame: NDArray[np.int32]
    ref_frame: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Results:
    """Results of ``P`` pairs.

    Attributes:
        score: float32 [P] in [0, 1], NaN where undefined.
        n_matched: int64 [P].
        n_source: int64 [P].
        texts: All other columns as text, [P] each.
        settings: Model, thresholds and library version as text, where the table has them.
        points: Matched points; None if the table has none.
        without_points: Reason for ``points`` being None, else ``""``.
        planned: Number of pairs of the job that wrote the table, more than ``P`` until it is
            finished; None without a job.
    """

    score: NDArray[np.float32]
    n_matched: NDArray[np.int64]
    n_source: NDArray[np.int64]
    texts: Mapping[str, list[str]]
    settings: Mapping[str, str]
    points: PointTable | None
    without_points: str
    planned: int | None = None

    def __len__(self) -> int:
        return len(self.score)


def read_results(path: str | os.PathLike[str]) -> Results:
    """Read a table of results.

    Args:
        path: Output file of ``vsm-fast score`` (Parquet, CSV or JSON lines), folder of a job, or
            folder of files of one of these kinds whose rows form one table.

    Raises:
        ResultsError: If there is no such file, or it is not a table of results.
        JobError: If the record of the job in the folder is damaged.
    """
    import pyarrow as pa

    place = Path(path)
    files = [place]
    if place.is_dir():
        files = [Path(file) for file in files_in(str(place)) if suffix_of(file) in FORMATS]
        kinds = {file.suffix.lower(): file.name for file in files}
        if len(kinds) > 1:
            raise ResultsError(
                f"{place} contains results of several kinds, {' and '.join(kinds.values())}, "
                "possibly of the same rows. Pass one file, or keep one kind in the folder."
            )
        if not files:
            patterns = ", ".join(f"*{kind}" for kind in FORMATS)
            raise ResultsError(f"{place} contains no {patterns} file.")
    tables = []
    for file in files:
        tables.append(_read_table(file))
        _check_columns(tables[-1], str(file))
    grids = sorted({(table.schema.metadata or {}).get(_GRID, b"") for table in tables} - {b""})
    if len(grids) > 1:
        names = ", ".join(grid.decode() for grid in grids)
        raise ResultsError(f"the files in {place} have different descriptor grids: {names}.")
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise ResultsError(f"the files in {place} have different columns: {error}.") from None
    if grids:
        table = table.replace_schema_metadata({_GRID: grids[0]})
    job = place / JOB
    planned = recorded_settings(job).get("rows") if job.is_file() else None
    return replace(results_of(table, str(place)), planned=planned)


def _read_table(file: Path) -> pyarrow.Table:
    """Read a file; values of CSV and JSON lines become text, null if empty."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = file.suffix.lower()
    try:
        if kind not in (".csv", ".jsonl"):
            return pq.ParquetFile(file).read()
        records = csv_records(str(file)) if kind == ".csv" else jsonl_records(str(file))
        rows = [record for _, record in records]
    except FileNotFoundError:
        raise ResultsError(f"{file} does not exist.") from None
    except (pa.ArrowException, OSError, PairingError) as error:
        expected = "a table" if kind in (".csv", ".jsonl") else "a Parquet file"
        raise ResultsError(
            f"{file} is not {expected}: {str(error).rstrip('.')}. {_HOW_TO}"
        ) from None

    def text_of(value: object) -> str | None:
        if value is None or value == "":
            return None
        text = value if isinstance(value, str) else json.dumps(value)
        return text.encode("utf-8", "backslashreplace").decode("utf-8")  # Arrow has no surrogates

    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [text_of(row.get(name)) for row in rows] for name in names}
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def results_of(table: pyarrow.Table, name: str = "the table") -> Results:
    """Convert an Arrow table of ``VSMScores.to_arrow``.

    Args:
        table: One row per pair.
        name: Name of the table in error messages.

    Raises:
        ResultsError: If columns are missing, contradict each other, or have values out of range.
    """
    import pyarrow as pa

    _check_columns(table, name)
    numbers = {}
    for column in _NUMBERS:  # null is NaN in score and an error elsewhere
        try:
            values = np.asarray(table[column].cast(pa.float64()).to_numpy(), np.float64)
        except pa.ArrowException as error:
            raise ResultsError(f"{name}: column {column} must hold numbers: {error}.") from None
        if column != "score" and not (np.isfinite(values) & (values >= 0)).all():
            raise ResultsError(f"{name}: column {column} must hold counts.")
        numbers[column] = values
    texts = {}
    for column in table.column_names:
        kind = table.schema.field(column).type
        plain = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        plain |= pa.types.is_integer(kind) or pa.types.is_floating(kind)
        plain |= pa.types.is_boolean(kind) or pa.types.is_dictionary(kind)
        if plain and column not in (*_NUMBERS, *SETTINGS):
            # Arrow writes the shortest decimal that reads back as the same float32.
            texts[column] = table[column].cast(pa.string()).fill_null("").to_pylist()
    texts.setdefault("id", [f"row {row + 1}" for row in range(len(table))])
    settings = {}
    for column in SETTINGS:
        if column in table.column_names and len(table):
            values = table[column].unique().to_pylist()
            if len(values) > 1 and column != "vsm_fast_version":
                raise ResultsError(
                    f"{name} mixes rows of several settings, {column}: "
                    f"{', '.join(map(str, values[:5]))}. Such scores cannot be compared: make one "
                    "report per setting."
                )
            settings[column] = ", ".join(str(value) for value in values if value is not None)
    matched = numbers["n_matched"].astype(np.int64)
    points, reason = _points(table, matched, name)
    return Results(
        numbers["score"].astype(np.float32),
        matched,
        numbers["n_source"].astype(np.int64),
        texts,
        settings,
        points,
        reason,
    )


def _check_columns(table: pyarrow.Table, name: str) -> None:
    missing = [column for column in REQUIRED if column not in table.column_names]
    if missing:
        raise ResultsError(
            f"{name} is not a table of results: it has no column {', '.join(missing)}; its columns "
            f"are {', '.join(table.column_names) or 'none'}. {_HOW_TO}"
        )


def _points(
    table: pyarrow.Table, matched: NDArray[np.int64], name: str
) -> tuple[PointTable | None, str]:
    """Return the matched points, or None and the reason."""
    if not set(POINT_COLUMNS) <= set(table.column_names):
        return None, "The results have no matched points. Score with --points to store them."
    counts, cells = _lists(table, "point_cell", name)
    incomplete = int((counts != matched).sum())
    if incomplete:
        return None, (
            f"The matched points of {incomplete:,} of {len(table):,} pairs are missing. Score all "
            "pairs with --points."
        )
    if not len(cells):
        return None, "No pair has a matched point."
    others = {}
    for column in ("point_target", "point_semantic", "point_visual"):
        lengths, others[column] = _lists(table, column, name)
        if not np.array_equal(lengths, counts):
            raise ResultsError(f"{name}: columns point_cell and {column} differ in length.")
    targets = others["point_target"]
    subject_counts, subject_cells = _lists(table, "gen_cells", name)
    grid = _grid(table, name)
    for column, values in (
        ("point_cell", cells),
        ("point_target", targets),
        ("gen_cells", subject_cells),
    ):
        if len(values) and not 0 <= values.min() <= values.max() < grid[0] * grid[1]:
            raise ResultsError(
                f"{name}: column {column} has cells outside the grid of {grid[0]} x {grid[1]}."
            )
    points = PointTable(
        grid,
        cells.astype(np.uint16),
        targets.astype(np.uint16),
        others["point_semantic"].astype(np.float32),
        others["point_visual"].astype(np.float32),
        subject_counts,
        subject_cells.astype(np.uint16),
        _frames(table, "gen", name),
        _frames(table, "ref", name),
    )
    return points, ""


def _grid(table: pyarrow.Table, name: str) -> tuple[int, int]:
    text = (table.schema.metadata or {}).get(_GRID, b"").decode("utf-8", "replace")
    parts = text.split("x")
    if len(parts) != 2 or not all(part.isdecimal() and 0 < len(part) < 5 for part in parts):
        raise ResultsError(
            f"{name} has matched points but no descriptor grid: the schema metadata must have "
            f"{_GRID.decode()} like '32x32'; got {text!r}."
        )
    rows, columns = map(int, parts)
    if not 0 < rows * columns <= 2**16:
        raise ResultsError(f"{name}: a grid has 1 to 65,536 cells; got {text}.")
    return rows, columns


def _lists(
    table: pyarrow.Table, column: str, name: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return lengths and values of a column of lists of numbers; null is an empty list."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        lists = table[column].combine_chunks()
        lengths = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
        values = pc.list_flatten(lists).cast(pa.float64()).to_numpy(zero_copy_only=False)
    except (pa.ArrowException, NotImplementedError) as error:
        raise ResultsError(f"{name}: column {column} must hold lists of numbers: {error}") from None
    return lengths.astype(np.int64), values


def _frames(table: pyarrow.Table, side: str, name: str) -> NDArray[np.int32]:
    """Return box and size of each row, int32 [P, 6]; zeros if unknown."""
    frames = np.zeros((len(table), 6), np.int32)
    for part, columns in (("box", slice(0, 4)), ("size", slice(4, 6))):
        column = f"{side}_{part}"
        width = columns.stop - columns.start
        lengths, values = _lists(table, column, name)
        if not np.isin(lengths, (0, width)).all():
            raise ResultsError(f"{name}: column {column} must hold lists of {width} numbers.")
        frames[lengths == width, columns] = values.reshape(-1, width)
    return frames
