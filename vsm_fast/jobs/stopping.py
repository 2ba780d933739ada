"""Signals that ask a job to stop: once politely, twice at once."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Stop:
    """Whether somebody asked to stop.

    Attributes:
        signal: Number of the signal; None = nobody did.
    """

    def __init__(self) -> None:
        self.signal: int | None = None


@contextmanager
def stop_on_signals(asked: Callable[[int], None] = lambda _: None) -> Iterator[Stop]:
    """Take SIGINT (Ctrl-C) and SIGTERM as a request; a second one does what it does elsewhere.

    Only the main thread of a program can do this.

    Args:
        asked: Called with the first signal.
    """
    stop = Stop()
    before: dict[int, Any] = {}

    def restore() -> None:
        while before:
            signal.signal(*before.popitem())

    def request(number: int, _: FrameType | None) -> None:
        stop.signal = number
        restore()
        asked(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, request)
    try:
        yield stop
    finally:
        restore()
