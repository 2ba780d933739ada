"""Manifests: what lists the pairs to score, read as a stream.

A table with one pair per row (CSV, JSON, Parquet), which names files; or images and pairs in one:
tar archives (``tars.py``), tables with image columns (``arrow_tables.py``).
"""

from __future__ import annotations

import os
from collections import Counter
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
from vsm_fast.jobs.arrow_tables import saved_files, table_records
from vsm_fast.jobs.pairing import Pairing, PairRow
from vsm_fast.jobs.records import Notes, Record
from vsm_fast.jobs.tars import tar_records
from vsm_fast.jobs.text_tables import csv_records, json_records, jsonl_records

COLUMNS = ("id", "subject", "generator", "ref", "gen", "ref_mask", "gen_mask")
REQUIRED = ("ref", "gen")
_IMAGES = ("ref", "gen", "ref_mask", "gen_mask")
SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".tar", ".arrow")
_IN_FOLDERS = (".tar", ".parquet", ".arrow")  # of one data set


@dataclass(frozen=True)
class Manifest:
    """A list of pairs that is read as often as wanted and never held as a whole.

    Columns ``ref`` and ``gen`` are required; ``id`` (else ``row 1``, ``row 2``, …), ``subject``,
    ``generator``, ``ref_mask`` and ``gen_mask`` may be left out or empty. Paths are relative to
    the manifest. Files are not looked for here: a missing image becomes the status of its row.

    Attributes:
        location: Path or address of a file ending in .csv or .tsv (with a header), .jsonl, .json
            (a list of objects), .parquet, .tar or .arrow, or of a folder of the last three.
        columns: Names that columns have there, by the names that they have here.
    """

    location: str
    columns: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.columns) - set(COLUMNS))
        if unknown:
            raise PairingError(
                f"there is no column {', '.join(unknown)}; wanted one of {', '.join(COLUMNS)}."
            )

    @property
    def base(self) -> str:
        """Beginning of the locations of its images, unless they lie elsewhere."""
        if is_remote(self.location):
            return beside(self.location, "")
        folder = Path(self.location).parent
        return "" if folder == Path() else os.path.join(folder, "")  # noqa: PTH118 - ends in /

    def rows(self, notes: Notes | None = None) -> Iterator[PairRow]:
        """The pairs, in order.

        Args:
            notes: Takes up remarks for the user.

        Raises:
            PairingError: The manifest cannot be read, or lacks a column or a value.
        """
        notes = Notes() if notes is None else notes
        names = {name: self.columns.get(name, name) for name in COLUMNS}
        wanted = set(names.values())
        number = 0
        for file in self._files(notes):
            for place, record in _records(file, names, notes):
                number += 1
                if record.keys() - wanted:
                    notes.unused_columns(name for name in record if name not in wanted)
                yield _row(file, place, number, record, names)

    def _files(self, notes: Notes) -> list[str]:
        """The file, or the files of the folder, in order."""
        if is_remote(self.location):
            filesystem(self.location).invalidate_cache()  # of listings, which may be old
        if suffix_of(self.location) in SUFFIXES and not is_folder(self.location):
            if not is_remote(self.location) and not Path(self.location).is_file():
                raise PairingError(f"manifest {self.location} does not exist or is not a file.")
            return [self.location]
        if not is_folder(self.location):
            raise PairingError(
                f"a manifest ends in {', '.join(SUFFIXES)}, or is a folder of the last three; got "
                f"{self.location}."
            )
        saved = None if is_remote(self.location) else saved_files(self.location)
        listed = files_in(self.location)
        files = saved or [file for file in listed if suffix_of(file) in _IN_FOLDERS]
        kinds = sorted({suffix_of(file) for file in files})
        if len(kinds) != 1:
            raise PairingError(
                f"folder {self.location} should hold files of one of {', '.join(_IN_FOLDERS)}; it "
                f"has {' and '.join(kinds) or 'none'}."
            )
        for file in () if saved else sorted({*listed} - {*files}):
            notes.leave_out("other file(s) of the folder", file)
        return files


def read_manifest(
    path: str | os.PathLike[str], columns: Mapping[str, str] | None = None
) -> Pairing:
    """Read all pairs of a manifest.

    Args:
        path: As for :class:`Manifest`.
        columns: As for :class:`Manifest`.

    Raises:
        PairingError: The manifest cannot be read, lacks a column or a value, lists nothing, or
            repeats an id.
    """
    manifest = Manifest(os.fspath(path), columns or {})
    notes = Notes()
    rows = tuple(manifest.rows(notes))
    if not rows:
        raise PairingError(f"manifest {path} lists no pairs.")
    twice = [name for name, count in Counter(row.id for row in rows).items() if count > 1]
    if twice:
        raise PairingError(
            f"manifest {path}: ids must be unique; {', '.join(twice[:5])} "
            f"{'is' if len(twice) == 1 else 'are'} repeated."
        )
    return Pairing(rows, tuple(f"{path}: {sentence}" for sentence in notes.sentences()))


def _records(file: str, names: Mapping[str, str], notes: Notes) -> Iterator[tuple[str, Record]]:
    suffix = suffix_of(file)
    try:
        if suffix in (".csv", ".tsv"):
            yield from csv_records(file, [names[name] for name in REQUIRED], notes)
        elif suffix == ".jsonl":
            yield from jsonl_records(file, notes)
        elif suffix == ".json":
            yield from json_records(file, notes)
        elif suffix == ".tar":
            yield from tar_records(file, notes)
        else:
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
            images[name] = located(file, text)
    absent = [names[name] for name in REQUIRED if name not in images]
    if absent:
        columns = ", ".join(map(str, record)) or "none"
        there = set(absent) <= record.keys()
        raise PairingError(
            f"{file}, {place}: {' and '.join(absent)} must be given; "
            + ("it is empty." if there else f"the columns there are {columns}.")
        )
    return PairRow(
        values["id"] or f"row {number}",
        values["subject"],
        images["ref"],
        images["gen"],
        images.get("ref_mask"),
        images.get("gen_mask"),
        values["generator"],
    )


def located(manifest: str, name: str) -> ImageLocation:
    """The image that a manifest names.

    Raises:
        PairingError: An address that nothing here opens.
    """
    location = beside(manifest, name)
    if not is_remote(location):
        return Path(location)
    filesystem(location)  # now, and not at every row
    return RemoteImage(location)
