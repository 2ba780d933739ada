"""Choice of device and precision."""

from __future__ import annotations

import torch

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(device: str | torch.device) -> torch.device:
    """Return a torch device; ``"auto"`` is CUDA if available, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Return the precision of a network.

    Args:
        dtype: ``"auto"`` (float32 on a CPU, bfloat16 on CUDA), ``"float32"``, ``"bfloat16"`` or
            ``"float16"``.
        device: Device of the network.

    Raises:
        ValueError: If the name is unknown.
    """
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in _DTYPES:
        raise ValueError(f"dtype must be 'auto' or one of {[*_DTYPES]}; got {dtype!r}.")
    return _DTYPES[dtype]


def autocast_bfloat16(device: torch.device, *, wanted: bool = True) -> torch.autocast:
    """Return a context for bfloat16 mixed precision in training, if requested and supported.

    A CPU without bfloat16 instructions emulates them many times slower than float32, so it keeps
    float32.
    """
    emulated = device.type == "cpu" and not (
        torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted and not emulated)


def precision_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype: ``"float32"`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def choose_descriptor_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the precision in which descriptors are stored and compared.

    A CPU compares in float32. A GPU compares 16-bit numbers several times as fast, and descriptors
    of a 16-bit network lose nothing. float16 rather than bfloat16: channels lie in [-1, 1], where
    float16 has eight times the resolution.

    Args:
        precision: Precision of the network, like ``"float32"`` or ``"int8"``.
        device: Device of the descriptors.
    """
    if device.type == "cpu" or precision == "float32":
        return torch.float32
    return torch.float16
