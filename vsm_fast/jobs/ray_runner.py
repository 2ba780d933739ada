"""Jobs on many machines: the shards of a job, scored by a pool of Ray actors.

The plan, the rows and the files are those of ``vsm_fast.jobs``; Ray Data only brings shards to
actors. One task reads the manifest as a stream, and back-pressure holds it as soon as a few shards
wait; what travels are the rows of the manifest, never pixels. An actor loads the model once,
scores whole shards, writes them, and answers with a line for the ledger, which this process keeps.
An actor or machine that dies, of whatever, costs the shard it had: Ray gives it to another one,
which replaces the same file; a shard that has cost several actors ends the job. What goes wrong in
an actor otherwise is an answer too, because Ray would make a page of text of an exception. All
machines need the manifest, the images and the folder under the same paths.
"""

from __future__ import annotations

import logging
import math
import os
import re
import time
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import numpy as np

from vsm_fast.errors import ModelError, PairingError, VSMError, out_of_memory
from vsm_fast.extras import required
from vsm_fast.jobs.errors import JobError
from vsm_fast.jobs.job_folder import JobFolder, locked_folder, open_job
from vsm_fast.jobs.ledger import FinishedShard
from vsm_fast.jobs.plan import PairSource, Plan, Shard, make_plan, read_shards
from vsm_fast.jobs.progress import Report
from vsm_fast.jobs.runner import (
    Planning,
    begun_progress,
    check_failures,
    end,
    finish,
    finished_event,
    report_start,
)
from vsm_fast.jobs.settings import JobSettings, RunOptions
from vsm_fast.jobs.shard_files import counted_try, read_shard, write_shard
from vsm_fast.jobs.shard_scoring import ShardScorer
from vsm_fast.jobs.stopping import Stop

_log = logging.getLogger(__name__)

_LOCAL_STORE = 200 << 20  # bytes of shared memory of a Ray that is started here: rows are small
_POLL = 0.5  # seconds between two looks at whether a signal came
_BLOCK = 1  # byte: every shard is a block of its own, so that each goes to a free actor
_MOST_DEATHS = 5  # of actors by one shard; Ray would give it to others without end


@dataclass(frozen=True)
class ActorPool:
    """How many actors score, and what each one gets.

    Attributes:
        least: Actors to begin with.
        most: Actors to grow to where the cluster has room and shards wait; None = ``least``, or
            with GPUs as many as there are.
        gpus: Of each actor; 0.5 lets two share one. None = 1 where the cluster has some, else 0.
        cpus: Of each actor: threads that decode and, without a GPU, compute.
    """

    least: int = 1
    most: int | None = None
    gpus: float | None = None
    cpus: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.least <= (self.most or self.least):
            raise ValueError(
                f"a pool needs 1 <= least <= most actors; got {self.least} and {self.most}."
            )
        if (self.gpus or 0) < 0 or self.cpus <= 0:
            raise ValueError(f"an actor needs CPUs; got {self.cpus}, and {self.gpus} GPUs.")

    def sized(self, cluster: Mapping[str, float]) -> ActorPool:
        """The same with every number decided, for a cluster with these resources."""
        there = cluster.get("GPU", 0.0)
        gpus = float(there > 0) if self.gpus is None else self.gpus
        fitting = int(there / gpus) if gpus else self.least
        return replace(self, gpus=gpus, most=self.most or max(self.least, fitting))


