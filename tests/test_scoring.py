from __future__ import annotations

import math

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vsm_fast.matches import Matches
from vsm_fast.scoring import score, score_eager

SCORES = pytest.mark.parametrize("scoring", [score, score_eager])


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
