"""Jobs: one result row per pair, through interruptions, damage and failures."""

from __future__ import annotations

import importlib
import json
import os
import random
import re
import signal
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from job_inputs import picture, read_rows, same_files, write_pairs

from vsm_fast.errors import PairingError
from vsm_fast.jobs.errors import JobError, JobStopped, Stop, TooManyFailures
from vsm_fast.jobs.job_folder import LEDGER, JobFolder, locked_folder
from vsm_fast.jobs.manifest import Manifest, read_manifest
from vsm_fast.jobs.pairing import Pairing
from vsm_fast.jobs.plan import ListedPairs
from vsm_fast.jobs.runner import run_job
from vsm_fast.jobs.settings import FailureLimit, JobSettings, RunOptions
from vsm_fast.jobs.shard_scoring import ShardScorer

SETTINGS = JobSettings(visual_threshold=0.97, thresholds=(0.9, 0.99), shard_rows=4)


@pytest.fixture
def job(scorer, tmp_path):
    """Return a function that runs the job of a manifest in a folder."""

    def run(manifest, out, options=None, settings=SETTINGS, **further):
        return run_job(
            Manifest(str(manifest)), tmp_path / out, settings, options, scorer=scorer, **further
        )

    return run


def test_rows_equal_score_batch_in_manifest_order(job, scorer, tmp_path):
    manifest = write_pairs(tmp_path / "in", 10, broken=(5,))
    events = []
    summary = job(manifest, "out", report=events.append)
    table = read_rows(tmp_path / "out")
    pairs = read_manifest(manifest).rows
    scores = scorer.score(
        [row.ref for row in pairs], [row.gen for row in pairs], visual_threshold=0.97
    )
    assert table["id"].to_pylist() == [row.id for row in pairs]
    assert table["subject"].to_pylist() == [row.subject for row in pairs]
    assert table["generator"].to_pylist() == [row.generator for row in pairs]
    assert table["gen_id"].to_pylist() == [str(row.gen) for row in pairs]
    assert table["status"].to_pylist() == scores.status.tolist()
    assert table["flags"].to_pylist() == scores.flags.tolist()
    assert summary["flags"]["no_mask"] == 10
    assert table["status"][5].as_py() == "unreadable_image"
    assert table["score"].null_count == 1
    for column, threshold in (("score", 0.97), ("score_at_0.9", 0.9), ("score_at_0.99", 0.99)):
        found = table[column].to_numpy()
        np.testing.assert_allclose(found, scores.at(threshold), atol=1e-5)
    assert len(set(table["score"].to_pylist())) > 5
    assert summary["all"] == {
        "rows": 10, "scored": 9, "failed": 1, "mean_score": pytest.approx(np.nanmean(scores.score))
    }  # fmt: skip
    assert summary["subjects"].keys() == {"s0", "s1", "s2"}
    assert summary["generators"]["g1"]["failed"] == 1
    assert events[-1]["references_described"] == 3  # each once, over three shards
    assert [event["shard"] for event in events if event["event"] == "shard"] == [0, 1, 2]


def test_shards_have_metadata(job, tmp_path):
    job(write_pairs(tmp_path / "in", 5), "out")
    metadata = pq.read_metadata(tmp_path / "out" / "scores-000001.parquet").metadata
    assert metadata[b"vsm_fast.schema"] == b"2"
    identity = json.loads(metadata[b"vsm_fast.job"])
    assert identity == json.loads((tmp_path / "out" / "_job.json").read_text())
    assert identity["thresholds"] == [0.9, 0.99]
    assert len(identity["weights"]) == len(identity["manifest"]) == 64
    assert metadata[b"vsm_fast.grid"] == b"6x6"


