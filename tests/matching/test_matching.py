"""Every matching path against the oracle, and the properties that the metric promises."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import oracle
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from triton_device import DEVICE, match_on_triton

import vsm_fast.matching.match
from vsm_fast.descriptors import Descriptors
from vsm_fast.kernels.nearest import NearestTiles
from vsm_fast.kernels.tuning import Choice
from vsm_fast.matching.cpu import NearestJob
from vsm_fast.matching.match import choose_path, describe_search, match, match_blocked, match_eager
from vsm_fast.matching.matches import Matches
from vsm_fast.matching.scoring import score

Match = Callable[[Descriptors, Descriptors, Tensor, float], Matches]


def match_with_blas(*arguments: Any) -> Matches:
    """Match on a CPU as a torch without oneDNN does."""
    with mock.patch.object(torch.backends.mkldnn, "is_available", return_value=False):
        return match_blocked(*arguments)


PATHS: dict[str, Match] = {
    "eager": match_eager,
    "blocked": match_blocked,
    "blocked BLAS": match_with_blas,
    "triton": match_on_triton,
    "auto": match,
}


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest) -> Match:
    return PATHS[request.param]


def from_rows(
    semantic: Sequence[Sequence[float]], visual: Sequence[Sequence[float]]
) -> Descriptors:
    """Descriptors of one image with given rows."""
    count = len(semantic)
    return Descriptors(
        torch.tensor(semantic, dtype=torch.float32).reshape(count, -1),
        torch.tensor(visual, dtype=torch.float32).reshape(count, -1),
        torch.tensor([0, count]),
        torch.arange(count),
        (1, max(count, 1)),
    )


def one_pair(path: Match, source: Descriptors, target: Descriptors, tau: float) -> Matches:
    return path(source, target, torch.tensor([[0, 0]]), tau)


def assert_equals_oracle(
    found: Matches, source: Descriptors, target: Descriptors, pairs: Tensor, tau: float
) -> None:
    """Similarities within float32 rounding; indices by the similarity that they attain."""
    bounds = found.offsets.tolist()
    assert len(bounds) == len(pairs) + 1
    for (i, j), (start, stop) in zip(pairs.tolist(), pairwise(bounds), strict=True):
        parts = [
            block[rows].double().numpy()
            for block, rows in (
                (source.semantic, source.rows(i)),
                (target.semantic, target.rows(j)),
                (source.visual, source.rows(i)),
                (target.visual, target.rows(j)),
            )
        ]
        expected = oracle.match_pair(*parts, tau)
        semantic = found.semantic_similarity[start:stop].numpy()
        index = found.target_index[start:stop].numpy()
        np.testing.assert_allclose(semantic, expected.semantic, atol=2e-6)
        np.testing.assert_allclose(
            found.visual_similarity[start:stop].numpy(), expected.visual, atol=2e-6
        )
        if len(parts[1]) == 0:
            assert (index == -1).all()
        for row, position in enumerate(index.tolist()):
            if position >= 0:
                attained = oracle.cosine(parts[0][row], parts[1][position])
                assert attained == pytest.approx(expected.semantic[row], abs=2e-6)
        # What is kept follows exactly from the similarities and indices that were found.
        similarities = semantic.astype(np.float64).tolist()
        threshold = float(np.float32(tau))
        kept = oracle.keep(similarities, index.tolist(), threshold)
        if len(parts[1]) == 0:
            kept = [False] * len(index)
        assert found.kept[start:stop].tolist() == kept


@pytest.mark.usefixtures("poisoned_memory")
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    target_counts=st.lists(st.integers(0, 12), min_size=1, max_size=3),
    channels=st.sampled_from([1, 3, 7, 16]),
    tau=st.sampled_from([-1.5, 0.0, 0.3, 0.7]),
    seed=st.integers(0, 999),
    data=st.data(),
)
def test_ragged_batches_equal_the_oracle(
    path: Match,
    make_descriptors: Callable[..., Descriptors],
    counts: list[int],
    target_counts: list[int],
    channels: int,
    tau: float,
    seed: int,
    data: st.DataObject,
) -> None:
    source = make_descriptors(counts, channels, seed)
    target = make_descriptors(target_counts, channels, seed + 1)
    chosen = data.draw(
        st.lists(
            st.tuples(st.integers(0, len(counts) - 1), st.integers(0, len(target_counts) - 1)),
            max_size=6,
        )
    )
    pairs = torch.tensor(chosen, dtype=torch.int64).reshape(-1, 2)
    assert_equals_oracle(path(source, target, pairs, tau), source, target, pairs, tau)


@pytest.mark.parametrize(
    ("points", "targets", "channels"),
    [(1, 1, 7), (65, 1, 64), (3, 400, 64), (300, 385, 64), (129, 777, 100), (900, 801, 384)],
)
def test_large_and_odd_shapes_equal_eager(
    path: Match,
    make_descriptors: Callable[..., Descriptors],
    points: int,
    targets: int,
    channels: int,
) -> None:
    source = make_descriptors([points], channels)
    target = make_descriptors([targets], channels, seed=1)
    found = one_pair(path, source, target, 0.1)
    exact = source.semantic.double() @ target.semantic.double().T
    exact_visual = source.visual.double() @ target.visual.double().T
    best = exact.amax(1)
    torch.testing.assert_close(found.semantic_similarity.double(), best, atol=2e-6, rtol=0)
    torch.testing.assert_close(
        found.visual_similarity.double(), exact_visual.amax(1), atol=2e-6, rtol=0
    )
    attained = exact.gather(1, found.target_index[:, None])[:, 0]
    torch.testing.assert_close(attained, best, atol=2e-6, rtol=0)
    kept = oracle.keep(
        found.semantic_similarity.tolist(), found.target_index.tolist(), float(np.float32(0.1))
    )
    assert found.kept.tolist() == kept


def test_an_image_is_consistent_with_itself(
    path: Match, make_descriptors: Callable[..., Descriptors]
) -> None:
    image = make_descriptors([200], 16)
    found = one_pair(path, image, image, 0.9)
    assert found.target_index.tolist() == list(range(200))
    assert found.kept.all()
    assert score(found, [0.99]).score.tolist() == [[1.0]]


def test_permuted_pairs_give_permuted_results(
    path: Match, make_descriptors: Callable[..., Descriptors]
) -> None:
    source, target = make_descriptors([9, 0, 30, 4]), make_descriptors([12, 25], seed=1)
    pairs = torch.tensor([[i, j] for i in range(4) for j in range(2)])
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))
    straight = score(path(source, target, pairs, 0.1), [0.2, 0.4])
    shuffled = score(path(source, target, pairs[order], 0.1), [0.2, 0.4])
    torch.testing.assert_close(shuffled.score, straight.score[order], equal_nan=True)
    assert shuffled.n_matched.tolist() == straight.n_matched[order].tolist()
    assert shuffled.n_source.tolist() == straight.n_source[order].tolist()


def test_neighbours_change_nothing(
    path: Match, make_descriptors: Callable[..., Descriptors]
) -> None:
    source, target = make_descriptors([40, 7, 90, 33], 32), make_descriptors([60, 81], 32, seed=1)
    pairs = torch.tensor([[0, 1], [1, 1], [2, 0], [3, 0], [2, 1]])
    together = score(path(source, target, pairs, 0.2), [0.25]).score
    for row, (i, j) in enumerate(pairs.tolist()):
        alone = one_pair(path, source.select([i]), target.select([j]), 0.2)
        torch.testing.assert_close(
            score(alone, [0.25]).score[0], together[row], atol=1e-5, rtol=0, equal_nan=True
        )


HALF = (0.5, 0.5, 0.5, 0.5)
AXES = np.eye(4).tolist()


def test_the_semantic_threshold_is_strict(path: Match) -> None:
    source, target = from_rows([HALF], [HALF]), from_rows(AXES[:1], AXES[:1])
    assert not one_pair(path, source, target, 0.5).kept.any()
    below = float(np.nextafter(np.float32(0.5), np.float32(0)))
    assert one_pair(path, source, target, below).kept.all()


def test_the_first_of_equal_targets_is_taken(path: Match) -> None:
    source = from_rows([AXES[1]], [HALF])
    target = from_rows([AXES[0], AXES[1], AXES[1]], [HALF] * 3)
    assert one_pair(path, source, target, 0.5).target_index.tolist() == [1]


def test_the_best_source_keeps_a_target(path: Match) -> None:
    source = from_rows([[0.6, 0.8, 0, 0], AXES[0], [0.8, 0.6, 0, 0]], [HALF] * 3)
    target = from_rows([AXES[0]], [HALF])
    assert one_pair(path, source, target, 0.5).kept.tolist() == [False, True, False]


def test_the_first_of_equal_sources_keeps_a_target(path: Match) -> None:
    source = from_rows([[0.6, 0.8, 0, 0], AXES[0], AXES[0]], [HALF] * 3)
    target = from_rows([AXES[0]], [HALF])
    assert one_pair(path, source, target, 0.5).kept.tolist() == [False, True, False]


def test_all_rows_equal(path: Match) -> None:
    image = from_rows([AXES[0]] * 500, [AXES[0]] * 500)
    found = one_pair(path, image, image, 0.5)
    assert found.target_index.tolist() == [0] * 500
    assert found.kept.nonzero().tolist() == [[0]]


def test_duplicates_are_resolved_within_a_pair(path: Match) -> None:
    image = from_rows([AXES[0]], [HALF])
    pairs = torch.tensor([[0, 0]] * 3)
    assert path(image, image, pairs, 0.5).kept.tolist() == [True] * 3


def test_the_visual_neighbour_is_of_all_reference_points(path: Match) -> None:
    source = from_rows([AXES[0]], [AXES[3]])
    # The semantic match (row 0) looks different; row 1 looks the same.
    target = from_rows([AXES[0], AXES[1]], [AXES[0], AXES[3]])
    found = one_pair(path, source, target, 0.5)
    assert found.target_index.tolist() == [0]
    assert found.visual_similarity.tolist() == [1.0]


def test_negative_similarities_are_found(path: Match) -> None:
    source = from_rows([AXES[0]], [AXES[0]])
    target = from_rows([[-1, 0, 0, 0], [-0.6, -0.8, 0, 0]], [[-1, 0, 0, 0]] * 2)
    found = one_pair(path, source, target, -0.9)
    assert found.target_index.tolist() == [1]
    assert found.semantic_similarity.tolist() == pytest.approx([-0.6])
    assert found.visual_similarity.tolist() == [-1.0]
    assert found.kept.all()


def test_empty_source_and_empty_target(
    path: Match, make_descriptors: Callable[..., Descriptors]
) -> None:
    source, target = make_descriptors([0, 3]), make_descriptors([0, 4], seed=1)
    pairs = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    found = path(source, target, pairs, -2.0)
    assert found.offsets.tolist() == [0, 0, 0, 3, 6]
    assert not found.kept[:3].any()
    assert found.visual_similarity[:3].isnan().all()
    assert found.target_index[:3].tolist() == [-1] * 3
    assert found.kept[3:].any()


def test_no_pair_gives_no_match(path: Match, make_descriptors: Callable[..., Descriptors]) -> None:
    found = path(make_descriptors([3]), make_descriptors([4]), torch.empty(0, 2).long(), 0.5)
    assert found.offsets.tolist() == [0]
    assert len(found.kept) == 0


def test_two_thousand_small_pairs(make_descriptors: Callable[..., Descriptors]) -> None:
    rng = np.random.default_rng(0)
    source = make_descriptors(rng.integers(0, 9, 400).tolist())
    target = make_descriptors(rng.integers(1, 9, 50).tolist(), seed=1)
    pairs = torch.from_numpy(rng.integers([400, 50], size=(2000, 2)))
    fast, plain = match(source, target, pairs, 0.2), match_eager(source, target, pairs, 0.2)
    assert torch.equal(fast.kept, plain.kept)
    assert torch.equal(fast.target_index, plain.target_index)
    assert torch.equal(fast.offsets, plain.offsets)


def test_thread_counts_agree(make_descriptors: Callable[..., Descriptors]) -> None:
    source, target = make_descriptors([900], 64), make_descriptors([800], 64, seed=1)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(one_pair(match, source, target, 0.1))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(
        results[0].visual_similarity, results[1].visual_similarity, atol=1e-6, rtol=0
    )
    torch.testing.assert_close(
        score(results[0], [0.3]).score, score(results[1], [0.3]).score, atol=1e-5, rtol=0
    )


def test_a_full_similarity_matrix_is_never_held() -> None:
    """10,000 x 10,000 similarities would take 400 MB per branch."""
    code = """
