"""Shard files: Parquet with embedded metadata and integrity checks."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vsm_fast.errors import Status
from vsm_fast.files import replacing, sha256_of, sync_folder
from vsm_fast.jobs.errors import JobError

SCHEMA_VERSION = 2  # of the columns and their meaning
_RESULTS = (Status.OK.value, Status.NO_MATCH.value)  # other statuses are failures


@dataclass(frozen=True)
class FinishedShard:
    """Ledger entry of a written shard.

    Attributes:
        shard: Shard number.
        rows: Number of rows.
        failed: Number of rows with unusable images.
        bytes: Size of the file.
        sha256: SHA-256 of the file, hexadecimal.
        seconds: Scoring time.
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


def shard_path(folder: Path, shard: int) -> Path:
    """Return the path of a shard."""
    return folder / f"scores-{shard:06d}.parquet"


def shard_of(file: Path) -> int | None:
    """Return the shard number in a file name; None = not a shard."""
    number = file.name.removeprefix("scores-").removesuffix(".parquet")
    shard = int(number) if number.isdecimal() else -1
    return shard if shard >= 0 and file.name == shard_path(Path(), shard).name else None


def temporary_files(folder: Path) -> list[Path]:
    """Return the temporary files that killed processes left behind."""
    names = ("scores-*", "_job.*", "_summary.*")
    return sorted(path for name in names for path in folder.glob(f".{name}.tmp*"))


@contextmanager
def limited_attempts(folder: Path, shard: int, limit: int) -> Iterator[None]:
    """Limit the number of processes that may die on a shard.

    A counter file in ``folder`` counts the attempts that did not return.

    Args:
        folder: Job folder.
        shard: Shard number.
        limit: Largest number of dead processes.

    Raises:
        JobError: If the shard has reached the limit.
    """
    counter = folder / f".scores-{shard:06d}.tries.tmp"
    with counter.open("ab") as file:
        file.write(b".")
        file.flush()
        attempts = file.tell()
    if attempts > limit:
        raise JobError(
            f"shard {shard} has killed {limit} processes without an error message: most likely "
            "they ran out of memory, or an image crashes its decoder. Finished shards are kept. "
            "Give each process more memory, or score these rows alone to find the image."
        )
    try:
        yield
    finally:
        counter.unlink(missing_ok=True)


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a job's identity, hexadecimal."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def failed_rows(table: pa.Table) -> pa.Array:
    """Return bool [rows]: whether the images of a row were unusable."""
    return pc.invert(pc.is_in(table["status"], value_set=pa.array(_RESULTS)))


def write_shard(
    table: pa.Table, folder: Path, shard: int, identity: Mapping[str, Any], seconds: float
) -> FinishedShard:
    """Write a shard atomically and sync it to disk.

    Args:
        table: Rows of the shard.
        folder: Job folder.
        shard: Shard number.
        identity: Identity of the job.
        seconds: Scoring time.

    Raises:
        JobError: If the file cannot be written.
    """
    metadata = {
        **(table.schema.metadata or {}),
        b"vsm_fast.schema": str(SCHEMA_VERSION),
        b"vsm_fast.fingerprint": fingerprint(identity),
        b"vsm_fast.job": json.dumps(identity, sort_keys=True),
        b"vsm_fast.shard": str(shard),
    }
    try:
        with replacing(shard_path(folder, shard)) as temporary:
            pq.write_table(
                table.replace_schema_metadata(metadata),
                temporary,
                compression="zstd",
                write_page_checksum=True,
            )
            size, digest = temporary.stat().st_size, sha256_of(temporary)
        sync_folder(folder)
    except OSError as error:
        raise JobError(
            f"shard {shard} cannot be written to {folder}: {error}. Finished shards are kept. Fix "
            "the cause and run the same command again."
        ) from error
    failed = pc.sum(failed_rows(table)).as_py() or 0
    return FinishedShard(shard, table.num_rows, failed, size, digest, round(seconds, 3))


def read_shard(folder: Path, shard: int) -> pa.Table:
    """Read the rows of a shard."""
    return pq.ParquetFile(shard_path(folder, shard)).read()


def damage(
    folder: Path, entry: FinishedShard, rows: int, identity: Mapping[str, Any]
) -> str | None:
    """Return the reason to score a recorded shard again; None = the file is intact.

    Args:
        folder: Job folder.
        entry: Ledger entry of the shard.
        rows: Planned number of rows.
        identity: Identity of the job.
    """
    path = shard_path(folder, entry.shard)
    if not path.is_file():
        return "the file is missing"
    size = path.stat().st_size
    if size != entry.bytes:
        return f"the file has {size} bytes instead of {entry.bytes}"
    try:
        footer = pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        return f"the file cannot be read: {error}"
    if footer.num_rows != rows:
        return f"the file has {footer.num_rows} rows instead of {rows}"
    if (footer.metadata or {}).get(b"vsm_fast.fingerprint") != fingerprint(identity).encode():
        return "the file belongs to another job"
    if sha256_of(path) != entry.sha256:
        return "the content changed"
    return None
