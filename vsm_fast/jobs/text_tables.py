"""CSV and JSON lines, line by line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator

from vsm_fast.errors import PairingError
from vsm_fast.images.storage import open_binary
from vsm_fast.jobs.records import Record


def csv_records(manifest: str) -> Iterator[tuple[str, Record]]:
    """Rows of a CSV file in UTF-8 with a header.

    Raises:
        PairingError: It is none, or a row has more values than columns.
    """
    # Spreadsheets write a BOM.
    with io.TextIOWrapper(open_binary(manifest), encoding="utf-8-sig", newline="") as file:
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


def jsonl_records(manifest: str) -> Iterator[tuple[str, Record]]:
    """Objects of a file with one JSON object a line; empty lines are passed over.

    Raises:
        PairingError: It is none.
    """
    with io.TextIOWrapper(open_binary(manifest), encoding="utf-8-sig") as file:
        try:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"line {number}", _json_object(line, f"{manifest}, line {number}")
        except UnicodeDecodeError as error:
            raise PairingError(f"manifest {manifest} is not in UTF-8: {error}.") from None


def _json_object(line: str, where: str) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:  # Python limits digits and nesting
        raise PairingError(f"{where}: not JSON: {error}.") from None
    if not isinstance(record, dict):
        raise PairingError(f"{where}: wanted one JSON object; got {type(record).__name__}.")
    return record
