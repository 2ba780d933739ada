"""Scores: columns, other thresholds, tables and files."""

from __future__ import annotations

import csv
import itertools
import json
import math
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from vsm_fast import __version__
from vsm_fast.errors import Status
from vsm_fast.jobs.manifest import read_manifest
from vsm_fast.results.heatmap import HeatmapEvidence
from vsm_fast.results.scores import VSMScores


def make(heatmaps=True, **changes):
    mask = np.ones((6, 8), bool)
    similarity = np.array([0.9, 0.6, 0.3, 0.7], np.float32)
    first = HeatmapEvidence.pack([0, 1, 3], [True] * 3, similarity[:3], (2, 2), (0, 0, 8, 6), mask)
    last = HeatmapEvidence.pack([2], [True], similarity[3:], (2, 2), (0, 0, 8, 6), mask)
    columns = {
        "score": np.array([1 / 3, np.nan, 1], np.float32),
        "n_matched": [3, 0, 1],
        "n_source": [4, 0, 2],
        "status": [Status.OK, Status.MISSING_FILE, Status.OK],
        "ref_id": ["r.png"] * 3,
        "gen_id": ["a.png", "b.png", 'c,"ü".png'],
        "visual_similarity": similarity,
        "offsets": [0, 3, 3, 4],
        "semantic_threshold": 0.7,
        "visual_threshold": 0.6,
        "model": "tiny",
        "reason": ["", "b.png does not exist.", ""],
        "evidence": [first, None, last] if heatmaps else None,
    }
    return VSMScores(**{**columns, **changes})


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [(0.6, [1 / 3, np.nan, 1]), (0.5, [2 / 3, np.nan, 1]), (0.7, [1 / 3, np.nan, 0]),
     (0.9, [0, np.nan, 0]), (-1, [1, np.nan, 1]), (2, [0, np.nan, 0])],
)  # fmt: skip
def test_scores_at_any_threshold_are_strict(threshold, expected):
    result = make().at(threshold)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, np.array(expected, np.float32))


def test_scores_at_thresholds_agree_with_a_loop():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 9, 200)
    similarity = rng.uniform(-1, 1, counts.sum()).astype(np.float32)
    offsets = np.concatenate([[0], counts.cumsum()])
    scores = make(
        score=np.zeros(200), n_matched=counts, n_source=counts, status=["ok"] * 200,
        ref_id=["r"] * 200, gen_id=["g"] * 200, visual_similarity=similarity, offsets=offsets,
        reason=(), evidence=None,
    )  # fmt: skip
    for threshold in (-0.5, 0.0, 0.31):
        parts = [similarity[a:b] for a, b in itertools.pairwise(offsets)]
        loop = [np.mean(part > threshold) if len(part) else np.nan for part in parts]
        np.testing.assert_array_equal(scores.at(threshold), np.array(loop, np.float32))


def test_iteration_and_indexing_give_the_pairs():
    scores = make(flags=["no_mask,tiny_subject", "", ""])
    results = list(scores)
    assert len(scores) == len(results) == 3
    assert (scores.status == "ok").tolist() == [result.ok for result in results]
    assert [result.ok for result in results] == [True, False, True]
    assert [result.gen_id for result in results] == ["a.png", "b.png", 'c,"ü".png']
    assert type(results[0].status) is str
    np.testing.assert_array_equal(results[0].visual_similarity, np.float32([0.9, 0.6, 0.3]))
    assert [result.flags for result in results] == ["no_mask,tiny_subject", "", ""]
    assert math.isnan(results[1].score)
    assert results[1].reason == "b.png does not exist."
    assert scores[-1].index == 2
    with pytest.raises(IndexError):
        scores[3]


def test_heatmap_follows_the_threshold():
    scores = make()
    own, other = scores.heatmap(2), scores.heatmap(2, 0.7)
    assert own.shape == (6, 8)
    np.testing.assert_allclose(own, 0.375, atol=1e-6)
    np.testing.assert_array_equal(other, np.full((6, 8), 0.5, np.float32))


def test_a_missing_heatmap_is_explained():
    with pytest.raises(ValueError, match=r"pair 1 .* has no score.*b\.png does not exist"):
        make().heatmap(1)
    with pytest.raises(ValueError, match="heatmaps=True"):
        make(heatmaps=False).heatmap(0)
    with pytest.raises(IndexError):
        make().heatmap(3)


def test_repr_is_short_and_counts_missing_scores():
    text = repr(make())
    assert all(words in text for words in ("3 pairs", "mean 0.667", "1 missing_file"))
    assert len(text) < 120


