"""Floating-point operations of networks, counted by torch without running them."""

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
    """Tensors made in it have shapes and no data: networks of any size need no memory."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def operations(call: Callable[[], Any]) -> float:
    """Operations of a call in :func:`without_data` (a product and a sum are 2).

    Convolutions, matrix products and attention are counted, which is nearly all.
    """
    # Attention in its plain form: the counter does not know the fused one of a CPU.
    plain = sdpa_kernel(SDPBackend.MATH)
    with torch.inference_mode(), plain, FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def operations_per_image(network: nn.Module, resolution: int) -> float:
    """Operations of a network that takes float [B, 3, R, R], for one image.

    Args:
        network: With or without data.
        resolution: R.
    """
    with without_data():
        image = torch.empty(1, 3, resolution, resolution)
        return operations(lambda: network(image))
