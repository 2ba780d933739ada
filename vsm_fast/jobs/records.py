"""Manifest records and the notes that readers collect for the user.

Each reader yields ``(place, record)`` per row: the place for error messages, and the values by
column.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from vsm_fast.errors import PairingError

Record = dict[str, Any]

_MAX_COLUMNS = 100  # a hostile manifest has new columns in every row


class Notes:
    """Notes for the user: unused columns, assumptions and skipped files, in bounded memory."""

    def __init__(self) -> None:
        self._unused: dict[str, None] = {}
        self._said: dict[str, None] = {}
        self._left_out: dict[str, tuple[int, list[str]]] = {}

    def unused_columns(self, names: Iterable[str]) -> None:
        """Note columns that have no use."""
        if len(self._unused) < _MAX_COLUMNS:
            self._unused.update(dict.fromkeys(names))

    def say(self, sentence: str) -> None:
        """Note an assumption."""
        self._said[sentence] = None

    def leave_out(self, kind: str, name: str) -> None:
        """Note a skipped file; ``kind`` is its description, with ``(s)`` for the plural."""
        count, names = self._left_out.get(kind, (0, []))
        self._left_out[kind] = count + 1, [*names, name] if count < 5 else names

    def sentences(self) -> tuple[str, ...]:
        """Return one line per note, and one line for all skipped files."""
        lines = list(self._said)
        if self._unused:
            names = ", ".join(str(name) or "(unnamed)" for name in self._unused)
            lines.append(f"unused columns: {names}")
        if self._left_out:
            parts = [
                f"{count:,} {kind.replace('(s)', 's' * (count > 1))}: {some(names, count)}"
                for kind, (count, names) in self._left_out.items()
            ]
            lines.append(f"skipped: {'; '.join(parts)}")
        return tuple(lines)


def some(names: Sequence[object], count: int | None = None) -> str:
    """Return at most five names, and how many more of ``count`` follow."""
    rest = (len(names) if count is None else count) - len(names[:5])
    text = ", ".join(str(name) for name in names[:5])
    return f"{text} and {rest} more" if rest else text


def repeated(names: Iterable[Any]) -> list[Any]:
    """Return the names that occur more than once."""
    return [name for name, count in Counter(names).items() if count > 1]


def refuse_repeated_columns(columns: Iterable[str], where: str) -> None:
    """Refuse duplicate column names, which are ambiguous.

    Raises:
        PairingError: If a name occurs twice.
    """
    if twice := repeated(columns):
        raise PairingError(
            f"{where}: column {some(twice)} occurs twice. Remove or rename the duplicate."
        )


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden, or left behind by a desktop system."""
    return name.startswith(".") or name.casefold() in ("__macosx", "thumbs.db", "desktop.ini")
