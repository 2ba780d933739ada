"""How much memory one call needs on top of what the process holds.

The kernel's high-water mark of resident memory, reset right before the call, sees everything:
torch's tensors, but also what MKL, oneDNN, faiss and KeOps allocate by themselves, of which
tracemalloc and torch's profiler know nothing. A fresh process for each call would count code that
is loaded and threads that are started once; so the call has run before, and memory that the
allocator still holds from earlier calls is given back first, or it would be used unseen.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

_RESET_PEAK = "5"  # man 5 proc, /proc/pid/clear_refs


def peak_extra_mib(run: Callable[[], object]) -> float | None:
    """Peak resident memory during ``run`` less that before it, MiB; None where not measurable.

    Linux with glibc only; the kernel counts to about 0.5 MiB.
    """
    peak = Path("/proc/self/clear_refs")
    if not peak.exists():
        return None
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return None
    gc.collect()
    trim(0)
    peak.write_text(_RESET_PEAK)
    before = _status_kib("VmRSS")
    run()
    return (_status_kib("VmHWM") - before) / 1024


def _status_kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def peak_of_process_mib() -> float:
    """Peak resident memory of this process since its start, MiB (Linux)."""
    return _status_kib("VmHWM") / 1024