def _die_at_step(step):
    """Kill this process before or after a step that scores, writes, syncs, renames or records."""
    steps = iter(range(step))

    def step_of(plain):
        def counted(*arguments, **options):
            if next(steps, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            result = plain(*arguments, **options)
            if next(steps, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return counted

    for owner, name in (
        (ShardScorer, "_score_chunk"), (pq, "write_table"), (os, "fsync"), (os, "replace"),
        (JobFolder, "record"),
    ):  # fmt: skip
        setattr(owner, name, step_of(getattr(owner, name)))


def _run_and_die(in_child, run, step):
    """Whether the job reached its end before the step."""
    child = in_child(lambda: _die_at_step(step) or (run() and 0))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status == 0


def test_killed_runs_resume(job, in_child, tmp_path):
    manifest = write_pairs(tmp_path / "in", 60, broken=(7, 30))
    job(manifest, "whole")
    draw = random.Random(0)
    kills = 0
    while not _run_and_die(in_child, lambda: job(manifest, "out"), draw.randrange(1, 90)):
        kills += 1
    assert kills >= 3
    assert read_rows(tmp_path / "out").equals(read_rows(tmp_path / "whole"))
    assert same_files(tmp_path / "out") == same_files(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("step", range(40))
def test_a_run_killed_at_any_step_resumes(job, in_child, tmp_path, step):
    """Steps 0 to 39 cover the job record and two of three shards."""
    manifest = write_pairs(tmp_path / "in", 10, broken=(7,))
    job(manifest, "whole")
    assert not _run_and_die(in_child, lambda: job(manifest, "out"), step)
    job(manifest, "out")
    assert read_rows(tmp_path / "out").equals(read_rows(tmp_path / "whole"))
    assert same_files(tmp_path / "out") == same_files(tmp_path / "whole")


def _edit(path, change):
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: _edit(path, lambda c: c.__delitem__(slice(-20, None))), "bytes instead"),
        (lambda path: _edit(path, lambda c: c.__setitem__(40, c[40] ^ 1)), "content changed"),
        (lambda path: path.write_bytes(bytes(path.stat().st_size)), "cannot be read"),
        (lambda path: path.write_bytes((path.parent / "scores-000002.parquet").read_bytes()),
         "instead of"),
    ],
)  # fmt: skip
def test_a_damaged_shard_is_scored_again(job, tmp_path, harm, reason):
    manifest = write_pairs(tmp_path / "in", 9)
    job(manifest, "out")
    before = read_rows(tmp_path / "out")
    harm(tmp_path / "out" / "scores-000001.parquet")
    (tmp_path / "out" / ".scores-000001.123.tmp.parquet").write_bytes(b"left by a killed process")
    with (tmp_path / "out" / LEDGER).open("a") as ledger:
        ledger.write('{"shard": 1, "rows"')  # truncated
    events = []
    job(manifest, "out", report=events.append)
    start = next(event for event in events if event["event"] == "start")
    assert list(start["damaged"]) == ["1"]
    assert reason in start["damaged"]["1"]
    assert [event["shard"] for event in events if event["event"] == "shard"] == [1]
    assert read_rows(tmp_path / "out").equals(before)
    assert not list((tmp_path / "out").glob(".*"))


def test_an_unrecorded_shard_is_scored_again(job, tmp_path):
    manifest = write_pairs(tmp_path / "in", 9)
    job(manifest, "out")
    before = read_rows(tmp_path / "out")
    ledger = tmp_path / "out" / LEDGER
    lines = [line for line in ledger.read_text().splitlines() if line]
    ledger.write_text("\n".join(lines[:-1]) + "\n")
    events = []
    job(manifest, "out", report=events.append)
    assert [event["shard"] for event in events if event["event"] == "shard"] == [2]
    assert read_rows(tmp_path / "out").equals(before)


def _ledger_line(**changes):
    entry = {"shard": 0, "rows": 4, "failed": 0, "bytes": 9, "sha256": "0" * 64, "seconds": 1.0}
    return json.dumps(entry | changes)


_DAMAGE = {
    "_job.json": ["", "{", "[1]", "null", "\xff", b"\xff{}", "[" * 10**5, None],
    LEDGER: [
        "scrawl", "[]", "null", "{}", b'{"shard": "\xff"}', '{"shard": 0}', '{"shard": 0}}', None,
        *(_ledger_line(**{name: value}) for name, value in (
            ("shard", -1), ("shard", 3), ("shard", "0"), ("shard", True), ("rows", 1e9),
            ("failed", 5), ("bytes", None), ("sha256", 7), ("sha256", "0" * 63), ("seconds", "1"),
            ("seconds", float("nan")), ("seconds", -1), ("more", 1))),
    ],
    "_lock": [None],
    "_summary.json": [None],
    "scores-000001.parquet": [None],
    ".scores-000001.9.tmp.parquet": [None],
    "scores-000003.parquet": ["rows of a longer job"],
    "other.parquet": ["rows of somebody else", None],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content"), [(name, one) for name, all_ in _DAMAGE.items() for one in all_]
)
def test_damaged_and_foreign_files_are_named(job, tmp_path, name, content):
    """``None`` is a folder in place of a file."""
    manifest = write_pairs(tmp_path / "in", 9)
    job(manifest, "out")
    harmed = tmp_path / "out" / name
    before = harmed.read_bytes() if name == LEDGER else b""
    harmed.unlink(missing_ok=True)
    if content is None:
        harmed.mkdir()
    else:
        text = content if isinstance(content, bytes) else content.encode()
        harmed.write_bytes(text if name != LEDGER else before + text + b"\n" + before)
    with pytest.raises(JobError, match=re.escape(str(harmed))) as caught:
        job(manifest, "out")
    assert re.search("Delete the line|Restore the file|Move it away", str(caught.value))


