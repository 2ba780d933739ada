"""Count of a network's floating-point operations, without running it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def without_data() -> AbstractContextManager[Any]:
    """Return a context in which tensors have shapes and no data, so networks need no memory."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def operations(call: Callable[[], Any]) -> float:
    """Count the operations of a call in :func:`without_data` (multiply-add = 2).

    Includes convolutions, matrix products and attention, which are nearly all.
    """
    # Plain attention: the counter does not know a CPU's fused one.
    plain = sdpa_kernel(SDPBackend.MATH)
    with torch.inference_mode(), plain, FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def operations_per_image(network: nn.Module, resolution: int) -> float:
    """Count the operations per image of a network.

    Args:
        network: Network for float [B, 3, R, R], with or without data.
        resolution: R.
    """
    with without_data():
        image = torch.empty(1, 3, resolution, resolution)
        return operations(lambda: network(image))
