"""Errors and signals that end a job early; finished shards stay on disk."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from vsm_fast.errors import VSMError


class JobError(VSMError, RuntimeError):
    """A job cannot start or continue; the message says how to fix it."""


class TooManyFailures(JobError):
    """More rows failed than ``max_failed`` allows."""


class JobStopped(JobError):
    """A signal stopped the job."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}: {message}")
        self.signal = number


class Stop:
    """A stop request.

    Attributes:
        signal: Number of the signal; None = no request.
    """

    def __init__(self) -> None:
        self.signal: int | None = None


@contextmanager
def stop_on_signals(on_stop: Callable[[int], None] = lambda _: None) -> Iterator[Stop]:
    """Turn the first SIGINT (Ctrl-C) or SIGTERM into a stop request; the next one acts as usual.

    Works in the main thread only.

    Args:
        on_stop: Called with the number of the first signal.
    """
    stop = Stop()
    previous: dict[int, Any] = {}

    def restore() -> None:
        while previous:
            signal.signal(*previous.popitem())

    def request(number: int, _: FrameType | None) -> None:
        stop.signal = number
        restore()
        on_stop(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, request)
    try:
        yield stop
    finally:
        restore()
