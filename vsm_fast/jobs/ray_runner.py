"""Ray runner: the shards of a job, scored by a pool of actors on many machines.

Plan, rows and files are those of the local runner; Ray Data only distributes the shards. One task
streams the manifest, with back-pressure when a few shards wait; manifest rows travel, never pixels.
An actor loads the model once, scores and writes whole shards, and returns ledger entries to this
process. If an actor or machine dies, Ray gives its shard to another actor, which replaces the same
file; a shard that has killed several actors ends the job. Other errors are returned as values,
because Ray turns an exception into a page of text. All machines need the manifest, the images and
the folder under the same paths.
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
from vsm_fast.jobs.errors import JobError, Stop
from vsm_fast.jobs.job_folder import JobFolder, locked_folder, open_job
from vsm_fast.jobs.plan import PairSource, Plan, Shard, make_plan, read_shards
from vsm_fast.jobs.progress import JobRun, Report, watch_planning
from vsm_fast.jobs.settings import JobSettings, RunOptions
from vsm_fast.jobs.shard_files import FinishedShard, limited_attempts, read_shard, write_shard
from vsm_fast.jobs.shard_scoring import ShardScorer

_log = logging.getLogger(__name__)

_LOCAL_STORE = 200 << 20  # bytes of shared memory of a local Ray: rows are small
_POLL = 0.5  # seconds between two checks for a signal
_BLOCK = 1  # byte: every shard is a block of its own, so that any free actor takes it
_MAX_DEATHS = 5  # actors that one shard may kill; Ray retries without limit


@dataclass(frozen=True)
class ActorPool:
    """Number of actors, and the resources of each.

    Attributes:
        least: Actors at the start.
        most: Largest number of actors, if the cluster has room and shards wait; None = ``least``,
            or with GPUs as many as fit.
        gpus: GPUs per actor; 0.5 lets two share one. None = 1 if the cluster has GPUs, else 0.
        cpus: CPUs per actor: threads that decode and, without a GPU, compute.
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
        """Return the pool with all defaults resolved for the resources of a cluster."""
        available = cluster.get("GPU", 0.0)
        gpus = float(available > 0) if self.gpus is None else self.gpus
        most = int(available / gpus) if gpus else self.least
        return replace(self, gpus=gpus, most=self.most or max(self.least, most))


@contextmanager
def ray_session(pool: ActorPool) -> Iterator[None]:
    """Connect to the cluster of ``RAY_ADDRESS``, or start Ray on this machine, then shut down.

    Dashboard and usage reports stay off.

    Raises:
        ImportError: If Ray is not installed.
        JobError: If no cluster answers.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Else a thread that still waits for answers would start another Ray after the shutdown.
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
    ray = required("ray", "a job on several machines")
    required("ray.data", "a job on several machines")
    arguments: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    if not os.environ.get("RAY_ADDRESS"):
        arguments |= {
            "num_cpus": math.ceil((pool.most or pool.least) * pool.cpus),
            "include_dashboard": False,
            "object_store_memory": _LOCAL_STORE,
        }
    try:
        ray.init(**arguments)
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

    Local and Ray runs resume each other. After a stop request, the run collects shards that finish
    within ``options.grace`` seconds and drops the rest.

    Args:
        source: Pairs; read by this process and by one task.
        out: Folder that all machines share.
        settings: Settings that decide the rows. ``device="auto"`` is CUDA for actors with a GPU.
        options: Options that may change between runs; ``cache`` is a folder on each machine.
        pool: Actors; None = one per GPU, or one.
        stop: Stop request.
        report: Receives the events.

    Returns:
        Summary, as of ``run_job``.

    Raises:
        JobError: As for ``run_job``, and if an actor failed other than by dying.
    """
    import ray

    settings, options, stop = settings or JobSettings(), options or RunOptions(), stop or Stop()
    pool = (pool or ActorPool()).sized(ray.cluster_resources())
    if settings.device == "auto":
        settings = replace(settings, device="cuda" if pool.gpus else "cpu")
    with locked_folder(Path(out)):
        plan = make_plan(source, settings.shard_rows, watch_planning(report, stop))
        folder = open_job(Path(out).absolute(), plan, _identity(settings, options, pool))
        run = JobRun(folder, options, stop, report)
        if run.work:
            reader = _ShardReader(source, plan, run.work, run.retried)
            answers = _answers(reader, folder, settings, options, pool)
            for entry in _until_stopped(answers, stop, options.grace):
                before = folder.finished.get(entry.shard)
                folder.record(entry)
                run.finish_shard(entry.shard)
                run.advance(before.failed if before is not None else entry.rows, entry.failed)
            if folder.pending and stop.signal is not None:
                run.end_early()
        return run.finish()


