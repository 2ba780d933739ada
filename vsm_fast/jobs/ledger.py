"""The ledger of a job: one line a finished shard, appended when its file is safe on disk."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class FinishedShard:
    """What is known of a shard that was written.

    Attributes:
        shard: Its number.
        rows: Number of rows.
        failed: Rows whose images could not be used.
        bytes: Of its file.
        sha256: Of its file.
        seconds: That it took.
    """

    shard: int
    rows: int
    failed: int
    bytes: int
    sha256: str
    seconds: float


def read_ledger(path: Path) -> dict[int, FinishedShard]:
    """The last line of each shard; what a killed process left half written is passed over."""
    if not path.exists():
        return {}
    finished = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = FinishedShard(**json.loads(line))
        except (ValueError, TypeError):
            continue
        finished[entry.shard] = entry
    return finished


def append(path: Path, entry: FinishedShard) -> None:
    """Record a finished shard for good."""
    # A line of its own, whatever an interrupted write left before it.
    line = "\n" + json.dumps(asdict(entry)) + "\n"
    with path.open("a", encoding="utf-8") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
