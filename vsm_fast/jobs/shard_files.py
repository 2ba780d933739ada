"""Shards on disk: Parquet files that say what they hold, and whether they still do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vsm_fast.errors import Status
from vsm_fast.files import replacing, sha256_of, sync_folder
from vsm_fast.jobs.errors import JobError
from vsm_fast.jobs.ledger import FinishedShard

SCHEMA_VERSION = 2  # of the columns and their meaning
# A row without a match has a result; the images of the others could not be used.
_RESULTS = (Status.OK.value, Status.NO_MATCH.value)


def shard_path(folder: Path, shard: int) -> Path:
    """Where a shard is."""
    return folder / f"scores-{shard:06d}.parquet"


def shard_of(file: Path) -> int | None:
    """The number of the shard whose file has this name; None = it is no shard's."""
    number = file.name.removeprefix("scores-").removesuffix(".parquet")
    shard = int(number) if number.isdecimal() else -1
    return shard if shard >= 0 and file.name == shard_path(Path(), shard).name else None


def temporary_files(folder: Path) -> list[Path]:
    """What killed processes left."""
    names = ("scores-*", "_job.*", "_summary.*")
    return sorted(path for name in names for path in folder.glob(f".{name}.tmp*"))


@contextmanager
def counted_try(folder: Path, shard: int, most: int) -> Iterator[None]:
    """Do what may end this process, and see to it that not one process after the other dies of it.

    Args:
        folder: Of the job; a file in it counts the processes that did not come back from here.
        shard: What is tried.
        most: Such processes.

    Raises:
        JobError: It has cost so many.
    """
    counter = shard_path(folder, shard).with_name(f".scores-{shard:06d}.tries.tmp")
    with counter.open("ab") as file:
        file.write(b".")
        file.flush()
        tries = file.tell()
    if tries > most:
        raise JobError(
            f"shard {shard} has ended {most} processes, each without a word: most likely for want "
            "of memory, or by an image that a decoder does not survive. What was finished is "
            "kept; give each process more memory, or find the image by scoring these rows alone."
        )
    try:
        yield
    finally:
        counter.unlink(missing_ok=True)


def fingerprint(identity: Mapping[str, Any]) -> str:
    """A sha256 over everything that decides the rows of a job."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def failed_rows(table: pa.Table) -> pa.Array:
    """Bool [rows]: which rows have no result because their images could not be used."""
    return pc.invert(pc.is_in(table["status"], value_set=pa.array(_RESULTS)))


def write_shard(
    table: pa.Table, folder: Path, shard: int, identity: Mapping[str, Any], seconds: float
) -> FinishedShard:
    """Write a shard, whole or not at all, and not before it is safe on disk.

    Args:
        table: Its rows.
        folder: Of the job.
        shard: Its number.
        identity: Of the job.
        seconds: That its rows took.

    Raises:
        JobError: It cannot be written.
    """
    metadata = {
        **(table.schema.metadata or {}),
        b"vsm_fast.schema": str(SCHEMA_VERSION),
        b"vsm_fast.fingerprint": fingerprint(identity),
        b"vsm_fast.job": json.dumps(identity, sort_keys=True),
        b"vsm_fast.shard": str(shard),
    }
    path = shard_path(folder, shard)
    try:
        with replacing(path) as temporary:
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
            f"shard {shard} cannot be written to {folder}: {error}. What was finished before is "
            "kept; run the same command again when that is mended."
        ) from error
    failed = pc.sum(failed_rows(table)).as_py() or 0
    return FinishedShard(shard, table.num_rows, failed, size, digest, round(seconds, 3))


def read_shard(folder: Path, shard: int) -> pa.Table:
    """The rows of a shard."""
    return pq.ParquetFile(shard_path(folder, shard)).read()


def damage(
    folder: Path, entry: FinishedShard, rows: int, identity: Mapping[str, Any]
) -> str | None:
    """Why a recorded shard cannot be kept; None = it is as it was written.

    Args:
        folder: Of the job.
        entry: What was recorded.
        rows: That it should have.
        identity: Of the job.
    """
    path = shard_path(folder, entry.shard)
    if not path.is_file():
        return "its file is gone"
    size = path.stat().st_size
    if size != entry.bytes:
        return f"it has {size} bytes instead of {entry.bytes}"
    try:
        footer = pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        return f"it cannot be read: {error}"
    if footer.num_rows != rows:
        return f"it has {footer.num_rows} rows instead of {rows}"
    metadata = footer.metadata or {}
    if metadata.get(b"vsm_fast.fingerprint", b"").decode() != fingerprint(identity):
        return "it is of another job"
    if sha256_of(path) != entry.sha256:
        return "its content changed"
    return None