import resource, torch
from torch.nn.functional import normalize
from vsm_fast.descriptors import Descriptors
from vsm_fast.matching.match import match
torch.set_num_threads(2)
def image(points, seed):
    rows = normalize(torch.randn(points, 16, generator=torch.Generator().manual_seed(seed)), dim=1)
    return Descriptors(rows, rows, torch.tensor([0, points]), torch.arange(points), (200, 200))
pair = torch.tensor([[0, 0]])
match(image(500, 0), image(500, 1), pair, 0.5)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
match(image(10_000, 0), image(10_000, 1), pair, 0.5)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=300
    )
    assert int(run.stdout) < 150_000  # KiB


def test_the_path_and_its_reason_are_named() -> None:
    name, reason = choose_path(torch.device("cpu"))
    assert name == "blocked"
    assert reason
    assert choose_path(torch.device("meta"))[0] == "eager"


def test_a_path_or_precision_that_cannot_be_had_is_refused(
    make_descriptors: Callable[..., Descriptors],
) -> None:
    image, pair = make_descriptors([4]), torch.tensor([[0, 0]])
    known = "'auto', 'eager', 'blocked', 'triton'"
    with pytest.raises(ValueError, match=rf"path must be one of {known}; got 'fast'"):
        choose_path("cpu", "fast")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"'blocked' runs on a CPU.*on meta"):
        choose_path("meta", "blocked")
    with pytest.raises(ValueError, match=r"'triton' cannot run: .*not on meta"):
        choose_path("meta", "triton")
    with pytest.raises(ValueError, match=r"'tf32' needs path 'triton'; this is 'eager'"):
        match(image, image, pair, 0.5, path="eager", precision="tf32")
    half = image.to(DEVICE, torch.float16)
    with pytest.raises(ValueError, match=r"'tf32' is for float32 descriptors.*float16"):
        match(half, half, pair, 0.5, path="triton", precision="tf32")
    with pytest.raises(ValueError, match=r"descriptors of one type; got float16, float32"):
        match(half, image.to(DEVICE), pair, 0.5, path="triton")


