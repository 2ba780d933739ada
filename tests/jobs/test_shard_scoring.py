"""Shard scoring: chunks of bounded size, cached references, progress."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from job_inputs import picture, write_pairs, write_tar

from vsm_fast.jobs import shard_scoring
from vsm_fast.jobs.manifest import read_manifest
from vsm_fast.jobs.plan import Shard
from vsm_fast.jobs.settings import FailureLimit, JobSettings, RunOptions
from vsm_fast.jobs.shard_scoring import ReferenceCache, ShardScorer, reference_key


def _shard(rows):
    return Shard(3, range(100, 100 + len(rows)), rows)


def _chunks(keys):
    return list(shard_scoring._chunks([(key, None) for key in keys]))


def test_chunks_have_few_references(monkeypatch):
    monkeypatch.setattr(shard_scoring, "_MAX_REFERENCES", 2)
    monkeypatch.setattr(shard_scoring, "_MAX_ROWS", 4)
    assert _chunks("ababab") == [[0, 1, 2, 3], [4, 5]]  # in order
    assert _chunks("abcabcab") == [[0, 3, 6, 1], [4, 7, 2, 5]]  # grouped by reference
    assert _chunks("abcd") == [[0, 1], [2, 3]]
    assert _chunks("a") == [[0]]


def test_chunks_do_not_change_rows(scorer, tmp_path, monkeypatch):
    rows = read_manifest(write_pairs(tmp_path / "in", 24, references=8)).rows
    settings = JobSettings(visual_threshold=0.97)
    tables = []
    for at_once in (64, 3):
        monkeypatch.setattr(shard_scoring, "_MAX_REFERENCES", at_once)
        table = ShardScorer(scorer, settings, RunOptions()).score(_shard(rows))
        assert table["row"].to_pylist() == list(range(100, 124))
        assert table["id"].to_pylist() == [row.id for row in rows]
        tables.append(table)
    scores = [table["score"].to_numpy() for table in tables]
    assert len(np.unique(scores[0])) > 5
    np.testing.assert_allclose(*scores, atol=1e-5)


def test_references_are_cached_within_the_memory_limit(scorer, tmp_path):
    rows = read_manifest(write_pairs(tmp_path / "in", 8, references=4, broken=(1,))).rows
    keyed = [(reference_key(row), row) for row in rows[:4]]
    roomy = ReferenceCache(scorer, 1 << 30)
    first = roomy.get(keyed)
    again = roomy.get(keyed[::-1])
    assert roomy.misses == 4
    one = roomy.get(keyed[:1]).nbytes
    assert torch.equal(again.semantic[-36:], first.semantic[:36])
    tight = ReferenceCache(scorer, 2 * one)
    tight.get(keyed)
    tight.get(keyed[2:])
    assert tight.misses == 4
    tight.get(keyed[:1])
    assert tight.misses == 5


def test_a_replaced_reference_is_extracted_again(scorer, tmp_path):
    (row, *_) = read_manifest(write_pairs(tmp_path / "in", 1)).rows
    memory = ReferenceCache(scorer, 1 << 30)
    found = []
    for seed in (0, 9):
        picture(seed).save(row.ref)
        found.append(memory.get([(reference_key(row), row)]).semantic)
    assert memory.misses == 2
    assert not torch.equal(*found)


def test_reference_descriptors_do_not_depend_on_the_batch(scorer, tmp_path):
    """An interruption changes which references are extracted together."""
    rows = read_manifest(write_pairs(tmp_path / "in", 8, references=8)).rows
    alone, together = (ReferenceCache(scorer, 1 << 30) for _ in range(2))
    keyed = [(reference_key(row), row) for row in rows]
    found = together.get(keyed)
    for number, one in enumerate(keyed):
        part = alone.get([one])
        where = found.rows(number)
        assert torch.equal(part.semantic, found.semantic[where])
        assert torch.equal(part.visual, found.visual[where])


def test_a_bad_reference_keeps_its_reason(scorer, tmp_path):
    rows = read_manifest(write_pairs(tmp_path / "in", 4, references=2)).rows
    Path(rows[1].ref).unlink()
    failed = []
    table = ShardScorer(scorer, JobSettings(), RunOptions()).score(
        _shard(rows), lambda _, count: failed.append(count)
    )
    assert table["status"].to_pylist() == ["ok", "missing_file", "ok", "missing_file"]
    assert "ref1.png' does not exist" in table["reason"][1].as_py()
    assert sum(failed) == 2


def test_equal_references_in_an_archive_are_extracted_once(scorer, tmp_path):
    content = {}
    for seed in (0, 1):
        file = io.BytesIO()
        picture(seed).save(file, format="PNG")
        content[seed] = file.getvalue()
    members = [(f"{i}.{side}.png", content[side == "gen"]) for i in range(4)
               for side in ("ref", "gen")]  # fmt: skip
    rows = read_manifest(write_tar(tmp_path / "a.tar", members)).rows
    shard_scorer = ShardScorer(scorer, JobSettings(), RunOptions())
    assert shard_scorer.score(_shard(rows))["status"].to_pylist() == ["ok"] * 4
    assert shard_scorer.references.misses == 1


def test_progress_counts_every_row_once(scorer, tmp_path):
    rows = read_manifest(write_pairs(tmp_path / "in", 20)).rows
    counts = []
    ShardScorer(scorer, JobSettings(), RunOptions(batch_size=3)).score(
        _shard(rows), lambda count, _: counts.append(count)
    )
    assert sum(counts) == 20
    assert len(counts) > 4
    assert not torch.are_deterministic_algorithms_enabled()


def test_failure_limits():
    for text, limit in (("0", 0), ("12", 12), ("1%", 2), ("0.4%", 0)):
        assert FailureLimit.parse(text).rows(200) == limit
    for text in ("x", "-1", "101%", "1.5", "%"):
        with pytest.raises(ValueError):
            FailureLimit.parse(text)
