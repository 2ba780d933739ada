"""Linear layers in 8 bits, by torchao: weights once, activations as they come.

Convolutions stay as they are: this is for backbones with attention. It gains 9 % on the 2-core CPU
of ``docs/how-to/models.md``; the checklist in ``benchmarks/gpu`` measures the gain on a GPU.
"""

from __future__ import annotations

import torch
from torch import nn

from vsm_fast.errors import ModelError
from vsm_fast.extras import required

QUANTIZED = ("int8", "float8")


def quantize_linear(network: nn.Module, precision: str) -> None:
    """Replace the weights of all linear layers, in place.

    Args:
        network: Frozen, on its device and in the precision of everything else.
        precision: One of ``QUANTIZED``; ``"float8"`` needs an NVIDIA GPU of compute capability
            8.9 or more.

    Raises:
        ModelError: There is nothing to quantise, or the device has no such arithmetic.
        ImportError: torchao is not installed.
    """
    if not any(isinstance(module, nn.Linear) for module in network.modules()):
        raise ModelError(
            f"dtype {precision!r} is for linear layers, and this network has none; use 'auto'."
        )
    device = next(network.parameters()).device
    if precision == "float8" and not _has_float8(device):
        raise ModelError(
            f"dtype 'float8' needs an NVIDIA GPU of compute capability 8.9 or more; the network "
            f"is on {device}. Use 'int8' or 'auto'."
        )
    torchao = required("torchao.quantization", f"dtype {precision!r}")
    configs = {
        "int8": torchao.Int8DynamicActivationInt8WeightConfig,
        "float8": torchao.Float8DynamicActivationFloat8WeightConfig,
    }
    torchao.quantize_(network, configs[precision]())


def _has_float8(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)
