"""Drift: what changed between two runs is counted, point by point."""

import math
from dataclasses import replace

import numpy as np
import pytest
from subject_views import scorer_of, subject_image

from vsm_fast.results.drift import drift


@pytest.fixture(scope="module")
def scores():
    refs, masks = zip(*(subject_image(seed) for seed in (1, 2)), strict=True)
    return scorer_of().score(
        list(refs), list(refs), ref_masks=list(masks), gen_masks=list(masks),
        pairs=[[0, 0], [0, 1], [1, 1]], heatmaps=True, semantic_threshold=-1,
    )  # fmt: skip


def _changed(scores, pair, **columns):
    evidence = list(scores.evidence)
    evidence[pair] = replace(evidence[pair], **columns)
    return replace(scores, evidence=evidence)


def test_a_run_does_not_drift_from_itself(scores):
    found = drift(scores, scores)
    assert (found.pairs, found.flipped, found.score, found.similarity) == (3, 0, 0.0, 0.0)
    assert found.points == scores.n_source.sum() > 0


def test_points_that_change_their_verdict_are_counted(scores):
    kept = scores.evidence[1].kept.copy()
    kept[np.flatnonzero(kept)[:2]] = False
    assert drift(scores, _changed(scores, 1, kept=kept)).flipped == 2
    similarity = scores.evidence[0].visual_similarity.copy()
    judged = np.flatnonzero(scores.evidence[0].kept)
    similarity[judged[0]] = -0.5  # on one side of any threshold
    found = drift(scores, _changed(scores, 0, visual_similarity=similarity))
    assert found.flipped == 1
    assert found.similarity == pytest.approx(scores.evidence[0].visual_similarity[judged[0]] + 0.5)
    assert "1 of" in str(found)


def test_scores_are_compared_where_both_are_defined(scores):
    moved = scores.score + np.float32([0, -0.25, 0])
    found = drift(scores, replace(scores, score=moved))
    assert found.score == pytest.approx(0.25)
    assert found.mean_score == pytest.approx(0.25 / 3)
    undefined = replace(scores, score=np.float32([math.nan, *scores.score[1:]]))
    assert drift(scores, undefined).score == math.inf
    assert drift(undefined, undefined).score == 0


def test_other_pairs_and_missing_maps_are_refused(scores):
    with pytest.raises(ValueError, match="heatmaps=True"):
        drift(scores, replace(scores, evidence=None))
    renamed = replace(scores, gen_id=np.array(["x", "y", "z"], object))
    with pytest.raises(ValueError, match="the same pairs"):
        drift(scores, renamed)
