"""Text in CSV files that a spreadsheet opens: a cell that starts like a formula would be one.

A single quote in front marks it as text, as spreadsheets themselves write it.
"""

from __future__ import annotations

import re

_FORMULA = re.compile("'*[=+@\t\r\n-]")  # with the quotes that such a text may have already


def as_text(cell: str) -> str:
    """The cell of a text, which no spreadsheet computes."""
    return f"'{cell}" if _FORMULA.match(cell) else cell


def original(cell: str) -> str:
    """The text of a cell that :func:`as_text` made."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
