"""Events, counts and limits of a running job, shared by the local and the Ray runner."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from vsm_fast.files import write_json
from vsm_fast.jobs.errors import JobStopped, Stop, TooManyFailures
from vsm_fast.jobs.job_folder import SUMMARY, JobFolder
from vsm_fast.jobs.settings import RunOptions
from vsm_fast.jobs.summary import summarise

# {"event": name, ...} of JSON values; docs/how-to/large-jobs.md lists names and fields.
Event = dict[str, Any]
Report = Callable[[Event], None]


def watch_planning(report: Report, stop: Stop) -> Callable[[int], None]:
    """Return a callback for the rows that planning reads; it raises ``JobStopped`` on request."""
    total = 0

    def advance(rows: int) -> None:
        nonlocal total
        total += rows
        report({"event": "planning", "rows": total})
        if stop.signal is not None:
            raise JobStopped(stop.signal, "the manifest was being read.")

    return advance


class JobRun:
    """One run of a job: its events, and the conditions that end it early.

    Args:
        folder: Job folder.
        options: Options of the run.
        stop: Stop request.
        report: Receives the events.

    Attributes:
        retried: Finished shards whose failed rows are scored again.
        work: Numbers of all shards to score.
    """

    def __init__(self, folder: JobFolder, options: RunOptions, stop: Stop, report: Report) -> None:
        self.folder, self.options, self.stop, self._report = folder, options, stop, report
        plan, finished = folder.plan, folder.finished
        self.retried = {
            shard for shard in finished if options.retry_failed and finished[shard].failed
        }
        self.work = {*folder.pending, *self.retried}
        again = sum(finished[shard].failed for shard in self.retried)
        self._done, self._failed, self._new = folder.rows - again, folder.failed - again, 0
        self._start = time.monotonic()
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

    def advance(self, rows: int, failed: int) -> None:
        """Count finished rows and check the failure limit.

        Raises:
            TooManyFailures: If more rows failed than the options allow.
        """
        self._done += rows
        self._failed += failed
        self._new += rows
        total = self.folder.plan.rows
        rate = self._new / max(time.monotonic() - self._start, 1e-9)
        self._report(
            {
                "event": "rows",
                "done": self._done,
                "total": total,
                "failed": self._failed,
                "rows_per_second": round(rate, 2),
                "eta_seconds": round((total - self._done) / rate, 1) if rate else None,
            }
        )
        limit = self.options.max_failed
        if limit is not None and self._failed > limit.rows(total):
            raise TooManyFailures(
                f"{self._failed} rows failed; the limit is {limit.rows(total)} of {total}. The "
                "column 'reason' of the shards gives the causes. Fix the input and run the same "
                "command with --retry-failed."
            )

    def finish_shard(self, shard: int) -> None:
        """Report a recorded shard."""
        entry = self.folder.finished[shard]
        self._report(
            {
                "event": "retried" if shard in self.retried else "shard",
                "shard": shard,
                "shards": self.folder.plan.shards,
                "rows": entry.rows,
                "failed": entry.failed,
                "seconds": entry.seconds,
                "finished_rows": self.folder.rows,
            }
        )

    def end_early(self) -> None:
        """End a run after a stop request.

        Raises:
            JobStopped: Always.
        """
        assert self.stop.signal is not None
        rows, folder = self.folder.rows, self.folder
        self._report({"event": "stopped", "signal": self.stop.signal, "rows": rows})
        raise JobStopped(
            self.stop.signal,
            f"{rows} of {folder.plan.rows} rows are finished in {folder.path}. Run the same "
            "command to resume.",
        )

    def finish(self, **further: Any) -> dict[str, Any]:
        """Write, report and return the summary of a finished job."""
        self.folder.remove_temporaries()  # of dead actors
        summary = summarise(self.folder.path, range(self.folder.plan.shards))
        write_json(self.folder.path / SUMMARY, summary)
        self._report({"event": "summary", **summary, **further})
        return summary
