"""What the benchmarks share: fair timing, no autograd."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

import pytest
import torch


def _interleaved_times(
    contestants: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 2
) -> dict[str, list[float]]:
    """Seconds of each contestant in each round.

    All run once in every round, so that what else the machine does meets them alike, and ratios
    are taken within a round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(warmup + rounds):
        for name, run in contestants.items():
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