def _identity(settings: JobSettings, options: RunOptions, pool: ActorPool) -> dict[str, Any]:
    """Return the identity of the job, computed with the resources of an actor."""

    def own_identity() -> dict[str, Any]:
        return ShardScorer.load(settings, options).identity()

    if not pool.gpus:
        return own_identity()
    import ray

    try:
        task = ray.remote(num_cpus=pool.cpus, num_gpus=pool.gpus)(own_identity)
        identity: dict[str, Any] = ray.get(task.remote())
    except ray.exceptions.RayTaskError as error:
        raise _cause(error) from error
    return identity


def _answers(
    reader: _ShardReader,
    folder: JobFolder,
    settings: JobSettings,
    options: RunOptions,
    pool: ActorPool,
) -> Generator[FinishedShard, None, None]:
    """Yield the ledger entries of shards as they finish, in any order."""
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
            yield _unwrap(row["answer"])
    except ray.exceptions.RayError as error:
        raise _cause(error) from error


def _until_stopped(
    answers: Iterator[FinishedShard], stop: Stop, grace: float
) -> Iterator[FinishedShard]:
    """Yield the answers, until ``grace`` seconds after a stop request.

    A thread waits for the answers, so that a signal is seen even if no answer comes: a signal to
    the whole process group ends a local Ray too.
    """
    queue: SimpleQueue[FinishedShard | Exception | None] = SimpleQueue()

    def take() -> None:
        try:
            for answer in answers:
                queue.put(answer)
            queue.put(None)
        except Exception as error:  # raised in the main thread
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
    """Return the cause of a Ray error, in one line without Ray's wrapping and colours."""
    inner: BaseException | None = error
    while inner is not None:
        cause = getattr(inner, "cause", None) or inner.__cause__
        if isinstance(cause, VSMError):
            return type(cause)(*cause.args)
        inner = cause
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())
    return JobError(f"an actor failed: {type(error).__name__}: {text}")


@dataclass(frozen=True)
class _Failure:
    """Error of another process, as a value."""

    kind: type[VSMError]
    message: str

    @classmethod
    def of(cls, error: Exception) -> _Failure:
        text = " ".join(str(error).split()) or type(error).__name__
        for kind in (ModelError, PairingError, JobError):
            if isinstance(error, kind):
                return cls(kind, text)
        if out_of_memory(error):
            hint = "Use fewer actors per machine, or smaller batches (--batch-size)"
            return cls(JobError, f"an actor is out of memory: {text}. {hint}.")
        return cls(JobError, f"an actor failed: {type(error).__name__}: {text}")


def _unwrap(answer: FinishedShard | _Failure) -> FinishedShard:
    if isinstance(answer, _Failure):
        raise answer.kind(answer.message)
    return answer


class _ShardReader:
    """Task that reads the manifest and yields its shards one by one."""

    def __init__(
        self, source: PairSource, plan: Plan, numbers: Collection[int], retried: Collection[int]
    ) -> None:
        self._source, self._plan = source, plan
        self._numbers, self._retried = set(numbers), set(retried)

    def __call__(self, _: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        try:
            for shard in read_shards(self._source, self._plan, self._numbers):
                yield {"shard": _cell(shard), "retried": np.array([shard.number in self._retried])}
        except Exception as error:
            yield {"shard": _cell(_Failure.of(error)), "retried": np.array([False])}


class _ShardActor:
    """Actor that scores and writes shards."""

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
                answer = self._finish(shard, batch["retried"][0])
            except Exception as error:
                _log.exception("shard %d", shard.number)  # goes to Ray's log of the actor
                answer = _Failure.of(error)
        return {"answer": _cell(answer)}

    def _finish(self, shard: Shard, retried: bool) -> FinishedShard:
        begin = time.monotonic()
        with limited_attempts(self._folder, shard.number, _MAX_DEATHS):
            if self._scorer is None:
                scorer = ShardScorer.load(self._settings, self._options)
                own = scorer.identity()
                other = [name for name, value in own.items() if self._identity[name] != value]
                if other:
                    raise JobError(
                        f"this machine has another {', '.join(other)} than the first actor. "
                        "Install the same library and model, and use the same kind of device, on "
                        "all machines."
                    )
                self._scorer = scorer
            before = read_shard(self._folder, shard.number) if retried else None
            table = self._scorer.complete(shard, before, lambda rows, failed: None)
            return write_shard(
                table, self._folder, shard.number, self._identity, time.monotonic() - begin
            )


def _cell(value: object) -> Any:
    """Return an object array of one element."""
    cell = np.empty(1, object)
    cell[0] = value
    return cell
