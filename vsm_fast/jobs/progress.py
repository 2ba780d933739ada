"""How far a job is, as events that the command line shows or passes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

# {"event": name, ...}, JSON values; the names and fields are listed in docs/how-to/large-jobs.md.
Event = dict[str, Any]
Report = Callable[[Event], None]


@dataclass
class JobProgress:
    """Counts of a running job.

    Attributes:
        report: Told of each change.
        total: Rows of the job.
        done: Finished rows, from earlier runs too.
        failed: Of those, the ones whose images could not be used.
    """

    report: Report
    total: int
    done: int
    failed: int
    _began: float = field(default_factory=time.monotonic)
    _new: int = 0

    def advance(self, rows: int, failed: int) -> None:
        """Some rows are finished."""
        self.done += rows
        self.failed += failed
        self._new += rows
        self.report({"event": "rows", **self.state()})

    def state(self) -> dict[str, Any]:
        """Counts, rows a second of this run, and seconds to the end."""
        rate = self._new / max(time.monotonic() - self._began, 1e-9)
        return {
            "done": self.done,
            "total": self.total,
            "failed": self.failed,
            "rows_per_second": round(rate, 2),
            "eta_seconds": round((self.total - self.done) / rate, 1) if rate else None,
        }
