"""Tile tuning with made-up times instead of a GPU."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from triton_device import DEVICE, NATIVE

from vsm_fast.kernels.nearest import NearestTiles
from vsm_fast.kernels.tune import FLOAT8, NO_GPU, Trial, candidates, fastest, main, tune
from vsm_fast.kernels.workloads import Batch, random_batch

HOPPER = 227 << 10
FAST, SLOW, BROKEN = NearestTiles(16, 32, 16), NearestTiles(16, 16, 16), NearestTiles(32, 32, 16)


@pytest.mark.parametrize("dtype", [torch.float16, FLOAT8, torch.float32], ids=str)
@pytest.mark.parametrize(("shared", "copies"), [(HOPPER, True), (99 << 10, False)])
def test_candidates_fit_and_differ(dtype: torch.dtype, shared: int, copies: bool) -> None:
    found = list(candidates(dtype, shared, copies=copies))
    assert 8 <= len(set(found)) == len(found) <= 60
    for tiles in found:
        operands = (tiles.queries + tiles.keys) * tiles.channels * dtype.itemsize
        assert operands * tiles.stages < shared
        assert copies or not tiles.descriptors


@dataclass
class FakeTrial:
    """Trial with made-up times that records the tiles."""

    slowness: float
    tried: list[NearestTiles] = field(default_factory=list)
    float8: bool = False

    def time(self, tiles: NearestTiles, timer: object, *, gemm: bool = False) -> float:
        if gemm:
            return 25.0
        self.tried.append(tiles)
        return {FAST: 10.0, SLOW: 20.0}.get(tiles, math.inf) * self.slowness


def no_timer(run: Callable[[], object]) -> float:
    raise AssertionError("a fake trial has its own times")


def test_finalists_of_the_first_shape_go_on_to_the_others() -> None:
    made: list[tuple[int, int, FakeTrial]] = []

    def make(points: int, channels: int, dtype: torch.dtype, pairs: int) -> FakeTrial:
        made.append((points, pairs, FakeTrial(points / 100)))
        return made[-1][2]

    shapes = [(torch.float16, 64, (100, 200)), (torch.float32, 64, (100,))]
    found = list(
        tune(shapes, no_timer, math.inf, lambda dtype: [BROKEN, SLOW, FAST], make)  # type: ignore[arg-type]
    )
    assert [(entry.dtype, entry.points, entry.fused_us, entry.gemm_us) for entry in found] == [
        ("float16", 100, 10.0, 25.0), ("float16", 200, 20.0, 25.0), ("float32", 100, 10.0, 25.0),
    ]  # fmt: skip
    assert all(entry.tiles == FAST for entry in found)
    assert made[0][2].tried == [BROKEN, SLOW, FAST]
    assert made[1][2].tried == [FAST, SLOW]


def test_the_search_stops_when_its_time_is_up() -> None:
    assert fastest(FakeTrial(1), [FAST, SLOW], no_timer, time.monotonic() - 1) == []  # type: ignore[arg-type]


def small_trial(tolerance: float = 1e-5) -> Trial:
    batch = random_batch([20, 30], [25, 10], 16, torch.float32, DEVICE)
    right = batch.match(batch.schedule(SLOW, gemm=True), SLOW, gemm=True)
    return Trial(batch, False, right.nearest.semantic_similarity, tolerance)


def test_a_candidate_counts_only_if_it_is_right(caplog: pytest.LogCaptureFixture) -> None:
    def timer(run: Callable[[], object]) -> float:
        run()
        return 7.0

    assert small_trial().time(SLOW, timer) == 7.0
    assert small_trial(tolerance=-1).time(SLOW, timer) == math.inf
    assert "excluded, error" in caplog.text

    def broken(run: Callable[[], object]) -> float:
        raise RuntimeError("out of shared memory")

    assert small_trial().time(SLOW, broken) == math.inf
    assert "out of shared memory" in caplog.text


def test_a_random_batch_has_the_requested_shape() -> None:
    batch: Batch = random_batch([3, 0, 5], [4], 8, torch.float16, DEVICE)
    assert batch.pairs.tolist() == [[0, 0], [1, 0], [2, 0]]
    assert batch.operations == 2 * 16 * (3 + 5) * 4
    assert batch.semantic[0].shape == (8, 8)
    lengths = batch.visual[1].float().norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths), atol=1e-2, rtol=0)
    found = batch.match(batch.schedule(SLOW), SLOW)
    assert found.counts.shape == (3, 4)


@pytest.mark.skipif(NATIVE, reason="there is a GPU")
def test_without_a_gpu_nothing_is_tuned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path)]) == NO_GPU
    assert "No GPU" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
