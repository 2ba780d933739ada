"""The ledger of a job: one line a finished shard, appended when its file is safe on disk."""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from vsm_fast.errors import WRONG_JSON
from vsm_fast.jobs.errors import JobError


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

    def __post_init__(self) -> None:
        counts = (self.shard, self.rows, self.failed, self.bytes)
        if not all(type(value) is int and value >= 0 for value in counts):
            raise ValueError(f"shard, rows, failed and bytes must be counts; got {counts}")
        if self.failed > self.rows:
            raise ValueError(f"{self.failed} of {self.rows} rows cannot have failed")
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"sha256 must have 64 hexadecimal digits; got {self.sha256!r}")
        if not 0 <= self.seconds < math.inf:
            raise ValueError(f"seconds must be at least 0; got {self.seconds}")


def read_ledger(path: Path, shards: int) -> dict[int, FinishedShard]:
    """The last line of each shard; a line that was not written to its end is passed over.

    Args:
        path: The ledger, which need not exist.
        shards: Number of shards of the job.

    Raises:
        JobError: A line is something else, or the file cannot be read.
    """
    if not path.exists():
        return {}
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise JobError(f"{path} cannot be read: {error}. Mend that, and resume.") from error
    finished = {}
    for number, line in enumerate(lines, start=1):
        # A machine that loses its power may leave zeros in place of the last bytes.
        written = line.strip(b"\0")
        if not written or (written.startswith(b"{") and not written.endswith(b"}")):
            continue
        try:
            entry = FinishedShard(**json.loads(line.decode("utf-8")))
            if entry.shard >= shards:
                raise ValueError(f"shard {entry.shard} is none of {shards}")
        except WRONG_JSON as error:
            raise JobError(
                f"{path}, line {number} is no record of a finished shard: {error}. Delete the "
                "line, and resume: its shard is then scored again."
            ) from error
        finished[entry.shard] = entry
    return finished


def append(path: Path, entry: FinishedShard) -> None:
    """Record a finished shard for good.

    Raises:
        JobError: The ledger cannot be written.
    """
    # A line of its own, whatever an interrupted write left before it.
    line = "\n" + json.dumps(asdict(entry)) + "\n"
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise JobError(
            f"shard {entry.shard} cannot be recorded in {path}: {error}. Mend that, and resume."
        ) from error
