"""Jobs on Ray with two actors, compared with the same job in one process."""

from __future__ import annotations

import json
import os
import pickle
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from job_inputs import picture, read_rows, same_files, write_model, write_pairs

from vsm_fast.errors import ModelError, PairingError
from vsm_fast.jobs import ray_runner as distributed
from vsm_fast.jobs.errors import JobError
from vsm_fast.jobs.job_folder import JOB
from vsm_fast.jobs.manifest import Manifest
from vsm_fast.jobs.pairing import PairRow
from vsm_fast.jobs.plan import Shard, make_plan, read_shards
from vsm_fast.jobs.ray_runner import ActorPool, ray_session, run_distributed
from vsm_fast.jobs.runner import run_job
from vsm_fast.jobs.settings import JobSettings, RunOptions
from vsm_fast.jobs.shard_files import temporary_files
from vsm_fast.jobs.shard_scoring import ShardScorer
from vsm_fast.model.load import load_model

POOL = ActorPool(2, 2)


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """Start Ray once, and check that no process is left."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as many as an actor with one CPU has
    others = set(psutil.Process().children(recursive=True))  # of tests that ran before
    with ray_session(POOL):
        processes = [*set(psutil.Process().children(recursive=True)) - others]
        assert processes
        yield processes
    torch.set_num_threads(before)
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not alive


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    model = write_model(tmp_path_factory.mktemp("model") / "small")
    return JobSettings(
        model=str(model), device="cpu", visual_threshold=0.97, shard_rows=4, points=True
    )


def _actors():
    """Return the processes of the actors."""
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if "_ShardActor" in " ".join(process.cmdline())
    ]


@pytest.mark.parametrize("kill", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_ray_run_has_the_rows_of_a_local_run(session, settings, tmp_path, kill):
    """One run for all checks, because actors take seconds to start."""
    manifest = Manifest(str(write_pairs(tmp_path / "in", 43, broken=(3, 10, 30))))
    out = tmp_path / "ray"
    run_job(manifest, out, settings)
    for shard in range(5, 11):  # to score; shards 0 and 2 have failed rows to retry
        (out / f"scores-{shard:06d}.parquet").unlink()
    picture(10 % 3, 10 % 7).save(tmp_path / "in" / "gen10.png")
    with pytest.raises(PairingError, match=r"visual_threshold was 0\.97, now 0\.5"):
        run_distributed(manifest, out, replace(settings, visual_threshold=0.5))
    events, killed = [], []

    def report(event):
        events.append(event)
        if kill and event["event"] == "shard" and not killed:
            victim = _actors()[0]
            victim.send_signal(signal.SIGKILL)
            killed.append(victim.pid)

    options = RunOptions(retry_failed=True)
    pool = POOL if kill else ActorPool()
    summary = run_distributed(manifest, out, settings, options, pool, report=report)
    assert bool(killed) == kill
    scored = {kind: sorted(e["shard"] for e in events if e["event"] == kind)
              for kind in ("shard", "retried")}  # fmt: skip
    assert scored == {"shard": list(range(5, 11)), "retried": [0, 2]}
    assert [event for event in events if event["event"] == "rows"][-1]["failed"] == 2

    local = tmp_path / "local"
    run_job(manifest, local, settings)
    assert summary["all"]["failed"] == 2
    rows, expected = (read_rows(folder).to_pylist() for folder in (out, local))
    retried, whole = rows.pop(10), expected.pop(10)  # scored alone: other last bits
    assert retried["score"] == pytest.approx(whole["score"], abs=1e-5)
    assert rows == expected
    assert same_files(out) == same_files(local)
    # Local and Ray runs resume each other; nothing is left here, so no actor starts.
    assert run_distributed(manifest, local, settings)["all"]["rows"] == 43
    assert run_job(manifest, out, settings) == summary


@pytest.fixture
def actor(tmp_path, monkeypatch):
    """Return a function that makes an actor in this process with a given scoring function."""

    def make(complete):
        scorer = SimpleNamespace(identity=lambda: {}, complete=complete)
        monkeypatch.setattr(ShardScorer, "load", lambda *_: scorer)
        return distributed._ShardActor(str(tmp_path), {}, JobSettings(), RunOptions())

    return make


def _batch(shard):
    return {"shard": [shard], "retried": [False]}


SHARD = Shard(3, [0], [PairRow("a", "", Path("r"), Path("g"))])


@pytest.mark.parametrize(
    ("fail", "kind", "message"),
    [
        (lambda: np.empty(1 << 50), JobError, r"an actor is out of memory: Unable .* fewer actors"),
        (lambda: torch.empty(1 << 50), JobError, r"an actor is out of memory: .*can't allocate"),
        (lambda: load_model("nowhere"), ModelError, "nowhere"),
        (lambda: int("x\ny"), JobError, "an actor failed: ValueError: invalid literal"),
    ],
)
def test_actor_errors_take_one_line(actor, tmp_path, fail, kind, message):
    answer = actor(lambda *_: fail())(_batch(SHARD))["answer"][0]
    with pytest.raises(kind, match=message) as caught:
        distributed._unwrap(pickle.loads(pickle.dumps(answer)))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_retried_shard_can_be_retried_again(settings, tmp_path):
    manifest = Manifest(str(write_pairs(tmp_path / "in", 4, broken=(2,))))
    out = tmp_path / "out"
    run_job(manifest, out, settings)
    picture(2, 2).save(tmp_path / "in" / "gen2.png")
    identity = json.loads((out / JOB).read_text())
    (shard,) = read_shards(manifest, make_plan(manifest, 4), {0})
    answers = [
        distributed._unwrap(actor({"shard": [shard], "retried": [True]})["answer"][0])
        for actor in (distributed._ShardActor(str(out), identity, settings, RunOptions()),) * 3
    ]
    assert answers[0].failed == 0
    assert len({answer.sha256 for answer in answers}) == 1
    assert (out / "scores-000000.parquet").read_bytes().count(b"vsm_fast.fingerprint") == 1


def test_manifest_errors_pass_through_the_actors(actor, tmp_path):
    source = Manifest(str(write_pairs(tmp_path, 9)))
    plan = make_plan(source, 4)
    write_pairs(tmp_path, 8)
    cells = list(distributed._ShardReader(source, plan, range(3), ())({}))
    assert [cell["shard"][0].number for cell in cells[:-1]] == [0, 1]
    answer = actor(lambda *_: 1 / 0)(cells[-1])["answer"][0]
    with pytest.raises(JobError, match=r"^the manifest changed"):
        distributed._unwrap(answer)


def test_a_shard_that_ends_every_actor_ends_the_job(actor, tmp_path):
    """The out-of-memory killer raises no exception."""
    dying, scored = actor(lambda *_: os._exit(9)), []
    for _ in range(5):
        child = os.fork()
        if child == 0:
            dying(_batch(SHARD))
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    answer = actor(lambda *_: scored.append(1))(_batch(SHARD))["answer"][0]
    with pytest.raises(JobError, match="shard 3 has killed 5 processes"):
        distributed._unwrap(answer)
    assert not scored
    assert len(temporary_files(tmp_path)) == 1  # the next run removes it


def test_ray_errors_take_one_line():
    from ray import exceptions

    text = "\x1b[36mray::MapWorker\x1b[39m was killed:\n  the node is low on memory"
    for error in (exceptions.OutOfMemoryError(text), exceptions.NodeDiedError(text)):
        said = str(distributed._cause(error))
        assert said == (
            f"an actor failed: {type(error).__name__}: ray::MapWorker was killed: the node is low "
            "on memory"
        )
    assert "died unexpectedly" in str(distributed._cause(exceptions.WorkerCrashedError()))


def test_pools_are_sized_by_the_cluster():
    eight = {"CPU": 64.0, "GPU": 8.0}
    assert ActorPool().sized(eight) == ActorPool(1, 8, 1.0)
    assert ActorPool(gpus=0.5).sized(eight) == ActorPool(1, 16, 0.5)
    assert ActorPool(2, 4).sized(eight) == ActorPool(2, 4, 1.0)
    assert ActorPool(3).sized({"CPU": 2.0}) == ActorPool(3, 3, 0.0)
    for wrong in ((0, 1), (2, 1)):
        with pytest.raises(ValueError, match="1 <= least <= most"):
            ActorPool(*wrong)