@contextmanager
def ray_session(pool: ActorPool) -> Iterator[None]:
    """Connect to the cluster of ``RAY_ADDRESS``, or start Ray on this machine, and leave it again.

    Without dashboard and without usage reports.

    Raises:
        ImportError: Ray is not installed.
        JobError: No cluster answers.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Else a thread that still waits for answers would start another Ray after this one is left.
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
    ray = required("ray", "a job on several machines")
    required("ray.data", "a job on several machines")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    try:
        if os.environ.get("RAY_ADDRESS"):
            ray.init(**quiet)
        else:
            ray.init(
                num_cpus=math.ceil((pool.most or pool.least) * pool.cpus),
                include_dashboard=False,
                object_store_memory=_LOCAL_STORE,
                **quiet,
            )
    except (ConnectionError, RuntimeError) as error:
        raise JobError(f"Ray cannot be reached or started: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def run_distributed(
    source: PairSource,
    out: str | os.PathLike[str],
    settings: JobSettings | None = None,
    options: RunOptions | None = None,
    pool: ActorPool | None = None,
    *,
    stop: Stop | None = None,
    report: Report = lambda _: None,
) -> dict[str, Any]:
    """Run a job on Ray actors, under :func:`ray_session`; see ``vsm_fast.jobs.runner.run_job``.

    A run of either kind goes on with what the other left. When it is asked to stop, it takes what
    is finished within ``options.grace`` seconds and drops the rest.

    Args:
        source: The pairs; read by this process and by one task.
        out: Folder that all machines share.
        settings: What decides the rows. ``device="auto"`` is CUDA for actors with a GPU.
        options: What may differ between runs; a ``cache`` is a folder on each machine.
        pool: The actors; None = one a GPU, or one.
        stop: Asks to stop.
        report: Told what happens.

    Returns:
        The summary.

    Raises:
        JobError: As ``run_job``, and when an actor failed other than by dying.
    """
    import ray

    settings, options, stop = settings or JobSettings(), options or RunOptions(), stop or Stop()
    pool = (pool or ActorPool()).sized(ray.cluster_resources())
    if settings.device == "auto":
        settings = replace(settings, device="cuda" if pool.gpus else "cpu")
    with locked_folder(Path(out)):
        plan = make_plan(source, settings.shard_rows, Planning(report, stop))
        folder = open_job(Path(out).absolute(), plan, _identity(settings, options, pool))
        report_start(folder, report)
        retried = folder.failing if options.retry_failed else set()
        progress = begun_progress(folder, report, retried)
        work = {*folder.pending, *retried}
        if work:
            reader = _ShardReader(source, plan, work, retried)
            answers = _answers(reader, folder, settings, options, pool)
            for entry in _until_stopped(answers, stop, options.grace):
                before = folder.finished.get(entry.shard)
                folder.record(entry)
                rows = before.failed if before is not None else entry.rows
                progress.advance(rows, entry.failed)
                report(finished_event(folder, entry.shard, before is not None))
                check_failures(progress.failed, progress.total, options)
            if folder.pending and stop.signal is not None:
                end(folder, stop, report)
        return finish(folder, report)


def _identity(settings: JobSettings, options: RunOptions, pool: ActorPool) -> dict[str, Any]:
    """What the actors will compute with, asked where there is what they have."""
    if not pool.gpus:
        return _own_identity(settings, options)
    import ray

    task = ray.remote(num_cpus=pool.cpus, num_gpus=pool.gpus)(_own_identity)
    try:
        found: dict[str, Any] = ray.get(task.remote(settings, options))
    except ray.exceptions.RayTaskError as error:
        raise _cause(error) from error
    return found


def _own_identity(settings: JobSettings, options: RunOptions) -> dict[str, Any]:
    return ShardScorer.load(settings, options).identity()


def _answers(
    reader: _ShardReader,
    folder: JobFolder,
    settings: JobSettings,
    options: RunOptions,
    pool: ActorPool,
) -> Generator[FinishedShard, None, None]:
    """Ledger lines of shards as they are finished, in any order."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = _BLOCK
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    shards = ray.data.from_items([{"read": True}], override_num_blocks=1).map_batches(
        reader,
        batch_size=1,
        num_cpus=0,  # it mostly waits, and actors may hold all CPUs
    )
    entries = shards.map_batches(
        _ShardActor,
        fn_constructor_args=(str(folder.path), folder.identity, settings, options),
        batch_size=1,
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
        compute=ActorPoolStrategy(
            min_size=pool.least,
            max_size=pool.most or pool.least,
            max_tasks_in_flight_per_actor=2,
        ),
    )
    try:
        for row in entries.iter_rows():
            yield _opened(row["answer"])
    except ray.exceptions.RayError as error:
        raise _cause(error) from error


