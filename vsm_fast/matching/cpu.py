"""Nearest targets on a CPU: blocks of rows, processed by independent threads.

A full similarity matrix passes through main memory; a block of its rows stays in cache. An
operation that is split over threads ends with its slowest thread, which on a busy machine can
cost a scheduler slice per operation. Each thread therefore takes the next block, processes it
alone, and the threads meet once, at the end.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from vsm_fast.torch_state import pinned

_BLOCK = 1 << 19  # similarities: 2 MiB of float32 and their copy from oneDNN stay in cache
_MIN_ROWS = 64  # smaller blocks spend their time on repacking the targets
_MIN_WORK = 1 << 23  # multiplications; less takes less time than waking a thread


@dataclass(frozen=True)
class NearestJob:
    """Search for the most similar target of each query.

    A NaN product is never the highest. A query with NaN products only gets NaN and -1.

    Attributes:
        query: float32 [n, D], unit length.
        target: float32 [m, D], unit length, m > 0.
        similarity: float32 [n], output: the highest dot product.
        index: int64 [n], output: the first target that attains it.
    """

    query: Tensor
    target: Tensor
    similarity: Tensor
    index: Tensor


def find_nearest(jobs: Sequence[NearestJob]) -> None:
    """Run ``jobs`` on as many threads as torch uses."""
    threads = torch.get_num_threads()
    least = -(-threads // max(1, len(jobs)))  # blocks per job that keep every thread busy
    blocks = deque(block for job in jobs for block in _blocks(job, least))
    workers = min(threads, len(blocks))
    work = sum(job.query.shape[0] * job.target.numel() for job in jobs)
    if workers < 2 or work < _MIN_WORK:
        _drain(blocks)
        return
    pool = _pool(threads)
    for worker in [pool.submit(_drain, blocks) for _ in range(workers)]:
        worker.result()


def product_library() -> str:
    """Return the library that multiplies descriptors on this CPU."""
    # On x86 torch's BLAS is MKL, which uses half of an AMD CPU's vector width; oneDNN uses all.
    return "oneDNN" if torch.backends.mkldnn.is_available() else "BLAS"


def _blocks(job: NearestJob, least: int) -> Iterator[NearestJob]:
    """Split a job into blocks of rows of nearly equal height, at least ``least`` if it is tall."""
    rows = job.query.shape[0]
    limit = max(_MIN_ROWS, _BLOCK // job.target.shape[0])
    blocks = max(1, -(-rows // limit), min(least, rows // _MIN_ROWS))
    height = -(-rows // blocks)
    for start in range(0, rows, height):
        part = slice(start, start + height)
        yield NearestJob(job.query[part], job.target, job.similarity[part], job.index[part])


@pinned()
def _drain(blocks: deque[NearestJob]) -> None:
    """Process blocks until none is left."""
    while True:
        try:
            job = blocks.popleft()
        except IndexError:
            return
        if product_library() == "oneDNN":
            similarities = linear(job.query.to_mkldnn(), job.target.to_mkldnn()).to_dense()
        else:
            similarities = job.query @ job.target.T
        _take_first_best(similarities, job)
        if job.similarity.isnan().any():
            _take_first_best(similarities.masked_fill_(similarities.isnan(), -torch.inf), job)
            nothing = job.similarity == -torch.inf
            job.similarity[nothing], job.index[nothing] = torch.nan, -1


def _take_first_best(similarities: Tensor, job: NearestJob) -> None:
    # torch.max with indices compares one number at a time, NumPy's argmax whole vector registers:
    # a quarter of the time. argmax takes the first of equal numbers, and NaN before any number.
    np.argmax(similarities.numpy(), axis=1, out=job.index.numpy())
    torch.gather(similarities, 1, job.index[:, None], out=job.similarity[:, None])


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    """Return threads that stay: starting one takes longer than matching a small pair."""
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, "vsm-match", _use_one_thread)
    try:
        # A barrier, so that every thread starts now.
        meeting = threading.Barrier(workers)
        for started in [pool.submit(meeting.wait) for _ in range(workers)]:
            started.result()
    finally:
        torch.set_num_threads(threads)  # the initial number of threads that start later
    return pool


def _use_one_thread() -> None:
    torch.set_num_threads(1)  # of the calling thread; others keep theirs


# A forked process has no threads but its own; it starts new ones.
if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_pool.cache_clear)
