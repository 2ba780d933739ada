"""Signals: Ctrl-C and SIGTERM unwind the stack, so that temporary files are removed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn Ctrl-C into KeyboardInterrupt, even where a package swallows the exception.

    torch, for instance, imports NumPy and continues without it if that fails; the half-imported
    NumPy then fails elsewhere with a different error.

    Raises:
        KeyboardInterrupt: Instead of any error after Ctrl-C.
    """
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not usual or threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupted = False

    def interrupt(_number: int, _frame: object) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except Exception as error:
        if interrupted:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def terminable() -> Iterator[None]:
    """Turn SIGTERM into SystemExit with code 143."""
    if threading.current_thread() is not threading.main_thread():  # only it may set handlers
        yield
        return

    def terminate(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
