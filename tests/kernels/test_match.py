"""The three launches against the eager specification, in all variants."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import oracle
import pytest
import torch
import triton
import triton.language as tl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize
from triton_device import DEVICE, NATIVE, SIXTEEN_BIT

from vsm_fast.descriptors import Descriptors
from vsm_fast.kernels.devices import launching_on
from vsm_fast.kernels.match import Matched, match_pairs, schedule_pairs
from vsm_fast.kernels.nearest import CLEARED, NearestTiles, _clear
from vsm_fast.kernels.nearest_gemm import _products, nearest_gemm
from vsm_fast.matching.match import match_eager
from vsm_fast.matching.scoring import score_eager

Make = Callable[..., Descriptors]
SMALL = NearestTiles(16, 16, 16, warps=4, stages=2)
TILES = {
    "pointers": SMALL,
    "descriptors": replace(SMALL, channels=32, descriptors=True),
    "wide": NearestTiles(16, 64, 32, warps=4, stages=3),
    "persistent": replace(SMALL, programs=2, registers=128),
}


def run(
    source: Descriptors,
    target: Descriptors,
    pairs: Tensor,
    semantic_threshold: float,
    visual_thresholds: Sequence[float] = (),
    *,
    tiles: NearestTiles = SMALL,
    **options: Any,
) -> Matched:
    """Match on the device under test, and bring everything to the CPU."""
    source, target = source.to(DEVICE), target.to(DEVICE)
    schedule = schedule_pairs(
        source.offsets, target.offsets, pairs, DEVICE, tiles, gemm=options.get("gemm", False)
    )
    found = match_pairs(
        (source.semantic, target.semantic),
        (source.visual, target.visual),
        schedule,
        semantic_threshold,
        visual_thresholds,
        tiles=tiles,
        **options,
    )
    nearest = type(found.nearest)(*(value.cpu() for value in vars(found.nearest).values()))
    return Matched(nearest, found.kept.cpu(), found.counts.cpu())


def assert_equals_eager(
    found: Matched,
    source: Descriptors,
    target: Descriptors,
    pairs: Tensor,
    semantic_threshold: float,
    visual_thresholds: Sequence[float],
    tolerance: float = 2e-6,
) -> None:
    wanted = match_eager(source, target, pairs, semantic_threshold)
    close = {"atol": tolerance, "rtol": 0, "equal_nan": True}
    torch.testing.assert_close(
        found.nearest.semantic_similarity, wanted.semantic_similarity, **close
    )
    torch.testing.assert_close(found.nearest.visual_similarity, wanted.visual_similarity, **close)
    bounds = wanted.offsets.tolist()
    for pair, (i, j) in enumerate(pairs.tolist()):
        rows = slice(bounds[pair], bounds[pair + 1])
        index = found.nearest.target_index[rows]
        if target.points(j) == 0:
            assert (index == -1).all()
            continue
        attained = (
            source.semantic[source.rows(i)].double()
            * target.semantic[target.rows(j)].double()[index]
        ).sum(1)
        torch.testing.assert_close(
            attained, wanted.semantic_similarity[rows].double(), atol=tolerance, rtol=0
        )
        # What is kept and counted follows exactly from the similarities that were found.
        similarities = found.nearest.semantic_similarity[rows].double().tolist()
        kept = oracle.keep(similarities, index.tolist(), float(np.float32(semantic_threshold)))
        assert found.kept[rows].tolist() == kept
    matches = replace(
        wanted,
        semantic_similarity=found.nearest.semantic_similarity,
        visual_similarity=found.nearest.visual_similarity,
        kept=found.kept,
    )
    scores = score_eager(matches, visual_thresholds)
    assert found.counts[:, 0].tolist() == scores.n_matched.tolist()
    shares = found.counts[:, 1:].float() / found.counts[:, :1].float()
    torch.testing.assert_close(shares, scores.score, atol=1e-6, rtol=0, equal_nan=True)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("tiles", TILES.values(), ids=TILES)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=4),
    target_counts=st.lists(st.integers(0, 70), min_size=1, max_size=3),
    channels=st.sampled_from([1, 7, 16, 24, 40]),
    tau=st.sampled_from([-1.5, 0.0, 0.3]),
    thresholds=st.lists(st.sampled_from([-2.0, 0.0, 0.2, 0.4]), max_size=4),
    seed=st.integers(0, 999),
    data=st.data(),
)
def test_ragged_batches_equal_eager(
    make_descriptors: Make,
    tiles: NearestTiles,
    counts: list[int],
    target_counts: list[int],
    channels: int,
    tau: float,
    thresholds: list[float],
    seed: int,
    data: st.DataObject,
) -> None:
    source = make_descriptors(counts, channels, seed)
    target = make_descriptors(target_counts, channels, seed + 1)
    some = st.tuples(st.integers(0, len(counts) - 1), st.integers(0, len(target_counts) - 1))
    chosen = data.draw(st.lists(some, max_size=5))
    pairs = torch.tensor(chosen, dtype=torch.int64).reshape(-1, 2)
    found = run(source, target, pairs, tau, thresholds, tiles=tiles)
    assert_equals_eager(found, source, target, pairs, tau, thresholds)


@pytest.fixture
def case(make_descriptors: Make) -> tuple[Descriptors, Descriptors, Tensor]:
    """One batch with empty, single and ragged subjects and shared references."""
    return (
        make_descriptors([37, 0, 80, 1], 48),
        make_descriptors([50, 0, 65, 1], 48, 1),
        torch.tensor([[0, 0], [1, 0], [2, 0], [3, 2], [0, 1], [2, 2], [0, 3], [3, 3]]),
    )


@pytest.mark.usefixtures("poisoned_memory")
def test_products_of_torch_find_the_same(case: tuple[Descriptors, Descriptors, Tensor]) -> None:
    found = run(*case, 0.2, [0.1, 0.3], gemm=True)
    assert_equals_eager(found, *case, 0.2, [0.1, 0.3])


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("tiles", [TILES["pointers"], TILES["descriptors"]], ids=str)
@pytest.mark.parametrize("gemm", [False, True])
def test_lengths_come_from_the_tiles(
    case: tuple[Descriptors, Descriptors, Tensor], tiles: NearestTiles, gemm: bool
) -> None:
    source, target, pairs = case
    generator = torch.Generator().manual_seed(5)

    def stretched(rows: Tensor) -> Tensor:
        return rows * torch.empty(len(rows), 1).uniform_(0.01, 300, generator=generator)

    raw = [
        replace(side, semantic=stretched(side.semantic), visual=stretched(side.visual))
        for side in (source, target)
    ]
    found = run(*raw, pairs, 0.2, [0.3], tiles=tiles, normalised=False, gemm=gemm)
    assert_equals_eager(found, source, target, pairs, 0.2, [0.3])


@pytest.mark.parametrize("dtype", SIXTEEN_BIT, ids=str)
def test_sixteen_bits_are_as_exact_as_eager_in_the_same_precision(
    case: tuple[Descriptors, Descriptors, Tensor], dtype: torch.dtype
) -> None:
    source, target, pairs = case
    exact = match_eager(source, target, pairs, 0.2)
    found = run(source.to("cpu", dtype), target.to("cpu", dtype), pairs, 0.2, [0.3])
    for branch in ("semantic", "visual"):
        errors = [torch.zeros(())]
        for i, j in pairs.tolist():
            if source.points(i) and target.points(j):
                mine = getattr(source, branch)[source.rows(i)]
                theirs = getattr(target, branch)[target.rows(j)]
                rounded = (mine.to(dtype) @ theirs.to(dtype).T).amax(1).float()
                errors.append((rounded - (mine @ theirs.T).amax(1)).abs().max())
        error = getattr(found.nearest, f"{branch}_similarity") - getattr(
            exact, f"{branch}_similarity"
        )
        assert error.nan_to_num().abs().max() <= 2 * torch.stack(errors).max() + 1e-6


@pytest.mark.parametrize("normalised", [True, False])
def test_float8_finds_near_neighbours_and_says_exactly_how_near(
    case: tuple[Descriptors, Descriptors, Tensor], normalised: bool
) -> None:
    source, target, pairs = case
    exact = match_eager(source, target, pairs, 0.2)
    found = run(source, target, pairs, 0.2, [0.3], float8=True, normalised=normalised)
    loss = exact.semantic_similarity - found.nearest.semantic_similarity
    # Twice the rounding of two unit vectors to 3 bits of mantissa, as its bound would have it.
    assert loss.nan_to_num().max() <= 2 * 2 * 2**-4
    assert loss.nan_to_num().abs().median() < 1e-6
    bounds = exact.offsets.tolist()
    for pair, (i, j) in enumerate(pairs.tolist()):
        rows = slice(bounds[pair], bounds[pair + 1])
        index = found.nearest.target_index[rows]
        if target.points(j):
            attained = source.semantic[source.rows(i)] * target.semantic[target.rows(j)][index]
            torch.testing.assert_close(
                found.nearest.semantic_similarity[rows], attained.sum(1), atol=2e-6, rtol=0
            )
    visual_loss = exact.visual_similarity - found.nearest.visual_similarity
    assert visual_loss.nan_to_num().min() >= -2e-6  # never nearer than the nearest
    assert visual_loss.nan_to_num().max() <= 2 * 2 * 2**-4


def test_splits_change_nothing(make_descriptors: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = make_descriptors([20, 3], 32), make_descriptors([150, 17], 32, 1)
    pairs = torch.tensor([[0, 0], [1, 1], [1, 0]])
    for tiles in (TILES["pointers"], TILES["descriptors"]):
        monkeypatch.setattr("vsm_fast.kernels.match.processors", lambda _: 1)
        one = run(source, target, pairs, 0.1, [0.2], tiles=tiles)
        monkeypatch.setattr("vsm_fast.kernels.match.processors", lambda _: 64)
        many = run(source, target, pairs, 0.1, [0.2], tiles=tiles)
        assert_equals_eager(many, source, target, pairs, 0.1, [0.2])
        assert torch.equal(one.nearest.target_index, many.nearest.target_index)
        assert torch.equal(one.kept, many.kept)
        assert torch.equal(one.counts, many.counts)


AXES = torch.eye(16)


def image(semantic: Tensor, visual: Tensor | None = None) -> Descriptors:
    count = len(semantic)
    return Descriptors(
        semantic,
        semantic if visual is None else visual,
        torch.tensor([0, count]),
        torch.arange(count),
        (1, max(1, count)),
    )


PAIR = torch.tensor([[0, 0]])


def test_plus_and_minus_zero_tie() -> None:
    """Two sources at similarity +0 and -0 of one target: the first keeps it."""
    zeros = torch.zeros(1, 16)
    for signs in ([1.0, -1.0], [-1.0, 1.0]):
        source = image(torch.cat([sign * zeros for sign in signs]))
        found = run(source, image(AXES[:1]), PAIR, -0.5)
        assert found.nearest.semantic_similarity.tolist() == [0, 0]
        assert found.kept.tolist() == [True, False]


def test_denormal_and_zero_rows_are_similar_to_nothing() -> None:
    rows = torch.stack([torch.full((16,), 1e-40), torch.zeros(16), AXES[3]])
    for raw in (rows, rows.flip(0)):
        found = run(image(raw), image(AXES), PAIR, 0.5, [0.5], normalised=False)
        axis = (raw == 1).any(1)
        assert found.kept.tolist() == axis.tolist()
        assert found.nearest.semantic_similarity[~axis].abs().max() < 1e-20
    found = run(image(AXES), image(rows), PAIR, 0.5, [0.5], normalised=False)
    assert found.kept.nonzero().tolist() == [[3]]


@pytest.mark.filterwarnings("ignore:All-NaN:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize(
    ("bad", "normalised"),
    [(torch.nan, True), (torch.nan, False), (torch.inf, False), (-torch.inf, False)],
)
def test_a_non_finite_row_matches_nothing_and_affects_no_other(
    bad: float, normalised: bool
) -> None:
    spoilt = AXES.clone()
    spoilt[5] = bad
    others = [row for row in range(16) if row != 5]
    from_spoilt = run(image(spoilt), image(AXES), PAIR, 0.5, [0.5], normalised=normalised)
    assert from_spoilt.nearest.semantic_similarity[5].isnan()
    assert from_spoilt.nearest.visual_similarity[5].isnan()
    assert from_spoilt.nearest.target_index[5] == -1
    assert from_spoilt.kept.nonzero()[:, 0].tolist() == others
    to_spoilt = run(image(AXES), image(spoilt), PAIR, 0.5, [0.5], normalised=normalised)
    assert to_spoilt.kept.nonzero()[:, 0].tolist() == others
    assert to_spoilt.nearest.target_index[others].tolist() == others
    assert from_spoilt.counts.tolist() == to_spoilt.counts.tolist() == [[15, 15]]


def test_all_rows_equal_over_tiles_and_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vsm_fast.kernels.match.processors", lambda _: 64)
    same = image(normalize(torch.ones(100, 16), dim=1))
    for tiles in TILES.values():
        found = run(same, same, PAIR, 0.5, [0.5], tiles=tiles)
        assert found.nearest.target_index.tolist() == [0] * 100
        assert found.kept.nonzero().tolist() == [[0]]
        assert found.counts.tolist() == [[1, 1]]


def test_thresholds_are_strict_and_counted_apart() -> None:
    half = torch.full((1, 16), 0.25)
    visual = torch.stack([0.5 * AXES[0], 0.75 * AXES[0], AXES[0]])
    source = image(AXES[:3], visual)
    found = run(source, image(AXES[:3], AXES[:1].expand(3, -1)), PAIR, 0.5, [0.25, 0.5, 0.75, 1.0])
    assert found.counts.tolist() == [[3, 3, 2, 1, 0]]
    below = float(np.nextafter(np.float32(0.25), np.float32(0)))
    assert run(source, image(half), PAIR, 0.25).counts.tolist() == [[0]]
    assert run(source, image(half), PAIR, below).counts.tolist() == [[1]]


def test_more_than_four_thresholds_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 4 visual thresholds; got 5"):
        run(image(AXES), image(AXES), PAIR, 0.5, [0.1, 0.2, 0.3, 0.4, 0.5])


def test_thousands_of_pairs(make_descriptors: Make) -> None:
    """More pairs than any dimension of a tile or block; runs of one reference."""
    rng = np.random.default_rng(0)
    images = 100 if NATIVE else 40  # the interpreter takes milliseconds per program
    counts = rng.integers(0, 4, images)
    if not NATIVE:
        counts[np.arange(images) % 13 > 0] = 0
    source = make_descriptors(counts.tolist(), 8)
    target = make_descriptors(rng.integers(0, 4, images).tolist(), 8, 1)
    pairs = torch.cartesian_prod(torch.arange(images), torch.arange(images)).flip(1)
    found = run(source, target, pairs, 0.2, [0.2], tiles=NearestTiles(128, 16, 16))
    wanted = match_eager(source, target, pairs, 0.2)
    assert torch.equal(found.kept, wanted.kept)
    assert torch.equal(found.nearest.target_index, wanted.target_index)
    counts = score_eager(wanted, [0.2])
    assert torch.equal(found.counts[:, 0].long(), counts.n_matched)


def test_tens_of_thousands_of_points(make_descriptors: Make) -> None:
    points = 65_536 if NATIVE else 16_384
    source, target = make_descriptors([points], 4), make_descriptors([70], 4, 1)
    tiles = NearestTiles(512, 32, 16)
    found = run(source, target, PAIR, 0.2, [0.2], tiles=tiles)
    assert_equals_eager_large(found, source, target)
    back = run(target, source, PAIR, 0.2, [0.2], tiles=NearestTiles(128, 512, 16))
    assert_equals_eager_large(back, target, source)


def assert_equals_eager_large(found: Matched, source: Descriptors, target: Descriptors) -> None:
    """Check against float64; match_eager's duplicate resolution is quadratic in the points."""
    similarity = source.semantic.double() @ target.semantic.double().T
    best = similarity.amax(1)
    torch.testing.assert_close(found.nearest.semantic_similarity.double(), best, atol=2e-6, rtol=0)
    attained = similarity.gather(1, found.nearest.target_index[:, None])[:, 0]
    torch.testing.assert_close(attained, best, atol=2e-6, rtol=0)
    kept = oracle.keep(
        found.nearest.semantic_similarity.double().tolist(),
        found.nearest.target_index.tolist(),
        float(np.float32(0.2)),
    )
    assert found.kept.tolist() == kept
    assert found.counts[0, 0] == sum(kept)


