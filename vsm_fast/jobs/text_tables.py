"""CSV and its relatives, JSON lines and JSON, as streams."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any, TextIO

from vsm_fast.errors import PairingError
from vsm_fast.images.storage import open_binary, suffix_of
from vsm_fast.jobs.records import Notes, Record, refuse_twice, some
from vsm_fast.results import csv_cells

_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_MOST_HEADER = 1 << 20  # characters
_MOST_OBJECT = 1 << 20  # characters, in a list
_CHUNK = 1 << 16


def csv_records(
    manifest: str, required: Collection[str] = (), notes: Notes | None = None
) -> Iterator[tuple[str, Record]]:
    """Rows of a CSV file with a header; blanks around names and values do not count.

    Args:
        manifest: UTF-8 or UTF-16; separated by commas, semicolons, tabs or bars.
        required: Columns that the right separator finds in the header.
        notes: Told of a separator or encoding that the suffix does not promise.

    Raises:
        PairingError: It is none, two columns share a name, or a row has more or fewer values
            than the header.
    """
    with _open_text(manifest, newline="") as file:
        try:
            header = file.readline(_MOST_HEADER)
            separator = _separator(header, required, suffix_of(manifest))
            file.seek(0)
            reader = csv.reader(file, delimiter=separator, skipinitialspace=True, strict=True)
            names = [name.strip() for name in next(reader, ())]
            refuse_twice([name for name in names if name], f"{manifest}, line 1")
            if notes is not None:
                _say_format(manifest, file.encoding, separator, notes)
            for values in reader:
                place = f"line {reader.line_num}"
                if len(values) != len(names):
                    if not any(value.strip() for value in values):
                        continue
                    raise PairingError(f"{manifest}, {place}: {_misfit(names, values)}")
                cells = (csv_cells.original(value) for value in values)
                yield place, dict(zip(names, cells, strict=True))
        except (csv.Error, UnicodeError) as error:
            raise PairingError(
                f"manifest {manifest} is not a CSV file in {_shown(file.encoding)}: {error}. "
                "Save it again as CSV in UTF-8."
            ) from None


def _separator(header: str, required: Collection[str], suffix: str) -> str:
    """The separator with which a header names the required columns; else the usual one.

    ``csv.Sniffer`` guesses from frequencies, and takes letters of paths for separators.
    """
    usual = "\t" if suffix == ".tsv" else ","
    for separator in (usual, *_SEPARATORS):
        try:
            rows = csv.reader([header], delimiter=separator, skipinitialspace=True)
            names = {name.strip() for name in next(rows, ())}
        except csv.Error:  # a field beyond the limit
            continue
        if names.issuperset(required):
            return separator
    return usual


def _say_format(manifest: str, encoding: str, separator: str, notes: Notes) -> None:
    usual = "\t" if suffix_of(manifest) == ".tsv" else ","
    if separator != usual or not encoding.startswith("utf-8"):
        notes.say(
            f"{manifest} is read as {_SEPARATORS[separator]}-separated text in {_shown(encoding)}"
        )


def _misfit(names: list[str], values: list[str]) -> str:
    """The column at which a row and the header part."""
    if len(values) < len(names):
        return (
            f"no value for column {names[len(values)]!r}: the row ends after {len(values)} of "
            f"{len(names)} values. Write an empty value where there is none."
        )
    return (
        f"more values than columns: {values[len(names)]!r} follows the last column, "
        f"{names[-1] if names else ''!r}. Quote values that hold the separator."
    )


def jsonl_records(manifest: str, notes: Notes | None = None) -> Iterator[tuple[str, Record]]:
    """Objects of a file with one JSON object per line; empty lines are passed over.

    Raises:
        PairingError: It is none, or an object has a key twice.
    """
    with _open_text(manifest) as file:
        _say_encoding(manifest, file.encoding, notes)
        try:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    place = f"line {number}"
                    try:
                        record = _DECODER.decode(line)
                    # Python limits digits and nesting.
                    except (ValueError, RecursionError) as error:
                        raise PairingError(f"{manifest}, {place}: not JSON: {error}.") from None
                    yield place, _object(record, f"{manifest}, {place}")
        except UnicodeError as error:
            raise _not_text(manifest, file.encoding, error) from None


def json_records(manifest: str, notes: Notes) -> Iterator[tuple[str, Record]]:
    """Objects of a JSON list, of which one at a time is in memory.

    Some programs write JSON lines under this suffix too: a file that starts with an object.

    Raises:
        PairingError: It is neither, or an object has a key twice.
    """
    with _open_text(manifest) as file:
        text = _JsonText(file)
        try:
            if text.next() != "{":
                _say_encoding(manifest, file.encoding, notes)
                yield from _listed(text, manifest)
                return
        except UnicodeError as error:
            raise _not_text(manifest, file.encoding, error) from None
    yield from jsonl_records(manifest, notes)


def _listed(text: _JsonText, manifest: str) -> Iterator[tuple[str, Record]]:
    if text.take() != "[":
        raise PairingError(f"{manifest}: wanted a JSON list of objects; it starts otherwise.")
    mark = text.take() if text.next() == "]" else ","
    number = 0
    while mark == ",":
        number += 1
        try:
            record = text.value()
        except (ValueError, RecursionError) as error:
            raise PairingError(f"{manifest}, object {number}: not JSON: {error}.") from None
        yield f"object {number}", _object(record, f"{manifest}, object {number}")
        mark = text.take()
    if mark != "]" or text.next():
        found = repr(mark if mark != "]" else text.next()) if mark else "the end of the file"
        raise PairingError(
            f"{manifest}: wanted a comma or the end of the list after object {number}; got "
            f"{found}. Write the file again."
        )


class _JsonText:
    """The text of a JSON file, read as far as the next value needs."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._text = file, ""

    def next(self) -> str:
        """The next character that is no blank, which stays; empty at the end."""
        self._text = self._text.lstrip()
        while not self._text and (more := self._file.read(_CHUNK)):
            self._text = more.lstrip()
        return self._text[:1]

    def take(self) -> str:
        """The next character that is no blank; empty at the end."""
        character = self.next()
        self._text = self._text[1:]
        return character

    def value(self) -> Any:
        """The next value.

        Raises:
            ValueError: There is none, or it is too long.
        """
        self.next()
        while True:
            try:
                found, end = _DECODER.raw_decode(self._text)
            except ValueError:  # perhaps there is more of it
                more = self._file.read(_CHUNK) if len(self._text) < _MOST_OBJECT else ""
                if not more:
                    raise
                self._text += more
            else:
                self._text = self._text[end:]
                return found


