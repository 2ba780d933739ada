"""Manifests: streamed lists of the pairs to score.

A table with one pair per row (CSV, JSON, Parquet) names image files; a tar (``tars.py``) or a table
with image columns (``image_tables.py``) contains the images as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vsm_fast.errors import PairingError
from vsm_fast.images.storage import (
    ImageLocation,
    RemoteImage,
    StoredImage,
    beside,
    files_in,
    filesystem,
    is_folder,
    is_remote,
    suffix_of,
)
from vsm_fast.jobs.image_tables import saved_files, table_records
from vsm_fast.jobs.pairing import Pairing, PairRow
from vsm_fast.jobs.records import Notes, Record, repeated
from vsm_fast.jobs.tars import tar_records
from vsm_fast.jobs.text_tables import csv_records, json_records, jsonl_records

COLUMNS = ("id", "subject", "generator", "ref", "gen", "ref_mask", "gen_mask")
REQUIRED = ("ref", "gen")
_IMAGES = ("ref", "gen", "ref_mask", "gen_mask")
SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".tar", ".arrow")
_FOLDER_SUFFIXES = (".tar", ".parquet", ".arrow")


@dataclass(frozen=True)
class Manifest:
    """Streamed list of pairs that can be read repeatedly.

    Columns ``ref`` and ``gen`` are required; ``id`` (default ``row 1``, ``row 2``, …), ``subject``,
    ``generator``, ``ref_mask`` and ``gen_mask`` are optional. Paths are relative to the manifest.
    Files are not checked here: a missing image becomes the status of its row.

    Attributes:
        location: Path or address of a .csv or .tsv (with a header), .jsonl, .json (a list of
            objects), .parquet, .tar or .arrow file, or of a folder of the last three.
        columns: Column names in the file, by the names above.
    """

    location: str
    columns: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.columns) - set(COLUMNS))
        if unknown:
            raise PairingError(
                f"unknown column {', '.join(unknown)}; expected one of {', '.join(COLUMNS)}."
            )

    @property
    def base(self) -> str:
        """Return the common prefix of the image locations relative to the manifest."""
        if is_remote(self.location):
            return beside(self.location, "")
        folder = Path(self.location).parent
        return "" if folder == Path() else os.path.join(folder, "")  # noqa: PTH118 - ends in /

    def rows(self, notes: Notes | None = None) -> Iterator[PairRow]:
        """Yield the pairs, in order.

        Args:
            notes: Takes notes for the user.

        Raises:
            PairingError: If the manifest cannot be read, or lacks a column or a value.
        """
        notes = Notes() if notes is None else notes
        names = {name: self.columns.get(name, name) for name in COLUMNS}
        used = set(names.values())
        number = 0
        for file in self._files(notes):
            for place, record in _records(file, names, notes):
                number += 1
                if record.keys() - used:
                    notes.unused_columns(name for name in record if name not in used)
                yield _row(file, place, number, record, names)

    def _files(self, notes: Notes) -> list[str]:
        """Return the file, or the files of the folder, in order."""
        location = self.location
        if is_remote(location):
            filesystem(location).invalidate_cache()  # listings may be stale
        if suffix_of(location) in SUFFIXES and not is_folder(location):
            if not is_remote(location) and not Path(location).is_file():
                raise PairingError(f"manifest {location} does not exist or is not a file.")
            return [location]
        if not is_folder(location):
            raise PairingError(
                f"a manifest ends in {', '.join(SUFFIXES)}, or is a folder of the last three; got "
                f"{location}."
            )
        saved = None if is_remote(location) else saved_files(location)
        listed = files_in(location)
        files = saved or [file for file in listed if suffix_of(file) in _FOLDER_SUFFIXES]
        kinds = sorted({suffix_of(file) for file in files})
        if len(kinds) != 1:
            raise PairingError(
                f"folder {location} must contain files of one kind of "
                f"{', '.join(_FOLDER_SUFFIXES)}; got {' and '.join(kinds) or 'none'}."
            )
        for file in () if saved else sorted({*listed} - {*files}):
            notes.leave_out("other file(s) of the folder", file)
        return files


def read_manifest(
    path: str | os.PathLike[str], columns: Mapping[str, str] | None = None
) -> Pairing:
    """Read all pairs of a manifest into memory.

    Args:
        path: Location, see :class:`Manifest`.
        columns: Column names, see :class:`Manifest`.

    Raises:
        PairingError: If the manifest cannot be read, lacks a column or a value, is empty, or
            repeats an id.
    """
    manifest = Manifest(os.fspath(path), columns or {})
    notes = Notes()
    rows = tuple(manifest.rows(notes))
    if not rows:
        raise PairingError(f"manifest {path} lists no pairs.")
    if twice := repeated(row.id for row in rows):
        raise PairingError(
            f"manifest {path}: ids must be unique; {', '.join(twice[:5])} "
            f"{'is' if len(twice) == 1 else 'are'} repeated."
        )
    sentences = (
        sentence if sentence.startswith(str(path)) else f"{path}: {sentence}"
        for sentence in notes.sentences()
    )
    return Pairing(rows, tuple(sentences))


def _records(file: str, names: Mapping[str, str], notes: Notes) -> Iterator[tuple[str, Record]]:
    try:
        match suffix_of(file):
            case ".csv" | ".tsv":
                yield from csv_records(file, [names[name] for name in REQUIRED], notes)
            case ".jsonl":
                yield from jsonl_records(file, notes)
            case ".json":
                yield from json_records(file, notes)
            case ".tar":
                yield from tar_records(file, notes)
            case _:
                yield from table_records(file, set(names.values()))
    except OSError as error:
        raise PairingError(f"manifest {file} cannot be read: {error}") from error


def _row(file: str, place: str, number: int, record: Record, names: Mapping[str, str]) -> PairRow:
    values: dict[str, str] = {}
    images: dict[str, ImageLocation] = {}
    for name in COLUMNS:
        value = record.get(names[name])
        if isinstance(value, StoredImage) and name in _IMAGES:
            images[name] = value
            continue
        text = "" if value is None else value
        if isinstance(text, int) and name not in _IMAGES:
            text = str(text)
        if not isinstance(text, str):
            raise PairingError(
                f"{file}, {place}: {names[name]} must be text; got {type(value).__name__} "
                f"{value!r}."
            )
        text = text.strip()
        if name not in _IMAGES:
            values[name] = text
        elif text:
            location = beside(file, text)
            if is_remote(location):
                filesystem(location)  # refuse an unknown protocol now, not at every row
            images[name] = RemoteImage(location) if is_remote(location) else Path(location)
    absent = [names[name] for name in REQUIRED if name not in images]
    if absent:
        empty = set(absent) <= record.keys()
        columns = ", ".join(map(str, record)) or "none"
        reason = "it is empty" if empty else f"the columns are {columns}"
        raise PairingError(f"{file}, {place}: {' and '.join(absent)} is required; {reason}.")
    return PairRow(
        values["id"] or f"row {number}",
        values["subject"],
        images["ref"],
        images["gen"],
        images.get("ref_mask"),
        images.get("gen_mask"),
        values["generator"],
    )
