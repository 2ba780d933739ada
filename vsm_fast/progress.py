"""Progress of long calls: a terminal bar, a callback, or silence."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Progress = bool | Callable[[int, int], None] | None


def progress_bar(**settings: Any) -> Any:
    """Return a tqdm bar of the terminal's width that uses the monotonic clock.

    tqdm reads the wall clock: after a step back, a bar stalls and shows negative times.

    Args:
        settings: Arguments of ``tqdm``.
    """
    from tqdm import tqdm

    bar = tqdm(dynamic_ncols=True, **settings)
    bar._time = time.monotonic
    bar.start_t = bar.last_print_t = time.monotonic()
    return bar


@contextmanager
def reporting(progress: Progress, total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the number of newly finished images.

    Args:
        progress: True for a tqdm bar on standard error, a function of (finished, total), or
            None / False for silence.
        total: Total number of images.
    """
    if progress is None or progress is False:
        yield lambda _: None
    elif progress is True:
        with progress_bar(total=total, unit="image") as bar:
            yield bar.update
    else:
        finished = 0

        def advance(count: int) -> None:
            nonlocal finished
            finished += count
            progress(finished, total)

        yield advance
