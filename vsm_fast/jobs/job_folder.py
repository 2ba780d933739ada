"""Job folder: lock, identity and ledger of a job.

``_job.json`` records the identity of the job, ``_ledger.jsonl`` has one line per finished shard.
A shard is finished if the ledger lists it and its file is still intact. Readers of Parquet folders
ignore names that begin with an underscore.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
from filelock import FileLock, Timeout

from vsm_fast.errors import WRONG_JSON, PairingError
from vsm_fast.files import sync_folder, write_json
from vsm_fast.identity import differences
from vsm_fast.jobs.errors import JobError
from vsm_fast.jobs.plan import Plan
from vsm_fast.jobs.shard_files import FinishedShard, damage, shard_of, temporary_files, write_shard

JOB = "_job.json"
LEDGER = "_ledger.jsonl"
SUMMARY = "_summary.json"
_LOCK = "_lock"
# Errors of file systems without locks (Lustre mounted without flock, some FUSE).
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}

_log = logging.getLogger(__name__)


class JobFolder:
    """Folder with a single writer, this process; made by :func:`open_job`.

    Args:
        path: Folder.
        plan: Plan of the job.
        identity: Settings that decide the rows.

    Attributes:
        finished: Recorded and intact shards, by number.
        damaged: Recorded shards that are not intact, with the reason.
    """

    def __init__(self, path: Path, plan: Plan, identity: Mapping[str, Any]) -> None:
        self.path, self.plan, self.identity = path, plan, identity
        self.finished: dict[int, FinishedShard] = {}
        self.damaged: dict[int, str] = {}
        for shard, entry in sorted(read_ledger(path / LEDGER, plan.shards).items()):
            reason = damage(path, entry, plan.rows_of(shard), identity)
            if reason is None:
                self.finished[shard] = entry
            else:
                self.damaged[shard] = reason

    @property
    def pending(self) -> list[int]:
        """Return the numbers of the shards to score, in order."""
        return [shard for shard in range(self.plan.shards) if shard not in self.finished]

    @property
    def rows(self) -> int:
        """Return the number of finished rows."""
        return sum(entry.rows for entry in self.finished.values())

    @property
    def failed(self) -> int:
        """Return the number of finished rows with unusable images."""
        return sum(entry.failed for entry in self.finished.values())

    def remove_temporaries(self) -> None:
        """Remove the temporary files of killed processes."""
        for path in temporary_files(self.path):
            path.unlink(missing_ok=True)

    def write(self, shard: int, table: pa.Table, seconds: float) -> None:
        """Write a shard and record it.

        Raises:
            JobError: If the shard or the ledger cannot be written.
        """
        self.record(write_shard(table, self.path, shard, self.identity, seconds))

    def record(self, entry: FinishedShard) -> None:
        """Record a written shard in the ledger.

        Raises:
            JobError: If the ledger cannot be written.
        """
        append(self.path / LEDGER, entry)
        self.finished[entry.shard] = entry


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Lock a folder for this process.

    The operating system releases the lock when the process ends, even by SIGKILL. On a file system
    without locks, a warning replaces the lock.

    Raises:
        JobError: If another process holds the lock.
        OSError: If the folder cannot be written to.
    """
    lock = FileLock(folder / _LOCK, timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise JobError(
            f"another process writes to {folder} ({_holder(folder / _LOCK)}). Wait for it, stop "
            "it, or choose another --out."
        ) from None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        _log.warning(
            "%s cannot be locked (%s). Make sure that only one process writes there.",
            folder,
            error,
        )
    try:
        holder = {"host": socket.gethostname(), "pid": os.getpid()}
        with suppress(OSError):  # Windows refuses writes to a locked file
            (folder / _LOCK).write_text(json.dumps(holder), encoding="utf-8")
        yield
    finally:
        lock.release()


@contextmanager
def locked_folder(path: Path) -> Iterator[None]:
    """Create the folder of a job and lock it for this process.

    Raises:
        PairingError: If the folder is not a job folder, or cannot be written to.
        JobError: If another process holds the lock, or an entry conflicts with a file of the job.
    """
    with ExitStack() as stack:
        try:
            path.mkdir(parents=True, exist_ok=True)
            if not (path / JOB).exists() and any(path.glob("*.parquet")):
                raise PairingError(
                    f"{path} contains Parquet files but no {JOB}. Choose another --out."
                )
            _refuse_foreign_files(path)
            stack.enter_context(only_writer(path))
        except OSError as error:
            raise PairingError(f"--out: {path} is not a writable folder: {error}") from error
        yield


def _holder(lock: Path) -> str:
    try:
        holder = json.loads(lock.read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, TypeError, KeyError):
        return "process unknown"


def _refuse_foreign_files(path: Path) -> None:
    """Refuse entries that a job would overwrite, or that readers would take for its rows.

    Raises:
        JobError: If there is such an entry.
    """
    temporary = temporary_files(path)
    for entry in sorted(path.iterdir()):
        own = entry.name in (JOB, LEDGER, SUMMARY, _LOCK) or shard_of(entry) is not None
        if (own or entry in temporary) and not entry.is_file():
            raise JobError(_foreign(entry, "the job has a file of that name"))
        if entry.suffix == ".parquet" and not own and not entry.name.startswith("."):
            raise JobError(_foreign(entry, "its rows would be read as results of the job"))


def _foreign(entry: Path, why: str) -> str:
    return f"{entry} does not belong there: {why}. Move it away, or choose another --out."


def open_job(path: Path, plan: Plan, identity: Mapping[str, Any]) -> JobFolder:
    """Start or resume a job, under :func:`locked_folder`.

    Args:
        path: Folder.
        plan: Plan of the job.
        identity: Settings that decide the rows, besides the manifest.

    Raises:
        PairingError: If the folder holds another job; the message lists the differences.
        JobError: If a record of the job is damaged.
    """
    full = {**identity, "rows": plan.rows, "manifest": plan.sha256}
    record = path / JOB
    if record.exists():
        other = differences(recorded_settings(record), full)
        if other:
            raise PairingError(
                f"{path} holds another job: {'; '.join(other)}. Choose another --out, or restore "
                "the settings."
            )
    else:
        write_json(record, full)
        sync_folder(path)
    further = [file for file in path.glob("*.parquet") if (shard_of(file) or 0) >= plan.shards]
    if further:
        raise JobError(_foreign(further[0], f"the job has {plan.shards} shards"))
    folder = JobFolder(path, plan, full)
    folder.remove_temporaries()
    return folder


def recorded_settings(path: Path) -> dict[str, Any]:
    """Read the settings that a job folder records.

    Raises:
        JobError: If the file cannot be read or holds no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise TypeError(f"expected one JSON object; got {type(content).__name__}")
    except WRONG_JSON as error:
        raise JobError(
            f"{path} does not identify the job of its folder: {error}. Restore the file, or choose "
            "another --out."
        ) from error
    return content


def read_ledger(path: Path, shards: int) -> dict[int, FinishedShard]:
    """Return the last entry of each shard; a truncated line is skipped.

    Args:
        path: Ledger, which may be missing.
        shards: Number of shards of the job.

    Raises:
        JobError: If a line is not an entry, or the file cannot be read.
    """
    if not path.exists():
        return {}
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise JobError(f"{path} cannot be read: {error}. Fix the cause and resume.") from error
    finished = {}
    for number, line in enumerate(lines, start=1):
        text = line.strip(b"\0")  # a power failure may leave zeros in place of the last bytes
        if not text or (text.startswith(b"{") and not text.endswith(b"}")):
            continue
        try:
            entry = FinishedShard(**json.loads(line.decode("utf-8")))
            if entry.shard >= shards:
                raise ValueError(f"shard {entry.shard} is not one of {shards}")
        except WRONG_JSON as error:
            raise JobError(
                f"{path}, line {number} is not a ledger entry: {error}. Delete the line and "
                "resume: its shard is then scored again."
            ) from error
        finished[entry.shard] = entry
    return finished


def append(path: Path, entry: FinishedShard) -> None:
    """Append an entry to the ledger and sync it to disk.

    Raises:
        JobError: If the ledger cannot be written.
    """
    # The leading newline ends a line that an interrupted write left incomplete.
    line = "\n" + json.dumps(asdict(entry)) + "\n"
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise JobError(
            f"shard {entry.shard} cannot be recorded in {path}: {error}. Fix the cause and resume."
        ) from error