@pytest.mark.parametrize("end", ['{"shard": 1, "ro', "\0" * 64, '{"shard": 1\0\0'])
def test_a_truncated_ledger_line_is_skipped(job, tmp_path, end):
    manifest = write_pairs(tmp_path / "in", 9)
    job(manifest, "out")
    with (tmp_path / "out" / LEDGER).open("a") as ledger:
        ledger.write(end)
    (tmp_path / "out" / "scores-000002.parquet").unlink()
    (tmp_path / "out" / ".notes.tmp").touch()  # not of the job
    for _ in range(2):
        job(manifest, "out")
        assert read_rows(tmp_path / "out").num_rows == 9
    assert (tmp_path / "out" / ".notes.tmp").exists()


def test_another_job_is_refused_with_the_differences(job, tmp_path):
    manifest = write_pairs(tmp_path / "in", 5)
    job(manifest, "out")
    with pytest.raises(PairingError, match=r"visual_threshold was 0.97, now 0.6; thresh.*\[\]"):
        job(manifest, "out", settings=JobSettings(shard_rows=4))
    longer = write_pairs(tmp_path / "in", 6)
    with pytest.raises(PairingError, match=r"rows was 5, now 6; manifest was '"):
        job(longer, "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.parquet").touch()
    with pytest.raises(PairingError, match=r"contains Parquet files but no _job.json"):
        job(manifest, "other")


def test_moved_inputs_are_the_same_job(job, tmp_path):
    manifest = write_pairs(tmp_path / "in", 5)
    job(manifest, "out")
    (tmp_path / "in").rename(tmp_path / "moved")
    job(tmp_path / "moved" / "pairs.csv", "out")


def test_a_manifest_that_changes_during_the_job_is_refused(job, tmp_path):
    manifest = write_pairs(tmp_path / "in", 9)

    def swap(event):
        if event["event"] == "start":
            text = manifest.read_text().replace("pair 7", "pair x")
            manifest.write_text(text)

    with pytest.raises(JobError, match="manifest changed"):
        job(manifest, "out", report=swap)


def test_a_second_writer_is_refused(job, tmp_path):
    manifest = write_pairs(tmp_path / "in", 5)
    (tmp_path / "out").mkdir()
    refused = pytest.raises(JobError, match=rf"process {os.getpid()} on .* Wait for it")
    with locked_folder(tmp_path / "out"), refused:
        job(manifest, "out")
    job(manifest, "out")  # a leftover lock file does not block


def test_a_file_system_without_locks_gives_a_warning(job, tmp_path, monkeypatch, caplog):
    import fcntl

    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    job(write_pairs(tmp_path / "in", 5), "out")
    assert "cannot be locked" in caplog.text


def test_failed_rows_are_retried_alone(job, scorer, tmp_path, monkeypatch):
    manifest = write_pairs(tmp_path / "in", 12, broken=(2, 9, 10))
    settings = replace(SETTINGS, points=True)
    job(manifest, "out", settings=settings)
    before = read_rows(tmp_path / "out").to_pylist()
    for row in (2, 10):
        picture(row % 3, row % 7).save(tmp_path / "in" / f"gen{row}.png")
    scored, of = [], type(scorer).score

    def score(self, refs, gens, **further):
        scored.extend(path.name for path in gens)
        return of(self, refs, gens, **further)

    monkeypatch.setattr(type(scorer), "score", score)
    limit = RunOptions(retry_failed=True, max_failed=FailureLimit.parse("1"))
    summary = job(manifest, "out", limit, settings=settings)
    assert scored == ["gen2.png", "gen9.png", "gen10.png"]
    after = read_rows(tmp_path / "out").to_pylist()
    assert summary["all"]["failed"] == 1
    assert [row["status"] for row in after] == ["ok"] * 9 + ["unreadable_image"] + ["ok"] * 2
    assert [row for row in after if row["row"] not in (2, 10)] == [
        row for row in before if row["row"] not in (2, 10)
    ]
    job(write_pairs(tmp_path / "in", 12, broken=(9,)), "fresh", settings=settings)
    fresh = read_rows(tmp_path / "fresh").to_pylist()
    assert after[2]["score"] == pytest.approx(fresh[2]["score"], abs=1e-5)


def test_broken_input_stops_the_job(job, tmp_path):
    manifest = write_pairs(tmp_path / "in", 20, broken=tuple(range(5, 20)))
    for limit in ("10%", "2"):
        options = RunOptions(max_failed=FailureLimit.parse(limit))
        with pytest.raises(TooManyFailures, match=r"limit is 2 of 20"):
            job(manifest, "out", options)
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 1
    summary = job(manifest, "out", RunOptions(max_failed=FailureLimit.parse("80%")))
    assert summary["all"]["failed"] == 15


