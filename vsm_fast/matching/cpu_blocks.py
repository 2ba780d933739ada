"""Nearest targets of one block of queries on a CPU, in three ways that agree within rounding.

``nearest_blas`` multiplies in float32 with torch's BLAS, ``nearest_onednn`` with oneDNN: on x86 the
BLAS is MKL, which leaves half of an AMD CPU's vector width unused.

``nearest_filtered`` multiplies in bfloat16, but only to *filter*: rounding moves a similarity by
no more than a bound that is measured per row, every target within that bound of the best is
compared again in float32, and rows where too many are left go through float32 entirely. The
results are float32 similarities and the index that attains them.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import linear

# Targets are reduced in groups of those whose index is equal modulo _LANES: the maximum then
# runs over whole vector registers of int16, five times as fast as along rows.
_LANES = 64
_MAX_GROUPS = 16  # with more promising groups in a row float32 costs less than comparing again
_UNIT = 1.001  # the bounds of the filter hold for vectors up to this length
FILTER_MOST_CHANNELS = 1024  # up to which the next bound holds
_SUMMATION = 2e-4  # more than the order of a float32 sum over so many channels can change

Prepared = TypeVar("Prepared")


@dataclass(frozen=True)
class NearestJob:
    """Find for each query the most similar target and write it to the outputs.

    Attributes:
        query: float32 [n, D], unit length.
        target: float32 [m, D], unit length, m > 0.
        similarity: float32 [n], output: the highest dot product.
        index: int64 [n], output: the first target that attains it.

    NaN among the products is never the highest; where a query has nothing else, NaN and -1.
    """

    query: Tensor
    target: Tensor
    similarity: Tensor
    index: Tensor


class Scratch:
    """Memory that a thread uses again for each block: fresh memory costs a page fault per 4 KiB."""

    def __init__(self) -> None:
        self._buffers: dict[torch.dtype, Tensor] = {}

    def get(self, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        """Uninitialised [rows, columns]; valid until the next call with the same ``dtype``."""
        buffer = self._buffers.get(dtype)
        if buffer is None or buffer.numel() < rows * columns:
            buffer = self._buffers[dtype] = torch.empty(rows * columns, dtype=dtype)
        return buffer[: rows * columns].view(rows, columns)


class SharedTarget(Generic[Prepared]):
    """What a way of multiplying makes of its target, made by the first thread that needs it."""

    def __init__(self, target: Tensor, prepare: Callable[[Tensor], Prepared]) -> None:
        self._target = target
        self._prepare = prepare
        self._lock = threading.Lock()
        self._prepared: Prepared | None = None

    def get(self) -> Prepared:
        """The prepared target, the same for all threads."""
        with self._lock:
            if self._prepared is None:
                self._prepared = self._prepare(self._target)
            return self._prepared


def nearest_blas(job: NearestJob, scratch: Scratch) -> None:
    """Nearest targets by float32 products of torch's BLAS."""
    scores = scratch.get(len(job.query), len(job.target), torch.float32)
    torch.mm(job.query, job.target.T, out=scores)
    _take_first_best(scores, job)


def to_onednn(target: Tensor) -> Tensor:
    """The target in oneDNN's layout."""
    return target.to_mkldnn()


def nearest_onednn(target: SharedTarget[Tensor], job: NearestJob, scratch: Scratch) -> None:
    """Nearest targets by float32 products of oneDNN, which brings its own memory."""
    _take_first_best(linear(job.query.to_mkldnn(), target.get()).to_dense(), job)


def _take_first_best(scores: Tensor, job: NearestJob) -> None:
    # torch.max with indices compares one score at a time, NumPy's argmax whole vector registers:
    # a quarter of the time. It takes the first of equal ones, and the first NaN before any of them.
    np.argmax(scores.numpy(), axis=1, out=job.index.numpy())
    torch.gather(scores, 1, job.index[:, None], out=job.similarity[:, None])
    if job.similarity.isnan().any():  # NaN is never the best; a row of nothing else has no target
        scores.masked_fill_(scores.isnan(), -torch.inf)
        np.argmax(scores.numpy(), axis=1, out=job.index.numpy())
        torch.gather(scores, 1, job.index[:, None], out=job.similarity[:, None])
        nothing = job.similarity == -torch.inf
        job.similarity[nothing], job.index[nothing] = torch.nan, -1


@dataclass(frozen=True)
class RoundedTarget:
    """A target for the filter.

    Attributes:
        rows: bfloat16 [m up to a multiple of _LANES, D].
        error: float32 scalar, the largest length of what rounding took from a row.
    """

    rows: Tensor
    error: Tensor


def to_bfloat16(target: Tensor) -> RoundedTarget:
    """The target rounded to bfloat16."""
    rows, channels = target.shape
    rounded = torch.empty(rows + -rows % _LANES, channels, dtype=torch.bfloat16)
    rounded[:rows] = target
    # Copies of the last target fill the last group: never better than the original.
    rounded[rows:] = rounded[rows - 1]
    return RoundedTarget(rounded, _lost(target, rounded[:rows]).amax())


def _lost(rows: Tensor, rounded: Tensor) -> Tensor:
    """Length of what rounding took from each row [n]; NaN if the row must not be judged."""
    length: Tensor = torch.linalg.vector_norm(rows, dim=1)
    lost: Tensor = torch.linalg.vector_norm(rows - rounded, dim=1)  # the differences are exact
    return lost.mul_(_UNIT).masked_fill_(~(length <= _UNIT), torch.nan)


@cache
def accept_beta_sparse() -> None:
    """Use up torch's one warning that sparse CSR tensors are in beta: users cannot act on it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        torch.eye(1).to_sparse_csr()


def nearest_filtered(
    target: SharedTarget[RoundedTarget], job: NearestJob, scratch: Scratch
) -> None:
    """Nearest targets: bfloat16 finds the candidates, float32 decides between them.

    For at most FILTER_MOST_CHANNELS channels.
    """
    rounded, columns = job.query.bfloat16(), target.get()
    # For a query q that lost d in rounding, and a target t that lost e, the score moves by
    # |(q-d)(t-e) - qt| <= |d||t| + |q||e| + |d||e|, with |q|, |t| <= _UNIT. The lengths of d and e
    # are measured: the bound from the format, 2^-8 of a row, is twice as long for most rows.
    lost = _lost(job.query, rounded)
    error = _UNIT * (lost + columns.error) + lost * columns.error
    scores = scratch.get(len(rounded), len(columns.rows), torch.bfloat16)
    torch.mm(rounded, columns.rows.T, out=scores)
    row, column, decided = _candidates(scores, error)
    if decided.any():
        # Fewer targets than columns: the copies stand for the last target.
        _decide(job, row, np.minimum(column, len(job.target) - 1), decided)
    if not decided.all():
        rest = torch.from_numpy(np.flatnonzero(~decided))
        exact = NearestJob(job.query[rest], job.target, job.similarity[rest], job.index[rest])
        nearest_blas(exact, scratch)
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
    # Two scores, each wrong by `error`, by the order of its sum, and by half a step of bfloat16 as
    # it was rounded itself (below 1: 2^-9): a target further than twice that below the best score
    # is less similar than the target of the best score, which is a candidate.
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
