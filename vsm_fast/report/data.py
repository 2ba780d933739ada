"""Tables of results, as ``vsm-fast score`` writes them, as columns that a report shows."""

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
from vsm_fast.jobs.job_folder import recorded_settings
from vsm_fast.jobs.text_tables import csv_records, jsonl_records
from vsm_fast.results.points import POINT_COLUMNS

if TYPE_CHECKING:
    import pyarrow

FORMATS = (".parquet", ".csv", ".jsonl")
REQUIRED = ("ref_id", "gen_id", "score", "n_matched", "n_source", "status")
SETTINGS = ("model", "semantic_threshold", "visual_threshold", "vsm_fast_version")
_NUMBERS = ("score", "n_matched", "n_source")
_GRID = b"vsm_fast.grid"


@dataclass(frozen=True, eq=False)
class PointTable:
    """The matched points of ``P`` pairs, ``T`` in all, packed row after row.

    Attributes:
        grid: (rows, columns) of the descriptor grid, of all images.
        cells: uint16 [T], cells of the generation's grid.
        targets: uint16 [T], cells of the reference's grid.
        semantic_similarity: float32 [T] in [-1, 1], to the target.
        visual_similarity: float32 [T] in [-1, 1], to the visual nearest neighbour.
        subject_counts: int64 [P], cells of each generated subject.
        subject_cells: uint16, these, row after row.
        gen_frame: int32 [P, 6]: left, top, right, bottom of the grid, height and width of the
            image, in pixels; zeros where unknown.
        ref_frame: The same for the references.
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
    """What a report is made of, ``P`` pairs.

    Attributes:
        score: float32 [P] in [0, 1], NaN where undefined.
        n_matched: int64 [P].
        n_source: int64 [P].
        texts: Columns of text, [P] each: all others that the table has.
        settings: Model, thresholds and library version, as text; what the table does not say is
            missing.
        points: The matched points; None where the table has none.
        without_points: Why ``points`` is None, ``""`` when it is not.
        planned: Pairs of the job that wrote the table, more than ``P`` until it is finished; None
            where no job did.
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
        path: A file that ``vsm-fast score`` wrote (Parquet, CSV or JSON lines), the folder of a
            job, or any folder of files of one of these kinds whose rows belong together.

    Raises:
        ResultsError: There is no such file, or it holds something else.
        JobError: The folder's record of its job is damaged.
    """
    import pyarrow as pa

    place = Path(path)
    tables = []
    for file in _files(place):
        tables.append(_table(file))
        _check_columns(tables[-1], str(file))
    grids = sorted({table.schema.metadata[_GRID] for table in tables if _has_grid(table)})
    if len(grids) > 1:
        found = ", ".join(grid.decode() for grid in grids)
        raise ResultsError(f"the files in {place} have different descriptor grids: {found}.")
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise ResultsError(f"the files in {place} have different columns: {error}.") from None
    if grids:
        table = table.replace_schema_metadata({_GRID: grids[0]})
    job = place / "_job.json"
    planned = recorded_settings(job).get("rows") if job.is_file() else None
    return replace(results_of(table, str(place)), planned=planned)


def _files(place: Path) -> list[Path]:
    """The files of results at a place."""
    if not place.is_dir():
        return [place]
    found = [Path(file) for file in files_in(str(place)) if suffix_of(file) in FORMATS]
    kinds = {path.suffix.lower(): path for path in found}
    if len(kinds) > 1:
        names = " and ".join(path.name for path in kinds.values())
        raise ResultsError(
            f"{place} holds results of several kinds, {names}, which may be the same rows. Give "
            "one file, or keep the files of one kind there."
        )
    if not found:
        raise ResultsError(f"{place} holds no {', '.join(f'*{kind}' for kind in FORMATS)} file.")
    return found


def _table(file: Path) -> pyarrow.Table:
    """A file's rows; of CSV and JSON lines each value as text, null where it is empty."""
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
        wanted = "a table" if kind in (".csv", ".jsonl") else "a Parquet file"
        raise ResultsError(
            f"{file} is not {wanted}: {str(error).rstrip('.')}. A report needs what vsm-fast score "
            "--out RESULTS.parquet --points writes."
        ) from None
    columns = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: pa.array([_text(row.get(name)) for row in rows], pa.string())
                     for name in columns})  # fmt: skip


def _text(value: object) -> str | None:
    """A value of CSV or JSON as the text that stands for it."""
    if value is None or value == "":
        return None
    text = value if isinstance(value, str) else json.dumps(value)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")  # Arrow has no surrogates


