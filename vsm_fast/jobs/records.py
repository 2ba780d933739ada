"""What a manifest can be: text tables, Parquet and Arrow tables, tar archives; all as streams.

Each reader yields ``(place, record)`` a row: where it is, for errors, and its values by column.
"""

from __future__ import annotations

from typing import Any

Record = dict[str, Any]
