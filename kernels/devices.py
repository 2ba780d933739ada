"""What the kernels ask a device."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch


@cache
def processors(device: torch.device) -> int:
    """Multiprocessors (compute units) of a GPU; 1 where kernels are interpreted on a CPU."""
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


def launching_on(device: torch.device) -> AbstractContextManager[object]:
    """Make ``device`` the current one, on which Triton launches wherever the arguments are."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
