"""Step 1: environment and hardware ceilings."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import torch

from benchmarks.gpu.timing import measure, rate
from vsm_fast.kernels.provenance import first_line

FULL = {"side": 8192, "copy_mib": 2048}
QUICK = {"side": 64, "copy_mib": 1}


def run(device: torch.device, *, quick: bool = False) -> Iterator[dict[str, Any]]:
    """Yield one row: provenance, copy rate, and rates of square matrix products."""
    sizes = QUICK if quick else FULL
    found: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else "none",
        "driver": first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": _version("triton"),
        "diffusers": _version("diffusers"),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": os.environ.get("VSM_COMMIT") or first_line("git", "rev-parse", "--short", "HEAD"),
    }
    found["copy_tb_per_s"] = _copy(sizes["copy_mib"] << 20, device)
    found["gemm_tflops"] = {
        name: _gemm(name, sizes["side"], device)
        for name in ("bfloat16", "float16", "tf32", "float32")
    }
    found["gemm_tflops"]["float8"] = _float8_gemm(sizes["side"], device)
    yield found


def _copy(size: int, device: torch.device) -> float:
    """Return TB/s, read plus written."""
    source = torch.empty(size, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    return 2 * size / measure(lambda: target.copy_(source), device).p50 / 1e6


def _gemm(name: str, side: int, device: torch.device) -> float:
    dtype = torch.float32 if name in ("tf32", "float32") else getattr(torch, name)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
    try:
        left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        return rate(2 * side**3, measure(lambda: left @ right.T, device))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _float8_gemm(side: int, device: torch.device) -> float | None:
    """Return the rate of ``torch._scaled_mm``; None if unsupported."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
        return None
    left, right = (torch.randn(side, side, device=device).to(torch.float8_e4m3fn) for _ in range(2))
    one = torch.ones((), device=device)
    product: Callable[..., object] = torch._scaled_mm
    return rate(
        2 * side**3,
        measure(
            lambda: product(left, right.T, scale_a=one, scale_b=one, out_dtype=torch.bfloat16),
            device,
        ),
    )


def _version(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None
