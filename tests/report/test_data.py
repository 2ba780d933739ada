"""Result tables as report columns."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report_tables import GRID, made_scores

from vsm_fast.errors import ResultsError
from vsm_fast.report import read_results, results_of


def changed(table, **columns):
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def test_columns_round_trip(tmp_path):
    scores = made_scores(12, points=5)
    scores.to_parquet(tmp_path / "r.parquet", points=True)
    results = read_results(tmp_path / "r.parquet")
    np.testing.assert_array_equal(results.score, scores.score)
    np.testing.assert_array_equal(results.points.visual_similarity, scores.visual_similarity)
    np.testing.assert_array_equal(results.points.cells[:5], scores.points[0].cells)
    np.testing.assert_array_equal(results.points.targets[-5:], scores.points[10].targets)
    assert results.points.grid == GRID
    assert results.points.subject_counts.tolist()[:3] == [65, 0, 65]
    assert results.points.gen_frame[0].tolist() == [16, 12, 144, 108, 120, 160]
    assert results.points.gen_frame[1].tolist() == [0] * 6
    assert results.texts["generator"][:3] == ["sdxl", "flux", "sdxl"]
    assert results.settings == {
        "model": "tiny", "semantic_threshold": "0.45", "visual_threshold": "0.66",
        "vsm_fast_version": scores.settings()["vsm_fast_version"],
    }  # fmt: skip


def test_a_folder_of_shards_is_one_table(tmp_path):
    whole = made_scores(30, points=4).to_arrow(points=True)
    pq.write_table(whole, tmp_path / "whole.parquet")
    shards = tmp_path / "shards"
    shards.mkdir()
    for number, (first, count) in enumerate([(0, 1), (1, 1), (2, 28)]):
        part = whole.slice(first, count)
        if first == 1:  # no match, so no grid
            part = part.replace_schema_metadata({})
        pq.write_table(part, shards / f"{number:04d}.parquet")
    one, many = read_results(tmp_path / "whole.parquet"), read_results(shards)
    assert many.texts == one.texts
    np.testing.assert_array_equal(many.score, one.score)
    np.testing.assert_array_equal(many.points.targets, one.points.targets)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_text_files_hold_the_same_rows(tmp_path, kind):
    scores = made_scores(12, points=5, refs=["007", "1e3", "2026-01-01", "\udc80.png"])
    scores.to_parquet(tmp_path / "r.parquet")
    getattr(scores, f"to_{kind}")(tmp_path / f"r.{kind}")
    expected, found = (read_results(tmp_path / name) for name in ("r.parquet", f"r.{kind}"))
    assert found.texts == expected.texts
    assert found.settings == expected.settings
    for column in ("score", "n_matched", "n_source"):
        np.testing.assert_array_equal(getattr(found, column), getattr(expected, column))
    with pytest.raises(ResultsError, match=rf"several kinds, r.{kind} and r.parquet"):
        read_results(tmp_path)
    (tmp_path / f"r.{kind}").write_text('"')
    with pytest.raises(ResultsError, match=rf"r.{kind} is not a table|no column"):
        read_results(tmp_path / f"r.{kind}")


def test_missing_points_name_the_flag(tmp_path):
    results = results_of(made_scores(3).to_arrow())
    assert results.points is None
    assert "--points" in results.without_points


def test_rows_without_their_points_disable_the_threshold():
    table = made_scores(4, points=3).to_arrow(points=True)
    lists = table["point_visual"].to_pylist()
    columns = {name: pa.array([None, *table[name].to_pylist()[1:]], table[name].type)
               for name in table.column_names if name.startswith("point_")}  # fmt: skip
    assert len(lists[0]) == 3
    results = results_of(changed(table, **columns))
    assert results.points is None
    assert "1 of 4 pairs" in results.without_points


def test_an_empty_table():
    results = results_of(made_scores(1, points=3).to_arrow(points=True).slice(0, 0))
    assert len(results) == 0
    assert results.points is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns(["score", "gen_id"]), "no column gen_id|no column score, gen_id"),
        (lambda t: t.replace_schema_metadata({}), "vsm_fast.grid"),
        (lambda t: t.replace_schema_metadata({"vsm_fast.grid": "2x2"}), "outside the grid"),
        (lambda t: t.replace_schema_metadata({"vsm_fast.grid": "999x999"}), "65,536"),
        (lambda t: changed(t, model=pa.array(["a", "b", "a"])), "several settings, model: a, b"),
        (lambda t: changed(t, score=pa.array(["x", "y", "z"])), "score must hold numbers"),
        (lambda t: changed(t, n_source=pa.array([1, None, 2])), "n_source must hold counts"),
        (lambda t: changed(t, point_visual=pa.array([[0.5], None, [0.5]])), "differ in length"),
        (lambda t: changed(t, point_target=pa.array(["a", "b", "c"])), "lists of numbers"),
        (lambda t: changed(t, gen_box=pa.array([[1, 2], None, None])), "lists of 4"),
    ],
)
def test_invalid_tables_are_refused(change, message):
    table = made_scores(3, points=4).to_arrow(points=True)
    with pytest.raises(ResultsError, match=message):
        results_of(change(table))


def test_missing_and_invalid_files_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.parquet").write_text("id,score\n")
    for name, message in (("none.parquet", "does not exist"), ("empty", "no \\*.parquet, \\*.csv"),
                          ("text.parquet", "not a Parquet file")):  # fmt: skip
        with pytest.raises(ResultsError, match=message):
            read_results(tmp_path / name)


def test_inconsistent_shards_are_refused(tmp_path):
    table = made_scores(3, points=4).to_arrow(points=True)
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(
        table.replace_schema_metadata({"vsm_fast.grid": "64x64"}), tmp_path / "b.parquet"
    )
    with pytest.raises(ResultsError, match="different descriptor grids: 24x32, 64x64"):
        read_results(tmp_path)
    pq.write_table(changed(table, status=pa.array([1, 2, 3])), tmp_path / "b.parquet")
    with pytest.raises(ResultsError, match="different columns"):
        read_results(tmp_path)