def test_no_pair_and_no_point(make_descriptors: Make) -> None:
    source, target = make_descriptors([0, 4]), make_descriptors([5])
    none = run(source, target, torch.empty(0, 2, dtype=torch.int64), 0.2, [0.2])
    assert none.counts.shape == (0, 2)
    empty = run(source, target, torch.tensor([[0, 0], [0, 0]]), 0.2, [0.2])
    assert empty.counts.tolist() == [[0, 0], [0, 0]]
    assert len(empty.kept) == 0


def test_twenty_runs_are_identical(case: tuple[Descriptors, Descriptors, Tensor]) -> None:
    """A varying result would be a race."""
    first = run(*case, 0.2, [0.3])
    for _ in range(20 if NATIVE else 1):
        again = run(*case, 0.2, [0.3])
        assert torch.equal(first.kept, again.kept)
        assert torch.equal(first.counts, again.counts)
        for name, value in vars(first.nearest).items():
            assert torch.equal(value.nan_to_num(9), getattr(again.nearest, name).nan_to_num(9))


@pytest.mark.skipif(not NATIVE, reason="CUDA graphs need a GPU")
def test_a_batch_is_captured_in_a_graph(case: tuple[Descriptors, Descriptors, Tensor]) -> None:
    source, target, pairs = case
    source, target = source.to(DEVICE), target.to(DEVICE)
    schedule = schedule_pairs(source.offsets, target.offsets, pairs, DEVICE, SMALL)

    def go() -> Matched:
        return match_pairs(
            (source.semantic, target.semantic), (source.visual, target.visual), schedule,
            0.2, [0.3], tiles=SMALL,
        )  # fmt: skip

    go()  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = go()
    source.semantic.copy_(source.semantic.flip(0))
    graph.replay()
    expected = go()
    assert torch.equal(captured.kept, expected.kept)
    assert torch.equal(captured.counts, expected.counts)


