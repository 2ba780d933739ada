"""Matching against its peers: plain GEMM, naive torch and faiss, all in one process.

    pytest benchmarks/ --benchmark-only

Each contestant does both branches, semantic and visual, of every pair.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.nn.functional import normalize

from vsm_fast.descriptors import Descriptors
from vsm_fast.matching import match

THRESHOLD = 0.2
MOST_OF_GEMM = 1.5
LEAST_OF_NAIVE = 3.0


@dataclass(frozen=True)
class Workload:
    """One reference and its generations."""

    source: Descriptors
    target: Descriptors

    @property
    def pairs(self) -> Tensor:
        """int64 [P, 2], every generation with the reference."""
        images = torch.arange(len(self.source))
        return torch.stack([images, torch.zeros_like(images)], dim=1)

    def branches(self) -> list[tuple[Tensor, Tensor]]:
        """(source points, target points) of each image and branch."""
        return [
            (mine[self.source.rows(image)], theirs)
            for image in range(len(self.source))
            for mine, theirs in (
                (self.source.semantic, self.target.semantic),
                (self.source.visual, self.target.visual),
            )
        ]


SHAPES = {"2304x384": (1, 48, 384), "576x384": (1, 24, 384), "32_of_576x128": (32, 24, 128)}


@pytest.fixture
def make_workload(
    random_descriptors: Callable[[int, int, int, int], Descriptors],
) -> Callable[[str], Workload]:
    def make(shape: str) -> Workload:
        images, side, channels = SHAPES[shape]
        return Workload(
            random_descriptors(images, side, channels, 0),
            random_descriptors(1, side, channels, 1),
        )

    return make


@pytest.fixture(params=SHAPES)
def workload(
    request: pytest.FixtureRequest,
    benchmark: BenchmarkFixture,
    make_workload: Callable[[str], Workload],
) -> Workload:
    benchmark.group = f"matching {request.param}"
    return make_workload(request.param)


def gemm(workload: Workload) -> Callable[[], None]:
    """The products alone, float32, into memory that is already there: GEMM at its best."""
    branches = workload.branches()
    out = torch.empty(branches[0][0].shape[0], branches[0][1].shape[0])

    def run() -> None:
        for query, key in branches:
            torch.mm(query, key.T, out=out)

    return run


def naive(workload: Workload) -> Callable[[], None]:
    branches = workload.branches()

    def run() -> None:
        for query, key in branches:
            query, key = normalize(query, dim=1), normalize(key, dim=1)
            (query @ key.T).max(1)

    return run


def median_ratio(numerator: list[float], denominator: list[float]) -> float:
    """Median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def ours(workload: Workload) -> Callable[[], None]:
    pairs = workload.pairs

    def run() -> None:
        match(workload.source, workload.target, pairs, THRESHOLD)

    return run


def test_gemm_alone(benchmark: BenchmarkFixture, workload: Workload) -> None:
    benchmark(gemm(workload))


def test_naive_torch(benchmark: BenchmarkFixture, workload: Workload) -> None:
    benchmark(naive(workload))


def test_faiss_flat(benchmark: BenchmarkFixture, workload: Workload) -> None:
    faiss = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(torch.get_num_threads())
    branches = [(query.numpy(), key.numpy()) for query, key in workload.branches()]

    def run() -> None:
        for query, key in branches:
            index = faiss.IndexFlatIP(key.shape[1])
            index.add(key)
            index.search(query, 1)

    benchmark(run)


def test_vsm_fast(benchmark: BenchmarkFixture, workload: Workload) -> None:
    benchmark(ours(workload))


def test_ratios_of_a_full_pair(
    benchmark: BenchmarkFixture,
    capsys: pytest.CaptureFixture[str],
    make_workload: Callable[[str], Workload],
    interleaved_times: Callable[..., dict[str, list[float]]],
) -> None:
    """At most 1.5 times the GEMM alone, at least 3 times as fast as naive torch."""
    benchmark.group = "matching ratios 2304x384"
    workload = make_workload("2304x384")
    contestants = {
        "gemm": gemm(workload),
        "naive": naive(workload),
        "ours": ours(workload),
    }
    seconds = benchmark.pedantic(
        interleaved_times, args=(contestants,), kwargs={"rounds": 30}, rounds=1
    )
    of_gemm = median_ratio(seconds["ours"], seconds["gemm"])
    of_naive = median_ratio(seconds["naive"], seconds["ours"])
    medians = {name: 1e3 * statistics.median(times) for name, times in seconds.items()}
    benchmark.extra_info.update(
        ours_to_gemm=of_gemm,
        naive_to_ours=of_naive,
        threads=torch.get_num_threads(),
        **{f"{name}_ms": value for name, value in medians.items()},
    )
    with capsys.disabled():
        print(
            f"\n2304x384, both branches, {torch.get_num_threads()} threads, medians: "
            f"gemm {medians['gemm']:.1f} ms, naive {medians['naive']:.1f} ms, "
            f"ours {medians['ours']:.1f} ms = {of_gemm:.2f} x gemm, {of_naive:.2f} x faster "
            "than naive (ratios within a round)"
        )
    assert of_gemm <= MOST_OF_GEMM
    assert of_naive >= LEAST_OF_NAIVE
