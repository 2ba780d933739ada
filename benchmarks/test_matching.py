"""Matching against its peers in one process.

    pytest benchmarks/ --benchmark-only

Every contestant runs both branches, semantic and visual, of every pair, and is timed only after
its results equal those of ``match_eager``. Speeds are reported, not asserted.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from contestants import CONTESTANTS, checked
from memory import peak_extra_mib
from pytest_benchmark.fixture import BenchmarkFixture
from workloads import SHAPES, make_workload

SECONDS = 1.2  # per row of the table, but at least this many rounds:
LEAST_ROUNDS = 3


@pytest.mark.parametrize("name", CONTESTANTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_matching(
    benchmark: BenchmarkFixture, capsys: pytest.CaptureFixture[str], shape: str, name: str
) -> None:
    """Report one row: time, spread, rate, share of the roofline, memory."""
    benchmark.group = f"matching {shape}"
    workload = make_workload(shape)
    gemm, contestant = checked("gemm", workload).run, checked(name, workload).run
    memory = peak_extra_mib(contestant)
    gemm_seconds: list[float] = []

    def time_gemm() -> None:
        begin = time.perf_counter()
        gemm()
        gemm_seconds.append(time.perf_counter() - begin)

    begin = time.perf_counter()
    time_gemm()
    contestant()
    rounds = int(min(100, max(LEAST_ROUNDS, SECONDS / (time.perf_counter() - begin))))
    # The GEMM precedes each round, so other load affects both.
    benchmark.pedantic(contestant, setup=time_gemm, rounds=rounds)
    assert benchmark.stats is not None
    seconds = benchmark.stats.stats.data
    p20, p50, p80 = np.percentile(seconds, [20, 50, 80])
    share = median_ratio(gemm_seconds[-rounds:], seconds)
    benchmark.extra_info.update(
        threads=torch.get_num_threads(),
        p20_ms=1e3 * p20,
        p50_ms=1e3 * p50,
        p80_ms=1e3 * p80,
        points_times_points_per_second=workload.comparisons / p50,
        share_of_roofline=share,
        peak_extra_mib=memory,
    )
    with capsys.disabled():
        print(
            f"\n{shape:16} {name:22} {1e3 * p50:8.2f} ms (p20 {1e3 * p20:.2f}, p80 "
            f"{1e3 * p80:.2f}), {workload.comparisons / p50 / 1e9:.3f} G points²/s, "
            f"{share:.2f} of the roofline, "
            + ("memory unknown" if memory is None else f"{memory:.1f} MiB extra")
        )


# Many rounds of a small shape, whose calls are as short as a scheduler slice.
@pytest.mark.parametrize(("shape", "rounds"), [("2304x384", 40), ("600_of_2304x384", 200)])
def test_ratios(
    benchmark: BenchmarkFixture,
    capsys: pytest.CaptureFixture[str],
    interleaved_times: Callable[..., dict[str, list[float]]],
    shape: str,
    rounds: int,
) -> None:
    """Report time relative to the GEMM alone and to naive torch."""
    benchmark.group = f"matching ratios {shape}"
    workload = make_workload(shape)
    names = ("gemm", "naive", "vsm_fast")
    contestants = {name: checked(name, workload).run for name in names}
    seconds = benchmark.pedantic(
        interleaved_times, args=(contestants,), kwargs={"rounds": rounds}, rounds=1
    )
    of_gemm = {name: median_ratio(seconds[name], seconds["gemm"]) for name in names}
    naive_to_ours = median_ratio(seconds["naive"], seconds["vsm_fast"])
    medians = {name: 1e3 * statistics.median(times) for name, times in seconds.items()}
    benchmark.extra_info.update(
        threads=torch.get_num_threads(),
        times_gemm=of_gemm,
        naive_to_vsm_fast=naive_to_ours,
        median_ms=medians,
    )
    with capsys.disabled():
        rows = (f"{name} {medians[name]:.1f} ms = {of_gemm[name]:.2f} x gemm" for name in names)
        print(
            f"\n{shape}, both branches, {torch.get_num_threads()} threads, ratios within a round: "
            f"{', '.join(rows)}; naive takes {naive_to_ours:.2f} x vsm_fast"
        )


def median_ratio(numerator: list[float], denominator: list[float]) -> float:
    """Return the median over rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))
