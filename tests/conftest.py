"""What all tests share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch

from vsm_fast.descriptors import Descriptors

if not torch.cuda.is_available():  # read when Triton and a kernel's module are imported
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Uninitialised memory holds NaN or the largest integer: forgotten outputs show."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture(scope="session")
def make_descriptors() -> Callable[..., Descriptors]:
    """Function: (points per image, channels, seed) -> random unit descriptors.

    The visual ones have twice the channels, so that no code can confuse the branches.
    """

    def make(counts: Sequence[int], channels: int = 8, seed: int = 0) -> Descriptors:
        generator = torch.Generator().manual_seed(seed)
        rows = sum(counts)
        side = max(1, int(max(counts, default=0) ** 0.5) + 1)
        unit = torch.nn.functional.normalize
        return Descriptors(
            unit(torch.randn(rows, channels, generator=generator), dim=1),
            unit(torch.randn(rows, 2 * channels, generator=generator), dim=1),
            torch.tensor([0, *counts]).cumsum(0),
            torch.cat([torch.arange(count) for count in counts] or [torch.arange(0)]),
            (side, side),
        )

    return make
