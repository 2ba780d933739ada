"""Nearest targets on a CPU: blocks of rows, worked off by threads that never wait for each other.

Two facts of CPUs shape this file. A full similarity matrix goes through main memory, a block of
its rows stays in cache. And an operation that is split over threads ends when its slowest thread
ends: on a busy machine each such operation can cost a whole slice of the scheduler. So every
thread takes the next block, does all of its work alone, and the threads meet once, at the end.

How a block is worked off (``_cpu_blocks``) depends on what this CPU multiplies fastest, which is
measured once.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor
from torch.nn.functional import linear

from vsm_fast.matching.cpu_blocks import (
    FILTER_MOST_CHANNELS,
    NearestJob,
    Scratch,
    SharedTarget,
    accept_beta_sparse,
    nearest_blas,
    nearest_filtered,
    nearest_onednn,
    to_bfloat16,
    to_onednn,
)
from vsm_fast.torch_state import pinned

__all__ = ["NearestJob", "describe_products", "find_nearest"]

logger = logging.getLogger(__name__)

# Scores in one block: they are written by the product and read right after, so they should stay
# in cache, if only in the third level. Smaller blocks lose more on repacking the targets in every
# product than they win in cache.
_BLAS_SCORES = 1 << 20  # 4 MiB of float32
_ONEDNN_SCORES = 1 << 19  # twice 2 MiB: oneDNN's scores and their copy
# The filter does more in Python per block, where threads wait for each other: fewer, larger
# blocks, as far as the third level of the cache holds them.
_FILTER_SCORES = 8 << 20  # 16 MiB of bfloat16
_MIN_ROWS = 64  # with fewer rows the product spends its time on repacking the targets
# Threads take about 0.1 ms to start, the time of this many multiplications in float32.
_THREADS_PAY = 1 << 23
# Below these sizes the fixed costs of a block are more than what oneDNN or the filter saves.
_LARGE_TARGETS = 384
_LARGE_CHANNELS = 64
_FILTER_LEAST_SCORES = 1 << 19  # and the filter's are more than oneDNN's
_FILTER_PAYS = 2.0  # bfloat16 products have to be this much faster, because filtering adds work
_ONEDNN_PAYS = 1.25  # and oneDNN's this much, because queries and scores are copied for it


@dataclass(frozen=True)
class _Method:
    """A way to work off a block, and how many scores a block of it should have."""

    run: Callable[[NearestJob, Scratch], None]
    scores: int


_BLAS = _Method(nearest_blas, _BLAS_SCORES)


def find_nearest(jobs: Sequence[NearestJob], *, bfloat16_filter: bool | None = None) -> None:
    """Work off ``jobs`` with as many threads as torch uses.

    Args:
        jobs: What to find; jobs that hold the same target tensor share its preparation.
        bfloat16_filter: Whether large jobs are filtered in bfloat16; None measures once whether
            it pays here, and is False in torch's deterministic mode. That mode also keeps to
            one float32 product, because last bits must not depend on a measurement.
    """
    threads = torch.get_num_threads()
    least = -(-threads // max(1, len(jobs)))  # blocks a job, so that no thread is left without
    tasks = deque(
        task
        for job, method in zip(jobs, _methods(jobs, bfloat16_filter), strict=True)
        for task in _tasks(job, method, least)
    )
    workers = min(threads, len(tasks))
    work = sum(job.query.shape[0] * job.target.numel() for job in jobs)
    if workers < 2 or work < _THREADS_PAY:
        _drain(tasks, from_the_end=False)
        return
    pool = _pool(threads)
    # From both ends, so that two threads do not prepare the same target first.
    running = [pool.submit(_drain, tasks, bool(i % 2)) for i in range(workers)]
    for worker in running:
        worker.result()


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    """Threads that stay: starting one and its OpenMP settings takes longer than a small pair."""
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, "vsm-match", _use_one_thread)
    try:
        # All of them at once: each waits for the others, so that none starts later.
        meeting = threading.Barrier(workers)
        for started in [pool.submit(meeting.wait) for _ in range(workers)]:
            started.result()
    finally:
        torch.set_num_threads(threads)  # what threads that start later will begin with
    return pool


# A forked process has no threads but its own; it starts new ones.
if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_pool.cache_clear)


def _use_one_thread() -> None:
    torch.set_num_threads(1)  # of the calling thread; others keep theirs


def _methods(jobs: Sequence[NearestJob], bfloat16_filter: bool | None) -> list[_Method]:
    """The method of each job."""
    if not any(map(_is_large, jobs)):
        return [_BLAS] * len(jobs)
    speed = _relevant_speed()
    if bfloat16_filter is None:
        bfloat16_filter = speed.filter_pays
    if bfloat16_filter:
        accept_beta_sparse()
    # Nothing is prepared before a thread needs it.
    rounded = {id(job.target): SharedTarget(job.target, to_bfloat16) for job in jobs}
    packed = {id(job.target): SharedTarget(job.target, to_onednn) for job in jobs}

    def method(job: NearestJob) -> _Method:
        if not _is_large(job):
            return _BLAS
        if bfloat16_filter and _can_be_filtered(job):
            return _Method(partial(nearest_filtered, rounded[id(job.target)]), _FILTER_SCORES)
        if speed.onednn_pays:
            return _Method(partial(nearest_onednn, packed[id(job.target)]), _ONEDNN_SCORES)
        return _BLAS

    return [method(job) for job in jobs]


def _is_large(job: NearestJob) -> bool:
    return (
        job.query.shape[0] >= _MIN_ROWS
        and job.target.shape[0] >= _LARGE_TARGETS
        and job.target.shape[1] >= _LARGE_CHANNELS
    )


def _can_be_filtered(job: NearestJob) -> bool:
    rows, channels = job.query.shape
    return rows * len(job.target) >= _FILTER_LEAST_SCORES and channels <= FILTER_MOST_CHANNELS


@dataclass(frozen=True)
class _Speed:
    """Speed of other products, in multiples of the speed of the BLAS in float32."""

    onednn: float = 1.0
    bfloat16: float = 1.0

    @property
    def filter_pays(self) -> bool:
        """Whether filtering in bfloat16 saves time on pairs that are large enough."""
        return self.bfloat16 >= _FILTER_PAYS

    @property
    def onednn_pays(self) -> bool:
        """Whether oneDNN saves time on pairs that are large enough."""
        return self.onednn >= _ONEDNN_PAYS


def describe_products() -> str:
    """Which products pairs are matched with in this process, and why, in a few words.

    Measures that if no pair has needed it yet, which takes milliseconds.
    """
    speed = _relevant_speed()
    ways = []
    if speed.filter_pays:
        ways.append(f"bfloat16 filter for large pairs ({speed.bfloat16:.1f} x as fast)")
    if speed.onednn_pays:
        ways.append(f"oneDNN for {'medium' if ways else 'large'} pairs ({speed.onednn:.1f} x)")
    if ways:
        return ", ".join([*ways, "float32 products of the BLAS for the others"])
    if torch.are_deterministic_algorithms_enabled():
        return "float32 products of the BLAS, because of deterministic mode"
    return "float32 products of the BLAS, the fastest here"


def _relevant_speed() -> _Speed:
    """What is measured here, or in deterministic mode what depends on no measurement."""
    return _Speed() if torch.are_deterministic_algorithms_enabled() else _speed()


@cache
def _speed() -> _Speed:
    """What is fast here, measured once, in one thread."""
    with ThreadPoolExecutor(1, "vsm-measure", _use_one_thread) as pool:
        speed = pool.submit(_measure).result()
    logger.debug("against float32 products of the BLAS: %s", speed)
    return speed


@pinned()
def _measure() -> _Speed:
    query, target = torch.full((128, 384), 0.05), torch.full((512, 384), 0.05)
    products: dict[str, Callable[[], Tensor]] = {"blas": lambda: query @ target.T}
    rounded = query.bfloat16(), target.bfloat16()
    products["bfloat16"] = lambda: rounded[0] @ rounded[1].T
    if torch.backends.mkldnn.is_available():
        packed = to_onednn(target)
        products["onednn"] = lambda: linear(query.to_mkldnn(), packed).to_dense()
    best = dict.fromkeys(products, float("inf"))
    for _ in range(6):
        for name, multiply in products.items():
            begin = time.perf_counter()
            multiply()
            best[name] = min(best[name], time.perf_counter() - begin)
    return _Speed(best["blas"] / best.get("onednn", best["blas"]), best["blas"] / best["bfloat16"])


@dataclass(frozen=True)
class _Task:
    job: NearestJob
    method: _Method


def _tasks(job: NearestJob, method: _Method, least: int) -> list[_Task]:
    """Split a job into at least so many blocks of rows of nearly equal size, if it is tall."""
    rows, columns = job.query.shape[0], job.target.shape[0]
    limit = max(_MIN_ROWS, method.scores // columns)
    blocks = max(-(-rows // limit), min(least, rows // _MIN_ROWS))
    if blocks < 2:
        return [_Task(job, method)]
    height = -(-rows // blocks)
    parts = [slice(begin, begin + height) for begin in range(0, rows, height)]
    return [
        _Task(
            NearestJob(job.query[part], job.target, job.similarity[part], job.index[part]),
            method,
        )
        for part in parts
    ]


@pinned()
def _drain(tasks: deque[_Task], from_the_end: bool) -> None:
    """Take tasks until none is left."""
    take = tasks.pop if from_the_end else tasks.popleft
    scratch = Scratch()
    while True:
        try:
            task = take()
        except IndexError:
            return
        task.method.run(task.job, scratch)
