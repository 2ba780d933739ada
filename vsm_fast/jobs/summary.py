"""The summary of a job: means and counts by subject and by generator, from its shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vsm_fast.jobs.shard_files import failed_rows, shard_path


@dataclass
class Group:
    """Counts of some rows.

    Attributes:
        rows: All of them.
        scored: Rows with a score.
        failed: Rows whose images could not be used.
        total: Sum of the scores.
    """

    rows: int = 0
    scored: int = 0
    failed: int = 0
    total: float = 0.0

    def add(self, other: Group) -> None:
        """Take in further rows."""
        self.rows += other.rows
        self.scored += other.scored
        self.failed += other.failed
        self.total += other.total

    def to_json(self) -> dict[str, float | int | None]:
        """Counts and the mean score, None where there is none."""
        mean = self.total / self.scored if self.scored else None
        return {
            "rows": self.rows,
            "scored": self.scored,
            "failed": self.failed,
            "mean_score": mean,
        }


def summarise(folder: Path, shards: Iterable[int]) -> dict[str, Any]:
    """Sum up finished shards, one at a time.

    Args:
        folder: Of the job.
        shards: Their numbers.

    Returns:
        JSON values: ``all``, and ``statuses``, ``flags``, ``subjects`` and ``generators`` by name,
        the last two only where the manifest names some.
    """
    everything = Group()
    groups: dict[str, dict[str, Group]] = {"subject": {}, "generator": {}}
    statuses: Counter[str] = Counter()
    flags: Counter[str] = Counter()
    for shard in shards:
        table = pq.read_table(
            shard_path(folder, shard), columns=["subject", "generator", "score", "status", "flags"]
        )
        statuses.update(table["status"].to_pylist())
        for raised in table["flags"].to_pylist():
            flags.update(filter(None, raised.split(",")))
        table = table.append_column("failed", pc.cast(failed_rows(table), pa.int64()))
        for part in _grouped(table).to_pylist():
            group = Group(
                part["count_all"], part["score_count"], part["failed_sum"], part["score_sum"] or 0.0
            )
            everything.add(group)
            for column, by_name in groups.items():
                by_name.setdefault(part[column], Group()).add(group)
    summary: dict[str, Any] = {"all": everything.to_json(), "statuses": statuses, "flags": flags}
    for column, by_name in groups.items():
        if set(by_name) != {""}:
            summary[f"{column}s"] = {n: g.to_json() for n, g in sorted(by_name.items())}
    return summary


def _grouped(table: pa.Table) -> pa.Table:
    table = table.set_column(2, "score", table["score"].cast(pa.float64()))
    return table.group_by(["subject", "generator"], use_threads=False).aggregate(
        [([], "count_all"), ("score", "count"), ("score", "sum"), ("failed", "sum")]
    )
