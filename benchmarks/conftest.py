"""Shared fixtures: interleaved timing, no autograd."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping

import pytest
import torch


def _interleaved_times(
    contestants: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 2
) -> dict[str, list[float]]:
    """Return the seconds of each contestant per round.

    All run once per round, so other load affects them alike and ratios are taken within a round.
    The order is shuffled per round, because a contestant that follows a long one starts with cold
    caches, a trimmed heap and a spent time slice.
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
    """Return a function: (contestants, rounds) -> seconds of each per round."""
    return _interleaved_times


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    """Disable autograd for every contestant."""
    with torch.inference_mode():
        yield