def _until_stopped(
    answers: Iterator[FinishedShard], stop: Stop, grace: float
) -> Iterator[FinishedShard]:
    """The answers, or those that come until some seconds after a request to stop.

    A thread waits for them, so that a signal is seen also when no answer comes: whoever ends a
    whole process group ends a local Ray with it.
    """
    queue: SimpleQueue[FinishedShard | Exception | None] = SimpleQueue()

    def take() -> None:
        try:
            for answer in answers:
                queue.put(answer)
            queue.put(None)
        except Exception as error:  # raised where the answers are read
            queue.put(error)

    Thread(target=take, name="vsm-answers", daemon=True).start()
    deadline = math.inf
    while time.monotonic() < deadline:
        if stop.signal is not None and deadline == math.inf:
            deadline = time.monotonic() + grace
        try:
            answer = queue.get(timeout=_POLL)
        except Empty:
            continue
        if answer is None:
            return
        if isinstance(answer, Exception):
            raise answer
        yield answer


def _cause(error: BaseException) -> Exception:
    """What ended an actor or a task, in one line, without Ray's wrapping and colours."""
    inner: BaseException | None = error
    while inner is not None:
        cause = getattr(inner, "cause", None) or inner.__cause__
        if isinstance(cause, VSMError):
            return type(cause)(*cause.args)
        inner = cause
    said = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())
    return JobError(f"an actor failed: {type(error).__name__}: {said}")


@dataclass(frozen=True)
class _Failure:
    """What went wrong in another process, as what it answers."""

    kind: type[VSMError]
    message: str

    @classmethod
    def of(cls, error: Exception) -> _Failure:
        said = " ".join(str(error).split()) or type(error).__name__
        for kind in (ModelError, PairingError, JobError):
            if isinstance(error, kind):
                return cls(kind, said)
        if out_of_memory(error):
            hint = "fewer actors a machine or smaller batches (--batch-size) need less"
            return cls(JobError, f"an actor is out of memory: {said}; {hint}.")
        return cls(JobError, f"an actor failed: {type(error).__name__}: {said}")


def _opened(answer: FinishedShard | _Failure) -> FinishedShard:
    """An answer that is no failure."""
    if isinstance(answer, _Failure):
        raise answer.kind(answer.message)
    return answer


class _ShardReader:
    """Reads the manifest in one task and gives out its shards one by one."""

    def __init__(
        self, source: PairSource, plan: Plan, wanted: Collection[int], retried: Collection[int]
    ) -> None:
        self._source, self._plan = source, plan
        self._wanted, self._retried = set(wanted), set(retried)

    def __call__(self, _: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        try:
            for shard in read_shards(self._source, self._plan, self._wanted):
                yield {"shard": _cell(shard), "retried": np.array([shard.number in self._retried])}
        except Exception as error:
            yield {"shard": _cell(_Failure.of(error)), "retried": np.array([False])}


class _ShardActor:
    """Scores shards in a process of its own."""

    def __init__(
        self,
        folder: str,
        identity: Mapping[str, Any],
        settings: JobSettings,
        options: RunOptions,
    ) -> None:
        self._folder, self._identity = Path(folder), identity
        self._settings, self._options = settings, options
        self._scorer: ShardScorer | None = None

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        answer = shard = batch["shard"][0]
        if not isinstance(shard, _Failure):
            try:
                answer = self._finished(shard, batch["retried"][0])
            except Exception as error:
                _log.exception("shard %d", shard.number)  # where Ray keeps the actor's output
                answer = _Failure.of(error)
        return {"answer": _cell(answer)}

    def _finished(self, shard: Shard, retried: bool) -> FinishedShard:
        begin = time.monotonic()
        with counted_try(self._folder, shard.number, _MOST_DEATHS):
            scorer = self._scorer = self._scorer or self._loaded()
            before = read_shard(self._folder, shard.number) if retried else None
            table = scorer.complete(shard, before, lambda rows, failed: None)
            return write_shard(
                table, self._folder, shard.number, self._identity, time.monotonic() - begin
            )

    def _loaded(self) -> ShardScorer:
        scorer = ShardScorer.load(self._settings, self._options)
        own = scorer.identity()
        other = [name for name, value in own.items() if self._identity[name] != value]
        if other:
            raise JobError(
                f"this machine would score with another {', '.join(other)} than the one that "
                "was asked first; give all machines the same library, model and kind of device."
            )
        return scorer


def _cell(value: object) -> Any:
    """An array of one object."""
    cell = np.empty(1, object)
    cell[0] = value
    return cell
