"""Progress of long calls: a bar on a terminal, a callback, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = bool | Callable[[int, int], None] | None


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
        from tqdm import tqdm

        with tqdm(total=total, unit="image", dynamic_ncols=True) as bar:
            yield bar.update
    else:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            progress(done, total)

        yield advance
