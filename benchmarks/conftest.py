"""What the benchmarks share: descriptors like those of a network, and fair timing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

import pytest
import torch
from torch import Tensor

from vsm_fast.descriptors import Descriptors


def _random_descriptors(images: int, side: int, channels: int, seed: int) -> Descriptors:
    """Unit descriptors of ``images`` whole grids of ``side`` x ``side``, smooth over the grid."""
    generator = torch.Generator().manual_seed(seed)

    def branch() -> Tensor:
        field = 0.3 * torch.randn(images, channels, side, side, generator=generator)
        for coarse in (side // 8, side // 4, side // 2):
            level = torch.randn(images, channels, coarse, coarse, generator=generator)
            field += torch.nn.functional.interpolate(level, size=(side, side), mode="bilinear")
        points = field.permute(0, 2, 3, 1).reshape(-1, channels)
        return torch.nn.functional.normalize(points, dim=1).contiguous()

    cells = side * side
    return Descriptors(
        branch(),
        branch(),
        torch.arange(images + 1) * cells,
        torch.arange(cells).repeat(images),
        (side, side),
    )


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
def random_descriptors() -> Callable[[int, int, int, int], Descriptors]:
    """Function: (images, side, channels, seed) -> descriptors."""
    return _random_descriptors


@pytest.fixture(scope="session")
def interleaved_times() -> Callable[..., dict[str, list[float]]]:
    """Function: (contestants, rounds) -> seconds of each, per round."""
    return _interleaved_times


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    """Every contestant runs without autograd."""
    with torch.inference_mode():
        yield
