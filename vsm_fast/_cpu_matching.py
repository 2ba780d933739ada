"""Nearest targets on a CPU: blocks of rows, worked off by threads that never wait for each other.

Two facts of CPUs shape this file. A full similarity matrix goes through main memory, a block of
its rows stays in cache. And an operation that is split over threads ends when its slowest thread
ends: on a busy machine each such operation can cost a whole slice of the scheduler. So every
thread takes the next block, does all of its work alone, and the threads meet once, at the end.

Where bfloat16 products are much faster than float32 ones they only *filter*: rounding moves a
similarity by no more than a known bound, every target within that bound of the best is compared
again in float32, and rows where too many are left go through float32 entirely. What comes out
are float32 similarities and the index that attains them.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

logger = logging.getLogger(__name__)

# One block of scores: it is written by the product and read right after, so it should stay in
# cache, if only in the third level. Smaller blocks lose more on repacking the targets in every
# product than they win in cache.
_BLOCK_BYTES = 4 << 20
# The filter does more in Python per block, where threads wait for each other: fewer, larger
# blocks, as far as the third level of the cache holds them.
_FILTER_BLOCK_BYTES = 16 << 20
_MIN_ROWS = 64  # with fewer rows the product spends its time on repacking the targets
# Threads take about 0.1 ms to start, the time of this many multiplications in float32.
_THREADS_PAY = 1 << 23
# Targets are reduced in groups of those whose index is equal modulo _LANES: the maximum then
# runs over whole vector registers of int16, five times as fast as along rows.
_LANES = 64
_MAX_GROUPS = 16  # with more promising groups in a row float32 costs less than comparing again
# Below these sizes the fixed cost of filtering a block is more than what it saves.
_FILTER_TARGETS = 384
_FILTER_CHANNELS = 64
_UNIT = 1.001  # the bounds of the filter hold for vectors up to this length
_SUMMATION = 2e-4  # more than the order of a float32 sum over 1000 channels can change
_PAYS = 2.0  # bfloat16 products have to be this much faster, because filtering adds work


@dataclass(frozen=True)
class NearestJob:
    """Find for each query the most similar target and write it to the outputs.

    Args:
        query: float32 [n, D], unit length.
        target: float32 [m, D], unit length, m > 0.
        similarity: float32 [n], output: the highest dot product.
        index: int64 [n], output: the first target that attains it.
    """

    query: Tensor
    target: Tensor
    similarity: Tensor
    index: Tensor


def find_nearest(jobs: Sequence[NearestJob], *, bfloat16_filter: bool | None = None) -> None:
    """Work off ``jobs`` with as many threads as torch uses.

    Args:
        jobs: What to find; jobs that hold the same target tensor share its preparation.
        bfloat16_filter: Whether large jobs are filtered in bfloat16; None measures once whether
            it pays here, and is False in torch's deterministic mode, because last bits must not
            depend on a measurement.
    """
    large = [job for job in jobs if _is_large(job)]
    if bfloat16_filter is None:
        bfloat16_filter = (
            bool(large) and not torch.are_deterministic_algorithms_enabled() and _filter_pays()
        )
    targets: dict[int, _FilterTarget] = {}
    if bfloat16_filter:
        _accept_beta_sparse()
        targets = {id(job.target): _FilterTarget(job.target) for job in large}
    threads = torch.get_num_threads()
    least = -(-threads // max(1, len(jobs)))  # blocks a job, so that no thread is left without
    tasks = deque(task for job in jobs for task in _tasks(job, targets.get(id(job.target)), least))
    targets.clear()  # the tasks hold them now: a prepared target goes with its last task
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


def _is_large(job: NearestJob) -> bool:
    return job.target.shape[0] >= _FILTER_TARGETS and job.target.shape[1] >= _FILTER_CHANNELS


@cache
def _accept_beta_sparse() -> None:
    """Use up torch's one warning that sparse CSR tensors are in beta: users cannot act on it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        torch.eye(1).to_sparse_csr()


@cache
def _filter_pays() -> bool:
    """Whether bfloat16 products are much faster here, measured once, in one thread."""
    with ThreadPoolExecutor(1, "vsm-measure", _use_one_thread) as pool:
        ratio = pool.submit(_bfloat16_speed).result()
    logger.debug("bfloat16 products run %.1f times as fast as float32 here", ratio)
    return ratio >= _PAYS


