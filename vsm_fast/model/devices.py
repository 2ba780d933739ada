"""Choice of device and precision."""

from __future__ import annotations

import torch

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(device: str | torch.device) -> torch.device:
    """The torch device for ``device``; ``"auto"`` is CUDA when there is one, else the CPU."""
    if isinstance(device, torch.device):
        return device
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The precision of the network.

    Args:
        dtype: ``"auto"`` (float32 on a CPU, bfloat16 on CUDA), ``"float32"``, ``"bfloat16"`` or
            ``"float16"``.
        device: Where the network will run.

    Raises:
        ValueError: Another name.
    """
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in _DTYPES:
        raise ValueError(f"dtype must be 'auto' or one of {[*_DTYPES]}; got {dtype!r}.")
    return _DTYPES[dtype]


def autocast_bfloat16(device: torch.device, *, wanted: bool = True) -> torch.autocast:
    """Mixed precision for training: bfloat16 where it is wanted and the device multiplies it.

    A CPU without such instructions emulates them, many times slower than float32; it stays there.
    """
    emulated = device.type == "cpu" and not (
        torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted and not emulated)


def precision_name(dtype: torch.dtype) -> str:
    """``torch.float32`` -> ``"float32"``."""
    return str(dtype).removeprefix("torch.")


def choose_descriptor_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The precision in which descriptors are kept and compared.

    A CPU compares in float32. A GPU compares 16-bit numbers several times as fast; when the
    network computes in 16 bits, descriptors have no more than that to lose. float16 rather than
    bfloat16: their channels lie in [-1, 1], where float16 has eight times the resolution.

    Args:
        precision: Of the network, like ``"float32"`` or ``"int8"``.
        device: Where the descriptors are.
    """
    if device.type == "cpu" or precision == "float32":
        return torch.float32
    return torch.float16