def _open_text(manifest: str, newline: str | None = None) -> io.TextIOWrapper:
    """Open in the encoding that its beginning tells: UTF-16, as spreadsheets write, or UTF-8."""
    file = open_binary(manifest)
    start = file.read(2)
    file.seek(0)
    encoding = "utf-8-sig"  # spreadsheets write a BOM
    if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        encoding = "utf-16"
    elif len(start) == 2 and 0 in start:  # each begins with a character of ASCII
        encoding = "utf-16-be" if start[0] == 0 else "utf-16-le"
    return io.TextIOWrapper(file, encoding=encoding, newline=newline)


def _shown(encoding: str) -> str:
    return encoding.removesuffix("-sig").upper()


def _say_encoding(manifest: str, encoding: str, notes: Notes | None) -> None:
    if notes is not None and not encoding.startswith("utf-8"):
        notes.say(f"{manifest} is read as text in {_shown(encoding)}")


def _not_text(manifest: str, encoding: str, error: UnicodeError) -> PairingError:
    return PairingError(
        f"manifest {manifest} is not in {_shown(encoding)}: {error}. Save it as UTF-8."
    )


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, of which Python would keep the last value of each key."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        raise ValueError(f"an object has the key {some(twice)} twice")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=unique_keys)


def _object(record: Any, where: str) -> Record:
    if not isinstance(record, dict):
        raise PairingError(f"{where}: wanted one JSON object; got {type(record).__name__}.")
    return record
