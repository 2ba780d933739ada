"""Time and memory of one call."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Timing:
    """Microseconds of a call: 20th, 50th and 80th percentile; peak of memory beyond the inputs.

    ``peak_mib`` is 0 where it cannot be known.
    """

    p20: float
    p50: float
    p80: float
    peak_mib: float


def measure(run: Callable[[], object], device: torch.device, milliseconds: int = 150) -> Timing:
    """Time a call after a warm-up.

    On a GPU with events, the cache cleared before each call (Triton's ``do_bench``), so that small
    inputs are not measured in the second-level cache. On a CPU, where this only tries the
    benchmark out, by the clock.

    Args:
        run: The call.
        device: Where it works.
        milliseconds: How long to repeat it.
    """
    if device.type != "cuda":
        seconds = []
        for _ in range(3):
            begin = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - begin)
        fast, middle, slow = (1e6 * value for value in sorted(seconds))
        return Timing(fast, middle, slow, 0.0)
    from triton.testing import do_bench

    run()  # compiles; not in the memory
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    peak = (torch.cuda.max_memory_allocated() - before) / 2**20
    times = do_bench(run, warmup=milliseconds // 4, rep=milliseconds, quantiles=[0.2, 0.5, 0.8])
    low, middle, high = (1e3 * value for value in times)
    return Timing(low, middle, high, peak)


def rate(operations: float, timing: Timing) -> float:
    """TFLOP/s at the median."""
    return operations / timing.p50 / 1e6