@torch.inference_mode()
def _bfloat16_speed() -> float:
    sides = torch.full((128, 384), 0.05), torch.full((384, 512), 0.05)
    rounded = sides[0].bfloat16(), sides[1].bfloat16()
    best = [float("inf"), float("inf")]
    for _ in range(6):
        for which, (left, right) in enumerate((sides, rounded)):
            begin = time.perf_counter()
            torch.mm(left, right)
            best[which] = min(best[which], time.perf_counter() - begin)
    return best[0] / best[1]


@dataclass(frozen=True)
class _Task:
    job: NearestJob
    filter_target: _FilterTarget | None


def _tasks(job: NearestJob, filter_target: _FilterTarget | None, least: int) -> list[_Task]:
    """Split a job into at least so many blocks of rows of nearly equal size, if it is tall."""
    rows, columns = job.query.shape[0], job.target.shape[0]
    fits = _BLOCK_BYTES // 4 if filter_target is None else _FILTER_BLOCK_BYTES // 2
    limit = max(_MIN_ROWS, fits // columns)
    blocks = max(-(-rows // limit), min(least, rows // _MIN_ROWS))
    if blocks < 2:
        return [_Task(job, filter_target)]
    height = -(-rows // blocks)
    parts = [slice(begin, begin + height) for begin in range(0, rows, height)]
    return [
        _Task(
            NearestJob(job.query[part], job.target, job.similarity[part], job.index[part]),
            filter_target,
        )
        for part in parts
    ]


@torch.inference_mode()
def _drain(tasks: deque[_Task], from_the_end: bool) -> None:
    """Take tasks until none is left."""
    take = tasks.pop if from_the_end else tasks.popleft
    scratch = _Scratch()
    while True:
        try:
            task = take()
        except IndexError:
            return
        if task.filter_target is None:
            _nearest_float32(task.job, scratch)
        else:
            _nearest_filtered(task.job, task.filter_target, scratch)


class _Scratch:
    """Memory that a thread uses again for each block: fresh memory costs a page fault per 4 KiB."""

    def __init__(self) -> None:
        self._buffers: dict[torch.dtype, Tensor] = {}

    def get(self, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        """Uninitialised [rows, columns]; valid until the next call with the same ``dtype``."""
        buffer = self._buffers.get(dtype)
        if buffer is None or buffer.numel() < rows * columns:
            buffer = self._buffers[dtype] = torch.empty(rows * columns, dtype=dtype)
        return buffer[: rows * columns].view(rows, columns)


def _nearest_float32(job: NearestJob, scratch: _Scratch) -> None:
    scores = scratch.get(len(job.query), len(job.target), torch.float32)
    torch.mm(job.query, job.target.T, out=scores)
    _take_first_best(scores, job.similarity, job.index)


def _take_first_best(scores: Tensor, similarity: Tensor, index: Tensor) -> None:
    # torch.max with indices compares one score at a time, NumPy's argmax whole vector registers:
    # a quarter of the time, and like torch it takes the first of equal ones, or the first NaN.
    np.argmax(scores.numpy(), axis=1, out=index.numpy())
    torch.gather(scores, 1, index[:, None], out=similarity[:, None])


class _FilterTarget:
    """Targets rounded to bfloat16, prepared by the first thread that needs them."""

    def __init__(self, target: Tensor) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._prepared: tuple[Tensor, Tensor] | None = None

    def get(self) -> tuple[Tensor, Tensor]:
        """Bfloat16 [m up to a multiple of _LANES, D]; float32 scalar, the longest error."""
        with self._lock:
            if self._prepared is None:
                rows, channels = self._target.shape
                rounded = torch.empty(rows + -rows % _LANES, channels, dtype=torch.bfloat16)
                rounded[:rows] = self._target
                # Copies of the last target fill the last group: never better than the original.
                rounded[rows:] = rounded[rows - 1]
                self._prepared = rounded, _score_error(self._target).amax()
            return self._prepared


def _score_error(rows: Tensor) -> Tensor:
    """What rounding a row to bfloat16 can change in its scores [n]; NaN if it must not be judged.

    Each channel moves by at most 2^-9 of itself, so the row by at most 2^-9 of its length.
    """
    length: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return (length * (_UNIT * 2.0**-9)).masked_fill_(length > _UNIT, torch.nan)


def _nearest_filtered(job: NearestJob, filter_target: _FilterTarget, scratch: _Scratch) -> None:
    """Nearest targets: bfloat16 finds the candidates, float32 decides between them."""
    target, target_error = filter_target.get()
    rounded = job.query.bfloat16()
    error = _score_error(job.query) + target_error + 2.0**-18  # the product of both errors
    scores = scratch.get(len(rounded), len(target), torch.bfloat16)
    torch.mm(rounded, target.T, out=scores)
    row, column, decided = _candidates(scores, error)
    if decided.any():
        # Fewer targets than columns: the copies stand for the last target.
        _decide(job, row, np.minimum(column, len(job.target) - 1), decided)
    if not decided.all():
        rest = torch.from_numpy(np.flatnonzero(~decided))
        exact = NearestJob(job.query[rest], job.target, job.similarity[rest], job.index[rest])
        _nearest_float32(exact, scratch)
        job.similarity[rest], job.index[rest] = exact.similarity, exact.index


def _candidates(
    scores: Tensor, error: Tensor
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """The scores that may belong to the best target of their row.

    Args:
        scores: bfloat16 [n, m], m a multiple of _LANES.
        error: float32 [n], bound of the error of a score before it was rounded itself.

    Returns:
        Row and column [k] of each candidate, sorted by row; bool [n], the rows whose candidates
        are all there. The other rows have too many candidates, a best score near or below zero,
        or values that are not finite.
    """
    # Positive floats sort like the integers with the same bits, and integers are faster here.
    # Negative ones sort backwards, but below all positive ones: rows without a clearly positive
    # score are left undecided.
    bits = scores.view(torch.int16).view(len(scores), -1, _LANES)
    groups = bits.amax(1)
    best = groups.amax(1).view(torch.bfloat16).float()
    # Two scores, each wrong by `error` and rounded to a bfloat16 by half a step (below 1: 2^-9).
    half_step = torch.where(best < 0.98, 2.0**-9, 2.0**-8)
    floor = best - 2 * (error + _SUMMATION + half_step)
    floor_bits = (floor.view(torch.int32) >> 16).short()  # rounded down to a bfloat16
    promising = groups >= floor_bits[:, None]
    decided = ((floor > 0) & (promising.sum(1) <= _MAX_GROUPS)).numpy()
    promising.numpy()[~decided] = False
    row, lane = np.divmod(np.flatnonzero(promising.numpy()), _LANES)
    members = bits.numpy()[row, :, lane]
    high = np.flatnonzero(members >= floor_bits.numpy()[row, None])
    member, step = np.divmod(high, members.shape[1])
    return row[member], step * _LANES + lane[member], decided


def _decide(
    job: NearestJob,
    row: NDArray[np.int64],
    column: NDArray[np.int64],
    decided: NDArray[np.bool_],
) -> None:
    """Write the best of each decided row's candidates, compared in float32."""
    counts = np.bincount(row, minlength=len(decided))
    bounds = np.concatenate([[0], counts.cumsum()])
    positions = torch.sparse_csr_tensor(
        torch.from_numpy(bounds),
        torch.from_numpy(column),
        torch.zeros(len(column)),
        (len(decided), job.target.shape[0]),
        check_invariants=False,
    )
    # Dot products at these positions only, each summed in the same order whatever is around it.
    exact = (
        torch.sparse.sampled_addmm(positions, job.query, job.target.T, beta=0.0).values().numpy()
    )
    starts = bounds[:-1][decided]
    similarity = np.maximum.reduceat(exact, starts)
    attained = exact == np.repeat(similarity, counts[decided])
    first = np.minimum.reduceat(np.where(attained, column, job.target.shape[0]), starts)
    where = torch.from_numpy(np.flatnonzero(decided))
    job.similarity[where] = torch.from_numpy(similarity)
    job.index[where] = torch.from_numpy(first)
