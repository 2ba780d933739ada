"""Every way to work off a block against float64, and which way is taken when."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from vsm_fast.matching import cpu as _cpu_matching
from vsm_fast.matching import cpu_blocks as _cpu_blocks
from vsm_fast.matching.cpu import find_nearest
from vsm_fast.matching.cpu_blocks import (
    NearestJob,
    Scratch,
    SharedTarget,
    accept_beta_sparse,
    nearest_blas,
    nearest_filtered,
    nearest_onednn,
    to_bfloat16,
    to_onednn,
)


def new_job(query: Tensor, target: Tensor) -> NearestJob:
    return NearestJob(query, target, torch.empty(len(query)), torch.empty(len(query)).long())


def by_blas(job: NearestJob) -> None:
    nearest_blas(job, Scratch())


def by_onednn(job: NearestJob) -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this build of torch has no oneDNN")
    nearest_onednn(SharedTarget(job.target, to_onednn), job, Scratch())


def by_filter(job: NearestJob) -> None:
    accept_beta_sparse()
    nearest_filtered(SharedTarget(job.target, to_bfloat16), job, Scratch())


ways = pytest.mark.parametrize("nearest", [by_blas, by_onednn, by_filter])
Nearest = Callable[[NearestJob], None]


@ways
@pytest.mark.parametrize(
    ("points", "targets", "channels"),
    [(1, 1, 7), (65, 1, 64), (3, 400, 64), (300, 385, 64), (129, 777, 100), (600, 600, 384)],
)
@torch.inference_mode()
def test_similarity_and_index_equal_float64(
    nearest: Nearest, points: int, targets: int, channels: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    query, target = (
        normalize(torch.randn(rows, channels, generator=generator), dim=1)
        for rows in (points, targets)
    )
    job = new_job(query, target)
    nearest(job)
    exact = query.double() @ target.double().T
    torch.testing.assert_close(job.similarity.double(), exact.amax(1), atol=2e-6, rtol=0)
    attained = exact.gather(1, job.index[:, None])[:, 0]
    torch.testing.assert_close(attained, exact.amax(1), atol=2e-6, rtol=0)


def test_the_filter_keeps_the_nearest_where_rounding_loses_most() -> None:
    """Channels next to a midpoint of two bfloat16 numbers lose nearly 2^-8 of themselves."""
    middle = (1 + 2**-8) / 16
    down, up = middle * (1 - 1e-6), middle * (1 + 1e-6)
    first = torch.arange(252) < 142
    query = torch.where(first, down, up)
    # Its products all lose in rounding, those of the other one nearly all gain.
    nearest = torch.where(first, down, -up)
    other = torch.where(first, -down, up)
    other[:32] = up
    other[0] /= 2
    target = torch.stack([other, nearest, -nearest])
    exact = query.double() @ target.double().T
    assert exact.argmax() == 1
    rounded = query.bfloat16().float() @ target.bfloat16().float().T
    assert rounded[0] - rounded[1] > 0.012
    job = new_job(query.expand(4, -1).contiguous(), target)
    by_filter(job)
    assert job.index.tolist() == [1] * 4
    torch.testing.assert_close(job.similarity.double(), exact.amax().expand(4), atol=2e-6, rtol=0)


def test_the_filter_is_used_on_ordinary_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound that judged no row would be proven, and useless."""
    generator = torch.Generator().manual_seed(0)
    query = normalize(torch.randn(300, 384, generator=generator), dim=1)
    target = normalize(query[:200] + 0.02 * torch.randn(200, 384, generator=generator), dim=1)

    def nearest_blas(job: NearestJob, scratch: Scratch) -> None:
        assert len(job.query) <= 100, "rows with a near target are decided by the filter"
        job.similarity.zero_()
        job.index.zero_()

    monkeypatch.setattr(_cpu_blocks, "nearest_blas", nearest_blas)
    job = new_job(query, target)
    by_filter(job)
    # Not the last one, whose copies fill its group.
    assert job.index[:199].tolist() == list(range(199))


@ways
@torch.inference_mode()
def test_the_first_of_equal_targets_is_taken_across_vector_registers(nearest: Nearest) -> None:
    target = torch.eye(128)[torch.arange(500) % 100]
    job = new_job(torch.eye(128)[:100], target)
    nearest(job)
    assert job.index.tolist() == list(range(100))
    assert job.similarity.tolist() == [1.0] * 100


@ways
@torch.inference_mode()
def test_a_point_that_is_not_a_number_stays_visible(nearest: Nearest) -> None:
    query = torch.eye(64)[:3]
    query[1] = torch.nan
    job = new_job(query, torch.eye(64))
    nearest(job)
    assert job.similarity.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("speed", "rows", "filtered", "expected"),
    [
        (_cpu_matching._Speed(onednn=1.8, bfloat16=3.5), 2304, None, nearest_filtered),
        (_cpu_matching._Speed(onednn=1.8, bfloat16=3.5), 600, None, nearest_onednn),
        (_cpu_matching._Speed(onednn=1.8, bfloat16=1.5), 2304, None, nearest_onednn),
        (_cpu_matching._Speed(onednn=1.8, bfloat16=3.5), 2304, False, nearest_onednn),
        (_cpu_matching._Speed(onednn=1.1, bfloat16=1.5), 2304, None, nearest_blas),
        (_cpu_matching._Speed(onednn=1.8, bfloat16=3.5), 200, None, nearest_blas),
    ],
)
def test_the_fastest_way_is_taken(
    monkeypatch: pytest.MonkeyPatch,
    speed: _cpu_matching._Speed,
    rows: int,
    filtered: bool | None,
    expected: Callable[..., None],
) -> None:
    monkeypatch.setattr(_cpu_matching, "_speed", lambda: speed)
    points = torch.zeros(rows, 384)
    (method,) = _cpu_matching._methods([new_job(points, points)], filtered)
    run = method.run.func if isinstance(method.run, partial) else method.run
    assert run is expected


@pytest.mark.parametrize(("channels", "expected"), [(1024, nearest_filtered), (1025, nearest_blas)])
def test_rows_too_long_for_the_filters_bound_are_not_filtered(
    monkeypatch: pytest.MonkeyPatch, channels: int, expected: Callable[..., None]
) -> None:
    monkeypatch.setattr(_cpu_matching, "_speed", _cpu_matching._Speed)
    points = torch.zeros(800, channels)
    (method,) = _cpu_matching._methods([new_job(points, points)], True)
    run = method.run.func if isinstance(method.run, partial) else method.run
    assert run is expected


@pytest.mark.usefixtures("poisoned_memory")  # deterministic algorithms
def test_deterministic_mode_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def speed() -> _cpu_matching._Speed:
        raise AssertionError("last bits would depend on a measurement")

    monkeypatch.setattr(_cpu_matching, "_speed", speed)
    points = torch.eye(400)
    job = new_job(points, points)
    find_nearest([job])
    assert job.index.tolist() == list(range(400))
