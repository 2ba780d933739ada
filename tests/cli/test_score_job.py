"""``vsm-fast score --out DIR/``: output, exit codes, signals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from job_inputs import read_rows, write_model, write_pairs

from vsm_fast.cli.main import ExitCode, main
from vsm_fast.describer import Describer
from vsm_fast.report import read_results

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_model(tmp_path_factory.mktemp("model") / "small"))


@pytest.fixture
def score(model):
    def run(*arguments):
        return main(["score", "--model", model, "--device", "cpu", *map(str, arguments)])

    return run


def test_output_of_a_job(score, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path / "in", 7, broken=(4,))
    command = ["--manifest", "in/pairs.csv", "--out", "scores/", "--shard-rows", "3",
               "--thresholds", "0.5", "0.9", "--points", "--heatmaps", "maps"]  # fmt: skip
    assert score(*command) == ExitCode.UNSCORED
    printed = capsys.readouterr()
    for word in ("generator", "g1", "s2", "mean", "over 6 of 7 pairs; 1 unreadable_image"):
        assert word in printed.out
    assert printed.err == ""
    rows = read_rows(tmp_path / "scores").to_pylist()
    for row in rows:
        assert (row["heatmap"] is None) == (row["id"] == "pair 4")
        if row["heatmap"]:
            place = f"{row['row'] // 3:06d}/{row['row']}.png"
            assert row["heatmap"] == str(tmp_path / "maps" / place)
            assert Path(row["heatmap"]).stat().st_size > 100
            assert len(row["point_cell"]) == row["n_matched"]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # recorded paths are absolute
    for i, place in ((1, "../in/pairs.csv"), (3, "../scores"), (-1, "../maps")):
        command[i] = place
    assert score(*command, "--json", "--max-failed", "20%") == ExitCode.UNSCORED
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events] == ["planning", "start", "summary"]
    assert events[1]["finished_rows"] == 7


def test_reports_of_a_job_and_of_a_file_agree(score, tmp_path, capsys):
    manifest = write_pairs(tmp_path / "in", 7, broken=(4,))
    shown = []
    for out in ("scores.parquet", "scores.csv", "scores.jsonl", "scores/"):
        further = {"scores/": ["--shard-rows", "3", "--points"], "scores.parquet": ["--points"]}
        given = further.get(out, [])
        assert score("--manifest", manifest, "--out", f"{tmp_path}/{out}", *given) == 3
        page = tmp_path / f"{out.rstrip('/')}.html"
        assert main(["report", str(tmp_path / out), "--out", str(page)]) == ExitCode.OK
        assert "7 pairs, 9 images" in capsys.readouterr().out
        shown.append(read_results(tmp_path / out))
    for other in shown[1:]:
        assert other.settings == shown[0].settings
        assert {name: other.texts[name] for name in shown[0].texts} == shown[0].texts
        for column in ("n_matched", "n_source"):
            assert getattr(other, column).tolist() == getattr(shown[0], column).tolist()
        np.testing.assert_allclose(other.score, shown[0].score, atol=1e-5)
    assert shown[3].points.cells.tolist() == shown[0].points.cells.tolist()
    (tmp_path / "scores" / "scores-000002.parquet").unlink()
    assert main(["report", str(tmp_path / "scores"), "--out", str(page)]) == ExitCode.OK
    assert "The job is not finished: 7 pairs were planned." in capsys.readouterr().out
    assert "<dt>Pairs</dt><dd>6 of 7</dd>" in page.read_text()
    job, file = (pq.read_schema(path) for path in (tmp_path / "scores/scores-000000.parquet",
                                                   tmp_path / "scores.parquet"))  # fmt: skip
    assert job.names == ["row", *file.names, "seconds"]
    assert all(job.field(name).type == file.field(name).type for name in file.names)


def test_a_job_of_folders(score, tmp_path, capsys):
    write_pairs(tmp_path / "in", 6)
    for side, name in (("refs", "ref0"), ("gens", "gen0"), ("gens", "gen3")):
        (tmp_path / side / "s").mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / f"{name}.png").rename(tmp_path / side / "s" / f"{name}.png")
    out = tmp_path / "out"
    assert score("--refs", tmp_path / "refs", "--gens", tmp_path / "gens", "--out", out) == 0
    assert read_rows(out)["id"].to_pylist() == ["s/gen0.png", "s/gen3.png"]


@pytest.mark.parametrize("folders", [False, True])
def test_notes_on_the_input_reach_the_user(score, tmp_path, capsys, folders):
    manifest = write_pairs(tmp_path / "in", 2, references=1)
    inputs = ["--manifest", manifest]
    expected = ["is read as semicolon-separated text", "unused columns: seed"]
    if folders:
        (tmp_path / "in" / "gens").mkdir()
        for name in ("gen0.png", "gen1.png"):
            (tmp_path / "in" / name).rename(tmp_path / "in" / "gens" / name)
        (tmp_path / "in" / "gens" / "Thumbs.db").touch()
        inputs = ["--refs", tmp_path / "in" / "ref0.png", "--gens", tmp_path / "in" / "gens"]
        expected = ["skipped: 1 hidden or system file: "]
    else:
        manifest.write_text(manifest.read_text().replace(",", ";").replace("subject", "seed"))
    for out in (tmp_path / "out", tmp_path / "out.csv"):
        assert score(*inputs, "--out", out) == ExitCode.OK
        notes = capsys.readouterr().err.splitlines()
        assert len(notes) == len(expected)
        for note, words in zip(notes, expected, strict=True):
            assert note.startswith("vsm-fast: note: ")
            assert words in note
    assert score(*inputs, "--out", tmp_path / "out", "--json") == ExitCode.OK
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (start,) = [event for event in events if event["event"] == "start"]
    assert len(start["notes"]) == len(expected)


def test_failures_and_their_exit_codes(score, tmp_path, capsys):
    manifest = write_pairs(tmp_path / "in", 6, broken=(1, 2, 3))
    base = ["--manifest", manifest, "--out", tmp_path / "out", "--shard-rows", "3"]
    assert score(*base, "--max-failed", "1") == ExitCode.TOO_MANY_FAILED == 5
    assert "--retry-failed" in capsys.readouterr().err
    assert score(*base, "--quiet") == ExitCode.UNSCORED
    assert capsys.readouterr() == ("", "")
    for wrong, message in (
        ((*base, "--thresholds", "0.5"), "thresholds was [], now [0.5]"),
        ((*base, "--max-failed", "some"), "--max-failed"),
        ((*base, "--thresholds", "0.5", "0.5"), "must differ"),
        ((*base, "--limit-heatmaps", "1", "--heatmaps", "x"), "--limit-heatmaps is for"),
        ((*base, "--fiftyone", "x"), "--fiftyone is for"),
        ((*base, "--actors", "2"), "--actors needs --ray"),
        (("--manifest", manifest, "--out", "x.csv", "--json"), "--json needs a job"),
        (("--manifest", manifest, "--out", "x.xlsx"), "or in / for a job"),
        (("--manifest", tmp_path / "no.csv", "--out", tmp_path / "o"), "does not exist"),
        (("--manifest", manifest, "--columns", "ref", "--out", tmp_path / "o"), "NAME=COLUMN"),
        (("--manifest", manifest, "--columns", "gen=x", "--out", tmp_path / "o"), "x is required"),
        (("--manifest", manifest, "--out", manifest / "o"), "not a writable folder"),
    ):
        assert score(*wrong) == ExitCode.USAGE, wrong
        assert message in capsys.readouterr().err
    assert not list((tmp_path / "o").glob("*.parquet"))


def test_a_read_only_folder_is_refused(score, tmp_path, capsys, monkeypatch):
    manifest = write_pairs(tmp_path / "in", 2)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)  # the tests may run as root
    assert score("--manifest", manifest, "--out", tmp_path / "out") == ExitCode.USAGE
    assert "not a writable folder" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_keep_finished_shards(score, tmp_path, number, code):
    manifest = write_pairs(tmp_path / "in", 120)
    out = tmp_path / "out"
    base = ("--manifest", manifest, "--out", out, "--shard-rows", "4", "--quiet")
    torch.set_num_threads(1)  # a forked child has no threads
    child = os.fork()
    if child == 0:
        os._exit(score(*base))
    while not list(out.glob("*.parquet")):
        time.sleep(0.01)
    os.kill(child, number)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == code
    kept = len(list(out.glob("*.parquet")))
    assert 1 <= kept < 30
    assert not list(out.glob(".*"))
    assert score(*base) == 0
    assert pq.read_table(out).num_rows == 120


def _leak_until_refused():
    """Leak memory with every batch; the system refuses the eighth."""
    import resource

    piece, kept, plain = 2**28, [], Describer.compute
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + 7 * piece + piece // 2
    resource.setrlimit(resource.RLIMIT_AS, (most, most))

    def leaking(*arguments):
        kept.append(np.empty(piece, np.uint8))  # untouched: the limit is on addresses
        return plain(*arguments)

    Describer.compute = leaking


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_a_job_out_of_memory_keeps_finished_shards(score, tmp_path):
    manifest = write_pairs(tmp_path / "in", 40)
    out = tmp_path / "out"
    base = ("--manifest", manifest, "--out", out, "--shard-rows", "4", "--quiet")
    torch.set_num_threads(1)  # a forked child has no threads
    child = os.fork()
    if child == 0:
        code = 70
        try:
            sys.stderr = (tmp_path / "errors").open("w", buffering=1)
            _leak_until_refused()
            code = score(*base)
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    said = (tmp_path / "errors").read_text()
    assert os.waitstatus_to_exitcode(status) == ExitCode.FAILED, said
    assert said.startswith("vsm-fast: error: out of memory: Unable to allocate 256. MiB")
    assert said.endswith("smaller batches (--batch-size) need less\n")
    assert said.count("\n") == 1
    assert 1 <= len(list(out.glob("*.parquet"))) < 10
    assert not list(out.glob(".*"))
    assert score(*base) == ExitCode.OK
    rows = read_rows(out)  # each row once, in order
    assert rows["id"].to_pylist() == [f"pair {number}" for number in range(40)]
    assert set(rows["status"].to_pylist()) == {"ok"}


def test_a_job_finds_missing_masks(score, tmp_path, capsys):
    for side in ("refs", "gens"):  # copies without masks beside them
        (tmp_path / side).mkdir()
    shutil.copy(EXAMPLES / "refs/robot_toy/reference.jpg", tmp_path / "refs")
    for name in ("repainted", "other_photo"):
        shutil.copy(EXAMPLES / f"gens/robot_toy/{name}.jpg", tmp_path / "gens")
    sides = ["--refs", tmp_path / "refs", "--gens", tmp_path / "gens"]
    found = [*sides, "--masks", "auto", "--mask-method", "grabcut", "--quiet"]
    assert score(*found, "--out", tmp_path / "plain.parquet") == ExitCode.OK
    assert score(*found, "--out", f"{tmp_path}/job/") == ExitCode.OK
    plain, rows = pq.read_table(tmp_path / "plain.parquet"), read_rows(tmp_path / "job")
    assert set(rows["gen_mask_origin"].to_pylist()) == {"grabcut"}
    assert rows["n_source"].to_pylist() == plain["n_source"].to_pylist()
    for one, other in zip(rows["score"].to_pylist(), plain["score"].to_pylist(), strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    capsys.readouterr()
    assert (
        score(*sides, "--out", f"{tmp_path}/job/") == ExitCode.USAGE
    )  # different masks, a different job
    assert "manifest" in capsys.readouterr().err