@triton.jit
def _clear_as(cells, n_cells, program, programs, VALUE: tl.constexpr, BLOCK: tl.constexpr):
    """Clear the blocks of ``program``."""
    _clear(cells, n_cells, program, programs, VALUE, BLOCK)


@pytest.mark.parametrize(
    ("program", "programs", "cleared"),
    [(0, 1, range(5000)), (4, 5, range(4096, 5000)), (2**21, 2**22, []), (2**22 - 1, 2**22, [])],
)
def test_each_program_clears_its_blocks_and_no_memory_beyond(
    program: int, programs: int, cleared: Sequence[int]
) -> None:
    cells = torch.zeros(6000, dtype=torch.int64, device=DEVICE)
    _clear_as[(1,)](cells, 5000, program, programs, -(2**63), CLEARED)
    assert cells.nonzero()[:, 0].tolist() == list(cleared)
    assert set(cells.tolist()) <= {0, -(2**63)}


def test_every_launch_runs_under_the_device_of_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[torch.device] = []
    launched: list[str] = []

    @contextmanager
    def guard(device: torch.device) -> Iterator[None]:
        current.append(device)
        yield
        current.pop()

    class Watched:
        def __init__(self, name: str, kernel: Any) -> None:
            self._name, self._kernel = name, kernel

        def __getitem__(self, grid: Any) -> Any:
            assert current == [AXES.to(DEVICE).device], "launched wherever the caller was"
            launched.append(self._name)
            return self._kernel[grid]

    for module in ("nearest", "claim", "count"):
        loaded = importlib.import_module(f"vsm_fast.kernels.{module}")
        monkeypatch.setattr(loaded, "launching_on", guard)
        # Helpers of kernels begin without a launch.
        for name in [name for name in vars(loaded) if name.endswith("_kernel")]:
            monkeypatch.setattr(loaded, name, Watched(name, getattr(loaded, name)))
    assert run(image(AXES), image(AXES), PAIR, 0.5, [0.5]).counts.tolist() == [[16, 16]]
    assert launched == ["_nearest_kernel", "_claim_kernel", "_count_kernel"]


