"""Clock changes during a run: results, limits, locks and figures must not depend on them.

tests/report/ covers the server.
"""

from __future__ import annotations

import re
import time

import clocks
import numpy as np
import pytest
import tiny_models
import torch
from clocks import shift_times
from filelock import FileLock, Timeout
from job_inputs import read_rows, write_model, write_pairs

from vsm_fast import VSMScorer
from vsm_fast.cache import DescriptorCache, RowsForm
from vsm_fast.cli import score_job
from vsm_fast.files import alone
from vsm_fast.jobs.errors import JobError, JobStopped, Stop
from vsm_fast.jobs.job_folder import LEDGER, locked_folder, read_ledger
from vsm_fast.jobs.manifest import Manifest
from vsm_fast.jobs.runner import run_job
from vsm_fast.jobs.settings import JobSettings, RunOptions
from vsm_fast.progress import reporting

one_thread = tiny_models.one_thread
jumping_clock = clocks.jumping_clock


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_model(tmp_path_factory.mktemp("model") / "small"))


def test_a_job_resumes_with_equal_rows_and_sane_figures(model, tmp_path, jumping_clock):
    manifest = Manifest(str(write_pairs(tmp_path / "in", 40)))
    settings = JobSettings(model=model, device="cpu", shard_rows=10)
    events, stop = [], Stop()

    def report(event):
        events.append(event)
        if event["event"] == "rows" and event["done"] == 18:  # a batch has 8 images
            stop.signal = 15

    out, options = tmp_path / "out", RunOptions(grace=1000, batch_size=4)
    with pytest.raises(JobStopped, match="20 of 40 rows are finished"):  # within the grace period
        run_job(manifest, out, settings, options, stop=stop, report=report)
    shift_times(tmp_path / "in")
    shift_times(out)
    run_job(manifest, out, settings, options, report=events.append)
    assert [event["shard"] for event in events if event["event"] == "shard"] == [0, 1, 2, 3]
    run_job(manifest, tmp_path / "whole", settings, options)
    assert read_rows(out).equals(read_rows(tmp_path / "whole"))
    figures = [entry.seconds for entry in read_ledger(out / LEDGER, 99).values()]
    for event in events:
        figures += [event[name] for name in ("rows_per_second", "eta_seconds") if name in event]
    assert len(figures) > 20
    assert all(0 <= figure < 1e5 for figure in figures)


def test_locks_stay_with_their_owner(model, tmp_path, jumping_clock):
    manifest = Manifest(str(write_pairs(tmp_path / "in", 2)))
    (tmp_path / "out").mkdir()
    with locked_folder(tmp_path / "out"), alone(tmp_path / "out" / "export.lock"):
        for _ in range(2):
            shift_times(tmp_path / "out")
            with pytest.raises(JobError, match="another process writes to"):
                run_job(manifest, tmp_path / "out", JobSettings(model=model, device="cpu"))
            with pytest.raises(Timeout):
                FileLock(tmp_path / "out" / "export.lock").acquire(timeout=0.1)


def test_a_cache_keeps_its_limit_its_scores_and_recent_entries(model, tmp_path, jumping_clock):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (48, 48, 3), np.uint8) for _ in range(6)]
    plain = VSMScorer.from_pretrained(model, device="cpu").score(images[:1], images, batch_size=1)
    scorer = VSMScorer.from_pretrained(model, device="cpu", cache=tmp_path / "c")
    for _ in range(2):
        found = scorer.score(images[:1], images, batch_size=1)
        np.testing.assert_array_equal(found.visual_similarity, plain.visual_similarity)
        np.testing.assert_array_equal(found.score, plain.score)
        shift_times(tmp_path / "c")
    assert (scorer.cache.hits, scorer.cache.misses) == (8, 6)

    cache = DescriptorCache(tmp_path / "d", max_bytes=3 * scorer.cache.size() // 6)
    rows, form = (torch.zeros(36, 16), torch.zeros(36, 16)), RowsForm(36, 16, torch.float32)
    for name in ("aa", "bb", "cc"):
        cache.put({name: rows})
        shift_times(tmp_path / "d")
    assert cache.get(["aa"], [form]) != [None]
    cache.put({"dd": rows})
    assert [found is not None for found in cache.get(["aa", "bb", "cc", "dd"], [form] * 4)] == [
        True, False, True, True,
    ]  # fmt: skip
    assert cache.size() <= cache.max_bytes


def _of_a_library_call():
    with reporting(True, 4) as advance:
        for _ in range(4):
            time.sleep(0.11)  # a bar redraws at most ten times per second
            advance(1)


def _of_a_job():
    with score_job._Bar() as bar:
        bar({"event": "start", "rows": 4, "finished_rows": 0, "damaged": {}, "repeated_ids": 0,
             "notes": []})  # fmt: skip
        for done in range(1, 5):
            time.sleep(0.11)
            bar({"event": "rows", "done": done, "failed": 0})


@pytest.mark.parametrize("show", [_of_a_library_call, _of_a_job])
def test_bars_advance_and_show_seconds(show, jumping_clock, capsys):
    show()
    states = capsys.readouterr().err.split("\r")
    assert [f" {done}/4 " in "".join(states) for done in range(5)] == [True] * 5
    for state in states[2:]:
        assert re.search(r"\[00:0\d<00:0\d, +\d+\.\d+(image|pair)/s", state), state
