"""Manifests: tables that list the pairs to score, as CSV, JSON lines or Parquet."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from vsm_fast.errors import PairingError
from vsm_fast.pairing import Pairing, PairRow

COLUMNS = ("id", "subject", "ref", "gen", "ref_mask", "gen_mask")
REQUIRED = ("ref", "gen")


def read_manifest(path: str | os.PathLike[str]) -> Pairing:
    """Read the pairs from a manifest.

    Columns ``ref`` and ``gen`` are required; ``id`` (else ``row 1``, ``row 2``, …), ``subject``,
    ``ref_mask`` and ``gen_mask`` may be left out or empty. Paths are relative to the manifest.
    Files are not looked for here: a missing image becomes the status of its row.

    Args:
        path: a file ending in .csv (UTF-8, with a header), .jsonl or .parquet.

    Raises:
        PairingError: the manifest cannot be read, lacks a column or a value, or repeats an id.
    """
    manifest = Path(path)
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    reader = readers.get(manifest.suffix.lower())
    if reader is None:
        raise PairingError(f"a manifest ends in {', '.join(readers)}; got {manifest}.")
    if not manifest.is_file():
        raise PairingError(f"manifest {manifest} does not exist or is not a file.")
    rows, ignored = [], dict[str, None]()
    for number, (place, record) in enumerate(reader(manifest), start=1):
        ignored.update(dict.fromkeys(name for name in record if name not in COLUMNS))
        rows.append(_row(manifest, place, number, record))
    if not rows:
        raise PairingError(f"manifest {manifest} lists no pairs.")
    twice = [name for name, count in Counter(row.id for row in rows).items() if count > 1]
    if twice:
        raise PairingError(
            f"manifest {manifest}: ids must be unique; {', '.join(twice[:5])} "
            f"{'is' if len(twice) == 1 else 'are'} repeated."
        )
    notes = []
    if ignored:
        notes.append(f"{manifest}: columns that are not used: {', '.join(map(str, ignored))}")
    return Pairing(tuple(rows), tuple(notes))


def _row(manifest: Path, place: str, number: int, record: dict[str, object]) -> PairRow:
    values = {}
    for name in COLUMNS:
        value = record.get(name)
        text = "" if value is None else value
        if isinstance(text, int) and name in ("id", "subject"):
            text = str(text)
        if not isinstance(text, str):
            raise PairingError(
                f"{manifest}, {place}: {name} must be text; got {type(value).__name__} {value!r}."
            )
        values[name] = text.strip()
    absent = [name for name in REQUIRED if not values[name]]
    if absent:
        raise PairingError(
            f"{manifest}, {place}: {' and '.join(absent)} must be given; the columns there are "
            f"{', '.join(map(str, record))}."
        )

    def located(name: str) -> Path | None:
        return manifest.parent / values[name] if values[name] else None

    return PairRow(
        values["id"] or f"row {number}",
        values["subject"],
        manifest.parent / values["ref"],
        manifest.parent / values["gen"],
        located("ref_mask"),
        located("gen_mask"),
    )


def _read_csv(manifest: Path) -> Iterator[tuple[str, dict[str, object]]]:
    with manifest.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets write a BOM
        try:
            reader = csv.DictReader(file, strict=True)
            for record in reader:
                place = f"line {reader.line_num}"
                if None in record:
                    raise PairingError(f"{manifest}, {place}: more values than columns.")
                yield place, dict(record)
        except (csv.Error, UnicodeDecodeError) as error:
            raise PairingError(
                f"manifest {manifest} is not a CSV file in UTF-8: {error}."
            ) from None


def _read_jsonl(manifest: Path) -> Iterator[tuple[str, dict[str, object]]]:
    with manifest.open(encoding="utf-8-sig") as file:
        try:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"line {number}", _json_object(line, f"{manifest}, line {number}")
        except UnicodeDecodeError as error:
            raise PairingError(f"manifest {manifest} is not in UTF-8: {error}.") from None


def _json_object(line: str, where: str) -> dict[str, object]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:  # Python limits digits and nesting
        raise PairingError(f"{where}: not JSON: {error}.") from None
    if not isinstance(record, dict):
        raise PairingError(f"{where}: wanted one JSON object; got {type(record).__name__}.")
    return record


def _read_parquet(manifest: Path) -> Iterator[tuple[str, dict[str, object]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        records = pq.read_table(manifest).to_pylist()
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # text, dates
        raise PairingError(f"manifest {manifest} is not a Parquet file: {error}") from None
    for number, record in enumerate(records, start=1):
        yield f"row {number}", record