def test_no_pairs_at_all():
    scores = make(score=[], n_matched=[], n_source=[], status=[], ref_id=[], gen_id=[],
                  visual_similarity=[], offsets=[0], reason=[], evidence=[])  # fmt: skip
    assert len(scores) == 0
    assert scores.at(0.5).shape == (0,)
    assert "0 pairs" in repr(scores)
    assert scores.to_arrow().num_rows == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_source": [1, 2]}, "n_source"),
        ({"gen_id": ["a"]}, "gen_id"),
        ({"evidence": [None]}, "evidence"),
        ({"offsets": [0, 3, 3, 5]}, "offsets"),
        ({"offsets": [0, 2, 3, 4]}, "offsets"),
        ({"extra": {"id": ["a"]}}, "id"),
        ({"extra": {"score": ["a"] * 3}}, "taken: score"),
    ],
)
def test_columns_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        make(**change)


def test_pandas_has_every_column():
    frame = make().with_columns({"id": ["x", "y", "z"]}).to_pandas()
    assert list(frame.columns[:4]) == ["id", "ref_id", "gen_id", "score"]
    assert frame["score"].dtype == np.float32
    assert frame["score"].isna().tolist() == [False, True, False]
    assert frame["n_matched"].tolist() == [3, 0, 1]
    assert set(frame["model"]) == {"tiny"}


def test_missing_pandas_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"to_pandas\(\) needs pandas.*pip install pandas"):
        make().to_pandas()


def test_parquet_round_trip_with_settings(tmp_path):
    path = tmp_path / "scores.parquet"
    make().with_columns({"id": ["x", "y", "z"]}).to_parquet(path)
    table = pq.read_table(path)
    assert table["id"].to_pylist() == ["x", "y", "z"]
    assert table["score"].null_count == 1
    assert np.float32(table["score"][0].as_py()) == np.float32(1 / 3)
    assert table["status"].to_pylist() == ["ok", "missing_file", "ok"]
    metadata = table.schema.metadata
    assert metadata[b"vsm_fast.model"] == b"tiny"
    assert metadata[b"vsm_fast.visual_threshold"] == b"0.6"
    assert metadata[b"vsm_fast.vsm_fast_version"] == __version__.encode()
    assert [file.name for file in tmp_path.iterdir()] == ["scores.parquet"]


def test_csv_and_jsonl_hold_the_same_rows(tmp_path):
    scores = make()
    scores.to_csv(tmp_path / "scores.csv")
    scores.to_jsonl(tmp_path / "scores.jsonl")
    with (tmp_path / "scores.csv").open(encoding="utf-8", newline="") as file:
        from_csv = list(csv.DictReader(file))
    lines = (tmp_path / "scores.jsonl").read_text(encoding="utf-8").splitlines()
    from_json = [json.loads(line) for line in lines]
    assert len(from_csv) == len(from_json) == 3
    for text, value in zip(from_csv, from_json, strict=True):
        assert {k: "" if v is None else str(v) for k, v in value.items()} == text
    assert from_json[1]["score"] is None
    assert from_csv[0]["score"] == "0.33333334"
    assert from_csv[2]["gen_id"] == 'c,"ü".png'


@pytest.mark.parametrize(
    "text",
    ["=HYPERLINK(1)", "+1", "-1", "@a", "\tx", "\r=x", "\n=x", "'=x", "''=x", "'x", "", "a=b", "'"],
)
def test_no_text_in_csv_is_a_formula_and_a_manifest_reads_the_original(tmp_path, text):
    scores = make().with_columns({"id": [text, "y", "z"], "r": ["r"] * 3})
    scores.to_csv(tmp_path / "s.csv")
    with (tmp_path / "s.csv").open(encoding="utf-8", newline="") as file:
        written = next(csv.DictReader(file))["id"]
    assert not written.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    rows = read_manifest(tmp_path / "s.csv", {"ref": "r", "gen": "gen_id"}).rows
    assert rows[0].id == (text.strip() or "row 1")
    scores.to_jsonl(tmp_path / "s.jsonl")
    assert json.loads((tmp_path / "s.jsonl").read_text().splitlines()[0])["id"] == text
    assert scores.to_arrow()["id"][0].as_py() == text


def test_names_that_are_not_utf8_can_be_written(tmp_path):
    scores = make(gen_id=["a", "b\udcff", "c"])
    for name in ("csv", "jsonl", "parquet"):
        getattr(scores, f"to_{name}")(tmp_path / f"scores.{name}")
    assert pq.read_table(tmp_path / "scores.parquet")["gen_id"][1].as_py() == "b\\udcff"


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "scores.csv"
    path.write_text("old")

    def fail(self):
        yield {"a": 1}
        raise RuntimeError("disk full")

    monkeypatch.setattr(VSMScores, "_plain_rows", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        make().to_csv(path)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["scores.csv"]


def test_a_text_is_no_column():
    with pytest.raises(TypeError, match="needs a list; got the text 'abc'"):
        make().with_columns({"id": "abc"})
    with pytest.raises(TypeError, match="needs a list"):
        make(flags="abc")
