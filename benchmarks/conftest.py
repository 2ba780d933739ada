"""What the benchmarks share: fair timing, no autograd."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping

import pytest
import torch


def _interleaved_times(
    contestants: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 2
) -> dict[str, list[float]]:
    """Seconds of each contestant in each round.

    All run once in every round, so that what else the machine does meets them alike, and ratios
    are taken within a round. The order changes from round to round: whoever follows a long or
    greedy one finds colder caches, a trimmed heap and a used-up time slice.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    order = list(contestants.items())
    shuffle = random.Random(0).shuffle
    for turn in range(warmup + rounds):
        shuffle(order)
        for name, run in order:
            begin = time.perf_counter()
            run()
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


@pytest.fixture(scope="session")
def interleaved_times() -> Callable[..., dict[str, list[float]]]:
    """Function: (contestants, rounds) -> seconds of each, per round."""
    return _interleaved_times


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    """Every contestant runs without autograd."""
    with torch.inference_mode():
        yield