def results_of(table: pyarrow.Table, name: str = "the table") -> Results:
    """Results from an Arrow table, as ``VSMScores.to_arrow`` gives it.

    Args:
        table: One row a pair.
        name: Of the table, for errors.

    Raises:
        ResultsError: Columns are missing, contradict each other, or have values out of range.
    """
    import pyarrow as pa

    _check_columns(table, name)
    numbers = {column: _numbers(table, column, name) for column in _NUMBERS}
    texts = {}
    for column in table.column_names:
        kind = table.schema.field(column).type
        plain = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        plain |= pa.types.is_integer(kind) or pa.types.is_floating(kind)
        plain |= pa.types.is_boolean(kind) or pa.types.is_dictionary(kind)
        if plain and column not in (*_NUMBERS, *SETTINGS):
            # By Arrow: the shortest decimal that reads back as the same float32.
            texts[column] = table[column].cast(pa.string()).fill_null("").to_pylist()
    if "id" not in texts:
        texts["id"] = [f"row {row + 1}" for row in range(len(table))]
    matched = numbers["n_matched"].astype(np.int64)
    points, reason = _points(table, matched, name)
    return Results(
        numbers["score"].astype(np.float32),
        matched,
        numbers["n_source"].astype(np.int64),
        texts,
        _settings(table, name),
        points,
        reason,
    )


def _check_columns(table: pyarrow.Table, name: str) -> None:
    missing = [column for column in REQUIRED if column not in table.column_names]
    if missing:
        raise ResultsError(
            f"{name} has no column {', '.join(missing)}, so it is no table of results; its columns "
            f"are {', '.join(table.column_names) or 'none'}. A report needs what vsm-fast score "
            "--out RESULTS.parquet --points writes."
        )


def _has_grid(table: pyarrow.Table) -> bool:
    return _GRID in (table.schema.metadata or {})


def _numbers(table: pyarrow.Table, column: str, name: str) -> NDArray[np.float64]:
    """One number a row; null is NaN in ``score`` and an error elsewhere."""
    import pyarrow as pa

    try:
        values = np.asarray(table[column].cast(pa.float64()).to_numpy(), np.float64)
    except pa.ArrowException as error:
        raise ResultsError(f"{name}: column {column} does not hold numbers: {error}.") from None
    if column != "score" and not (np.isfinite(values) & (values >= 0)).all():
        raise ResultsError(f"{name}: column {column} must hold counts.")
    return values


def _settings(table: pyarrow.Table, name: str) -> dict[str, str]:
    """What is the same for all rows, and must be: scores at two thresholds cannot be compared."""
    settings = {}
    for column in SETTINGS:
        if column in table.column_names and len(table):
            found = table[column].unique().to_pylist()
            if len(found) > 1 and column != "vsm_fast_version":
                raise ResultsError(
                    f"{name} mixes rows of several settings, {column}: "
                    f"{', '.join(map(str, found[:5]))}. Make one report for each."
                )
            settings[column] = ", ".join(str(value) for value in found if value is not None)
    return settings


def _points(
    table: pyarrow.Table, matched: NDArray[np.int64], name: str
) -> tuple[PointTable | None, str]:
    """The matched points, or why there are none."""
    if not set(POINT_COLUMNS) <= set(table.column_names):
        return None, "The results hold no matched points: score with --points to get them."
    counts, cells = _lists(table, "point_cell", name)
    lacking = int((counts != matched).sum())
    if lacking:
        return None, (
            f"The matched points of {lacking:,} of {len(table):,} pairs are missing: score all of "
            "them with --points."
        )
    if not len(cells):
        return None, "No pair has a matched point."
    others = {}
    for column in ("point_target", "point_semantic", "point_visual"):
        lengths, others[column] = _lists(table, column, name)
        if not np.array_equal(lengths, counts):
            raise ResultsError(f"{name}: columns point_cell and {column} differ in length.")
    subject_counts, subject_cells = _lists(table, "gen_cells", name)
    grid = _grid(table, name)
    for column, values in (("point_cell", cells), ("point_target", others["point_target"]),
                           ("gen_cells", subject_cells)):  # fmt: skip
        if len(values) and not 0 <= values.min() <= values.max() < grid[0] * grid[1]:
            raise ResultsError(
                f"{name}: column {column} has cells outside the grid of {grid[0]} x {grid[1]}."
            )
    points = PointTable(
        grid,
        cells.astype(np.uint16),
        others["point_target"].astype(np.uint16),
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
            f"{name} has matched points but no grid to place them on: the schema's metadata must "
            f"have {_GRID.decode()} like '32x32'; got {text!r}."
        )
    rows, columns = map(int, parts)
    if not 0 < rows * columns <= 2**16:
        raise ResultsError(f"{name}: a grid has 1 to 65,536 cells; got {text}.")
    return rows, columns


def _lists(
    table: pyarrow.Table, column: str, name: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Lengths and values of a column of lists of numbers; null is an empty list."""
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
    """Box and size of each row, int32 [P, 6]; zeros where there is none."""
    frames = np.zeros((len(table), 6), np.int32)
    for part, columns in (("box", slice(0, 4)), ("size", slice(4, 6))):
        column = f"{side}_{part}"
        width = columns.stop - columns.start
        lengths, values = _lists(table, column, name)
        if not np.isin(lengths, (0, width)).all():
            raise ResultsError(f"{name}: column {column} must hold lists of {width} numbers.")
        frames[lengths == width, columns] = values.reshape(-1, width)
    return frames
