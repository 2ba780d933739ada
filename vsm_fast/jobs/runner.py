"""Runs a job in this process: the one file that knows the order of its stages."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from vsm_fast.files import write_json
from vsm_fast.jobs.errors import JobStopped, TooManyFailures
from vsm_fast.jobs.job_folder import SUMMARY, JobFolder, locked_folder, open_job
from vsm_fast.jobs.plan import PairSource, make_plan, read_shards
from vsm_fast.jobs.progress import Event, JobProgress, Report
from vsm_fast.jobs.settings import JobSettings, RunOptions, load_scorer
from vsm_fast.jobs.shard_files import read_shard
from vsm_fast.jobs.shard_scoring import Advance, ShardScorer
from vsm_fast.jobs.stopping import Stop
from vsm_fast.jobs.summary import summarise
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
    """Score all pairs of a manifest into Parquet shards; go on where an earlier run ended.

    Args:
        source: The pairs: a ``vsm_fast.jobs.manifest.Manifest``, or ``ListedPairs``.
        out: Folder of the shards.
        settings: What decides the rows; None = defaults.
        options: What may differ between runs of one job; None = defaults.
        scorer: The model of ``settings``, if it is loaded already.
        stop: Asks to stop, see :func:`vsm_fast.jobs.stopping.stop_on_signals`.
        report: Told what happens, see ``progress.py``.

    Returns:
        The summary, JSON values: counts and means of everything, by subject and by generator.

    Raises:
        PairingError: The manifest cannot be read, or the folder holds something else.
        ModelError: The model is missing, incomplete or altered.
        JobStopped: It was asked to stop; what is finished is kept, as after any other error.
        TooManyFailures: More rows failed than ``options.max_failed`` allows.
        JobError: Another process writes to the folder, or nothing can be written there.
    """
    settings, options, stop = settings or JobSettings(), options or RunOptions(), stop or Stop()
    with locked_folder(Path(out)):
        shard_scorer = ShardScorer(scorer or load_scorer(settings, options), settings, options)
        plan = make_plan(source, settings.shard_rows, Planning(report, stop))
        folder = open_job(Path(out), plan, shard_scorer.identity())
        report_start(folder, report)
        retried = folder.failing if options.retry_failed else set()
        _Run(source, folder, shard_scorer, options, stop, report, retried).score(retried)
        return finish(folder, report, references_described=shard_scorer.references.described)


class Planning:
    """Reports the reading of the manifest and ends it when asked to.

    Args:
        report: Told how many rows were read.
        stop: Asks to stop.
    """

    def __init__(self, report: Report, stop: Stop) -> None:
        self._report, self._stop = report, stop
        self._rows = 0

    def __call__(self, rows: int) -> None:
        """Some more rows were read."""
        self._rows += rows
        self._report({"event": "planning", "rows": self._rows})
        if self._stop.signal is not None:
            raise JobStopped(self._stop.signal, "the manifest was being read.")


def report_start(folder: JobFolder, report: Report) -> None:
    """Say what a run begins with."""
    plan = folder.plan
    report(
        {
            "event": "start",
            "rows": plan.rows,
            "shards": plan.shards,
            "finished_rows": folder.rows,
            "failed": folder.failed,
            "repeated_ids": plan.repeated_ids,
            "notes": list(plan.notes),
            "damaged": {str(shard): reason for shard, reason in folder.damaged.items()},
        }
    )


def finish(folder: JobFolder, report: Report, **further: Any) -> dict[str, Any]:
    """Write and report the summary of a finished job."""
    folder.remove_temporaries()  # of actors that died
    summary = summarise(folder.path, range(folder.plan.shards))
    write_json(folder.path / SUMMARY, summary)
    report({"event": "summary", **summary, **further})
    return summary


def check_failures(failed: int, total: int, options: RunOptions) -> None:
    """Stop a job whose input is broken.

    Raises:
        TooManyFailures: More rows failed than the options allow.
    """
    if options.max_failed is None:
        return
    most = options.max_failed.rows(total)
    if failed > most:
        raise TooManyFailures(
            f"{failed} rows failed, and at most {most} of {total} may. The column 'reason' of the "
            "shards says why; mend the input and run the same command with --retry-failed."
        )


class _Run:
    """One run of a job in this process."""

    def __init__(
        self,
        source: PairSource,
        folder: JobFolder,
        scorer: ShardScorer,
        options: RunOptions,
        stop: Stop,
        report: Report,
        retried: Collection[int],
    ) -> None:
        self._source, self._folder, self._scorer = source, folder, scorer
        self._options, self._stop, self._report = options, stop, report
        self._progress = begun_progress(folder, report, retried)

    def score(self, retried: Collection[int]) -> None:
        """Score the shards that are missing, and the failed rows of ``retried``."""
        folder = self._folder
        for shard in read_shards(self._source, folder.plan, {*folder.pending, *retried}):
            if self._stop.signal is not None:
                end(folder, self._stop, self._report)
            begin, before, rows = time.monotonic(), None, len(shard.rows)
            if shard.number in retried:
                before = read_shard(folder.path, shard.number)
                rows = folder.finished[shard.number].failed
            table = self._scorer.complete(shard, before, self._watch(rows))
            folder.write(shard.number, table, time.monotonic() - begin)
            self._report(finished_event(folder, shard.number, before is not None))

    def _watch(self, rows: int) -> Advance:
        """Counts the rows of a shard and ends it early where that is asked for."""
        begin, finished = time.monotonic(), 0

        def advance(more: int, failed: int) -> None:
            nonlocal finished
            finished += more
            self._progress.advance(more, failed)
            check_failures(self._progress.failed, self._progress.total, self._options)
            if self._stop.signal is not None:
                rate = finished / max(time.monotonic() - begin, 1e-9)
                if rows - finished > rate * self._options.grace:
                    end(self._folder, self._stop, self._report)

        return advance


def end(folder: JobFolder, stop: Stop, report: Report) -> None:
    """End a run that was asked to stop.

    Raises:
        JobStopped: Always.
    """
    assert stop.signal is not None
    report({"event": "stopped", "signal": stop.signal, "rows": folder.rows})
    raise JobStopped(
        stop.signal,
        f"{folder.rows} of {folder.plan.rows} rows are finished in {folder.path}; the same "
        "command goes on from there.",
    )


def begun_progress(folder: JobFolder, report: Report, retried: Collection[int]) -> JobProgress:
    """Counts at the begin of a run: rows to retry are not finished."""
    again = sum(folder.finished[shard].failed for shard in retried)
    return JobProgress(report, folder.plan.rows, folder.rows - again, folder.failed - again)


def finished_event(folder: JobFolder, shard: int, retried: bool) -> Event:
    """The event of a finished shard."""
    entry = folder.finished[shard]
    return {
        "event": "retried" if retried else "shard",
        "shard": shard,
        "shards": folder.plan.shards,
        "rows": entry.rows,
        "failed": entry.failed,
        "seconds": entry.seconds,
        "finished_rows": folder.rows,
    }