@pytest.mark.parametrize(("grace", "finished"), [(1e9, 2), (0.0, 1)])
def test_a_stopped_job_finishes_a_shard_within_the_grace_period(job, tmp_path, grace, finished):
    manifest = write_pairs(tmp_path / "in", 40)
    settings = replace(SETTINGS, shard_rows=10)
    stop = Stop()

    def ask(event):
        if event["event"] == "rows" and event["done"] == 18:  # a batch has 8 images
            stop.signal = signal.SIGTERM

    options = RunOptions(grace=grace, batch_size=4)
    with pytest.raises(JobStopped, match=f"SIGTERM: {finished}0 of 40 rows are finished"):
        job(manifest, "out", options, settings=settings, stop=stop, report=ask)
    assert len(list((tmp_path / "out").glob("*.parquet"))) == finished
    assert not list((tmp_path / "out").glob(".*"))
    job(manifest, "out", options, settings=settings)
    job(manifest, "whole", options, settings=settings)
    assert read_rows(tmp_path / "out").equals(read_rows(tmp_path / "whole"))


def test_batch_sizes_change_only_the_last_bits(job, tmp_path):
    manifest = write_pairs(tmp_path / "in", 13)
    tables = []
    for size in (1, 5):
        job(manifest, f"out{size}", RunOptions(batch_size=size))
        tables.append(read_rows(tmp_path / f"out{size}"))
    for column in ("row", "id", "status", "n_source"):
        assert tables[0][column].equals(tables[1][column])
    np.testing.assert_allclose(*(table["score"].to_numpy() for table in tables), atol=1e-5)


def test_empty_manifests_and_repeated_ids(job, scorer, tmp_path):
    empty = tmp_path / "empty.csv"
    empty.write_text("ref,gen\n")
    with pytest.raises(PairingError, match="no pair to score"):
        job(empty, "out")
    assert not list((tmp_path / "out").glob("*.parquet"))
    rows = read_manifest(write_pairs(tmp_path / "in", 3)).rows
    events = []
    twice = ListedPairs(Pairing((*rows, *rows)))
    run_job(twice, tmp_path / "twice", SETTINGS, scorer=scorer, report=events.append)
    assert next(e for e in events if e["event"] == "start")["repeated_ids"] == 3
    assert read_rows(tmp_path / "twice").num_rows == 6


def test_a_full_disk_keeps_finished_shards(job, tmp_path, monkeypatch):
    manifest = write_pairs(tmp_path / "in", 12)
    written, write_table = [], pq.write_table

    def write(table, where, **options):
        if len(written) == 2:
            where.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        written.append(where)
        write_table(table, where, **options)

    monkeypatch.setattr("vsm_fast.jobs.shard_files.pq.write_table", write)
    with pytest.raises(JobError, match=r"shard 2 cannot be written .* No space left"):
        job(manifest, "out")
    assert len(list((tmp_path / "out").iterdir())) == 5  # two shards, job, ledger, lock
    monkeypatch.undo()
    job(manifest, "out")
    assert read_rows(tmp_path / "out").num_rows == 12


def test_a_failing_model_leaves_no_partial_shard(job, tmp_path, monkeypatch):
    manifest = write_pairs(tmp_path / "in", 12)
    monkeypatch.setattr(ShardScorer, "score", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        job(manifest, "out")
    assert not list((tmp_path / "out").glob("*.parquet"))


_STEPS = (
    "runner.make_plan", "runner.open_job", "runner.ShardScorer.score",
    "progress.summarise", "progress.JobRun.finish",
    "job_folder.write_shard", "job_folder.append", "job_folder.read_ledger",
    "job_folder.JobFolder.remove_temporaries", "job_folder.JobFolder.write",
)  # fmt: skip


@pytest.mark.parametrize("step", _STEPS)
def test_steps_can_be_repeated(job, tmp_path, monkeypatch, step):
    """A process may die after a step and before its record."""
    manifest = write_pairs(tmp_path / "in", 10, broken=(2, 6))
    job(manifest, "once")
    owner = importlib.import_module(f"vsm_fast.jobs.{step.split('.')[0]}")
    *classes, name = step.split(".")[1:]
    for part in classes:
        owner = getattr(owner, part)
    plain, calls = getattr(owner, name), []

    def twice(*arguments, **further):
        calls.append(plain(*arguments, **further))
        return plain(*arguments, **further)

    monkeypatch.setattr(owner, name, twice)
    for options in (None, RunOptions(retry_failed=True)):
        job(manifest, "twice", options)
        assert read_rows(tmp_path / "twice").equals(read_rows(tmp_path / "once"))
        assert same_files(tmp_path / "twice") == same_files(tmp_path / "once")
    assert calls
