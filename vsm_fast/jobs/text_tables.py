"""Streaming readers of CSV, TSV, JSON Lines and JSON manifests."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from vsm_fast.errors import PairingError
from vsm_fast.images.storage import open_binary, suffix_of
from vsm_fast.jobs.records import Notes, Record, refuse_repeated_columns, repeated, some
from vsm_fast.results import csv_cells

_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_MAX_HEADER = 1 << 20  # characters
_MAX_OBJECT = 1 << 20  # characters, of an object in a list
_CHUNK = 1 << 16


def csv_records(
    manifest: str, required: Collection[str] = (), notes: Notes | None = None
) -> Iterator[tuple[str, Record]]:
    """Yield the rows of a CSV file with a header; blanks around names and values are stripped.

    Args:
        manifest: UTF-8 or UTF-16 text, separated by commas, semicolons, tabs or bars.
        required: Columns that identify the separator in the header.
        notes: Takes a note on a separator or encoding that is unusual for the suffix.

    Raises:
        PairingError: If the file is not CSV, repeats a column, or a row has more or fewer values
            than the header.
    """
    with _open_text(manifest, "a CSV file", newline="") as file:
        header = file.readline(_MAX_HEADER)
        usual = "\t" if suffix_of(manifest) == ".tsv" else ","
        separator = _separator(header, required, usual)
        file.seek(0)
        reader = csv.reader(file, delimiter=separator, skipinitialspace=True, strict=True)
        names = [name.strip() for name in next(reader, ())]
        refuse_repeated_columns(filter(None, names), f"{manifest}, line 1")
        if separator != usual or not file.encoding.startswith("utf-8"):
            form = f"{_SEPARATORS[separator]}-separated text in {_shown(file.encoding)}"
            (notes or Notes()).say(f"{manifest} is read as {form}")
        for values in reader:
            place = f"line {reader.line_num}"
            if len(values) == len(names):
                yield place, dict(zip(names, map(csv_cells.original, values), strict=True))
            elif any(value.strip() for value in values):
                raise PairingError(f"{manifest}, {place}: {_mismatch(names, values)}")


def _separator(header: str, required: Collection[str], usual: str) -> str:
    """Return the separator that splits a header into the required columns, else the usual one.

    ``csv.Sniffer`` guesses from frequencies and takes letters of paths for separators.
    """
    for separator in (usual, *_SEPARATORS):
        try:
            rows = csv.reader([header], delimiter=separator, skipinitialspace=True)
            names = {name.strip() for name in next(rows, ())}
        except csv.Error:  # a field beyond the limit
            continue
        if names.issuperset(required):
            return separator
    return usual


def _mismatch(names: list[str], values: list[str]) -> str:
    if len(values) < len(names):
        return (
            f"no value for column {names[len(values)]!r}: the row ends after {len(values)} of "
            f"{len(names)} values. Write an empty value in its place."
        )
    return (
        f"more values than columns: {values[len(names)]!r} follows the last column, "
        f"{names[-1] if names else ''!r}. Quote values that contain the separator."
    )


def jsonl_records(manifest: str, notes: Notes | None = None) -> Iterator[tuple[str, Record]]:
    """Yield the objects of a JSON Lines file; empty lines are skipped.

    Raises:
        PairingError: If a line is not a JSON object, or an object repeats a key.
    """
    with _open_text(manifest, "text") as file:
        _note_encoding(manifest, file.encoding, notes)
        for number, line in enumerate(file, start=1):
            if line.strip():
                place = f"line {number}"
                try:
                    record = _DECODER.decode(line)
                except (ValueError, RecursionError) as error:  # Python limits digits and nesting
                    raise PairingError(f"{manifest}, {place}: not JSON: {error}.") from None
                yield place, _object(record, f"{manifest}, {place}")


def json_records(manifest: str, notes: Notes) -> Iterator[tuple[str, Record]]:
    """Yield the objects of a JSON list, one at a time.

    A file that starts with an object is read as JSON Lines: some programs use this suffix.

    Raises:
        PairingError: If the file is neither, or an object repeats a key.
    """
    with _open_text(manifest, "text") as file:
        text = _JsonText(file)
        if text.next() != "{":
            _note_encoding(manifest, file.encoding, notes)
            yield from _list_records(text, manifest)
            return
    yield from jsonl_records(manifest, notes)


def _list_records(text: _JsonText, manifest: str) -> Iterator[tuple[str, Record]]:
    if text.take() != "[":
        raise PairingError(f"{manifest}: expected a JSON list of objects.")
    mark = text.take() if text.next() == "]" else ","
    number = 0
    while mark == ",":
        number += 1
        place = f"object {number}"
        try:
            record = text.value()
        except (ValueError, RecursionError) as error:
            raise PairingError(f"{manifest}, {place}: not JSON: {error}.") from None
        yield place, _object(record, f"{manifest}, {place}")
        mark = text.take()
    if mark != "]" or text.next():
        got = repr(mark if mark != "]" else text.next()) if mark else "the end of the file"
        raise PairingError(
            f"{manifest}: expected a comma or the end of the list after object {number}; got "
            f"{got}. Write the file again."
        )


class _JsonText:
    """Text of a JSON file, read as far as the next value needs."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._text = file, ""

    def next(self) -> str:
        """Return the next character that is not blank, without consuming it; empty at the end."""
        self._text = self._text.lstrip()
        while not self._text and (more := self._file.read(_CHUNK)):
            self._text = more.lstrip()
        return self._text[:1]

    def take(self) -> str:
        """Consume the next character that is not blank; empty at the end."""
        character = self.next()
        self._text = self._text[1:]
        return character

    def value(self) -> Any:
        """Consume the next value.

        Raises:
            ValueError: If there is no value, or it is too long.
        """
        self.next()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text)
            except ValueError:  # the value may continue in the next chunk
                more = self._file.read(_CHUNK) if len(self._text) < _MAX_OBJECT else ""
                if not more:
                    raise
                self._text += more
            else:
                self._text = self._text[end:]
                return value