ON_A_CPU = pytest.mark.parametrize("name", ["eager", "blocked", "blocked BLAS", "auto"])


@ON_A_CPU
@pytest.mark.parametrize(("counts", "pairs"), [([0], [[0, 0]]), ([3], [])])
def test_empty_results_have_the_usual_types(
    name: str, make_descriptors: Callable[..., Descriptors], counts: list[int], pairs: list[object]
) -> None:
    source, target = (make_descriptors(points).to("cpu", torch.float16) for points in ([2], counts))
    found = PATHS[name](source, target, torch.tensor(pairs).long().reshape(-1, 2), -1.0)
    columns = found.semantic_similarity, found.target_index, found.visual_similarity, found.kept
    wanted = [torch.float32, torch.int64, torch.float32, torch.bool]
    assert [column.dtype for column in columns] == wanted
    assert {len(column) for column in columns} == {2 * len(pairs)}


@ON_A_CPU
def test_half_precision_is_matched_in_float32(
    name: str, make_descriptors: Callable[..., Descriptors]
) -> None:
    images = make_descriptors([20]), make_descriptors([30], seed=1)
    source, target = (image.to("cpu", torch.float16) for image in images)
    found = one_pair(PATHS[name], source, target, 0.2)
    exact = one_pair(
        match_eager, source.to("cpu", torch.float32), target.to("cpu", torch.float32), 0.2
    )
    assert found.target_index.tolist() == exact.target_index.tolist()
    for column in ("semantic_similarity", "visual_similarity"):
        torch.testing.assert_close(
            getattr(found, column), getattr(exact, column), atol=2e-6, rtol=0
        )


