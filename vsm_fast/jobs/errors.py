"""Why a job ends before its last row; all it has finished is kept."""

from __future__ import annotations

import signal

from vsm_fast.errors import VSMError


class JobError(VSMError, RuntimeError):
    """A job cannot begin or go on; says what to do."""


class TooManyFailures(JobError):
    """More rows failed than ``max_failed`` allows."""


class JobStopped(JobError):
    """The job was asked to stop by a signal."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}: {message}")
        self.signal = number
