"""Summary of a job: mean scores and counts by subject and by generator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vsm_fast.jobs.shard_files import failed_rows, shard_path


def summarise(folder: Path, shards: Iterable[int]) -> dict[str, Any]:
    """Summarize finished shards, one at a time.

    Args:
        folder: Job folder.
        shards: Shard numbers.

    Returns:
        JSON values: ``all``, and ``statuses``, ``flags``, ``subjects`` and ``generators`` by name;
        the last two only if the manifest has such names.
    """
    # By column and name: rows, rows with a score, failed rows, sum of the scores.
    totals: dict[str, dict[str, list[float]]] = {"all": {}, "subjects": {}, "generators": {}}
    statuses: Counter[str] = Counter()
    flags: Counter[str] = Counter()
    for shard in shards:
        table = pq.read_table(
            shard_path(folder, shard), columns=["subject", "generator", "score", "status", "flags"]
        )
        statuses.update(table["status"].to_pylist())
        for raised in table["flags"].to_pylist():
            flags.update(filter(None, raised.split(",")))
        table = table.set_column(2, "score", table["score"].cast(pa.float64()))
        table = table.append_column("failed", pc.cast(failed_rows(table), pa.int64()))
        groups = table.group_by(["subject", "generator"], use_threads=False).aggregate(
            [([], "count_all"), ("score", "count"), ("failed", "sum"), ("score", "sum")]
        )
        for group in groups.to_pylist():
            counts = group["count_all"], group["score_count"], group["failed_sum"]
            keys = {"all": "", "subjects": group["subject"], "generators": group["generator"]}
            for column, name in keys.items():
                total = totals[column].setdefault(name, [0, 0, 0, 0.0])
                for i, value in enumerate((*counts, group["score_sum"] or 0.0)):
                    total[i] += value

    def to_json(total: list[float]) -> dict[str, float | None]:
        rows, scored, failed, score = total
        mean = score / scored if scored else None
        return {"rows": rows, "scored": scored, "failed": failed, "mean_score": mean}

    summary = {"all": to_json(totals.pop("all")[""]), "statuses": statuses, "flags": flags}
    for column, by_name in totals.items():
        if set(by_name) != {""}:
            summary[column] = {name: to_json(total) for name, total in sorted(by_name.items())}
    return summary
