"""CSV cells protected against evaluation as spreadsheet formulas.

A leading single quote marks a cell as text, the convention of spreadsheets themselves.
"""

from __future__ import annotations

import re

_FORMULA = re.compile("'*[=+@\t\r\n-]")  # including quotes that the text already has


def as_text(cell: str) -> str:
    """Return a text as a cell that no spreadsheet evaluates."""
    return f"'{cell}" if _FORMULA.match(cell) else cell


def original(cell: str) -> str:
    """Return the text behind a cell of :func:`as_text`."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
