"""Correspondences: neighbours against full similarity matrices, colours, thinning."""

from __future__ import annotations

import numpy as np
import pytest
from subject_views import scorer_of, subject_image, two_subjects

from vsm_fast.lab.figures.correspondences import correspond, position_colours, spread_out


@pytest.fixture(scope="module")
def views():
    return two_subjects(semantic_threshold=0.2, visual_threshold=0.9)


def test_neighbours_are_those_of_full_matrices(views):
    found = correspond(views, 0, 1)
    reference, generation = views[0], views[1]
    semantic = generation.semantic @ reference.semantic.T
    visual = generation.visual @ reference.visual.T
    assert len(found.points) > 3
    np.testing.assert_array_equal(found.semantic_targets, semantic.argmax(1)[found.points])
    np.testing.assert_array_equal(found.visual_targets, visual.argmax(1)[found.points])
    highest = visual.max(1)[found.points]
    clear = np.abs(highest - 0.9) > 1e-6
    np.testing.assert_array_equal(found.passed[clear], highest[clear] > 0.9)
    assert found.passed.sum() > 0
    assert found.n_source == len(generation.cells)


def test_the_share_without_cross_is_the_score_of_the_scorer(views):
    for reference, generation in ((0, 1), (1, 0), (0, 0)):
        found = correspond(views, reference, generation)
        images, masks = zip(*(subject_image(seed) for seed in (reference, generation)), strict=True)
        scores = scorer_of().score(
            [images[0]], [images[1]], ref_masks=[masks[0]], gen_masks=[masks[1]],
            semantic_threshold=0.2, visual_threshold=0.9,
        )  # fmt: skip
        assert len(found.points) == scores.n_matched[0]
        assert found.score == pytest.approx(found.passed.mean())
        assert found.score == pytest.approx(float(scores.score[0]))


def test_no_match_at_all():
    views = two_subjects(semantic_threshold=1)
    found = correspond(views, 0, 1)
    assert len(found.points) == len(found.semantic_targets) == len(found.passed) == 0
    assert np.isnan(found.score)
    assert found.n_source == len(views[1].cells)


def test_a_position_that_is_not_there(views):
    with pytest.raises(ValueError, match="there are 2"):
        correspond(views, 0, 2)


FRAME = np.array([[10.0, 20.0], [110.0, 220.0]])
CORNERS = np.array([[10, 20], [110, 20], [10, 220], [110, 220]], float)


def test_colours_follow_the_frame_and_stay_in_it():
    colours = position_colours(CORNERS, FRAME)
    assert colours[0, 2] > colours[0, 0]  # blue at the left
    assert colours[1, 0] > colours[1, 2]  # red at the right
    outside = position_colours(CORNERS + (CORNERS - CORNERS.mean(0)), FRAME)
    np.testing.assert_array_equal(outside, colours)
    colours = position_colours(np.random.default_rng(0).uniform(*FRAME, (50, 2)), FRAME)
    assert ((colours >= 0) & (colours <= 1)).all()
    assert (np.ptp(colours, axis=1) > 0.2).all()  # nowhere grey
    assert np.isfinite(position_colours(FRAME[:1], FRAME[[0, 0]])).all()  # a frame of one point


def test_corners_and_edges_differ_for_colour_blind_readers():
    # Viénot, Brettel and Mollon (1999), in linear RGB.
    simulations = {
        "protanopia": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
        "deuteranopia": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
    }
    x, y = np.meshgrid(np.linspace(10, 110, 4), [20, 220])
    colours = position_colours(np.stack([x, y], -1).reshape(-1, 2), FRAME)
    for matrix in simulations.values():
        seen = (colours**2.2 @ np.array(matrix).T).clip(0, 1) ** (1 / 2.2)
        apart = np.abs(seen[:, None] - seen[None]).max(-1) + np.eye(len(seen))
        assert apart.min() > 0.1


def test_thinning_is_even():
    x, y = np.meshgrid(np.arange(20.0), np.arange(20.0))
    places = np.stack([x, y], -1).reshape(-1, 2)
    chosen = spread_out(places, 25)
    assert len(np.unique(chosen)) == 25
    assert (np.diff(chosen) > 0).all()
    to_chosen = np.linalg.norm(places[:, None] - places[chosen][None], axis=-1).min(1)
    between = np.linalg.norm(places[chosen][:, None] - places[chosen][None], axis=-1)
    np.fill_diagonal(between, np.inf)
    assert to_chosen.max() <= between.min()  # no gap is wider than the spacing


def test_thinning_keeps_what_is_few():
    places = np.random.default_rng(0).uniform(size=(7, 2))
    assert spread_out(places, 7).tolist() == list(range(7))
    assert spread_out(places[:0], 3).tolist() == []
    assert spread_out(np.zeros((9, 2)), 4).shape == (4,)
    with pytest.raises(ValueError, match="got 0"):
        spread_out(places, 0)