@ON_A_CPU
def test_nothing_is_kept_for_gradients(
    name: str, make_descriptors: Callable[..., Descriptors]
) -> None:
    image = make_descriptors([5])
    trained = Descriptors(
        image.semantic.clone().requires_grad_(), image.visual.clone().requires_grad_(),
        image.offsets, image.cells, image.grid,
    )  # fmt: skip
    found = one_pair(PATHS[name], trained, trained, 0.5)
    assert not found.semantic_similarity.requires_grad
    assert not found.visual_similarity.requires_grad


def test_neighbouring_pairs_of_a_target_are_one_search(
    make_descriptors: Callable[..., Descriptors],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heights: list[int] = []

    def find(jobs: Sequence[NearestJob]) -> None:
        heights.extend(len(job.query) for job in jobs)

    monkeypatch.setattr(vsm_fast.matching.match, "find_nearest", find)
    source, target = make_descriptors([3, 2, 4]), make_descriptors([5, 6], seed=1)
    pairs = torch.tensor([[0, 0], [1, 0], [2, 0], [1, 1], [2, 1], [1, 1]])
    match_blocked(source, target, pairs, 0.5)
    assert heights == [9, 9, 6, 6, 2, 2]


def test_thresholds_are_counted_while_matching(
    make_descriptors: Callable[..., Descriptors],
) -> None:
    image = make_descriptors([4]).to(DEVICE)
    pair = torch.tensor([[0, 0]])
    found = match(image, image, pair, 0.5, visual_thresholds=(0.2, 2.0), path="triton")
    assert found.counts is not None
    assert found.counts.visual_thresholds == (0.2, 2.0)
    assert found.counts.counts.tolist() == [[4, 4, 0]]


def test_the_search_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "multiplied by oneDNN" in describe_search("cpu", torch.float32, 8, 100)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert "multiplied by BLAS" in describe_search("cpu", torch.float32, 8, 100)
    assert describe_search("meta", torch.float32, 8, 100) == "a full similarity matrix per pair"
    monkeypatch.setattr(
        vsm_fast.matching.match, "choose_path", lambda device: ("triton", "requested")
    )
    monkeypatch.setattr(
        "vsm_fast.kernels.tuning.choose", lambda *shape: SimpleNamespace(reason=shape)
    )
    shape = torch.float16, 8, 100, torch.device("cuda:1")
    assert describe_search("cuda:1", *shape[:3]) == str(shape)


def test_the_path_is_logged(
    make_descriptors: Callable[..., Descriptors], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    one_pair(match, make_descriptors([4]), make_descriptors([3]), 0.5)
    (record,) = (each for each in caplog.records if each.name == "vsm_fast.matching.match")
    assert record.getMessage().startswith("matching 1 pairs on cpu: blocked (blocks of rows")


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (torch.zeros(2).long(), r"int64 \[P, 2\].*got torch.int64 \[2\]"),
        (torch.zeros(2, 3).long(), r"int64 \[P, 2\].*got torch.int64 \[2, 3\]"),
        (torch.zeros(1, 2), r"int64 \[P, 2\].*got torch.float32 \[1, 2\]"),
        (torch.tensor([[0, 0], [-1, 0]]), "source images -1 to 0; there are 2"),
        (torch.tensor([[0, 0], [2, 0]]), "source images 0 to 2; there are 2"),
        (torch.tensor([[1, 0], [1, 1]]), "target images 0 to 1; there are 1"),
    ],
)
def test_pairs_that_name_no_images_are_refused(
    pairs: Tensor, message: str, make_descriptors: Callable[..., Descriptors]
) -> None:
    with pytest.raises(ValueError, match=message):
        match(make_descriptors([2, 3]), make_descriptors([4]), pairs, 0.5)