def test_the_guard_of_a_second_gpu_is_that_gpus() -> None:
    guard = launching_on(torch.device("cuda", 1))
    assert isinstance(guard, torch.cuda.device)
    assert guard.idx == 1


@pytest.mark.parametrize("precision", ["medium", "high"])
def test_products_of_torch_obey_no_switch(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    seen: list[str] = []

    def products(query: Tensor, key: Tensor) -> Tensor:
        seen.append(torch.get_float32_matmul_precision())
        return query @ key.T

    monkeypatch.setattr("vsm_fast.kernels.nearest_gemm._products", products)
    rows = AXES.to(DEVICE)
    schedule = schedule_pairs(
        image(AXES).offsets, image(AXES).offsets, PAIR, DEVICE, SMALL, gemm=True
    )
    claims = torch.empty(schedule.claims, dtype=torch.int64, device=DEVICE)
    counts = torch.empty(1, 1, dtype=torch.int32, device=DEVICE)
    torch.set_float32_matmul_precision(precision)
    try:
        nearest_gemm((rows, rows), (rows, rows), schedule, claims=claims, counts=counts)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == ["highest", "highest"]


def test_products_of_16_bits_do_without_an_option_that_torch_2_5_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class OnCuda(NamedTuple):
        """Rows in 16 bits that say they are on a GPU."""

        rows: Tensor
        dtype: torch.dtype = torch.float16
        device: torch.device = torch.device("cuda")

        def float(self) -> Tensor:
            return self.rows.float()

    monkeypatch.setattr("vsm_fast.kernels.nearest_gemm._MM_SUMS_IN_FLOAT32", False)
    rows = OnCuda(AXES.half())
    assert torch.equal(_products(rows, rows), AXES @ AXES.T)
