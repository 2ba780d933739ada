"""Progress of long calls: a bar on a terminal, a callback, or nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Progress = bool | Callable[[int, int], None] | None


def progress_bar(**settings: Any) -> Any:
    """A tqdm bar as wide as the terminal, by a clock that nobody sets.

    tqdm reads the time of day: where that is set back, a bar stands still until it is made up for
    and shows negative times.

    Args:
        settings: Of ``tqdm``.
    """
    from tqdm import tqdm

    bar = tqdm(dynamic_ncols=True, **settings)
    bar._time = time.monotonic
    bar.start_t = bar.last_print_t = time.monotonic()
    return bar


@contextmanager
def reporting(progress: Progress, total: int) -> Iterator[Callable[[int], None]]:
    """Give a function to call with the number of images just finished.

    Args:
        progress: True for a tqdm bar on standard error, a function of (done, total), or
            None / False for silence.
        total: Number of images in all.
    """
    if progress is None or progress is False:
        yield lambda _: None
    elif progress is True:
        with progress_bar(total=total, unit="image") as bar:
            yield bar.update
    else:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            progress(done, total)

        yield advance
