"""Time and memory of a call."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Timing:
    """Microseconds of a call as 20th, 50th and 80th percentile, and peak memory beyond the inputs.

    ``peak_mib`` is 0 if unknown.
    """

    p20: float
    p50: float
    p80: float
    peak_mib: float


def measure(run: Callable[[], object], device: torch.device, milliseconds: int = 150) -> Timing:
    """Time a call after a warm-up.

    On a GPU with events and a cleared L2 cache before each call (Triton's ``do_bench``). On a
    CPU, only to test the benchmark, with the clock.

    Args:
        run: Timed function.
        device: Device of its work.
        milliseconds: Duration of the repetitions.
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

    run()  # compiles, outside of the memory measurement
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
    """Return TFLOP/s at the median."""
    return operations / timing.p50 / 1e6
