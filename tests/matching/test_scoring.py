from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vsm_fast.matching.matches import Matches, PairCounts
from vsm_fast.matching.scoring import count, score, score_eager

SCORES = pytest.mark.parametrize("scoring", [score, score_eager])


@pytest.fixture
def double_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def matches(counts: list[int], seed: int = 0) -> Matches:
    rng = np.random.default_rng(seed)
    total = sum(counts)
    return Matches(
        torch.from_numpy(rng.uniform(-1, 1, total).astype(np.float32)),
        torch.zeros(total, dtype=torch.int64),
        torch.from_numpy(rng.uniform(-1, 1, total).astype(np.float32)),
        torch.from_numpy(rng.random(total) < 0.6),
        torch.tensor([0, *counts]).cumsum(0),
    )


@SCORES
@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(0, 20), max_size=6), seed=st.integers(0, 99))
def test_scores_equal_the_oracle(scoring, counts: list[int], seed: int) -> None:
    made = matches(counts, seed)
    thresholds = [-2.0, -0.1, 0.5, 0.6]
    found = scoring(made, thresholds)
    assert found.score.shape == (len(counts), len(thresholds))
    for pair, (start, stop) in enumerate(
        zip(made.offsets[:-1].tolist(), made.offsets[1:].tolist(), strict=True)
    ):
        kept = made.kept[start:stop].tolist()
        visual = made.visual_similarity[start:stop].tolist()
        expected = [oracle.score(kept, visual, float(np.float32(t))) for t in thresholds]
        np.testing.assert_allclose(found.score[pair].numpy(), expected, atol=1e-7)
        assert found.n_matched[pair] == sum(kept)
        assert found.n_source[pair] == stop - start


@SCORES
def test_the_visual_threshold_is_strict(scoring) -> None:
    made = Matches(
        torch.ones(2), torch.tensor([0, 1]), torch.tensor([0.6, 0.7]), torch.tensor([True, True]),
        torch.tensor([0, 2]),
    )  # fmt: skip
    assert scoring(made, [0.6]).score.tolist() == [[0.5]]
    assert scoring(made, [float(np.nextafter(np.float32(0.6), np.float32(0)))]).score == 1.0


@SCORES
def test_nothing_kept_is_undefined_never_zero(scoring) -> None:
    made = matches([4])
    none = Matches(
        made.semantic_similarity,
        made.target_index,
        made.visual_similarity,
        torch.zeros(4, dtype=torch.bool),
        made.offsets,
    )
    found = scoring(none, [0.5])
    assert math.isnan(found.score.item())
    assert found.n_matched.tolist() == [0]
    assert found.n_source.tolist() == [4]


@SCORES
def test_points_that_are_not_kept_have_no_say(scoring) -> None:
    made = Matches(
        torch.ones(3), torch.zeros(3, dtype=torch.int64), torch.tensor([0.9, 0.1, torch.nan]),
        torch.tensor([True, False, False]), torch.tensor([0, 3]),
    )  # fmt: skip
    assert scoring(made, [0.5]).score.tolist() == [[1.0]]


@SCORES
def test_kept_points_count_independently_of_visual_similarity(scoring) -> None:
    made = matches([30])
    found = scoring(made, [2.0])
    assert found.score.tolist() == [[0.0]]
    assert found.n_matched.tolist() == [int(made.kept.sum())]


@SCORES
@pytest.mark.usefixtures("double_by_default")
def test_types_are_those_of_the_points_not_of_torch(scoring) -> None:
    made = Matches(
        torch.ones(1).float(), torch.tensor([0]), torch.tensor([0.6]).float(),
        torch.tensor([True]), torch.tensor([0, 1]),
    )  # fmt: skip
    found = scoring(made, [0.6])  # as float64 below float32's 0.6
    assert found.score.dtype == torch.float32
    assert found.score.tolist() == [[0.0]]


@SCORES
def test_no_pair_has_scores_of_the_usual_types(scoring) -> None:
    found = scoring(matches([]), [0.5, 0.6])
    assert found.score.shape == (0, 2)
    assert found.score.dtype == torch.float32
    assert found.n_matched.dtype == found.n_source.dtype == torch.int64


def test_counts_taken_while_matching_are_used_at_their_thresholds_only() -> None:
    taken = PairCounts((0.5,), torch.tensor([[4, 3]], dtype=torch.int32))
    made = dataclasses.replace(matches([9]), counts=taken)
    assert count(made, [0.5]) is taken.counts
    found = score(made, [0.5])
    assert found.score.tolist() == [[0.75]]
    assert found.n_matched.tolist() == [4]
    assert found.n_matched.dtype == torch.int64
    plain = score(matches([9]), [0.6])
    assert score(made, [0.6]).score.tolist() == plain.score.tolist()
    assert score(made, [0.6]).n_matched.tolist() == plain.n_matched.tolist()


def test_points_are_counted_on_their_device_and_scored_on_the_cpu() -> None:
    made = matches([3, 4])
    away = Matches(
        made.semantic_similarity.to("meta"), made.target_index.to("meta"),
        made.visual_similarity.to("meta"), made.kept.to("meta"), made.offsets,
    )  # fmt: skip
    counted = count(away, [0.1, 0.2])
    assert counted.device.type == "meta"
    assert counted.shape == (2, 3)
    with pytest.raises(NotImplementedError, match="meta"):  # which nothing leaves
        score(away, [0.1, 0.2])
