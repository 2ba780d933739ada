"""The folder of a job: what is finished in it, checked, and the record that more is finished.

``_job.json`` says what the job is, ``_ledger.jsonl`` which shards are finished, and a shard counts
when it is in the ledger and its file is still what was recorded. Names with an underscore are
passed over by what reads folders of Parquet files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from vsm_fast.errors import WRONG_JSON, PairingError
from vsm_fast.files import sync_folder, write_json
from vsm_fast.identity import differences
from vsm_fast.jobs.errors import JobError
from vsm_fast.jobs.ledger import FinishedShard, append, read_ledger
from vsm_fast.jobs.lock import only_writer
from vsm_fast.jobs.plan import Plan
from vsm_fast.jobs.shard_files import damage, shard_of, temporary_files, write_shard

JOB = "_job.json"
LEDGER = "_ledger.jsonl"
SUMMARY = "_summary.json"
_LOCK = "_lock"


class JobFolder:
    """A folder that this process alone writes to; use :func:`open_job`.

    Args:
        path: The folder.
        plan: Of the job.
        identity: What decides its rows.

    Attributes:
        finished: Shards that are recorded and whole.
        damaged: Shards that were recorded and are not, with the reason.
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
        """Shards to score, in order."""
        return [shard for shard in range(self.plan.shards) if shard not in self.finished]

    @property
    def rows(self) -> int:
        """Finished rows."""
        return sum(entry.rows for entry in self.finished.values())

    @property
    def failed(self) -> int:
        """Finished rows without a result, because their images could not be used."""
        return sum(entry.failed for entry in self.finished.values())

    @property
    def failing(self) -> set[int]:
        """Finished shards with rows whose images could not be used."""
        return {entry.shard for entry in self.finished.values() if entry.failed}

    def remove_temporaries(self) -> None:
        """Remove what processes left half written that were killed."""
        for left in temporary_files(self.path):
            left.unlink(missing_ok=True)

    def write(self, shard: int, table: pa.Table, seconds: float) -> FinishedShard:
        """Write a shard and record it.

        Raises:
            JobError: It cannot be written.
        """
        entry = write_shard(table, self.path, shard, self.identity, seconds)
        self.record(entry)
        return entry

    def record(self, entry: FinishedShard) -> None:
        """Record a shard that is written.

        Raises:
            JobError: The ledger cannot be written.
        """
        append(self.path / LEDGER, entry)
        self.finished[entry.shard] = entry


@contextmanager
def locked_folder(path: Path) -> Iterator[None]:
    """Make the folder of a job and be the only one that writes to it.

    Raises:
        PairingError: It holds something else.
        JobError: Another process writes to it, or nobody can, or something of another kind lies
            where a job has a file.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not (path / JOB).exists() and any(path.glob("*.parquet")):
            raise PairingError(f"{path} holds Parquet files but no {JOB}; choose another --out.")
        _refuse_strangers(path)
        (path / _LOCK).touch()
    except OSError as error:
        raise PairingError(f"--out: {path} is no folder that can be written to: {error}") from error
    with only_writer(path / _LOCK):
        yield


def open_job(path: Path, plan: Plan, identity: Mapping[str, Any]) -> JobFolder:
    """Begin a job, or go on with it; under :func:`locked_folder`.

    What killed processes left half written is removed.

    Args:
        path: The folder.
        plan: What will be scored.
        identity: What decides the rows besides the manifest.

    Raises:
        PairingError: The folder holds another job; says what differs.
        JobError: A record of the job is damaged.
    """
    full = {**identity, "rows": plan.rows, "manifest": plan.sha256}
    record = path / JOB
    if record.exists():
        other = differences(recorded_settings(record), full)
        if other:
            raise PairingError(
                f"{path} holds another job: {'; '.join(other)}. Choose another --out, or "
                "everything as it was."
            )
    else:
        write_json(record, full)
        sync_folder(path)
    further = [file for file in path.glob("*.parquet") if (shard_of(file) or 0) >= plan.shards]
    if further:
        raise JobError(_stranger(further[0], f"the job has {plan.shards} shards"))
    folder = JobFolder(path, plan, full)
    folder.remove_temporaries()
    return folder


def _refuse_strangers(path: Path) -> None:
    """Refuse what a job would write over, or what readers of the folder would take for its rows.

    Raises:
        JobError: There is such a thing; names it.
    """
    temporary = temporary_files(path)
    for entry in sorted(path.iterdir()):
        own = entry.name in (JOB, LEDGER, SUMMARY, _LOCK) or shard_of(entry) is not None
        if (own or entry in temporary) and not entry.is_file():
            raise JobError(_stranger(entry, "a job has a file of that name"))
        if entry.suffix == ".parquet" and not own and not entry.name.startswith("."):
            raise JobError(_stranger(entry, "its rows would be read as results of the job"))


def _stranger(entry: Path, why: str) -> str:
    return f"{entry} does not belong there: {why}. Move it away, or choose another --out."


def recorded_settings(path: Path) -> dict[str, Any]:
    """Read the settings that a job folder records.

    Raises:
        JobError: If the file cannot be read or holds no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise TypeError(f"wanted one JSON object; got {type(content).__name__}")
    except WRONG_JSON as error:
        raise JobError(
            f"{path} does not say which job its folder belongs to: {error}. Restore the file, or "
            "choose another --out."
        ) from error
    return content
