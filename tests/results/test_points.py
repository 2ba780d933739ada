"""Matched points of photographs: their targets, and their columns in a table."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from vsm_fast import VSMScorer
from vsm_fast.cli.main import main
from vsm_fast.results.heatmap import cell_centres
from vsm_fast.results.points import POINT_COLUMNS, MatchedPoints, point_columns

EXAMPLES = Path(__file__).parents[2] / "examples"
REFERENCE = EXAMPLES / "refs/robot_toy/reference.jpg"
REFERENCE_MASK = EXAMPLES / "refs/robot_toy/reference_mask.png"
REPAINTED = EXAMPLES / "gens/robot_toy/repainted.jpg"
REPAINTED_MASK = EXAMPLES / "gens/robot_toy/repainted_mask.png"


@pytest.fixture(scope="module")
def scorer():
    return VSMScorer.from_pretrained("tiny")


@pytest.fixture(scope="module")
def scores(scorer, tmp_path_factory):
    """Repainted, missing, and the reference itself, each against the reference."""
    missing = tmp_path_factory.mktemp("absent") / "missing.png"
    return scorer.score(
        [REFERENCE], [REPAINTED, missing, REFERENCE], ref_masks=[REFERENCE_MASK],
        gen_masks=[REPAINTED_MASK, None, REFERENCE_MASK], heatmaps=True,
    )  # fmt: skip


def test_an_image_is_matched_to_itself_point_by_point(scores):
    points = scores[2].points
    np.testing.assert_array_equal(points.cells, points.targets)
    np.testing.assert_array_equal(points.cells, points.subject_cells)
    assert points.generation == points.reference
    np.testing.assert_allclose(points.semantic_similarity, 1, atol=1e-5)


def test_points_are_the_counted_ones(scores):
    points = scores[0].points
    assert len(points.cells) == scores.n_matched[0] < len(points.subject_cells)
    assert len(points.subject_cells) == scores.n_source[0]
    assert len(set(points.targets.tolist())) == len(points.targets)  # one source per target
    assert points.semantic_similarity.min() > scores.semantic_threshold
    np.testing.assert_array_equal(points.visual_similarity, scores[0].visual_similarity)
    evidence = scores[0].evidence
    centres = cell_centres(points.cells, evidence.grid, points.generation.box)
    height, width = points.generation.size
    assert ((centres > 0) & (centres < (width, height))).all()
    assert evidence.size == points.generation.size


def test_targets_are_semantic_nearest_neighbours(scorer, scores):
    generation = scorer.describe([REPAINTED], [REPAINTED_MASK])
    reference = scorer.describe([REFERENCE], [REFERENCE_MASK])
    similarity = generation.semantic @ reference.semantic.T
    mine = {cell: row for row, cell in enumerate(generation.cells.tolist())}
    theirs = {cell: row for row, cell in enumerate(reference.cells.tolist())}
    points = scores[0].points
    for cell, target, said in zip(
        points.cells, points.targets, points.semantic_similarity, strict=True
    ):
        row = similarity[mine[int(cell)]]
        assert float(row[theirs[int(target)]]) == pytest.approx(float(row.max()), abs=1e-6)
        assert said == pytest.approx(float(row.max()), abs=1e-5)


def test_descriptors_keep_the_frame_of_the_reference_if_they_know_it(scorer, scores):
    reference = scorer.describe([REFERENCE], [REFERENCE_MASK])
    for known in (True, False):
        reference = reference if known else replace(reference, subjects=())
        found = scorer.score(reference, [REPAINTED], gen_masks=[REPAINTED_MASK], heatmaps=True)
        frame = scores[0].points.reference if known else None
        assert found[0].points.reference == frame
        box = list(frame.box) if known else None
        assert point_columns(found.points)["ref_box"].to_pylist() == [box]


def test_columns_of_a_table(scores, tmp_path):
    scores.to_parquet(tmp_path / "scores.parquet", points=True)
    table = pq.read_table(tmp_path / "scores.parquet")
    assert table.schema.metadata[b"vsm_fast.grid"] == b"32x32"
    row, missing, _ = table.to_pylist()
    assert len(row["point_cell"]) == len(row["point_visual"]) == row["n_matched"]
    assert np.mean(np.array(row["point_visual"]) > scores.visual_threshold) == pytest.approx(
        row["score"]
    )
    assert tuple(row["gen_box"]) == scores[0].points.generation.box
    assert tuple(row["ref_size"]) == scores[0].points.reference.size
    assert {missing[name] for name in POINT_COLUMNS} == {None}
    scores.to_parquet(tmp_path / "plain.parquet")
    assert not set(POINT_COLUMNS) & set(pq.read_schema(tmp_path / "plain.parquet").names)


def test_missing_and_unequal_points_are_refused(scores):
    without = replace(scores, points=None)
    assert without[0].points is None
    with pytest.raises(ValueError, match="heatmaps=True"):
        without.to_arrow(points=True)
    with pytest.raises(ValueError, match="one entry for each"):
        MatchedPoints(scores[0].evidence, [0, 1], [0.9, 0.9], None)


def test_the_command(tmp_path, capsys):
    sides = ["--refs", str(REFERENCE), "--gens", str(REPAINTED)]
    out = tmp_path / "scores.parquet"
    assert main(["score", *sides, "--out", str(out), "--points", "--quiet"]) == 0
    assert set(POINT_COLUMNS) <= set(pq.read_schema(out).names)
    for wrong in (["--points"], ["--points", "--out", str(tmp_path / "x.csv")]):
        assert main(["score", *sides, *wrong]) == 2
        assert ".parquet" in capsys.readouterr().err