@contextmanager
def _open_text(manifest: str, kind: str, newline: str | None = None) -> Iterator[io.TextIOWrapper]:
    """Open in the encoding that the first bytes tell: UTF-16, as spreadsheets write, or UTF-8.

    Raises:
        PairingError: If the text is not in that encoding, or not CSV.
    """
    file = open_binary(manifest)
    start = file.read(2)
    file.seek(0)
    encoding = "utf-8-sig"  # spreadsheets write a BOM
    if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        encoding = "utf-16"
    elif len(start) == 2 and 0 in start:  # a manifest begins with an ASCII character
        encoding = "utf-16-be" if start[0] == 0 else "utf-16-le"
    with io.TextIOWrapper(file, encoding=encoding, newline=newline) as text:
        try:
            yield text
        except (csv.Error, UnicodeError) as error:
            raise PairingError(
                f"manifest {manifest} is not {kind} in {_shown(encoding)}: {error}. Save it again "
                "in UTF-8."
            ) from None


def _shown(encoding: str) -> str:
    return encoding.removesuffix("-sig").upper()


def _note_encoding(manifest: str, encoding: str, notes: Notes | None) -> None:
    if notes is not None and not encoding.startswith("utf-8"):
        notes.say(f"{manifest} is read as text in {_shown(encoding)}")


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object and refuse repeated keys, of which Python keeps only the last value.

    Raises:
        ValueError: If a key occurs twice.
    """
    result = dict(pairs)
    if len(result) < len(pairs):
        twice = repeated(name for name, _ in pairs)
        raise ValueError(f"an object has the key {some(twice)} twice")
    return result


_DECODER = json.JSONDecoder(object_pairs_hook=unique_keys)


def _object(record: Any, where: str) -> Record:
    if not isinstance(record, dict):
        raise PairingError(f"{where}: expected one JSON object; got {type(record).__name__}.")
    return record
