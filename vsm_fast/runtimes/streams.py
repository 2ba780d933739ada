"""Concurrent batches, for CPUs.

One batch on all cores leaves some of them idle after every operator; a second batch fills the
gaps. Both use all of torch's threads: half of the threads each was slower (2 cores; 1 reference
against 64 generated images, embedded model).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

STREAMS = 2
Item = TypeVar("Item")
Result = TypeVar("Result")


def in_streams(
    function: Callable[[Item], Result], items: Iterable[Item], streams: int = STREAMS
) -> Generator[Result, None, None]:
    """Apply a function to items in threads, and yield the results in order.

    Args:
        function: Called in threads; its errors are raised in place of the result.
        items: Read at most one item ahead of the running ones.
        streams: Number of concurrent calls; 1 calls the function in the caller's thread.
    """
    if streams == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(streams, "vsm-stream") as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > streams:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for result in waiting:
                result.cancel()
