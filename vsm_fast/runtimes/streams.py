"""Batches through the network two at a time, for CPUs.

One batch on all cores leaves some of them waiting after every operator, for each other and for
the core that decodes or matches; a second batch has work for them. Both use all threads of torch:
half of them each gained less (2 cores; 1 reference against 64 generations, embedded model).
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
    """Apply a function to items in order, ``streams`` at a time.

    Args:
        function: Called in threads.
        items: Taken no further than one beyond what is being worked on.
        streams: 1 calls the function in the caller's own thread.

    Yields:
        The results, in the order of the items; what the function raises is raised in its place.
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
