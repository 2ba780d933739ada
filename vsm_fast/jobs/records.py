"""Rows of a manifest, and remarks on reading it.

Each reader yields ``(place, record)`` per row: its place, for errors, and its values by column.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from vsm_fast.errors import PairingError

Record = dict[str, Any]

_MOST_COLUMNS = 100  # a hostile manifest has others in each row


class Notes:
    """Remarks for the user: columns without a use, assumptions, and files that were left out.

    The memory in use does not grow with the manifest.
    """

    def __init__(self) -> None:
        self._unused: dict[str, None] = {}
        self._said: dict[str, None] = {}
        self._left_out: dict[str, tuple[int, list[str]]] = {}

    def unused_columns(self, names: Iterable[str]) -> None:
        """Some columns have no use."""
        if len(self._unused) < _MOST_COLUMNS:
            self._unused.update(dict.fromkeys(names))

    def say(self, sentence: str) -> None:
        """Something was assumed."""
        self._said[sentence] = None

    def leave_out(self, kind: str, name: str) -> None:
        """A file was left out; ``kind`` names what it is, with ``(s)`` for the plural."""
        count, names = self._left_out.get(kind, (0, []))
        self._left_out[kind] = count + 1, [*names, name] if count < 5 else names

    def sentences(self) -> tuple[str, ...]:
        """One line each, and a single one for all that was left out."""
        lines = list(self._said)
        if self._unused:
            names = ", ".join(str(name) or "(unnamed)" for name in self._unused)
            lines.append(f"columns that are not used: {names}")
        if self._left_out:
            parts = [
                f"{count:,} {kind.replace('(s)', 's' * (count > 1))}: {some(names, count)}"
                for kind, (count, names) in self._left_out.items()
            ]
            lines.append(f"left out: {'; '.join(parts)}")
        return tuple(lines)


def some(names: Sequence[object], count: int | None = None) -> str:
    """At most five names, and how many more of ``count`` there are."""
    rest = (len(names) if count is None else count) - len(names[:5])
    text = ", ".join(str(name) for name in names[:5])
    return f"{text} and {rest} more" if rest else text


def refuse_twice(columns: Sequence[str], where: str) -> None:
    """Refuse columns of equal names: it would be a guess which one is meant.

    Raises:
        PairingError: There are some.
    """
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if twice:
        raise PairingError(
            f"{where}: column {some(twice)} is there twice. Keep one, or rename the other."
        )


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or one that a desktop system leaves behind."""
    return name.startswith(".") or name.casefold() in ("__macosx", "thumbs.db", "desktop.ini")
