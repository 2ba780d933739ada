"""Local runner: all stages of a job in one process."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from vsm_fast.jobs.errors import Stop
from vsm_fast.jobs.job_folder import locked_folder, open_job
from vsm_fast.jobs.plan import PairSource, make_plan, read_shards
from vsm_fast.jobs.progress import JobRun, Report, watch_planning
from vsm_fast.jobs.settings import JobSettings, RunOptions
from vsm_fast.jobs.shard_files import read_shard
from vsm_fast.jobs.shard_scoring import ShardScorer
from vsm_fast.scorer import VSMScorer


def run_job(
    source: PairSource,
    out: str | os.PathLike[str],
    settings: JobSettings | None = None,
    options: RunOptions | None = None,
    *,
    scorer: VSMScorer | None = None,
    stop: Stop | None = None,
    report: Report = lambda _: None,
) -> dict[str, Any]:
    """Score all pairs of a manifest into Parquet shards; interrupted runs resume.

    Args:
        source: Pairs: a ``vsm_fast.jobs.manifest.Manifest``, or ``ListedPairs``.
        out: Folder of the shards.
        settings: Settings that decide the rows; None = defaults.
        options: Options that may change between runs; None = defaults.
        scorer: Loaded model of ``settings``; None = load it.
        stop: Stop request, see :func:`vsm_fast.jobs.errors.stop_on_signals`.
        report: Receives the events, see ``progress.py``.

    Returns:
        Summary as JSON values: counts and means of all rows, by subject and by generator.

    Raises:
        PairingError: If the manifest cannot be read, or the folder holds something else.
        ModelError: If the model is missing, incomplete or altered.
        JobStopped: If ``stop`` was requested; finished shards are kept, as after any error.
        TooManyFailures: If more rows failed than ``options.max_failed`` allows.
        JobError: If another process writes to the folder, or it cannot be written to.
    """
    settings, options, stop = settings or JobSettings(), options or RunOptions(), stop or Stop()
    with locked_folder(Path(out)):
        shard_scorer = ShardScorer.load(settings, options, scorer)
        plan = make_plan(source, settings.shard_rows, watch_planning(report, stop))
        folder = open_job(Path(out), plan, shard_scorer.identity())
        run = JobRun(folder, options, stop, report)
        for shard in read_shards(source, plan, run.work):
            if stop.signal is not None:
                run.end_early()
            retried = shard.number in run.retried
            before = read_shard(folder.path, shard.number) if retried else None
            remaining = folder.finished[shard.number].failed if retried else len(shard.rows)
            begin, done = time.monotonic(), 0

            def advance(rows: int, failed: int) -> None:
                nonlocal done
                done += rows
                run.advance(rows, failed)
                if stop.signal is not None:
                    rate = done / max(time.monotonic() - begin, 1e-9)  # noqa: B023 - used at once
                    if remaining - done > rate * options.grace:  # noqa: B023
                        run.end_early()

            table = shard_scorer.complete(shard, before, advance)
            folder.write(shard.number, table, time.monotonic() - begin)
            run.finish_shard(shard.number)
        return run.finish(references_described=shard_scorer.references.misses)