def test_descriptors_that_do_not_fit_are_refused(
    make_descriptors: Callable[..., Descriptors],
) -> None:
    image, pair = make_descriptors([4]), torch.tensor([[0, 0]])
    with pytest.raises(ValueError, match=r"same channels.*source has 8 on cpu, target 6 on cpu"):
        match(image, make_descriptors([4], 6), pair, 0.5)
    away = Descriptors(
        image.semantic, image.visual.to("meta"), image.offsets, image.cells, image.grid
    )
    with pytest.raises(ValueError, match=r"visual.*source has 16 on cpu, target 16 on meta"):
        match(image, away, pair, 0.5)


SEARCHES: dict[str, tuple[Match, bool]] = {
    "eager": (match_eager, False),
    "oneDNN": (match_blocked, False),
    "BLAS": (match_with_blas, False),
    "fused kernel": (match_on_triton, False),
    "products of torch": (match_on_triton, True),
}


@pytest.mark.filterwarnings("ignore:All-NaN:RuntimeWarning")
@pytest.mark.parametrize("search", SEARCHES)
def test_nan_is_similar_to_nothing_and_changes_no_other_point(
    make_descriptors: Callable[..., Descriptors], monkeypatch: pytest.MonkeyPatch, search: str
) -> None:
    matched, gemm = SEARCHES[search]
    monkeypatch.setattr(
        "vsm_fast.kernels.tuning.choose",
        lambda *_: Choice(NearestTiles(256, 256, 128), gemm, "requested"),
    )
    # Several blocks; the last target is NaN altogether.
    source, target = make_descriptors([1024, 64], 64), make_descriptors([512, 400], 64, seed=1)
    source.semantic[5, 3] = source.visual[6, 0] = torch.nan
    target.semantic[7, 3] = target.visual[8, 0] = torch.nan
    target.semantic[512:] = target.visual[512:] = torch.nan
    found = matched(source, target, torch.tensor([[0, 0], [1, 1]]), 0.2)

    semantic, visual = (
        torch.nan_to_num(getattr(source, branch)[:1024] @ getattr(target, branch)[:512].T, -9.0)
        for branch in ("semantic", "visual")
    )
    places = torch.arange(1024)
    similarity, index = found.semantic_similarity[:1024], found.target_index[:1024]
    for values, wanted, bad in (
        (similarity, semantic.amax(1), 5),
        (semantic[places, index], semantic.amax(1), 5),
        (found.visual_similarity[:1024], visual.amax(1), 6),
    ):
        others = places != bad
        torch.testing.assert_close(values[others], wanted[others], atol=2e-6, rtol=0)
    kept = oracle.keep(similarity.tolist(), index.tolist(), 0.2)
    assert found.kept[:1024].tolist() == kept
    # Point 5 and the second pair have no target; point 6 has one, of which it shows nothing.
    nothing = torch.tensor([5, *range(1024, 1088)])
    assert (found.target_index == -1).nonzero()[:, 0].tolist() == nothing.tolist()
    assert found.semantic_similarity.isnan().nonzero()[:, 0].tolist() == nothing.tolist()
    assert found.visual_similarity.isnan().nonzero()[:, 0].tolist() == [6, *range(1024, 1088)]
    assert not found.kept[nothing].any()
