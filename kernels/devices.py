"""Device properties and launch context."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch


@cache
def processors(device: torch.device) -> int:
    """Return the multiprocessors (compute units) of a GPU; 1 for the interpreter on a CPU."""
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


def launching_on(device: torch.device) -> AbstractContextManager[object]:
    """Make ``device`` current: Triton launches there, not where the arguments are."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
